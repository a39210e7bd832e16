"""A mistake that a program makes when it fills an input."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Mistake"]


class Mistake(NamedTuple):
    """The kind of a difference between an input and the one expected."""

    kind: str
    """One of the kinds of `InputDifference`."""
    sentence: str
    """The description of the difference; its subject is the name of the input."""
    remedy: str
    """The change to make in the program; empty if none."""
