"""What the manifest says of a file that was adopted, of which there is no eager module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isthmus.bundle.manifest import Hazard
from isthmus.capture.file_module import FileModule

__all__ = ["notes_of_file"]


def notes_of_file(model: FileModule, notes: Sequence[Hazard]) -> tuple[Hazard, ...]:
    """Returns the notes on a file, and before them one that says what its goldens are."""
    reference = Hazard(
        "reference",
        "info",
        f"the goldens are the file's own answers by {model.reference} in Python: there is no eager "
        "module to compare with",
    )
    return (reference, *(replace(note, message=model.reworded(note.message)) for note in notes))
