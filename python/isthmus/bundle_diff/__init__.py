"""Two bundles, before and after an upgrade: what changed, and whether it is still the same model.

Whatever can be read is compared without executing anything: signature, requirements, operators,
graph, weights. Then both are run: each on its own goldens, and B on A's (the crossing).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from isthmus.bundle_diff.accuracy import Accuracy, compare_accuracy
from isthmus.bundle_diff.cross_check import CrossCheck, cross
from isthmus.bundle_diff.findings import SEVERITIES, Area, Change, Findings, NotCompared, Severity
from isthmus.bundle_diff.graph import GraphDiff, Part, compare_graphs, tell_graph
from isthmus.bundle_diff.operators import compare_operators
from isthmus.bundle_diff.pairs import ArtifactPair, pair_artifacts
from isthmus.bundle_diff.report import DiffReport, Side
from isthmus.bundle_diff.requirements import compare_requirements
from isthmus.bundle_diff.runs import Runs
from isthmus.bundle_diff.signature import compare_signatures
from isthmus.bundle_diff.speed import Speed, compare_speed
from isthmus.bundle_diff.weights import WeightsDiff, compare_weights, stored_weights, tell_weights
from isthmus.errors import BundleError, DeviceUnavailable, Error, InvalidInput
from isthmus.runtime.engines import engines_of
from isthmus.runtime.machine import devices_present, machine_facts
from isthmus.runtime.workers import available_cores

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.manifest import Artifact
    from isthmus.proof.inspect import Inspection

__all__ = [
    "Accuracy",
    "Change",
    "CrossCheck",
    "DiffReport",
    "GraphDiff",
    "NotCompared",
    "Speed",
    "WeightsDiff",
    "diff",
]


_READ: tuple[Area, ...] = ("operators", "graph", "weights")
_RUN: tuple[Area, ...] = ("errors", "crossing")


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
    fail_on: Literal["breaking", "worse", "changed"] = "worse",
    full: bool = False,
    timeout: float = 600.0,
    progress: Callable[[str], None] | None = None,
) -> DiffReport:
    """Compares two bundles: A, which is trusted, and B, which is to take its place.

    Args:
        a: The bundle before.
        b: The bundle after.
        engines: Engines of the C++ library to run; None: all that the artifacts have.
        artifact: Only this artifact, of either bundle; None: all.
        device: "cpu", "cuda" or "cuda:N", for what is run.
        threads: Intra-operator threads of every runtime; None: the processors usable.
        trust: What the bundles may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        run: Whether to run anything: the goldens of both, and B on A's.
        bench: Whether to time both.
        rounds: Turns of each bundle when they are timed; at least 2.
        fail_on: The least grave severity of a change that makes the report falsy.
        full: Print everything, however long.
        timeout: Seconds that each process may take.
        progress: Called with a line at each stage.

    Returns:
        The report: truthy when no change is as grave as `fail_on`.

    Raises:
        BundleError: One of them is no good bundle.
        InvalidInput: They are one bundle; or an unknown engine, artifact, device or severity.
        DeviceUnavailable: Something is to run on a device that is not here.
    """
    before, after = _open(a), _open(b)
    say = progress or (lambda _: None)
    _check_options(before, after, engines, device, fail_on, rounds, runs=run or bench)
    pairs = pair_artifacts(before.manifest, after.manifest, artifact)
    for bundle in (before, after):
        say(f"checking the files of {bundle.path}")
        faults = bundle.verify_files()
        if faults:
            raise BundleError(faults[0])
    found = Findings()
    compare_signatures(before.manifest, after.manifest, found)
    compare_requirements(before.manifest, after.manifest, pairs, found)
    graphs: list[GraphDiff] = []
    weights: list[WeightsDiff] = []
    for pair in pairs:
        _read(before, after, pair, graphs, weights, found, say)
    accuracy: tuple[Accuracy, ...] = ()
    crossings: tuple[CrossCheck, ...] = ()
    speeds: tuple[Speed, ...] = ()
    with tempfile.TemporaryDirectory(prefix="isthmus-diff-") as folder:
        runs = Runs(
            before=before,
            after=after,
            device=device,
            engines=engines,
            threads=threads or available_cores(),
            trust=trust,
            op_libraries=tuple(str(library) for library in op_libraries),
            timeout=timeout,
            folder=Path(folder),
            say=say,
        )
        ways = runs.ways(pairs) if run or bench else []
        if run:
            accuracy = compare_accuracy(runs, ways, found)
            crossings = cross(runs, ways, found)
        if bench:
            speeds = compare_speed(runs, ways, rounds, found)
    if not run:
        for area in _RUN:
            found.missing(area, "", "nothing was to be run (--no-run)")
    if not bench:
        found.missing("speed", "", "not asked for (--bench)")
    return DiffReport(
        a=_side(before),
        b=_side(after),
        changes=tuple(found.changes),
        compared=tuple(found.compared),
        not_compared=tuple(found.not_compared),
        accuracy=accuracy,
        crossings=crossings,
        speeds=speeds,
        graphs=tuple(graphs),
        weights=tuple(weights),
        fail_on=fail_on,
        ran=run,
        full=full,
        context={
            "A": _described(before),
            "B": _described(after),
            **machine_facts(),
            "device": device,
            "threads": str(runs.threads),
            "fails on": " or ".join(SEVERITIES[: SEVERITIES.index(fail_on) + 1]),
        },
    )


def _open(path: str | Path | Bundle) -> Bundle:
    from isthmus.bundle.bundle import Bundle, open_bundle

    return path if isinstance(path, Bundle) else open_bundle(Path(path))


def _check_options(
    before: Bundle,
    after: Bundle,
    engines: Sequence[str] | None,
    device: str,
    fail_on: Severity,
    rounds: int,
    *,
    runs: bool,
) -> None:
    if before.path.resolve() == after.path.resolve():
        raise InvalidInput(
            f"A and B are both {before.path}, expected two bundles; export the second to another"
            " folder"
        )
    formats = {artifact.format for side in (before, after) for artifact in side.manifest.artifacts}
    known = sorted({name for format in formats for name in engines_of(format)})
    for name in engines or ():
        if name not in known:
            raise InvalidInput(
                f"engine {name!r} has nothing to run in these bundles, expected one of"
                f" {', '.join(known) or 'none, for no engine is installed'}"
            )
    allowed = ("breaking", "worse", "changed")
    if fail_on not in allowed:
        raise InvalidInput(f"fail_on is {fail_on!r}, expected one of {', '.join(allowed)}")
    if rounds < 2:
        raise InvalidInput(f"rounds is {rounds}, expected at least 2 for an interval")
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InvalidInput(f"device {device!r} is unknown, expected 'cpu', 'cuda' or 'cuda:N'")
    absent = devices_present()[kind] if runs else ""
    if absent:
        raise DeviceUnavailable(f"{device}: {absent}; pass run=False (--no-run), or another device")


def _side(bundle: Bundle) -> Side:
    manifest = bundle.manifest
    return Side(str(bundle.path), manifest.name, manifest.created, dict(manifest.producer))


def _described(bundle: Bundle) -> str:
    manifest = bundle.manifest
    made = ", ".join(f"{name} {value}" for name, value in manifest.producer.items())
    return f"{bundle.path}: {manifest.name}, {manifest.created}, {made}"


# --- what is read, not run ------------------------------------------------------------------------


def _read(
    before: Bundle,
    after: Bundle,
    pair: ArtifactPair,
    graphs: list[GraphDiff],
    weights: list[WeightsDiff],
    found: Findings,
    say: Callable[[str], None],
) -> None:
    """Operators, graph and weights of one artifact."""
    from isthmus.proof.inspect import inspect

    old, new = pair.before, pair.after
    if old is None or new is None:
        for area in _READ:
            side = "A" if new is None else "B"
            found.missing(area, pair.name, f"only {side} has it")
        return
    if pair.same_files:
        for area in _READ:
            found.result(area, pair.name, "equal: the same files", equal=True)
        return
    say(f"reading {pair.name}")
    try:
        looks = (
            inspect(before.path, artifact=old.name),
            inspect(after.path, artifact=new.name),
        )
    except Error as error:  # what cannot be read cannot be compared, and says so
        for area in _READ:
            found.missing(area, pair.name, str(error))
        return
    compare_operators(pair.name, *looks, (old.operators, new.operators), found)
    if new.format == "onnx" and len(after.manifest.methods) > 1:
        first = after.manifest.methods[0].name
        found.missing("operators", pair.name, f"only the file of {first} is counted")
    if old.format != new.format or old.format not in ("torchscript", "onnx"):
        reason = "native code shows none before it is run"
        if old.format != new.format:
            reason = f"{old.format} and {new.format} are not comparable"
        for area in _READ[1:]:
            found.missing(area, pair.name, reason)
        return
    try:
        sides = (_parts(before, old, looks[0]), _parts(after, new, looks[1]))
        graph = compare_graphs(pair.name, *sides)
        tensors = [stored_weights(side, one) for side, one in ((before, old), (after, new))]
        weight = compare_weights(pair.name, *tensors)
    except ImportError:
        for area in _READ[1:]:
            reason = "the package onnx is not installed: pip install onnx"
            found.missing(area, pair.name, reason)
        return
    except Error as error:
        for area in _READ[1:]:
            found.missing(area, pair.name, str(error))
        return
    graphs.append(graph)
    tell_graph(graph, found)
    weights.append(weight)
    tell_weights(weight, found)


def _parts(bundle: Bundle, artifact: Artifact, look: Inspection) -> dict[str, Part]:
    """The graph, submodule by submodule."""
    from isthmus.bundle.bundle_files import Directory
    from isthmus.bundle_diff.archive import read_archive
    from isthmus.bundle_diff.onnx_nodes import onnx_parts
    from isthmus.bundle_diff.torchscript_code import torchscript_parts

    directory = Directory(bundle.path)
    entry = artifact.files[0]
    if artifact.format == "torchscript":
        archive = read_archive(directory.locate(entry.path, entry.size))
        return torchscript_parts(look.code, archive)
    methods = bundle.manifest.methods
    found: dict[str, Part] = {}
    for entry, method in zip(artifact.files, methods, strict=False):
        parts = onnx_parts(directory.locate(entry.path, entry.size))
        prefix = "" if len(methods) == 1 else f"{method.name}: "
        found |= {prefix + path: part for path, part in parts.items()}
    return found
