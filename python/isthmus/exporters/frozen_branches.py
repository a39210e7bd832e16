"""Branches on values that a trace keeps as one call decided them, and the caller's consent to them.

Goldens are few, so they cannot prove what other values would have decided. An artifact with such a
branch is refused, unless the caller accepts the line that holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from isthmus.bundle.manifest import Artifact, Hazard
from isthmus.errors import Decision, InvalidInput

__all__ = [
    "ACCEPTED",
    "advice_to_accept",
    "inherited",
    "mark_accepted",
    "refuse_unknown_lines",
    "unaccepted",
]

ACCEPTED = "accepted_branch"
"""The kind of hazard that the caller accepted."""
_FROZEN = ("tracer_warning", "frozen_branch", "baked_constant")
"""The kinds of hazards that tell of a frozen branch; a warning where values decided it."""
_OF_THE_FILE = ("impure_operator",)
"""Kinds of hazards that belong to a TorchScript file, and not to what is made of it."""


def unaccepted(hazards: Iterable[Hazard], accept: Sequence[str]) -> list[Hazard]:
    """Returns the branches on values that the caller has not accepted.

    Args:
        hazards: The hazards of an artifact.
        accept: The lines that the caller accepts, each as "file.py:13" or with folders before it.
    """
    return [hazard for hazard in hazards if _is_frozen(hazard) and not _accepts(accept, hazard)]


def mark_accepted(hazards: Iterable[Hazard]) -> tuple[Hazard, ...]:
    """Returns the hazards; those of frozen branches become accepted ones."""
    return tuple(
        replace(hazard, kind=ACCEPTED) if _is_frozen(hazard) else hazard for hazard in hazards
    )


def inherited(source: Artifact) -> tuple[Hazard, ...]:
    """Returns the hazards of a TorchScript artifact that hold for what is made of it, too."""
    return tuple(hazard for hazard in source.hazards if hazard.kind not in _OF_THE_FILE)


def advice_to_accept(hazards: Iterable[Hazard]) -> str:
    """Returns how to accept these branches in a call and in a command."""
    lines = dict.fromkeys(hazard.where for hazard in hazards)
    names = ", ".join(f'"{line}"' for line in lines)
    options = " ".join(f"--accept {line}" for line in lines)
    return f"accept=[{names}] ({options})"


def refuse_unknown_lines(
    accept: Sequence[str], artifacts: Iterable[Artifact], decisions: Iterable[Decision]
) -> None:
    """Refuses accepted lines at which nothing was found.

    Raises:
        InvalidInput: Names the line, and the lines that there were.
    """
    kept = [
        hazard.where
        for artifact in artifacts
        for hazard in artifact.hazards
        if hazard.kind == ACCEPTED or _is_frozen(hazard)
    ]
    # A branch that another strategy keeps, or that made one fail, was found as well.
    seen = [*kept, *(decision.where for decision in decisions)]
    for entry in accept:
        if not any(_names(entry, where) for where in seen):
            there = ", ".join(dict.fromkeys(where for where in seen if where))
            raise InvalidInput(
                f'accept: no branch on values was found at "{entry}"; there was '
                f"{there or 'none at all: leave accept out'}"
            )


def _is_frozen(hazard: Hazard) -> bool:
    return hazard.kind in _FROZEN and hazard.severity == "warning"


def _accepts(accept: Sequence[str], hazard: Hazard) -> bool:
    return any(_names(entry, hazard.where) for entry in accept)


def _names(entry: str, where: str) -> bool:
    return bool(where) and (where == entry or where.endswith(f"/{entry}"))
