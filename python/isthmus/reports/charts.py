"""The report's pictures: inline SVG whose places are percentages and whose sizes are pixels.

So a picture is as wide as its box, on a phone as on a desk, while its letters and dots stay as
large as they are; colours are the page's own, by class, in light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from isthmus.document import number

GOLDEN_RATIO = 0.6180339887498949
DOTS = 160
"""Of a distribution, that are drawn: more would only make the file large."""


def tag(name: str, body: str = "", **attributes: str | float) -> str:
    """An element; `class_` and `stroke_width` mean class and stroke-width."""
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{named}>{body}</{name}>"


def percent(share: float) -> str:
    """Of the width."""
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def picture(body: Iterable[str], height: int, says: str, kind: str = "") -> str:
    """The svg itself; what it says is read aloud in its place."""
    return tag(
        "svg", "".join(body), class_=f"chart {kind}".strip(), width="100%", height=height,
        role="img", aria_label=says,
    )  # fmt: skip


def spread(at: int, height: float) -> float:
    """Where the dot of that number lies, so that neighbours do not cover each other."""
    return height * ((at * GOLDEN_RATIO) % 1.0)


# --- axes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """From a value to a share of the width."""

    edge: float
    unit: str = ""
    start: float = 0.0
    """Above 0: by powers of ten."""

    def at(self, value: float) -> float:
        """The place; what lies beyond is at the edge."""
        if not value <= self.edge:
            return 1.0
        if self.start > 0:
            place = math.log(max(value, self.start) / self.start)
            return place / math.log(self.edge / self.start)
        return value / self.edge

    def ticks(self) -> list[float]:
        """0, or 1, and some more round numbers."""
        if self.start > 0:
            powers = range(math.ceil(math.log10(self.start)), math.floor(math.log10(self.edge)) + 1)
            return [10.0**power for power in powers[:: math.ceil(len(powers) / 5) or 1]]
        step = 10.0 ** math.floor(math.log10(self.edge))
        step = next(one for one in (step / 5, step / 2, step, 2 * step) if self.edge / one <= 5)
        return [step * at for at in range(int(self.edge / step + 1e-9) + 1)]

    def picture(self) -> str:
        """The line with its numbers, to stand below the strips."""
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
    """One that holds all finite values; by powers of ten where they are too far apart.

    Args:
        values: To be shown.
        unit: Of them.
        least: The axis goes this far at least.
        log_from: Where such an axis starts; 0 for never.
    """
    finite = [value for value in values if math.isfinite(value)]
    edge = max([*finite, least])
    if log_from > 0 and edge > 20 * least:
        return Axis(2 * edge, unit, log_from)
    return Axis(1.05 * edge if edge > 0 else 1.0, unit)


# --- strips ---------------------------------------------------------------------------------------


def distance_strip(value: float, axis: Axis, *, passed: bool) -> str:
    """A dot on a line from 0, with eager's own distance, 1, as a line across."""
    one = percent(axis.at(1.0))
    x = percent(axis.at(value))
    body = (
        tag("line", x1="0%", x2="100%", y1=11, y2=11, class_="rail"),
        tag("line", x1=one, x2=one, y1=0, y2=22, class_="own"),
        tag("line", x1="0%", x2=x, y1=11, y2=11, class_="stem good" if passed else "stem bad"),
        mark(x, 11, passed=passed),
    )
    return picture(body, 22, f"{number(value)} times eager's own distance to float64")


def mark(x: str, y: float, *, passed: bool, title: str = "", small: bool = False) -> str:
    """A filled dot for good, a cross in a ring for bad: told apart without colour."""
    told = tag("title", escape(title)) if title else ""
    radius = 3 if small else 5
    if passed:
        return tag("circle", told, cx=x, cy=f"{y:.1f}", r=radius, class_="dot good")
    # Nested, so that a path in pixels can stand at a place in percent.
    arm = radius
    cross = tag("path", d=f"M{-arm} {-arm}L{arm} {arm}M{-arm} {arm}L{arm} {-arm}", class_="cross")
    return tag("svg", told + cross, x=x, y=f"{y:.1f}", overflow="visible")


@dataclass(frozen=True)
class Quantiles:
    """Of one row's calls, in milliseconds."""

    low: float
    first: float
    median: float
    third: float
    high: float


def quantiles(samples: Sequence[float]) -> Quantiles:
    """5, 25, 50, 75 and 95 per cent."""
    from isthmus.timing.statistics import percentile

    return Quantiles(*(percentile(samples, p) for p in (0.05, 0.25, 0.5, 0.75, 0.95)))


def reach(samples: Sequence[float]) -> float:
    """How far an axis has to go for a row: a long tail must not press all boxes to the left."""
    found = quantiles(samples)
    return max(found.third, min(found.high, 2 * found.median))


def latency_strip(samples: Sequence[float], axis: Axis, language: str) -> str:
    """Calls as dots, a box for the middle half, whiskers from 5 to 95 %, a line at the median."""
    found = quantiles(samples)
    kind = "cpp" if language == "C++" else "python"
    step = max(1, math.ceil(len(samples) / DOTS))
    dots = [
        tag("circle", cx=percent(axis.at(sample)), cy=f"{4 + spread(at, 22):.1f}", r=1.6)
        for at, sample in enumerate(samples[::step])
        if sample <= axis.edge
    ]
    first, third = axis.at(found.first), axis.at(found.third)
    median = percent(axis.at(found.median))
    body = (
        tag("line", x1="0%", x2="100%", y1=15, y2=15, class_="rail"),
        tag("g", "".join(dots), class_="cloud"),
        tag(
            "line", x1=percent(axis.at(found.low)), x2=percent(axis.at(found.high)), y1=15, y2=15,
            class_="whisker",
        ),
        tag("rect", x=percent(first), y=6, width=percent(third - first), height=18, class_="box"),
        tag("line", x1=median, x2=median, y1=2, y2=28, class_="median"),
    )  # fmt: skip
    says = (
        f"median {number(found.median)} ms, half of the calls between {number(found.first)} and"
        f" {number(found.third)} ms, 5 to 95 per cent between {number(found.low)} and"
        f" {number(found.high)} ms"
    )
    return picture(body, 30, says, kind)


# --- all answers on one ruler ---------------------------------------------------------------------

_LIMIT = 0.76
"""Where on the ruler the tolerance is used up."""
_DECADES = 6.0
"""Beyond it, how many powers of ten there is room for."""


def ruler_place(share: float) -> float:
    """Linear up to the limit, then by powers of ten: how far beyond matters less."""
    if not share <= 1:
        decades = math.log10(share) / _DECADES if math.isfinite(share) else math.inf
        return _LIMIT + (1 - _LIMIT) * min(1.0, 0.12 + 0.8 * decades)
    return _LIMIT * max(0.0, share)


def ruler(answers: Sequence[tuple[float, bool, str]]) -> str:
    """Every answer's share of its tolerance, on one line that ends where it is used up.

    Args:
        answers: Share, whether it passed, and what to call it.
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
    for at in order:  # what passed lies over nothing that failed
        share, passed, title = answers[at]
        x = percent(ruler_place(share))
        body.append(mark(x, 5 + spread(at, 38), passed=passed, title=title, small=True))
    failed = sum(not passed for _, passed, _ in answers)
    says = f"{len(answers)} answers by the share of the tolerance used; {failed} beyond the limit"
    return picture(body, 78, says, "ruler")
