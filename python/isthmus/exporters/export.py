"""From a module to a bundle: capture, goldens, strategies, proof, and only then files."""

from __future__ import annotations

import datetime
import platform
import sys
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from isthmus.bundle.bundle import Bundle, check_destination, write_bundle
from isthmus.bundle.bundle_files import Source
from isthmus.bundle.format_result import FormatResult
from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import Manifest, NoiseFloor
from isthmus.capture.capture import Captured, capture
from isthmus.capture.dynamic import DimsSpec, DynamicSpec
from isthmus.errors import DeviceUnavailable, ExportError, InvalidInput
from isthmus.exporters.export_request import PRECISIONS
from isthmus.exporters.formats import FORMATS, ISAS, Progress, export_formats
from isthmus.exporters.plan import ExportPlan
from isthmus.exporters.quiet_torch import quiet_torch
from isthmus.exporters.torchscript.script import Target
from isthmus.exporters.torchscript.strategies import STRATEGIES
from isthmus.goldens.make import make_goldens
from isthmus.goldens.sample_texts import encode, kept_as_goldens, sentence_goldens

__all__ = ["export"]

Strategy = Literal["auto", "trace", "script", "mixed"]


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
    precision: str | Sequence[str] = "fp32",
    device: str = "cpu",
    formats: Sequence[str] = ("torchscript",),
    opset: int | None = None,
    isa: str = "portable",
    time_limit: float = 1800.0,
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
            in that type and takes and gives the signature's types; "int8" quantises the ONNX
            format. Of several, each format is made in each. `load` prefers "fp32".
        device: Where to make the artifact: "cpu", "cuda", "cuda:N".
        formats: Which artifacts to make, in the order in which `load` will prefer them:
            "torchscript", "onnx", "aoti". Each is made in a process of its own (a single
            "torchscript" in this one); a format that fails costs a warning and its row in
            `Bundle.results`, as long as another one verifies.
        opset: ONNX operator set version; None for the newest that the engines run in full.
        isa: For which processors AOTInductor compiles: "portable" (AVX2 on x86-64), "avx2",
            "avx512" or "native" (this processor).
        time_limit: Seconds that each format may take.
        probes: More inputs for the first method, by flat name, that become goldens.
        op_libraries: Libraries of custom operators to open first.
        name: Of the model; the module's class when empty.
        source: Where the model came from, for the manifest.
        extra_files: By path in the bundle: a path or bytes. A "tokenizer/tokenizer.json" turns real
            sentences into inputs, on which reduced precision is judged.
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
    wanted = _formats(formats)
    precisions = _precisions(precision)
    reduced = any(precision != "fp32" for precision in precisions)
    _check_options(strategy, precisions, script, trace, isa)
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
        say("ExportPlan goldens over the grid of shapes and values")
        goldens, noise, captured = make_goldens(captured, seed=seed, probes=probes)
        texts: list[Golden] = []
        if reduced and not captured.stateful:
            calls = encode(extra_files or {}, captured.methods[0], captured.dims)
            texts = sentence_goldens(captured, calls)
            goldens = [*goldens, *kept_as_goldens(goldens, texts)]
        with tempfile.TemporaryDirectory(prefix="isthmus-export-") as folder:
            plan = ExportPlan(
                captured=captured,
                goldens=goldens,
                texts=texts,
                noise=noise,
                strategy=strategy,
                script=script,
                trace=trace,
                device=where,
                op_libraries=op_libraries,
                opset=opset,
                isa=isa,
                folder=Path(folder),
            )
            made = plan.made
            makers = plan.makers(wanted, precisions)
            results = export_formats(makers, made, time_limit=time_limit, progress=say)
            _report_losses(results)
            manifest = _manifest(
                name or type(captured.module).__name__, captured, noise, goldens, source
            )
            say("Writing the bundle")
            bundle = write_bundle(
                path,
                replace(manifest, artifacts=tuple(exported.artifact for exported in made)),
                artifact_files={
                    exported.artifact.name: {file.name: file for file in exported.files}
                    for exported in made
                },
                goldens=goldens,
                extra_files=extra_files,
                overwrite=overwrite,
            )
    return replace(bundle, results=results)


def _report_losses(results: Sequence[FormatResult]) -> None:
    """Raises when nothing was made, warns when something was lost."""
    lost = [result for result in results if not result.ok]
    if len(lost) == len(results):
        if len(lost) == 1 and lost[0].error is not None:
            raise lost[0].error
        lines = ["no format verifies, and nothing was written:"]
        lines += [f"  {result.label}: {result.explanation}" for result in lost]
        error = ExportError("\n".join(lines))
        error.decisions = tuple(decision for result in lost for decision in result.decisions)
        raise error
    for one in lost:
        warnings.warn(
            f"{one.label} is not in the bundle: {one.explanation}", RuntimeWarning, stacklevel=3
        )


def _formats(formats: Sequence[str]) -> tuple[str, ...]:
    names = [formats] if isinstance(formats, str) else list(formats)
    for name in names:
        _one_of("formats", name, FORMATS)
    if not names:
        raise InvalidInput(f"formats: expected at least one of {', '.join(FORMATS)}, got none")
    return tuple(dict.fromkeys(names))


def _precisions(precision: str | Sequence[str]) -> tuple[str, ...]:
    names = [precision] if isinstance(precision, str) else list(precision)
    for name in names:
        _one_of("precision", name, PRECISIONS)
    if not names:
        raise InvalidInput(f"precision: expected some of {', '.join(PRECISIONS)}, got none")
    return tuple(dict.fromkeys(names))


def _check_options(
    strategy: str,
    precisions: Sequence[str],
    script: Sequence[Target],
    trace: Sequence[str],
    isa: str,
) -> None:
    _one_of("strategy", strategy, STRATEGIES)
    _one_of("isa", isa, ISAS)
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
    cast = [precision for precision in precisions if precision in ("fp16", "bf16")]
    if cast and (strategy == "script" or trace):
        raise InvalidInput(
            f'precision="{cast[0]}" needs a traced whole, for scripted code keeps the types of '
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


def _producer() -> dict[str, str]:
    from isthmus import __version__

    versions = {"isthmus": __version__, "torch": str(torch.__version__)}
    versions["python"] = platform.python_version()
    transformers = sys.modules.get("transformers")
    if transformers is not None:
        versions["transformers"] = str(transformers.__version__)
    versions["platform"] = f"{platform.system()}-{platform.machine()}"
    return versions
