"""Cross-checks B: runs its engines on A's goldens, and judges the answers by A's noise.

The truth is A's in float64 and the unit is A's own eager error: B passes when it differs from A by
rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from isthmus.bundle.manifest import Artifact, DimRange, Manifest, Method, Tolerance
from isthmus.bundle.size_expression import bind_sizes, is_plain, names_of, parse_size
from isthmus.bundle_diff.findings import Findings, counted, shortened
from isthmus.bundle_diff.runs import PairedEngine, RunContext
from isthmus.document import number
from isthmus.goldens.compare import OutputParity, difference, worst
from isthmus.proof.jobs import Run, compare_golden, golden_outputs, own_errors
from isthmus.proof.verify_report import needed_of

if TYPE_CHECKING:
    from torch import Tensor

    from isthmus.bundle.golden import Golden, Step

__all__ = ["CrossCheck", "cross_check", "refusal"]


@dataclass(frozen=True)
class CrossCheck:
    """An engine of B on A's goldens; truthy when it gives A's answers within A's noise."""

    name: str
    """The name in a report: the engine, and the artifact where the engine runs several."""
    artifact: str
    engine: str
    device: str
    status: Literal["passed", "failed", "error"]
    """The verdict; "error" when it could not run on every golden."""
    reason: str = ""
    goldens: int = 0
    """The number of A's goldens that it ran."""
    judged_by: str = ""
    """The source of the tolerances: an artifact of A, or B where A has none in that precision."""
    results: tuple[OutputParity, ...] = ()
    """The comparison of every output of every golden."""
    vs_before: float | None = None
    """The largest difference to A's artifact on the same engine, machine, inputs: 0 when they are
    equal bit for bit, None when A could not be run."""
    drift: float = 0.0
    """The largest difference between a first and a second run of B."""
    runtime: str = ""

    def __bool__(self) -> bool:
        """True when it passed."""
        return self.status == "passed"

    @property
    def worst(self) -> OutputParity | None:
        """The result nearest to failing."""
        return worst(self.results)

    @property
    def failures(self) -> tuple[OutputParity, ...]:
        """The worst result of each output that fails."""
        names = dict.fromkeys(result.output for result in self.results if not result)
        of_outputs = [
            worst(result for result in self.results if result.output == name) for name in names
        ]
        return tuple(result for result in of_outputs if result is not None)

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {**asdict(self), "passed": bool(self)}


def cross_check(
    context: RunContext, engines: Sequence[PairedEngine], findings: Findings
) -> tuple[CrossCheck, ...]:
    """Runs B on A's goldens as far as the signatures allow it.

    Args:
        context: The two bundles and the options.
        engines: The engines with their artifacts; those that may not run B here are not compared.
        findings: Collects the findings.
    """
    goldens = _usable(context, findings)
    if not goldens:
        reason = findings.not_compared[-1].reason
        _report_not_proven(findings, reason)
        return ()
    _report_lost_outputs(context, findings)
    checks = []
    golden_names = [golden.name for golden in goldens]
    for engine in engines:
        if engine.pair.after is None:
            continue
        if engine.after is None:
            reason = context.why_not(engine.pair.after, engine.engine)
            findings.missing("cross-check", engine.name, reason)
            continue
        run = context.run_goldens(engine, golden_names, new=True)
        assert run is not None
        own = None if run.error else context.run_goldens(engine, golden_names, new=False)
        checks.append(_judge(context, engine, goldens, run, own))
    for check in checks:
        _report(check, findings)
    if not any(check.results for check in checks):
        reasons = [check.reason for check in checks if check.reason]
        _report_not_proven(
            findings, reasons[0] if reasons else "no engine here runs an artifact of B"
        )
    return tuple(checks)


def _report_not_proven(findings: Findings, reason: str) -> None:
    """Adds a breaking change, so that a diff cannot pass when nothing was compared."""
    sides, why = (None, "not proven"), f"nothing ran: {reason}"
    findings.change("cross-check", "", "B on A's goldens", sides, "breaking", why)


# --- goldens -------------------------------------------------------------------------------------


def _usable(context: RunContext, findings: Findings) -> list[Golden]:
    """Returns A's goldens whose calls B accepts, and reports the reason for the others."""
    usable: list[Golden] = []
    refused: dict[str, list[str]] = {}
    for golden in context.goldens:
        reasons = (refusal_of(context, step) for step in golden.steps)
        reason = next(filter(None, reasons), "")
        if reason:
            refused.setdefault(reason, []).append(golden.name)
        else:
            usable.append(golden)
    if not context.goldens:
        findings.missing("cross-check", "", "A has no goldens; export it again")
    for reason, names in refused.items():
        subject = f"{len(names)} of {counted(len(context.goldens), 'golden')}"
        findings.missing("cross-check", subject, f"{reason} ({shortened(names)})")
    return usable


def refusal_of(context: RunContext, step: Step) -> str:
    """Returns the reason why B refuses one of A's steps; empty when it accepts it."""
    manifest = context.after.manifest
    for method in manifest.methods:
        if method.name == step.method:
            return refusal(method, manifest.dims, context.renamed(step))
    return f"B has no method {step.method}"


