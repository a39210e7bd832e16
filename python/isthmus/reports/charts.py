"""Draws the report's charts as inline SVG.

Horizontal positions are percentages and sizes are pixels, so that a chart takes the width of its
box while letters and dots keep their size. Colours come from the page's style sheet by class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from isthmus.document import number

GOLDEN_RATIO = 0.6180339887498949
DOTS = 160
"""The most dots drawn for a distribution, to bound the size of the file."""


def tag(name: str, body: str = "", **attributes: str | float) -> str:
    """Returns an element; `class_` and `stroke_width` stand for class and stroke-width."""
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{named}>{body}</{name}>"


def percent(share: float) -> str:
    """Formats a share of the width."""
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def picture(body: Iterable[str], height: int, says: str, kind: str = "") -> str:
    """Returns an svg element; screen readers read `says` aloud."""
    return tag(
        "svg", "".join(body), class_=f"chart {kind}".strip(), width="100%", height=height,
        role="img", aria_label=says,
    )  # fmt: skip


def spread(at: int, height: float) -> float:
    """Returns the vertical offset of the dot with index `at`; neighbours lie far apart."""
    return height * ((at * GOLDEN_RATIO) % 1.0)


# --- axes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A scale from values to shares of the width."""

    edge: float
    unit: str = ""
    start: float = 0.0
    """The least value of a logarithmic axis; 0 for a linear one."""

    def at(self, value: float) -> float:
        """Returns the share of the width for a value; larger values lie at the edge."""
        if not value <= self.edge:
            return 1.0
        if self.start > 0:
            place = math.log(max(value, self.start) / self.start)
            return place / math.log(self.edge / self.start)
        return value / self.edge

    def ticks(self) -> list[float]:
        """Returns at most about six round numbers."""
        if self.start > 0:
            powers = range(math.ceil(math.log10(self.start)), math.floor(math.log10(self.edge)) + 1)
            return [10.0**power for power in powers[:: math.ceil(len(powers) / 5) or 1]]
        step = 10.0 ** math.floor(math.log10(self.edge))
        steps = (step / 5, step / 2, step, 2 * step)
        step = next(candidate for candidate in steps if self.edge / candidate <= 5)
        return [step * at for at in range(int(self.edge / step + 1e-9) + 1)]

    def picture(self) -> str:
        """Draws the axis with its numbers."""
        body = []
        for tick in self.ticks():
            x = percent(self.at(tick))
            at = self.at(tick)
            anchor = "start" if at < 0.03 else "end" if at > 0.97 else "middle"
            body.append(tag("line", x1=x, x2=x, y1=0, y2=5, class_="rule"))
            unit = f" {self.unit}" if tick == self.ticks()[0] and self.unit else ""
            text = number(tick, 4) + unit
            body.append(tag("text", escape(text), x=x, y=18, text_anchor=anchor))
        body.append(tag("line", x1="0%", x2="100%", y1=0, y2=0, class_="rule"))
        says = f"axis from {number(self.start)} to {number(self.edge)} {self.unit}"
        return picture(body, 22, says, "axis")


def axis_for(values: Iterable[float], unit: str, least: float = 0.0, log_from: float = 0.0) -> Axis:
    """Returns an axis that holds all finite values; a logarithmic one if they differ widely.

    Args:
        values: The values to show.
        unit: Their unit.
        least: The least value of the edge.
        log_from: The start of a logarithmic axis; 0 to keep the axis linear.
    """
    finite = [value for value in values if math.isfinite(value)]
    edge = max([*finite, least])
    if log_from > 0 and edge > 20 * least:
        return Axis(2 * edge, unit, log_from)
    return Axis(1.05 * edge if edge > 0 else 1.0, unit)


# --- strips ---------------------------------------------------------------------------------------


def distance_strip(value: float, axis: Axis, *, passed: bool) -> str:
    """Draws a distance as a dot on a line from 0; a line across marks 1, eager's own distance."""
    own = percent(axis.at(1.0))
    x = percent(axis.at(value))
    body = (
        tag("line", x1="0%", x2="100%", y1=11, y2=11, class_="rail"),
        tag("line", x1=own, x2=own, y1=0, y2=22, class_="own"),
        tag("line", x1="0%", x2=x, y1=11, y2=11, class_="stem good" if passed else "stem bad"),
        mark(x, 11, passed=passed),
    )
    return picture(body, 22, f"{number(value)} times eager's own distance to float64")


