"""Compares the distances of both bundles to float64, engine by engine, on their own goldens."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from isthmus.bundle_diff.findings import Findings, counted
from isthmus.bundle_diff.runs import PairedEngine, RunContext
from isthmus.document import number
from isthmus.goldens.compare import OutputParity
from isthmus.proof.jobs import Job, Run, golden_outputs, judge
from isthmus.proof.verify_report import VerifyRow
from isthmus.runtime.engines import EAGER

if TYPE_CHECKING:
    from isthmus.bundle.golden import Golden

__all__ = ["EAGER_AT_EXPORT", "FEW", "WORSE", "Accuracy", "compare_accuracy"]

WORSE = 2.0
"""The factor from which on an output is worse (further from float64 than before) or better."""
FEW = 256
"""The elements, over all goldens, below which an RMS error is not judged."""
EAGER_AT_EXPORT = f"{EAGER}, at export"
"""The name of the row of the eager outputs in the goldens."""


@dataclass(frozen=True)
class Accuracy:
    """The RMS error of an output to float64 over the goldens on an engine, before and after."""

    name: str
    """The artifact and engine, or `EAGER_AT_EXPORT`."""
    output: str
    before: float | None
    """The RMS error of A; None when it is unknown or A was not run."""
    after: float | None
    """The RMS error of B; None when it is unknown or B was not run."""
    own_before: float | None
    """Eager's own RMS error in A, at least a unit in the last place of each value."""
    own_after: float | None
    """Eager's own RMS error in B."""
    elements: int
    """The number of elements on the side that has fewer."""
    over: str
    """The goldens in words: those that both bundles have, or each bundle's own."""

    @property
    def ratio(self) -> float | None:
        """The error after over that before; None where an error is unknown."""
        if self.before is None or self.after is None:
            return None
        if self.before == 0:
            return 1.0 if self.after == 0 else math.inf
        return self.after / self.before

    @property
    def verdict(self) -> Literal["same", "worse", "better", "too few elements", "-"]:
        """The verdict; an error within eager's own error before is rounding, and not worse."""
        ratio = self.ratio
        if ratio is None or self.before is None or self.after is None:
            return "-"
        if self.elements < FEW:
            return "too few elements"
        own = self.own_before or 0.0
        if ratio > WORSE and self.after > own:
            return "worse"
        if ratio < 1 / WORSE and self.before > own:
            return "better"
        return "same"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {**asdict(self), "ratio": self.ratio, "verdict": self.verdict}


def compare_accuracy(
    context: RunContext, engines: Sequence[PairedEngine], findings: Findings
) -> tuple[Accuracy, ...]:
    """Proves both bundles on their own goldens, and compares the distances to float64.

    Args:
        context: The two bundles and the options.
        engines: The engines with their artifacts.
        findings: Collects the findings.
    """
    shared = shared_goldens(context.goldens, context.new_goldens)
    if 2 * len(shared) < max(len(context.goldens), len(context.new_goldens)):
        shared = set()  # too few to represent the rest
    names = {a: b for outputs in context.names[1].values() for a, b in outputs.items()}
    before, after = (_eager(context.job(new=new)) for new in (False, True))
    rows = _rows(EAGER_AT_EXPORT, before.results, after.results, shared, names)
    _report(EAGER_AT_EXPORT, rows, "", findings)
    for engine in engines:
        old, new = (context.prove(engine, new=new) for new in (False, True))
        for side, row, artifact in (("A", old, engine.pair.before), ("B", new, engine.pair.after)):
            if row is None and artifact is not None:
                reason = context.why_not(artifact, engine.engine)
                findings.missing("errors", f"{side}: {engine.name}", reason)
        summary = _report_verdicts(engine, old, new, findings)
        if not summary or old is None or new is None:
            continue
        engine_rows = _rows(engine.name, old.results, new.results, shared, names)
        _report(engine.name, engine_rows, summary, findings)
        rows += engine_rows
    return tuple(rows)


def shared_goldens(before: Sequence[Golden], after: Sequence[Golden]) -> set[str]:
    """Returns the names of goldens whose inputs are the same in both bundles."""
    import torch

    named = {golden.name: golden for golden in after}
    shared = set()
    for golden in before:
        other = named.get(golden.name)
        if other is None or len(golden.steps) != len(other.steps):
            continue
        if all(
            step.method == new_step.method
            and step.inputs.keys() == new_step.inputs.keys()
            and all(torch.equal(step.inputs[key], new_step.inputs[key]) for key in step.inputs)
            for step, new_step in zip(golden.steps, other.steps, strict=True)
        ):
            shared.add(golden.name)
    return shared