def refusal(method: Method, dims: Mapping[str, DimRange], values: Mapping[str, Tensor]) -> str:
    """Returns the reason why a method refuses these inputs; empty when it accepts them."""
    known = {input_spec.name: input_spec for input_spec in method.inputs}
    for name in values:
        if name not in known:
            return f"B has no input {name}"
    axes: list[tuple[str, str, int]] = []
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
                axes.append((f"{name}[{axis}]", size, actual))
    sizes = bind_sizes((size, actual) for _, size, actual in axes)
    for place, size, actual in axes:
        for part in names_of(size):
            if part in sizes and not dims[part].allows(sizes[part]):
                return f"{part} is {dims[part]} in B"
        if is_plain(size) and sizes[size] != actual:
            return f"{size} has to be the same everywhere in B"
        if set(names_of(size)) <= set(sizes) and parse_size(size).evaluate(sizes) != actual:
            return f"A gives {place} = {actual}, B takes {size} = {parse_size(size).explain(sizes)}"
    return ""


def _report_lost_outputs(context: RunContext, findings: Findings) -> None:
    _, outputs = context.names
    for method in context.before.manifest.methods:
        for spec in method.outputs:
            if method.name in outputs and spec.name not in outputs[method.name]:
                findings.missing("cross-check", f"output {spec.name}", "B does not have it")


# --- judging --------------------------------------------------------------------------------------


def _judge(
    context: RunContext,
    engine: PairedEngine,
    goldens: Sequence[Golden],
    run: Run,
    own: Run | None,
) -> CrossCheck:
    assert engine.after is not None
    tolerances, judged_by = tolerances_for(
        context.before.manifest, engine.pair.before, engine.after
    )
    check = CrossCheck(
        name=engine.name,
        artifact=engine.pair.name,
        engine=engine.engine,
        device=context.options.device,
        status="error",
        judged_by=judged_by,
        runtime=run.runtime,
    )
    if run.error:
        return replace(check, reason=run.error)
    results: list[OutputParity] = []
    furthest: float | None = None
    for index, golden in enumerate(goldens):
        actual = run.outputs[index]
        if actual is None:
            continue
        expected = golden_outputs(golden)
        keys = [key for key in {**expected, **actual} if _is_shared(context, golden, key)]
        if keys:
            results += compare_golden(
                golden,
                expected,
                actual,
                tolerances,
                context.before.manifest.noise_floor,
                own_errors(golden, expected),
                keys,
            )
        before = own.outputs[index] if own is not None and not own.error else None
        if before is not None:
            for key in before.keys() | actual.keys():
                furthest = max(furthest or 0.0, difference(before.get(key), actual.get(key)))
    failed = [result for result in results if not result]
    reasons = [f"golden {name}: {text}" for name, text in run.errors.items()]
    reasons += [f"{result.output} of golden {result.golden}: {result.reason}" for result in failed]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return replace(
        check,
        status="error" if run.errors else "failed" if failed else "passed",
        reason=reasons[0] + more if reasons else "",
        goldens=len({result.golden for result in results}),
        results=tuple(results),
        vs_before=furthest,
        drift=run.drift,
    )


def _is_shared(context: RunContext, golden: Golden, key: str) -> bool:
    """Returns True when B has the output of a golden, by STEP/out/NAME."""
    step, _, name = key.split("/", 2)
    return name in context.names[1][golden.steps[int(step)].method]


def tolerances_for(
    manifest: Manifest, before: Artifact | None, after: Artifact
) -> tuple[Mapping[str, Tolerance], str]:
    """Returns the tolerances for B and their source in words.

    They come from A's artifact of the same precision. Where A has none, B's allowances for its
    precision apply, in units of A's noise and from A's truth.
    """
    alike = [artifact for artifact in (before, *manifest.artifacts) if artifact is not None]
    for artifact in alike:
        if artifact.precision == after.precision:
            return artifact.tolerances, f"A's {artifact.name}"
    own = {name: tolerance.own for name, tolerance in alike[0].tolerances.items()}
    allowed = {
        name: replace(tolerance, own=own.get(name, {}))
        for name, tolerance in after.tolerances.items()
    }
    return allowed, f"what {after.precision} is allowed in B"


def _report(check: CrossCheck, findings: Findings) -> None:
    section = findings.section("cross-check", check.name)
    if check.status == "error" and not check.results:
        section.missing(check.reason)
        return
    for failure in check.failures:
        section.change(
            f"{failure.output} of golden {failure.golden}",
            (_allowed(failure), _distance(failure)),
            "breaking",
            "" if check.judged_by.startswith("A's") else f"judged by {check.judged_by}",
        )
    if check.status == "error":
        section.change("goldens that B fails to run", ("run", check.reason), "breaking")
    section.result(summary(check), equal=bool(check))


def summary(check: CrossCheck) -> str:
    """Returns a line about a cross-check that ran."""
    goldens = counted(check.goldens, "golden")
    nearest = check.worst
    if not check:
        outputs = dict.fromkeys(result.output for result in check.results)
        failing = f"{len(check.failures)} of {counted(len(outputs), 'output')}"
        return f"not A's answers: {failing} off, on {goldens}"
    text = f"A's answers within A's noise: {goldens}"
    if check.vs_before == 0:
        return f"{text}; bit for bit what A's artifact gives here"
    if nearest is not None:
        text += f", at most {share(nearest.strain)} of what is allowed"
    return text


def share(strain: float) -> str:
    """Returns the share of what is allowed: "14%" or "320 x"."""
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
