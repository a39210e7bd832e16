"""What was wanted, and whether it was reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from isthmus.timing.statistics import RatioInterval

from .kinds import Contender
from .rows import STREAM, Row, rank

SLOWER = 1.03
"""`auto` over the fastest float32 peer, at most."""
LANGUAGE = 1.0
"""C++ over Python, at most; reached when the interval includes it."""
ARRIVAL = 2.0
"""Throughput over the peer with the same engine that pads batches as they come, at least."""
SORTED = 1.3
"""Throughput over the best peer that sorts by length, at least."""
INT8 = 1.7
"""Throughput of int8 over `auto` in float32, at least."""


@dataclass(frozen=True)
class Claim:
    """One number that was wanted; truthy when it was reached."""

    model: str
    case: str
    what: str
    wanted: float
    at_least: bool
    interval: RatioInterval | None = None
    reason: str = ""
    """Why there is no number."""
    within: bool = False
    """Reached when the interval touches what was wanted; else the ratio itself has to."""

    def __bool__(self) -> bool:
        found = self.interval
        if found is None:
            return False
        if self.at_least:
            return (found.high if self.within else found.ratio) >= self.wanted
        return (found.low if self.within else found.ratio) <= self.wanted

    @property
    def short(self) -> str:
        """By how much it falls short: "4.2 %"; empty when it does not."""
        if self or self.interval is None:
            return ""
        share = self.interval.ratio / self.wanted
        return f"{abs(1 - share):.1%}".replace("%", " %")

    @property
    def bound(self) -> str:
        """ "at most 1.03"."""
        return f"at {'least' if self.at_least else 'most'} {self.wanted:g}"

    def to_json(self) -> dict[str, Any]:
        """The facts for machines."""
        return {**asdict(self), "reached": bool(self), "short": self.short}


def claims(rows: Sequence[Row], engines: dict[str, str]) -> list[Claim]:
    """Everything that is wanted of these rows.

    Args:
        rows: All that was measured.
        engines: By model: the engine that "auto" took.
    """
    cases = dict.fromkeys((row.model, row.case) for row in rows)
    found: list[Claim] = []
    for model, case in cases:
        mine = [row for row in rows if (row.model, row.case) == (model, case)]
        if case == STREAM:
            found += _stream(model, mine, engines[model])
        else:
            found += _shape(model, case, mine)
    return found


def fastest(rows: Sequence[Row], everybody: Sequence[Row]) -> Row | None:
    """The float32 peer that is the fastest next to `auto`."""
    peers = [row for row in rows if row and not row.contender.ours and _full(row.contender)]
    return min(peers, key=lambda row: rank(row, everybody), default=None)


def _what(row: Row) -> tuple[str, str]:
    return row.contender.engine, row.contender.precision


def _full(contender: Contender) -> bool:
    return contender.precision == "fp32"


def _shape(model: str, case: str, rows: Sequence[Row]) -> Iterator[Claim]:
    peer = fastest(rows, rows)
    for row in _auto(rows, peer):
        what = f"{row.label} over {peer.label if peer else 'the fastest peer'}"
        yield _claim(model, case, what, SLOWER, row, peer)
    ours = [row for row in rows if row.contender.ours and not (row.contender.auto and row.heat)]
    for cpp in ours:
        for python in ours:
            same = _what(cpp) == _what(python)
            if same and (cpp.contender.language, python.contender.language) == ("C++", "Python"):
                what = f"{cpp.contender.name}: C++ over Python"
                # An engine that the bundle does not have is no shortfall of a language.
                if cpp or python or cpp.contender.engine == "auto":
                    yield _claim(model, case, what, LANGUAGE, cpp, python, within=True)


def _stream(model: str, rows: Sequence[Row], engine: str) -> Iterator[Claim]:
    same = [row for row in rows if row.order == "arrival" and row.contender.engine == engine]
    ordered = [row for row in rows if row.order == "sorted"]
    for wanted, peer, name in (
        (ARRIVAL, fastest(same, rows), f"a peer on {engine} that pads as they come"),
        (SORTED, fastest(ordered, rows), "the best that sorts"),
    ):
        for row in _auto(rows, peer):
            what = f"sentences/s of {row.label} over {peer.label if peer else name}"
            yield _claim(model, STREAM, what, wanted, peer, row, at_least=True)
    for row in rows:
        if not row.contender.ours or row.contender.precision != "int8":
            continue
        for auto in rows:
            language = row.contender.language
            if auto.contender.auto and (auto.contender.language, auto.heat) == (language, row.heat):
                what = f"sentences/s of {row.label} over {auto.label}"
                yield _claim(model, STREAM, what, INT8, auto, row, at_least=True)


def _auto(rows: Sequence[Row], peer: Row | None) -> list[Row]:
    """`auto` in both languages, in the turns that it took with the peer."""
    heat = peer.heat if peer else 0
    return [row for row in rows if row.contender.auto and row.heat == heat]


def _claim(
    model: str,
    case: str,
    what: str,
    wanted: float,
    above: Row | None,
    below: Row | None,
    *,
    at_least: bool = False,
    within: bool = False,
) -> Claim:
    """The time of one row over that of another."""
    reasons = [
        f"{row.label}: {row.reason or 'not timed'}" if row is not None else "no such peer"
        for row in (above, below)
        if not row
    ]
    interval = None if reasons or above is None or below is None else above.over(below)
    if interval is None and not reasons:
        reasons = ["fewer than two rounds"]
    return Claim(model, case, what, wanted, at_least, interval, "; ".join(reasons), within)
