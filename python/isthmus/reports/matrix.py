"""The matrix of engines, devices and goldens, with the share of the tolerance used by each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from isthmus.document import number
from isthmus.goldens.compare import OutputParity, worst
from isthmus.proof.verify_report import VerifyReport, VerifyRow

TIMES = "\N{MULTIPLICATION SIGN}"
_SHOWN = ("engine", "language", "device", "artifact", "status")
"""The facts of verify's row in the JSON of a matrix row."""
CellStatus = Literal["passed", "failed", "missing"]


@dataclass(frozen=True)
class Cell:
    """The answer of one engine on one device to one golden."""

    golden: str
    status: CellStatus
    """The status; "missing" if the engine gave no answer."""
    result: OutputParity | None = None
    """The output nearest to failing; None without an answer."""
    reason: str = ""
    """The reason why it failed or is missing."""

    @property
    def share(self) -> float | None:
        """The share of the tolerance that was used, above 1 if failed; None without an answer."""
        return self.result.strain if self.result is not None else None


@dataclass(frozen=True)
class MatrixRow:
    """A row of the matrix: an engine on a device."""

    name: str
    row: VerifyRow
    cells: tuple[Cell, ...]

    @property
    def beside(self) -> str:
        """The reason of a row that failed although all of its goldens passed; else empty."""
        failed = self.row.status in ("failed", "error")
        passed = all(cell.status == "passed" for cell in self.cells)
        return self.row.reason if failed and passed else ""

    def to_json(self) -> dict[str, Any]:
        """Returns the row as JSON data."""
        return {
            "name": self.name,
            **{key: getattr(self.row, key) for key in _SHOWN},
            "cells": [
                {
                    "golden": cell.golden,
                    "status": cell.status,
                    "share": cell.share,
                    "output": cell.result.output if cell.result is not None else "",
                    "statistic": cell.result.statistic if cell.result is not None else "",
                    "reason": cell.reason,
                }
                for cell in self.cells
            ],
        }


def matrix(parity: VerifyReport, goldens: Sequence[str]) -> tuple[MatrixRow, ...]:
    """Returns a row for everything that ran or should have run; absent rows are left out."""
    names = golden_names(parity, goldens)
    return tuple(
        MatrixRow(name_of(row, parity), row, tuple(_cell(row, name) for name in names))
        for row in parity.rows
        if row.status != "absent"
    )


def golden_names(parity: VerifyReport, goldens: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the bundle's goldens, then those that only a result names."""
    seen = [result.golden for row in parity.rows for result in row.results]
    return tuple(dict.fromkeys([*goldens, *seen]))


def name_of(row: VerifyRow, parity: VerifyReport) -> str:
    """Names a row: "torchscript in C++ on cpu", with the artifact if that is ambiguous."""
    name = f"{row.label} on {row.device}"
    labels = [(other.label, other.device) for other in parity.rows]
    ambiguous = labels.count((row.label, row.device)) > 1
    return f"{name}, {row.artifact}" if ambiguous and row.artifact else name


def share_text(share: float | None) -> str:
    """Formats a share: "38 %", "< 1 %", from ten times the tolerance on "12 x", "-" for None."""
    if share is None:
        return "-"
    if math.isnan(share):
        return "nan"
    if share == 0:
        return "0 %"
    if share < 0.01:
        return "< 1 %"
    if share < 10:  # three digits: a share just above the limit must not read as 100 %
        return f"{100 * share:.3g} %"
    return f"{number(share)} x" if share < 1000 else f"{share:.0e} x"


def per_cent(share: float | None) -> str:
    """Formats a share for a narrow cell: "38", "<1", "12x", "5e4x"."""
    if share is None:
        return "-"
    if math.isinf(share):
        return "∞"
    if math.isnan(share) or share == 0:
        return number(share)
    if share < 0.01:
        return "<1"
    if share < 10:
        return f"{100 * share:.1f}" if 0.99 < share < 1.01 else f"{100 * share:.0f}"
    text = f"{share:.0f}" if share < 1000 else f"{share:.0e}".replace("e+0", "e").replace("e+", "e")
    return text + TIMES


def _cell(row: VerifyRow, golden: str) -> Cell:
    result = worst(result for result in row.results if result.golden == golden)
    if result is None:
        return Cell(golden, "missing", reason=row.reason or "there is no answer")
    return Cell(golden, "passed" if result else "failed", result, result.reason)
