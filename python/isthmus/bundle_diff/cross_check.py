"""The crossing: does B still give A's answers? B's engines on A's goldens, judged by A's noise.

The truth is A's in float64 and the unit is A's own eager error, so that a pass says: B is the same
model as far as rounding lets anybody tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from isthmus.bundle.manifest import Artifact, DimRange, Manifest, Method, Tolerance
from isthmus.bundle_diff.findings import Findings, counted, shortened
from isthmus.bundle_diff.pairs import methods_of, pair_values
from isthmus.bundle_diff.runs import Runs, Way
from isthmus.document import number
from isthmus.goldens.compare import OutputParity, compare, difference, worst
from isthmus.proof.jobs import Run, golden_outputs, own_errors
from isthmus.proof.verify_report import needed_of

if TYPE_CHECKING:
    from torch import Tensor

    from isthmus.bundle.golden import Golden

__all__ = ["CrossCheck", "cross", "refusal"]

Names = dict[str, dict[str, str]]


@dataclass(frozen=True)
class CrossCheck:
    """One engine of B on A's goldens; truthy when it gives A's answers within A's noise."""

    name: str
    """What a report calls it: the engine, and the artifact where the engine runs several."""
    artifact: str
    engine: str
    device: str
    status: Literal["passed", "failed", "error"]
    """error: it could not run, or not on every golden."""
    reason: str = ""
    goldens: int = 0
    """Of A's, how many it ran."""
    judged_by: str = ""
    """Whose tolerances: an artifact of A, or of B where A has none in that precision."""
    results: tuple[OutputParity, ...] = ()
    """Every output of every golden."""
    vs_before: float | None = None
    """Largest difference to A's own artifact on the same engine, machine and inputs; 0 is bit for
    bit the same. None: that could not be run."""
    drift: float = 0.0
    """How far a second run of B was from its first."""
    runtime: str = ""

    def __bool__(self) -> bool:
        """The verdict."""
        return self.status == "passed"

    @property
    def worst(self) -> OutputParity | None:
        """The output and golden nearest to failing."""
        return worst(self.results)

    @property
    def failures(self) -> tuple[OutputParity, ...]:
        """The worst golden of each output that fails."""
        names = dict.fromkeys(result.output for result in self.results if not result)
        found = [
            worst(result for result in self.results if result.output == name) for name in names
        ]
        return tuple(one for one in found if one is not None)

    def to_json(self) -> dict[str, Any]:
        """The facts for machines."""
        return {**asdict(self), "passed": bool(self)}


def cross(runs: Runs, ways: Sequence[Way], found: Findings) -> tuple[CrossCheck, ...]:
    """Runs B on A's goldens wherever the signatures let that be.

    Args:
        runs: The two bundles and what they run on.
        ways: Artifacts and engines; those whose B may not run here are told as not compared.
        found: Takes the findings.
    """
    inputs, outputs = _names(runs.before.manifest, runs.after.manifest)
    goldens = _usable(runs, inputs, found)
    if not goldens:
        reason = found.not_compared[-1].reason
        _not_proven(found, reason)
        return ()
    _tell_lost_outputs(runs.before.manifest, outputs, found)
    crossings = []
    for way in ways:
        if way.pair.after is None:
            continue
        if way.after is None:
            reason = runs.why_not(way.pair.after, way.engine)
            found.missing("crossing", way.name, reason)
            continue
        names = [golden.name for golden in goldens]
        run = runs.cross(way, names, (inputs, outputs), new=True)
        assert run is not None
        own = runs.cross(way, names, (inputs, outputs), new=False) if not run.error else None
        crossings.append(_judge(runs, way, goldens, outputs, run, own))
    for one in crossings:
        _tell(one, found)
    if not any(crossing.results for crossing in crossings):
        reasons = [crossing.reason for crossing in crossings if crossing.reason]
        _not_proven(found, reasons[0] if reasons else "no engine here runs an artifact of B")
    return tuple(crossings)


