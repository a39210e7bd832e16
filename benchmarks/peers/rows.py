"""A row for each contender on each case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shared import medians, ratio

from isthmus.timing.statistics import RatioInterval, Summary, summarize

from .kinds import Contender
from .processes import Runner

STREAM = "stream"
"""The case of a stream of sentences."""


@dataclass(frozen=True)
class Row:
    """A process on a case; truthy when it has numbers."""

    model: str
    case: str
    """A shape, "1 x 14", or `STREAM`."""
    contender: Contender
    heat: int = 0
    """The number of the heat: rows of a heat took turns, and `auto` is in each."""
    order: str = ""
    """The order of a stream: "arrival", "sorted" or "batcher"."""
    reason: str = ""
    """The reason why there are no numbers."""
    runtime: str = ""
    accuracy: str = ""
    load_ms: float = 0.0
    first_call_ms: float = 0.0
    rounds_ms: tuple[tuple[float, ...], ...] = ()
    peak_rss_bytes: int = 0
    flops: float = 0.0
    """The operations of a call by `limit.flops`, without the padding of a stream."""
    weight_bytes: float = 0.0
    """The least bytes of weights that a call reads."""
    sentences: int = 0
    """The sentences in a call."""
    tokens: int = 0
    """The tokens in a call, without padding."""
    elements: int = 0
    """The tokens computed in a call, with padding."""

    def __bool__(self) -> bool:
        return not self.reason and bool(self.rounds_ms)

    @property
    def label(self) -> str:
        """The contender and, in a stream, its batching."""
        orders = {"arrival": ", as they come", "sorted": ", sorted", "batcher": ", batcher"}
        return self.contender.label + orders.get(self.order, "")

    @property
    def medians_ms(self) -> list[float]:
        """The median of each round."""
        return [summarize(turn).median_ms for turn in self.rounds_ms]

    @property
    def summary(self) -> Summary:
        """The summary of all calls."""
        return summarize([sample for turn in self.rounds_ms for sample in turn])

    @property
    def per_second(self) -> float:
        """The sentences per second."""
        return self.sentences / self.summary.median_ms * 1e3

    def over(self, other: Row) -> RatioInterval | None:
        """Returns this row's time over the other's; None with fewer than two rounds."""
        rounds = min(len(self.rounds_ms), len(other.rounds_ms))
        if rounds < 2:
            return None
        return ratio(self.medians_ms[:rounds], other.medians_ms[:rounds])

    def to_json(self, auto: Row | None) -> dict[str, Any]:
        """Returns the fields, the summary of the calls, and the time over that of `auto`."""
        facts = {key: value for key, value in asdict(self).items() if value not in ("", ())}
        facts["contender"] = self.contender.to_json()
        if self:
            rounds = medians({"ms": self.medians_ms})
            over = self.over(auto) if auto is not None else None
            facts["summary"] = asdict(self.summary)
            facts["sentences_per_second"] = self.per_second
            facts["over_auto_cpp"] = None if over is None else over_json(over)
            facts["interval_of_round_medians_ms"] = rounds["intervals"]["ms"]
            facts["rounds"] = rounds["rounds"]
        return facts


def over_json(interval: RatioInterval) -> dict[str, float]:
    """Returns the ratio and its 95 % interval."""
    return {"ratio": interval.ratio, "low": interval.low, "high": interval.high}


def row_of(model: str, case: str, runner: Runner, **facts: Any) -> Row:
    """Returns the numbers of a runner that has ended."""
    return Row(
        model=model,
        case=case,
        contender=runner.contender,
        reason=runner.reason,
        runtime=runner.runtime,
        accuracy=runner.accuracy,
        load_ms=runner.load_ms,
        first_call_ms=runner.first_call_ms,
        rounds_ms=tuple(runner.turns),
        peak_rss_bytes=runner.peak_rss_bytes,
        **facts,
    )


def auto_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Returns `auto` in C++ in the row's heat; None when it has no numbers."""
    for other in rows:
        same = (other.model, other.case, other.heat) == (row.model, row.case, row.heat)
        if other and same and other.contender.auto and other.contender.language == "C++":
            return other
    return None


def rank(row: Row, rows: Sequence[Row]) -> float:
    """Returns the sort key: the time over `auto`'s in the same heat, since machines drift.

    Without `auto` it is the time itself, because the heats have nothing in common.
    """
    auto = auto_of(row, rows)
    over = row.over(auto) if auto is not None else None
    return over.ratio if over is not None else row.summary.median_ms


@dataclass(frozen=True)
class Start:
    """Processes that were started for a single call each."""

    model: str
    contender: Contender
    reason: str = ""
    seconds: tuple[float, ...] = ()
    """The times from the start of the process to its first answer."""
    peak_rss_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the median, minimum and interval of the times, and the times as samples."""
        facts: dict[str, Any] = {
            "model": self.model,
            "contender": self.contender.to_json(),
            "peak_rss_bytes": self.peak_rss_bytes,
        }
        if self.reason:
            facts["reason"] = self.reason
        if self.seconds:
            columns = medians({"median_s": self.seconds})
            facts["median_s"], facts["min_s"] = columns["median_s"], min(self.seconds)
            facts["interval_s"] = columns["intervals"]["median_s"]
            facts["starts"], facts["samples"] = columns["rounds"], columns["samples"]
        return facts