def _eager(job: Job) -> VerifyRow:
    """Compares the goldens with themselves: their error to float64 is eager's own."""
    row = VerifyRow(EAGER, "Python", "cpu", "passed")
    run = Run([golden_outputs(golden) for golden in job.goldens], {})
    return judge(job, row, run, job.bundle.manifest.artifacts[0].tolerances, None)


def _rows(
    name: str,
    before: Iterable[OutputParity],
    after: Iterable[OutputParity],
    shared: Collection[str],
    names: Mapping[str, str],
) -> list[Accuracy]:
    """Returns a row for each output whose distance to float64 is known in both."""
    left, right = ([result for result in side if result.to_truth] for side in (before, after))
    over = "each bundle's own goldens"
    if shared:
        over = f"the {counted(len(shared), 'golden')} whose inputs are the same in both"
        left, right = (
            [result for result in side if result.golden in shared] for side in (left, right)
        )
    rows = []
    for output in sorted({result.output for result in left}):
        sides = [
            [result for result in left if result.output == output],
            [result for result in right if result.output == names.get(output, output)],
        ]
        if not sides[1]:
            continue
        errors = [_pooled((part.errors["rms"], part.elements) for part in side) for side in sides]
        own = [_pooled((part.own["rms"], part.elements) for part in side) for side in sides]
        fewer = min(sum(part.elements for part in side) for side in sides)
        rows.append(Accuracy(name, output, errors[0], errors[1], own[0], own[1], fewer, over))
    return rows


def _pooled(values: Iterable[tuple[float, int]]) -> float:
    """Returns the root mean square over all elements."""
    squares, count = 0.0, 0
    for rms, elements in values:
        squares += rms * rms * elements
        count += elements
    return math.sqrt(squares / count) if count else 0.0


def _report_verdicts(
    engine: PairedEngine, before: VerifyRow | None, after: VerifyRow | None, findings: Findings
) -> str:
    """Reports which side passes; returns a summary when both ran, else an empty string."""
    if before is None and after is None:
        return ""
    section = findings.section("errors", engine.name)
    old = before.status if before is not None else "absent"
    new = after.status if after is not None else "absent"
    reason = after.reason if after is not None else ""
    if new == "error" and old != "passed":
        findings.missing("errors", f"B: {engine.name}", reason)
    elif new in ("failed", "error"):
        words = {"absent": None, "passed": "passes", "error": "could not run"}
        if old == "failed":
            why = f"as before: {reason}"
            section.change("own goldens", ("fails", "fails"), "changed", why)
        else:
            sides = words[old], "fails" if new == "failed" else "cannot run"
            section.change("own goldens", sides, "breaking", reason)
    elif new == "passed" and old == "failed":
        section.change("own goldens", ("fails", "passes"), "better")
    if old == "error" and before is not None:
        findings.missing("errors", f"A: {engine.name}", before.reason)
    if old == "absent" and new == "passed" and after is not None:
        goldens = len({result.golden for result in after.results})
        text = f"passes its own {counted(goldens, 'golden')}"
        text += "; A has nothing like it" if engine.pair.before is None else ""
        section.result(text, equal=False)
        return ""
    ran = before is not None and after is not None and before.results and after.results
    verbs = {"passed": "passes", "failed": "fails"}
    if not ran:
        return ""
    return "both pass" if old == new == "passed" else f"A {verbs[old]}, B {verbs[new]}"


def _report(name: str, rows: Sequence[Accuracy], summary: str, findings: Findings) -> None:
    section = findings.section("errors", name)
    for row in rows:
        if row.verdict in ("worse", "better"):
            assert row.ratio is not None
            section.change(
                f"distance of {row.output} to float64",
                (number(row.before), number(row.after)),
                "worse" if row.verdict == "worse" else "better",
                f"{number(row.ratio)} x; reported from {WORSE:g} x on",
            )
    furthest = max((row.ratio for row in rows if row.ratio is not None), default=None)
    text = summary
    if furthest is not None:
        distance = f"distance to float64 at most {number(furthest)} x A's"
        text = f"{summary}; {distance}" if summary else distance
    if not text:
        section.missing("no output's distance to float64 is known in both")
        return
    section.result(text)