def _not_proven(found: Findings, reason: str) -> None:
    """A gate that lets through what it never compared would be worse than none."""
    found.change(
        "crossing",
        "",
        "B on A's goldens",
        (None, "not proven"),
        "breaking",
        f"nothing ran: {reason}",
    )


# --- which goldens --------------------------------------------------------------------------------


def _names(before: Manifest, after: Manifest) -> tuple[Names, Names]:
    """By method, A's names of inputs and outputs in B."""
    inputs: Names = {}
    outputs: Names = {}
    for method, other in methods_of(before, after):
        inputs[method.name] = pair_values(method.inputs, other.inputs).names
        outputs[method.name] = pair_values(method.outputs, other.outputs).names
    return inputs, outputs


def _usable(runs: Runs, inputs: Names, found: Findings) -> list[Golden]:
    """A's goldens whose every call B takes; why the others are left out is told."""
    methods = {method.name: method for method in runs.after.manifest.methods}
    usable: list[Golden] = []
    refused: dict[str, list[str]] = {}
    for golden in runs.goldens:
        reason = ""
        for step in golden.steps:
            method = methods.get(step.method)
            if method is None:
                reason = reason or f"B has no method {step.method}"
                continue
            names = inputs[step.method]
            given = {names.get(key, key): value for key, value in step.inputs.items()}
            reason = reason or refusal(method, runs.after.manifest.dims, given)
        if reason:
            refused.setdefault(reason, []).append(golden.name)
        else:
            usable.append(golden)
    if not runs.goldens:
        found.missing("crossing", "", "A has no goldens; export it again")
    for reason, names_of in refused.items():
        subject = f"{len(names_of)} of {counted(len(runs.goldens), 'golden')}"
        found.missing("crossing", subject, f"{reason} ({shortened(names_of)})")
    return usable


def refusal(method: Method, dims: Mapping[str, DimRange], values: Mapping[str, Tensor]) -> str:
    """Why a method does not take these inputs; empty when it does."""
    known = {input_spec.name: input_spec for input_spec in method.inputs}
    for name in values:
        if name not in known:
            return f"B has no input {name}"
    sizes: dict[str, int] = {}
    for name, spec in known.items():
        value = values.get(name)
        if value is None:
            if not spec.optional:
                return f"A's goldens do not give B's input {name}"
            continue
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype != spec.dtype:
            return f"A gives {name} as {dtype}, B takes {spec.dtype}"
        if spec.shape is None:
            continue
        if len(spec.shape) != value.ndim:
            return f"A gives {name} with rank {value.ndim}, B takes {len(spec.shape)}"
        for axis, (size, actual) in enumerate(zip(spec.shape, value.shape, strict=True)):
            if isinstance(size, int) and size != actual:
                return f"A gives {name}[{axis}] = {actual}, B takes {size}"
            if isinstance(size, str):
                limits = dims[size]
                if not limits.min <= actual <= limits.max:
                    return f"{size} is {limits.min} to {limits.max} in B"
                if sizes.setdefault(size, actual) != actual:
                    return f"{size} has to be the same everywhere in B"
    return ""


def _tell_lost_outputs(before: Manifest, outputs: Names, found: Findings) -> None:
    for method in before.methods:
        kept = outputs.get(method.name, {})
        for spec in method.outputs:
            if method.name in outputs and spec.name not in kept:
                found.missing("crossing", f"output {spec.name}", "B does not have it")


# --- judging --------------------------------------------------------------------------------------


