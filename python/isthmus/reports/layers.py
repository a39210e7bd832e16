"""Draws the error by layer: an engine's distance to float64, against eager's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby, pairwise

from isthmus.document import number
from isthmus.proof.explain.explanation import Explanation, LayerError
from isthmus.reports.charts import mark, percent, picture, tag

POINTS = 400
"""The most layers that are drawn; of longer models, the worst of each stretch."""
_TOP, _BOTTOM, _BAND = 12, 172, 18
"""The top and bottom of the plot, and the height of the names below it, in pixels."""
_LETTERS = 48
"""The letters of names that fit the width of a phone."""
_FLOOR = 1e-3
"""The least multiple that is drawn."""


def shown_layers(explanation: Explanation) -> list[LayerError]:
    """Returns the layers that the engine shows, at most POINTS, in order."""
    seen = [layer for layer in explanation.layers if layer.seen]
    step = math.ceil(len(seen) / POINTS) or 1
    if step == 1:
        return seen
    kept = []
    for start in range(0, len(seen), step):
        part = seen[start : start + step]
        worst = max(part, key=lambda layer: (layer.diverged, layer.multiple))
        kept.append(explanation.culprit if explanation.culprit in part else worst)
    return kept


def multiples_chart(explanation: Explanation, allowed: float) -> str:
    """Draws a dot for each layer: its error in units of eager's own, on a logarithmic scale.

    Args:
        explanation: The explanation of one engine.
        allowed: The multiple of eager's own RMS error above which a layer diverges.
    """
    layers = shown_layers(explanation)
    finite = [
        layer.multiple for layer in layers if math.isfinite(layer.multiple) and layer.multiple > 0
    ]
    low = min([0.1, *(max(_FLOOR, value) for value in finite)])
    high = max([10 * allowed, *(2 * value for value in finite)])
    place = _log_scale(low, high)
    body = [*_bands(layers), *_decades(low, high, place)]
    limit = f"{place(allowed):.1f}"
    body.append(tag("line", x1="0%", x2="100%", y1=limit, y2=limit, class_="limit"))
    body.append(
        tag("text", f"{allowed:g} x: limit", x="100%", y=f"{place(allowed) - 5:.1f}",
            text_anchor="end", class_="strong")
    )  # fmt: skip
    points = [(_x(at, layers), place(layer.multiple)) for at, layer in enumerate(layers)]
    body.append(_line(points, "growth"))
    for (x, y), layer in zip(points, layers, strict=True):
        title = f"{layer.name}: {number(layer.multiple)} x eager's own ({layer.statistic})"
        body.append(mark(percent(x), y, passed=not layer.diverged, title=title, small=True))
    culprit = explanation.culprit
    if culprit in layers:
        x, y = points[layers.index(culprit)]
        body += _flag(x, y, "first to diverge")
    worst = max((layer.multiple for layer in layers), default=0.0)
    says = f"{len(layers)} layers; the largest error is {number(worst)} times eager's own"
    return picture(body, _BOTTOM + _BAND, says, "layers")


def errors_chart(explanation: Explanation) -> str:
    """Draws two lines by layer: the engine's RMS error to float64, and eager's own."""
    layers = shown_layers(explanation)
    values = [value for layer in layers for value in (layer.rms, layer.own_rms)]
    finite = [value for value in values if math.isfinite(value) and value > 0]
    if not finite:
        return ""
    low, high = min(finite) / 2, 2 * max(finite)
    place = _log_scale(low, high)
    own = [(_x(at, layers), place(layer.own_rms)) for at, layer in enumerate(layers)]
    engine = [(_x(at, layers), place(layer.rms)) for at, layer in enumerate(layers)]
    body = [
        *_bands(layers),
        *_decades(low, high, place),
        _line(own, "eager"),
        _line(engine, "growth"),
    ]
    says = f"RMS error to float64 by layer, from {number(min(finite))} to {number(max(finite))}"
    return picture(body, _BOTTOM + _BAND, says, "layers")


def _x(at: int, layers: Sequence[LayerError]) -> float:
    return (at + 0.5) / len(layers)


def _log_scale(low: float, high: float) -> Callable[[float], float]:
    """Returns a function from a value to pixels below the top; 0 maps to the bottom."""
    start, end = math.log10(low), math.log10(high)

    def place(value: float) -> float:
        if not value > 0:
            return float(_BOTTOM) if value == 0 else float(_TOP)
        share = (math.log10(value) - start) / (end - start) if math.isfinite(value) else 1.0
        return _BOTTOM - (_BOTTOM - _TOP) * min(1.0, max(0.0, share))

    return place


def _decades(low: float, high: float, place: Callable[[float], float]) -> list[str]:
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    step = max(1, math.ceil((last - first) / 5))
    body = []
    for power in range(first, last + 1, step):
        y = place(10.0**power)
        body.append(tag("line", x1="0%", x2="100%", y1=f"{y:.1f}", y2=f"{y:.1f}", class_="rail"))
        text = f"{10.0**power:g}"
        body.append(tag("text", text, x="0%", y=f"{y - 4:.1f}", class_="scale"))
    return body


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Returns a line as single segments, because a polyline cannot have percentages."""
    pieces = [
        tag("line", x1=percent(x1), y1=f"{y1:.1f}", x2=percent(x2), y2=f"{y2:.1f}")
        for (x1, y1), (x2, y2) in pairwise(points)
    ]
    return tag("g", "".join(pieces), class_=f"line {kind}")


def _flag(x: float, y: float, text: str) -> list[str]:
    anchor = "start" if x < 0.2 else "end" if x > 0.8 else "middle"
    return [
        tag("line", x1=percent(x), x2=percent(x), y1=_TOP, y2=_BOTTOM, class_="flag"),
        tag("circle", cx=percent(x), cy=f"{y:.1f}", r=7, class_="ring"),
        tag(
            "text", escape(text), x=percent(x), y=_TOP - 2, text_anchor=anchor, class_="bad strong"
        ),
    ]


def _bands(layers: Sequence[LayerError]) -> list[str]:
    """Shades every second block, and names the blocks below where there is room."""
    body = []
    start = 0
    for at, (block, members) in enumerate(groupby(layers, key=_block)):
        count = len(list(members))
        left, width = start / len(layers), count / len(layers)
        if at % 2 == 0:
            body.append(
                tag("rect", x=percent(left), y=_TOP, width=percent(width), height=_BOTTOM - _TOP,
                    class_="band")
            )  # fmt: skip
        room = min(28, int(width * _LETTERS))
        if block and room > 3:
            short = block if len(block) <= room else f"…{block[1 - room :]}"
            body.append(
                tag("text", escape(short), x=percent(left + width / 2), y=_BOTTOM + 14,
                    text_anchor="middle")
            )  # fmt: skip
        start += count
    body.append(tag("line", x1="0%", x2="100%", y1=_BOTTOM, y2=_BOTTOM, class_="rule"))
    return body


def _block(layer: LayerError) -> str:
    """Returns the block of a layer, up to the first number: "layer.3" of encoder.layer.3.output."""
    parts = layer.path.split(".")
    for at, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[max(0, at - 1) : at + 1])
    return parts[0]
