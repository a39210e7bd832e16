"""Compares the speed of A and B, which take turns in processes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from isthmus.bundle_diff.cross_check import refusal_of
from isthmus.bundle_diff.findings import Findings, counted
from isthmus.bundle_diff.runs import PairedEngine, RunContext
from isthmus.runtime.engines import RowKind
from isthmus.timing.bench_report import rounds_for
from isthmus.timing.bench_row import BenchRow
from isthmus.timing.statistics import RatioInterval, ratio_over_rounds
from isthmus.timing.turns import TimedRow, measure

__all__ = ["CONFIDENCE", "MARGIN", "Speed", "compare_speed"]

MARGIN = 0.03
"""The share below which a difference counts as none: processes of the same program differ by it."""
CONFIDENCE = 0.99
MEMORY_SHARE = 0.10
"""The share by which peak memory has to change to be reported."""
MEMORY_BYTES = 10_000_000
"""The bytes by which peak memory has to change to be reported."""
_TURN_SECONDS = 0.12


@dataclass(frozen=True)
class Speed:
    """An engine of both bundles on the inputs of a golden."""

    name: str
    """The artifact and engine."""
    golden: str
    before: BenchRow
    after: BenchRow
    interval: RatioInterval | None = None
    """B's time over A's; None when a side has no numbers or the rounds are too few."""
    reason: str = ""
    """The reason why there is no interval."""

    @property
    def verdict(self) -> Literal["B faster", "B slower", "no significant difference", ""]:
        """The verdict: faster or slower only when the whole interval is beyond the margin."""
        if self.interval is None:
            return ""
        if self.interval.high < 1 / (1 + MARGIN):
            return "B faster"
        if self.interval.low > 1 + MARGIN:
            return "B slower"
        return "no significant difference"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values; durations are in milliseconds."""
        return {
            "name": self.name,
            "golden": self.golden,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "interval": None if self.interval is None else asdict(self.interval),
            "verdict": self.verdict,
            "reason": self.reason,
        }


def compare_speed(
    context: RunContext, engines: Sequence[PairedEngine], rounds: int, findings: Findings
) -> tuple[Speed, ...]:
    """Times each engine on the artifacts of both bundles, one pair after the other.

    Args:
        context: The two bundles and the options.
        engines: The engines with their artifacts.
        rounds: The number of turns of each side.
        findings: Collects the findings.
    """
    goldens = _golden_pair(context)
    if goldens is None:
        findings.missing("speed", "", "no golden of A has a counterpart of its shapes in B")
        return ()
    speeds = []
    for engine in engines:
        if engine.before is None or engine.after is None:
            if engine.pair.before is not None and engine.pair.after is not None:
                reason = context.why_not(engine.pair.after, engine.engine)
                reason = reason or context.why_not(engine.pair.before, engine.engine)
                findings.missing("speed", engine.name, reason)
            else:
                findings.missing("speed", engine.name, "only one of the bundles has it")
            continue
        speed = _time(context, engine, goldens, rounds)
        _report(speed, findings)
        speeds.append(speed)
    return tuple(speeds)


def _golden_pair(context: RunContext) -> tuple[str, str] | None:
    """Returns a golden of each with the same shapes, preferably A's first for warm-up."""
    warmup = context.before.manifest.warmup
    order = sorted(context.goldens, key=lambda golden: golden.name not in warmup)
    for golden in order:
        step = golden.steps[0]
        if refusal_of(context, step):
            continue
        shapes = {key: value.shape for key, value in context.renamed(step).items()}
        counterparts = [
            new_golden.name
            for new_golden in context.new_goldens
            if new_golden.steps[0].method == step.method
            and {key: value.shape for key, value in new_golden.steps[0].inputs.items()} == shapes
        ]
        if counterparts:
            name = golden.name if golden.name in counterparts else counterparts[0]
            return golden.name, name
    return None


def _time(
    context: RunContext, engine: PairedEngine, goldens: tuple[str, str], rounds: int
) -> Speed:
    assert engine.before is not None and engine.after is not None
    timed = []
    for new, artifact, golden in (
        (False, engine.before, goldens[0]),
        (True, engine.after, goldens[1]),
    ):
        spec = context.spec(artifact, engine, new=new)
        row = BenchRow(engine.engine, RowKind.EXPORTED, "C++", context.options.device)
        name = f"{'B' if new else 'A'}: {artifact.name} on {engine.engine}"
        # One group, so that both make the same number of calls in a turn.
        timed.append(TimedRow(row, spec, golden, name, group=engine.name))
    before, after = measure(
        timed, context.options, rounds=rounds, turn_seconds=_TURN_SECONDS, seed=0
    )
    speed = Speed(engine.name, goldens[0], before, after)
    missing = [
        f"{side}: {row.unavailable}" for side, row in (("A", before), ("B", after)) if not row
    ]
    if missing:
        return replace(speed, reason="; ".join(missing))
    wanted = rounds_for(CONFIDENCE)
    if rounds < wanted:
        reason = f"{rounds} rounds are too few for a {CONFIDENCE:.0%} interval; take {wanted}"
        return replace(speed, reason=reason)
    interval = ratio_over_rounds(
        after.round_medians_ms, before.round_medians_ms, confidence=CONFIDENCE
    )
    return replace(speed, interval=interval)


def _report(speed: Speed, findings: Findings) -> None:
    section = findings.section("speed", speed.name)
    if speed.interval is None:
        section.missing(speed.reason)
        return
    interval = speed.interval
    medians = [row.summary.median_ms if row.summary else 0.0 for row in (speed.before, speed.after)]
    if speed.verdict in ("B slower", "B faster"):
        section.change(
            f"a call, golden {speed.golden}",
            [f"{median:.4g} ms" for median in medians],
            "worse" if speed.verdict == "B slower" else "better",
            f"{interval.ratio:.2f} x, {interval.confidence:.0%} interval"
            f" {interval.low:.2f} to {interval.high:.2f}; reported beyond {MARGIN:.0%}",
        )
    peaks = [row.peak_rss_bytes or 0 for row in (speed.before, speed.after)]
    if all(peaks) and abs(peaks[1] - peaks[0]) > max(MEMORY_SHARE * peaks[0], MEMORY_BYTES):
        section.change(
            "peak memory",
            [f"{peak / 1e6:.0f} MB" for peak in peaks],
            "worse" if peaks[1] > peaks[0] else "better",
            f"reported from {MEMORY_SHARE:.0%} and {MEMORY_BYTES / 1e6:.0f} MB on",
        )
    rounds = counted(len(speed.after.rounds_ms), "round")
    text = (
        f"{speed.verdict}: {interval.ratio:.2f} x A's time"
        f" ({interval.low:.2f} to {interval.high:.2f}), {rounds}"
    )
    section.result(text)
