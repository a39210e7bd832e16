"""Finds where an export that fails by numbers leaves the model: the first layer and operator.

The program of `torch.export` is run operator by operator. Where its own answer is not the model's,
the capture changed the model, and the layer is named whose values differ first. Else the exported
file did, and its values are compared with those of the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from isthmus.bundle.manifest import Method
from isthmus.capture.run_module import ModuleRunner, watching
from isthmus.exporters.source_lines import in_stack_text
from isthmus.exporters.torchscript.trace import as_tensors

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from isthmus.bundle.golden import Step

__all__ = ["Difference", "first_difference"]

_SHARE = 0.1
"""The share of the final error from which a value counts as different."""
_LEAST = 1e-6
"""The relative error below which no value counts as different."""
_ROUNDING = 1e-4
"""The relative error of a program's own answer that rounding explains."""
_MOST_BYTES = 1 << 30
"""The size of all values of a program that are kept."""
_PREFIXES = ("holder.module", "module")
"""The paths of the model inside the modules that exporters get."""


@dataclass(frozen=True)
class Difference:
    """The first place where an exported model computes something else than the model."""

    sentence: str
    where: str = ""
    """file:line of the user's code; empty where it is not known."""


def first_difference(
    program: ExportedProgram,
    method: Method,
    step: Step,
    *,
    file: Path | None = None,
    module: nn.Module | None = None,
) -> Difference | None:
    """Returns where one call leaves the model; None where no place can be told.

    Args:
        program: The program of the method, from which the file was made.
        method: The method that is called.
        step: The call, with the answers of the model.
        file: The ONNX file; None for a format whose values cannot be seen.
        module: The model; None where only an artifact is left of it.
    """
    recorder = _Recorder(program)
    outputs = recorder.call(method, step)
    error = max(
        (
            _error(step.outputs[spec.name], value)
            for spec, value in zip(method.outputs, outputs, strict=True)
            if spec.name in step.outputs
        ),
        default=0.0,
    )
    if error > _ROUNDING:
        found = None
        if module is not None:
            found = _first_layer(recorder, module, method, step, _SHARE * error)
        return found or Difference("torch.export's own program answers otherwise than the module")
    if file is None:
        return None
    return _first_operator(recorder, method, step, file)


