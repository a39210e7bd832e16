"""From a module to a bundle: capture, goldens, strategies, proof, and only then files."""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from isthmus.bundle import Bundle, check_destination, write_bundle
from isthmus.bundle_files import Source
from isthmus.capture import Captured, capture
from isthmus.dynamic import DimsSpec, DynamicSpec
from isthmus.errors import DeviceUnavailable, InvalidInput
from isthmus.export.quiet import quiet_torch
from isthmus.export.script import Target
from isthmus.export.torchscript import STRATEGIES, Exported, export_torchscript
from isthmus.goldens import Golden, make_goldens, reduced_error, tolerances
from isthmus.manifest import Artifact, Hazard, Manifest, NoiseFloor

__all__ = ["export"]

Strategy = Literal["auto", "trace", "script", "mixed"]
Progress = Callable[[str], None]

_PRECISIONS = ("fp32", "fp16", "bf16")
_FORMATS = ("torchscript",)


def export(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    path: str | Path,
    strategy: Strategy = "auto",
    dynamic: DynamicSpec | None = None,
    dims: DimsSpec | None = None,
    methods: Mapping[str, tuple[Sequence[Any], Mapping[str, Any]]] | None = None,
    constants: Collection[str] = (),
    script: Sequence[Target] = (),
    trace: Sequence[str] = (),
    precision: str = "fp32",
    device: str = "cpu",
    formats: Sequence[str] = ("torchscript",),
    probes: Sequence[Mapping[str, Any]] = (),
    op_libraries: Sequence[str | Path] = (),
    name: str = "",
    source: Mapping[str, str] | None = None,
    extra_files: Mapping[str, Source] | None = None,
    overwrite: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Bundle:
    """Exports a module, proves the result against the module, and writes a bundle.

    The module is left as it came. Nothing is written unless the artifact, loaded again from its
    own bytes, gives the module's answers on every golden.

    Args:
        model: What to export. Scripted modules are welcome, and kept as they are.
        args: Example arguments of `forward`: tensors, int, float, bool, None, and nested lists,
            tuples, dicts, named tuples and dataclasses of these.
        kwargs: Example keyword arguments.
        path: The bundle's folder, to be made.
        strategy: "trace"; "script"; "mixed" (some parts scripted, the rest traced, or the other way
            round with `trace`); or "auto", which tries them in this order, each against the
            goldens, and says why it chose.
        dynamic: By input name: axis to the name of its dimension, `{"x": {0: "batch"}}`. Equal
            names mean equal sizes.
        dims: Inclusive (min, max) of each dimension, `{"batch": (1, 64)}`.
        methods: Further methods to export, each with an example call: `{"reset": ((), {})}`.
        constants: Parameters whose numbers become part of the model and are no inputs.
        script: For "mixed": submodules by dotted path, functions, or "package.module:function",
            that are scripted inside the traced whole.
        trace: For "mixed": submodules by dotted path that are traced inside the scripted whole.
        precision: "fp32" keeps the module's own types; "fp16" and "bf16" make a copy that computes
            in that type and takes and gives the signature's types.
        device: Where to make the artifact: "cpu", "cuda", "cuda:N".
        formats: Which artifacts to make; "torchscript".
        probes: More inputs for the first method, by flat name, that become goldens.
        op_libraries: Libraries of custom operators to open first.
        name: Of the model; the module's class when empty.
        source: Where the model came from, for the manifest.
        extra_files: By path in the bundle: a path or bytes.
        overwrite: Replace a bundle that is there.
        seed: Of the perturbed values in the goldens.
        progress: Called with a sentence at each stage.

    Raises:
        InvalidInput: An option or the example does not fit, or the module fails on it.
        BundleError: The destination is taken.
        DeviceUnavailable: There is no such device here.
        ExportError: No strategy gave an artifact that verifies; it carries the decisions.
    """
    say = progress or (lambda _: None)
    _check_options(strategy, precision, formats, script, trace)
    where = _device(device)
    check_destination(path, overwrite=overwrite)
    open_libraries(op_libraries)
    with quiet_torch():
        say("Capturing the module's calls")
        captured = capture(
            model,
            args,
            kwargs,
            dynamic=dynamic,
            dims=dims,
            methods=methods,
            constants=constants,
        )
        say("Making goldens over the grid of shapes and values")
        goldens, noise, captured = make_goldens(captured, seed=seed, probes=probes)
        reduced = None if precision == "fp32" else reduced_error(captured, goldens, precision)
        allowed = tolerances(noise, goldens, precision, reduced=reduced)
        exported = export_torchscript(
            captured,
            goldens,
            allowed,
            strategy=strategy,
            script=script,
            trace_parts=trace,
            precision=precision,
            device=where,
            op_libraries=op_libraries,
            progress=say,
        )
    artifact = _artifact(captured, exported, precision, where, allowed)
    manifest = _manifest(name or type(captured.module).__name__, captured, noise, goldens, source)
    say("Writing the bundle")
    return write_bundle(
        path,
        _with(manifest, artifact),
        artifact_files={artifact.name: exported.archive},
        goldens=goldens,
        extra_files=extra_files,
        overwrite=overwrite,
    )


def _check_options(
    strategy: str,
    precision: str,
    formats: Sequence[str],
    script: Sequence[Target],
    trace: Sequence[str],
) -> None:
    _one_of("strategy", strategy, STRATEGIES)
    _one_of("precision", precision, _PRECISIONS)
    for one in [formats] if isinstance(formats, str) else formats:
        _one_of("formats", one, _FORMATS)
    for label, value in (("script", script), ("trace", trace)):
        if isinstance(value, str):
            raise InvalidInput(f'{label}: expected a list of parts, got the text "{value}"')
        if value and strategy not in ("auto", "mixed"):
            raise InvalidInput(
                f'{label}: parts are named for strategy="mixed", got strategy="{strategy}"; leave '
                "the strategy out"
            )
    if script and trace:
        raise InvalidInput(
            "script and trace: expected one of them; script names the parts to script inside a "
            "traced whole, trace those to trace inside a scripted whole"
        )
    if precision != "fp32" and (strategy == "script" or trace):
        raise InvalidInput(
            f'precision="{precision}" needs a traced whole, for scripted code keeps the types of '
            'its source; use strategy="trace", or "mixed" with script'
        )


def _one_of(label: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidInput(f"{label}: expected {', '.join(known)}, got {value!r}")


def _device(text: str) -> str:
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f'device: expected "cpu", "cuda" or "cuda:N", got {text!r}')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"{text} is not available: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; export on the CPU, where the artifact runs "
            "on CUDA too, or on a machine with that device"
        )
    return str(device)


