"""Exports a module to a bundle: capture, goldens, artifacts, proof, and only then files."""

from __future__ import annotations

import datetime
import platform
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isthmus.bundle.bundle import Bundle, check_destination, write_bundle
from isthmus.bundle.bundle_files import Source
from isthmus.bundle.format_result import FormatResult
from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import Manifest, NoiseFloor
from isthmus.capture.capture import Captured, capture
from isthmus.capture.dynamic import DimsSpec, DynamicSpec
from isthmus.capture.fast_path import noted, without_fast_path
from isthmus.capture.file_module import FileModule
from isthmus.capture.size_proposals import possible_sum
from isthmus.errors import ExportError, InvalidInput
from isthmus.exporters.edge_values import with_edges
from isthmus.exporters.engine_proofs import warn_of_failures
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.frozen_branches import refuse_unknown_lines
from isthmus.exporters.options import (
    ExportOptions,
    Progress,
    Strategy,
    Target,
    ignore_progress,
    open_libraries,
)
from isthmus.exporters.plan import ExportPlan, decisions_of, formats_that_could
from isthmus.exporters.quiet_torch import quiet_torch
from isthmus.exporters.served_sizes import warn_of_sizes
from isthmus.exporters.size_dependent import size_dependent_operators, with_size_hazards
from isthmus.goldens.make import make_goldens
from isthmus.goldens.noise_floor import reduced_errors
from isthmus.goldens.sample_texts import encode, kept_as_goldens, sentence_goldens
from isthmus.goldens.special_values import make_special_goldens, stored_specials
from isthmus.goldens.stored import stored_goldens
from isthmus.goldens.sweep import every_size
from isthmus.goldens.tolerance import tolerances

