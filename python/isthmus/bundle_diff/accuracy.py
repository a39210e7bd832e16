"""How far each bundle is from float64, engine by engine, before and after: on its own goldens."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from isthmus.bundle.manifest import Manifest, Tolerance
from isthmus.bundle_diff.findings import Findings, counted
from isthmus.bundle_diff.pairs import methods_of, pair_values
from isthmus.bundle_diff.runs import Runs, Way
from isthmus.document import number
from isthmus.goldens.compare import OutputParity, compare
from isthmus.proof.jobs import golden_outputs, own_errors
from isthmus.proof.verify_report import VerifyRow
from isthmus.runtime.engines import EAGER

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden

__all__ = ["EAGER_AT_EXPORT", "FEW", "WORSE", "Accuracy", "compare_accuracy"]

WORSE = 2.0
"""An output this many times further from float64 than before is worse; this many times nearer,
better."""
FEW = 256
"""With fewer elements, in all goldens together, an RMS error is luck."""
EAGER_AT_EXPORT = f"{EAGER}, at export"
"""The row of the model itself: what the goldens carry."""


@dataclass(frozen=True)
class Accuracy:
    """One output by one engine: its RMS error to float64 over the goldens, before and after."""

    name: str
    """Artifact and engine, or `EAGER_AT_EXPORT`."""
    output: str
    before: float | None
    """None: not known, or not run."""
    after: float | None
    own_before: float | None
    """Eager's own RMS error there, at least one unit in the last place of each value."""
    own_after: float | None
    elements: int
    """Of the side that has fewer."""
    over: str
    """Which goldens: those that both have, or each bundle's own."""

    @property
    def ratio(self) -> float | None:
        """After over before; None where one is not known."""
        if self.before is None or self.after is None:
            return None
        if self.before == 0:
            return 1.0 if self.after == 0 else math.inf
        return self.after / self.before

    @property
    def verdict(self) -> Literal["same", "worse", "better", "too few elements", "-"]:
        """Worse only where it is beyond what eager itself was off before: less is rounding."""
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
        """The facts for machines."""
        return {**asdict(self), "ratio": self.ratio, "verdict": self.verdict}


def compare_accuracy(runs: Runs, ways: Sequence[Way], found: Findings) -> tuple[Accuracy, ...]:
    """Proves both bundles on their own goldens, and compares the distances.

    Args:
        runs: The two bundles and what they run on.
        ways: Artifacts and engines.
        found: Takes the findings.
    """
    shared = shared_goldens(runs.goldens, runs.new_goldens)
    if 2 * len(shared) < max(len(runs.goldens), len(runs.new_goldens)):
        shared = set()  # too few to stand for the rest
    names = _names(runs.before.manifest, runs.after.manifest)
    rows = _rows(
        EAGER_AT_EXPORT,
        _eager(runs.before, runs.goldens),
        _eager(runs.after, runs.new_goldens),
        shared,
        names,
    )
    _tell(EAGER_AT_EXPORT, rows, "", found)
    for way in ways:
        before, after = (runs.prove(way, new=new) for new in (False, True))
        for side, row, artifact in (
            ("A", before, way.pair.before),
            ("B", after, way.pair.after),
        ):
            if row is None and artifact is not None:
                reason = runs.why_not(artifact, way.engine)
                found.missing("errors", f"{side}: {way.name}", reason)
        ran = _status(way, before, after, found)
        if not ran or before is None or after is None:
            continue
        found_rows = _rows(way.name, before.results, after.results, shared, names)
        _tell(way.name, found_rows, ran, found)
        rows += found_rows
    return tuple(rows)


def _names(before: Manifest, after: Manifest) -> dict[str, str]:
    """Outputs of A by their name in B."""
    return {
        name: other
        for method, twin in methods_of(before, after)
        for name, other in pair_values(method.outputs, twin.outputs).names.items()
    }


def shared_goldens(before: Sequence[Golden], after: Sequence[Golden]) -> set[str]:
    """Names of goldens whose inputs are the same in both bundles."""
    import torch

    named = {one.name: one for one in after}
    found = set()
    for one in before:
        other = named.get(one.name)
        if other is None or len(one.steps) != len(other.steps):
            continue
        pairs = list(zip(one.steps, other.steps, strict=True))
        if all(
            step.method == twin.method
            and step.inputs.keys() == twin.inputs.keys()
            and all(torch.equal(step.inputs[key], twin.inputs[key]) for key in step.inputs)
            for step, twin in pairs
        ):
            found.add(one.name)
    return found


