"""Differences between rows of integers: token ids, masks, positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isthmus.proof.replay.mistake import Mistake

_MOST_SHIFT = 4
"""The most places that a row may be shifted by."""


def token_difference(expected: Tensor, actual: Tensor) -> Mistake | None:
    """Names the difference between two integer tensors; None if it is not a known mistake.

    Args:
        expected: Integers of shape [..., tokens].
        actual: Integers of the same shape, apart from the number of tokens.
    """
    if expected.dim() == 0 or actual.dim() != expected.dim():
        return None
    if actual.shape[:-1] != expected.shape[:-1]:
        return None
    a = expected.to(torch.int64).reshape(-1, expected.shape[-1])
    b = actual.to(torch.int64).reshape(-1, actual.shape[-1])
    kinds: tuple[Callable[[Tensor, Tensor], Mistake | None], ...] = (_padding, _specials)
    if a.shape == b.shape:
        kinds = (_inverted, _ignored, *kinds, _off_by, _shifted, _other_rows)
    return next((mistake for kind in kinds if (mistake := kind(a, b)) is not None), None)


def _ignored(a: Tensor, b: Tensor) -> Mistake | None:
    if not _is_mask(a) or not bool((b == 1).all()):
        return None
    return Mistake(
        "mask ignored",
        f"is 1 everywhere, where {int((a == 0).sum())} of {a.numel()} were expected to be 0",
        "give 0 for padding, which the model otherwise reads as text",
    )


def _inverted(a: Tensor, b: Tensor) -> Mistake | None:
    if not _is_mask(a) or not _is_mask(b) or not torch.equal(b, 1 - a):
        return None
    return Mistake(
        "inverted mask",
        "has 1 where 0 was expected, and 0 where 1 was expected",
        "give 1 for what the model is to attend to, 0 for padding",
    )


def _padding(a: Tensor, b: Tensor) -> Mistake | None:
    """Finds the same contents with other padding: its side, length or value."""
    left, right = _Padded(a), _Padded(b)
    if left.same_content(right, "right", "left"):
        return _side("left", "right")
    if left.same_content(right, "left", "right"):
        return _side("right", "left")
    for side in ("right", "left"):
        if left.same_content(right, side, side):
            if a.shape[-1] != b.shape[-1]:
                return Mistake(
                    "padding",
                    f"is padded to {b.shape[-1]} tokens, expected {a.shape[-1]}",
                    "pad to the length of the reference, or give a mask that leaves padding out",
                )
            return Mistake(
                "padding",
                f"is padded with {right.value(side)}, expected {left.value(side)}",
                "pad with the tokenizer's padding id",
            )
    return None


def _side(got: str, expected: str) -> Mistake:
    return Mistake(
        "padding side",
        f"is padded on the {got}, expected on the {expected}",
        f"pad on the {expected}, as the reference's tokenizer does (padding_side)",
    )


class _Padded:
    """Rows that may be padded at their start or end."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows.tolist()

    def value(self, side: str) -> int | None:
        """Returns the padding on a side: 0, else the value that repeats longest; None without."""
        at = -1 if side == "right" else 0
        if any(row and row[at] == 0 for row in self._rows):
            return 0
        runs = [(self._run(row, side), row[at]) for row in self._rows if row]
        length, value = max(runs, default=(0, 0))
        return int(value) if length >= 2 else None

    def contents(self, side: str) -> list[list[int]]:
        """Returns the rows without their padding on a side."""
        value = self.value(side)
        return [self._stripped(row, side, value) for row in self._rows]

    def same_content(self, other: _Padded, side: str, other_side: str) -> bool:
        """Returns True if the contents are the same and any row is padded."""
        mine, theirs = self.contents(side), other.contents(other_side)
        if mine != theirs or any(not row for row in mine):
            return False
        padded = any(len(a) != len(b) for a, b in zip(mine, self._rows, strict=True))
        padded |= any(len(a) != len(b) for a, b in zip(theirs, other._rows, strict=True))
        return padded

    @staticmethod
    def _run(row: list[int], side: str) -> int:
        """Returns how often the value at the end repeats."""
        ordered = row[::-1] if side == "right" else row
        length = 0
        for token in ordered:
            if token != ordered[0]:
                break
            length += 1
        return length

    @staticmethod
    def _stripped(row: list[int], side: str, value: int | None) -> list[int]:
        kept = list(row)
        end = -1 if side == "right" else 0
        while kept and kept[end] == value:
            kept.pop(end)
        return kept


def _specials(a: Tensor, b: Tensor) -> Mistake | None:
    """Finds special tokens, which a tokenizer puts around a text, that one side lacks."""
    mine, theirs = _Padded(a).contents("right"), _Padded(b).contents("right")
    long, short = (mine, theirs) if _total(mine) > _total(theirs) else (theirs, mine)
    for where, first, last in (
        ("the first and the last token", 1, 1),
        ("the first token", 1, 0),
        ("the last token", 0, 1),
    ):
        if not all(
            len(x) > 2 and x[first : len(x) - last] == y for x, y in zip(long, short, strict=True)
        ):
            continue
        around = [x[0] for x in long] * first + [x[-1] for x in long] * last
        ids = ", ".join(map(str, sorted(set(around))))
        if long is mine:
            return Mistake(
                "special tokens",
                f"lacks {where} of each row (ids {ids}), and is as expected apart from that",
                "tokenize with special tokens (add_special_tokens)",
            )
        return Mistake(
            "special tokens",
            f"has {where} of each row (ids {ids}) on top of what was expected",
            "tokenize without special tokens, or leave out what adds them a second time",
        )
    return None


def _total(rows: list[list[int]]) -> int:
    return sum(map(len, rows))


def _off_by(a: Tensor, b: Tensor) -> Mistake | None:
    change = b - a
    by = [change_by for change_by in torch.unique(change).tolist() if change_by != 0]
    if len(by) != 1 or _is_mask(a):
        return None
    moved, still = a[change != 0], a[change == 0]
    # Only padding may be unchanged.
    if still.numel() and (torch.unique(still).numel() > 1 or bool((moved == still[0]).any())):
        return None
    than = "larger" if by[0] > 0 else "smaller"
    rest = f", those equal to {int(still[0])} excepted" if still.numel() else ""
    return Mistake(
        "off-by-one ids" if abs(by[0]) == 1 else "off-by ids",
        f"has every id {abs(by[0])} {than} than expected{rest}",
        "use the vocabulary of the model, counted from 0; look for an unknown or padding id that"
        " was put in front of it",
    )


def _shifted(a: Tensor, b: Tensor) -> Mistake | None:
    for by in range(1, min(_MOST_SHIFT, a.shape[-1] - 2) + 1):
        tokens = "token" if by == 1 else "tokens"
        if torch.equal(b[:, by:], a[:, :-by]):
            return Mistake(
                "shifted tokens",
                f"is {by} {tokens} late: each row begins with {by} {tokens} too many",
                "look for a start token that is added twice",
            )
        if torch.equal(b[:, :-by], a[:, by:]):
            return Mistake(
                "shifted tokens",
                f"is {by} {tokens} early: each row lacks its first {by} {tokens}",
                "look for the start token, which the reference adds",
            )
    return None


def _other_rows(a: Tensor, b: Tensor) -> Mistake | None:
    if a.shape[0] < 2 or sorted(a.tolist()) != sorted(b.tolist()):
        return None
    return Mistake(
        "order of rows",
        "has the rows expected, in another order",
        "keep the order of the batch on both sides",
    )


def _is_mask(value: Tensor) -> bool:
    return bool(((value == 0) | (value == 1)).all())
