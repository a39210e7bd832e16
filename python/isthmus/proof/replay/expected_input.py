"""Compares the inputs of a recorded call with those that were expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.bundle.tensor_file import read_tensors
from isthmus.proof.replay.difference import InputDifference, input_difference
from isthmus.proof.replay.records import RecordedCall

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["input_differences"]


def input_differences(
    call: RecordedCall, expect: str | Path | Mapping[str, Tensor]
) -> tuple[InputDifference, ...]:
    """Compares each input of a recorded call with the one expected.

    Args:
        call: The recorded call.
        expect: The expected inputs by name: tensors, or a .npz or .safetensors file.

    Raises:
        InvalidInput: The file cannot be read.
    """
    expected = expect if isinstance(expect, Mapping) else _read(Path(expect))
    return tuple(
        _with_strides(input_difference(name, expected.get(name), call.inputs.get(name)), call)
        for name in dict.fromkeys((*expected, *call.inputs))
    )


def _with_strides(difference: InputDifference, call: RecordedCall) -> InputDifference:
    """Adds the strides of the program's array, which may be the cause of the difference."""
    given = call.given.get(difference.name)
    if difference or not given or not given["strides"]:
        return difference
    text = f"; it was given as a view with strides {given['strides']}"
    return replace(difference, sentence=difference.sentence + text)


def _read(path: Path) -> dict[str, Tensor]:
    """Reads inputs by name; of a golden or a recording, those of the first call."""
    return {
        name.removeprefix("0/in/"): value
        for name, value in read_tensors(path, "expect").items()
        if not name.partition("/")[0].isdecimal() or name.startswith("0/in/")
    }