__all__ = ["export"]


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
    accept: Sequence[str] = (),
    precision: str | Sequence[str] = "fp32",
    device: str = "cpu",
    formats: Sequence[str] = ("torchscript",),
    opset: int | None = None,
    isa: str = "portable",
    time_limit: float = 1800.0,
    examples: Iterable[Any] = (),
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
        model: The module to export. A scripted module is kept as it is.
        args: Example arguments of `forward`: tensors, int, float, bool, None, and nested lists,
            tuples, dicts, named tuples and dataclasses of these.
        kwargs: Example keyword arguments.
        path: The folder to make for the bundle.
        strategy: "trace"; "script"; "mixed" (some parts scripted, the rest traced, or the other way
            round with `trace`); or "auto", which tries them in this order, each against the
            goldens, and says why it chose.
        dynamic: The name of each dynamic dimension by input name and axis, `{"x": {0: "batch"}}`.
            Equal names mean equal sizes. A size that follows from others is an expression of sums,
            differences, and products with and floor divisions by constants: `{"mask": {1: "past +
            sequence"}}`, `"16 * h"`, `"samples // 160 + 1"`.
        dims: The inclusive (min, max) of each dimension, `{"batch": (1, 64)}`, or a list of its
            only sizes, `{"width": [256, 512]}`.
        methods: Further methods to export, each with an example call: `{"reset": ((), {})}`.
        constants: Parameters whose numbers become part of the model and are no inputs.
        script: For "mixed": submodules by dotted path, functions, or "package.module:function",
            that are scripted inside the traced whole.
        trace: For "mixed": submodules by dotted path that are traced inside the scripted whole.
        accept: Lines whose branches on values a trace may keep as one call decided them, each as a
            refusal names it: `["front.py:13"]`. Other values then get the same branch.
        precision: "fp32" keeps the module's own types; "fp16" and "bf16" make a copy that computes
            in that type and takes and gives the signature's types; "int8" quantises the ONNX
            format. Each format is made in each of several precisions. `load` prefers "fp32".
        device: The device on which artifacts are made: "cpu", "cuda", "cuda:N".
        formats: The artifacts to make, in the order in which `load` will prefer them:
            "torchscript", "onnx", "aoti". Each is made in a process of its own (a single
            "torchscript" in this one); a format that fails costs a warning and its row in
            `Bundle.results`, as long as another one verifies.
        opset: The ONNX operator set version; None for the newest that the engines run in full.
        isa: The processors for which AOTInductor compiles: "portable" (AVX2 on x86-64), "avx2",
            "avx512" or "native" (this processor).
        time_limit: The seconds that each format may take.
        examples: Several real calls, at different sizes: each a tuple of arguments, a dict of
            keyword arguments, or (args, kwargs); of a data set the first eight items. They become
            goldens, and values of further sizes are made from them. The first is the example where
            `args` and `kwargs` are empty. Needed where inputs have to fit each other, such as
            offsets, edges or lengths.
        probes: More inputs for the first method, by flat name, that become goldens.
        op_libraries: Libraries of custom operators to open first.
        name: The model's name; the module's class when empty.
        source: The model's origin, for the manifest.
        extra_files: A path or bytes, by path in the bundle. A "tokenizer/tokenizer.json" turns real
            sentences into inputs, on which reduced precision is judged.
        overwrite: Replace an existing bundle.
        seed: The seed of the perturbed values in the goldens.
        progress: Receives a sentence at each stage.

    Raises:
        InvalidInput: An option or the example does not fit, or the module fails on the example.
        BundleError: The destination exists already.
        DeviceUnavailable: The device is not present on this machine.
        ExportError: No strategy gave an artifact that verifies; it carries the decisions.
    """
    options = ExportOptions(
        formats=formats,
        precisions=precision,
        strategy=strategy,
        script=script,
        trace=trace,
        accept=accept,
        device=device,
        opset=opset,
        isa=isa,
        time_limit=time_limit,
        op_libraries=op_libraries,
        progress=progress or ignore_progress,
    )
    check_destination(path, overwrite=overwrite)
    open_libraries(op_libraries)
    with quiet_torch(), without_fast_path(model, options.formats) as switched_off:
        options.progress("Capturing the module's calls")
        captured = capture(
            model,
            args,
            kwargs,
            dynamic=dynamic,
            dims=dims,
            methods=methods,
            constants=constants,
            examples=examples,
        )
        if switched_off:
            captured = noted(captured)
        captured = with_edges(captured)
        options.progress("Making goldens over the grid of shapes and values")
        goldens, noise, captured = make_goldens(captured, seed=seed, probes=probes)
        stored, stored_notes = stored_goldens(goldens)
        options.progress("Making goldens of special values")
        specials = make_special_goldens(captured, goldens, seed=seed)
        texts: list[Golden] = []
        if options.precisions != ("fp32",) and not captured.stateful:
            calls = encode(extra_files or {}, captured.methods[0], captured.dims)
            texts = sentence_goldens(captured, calls)
            kept = kept_as_goldens(stored, texts)
            goldens, stored = [*goldens, *kept], [*stored, *kept]
        with tempfile.TemporaryDirectory(prefix="isthmus-export-") as folder:
            fp32 = ExportRequest(
                methods=captured.methods,
                examples=captured.examples,
                axes=captured.dynamic,
                dims=captured.dims,
                goldens=goldens,
                sweep=captured.sweep,
                specials=specials,
                tolerances=tolerances(noise, goldens),
                folder=Path(folder),
                device=options.device,
                stateful=captured.stateful,
                module=captured.module,
                state=captured.state,
                notes=(*captured.notes, *stored_notes),
                options=options,
            )
            requests = [
                _in_precision(fp32, precision, captured, texts, noise)
                for precision in options.precisions
            ]
            exported, results = ExportPlan(options, requests).run()
            advice = possible_sum(captured.methods, captured.given_sizes)
            if not exported:
                could = ", ".join(formats_that_could(fp32, results))
                other = f"torch.export follows this model: try the formats {could} (--formats)"
                advice = "; ".join(part for part in (advice, other if could else "") if part)
            _report_losses(results, advice)
            exported = _with_size_hazards(exported, captured, goldens)
            warn_of_failures(new.artifact for new in exported)
            warn_of_sizes(new.artifact for new in exported)
            refuse_unknown_lines(accept, [new.artifact for new in exported], decisions_of(results))
            options.progress("Writing the bundle")
            bundle = write_bundle(
                path,
                Manifest(
                    name=name or type(captured.module).__name__,
                    created=_now(),
                    producer=_producer(),
                    source=_source(captured.module) | dict(source or {}),
                    stateful=captured.stateful,
                    dims=captured.dims,
                    methods=captured.methods,
                    artifacts=tuple(new.artifact for new in exported),
                    goldens=(),
                    noise_floor=dict(noise),
                    warmup=(goldens[0].name,),
                ),
                artifact_files={
                    new.artifact.name: {file.name: file for file in new.files} for new in exported
                },
                goldens=stored,
                specials=[(new.golden, new.special) for new in stored_specials(specials)],
                extra_files=extra_files,
                overwrite=overwrite,
            )
    return replace(bundle, results=results)


def _in_precision(
    fp32: ExportRequest,
    precision: str,
    captured: Captured,
    texts: Sequence[Golden],
    noise: Mapping[str, NoiseFloor],
) -> ExportRequest:
    """Returns the request in a precision; real sentences, too, judge a reduced one."""
    if precision == "fp32":
        return fp32
    known = {golden.name for golden in fp32.goldens}
    reduced = None
    if precision != "int8":
        reduced = reduced_errors(captured, fp32.goldens, precision)
    return replace(
        fp32,
        precision=precision,
        goldens=[*fp32.goldens, *(text for text in texts if text.name not in known)],
        # An int8 artifact is a quantised fp32 one, whose sizes were swept.
        sweep=() if precision == "int8" else fp32.sweep,
        tolerances=tolerances(noise, fp32.goldens, precision, reduced=reduced),
        fp32_onnx=fp32 if precision == "int8" else None,
    )


def _with_size_hazards(
    exported: Sequence[ExportedArtifact], captured: Captured, goldens: Sequence[Golden]
) -> list[ExportedArtifact]:
    """Adds hazards for operators that depend on sizes, where not every size was tried."""
    shapes = [golden.dims for golden in (*goldens, *captured.sweep)]
    if every_size(captured.dims, shapes):
        return list(exported)
    operators = size_dependent_operators(captured)
    count = len({tuple(shape.items()) for shape in shapes})
    swept = f"{count} sizes of {' and '.join(captured.dims)}"
    return [
        replace(new, artifact=with_size_hazards(new.artifact, operators, swept)) for new in exported
    ]


def _report_losses(results: Sequence[FormatResult], advice: str) -> None:
    """Raises when nothing was exported, and warns when something was lost.

    Args:
        results: The results of all formats.
        advice: What may be wrong with the sizes that the user gave, and what formats could be made;
            empty when nothing is known.
    """
    lost = [result for result in results if not result.ok]
    if len(lost) == len(results):
        error = lost[0].error
        if len(lost) == 1 and error is not None and (not advice or isinstance(error, InvalidInput)):
            raise _with_advice(error, lost[0].advice)
        lines = ["no format verifies, and nothing was written:"]
        lines += [f"  {result.label}: {result.explanation}" for result in lost]
        nothing = ExportError("\n".join([*lines, *([f"  {advice}"] if advice else [])]))
        nothing.decisions = decisions_of(lost)
        raise nothing
    for result in lost:
        warnings.warn(
            f"{result.label} is not in the bundle: {result.explanation}",
            RuntimeWarning,
            stacklevel=3,
        )


def _with_advice(error: Exception, advice: str) -> Exception:
    """Returns the error of a format with the advice on it, where its one line has none."""
    if not advice or "\n" in str(error) or not isinstance(error, ExportError):
        return error
    advised = ExportError(f"{error}; {advice}")
    advised.decisions, advised.where = error.decisions, error.where
    return advised


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _source(module: nn.Module) -> dict[str, str]:
    if isinstance(module, FileModule):
        return {"reference": module.reference}
    kind = type(module)
    return {"kind": "module", "class": f"{kind.__module__}.{kind.__qualname__}"}


def _producer() -> dict[str, str]:
    from isthmus import __version__

    versions = {"isthmus": __version__, "torch": str(torch.__version__)}
    versions["python"] = platform.python_version()
    transformers = sys.modules.get("transformers")
    if transformers is not None:
        versions["transformers"] = str(transformers.__version__)
    versions["platform"] = f"{platform.system()}-{platform.machine()}"
    return versions
