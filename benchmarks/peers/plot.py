"""Draws the comparison: a panel for each case, a bar for each contender."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .rows import STREAM, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .report import PeersResult

OURS, CPP, PEER, REDUCED = "#3572a5", "#d1495b", "#b8b8b8", "#e0d6b8"
"""The colours of isthmus in Python and C++, of peers, and of peers in int8."""


def draw(result: PeersResult, path: Path) -> None:
    """Writes a PNG or SVG, according to the suffix. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    models = list(dict.fromkeys(model for model, _ in result.cases))
    cases = list(dict.fromkeys(case for _, case in result.cases))
    most = max(len(result.of(model, case)) for model, case in result.cases)
    figure = Figure(
        figsize=(5.2 * len(cases), (1.2 + 0.27 * most) * len(models) + 0.7), layout="constrained"
    )
    grid = figure.subplots(len(models), len(cases), squeeze=False)
    for row, model in enumerate(models):
        for column, case in enumerate(cases):
            axes = grid[row][column]
            rows = result.ranked(model, case)[::-1]
            if not rows:
                axes.set_axis_off()
                continue
            _panel(axes, rows, model, case)
    colours = {"isthmus, Python": OURS, "isthmus, C++": CPP, "peers": PEER, "peers, int8": REDUCED}
    figure.legend(
        handles=[Patch(color=colour, label=label) for label, colour in colours.items()],
        loc="outside lower center", ncols=len(colours), frameon=False,
    )  # fmt: skip
    figure.suptitle(f"{result.facts.get('cpu', '')}, {result.facts.get('threads', '')} threads")
    figure.savefig(path, dpi=110)


def _panel(axes: Axes, rows: list[Row], model: str, case: str) -> None:
    """Draws the fastest at the top, with whiskers from the 5th to the 95th percentile of calls."""
    stream = case == STREAM
    scale = 1e3 * rows[0].sentences if stream else 1.0
    for height, row in enumerate(rows):
        samples = np.array([sample for turn in row.rounds_ms for sample in turn])
        values = scale / samples if stream else samples
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
        axes.barh(height, middle, 0.72, color=_colour(row))
        axes.plot((low, high), (height, height), color="black", linewidth=0.8)
        axes.annotate(
            f"{middle:.3g}", (max(middle, high), height), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=7,
        )  # fmt: skip
    medians = [row.summary.median_ms for row in rows]
    longest = scale / min(medians) if stream else max(medians)
    axes.set_xlim(0, 1.15 * longest)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=7)
    axes.set_xlabel("sentences a second" if stream else "milliseconds a call", fontsize=8)
    axes.set_title(f"{model}, {case}", fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(row: Row) -> str:
    if row.contender.ours:
        return CPP if row.contender.language == "C++" else OURS
    return PEER if row.contender.precision == "fp32" else REDUCED
