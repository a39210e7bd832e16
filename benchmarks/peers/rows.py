"""What was measured: a row for each contender on each case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from isthmus.timing.statistics import RatioInterval, Summary, ratio_over_rounds, summarize

from .kinds import Contender
from .processes import Runner

CONFIDENCE = 0.95
STREAM = "stream"
"""The case that is no shape."""


@dataclass(frozen=True)
class Row:
    """One process on one case; truthy when it has numbers."""

    model: str
    case: str
    """A shape, "1 x 14", or `STREAM`."""
    contender: Contender
    heat: int = 0
    """Rows of one heat took turns with each other; `auto` is in each."""
    order: str = ""
    """Of a stream: "arrival", "sorted" or "batcher"."""
    reason: str = ""
    """Why there are no numbers."""
    runtime: str = ""
    accuracy: str = ""
    load_ms: float = 0.0
    first_call_ms: float = 0.0
    rounds_ms: tuple[tuple[float, ...], ...] = ()
    peak_rss_bytes: int = 0
    flops: float = 0.0
    """Of a call, by the formula of `limit.flops`; of a stream without its padding."""
    weight_bytes: float = 0.0
    """That a call reads at least."""
    sentences: int = 0
    """In a call."""
    tokens: int = 0
    """In a call, without padding."""
    elements: int = 0
    """In a call, padding included."""

    def __bool__(self) -> bool:
        return not self.reason and bool(self.rounds_ms)

    @property
    def label(self) -> str:
        """The contender, and in a stream how it batches."""
        orders = {"arrival": ", as they come", "sorted": ", sorted", "batcher": ", batcher"}
        return self.contender.label + orders.get(self.order, "")

    @property
    def medians_ms(self) -> list[float]:
        """Of each round."""
        return [summarize(turn).median_ms for turn in self.rounds_ms]

    @property
    def summary(self) -> Summary:
        """Of all calls."""
        return summarize([sample for turn in self.rounds_ms for sample in turn])

    @property
    def per_second(self) -> float:
        """Sentences in a second."""
        return self.sentences / self.summary.median_ms * 1e3

    def over(self, other: Row) -> RatioInterval | None:
        """This row's time over the other's, round by round; None with fewer than two rounds."""
        rounds = min(len(self.rounds_ms), len(other.rounds_ms))
        if rounds < 2:
            return None
        return ratio_over_rounds(
            self.medians_ms[:rounds], other.medians_ms[:rounds], confidence=CONFIDENCE
        )

    def to_json(self) -> dict[str, Any]:
        """The facts for machines; of the calls their summary and the median of each round."""
        facts = {key: value for key, value in asdict(self).items() if key != "rounds_ms"}
        if self:
            facts["summary"] = asdict(self.summary)
            facts["round_medians_ms"] = [round(one, 5) for one in self.medians_ms]
            facts["sentences_per_second"] = self.per_second
        return facts


def row_of(model: str, case: str, runner: Runner, **facts: Any) -> Row:
    """The runner's numbers, once it has ended."""
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
    """`auto` in C++ in the row's own heat; None where it has no numbers."""
    for one in rows:
        same = (one.model, one.case, one.heat) == (row.model, row.case, row.heat)
        if one and same and one.contender.auto and one.contender.language == "C++":
            return one
    return None


def rank(row: Row, rows: Sequence[Row]) -> float:
    """To sort by: the time over `auto`'s in the same turns, for a machine drifts between heats.

    Without `auto` the time itself: then there is nothing that the heats share.
    """
    auto = auto_of(row, rows)
    ratio = row.over(auto) if auto is not None else None
    return ratio.ratio if ratio is not None else row.summary.median_ms


@dataclass(frozen=True)
class Start:
    """Processes started for one call each."""

    model: str
    contender: Contender
    reason: str = ""
    seconds: tuple[float, ...] = ()
    """From the start of the process to its first answer."""
    peak_rss_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """The facts for machines."""
        return asdict(self)