def open_libraries(libraries: Sequence[str | Path]) -> None:
    """Opens libraries of custom operators.

    Raises:
        InvalidInput: One is no file, or not a library for this torch.
    """
    for library in libraries:
        if not Path(library).is_file():
            raise InvalidInput(f"op_libraries: {library} is no file; give a shared library")
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError) as error:
            raise InvalidInput(
                f"op_libraries: {library} cannot be opened ({error}); expected a shared library "
                f"built for torch {torch.__version__}"
            ) from error


def _artifact(
    captured: Captured, exported: Exported, precision: str, device: str, allowed: Mapping[str, Any]
) -> Artifact:
    kind = device.partition(":")[0]
    return Artifact(
        name=f"torchscript-{kind}-{precision}",
        format="torchscript",
        device=kind,
        devices=exported.devices,
        precision=precision,
        trust=exported.trust,
        convention=exported.convention,
        strategy=exported.strategy,
        files=(),
        requires={"torch": torch.__version__},
        op_libraries=exported.op_libraries,
        operators=exported.operators,
        tolerances=dict(allowed),
        state=captured.state,
        decisions=exported.decisions,
        hazards=_distinct((*captured.notes, *exported.hazards)),
    )


def _distinct(hazards: Sequence[Hazard]) -> tuple[Hazard, ...]:
    order = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(dict.fromkeys(hazards), key=lambda one: order[one.severity]))


def _manifest(
    name: str,
    captured: Captured,
    noise: Mapping[str, NoiseFloor],
    goldens: Sequence[Golden],
    source: Mapping[str, str] | None,
) -> Manifest:
    kind = type(captured.module)
    now = datetime.datetime.now(datetime.timezone.utc)
    return Manifest(
        name=name,
        created=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        producer=_producer(),
        source={"kind": "module", "class": f"{kind.__module__}.{kind.__qualname__}"}
        | dict(source or {}),
        stateful=captured.stateful,
        dims=captured.dims,
        methods=captured.methods,
        artifacts=(),
        goldens=(),
        noise_floor=dict(noise),
        warmup=(goldens[0].name,),
    )


def _with(manifest: Manifest, artifact: Artifact) -> Manifest:
    from dataclasses import replace

    return replace(manifest, artifacts=(artifact,))


def _producer() -> dict[str, str]:
    from isthmus import __version__

    versions = {"isthmus": __version__, "torch": str(torch.__version__)}
    versions["python"] = platform.python_version()
    transformers = sys.modules.get("transformers")
    if transformers is not None:
        versions["transformers"] = str(transformers.__version__)
    versions["platform"] = f"{platform.system()}-{platform.machine()}"
    return versions
