"""Engines by devices by goldens: for each, the share of its tolerance that the answer used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from isthmus.document import number
from isthmus.goldens.compare import OutputParity, worst
from isthmus.proof.verify_report import VerifyReport, VerifyRow

TIMES = "\N{MULTIPLICATION SIGN}"
CellStatus = Literal["passed", "failed", "missing"]


@dataclass(frozen=True)
class Cell:
    """One golden on one engine and device."""

    golden: str
    status: CellStatus
    """missing: the engine gave no answer to it."""
    result: OutputParity | None = None
    """The output nearest to failing; None where there is no answer."""
    reason: str = ""
    """Why it failed, or is missing."""

    @property
    def share(self) -> float | None:
        """Of the tolerance, what was used: above 1 it failed; None where there is no answer."""
        return self.result.strain if self.result is not None else None


@dataclass(frozen=True)
class MatrixRow:
    """An engine on a device."""

    name: str
    row: VerifyRow
    cells: tuple[Cell, ...]

    @property
    def beside(self) -> str:
        """Why the row failed although every golden passed; empty when that is not so."""
        failed = self.row.status in ("failed", "error")
        return self.row.reason if failed and all(c.status == "passed" for c in self.cells) else ""

    def to_json(self) -> dict[str, Any]:
        """The facts for machines."""
        return {
            "name": self.name,
            "runner": self.row.runner,
            "language": self.row.language,
            "device": self.row.device,
            "artifact": self.row.artifact,
            "status": self.row.status,
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
    """A row for everything that ran or should have; what is absent has no cells to show."""
    names = golden_names(parity, goldens)
    return tuple(
        MatrixRow(name_of(row, parity), row, tuple(_cell(row, name) for name in names))
        for row in parity.rows
        if row.status != "absent"
    )


def golden_names(parity: VerifyReport, goldens: Sequence[str]) -> tuple[str, ...]:
    """The bundle's goldens in its order, then those that only a result knows."""
    seen = [result.golden for row in parity.rows for result in row.results]
    return tuple(dict.fromkeys([*goldens, *seen]))


def name_of(row: VerifyRow, parity: VerifyReport) -> str:
    """ "torchscript in C++ on cpu", with the artifact where that alone does not tell."""
    name = f"{row.label} on {row.device}"
    twins = [one for one in parity.rows if (one.label, one.device) == (row.label, row.device)]
    return f"{name}, {row.artifact}" if len(twins) > 1 and row.artifact else name


def share_text(share: float | None) -> str:
    """ "38 %", "< 1 %", "12 x" from ten times the tolerance on, "-" where there is none."""
    if share is None:
        return "-"
    if math.isnan(share):
        return "nan"
    if share == 0:
        return "0 %"
    if share < 0.01:
        return "< 1 %"
    if share < 10:  # just above the limit must not read as just at it
        return f"{100 * share:.3g} %"
    return f"{number(share)} x" if share < 1000 else f"{share:.0e} x"


def per_cent(share: float | None) -> str:
    """The same as `share_text` in few letters, for a narrow cell: "38", "<1", "12x", "5e4x"."""
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
    found = worst(result for result in row.results if result.golden == golden)
    if found is None:
        return Cell(golden, "missing", reason=row.reason or "there is no answer")
    return Cell(golden, "passed" if found else "failed", found, found.reason)
