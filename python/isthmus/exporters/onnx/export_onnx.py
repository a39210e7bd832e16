"""The onnx format: of the module or of its TorchScript, proven on ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from isthmus.bundle.manifest import Method
from isthmus.errors import ExportError
from isthmus.exporters.attempts import (
    Explain,
    ExportAttempt,
    Improvement,
    first_that_verifies,
)
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.exported_program import export_module, export_scripted, flat_script
from isthmus.exporters.first_difference import first_difference
from isthmus.exporters.onnx.attention import translations
from isthmus.exporters.onnx.exact_operators import exact_translations
from isthmus.exporters.onnx.files import artifact_of, save_model, with_data
from isthmus.exporters.onnx.fourier import hide_sizes, make_transforms_accurate
from isthmus.exporters.refused_models import refuse_quantised, refuse_state
from isthmus.exporters.source_lines import in_stack_text
from isthmus.exporters.torchscript.trace import as_tensors
from isthmus.exporters.unsupported_types import refuse_complex
from isthmus.runtime.file_engines import OnnxRuntimeEngine

__all__ = ["OPSET", "export_onnx", "require_packages"]

OPSET = 20
"""The newest operator set that ONNX Runtime 1.21 and OpenVINO run in full."""
TORCHSCRIPT_OPSET = 18
"""The newest operator set of which the TorchScript exporter knows every operator."""
_NEEDS_OPSET = re.compile(r"Support for this operator was added in version (\d+)")


def export_onnx(request: ExportRequest) -> ExportedArtifact:
    """Exports to ONNX; what does not verify on ONNX Runtime is refused.

    The attempts are, in order: "dynamo" (`torch.export`, then `torch.onnx` with dynamo),
    "torchscript" (the TorchScript exporter, which keeps scripted `if` and loops) and "converter"
    (TorchScript converted to `torch.export`, then dynamo).

    Raises:
        ExportError: No attempt verified; its `decisions` say why.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    require_packages()
    refuse_state(request, "an ONNX graph")
    refuse_quantised(request, "ONNX")
    refuse_complex(request)
    if request.precision == "bf16":
        raise ExportError(
            "ONNX Runtime has no bf16 operators on the CPU (not even Add), so nothing could be "
            "proven; take fp16 or int8, or bf16 of torchscript or aoti"
        )
    name = f"onnx-cpu-{request.precision}"
    files = request.method_files(name, ".onnx")
    paths = [path for _, path in files]
    verified = first_that_verifies(
        _ATTEMPTS, request, files, request.check("cpu"), OnnxRuntimeEngine
    )
    return ExportedArtifact(artifact_of(request, name, paths, verified), with_data(paths))


def require_packages() -> None:
    """Checks that the packages are installed with which the onnx format is made.

    Raises:
        ImportError: A package is missing; names the extra to install.
    """
    import importlib.util

    missing = [
        name
        for name in ("onnx", "onnxscript", "onnxruntime")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ImportError(
            f"exporting to ONNX needs {', '.join(missing)}: pip install 'isthmus[onnx]'"
        )


# --- the attempts ---------------------------------------------------------------------------------


def _write_program(
    export: Callable[[ExportRequest, Method, str], torch.export.ExportedProgram],
    request: ExportRequest,
    method: Method,
    path: Path,
) -> Explain:
    program = export(request, method, "cpu")
    inputs, outputs = value_names(method)
    may_be_empty = any(limits.min == 0 for limits in request.dims.values())
    with _quiet_exporter(), _blamed_on_the_source(program):
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=request.options.opset or OPSET,
            input_names=inputs,
            output_names=outputs,
            custom_translation_table={**exact_translations(may_be_empty), **translations()},
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    hide_sizes(model)
    save_model(model, path)
    decomposed = exported.exported_program or program
    return partial(first_difference, decomposed, method, file=path, module=request.module)


def _write_scripted(request: ExportRequest, method: Method, path: Path) -> None:
    import onnx

    most = request.options.opset or OPSET
    exporters_own = path.with_name("exporter.onnx")
    try:
        _export_scripted(request, method, exporters_own, min(most, TORCHSCRIPT_OPSET))
    except torch.onnx.errors.UnsupportedOperatorError as error:
        needed = _NEEDS_OPSET.search(str(error))
        if needed is None or int(needed[1]) > most:
            raise
        _export_scripted(request, method, exporters_own, int(needed[1]))
    model = onnx.load(exporters_own)
    for file in path.parent.glob("exporter.onnx*"):
        file.unlink()
    save_model(model, path)


def _export_scripted(request: ExportRequest, method: Method, file: Path, opset: int) -> None:
    inputs, outputs = value_names(method)
    with _quiet_exporter():
        torch.onnx.export(
            flat_script(request, method, "cpu"),
            as_tensors(method, request.examples[method.name], "cpu"),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={
                name: dict(request.axes[name]) for name in inputs if name in request.axes
            },
        )


_IN_FLOAT64 = Improvement(make_transforms_accurate, "with Fourier transforms in float64")
_ATTEMPTS = (
    ExportAttempt(
        "dynamo",
        partial(_write_program, export_module),
        "module",
        "torch.onnx with dynamo",
        _IN_FLOAT64,
    ),
    ExportAttempt(
        "torchscript", _write_scripted, "torchscript", "torch.onnx's TorchScript exporter"
    ),
    ExportAttempt(
        "converter",
        partial(_write_program, export_scripted),
        "torchscript",
        "torch.onnx with dynamo, of TorchScript converted to torch.export",
        _IN_FLOAT64,
    ),
)


def value_names(method: Method) -> tuple[list[str], list[str]]:
    """Returns the signature's names for the graph; an output called like an input gets a suffix.

    Engines bind inputs by name and outputs by position.
    """
    inputs = [spec.name for spec in method.inputs]
    outputs = [f"{spec.name}_out" if spec.name in inputs else spec.name for spec in method.results]
    return inputs, outputs


@contextmanager
def _blamed_on_the_source(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Replaces the exporter's three layers of errors by their cause.

    Raises:
        ExportError: The cause, with the line of the Python source behind the node.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        node = ""
        while cause.__cause__ is not None:
            match = re.search(r"translating node %?(\w+)", str(cause))
            node = match[1] if match else node
            cause = cause.__cause__
        located = ExportError(str(cause))
        located.where = _line_of(program, node)
        raise located from error


def _line_of(program: torch.export.ExportedProgram, name: str) -> str:
    """Returns file:line of the user's code behind a node; empty where it is not known."""
    if not name:
        return ""
    with contextlib.suppress(Exception):  # an explanation may fail without harm
        for graph in (program.graph, program.run_decompositions().graph):
            for node in graph.nodes:
                if node.name == name:
                    return in_stack_text(str(node.meta.get("stack_trace", "")))
    return ""


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silences the exporters' warnings and log; what matters is proven afterwards."""
    logger = logging.getLogger("torch.onnx")
    previous = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(previous)
