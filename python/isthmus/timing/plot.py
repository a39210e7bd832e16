"""Draws the distributions of timed rows. Needs matplotlib, the extra `isthmus[report]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isthmus.errors import InvalidInput
from isthmus.timing.bench_row import BenchRow

COLOURS = {"Python": "#3572a5", "C++": "#d1495b"}
ENDINGS = (".png", ".svg")


def plot_rows(all_rows: Sequence[BenchRow], heading: str, path: Path) -> None:
    """Draws a line for each row: calls as dots, a box from the 25th to the 75th percentile, median.

    Raises:
        InvalidInput: Another ending than .png or .svg, nothing to draw, or no matplotlib.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InvalidInput(
            f"plot is to be {path.name!r}, expected a name that ends in .png or .svg"
        )
    rows = [row for row in reversed(all_rows) if row]
    if not rows:
        reason = all_rows[0].unavailable if all_rows else "no rows"
        raise InvalidInput(f"there is nothing to draw: {reason}")
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInput(
            "a plot needs matplotlib; install it with: pip install 'isthmus[report]'"
        ) from error

    import numpy as np

    figure = Figure(figsize=(9.5, 1.9 + 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots()
    random = np.random.default_rng(0)
    edge = 1.35 * max(float(np.quantile(row.samples_ms, 0.95)) for row in rows)
    beyond = sum(sample > edge for row in rows for sample in row.samples_ms)
    for height, row in enumerate(rows):
        samples = np.asarray(row.samples_ms)
        colour = COLOURS[row.language]
        shown = samples[samples <= edge]
        jitter = random.uniform(-0.26, 0.26, len(shown))
        axes.scatter(shown, height + jitter, s=4, alpha=0.25, color=colour, linewidths=0)
        low, first, median, third, high = np.quantile(samples, (0.05, 0.25, 0.5, 0.75, 0.95))
        axes.plot((low, high), (height, height), color=colour, linewidth=1.2)
        axes.barh(
            height, third - first, 0.5, first, facecolor="none", edgecolor=colour, linewidth=1.4
        )
        axes.plot((median, median), (height - 0.3, height + 0.3), color="black", linewidth=1.8)
        axes.annotate(
            f"{median:.3g} ms",
            (1.01, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=10,
        )
    axes.set_xlim(0, edge)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=10)
    legend = "milliseconds a call: dots are calls, boxes the middle half, whiskers 5 % to 95 %"
    if beyond:
        total = sum(len(row.samples_ms) for row in rows)
        legend += f"\n{beyond} of {total} calls lie beyond the right edge"
    axes.set_xlabel(legend)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(heading, fontsize=11, loc="left")
    figure.savefig(path, dpi=150)


def _label(row: BenchRow) -> str:
    return row.label.replace(" in ", "\nin ")
