"""The claims, and whether they are reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from isthmus.timing.statistics import RatioInterval

from .kinds import Contender
from .rows import STREAM, Row, rank

SLOWER = 1.03
"""The most that the time of `auto` may be over that of the fastest float32 peer."""
LANGUAGE = 1.0
"""The most that C++ may take over Python; reached when the interval includes it."""
ARRIVAL = 2.0
"""The least throughput over the peer on the same engine that pads batches as they come."""
SORTED = 1.3
"""The least throughput over the best peer that sorts by length."""
INT8 = 1.7
"""The least throughput of int8 over `auto` in float32."""


@dataclass(frozen=True)
class Claim:
    """A ratio that is wanted; truthy when it is reached."""

    model: str
    case: str
    what: str
    wanted: float
    at_least: bool
    interval: RatioInterval | None = None
    reason: str = ""
    """The reason why there is no number."""
    within: bool = False
    """True when the interval has to reach the bound, and not the ratio itself."""

    def __bool__(self) -> bool:
        measured = self.interval
        if measured is None:
            return False
        if self.at_least:
            return (measured.high if self.within else measured.ratio) >= self.wanted
        return (measured.low if self.within else measured.ratio) <= self.wanted

    @property
    def short(self) -> str:
        """The shortfall, "4.2 %"; empty when the claim is reached."""
        if self or self.interval is None:
            return ""
        share = self.interval.ratio / self.wanted
        return f"{abs(1 - share):.1%}".replace("%", " %")

    @property
    def bound(self) -> str:
        """The bound in words: "at most 1.03"."""
        return f"at {'least' if self.at_least else 'most'} {self.wanted:g}"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON."""
        return {**asdict(self), "reached": bool(self), "short": self.short}


def claims(rows: Sequence[Row], engines: dict[str, str]) -> list[Claim]:
    """Returns all claims on these rows.

    Args:
        rows: All rows.
        engines: The engine that "auto" took, by model.
    """
    cases = dict.fromkeys((row.model, row.case) for row in rows)
    all_claims: list[Claim] = []
    for model, case in cases:
        mine = [row for row in rows if (row.model, row.case) == (model, case)]
        if case == STREAM:
            all_claims += _stream(model, mine, engines[model])
        else:
            all_claims += _shape(model, case, mine)
    return all_claims


def fastest(rows: Sequence[Row], all_rows: Sequence[Row]) -> Row | None:
    """Returns the float32 peer that is the fastest compared with `auto`."""
    peers = [row for row in rows if row and not row.contender.ours and _full(row.contender)]
    return min(peers, key=lambda row: rank(row, all_rows), default=None)


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
    """Returns `auto` in both languages, from the heat of the peer."""
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
    """Claims a bound on the time of a row over that of another."""
    reasons = [
        f"{row.label}: {row.reason or 'not timed'}" if row is not None else "no such peer"
        for row in (above, below)
        if not row
    ]
    interval = None if reasons or above is None or below is None else above.over(below)
    if interval is None and not reasons:
        reasons = ["fewer than two rounds"]
    return Claim(model, case, what, wanted, at_least, interval, "; ".join(reasons), within)