def _judge(
    runs: Runs, way: Way, goldens: Sequence[Golden], outputs: Names, run: Run, own: Run | None
) -> CrossCheck:
    assert way.after is not None
    tolerances, judged_by = tolerances_for(runs.before.manifest, way.pair.before, way.after)
    crossing = CrossCheck(
        name=way.name,
        artifact=way.pair.name,
        engine=way.engine,
        device=runs.options.device,
        status="error",
        judged_by=judged_by,
        runtime=run.runtime,
    )
    if run.error:
        return replace(crossing, reason=run.error)
    results: list[OutputParity] = []
    furthest: float | None = None
    for index, golden in enumerate(goldens):
        actual = run.outputs[index]
        if actual is None:
            continue
        expected = golden_outputs(golden)
        errors = own_errors(golden, expected)
        for key in {**expected, **actual}:
            step, _, name = key.split("/", 2)
            if name not in outputs[golden.steps[int(step)].method]:
                continue
            results.append(
                compare(
                    name,
                    expected.get(key),
                    actual.get(key),
                    tolerances.get(name, Tolerance(0.0, 0.0)),
                    runs.before.manifest.noise_floor.get(name),
                    errors.get(key),
                    golden=golden.name,
                )
            )
        before = own.outputs[index] if own is not None and not own.error else None
        if before is not None:
            for key in before.keys() | actual.keys():
                furthest = max(furthest or 0.0, difference(before.get(key), actual.get(key)))
    failed = [result for result in results if not result]
    reasons = [f"golden {name}: {text}" for name, text in run.errors.items()]
    reasons += [f"{one.output} of golden {one.golden}: {one.reason}" for one in failed]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return replace(
        crossing,
        status="error" if run.errors else "failed" if failed else "passed",
        reason=reasons[0] + more if reasons else "",
        goldens=len({result.golden for result in results}),
        results=tuple(results),
        vs_before=furthest,
        drift=run.drift,
    )


def tolerances_for(
    manifest: Manifest, before: Artifact | None, after: Artifact
) -> tuple[Mapping[str, Tolerance], str]:
    """What B may differ by, and whose word that is.

    A's artifact of the same precision says it. Where A has none, B's own may: then its errors count
    as what that precision is allowed, still in units of A's noise and from A's truth.
    """
    alike = [one for one in (before, *manifest.artifacts) if one is not None]
    for one in alike:
        if one.precision == after.precision:
            return one.tolerances, f"A's {one.name}"
    own = {name: tolerance.own for name, tolerance in alike[0].tolerances.items()}
    allowed = {
        name: replace(tolerance, own=own.get(name, {}))
        for name, tolerance in after.tolerances.items()
    }
    return allowed, f"what {after.precision} is allowed in B"


def _tell(crossing: CrossCheck, found: Findings) -> None:
    if crossing.status == "error" and not crossing.results:
        found.missing("crossing", crossing.name, crossing.reason)
        return
    for failure in crossing.failures:
        found.change(
            "crossing",
            crossing.name,
            f"{failure.output} of golden {failure.golden}",
            (_allowed(failure), _distance(failure)),
            "breaking",
            "" if crossing.judged_by.startswith("A's") else f"judged by {crossing.judged_by}",
        )
    if crossing.status == "error":
        found.change(
            "crossing",
            crossing.name,
            "goldens that B fails to run",
            ("run", crossing.reason),
            "breaking",
        )
    found.result("crossing", crossing.name, summary(crossing), equal=bool(crossing))


def summary(crossing: CrossCheck) -> str:
    """One line about a crossing that ran."""
    goldens = counted(crossing.goldens, "golden")
    nearest = crossing.worst
    if not crossing:
        outputs = dict.fromkeys(result.output for result in crossing.results)
        failing = f"{len(crossing.failures)} of {counted(len(outputs), 'output')}"
        return f"not A's answers: {failing} off, on {goldens}"
    text = f"A's answers within A's noise: {goldens}"
    if crossing.vs_before == 0:
        return f"{text}; bit for bit what A's artifact gives here"
    if nearest is not None:
        text += f", at most {share(nearest.strain)} of what is allowed"
    return text


def share(strain: float) -> str:
    """ "14 %" of what is allowed, "320 x" of it."""
    return f"{strain:.0%}" if strain < 10 else f"{number(strain)} x"


def _allowed(result: OutputParity) -> str:
    if result.to_truth:
        own = result.own.get(result.statistic, 0.0)
        allowed = result.allowed.get(result.statistic, math.inf)
        multiple = allowed / own if own else math.inf
        return f"up to {number(multiple)} x {result.statistic}"
    return f"atol {number(result.atol)}"


def _distance(result: OutputParity) -> str:
    if not math.isfinite(result.strain):
        return result.reason
    return f"{needed_of(result)}; off by {number(result.max_abs)}"