def mark(x: str, y: float, *, passed: bool, title: str = "", small: bool = False) -> str:
    """Draws a filled dot if passed, else a cross; the two differ without colour."""
    tooltip = tag("title", escape(title)) if title else ""
    radius = 3 if small else 5
    if passed:
        return tag("circle", tooltip, cx=x, cy=f"{y:.1f}", r=radius, class_="dot good")
    # A nested svg places a path, whose coordinates are pixels, at a percentage.
    arm = radius
    cross = tag("path", d=f"M{-arm} {-arm}L{arm} {arm}M{-arm} {arm}L{arm} {-arm}", class_="cross")
    return tag("svg", tooltip + cross, x=x, y=f"{y:.1f}", overflow="visible")


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the latencies of one row, in milliseconds."""

    low: float
    first: float
    median: float
    third: float
    high: float


def quantiles(samples: Sequence[float]) -> Quantiles:
    """Returns the quantiles at 5, 25, 50, 75 and 95 per cent."""
    from isthmus.timing.statistics import percentile

    return Quantiles(*(percentile(samples, p) for p in (0.05, 0.25, 0.5, 0.75, 0.95)))


def reach(samples: Sequence[float]) -> float:
    """Returns the least edge of a row's axis; a long tail is cut off to keep the boxes wide."""
    latency = quantiles(samples)
    return max(latency.third, min(latency.high, 2 * latency.median))


def latency_strip(samples: Sequence[float], axis: Axis, language: str) -> str:
    """Draws calls as dots, their middle half as a box, 5 to 95 % as whiskers, and the median."""
    latency = quantiles(samples)
    kind = "cpp" if language == "C++" else "python"
    step = max(1, math.ceil(len(samples) / DOTS))
    dots = [
        tag("circle", cx=percent(axis.at(sample)), cy=f"{4 + spread(at, 22):.1f}", r=1.6)
        for at, sample in enumerate(samples[::step])
        if sample <= axis.edge
    ]
    first, third = axis.at(latency.first), axis.at(latency.third)
    median = percent(axis.at(latency.median))
    body = (
        tag("line", x1="0%", x2="100%", y1=15, y2=15, class_="rail"),
        tag("g", "".join(dots), class_="cloud"),
        tag(
            "line", x1=percent(axis.at(latency.low)), x2=percent(axis.at(latency.high)),
            y1=15, y2=15, class_="whisker",
        ),
        tag("rect", x=percent(first), y=6, width=percent(third - first), height=18, class_="box"),
        tag("line", x1=median, x2=median, y1=2, y2=28, class_="median"),
    )  # fmt: skip
    says = (
        f"median {number(latency.median)} ms, half of the calls between {number(latency.first)} and"
        f" {number(latency.third)} ms, 5 to 95 per cent between {number(latency.low)} and"
        f" {number(latency.high)} ms"
    )
    return picture(body, 30, says, kind)


# --- the ruler ------------------------------------------------------------------------------------

_LIMIT = 0.76
"""The share of the width at which the tolerance is used up."""
_DECADES = 6.0
"""The powers of ten that have room beyond the limit."""


def ruler_place(share: float) -> float:
    """Returns the position of a share: linear up to the limit, logarithmic beyond."""
    if not share <= 1:
        decades = math.log10(share) / _DECADES if math.isfinite(share) else math.inf
        return _LIMIT + (1 - _LIMIT) * min(1.0, 0.12 + 0.8 * decades)
    return _LIMIT * max(0.0, share)


def ruler(answers: Sequence[tuple[float, bool, str]]) -> str:
    """Draws every answer's share of its tolerance on one line.

    Args:
        answers: For each answer its share, whether it passed, and its title.
    """
    limit = percent(_LIMIT)
    body = [
        tag("rect", x=limit, y=0, width=percent(1 - _LIMIT), height=52, class_="beyond"),
        tag("line", x1="0%", x2="100%", y1=52, y2=52, class_="rule"),
    ]
    for share in (0.0, 0.25, 0.5, 0.75):
        x = percent(ruler_place(share))
        body.append(tag("line", x1=x, x2=x, y1=46, y2=58, class_="rule"))
        anchor = "start" if share == 0 else "middle"
        body.append(tag("text", f"{share:.0%}", x=x, y=72, text_anchor=anchor))
    body.append(tag("line", x1=limit, x2=limit, y1=-4, y2=58, class_="limit"))
    body.append(tag("text", "limit", x=limit, y=72, text_anchor="middle", class_="strong"))
    body.append(tag("text", "beyond", x="100%", y=72, text_anchor="end"))
    order = sorted(range(len(answers)), key=lambda at: not answers[at][1], reverse=True)
    for at in order:  # failed answers are drawn first
        share, passed, title = answers[at]
        x = percent(ruler_place(share))
        body.append(mark(x, 5 + spread(at, 38), passed=passed, title=title, small=True))
    failed = sum(not passed for _, passed, _ in answers)
    says = f"{len(answers)} answers by the share of the tolerance used; {failed} beyond the limit"
    return picture(body, 78, says, "ruler")
