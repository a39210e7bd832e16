"""Compares two bundles, before and after an upgrade, and tells whether B is still A's model.

Signature, requirements, operators, graph and weights are compared without executing anything. Then
both bundles are run: each on its own goldens, and B on A's (the cross-check).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.bundle_diff.accuracy import Accuracy, compare_accuracy
from isthmus.bundle_diff.contents import compare_contents
from isthmus.bundle_diff.cross_check import CrossCheck, cross_check
from isthmus.bundle_diff.findings import SEVERITIES, Findings, Severity
from isthmus.bundle_diff.pairs import pair_artifacts
from isthmus.bundle_diff.report import DiffReport, Side
from isthmus.bundle_diff.requirements import compare_requirements
from isthmus.bundle_diff.runs import RunContext
from isthmus.bundle_diff.signature import compare_signatures
from isthmus.bundle_diff.speed import Speed, compare_speed
from isthmus.errors import BundleError, DeviceUnavailable, InvalidInput
from isthmus.runtime.engines import engines_of
from isthmus.runtime.machine import devices_present, machine_facts
from isthmus.runtime.run_options import RunOptions, check_rounds

__all__ = ["diff", "diff_bundles"]

FailOn = Literal["breaking", "worse", "changed"]


def diff(
    a: str | Path | Bundle,
    b: str | Path | Bundle,
    *,
    engines: Sequence[str] | None = None,
    artifact: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    run: bool = True,
    bench: bool = False,
    rounds: int = 30,
    fail_on: FailOn = "worse",
    full: bool = False,
    timeout: float = 600.0,
    progress: Callable[[str], None] | None = None,
) -> DiffReport:
    """Compares two bundles: A, which is trusted, and B, which is to replace it.

    Args:
        a: The bundle before.
        b: The bundle after.
        engines: The engines of the C++ library to run; None: all that the artifacts have.
        artifact: The only artifact to compare, of either bundle; None: all.
        device: The device of everything that is run: "cpu", "cuda" or "cuda:N".
        threads: The intra-operator threads of every engine; None: the processors usable.
        trust: What the bundles may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        run: Whether to run the goldens of both bundles, and B on A's.
        bench: Whether to time both bundles.
        rounds: The number of turns of each bundle when they are timed; at least 2.
        fail_on: The least grave severity of a change that makes the report falsy.
        full: Whether to print everything, however long.
        timeout: The seconds that each process may take.
        progress: Called with a line at each stage.

    Returns:
        The report: truthy when no change is as grave as `fail_on`.

    Raises:
        BundleError: A bundle cannot be read, or its files are damaged.
        InvalidInput: A and B are the same bundle, or an engine, artifact, device or severity is
            unknown.
        DeviceUnavailable: Something is to run on a device that is absent.
    """
    options = RunOptions(
        engines=engines,
        devices=(device,),
        artifact=artifact,
        threads=threads,
        trust=trust,
        op_libraries=op_libraries,
        timeout=timeout,
        progress=progress,
    )
    return diff_bundles(
        a, b, options, run=run, bench=bench, rounds=rounds, fail_on=fail_on, full=full
    )


def diff_bundles(
    a: str | Path | Bundle,
    b: str | Path | Bundle,
    options: RunOptions,
    *,
    run: bool = True,
    bench: bool = False,
    rounds: int = 30,
    fail_on: FailOn = "worse",
    full: bool = False,
) -> DiffReport:
    """Compares two bundles under options that several steps share; see `diff`."""
    before, after = _open(a), _open(b)
    check_rounds(rounds)
    _check_severity(fail_on)
    _check_bundles(before, after, options)
    if run or bench:
        _check_device(options.device)
    pairs = pair_artifacts(before.manifest, after.manifest, options.artifact)
    for bundle in (before, after):
        options.say(f"checking the files of {bundle.path}")
        faults = bundle.verify_files()
        if faults:
            raise BundleError(faults[0])
    findings = Findings()
    compare_signatures(before.manifest, after.manifest, findings)
    compare_requirements(before.manifest, after.manifest, pairs, findings)
    contents = []
    for pair in pairs:
        options.say(f"reading {pair.name}")
        contents.append(compare_contents(before, after, pair, findings))
    accuracy: tuple[Accuracy, ...] = ()
    cross_checks: tuple[CrossCheck, ...] = ()
    speeds: tuple[Speed, ...] = ()
    with tempfile.TemporaryDirectory(prefix="isthmus-diff-") as folder:
        context = RunContext(before, after, options, Path(folder))
        engines = context.pair_engines(pairs) if run or bench else []
        if run:
            accuracy = compare_accuracy(context, engines, findings)
            cross_checks = cross_check(context, engines, findings)
        if bench:
            speeds = compare_speed(context, engines, rounds, findings)
    if not run:
        findings.missing("errors", "", "nothing was to be run (--no-run)")
        findings.missing("cross-check", "", "nothing was to be run (--no-run)")
    if not bench:
        findings.missing("speed", "", "not asked for (--bench)")
    return DiffReport(
        a=_side(before),
        b=_side(after),
        changes=tuple(findings.changes),
        compared=tuple(findings.compared),
        not_compared=tuple(findings.not_compared),
        accuracy=accuracy,
        cross_checks=cross_checks,
        speeds=speeds,
        graphs=tuple(read.graph for read in contents if read is not None),
        weights=tuple(read.weights for read in contents if read is not None),
        fail_on=fail_on,
        ran=run,
        full=full,
        context={
            "A": _description(before),
            "B": _description(after),
            **machine_facts(),
            "device": options.device,
            "threads": str(options.thread_count),
            "fails on": " or ".join(SEVERITIES[: SEVERITIES.index(fail_on) + 1]),
        },
    )


def _open(path: str | Path | Bundle) -> Bundle:
    return open_bundle(path)


def _check_severity(fail_on: Severity) -> None:
    allowed = ("breaking", "worse", "changed")
    if fail_on not in allowed:
        raise InvalidInput(f"fail_on is {fail_on!r}, expected one of {', '.join(allowed)}")


def _check_bundles(before: Bundle, after: Bundle, options: RunOptions) -> None:
    if before.path.resolve() == after.path.resolve():
        raise InvalidInput(
            f"A and B are both {before.path}, expected two bundles; export the second to another"
            " folder"
        )
    formats = {artifact.format for side in (before, after) for artifact in side.manifest.artifacts}
    known = sorted({engine for format in formats for engine in engines_of(format)})
    for name in options.engines or ():
        if name not in known:
            raise InvalidInput(
                f"engine {name!r} has nothing to run in these bundles, expected one of"
                f" {', '.join(known) or 'none, for no engine is installed'}"
            )


def _check_device(device: str) -> None:
    absent = devices_present()[device.partition(":")[0]]
    if absent:
        raise DeviceUnavailable(f"{device}: {absent}; pass run=False (--no-run), or another device")


def _side(bundle: Bundle) -> Side:
    manifest = bundle.manifest
    return Side(str(bundle.path), manifest.name, manifest.created, dict(manifest.producer))


def _description(bundle: Bundle) -> str:
    manifest = bundle.manifest
    producer = ", ".join(f"{name} {value}" for name, value in manifest.producer.items())
    return f"{bundle.path}: {manifest.name}, {manifest.created}, {producer}"