class _Recorder(fx.Interpreter):
    """Runs the program and keeps the value of every node."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(program.graph_module)
        self._program = program
        self._bytes = 0
        self.values: dict[str, Tensor] = {}
        """The values by the names of their nodes, in the order of the program."""

    def call(self, method: Method, step: Step) -> list[Tensor]:
        """Runs one call, and returns the outputs in order."""
        given = iter(as_tensors(method, step.inputs, "cpu"))
        arguments = []
        for spec in self._program.graph_signature.input_specs:
            name = spec.target
            if spec.kind.name == "USER_INPUT":
                arguments.append(next(given))
            elif name in self._program.state_dict:
                arguments.append(self._program.state_dict[name])
            else:
                arguments.append(self._program.constants[name])
        with torch.no_grad():
            results = self.run(*arguments)
        kinds = [spec.kind.name for spec in self._program.graph_signature.output_specs]
        return [value for value, kind in zip(results, kinds, strict=True) if kind == "USER_OUTPUT"]

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op == "call_function" and self._bytes < _MOST_BYTES:
            self.values[n.name] = value.detach().clone()
            self._bytes += value.nbytes
        return value

    def output_names(self) -> list[str]:
        """Returns the names of the nodes whose values the program returns, in order."""
        return [str(name) for name in self._program.graph_signature.user_outputs]

    def nodes(self) -> list[fx.Node]:
        """Returns the nodes whose values were kept, in order."""
        graph = self._program.graph_module.graph
        return [node for node in graph.nodes if node.name in self.values]


def _first_operator(
    recorder: _Recorder, method: Method, step: Step, file: Path
) -> Difference | None:
    """Returns the first operator whose value in the file is another than in the program."""
    actual = _values_in_file(file, method, step, set(recorder.values), recorder.output_names())
    errors = {
        name: _error(recorder.values[name], value)
        for name, value in actual.items()
        if name in recorder.values
    }
    if not errors:
        return None
    limit = max(_LEAST, _SHARE * max(errors.values()))
    for node in recorder.nodes():
        if errors.get(node.name, 0.0) > limit:
            where = in_stack_text(str(node.meta.get("stack_trace", "")))
            inside = f" in {_layer_of(node)}" if _layer_of(node) else ""
            return Difference(
                f"the first operator whose values differ is {node.target}{inside}, by "
                f"{errors[node.name]:.2g} of its largest value",
                where,
            )
    return None


def _values_in_file(
    file: Path, method: Method, step: Step, wanted: set[str], returned: Sequence[str]
) -> dict[str, Tensor]:
    """Runs an ONNX file with intermediate values as outputs, and returns those that are wanted.

    Args:
        file: The file, whose inner values have the names of the program's nodes.
        method: The method that is called.
        step: The call.
        wanted: The names of nodes.
        returned: The names of the nodes whose values the file returns, by names of its own.
    """
    import onnx
    import onnxruntime

    model = onnx.load(file, load_external_data=False)
    names = [name for node in model.graph.node for name in node.output if name in wanted]
    outputs = [output.name for output in model.graph.output]
    node_of = dict(zip(outputs, returned, strict=False))
    names += outputs
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    observed = file.with_name(f"{file.stem}.observed.onnx")
    try:
        onnx.save_model(model, observed)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(observed), options, providers=["CPUExecutionProvider"]
        )
        given = dict(
            zip(
                (spec.name for spec in method.inputs),
                as_tensors(method, step.inputs, "cpu"),
                strict=True,
            )
        )
        feeds = {node.name: given[node.name].numpy() for node in session.get_inputs()}
        values = session.run(list(dict.fromkeys(names)), feeds)
    finally:
        observed.unlink(missing_ok=True)
    return {
        node_of.get(name, name): torch.as_tensor(value)
        for name, value in zip(dict.fromkeys(names), values, strict=True)
    }


def _first_layer(
    recorder: _Recorder, module: nn.Module, method: Method, step: Step, limit: float
) -> Difference | None:
    """Returns the first submodule whose last value in the program is not its output in eager."""
    last: dict[str, fx.Node] = {}
    for node in recorder.nodes():
        for path in _paths_of(node):
            last[path] = node
    expected: dict[str, Tensor] = {}

    def returned(path: str, arguments: Any, result: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if len(tensors) == 1 and not tensors[0].is_nested:
            expected.setdefault(path, tensors[0].detach().cpu().clone())

    with ModuleRunner(module) as runner, runner.run(), watching(module, returned):
        runner.call(method, step.inputs)
    for path, value in expected.items():
        if path not in last:
            continue
        node = last[path]
        if _error(value, recorder.values[node.name]) > limit:
            kind = type(module.get_submodule(path)).__name__
            where = in_stack_text(str(node.meta.get("stack_trace", "")))
            return Difference(
                f"torch.export's own program answers otherwise than the module, first in "
                f"{path or 'the module itself'} ({kind})",
                where,
            )
    return None


def _paths_of(node: fx.Node) -> list[str]:
    """Returns the paths of the submodules around a node in the model, the outermost first."""
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    paths = []
    for path, _ in stack.values():
        for prefix in _PREFIXES:
            if path == prefix or path.startswith(f"{prefix}."):
                paths.append(path[len(prefix) + 1 :])
                break
    return paths


def _layer_of(node: fx.Node) -> str:
    paths = _paths_of(node)
    return paths[-1] if paths else ""


def _error(expected: Tensor, actual: Tensor) -> float:
    """Returns the largest difference as a share of the largest value; 1 for other shapes or NaN."""
    expected = expected.detach().cpu()
    actual = actual.detach().cpu()
    if expected.shape != actual.shape:
        return 1.0
    if not expected.numel():
        return 0.0
    if not (expected.is_floating_point() or expected.is_complex()):
        return float((expected != actual).any())
    a, b = expected.to(torch.complex128), actual.to(torch.complex128)
    if bool((a.isnan() != b.isnan()).any()):
        return 1.0
    difference = torch.where(a == b, torch.zeros_like(a), a - b).abs().nan_to_num(0.0)
    largest = a.abs().nan_to_num(0.0, 0.0).max()
    return float(difference.max() / largest.clamp_min(1e-30))