def _eager(bundle: Bundle, goldens: Sequence[Golden]) -> list[OutputParity]:
    """The goldens against themselves: their error to float64 is eager's own."""
    tolerances = bundle.manifest.artifacts[0].tolerances
    results = []
    for golden in goldens:
        expected = golden_outputs(golden)
        errors = own_errors(golden, expected)
        for key, value in expected.items():
            name = key.split("/", 2)[2]
            tolerance = tolerances.get(name, Tolerance(0.0, 0.0))
            noise = bundle.manifest.noise_floor.get(name)
            results.append(
                compare(name, value, value, tolerance, noise, errors.get(key), golden=golden.name)
            )
    return results


def _rows(
    name: str,
    before: Iterable[OutputParity],
    after: Iterable[OutputParity],
    shared: Collection[str],
    names: Mapping[str, str],
) -> list[Accuracy]:
    """Of each output of both sides whose distance to float64 is known."""
    left, right = ([one for one in side if one.to_truth] for side in (before, after))
    over = "each bundle's own goldens"
    if shared:
        over = f"the {counted(len(shared), 'golden')} whose inputs are the same in both"
        left, right = ([one for one in side if one.golden in shared] for side in (left, right))
    rows = []
    for output in sorted({one.output for one in left}):
        sides = [
            [one for one in left if one.output == output],
            [one for one in right if one.output == names.get(output, output)],
        ]
        if not sides[1]:
            continue
        errors = [_pooled((one.errors["rms"], one.elements) for one in side) for side in sides]
        own = [_pooled((one.own["rms"], one.elements) for one in side) for side in sides]
        fewer = min(sum(one.elements for one in side) for side in sides)
        rows.append(Accuracy(name, output, errors[0], errors[1], own[0], own[1], fewer, over))
    return rows


def _pooled(values: Iterable[tuple[float, int]]) -> float:
    """Root mean square over all elements."""
    squares, count = 0.0, 0
    for rms, elements in values:
        squares += rms * rms * elements
        count += elements
    return math.sqrt(squares / count) if count else 0.0


def _status(way: Way, before: VerifyRow | None, after: VerifyRow | None, found: Findings) -> str:
    """Tells who passes where; gives the summary when both ran, else nothing."""
    if before is None and after is None:
        return ""
    old = before.status if before is not None else "absent"
    new = after.status if after is not None else "absent"
    reason = after.reason if after is not None else ""
    if new == "error" and old != "passed":
        found.missing("errors", f"B: {way.name}", reason)
    elif new in ("failed", "error"):
        words = {"absent": None, "passed": "passes", "error": "could not run"}
        if old == "failed":
            why = f"as before: {reason}"
            found.change("errors", way.name, "own goldens", ("fails", "fails"), "changed", why)
        else:
            sides = words[old], "fails" if new == "failed" else "cannot run"
            found.change("errors", way.name, "own goldens", sides, "breaking", reason)
    elif new == "passed" and old == "failed":
        found.change("errors", way.name, "own goldens", ("fails", "passes"), "better")
    if old == "error" and before is not None:
        found.missing("errors", f"A: {way.name}", before.reason)
    if old == "absent" and new == "passed" and after is not None:
        text = f"passes its own {counted(_goldens(after), 'golden')}; A has nothing like it"
        if way.pair.before is not None:
            text = f"passes its own {counted(_goldens(after), 'golden')}"
        found.result("errors", way.name, text, equal=False)
        return ""
    ran = before is not None and after is not None and before.results and after.results
    verbs = {"passed": "passes", "failed": "fails"}
    if not ran:
        return ""
    return "both pass" if old == new == "passed" else f"A {verbs[old]}, B {verbs[new]}"


def _goldens(row: VerifyRow) -> int:
    return len({result.golden for result in row.results})


def _tell(name: str, rows: Sequence[Accuracy], ran: str, found: Findings) -> None:
    start = found.count("errors", name)
    for one in rows:
        if one.verdict in ("worse", "better"):
            assert one.ratio is not None
            found.change(
                "errors",
                name,
                f"distance of {one.output} to float64",
                (number(one.before), number(one.after)),
                "worse" if one.verdict == "worse" else "better",
                f"{number(one.ratio)} x; told from {WORSE:g} x on",
            )
    furthest = max((row.ratio for row in rows if row.ratio is not None), default=None)
    text = ran
    if furthest is not None:
        distance = f"distance to float64 at most {number(furthest)} x A's"
        text = f"{ran}; {distance}" if ran else distance
    if not text:
        found.missing("errors", name, "no output's distance to float64 is known in both")
        return
    found.result("errors", name, text, equal=found.count("errors", name) == start)
