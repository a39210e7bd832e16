"""Which bundle is faster: A and B in processes of their own, taking turns in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from isthmus.bundle_diff.cross_check import refusal
from isthmus.bundle_diff.findings import Findings, counted
from isthmus.bundle_diff.pairs import methods_of, pair_values
from isthmus.bundle_diff.runs import Runs, Way
from isthmus.runtime.engines import RowKind
from isthmus.timing.bench_report import rounds_for
from isthmus.timing.bench_row import BenchRow
from isthmus.timing.statistics import RatioInterval, ratio_over_rounds
from isthmus.timing.turns import TimedRow, measure

__all__ = ["CONFIDENCE", "MARGIN", "Speed", "compare_speed"]

MARGIN = 0.03
"""A difference within this share is none: processes of one program differ by as much."""
CONFIDENCE = 0.99
MEMORY_SHARE = 0.10
"""Peak memory that grew or shrank by less is as it was."""
MEMORY_BYTES = 10_000_000
"""Nor is it another by less than this."""
_TURN_SECONDS = 0.12


@dataclass(frozen=True)
class Speed:
    """One engine of both bundles on one golden's shape."""

    name: str
    """Artifact and engine."""
    golden: str
    before: BenchRow
    after: BenchRow
    interval: RatioInterval | None = None
    """B's time over A's; None where one side has no numbers, or the rounds are too few."""
    reason: str = ""
    """Why there is no interval."""

    @property
    def verdict(self) -> Literal["B faster", "B slower", "no significant difference", ""]:
        """Faster or slower only when the whole interval is beyond the margin."""
        if self.interval is None:
            return ""
        if self.interval.high < 1 / (1 + MARGIN):
            return "B faster"
        if self.interval.low > 1 + MARGIN:
            return "B slower"
        return "no significant difference"

    def to_json(self) -> dict[str, Any]:
        """The facts for machines; durations in milliseconds."""
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
    runs: Runs, ways: Sequence[Way], rounds: int, found: Findings
) -> tuple[Speed, ...]:
    """Times each engine on the artifacts of both bundles, one pair after the other.

    Args:
        runs: The two bundles and what they run on.
        ways: Artifacts and engines.
        rounds: Turns of each side.
        found: Takes the findings.
    """
    goldens = _golden(runs)
    if goldens is None:
        found.missing("speed", "", "no golden of A has a twin of its shapes in B")
        return ()
    result = []
    for way in ways:
        if way.before is None or way.after is None:
            if way.pair.before is not None and way.pair.after is not None:
                reason = runs.why_not(way.pair.after, way.engine)
                reason = reason or runs.why_not(way.pair.before, way.engine)
                found.missing("speed", way.name, reason)
            else:
                found.missing("speed", way.name, "only one of the bundles has it")
            continue
        one = _time(runs, way, goldens, rounds)
        _tell(one, found)
        result.append(one)
    return tuple(result)


def _golden(runs: Runs) -> tuple[str, str] | None:
    """A golden of each with the same shapes; A's first for warm-up where that is possible."""
    manifest = runs.before.manifest
    names = {
        method.name: pair_values(method.inputs, other.inputs).names
        for method, other in methods_of(manifest, runs.after.manifest)
    }
    methods = {method.name: method for method in runs.after.manifest.methods}
    order = sorted(runs.goldens, key=lambda golden: golden.name not in manifest.warmup)
    for golden in order:
        step = golden.steps[0]
        if step.method not in names:
            continue
        renamed = names[step.method]
        given = {renamed.get(key, key): value for key, value in step.inputs.items()}
        if refusal(methods[step.method], runs.after.manifest.dims, given):
            continue
        shapes = {key: value.shape for key, value in given.items()}
        twins = [
            new_golden
            for new_golden in runs.new_goldens
            if new_golden.steps[0].method == step.method
            and {key: value.shape for key, value in new_golden.steps[0].inputs.items()} == shapes
        ]
        if twins:
            twins.sort(key=lambda twin: twin.name != golden.name)
            return golden.name, twins[0].name
    return None


def _time(runs: Runs, way: Way, goldens: tuple[str, str], rounds: int) -> Speed:
    assert way.before is not None and way.after is not None
    timed = []
    for new, artifact, golden in ((False, way.before, goldens[0]), (True, way.after, goldens[1])):
        spec = runs.job(new=new).spec(
            "isthmus", runs.options.device, artifact=artifact.name, engine=way.engine,
            optimize="auto",
        )  # fmt: skip
        row = BenchRow(way.engine, RowKind.EXPORTED, "C++", runs.options.device)
        name = f"{'B' if new else 'A'}: {artifact.name} on {way.engine}"
        # One group, so that both make the same number of calls in a turn.
        timed.append(TimedRow(row, spec, golden, name, group=way.name))
    before, after = measure(timed, runs.options, rounds=rounds, turn_seconds=_TURN_SECONDS, seed=0)
    speed = Speed(way.name, goldens[0], before, after)
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


def _tell(speed: Speed, found: Findings) -> None:
    if speed.interval is None:
        found.missing("speed", speed.name, speed.reason)
        return
    interval = speed.interval
    medians = [row.summary.median_ms if row.summary else 0.0 for row in (speed.before, speed.after)]
    start = found.count("speed")
    if speed.verdict in ("B slower", "B faster"):
        found.change(
            "speed",
            speed.name,
            f"a call, golden {speed.golden}",
            [f"{median:.4g} ms" for median in medians],
            "worse" if speed.verdict == "B slower" else "better",
            f"{interval.ratio:.2f} x, {interval.confidence:.0%} interval"
            f" {interval.low:.2f} to {interval.high:.2f}; told beyond {MARGIN:.0%}",
        )
    peaks = [row.peak_rss_bytes or 0 for row in (speed.before, speed.after)]
    if all(peaks) and abs(peaks[1] - peaks[0]) > max(MEMORY_SHARE * peaks[0], MEMORY_BYTES):
        found.change(
            "speed",
            speed.name,
            "peak memory",
            [f"{peak / 1e6:.0f} MB" for peak in peaks],
            "worse" if peaks[1] > peaks[0] else "better",
            f"told from {MEMORY_SHARE:.0%} and {MEMORY_BYTES / 1e6:.0f} MB on",
        )
    rounds = counted(len(speed.after.rounds_ms), "round")
    text = (
        f"{speed.verdict}: {interval.ratio:.2f} x A's time"
        f" ({interval.low:.2f} to {interval.high:.2f}), {rounds}"
    )
    found.result("speed", speed.name, text, equal=found.count("speed") == start)
