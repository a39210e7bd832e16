"""The onnx format: of the module or of its TorchScript, proven on ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from isthmus.bundle.manifest import Method
from isthmus.errors import ExportError
from isthmus.exporters.aoti.exported_program import export_module, export_scripted, flat_script
from isthmus.exporters.attempts import ExportAttempt, first_that_verifies
from isthmus.exporters.check import Verdict, check_calls
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.onnx.attention import translations
from isthmus.exporters.onnx.files import artifact_of, save_model, stems, with_data
from isthmus.exporters.source_lines import in_stack_text
from isthmus.exporters.torchscript.trace import as_tensors
from isthmus.runtime.python_calls import OnnxRuntimeCall

if TYPE_CHECKING:
    import onnx

__all__ = ["OPSET", "export_onnx", "require_packages"]

OPSET = 20
"""The newest that ONNX Runtime 1.21 and OpenVINO run in full."""
TORCHSCRIPT_OPSET = 18
"""The newest of which the TorchScript exporter knows every operator."""


def export_onnx(
    subject: ExportRequest,
    folder: Path,
    *,
    opset: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportedArtifact:
    """Exports to ONNX; what does not verify on ONNX Runtime is refused.

    Ways, in order: "dynamo" (`torch.export`, then `torch.onnx` with dynamo), "torchscript" (the
    TorchScript exporter, which keeps scripted `if` and loops), "converter" (TorchScript to
    `torch.export`, then dynamo).

    Args:
        subject: The model.
        folder: Where the files are written.
        opset: ONNX operator set version; None for `OPSET`.
        progress: Called with a sentence at each stage.

    Raises:
        ExportError: No way verified; its `decisions` say why.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    require_packages()
    if subject.stateful:
        raise ExportError(
            "the model has state, which an ONNX graph does not keep; take the state as inputs and "
            "give it back as outputs, or stay with TorchScript"
        )
    if subject.precision == "bf16":
        raise ExportError(
            "ONNX Runtime has no bf16 operators on the CPU (not even Add), so nothing could be "
            "proven; take fp16 or int8, or bf16 of torchscript or aoti"
        )
    name = f"onnx-cpu-{subject.precision}"

    def save(
        each: Callable[[ExportRequest, Method], onnx.ModelProto], given: ExportRequest
    ) -> list[Path]:
        return [
            save_model(each(given, method), folder, stem) for method, stem in stems(subject, name)
        ]

    def of_module(given: ExportRequest, method: Method) -> onnx.ModelProto:
        return _from_program(export_module(given, method, "cpu"), method, opset)

    def of_converted(given: ExportRequest, method: Method) -> onnx.ModelProto:
        return _from_program(export_scripted(given, method, "cpu"), method, opset)

    def of_script(given: ExportRequest, method: Method) -> onnx.ModelProto:
        return _from_script(given, method, opset, folder)

    attempts = [
        ExportAttempt("dynamo", partial(save, of_module), "module", "torch.onnx with dynamo"),
        ExportAttempt(
            "torchscript", partial(save, of_script), "script", "torch.onnx's TorchScript exporter"
        ),
        ExportAttempt(
            "converter",
            partial(save, of_converted),
            "script",
            "torch.onnx with dynamo, of TorchScript converted to torch.export",
        ),
    ]

    def prove(files: Sequence[Path]) -> Verdict:
        return check_calls(
            lambda: OnnxRuntimeCall(files, subject.methods),
            subject.methods,
            subject.goldens,
            subject.tolerances,
            calls_each=2,
            least_cosine=subject.least_cosine,
        )

    made, decisions = first_that_verifies(attempts, subject, prove, progress)
    return ExportedArtifact(artifact_of(subject, name, made, decisions), with_data(made))


def require_packages() -> None:
    """Raises:
    ImportError: What the onnx format is made with is not installed.
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


# --- the exporters --------------------------------------------------------------------------------


def _from_program(
    program: torch.export.ExportedProgram, method: Method, opset: int | None
) -> onnx.ModelProto:
    inputs, outputs = value_names(method)
    with _quiet_exporter(), _blamed_on_the_source(program):
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=opset or OPSET,
            input_names=inputs,
            output_names=outputs,
            custom_translation_table=translations(),
            verbose=False,
        )
    assert made is not None
    return made.model_proto


def _from_script(
    subject: ExportRequest, method: Method, opset: int | None, folder: Path
) -> onnx.ModelProto:
    import onnx

    assert subject.scripted is not None
    inputs, outputs = value_names(method)
    script = flat_script(subject.scripted, subject, method, "cpu")
    axes = {name: dict(subject.axes[name]) for name in inputs if name in subject.axes}
    path = folder / "exporter.onnx"
    with _quiet_exporter():
        torch.onnx.export(
            script,
            as_tensors(method, subject.examples[method.name], "cpu"),
            path,
            dynamo=False,
            opset_version=min(opset or TORCHSCRIPT_OPSET, TORCHSCRIPT_OPSET),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
        )
    model = onnx.load(path)
    for left in folder.glob("exporter.onnx*"):
        left.unlink()
    return model


def value_names(method: Method) -> tuple[list[str], list[str]]:
    """Names in the graph: the signature's; an output that is called like an input gets a suffix.

    Engines bind inputs by name and outputs by position.
    """
    inputs = [spec.name for spec in method.inputs]
    outputs = [f"{spec.name}_out" if spec.name in inputs else spec.name for spec in method.outputs]
    return inputs, outputs


@contextmanager
def _blamed_on_the_source(program: torch.export.ExportedProgram) -> Iterator[None]:
    """An exporter's error becomes its cause, with the line of the Python source behind the node.

    Raises:
        ExportError: Instead of the exporter's own three layers of errors.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        node = ""
        while cause.__cause__ is not None:
            found = re.search(r"translating node %?(\w+)", str(cause))
            node = found[1] if found else node
            cause = cause.__cause__
        located = ExportError(str(cause))
        located.where = _line_of(program, node)
        raise located from error


def _line_of(program: torch.export.ExportedProgram, name: str) -> str:
    """file:line of the user's code that made a node; empty where it is not known."""
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
    """The exporters print and log their progress; what matters is proven afterwards."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
