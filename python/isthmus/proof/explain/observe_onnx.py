"""Observes an ONNX file: values that cross a submodule's border become outputs of the graph.

Exporters name the submodule of each node: the exporter based on `torch.export` in the node's
metadata ("pkg.torch.onnx.name_scopes"), the older one in the node's name.
"""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isthmus.errors import ExecutionError
from isthmus.proof.explain.layers import Values
from isthmus.proof.explain.observation import Observation
from isthmus.runtime.engine_spec import EngineSpec

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Step

_SCOPES = "pkg.torch.onnx.name_scopes"
_TRACE = "pkg.torch.onnx.stack_trace"
_LINE = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass
class _Scope:
    """The nodes of a submodule, and the names of the values that cross its border."""

    nodes: list[int] = field(default_factory=list)
    entering: list[str] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)


def observe_onnx(bundle: Bundle, spec: EngineSpec, step: Step, paths: Sequence[str]) -> Observation:
    """Runs one call of the file and observes the submodules.

    Args:
        bundle: The bundle that holds the file.
        spec: The artifact and the runtime, "onnxruntime" or "openvino".
        step: The call.
        paths: The dotted paths of the submodules in the model.

    Raises:
        ExecutionError: OpenVINO cannot give all of the values.
    """
    import onnx

    artifact = bundle.artifact(spec.artifact)
    index = [method.name for method in bundle.manifest.methods].index(step.method)
    for entry in artifact.files:
        bundle.read(entry)
    file = bundle.path / artifact.files[index].path
    model: Any = onnx.load(str(file))
    scopes = _scopes(model.graph)
    prefix = _prefix(scopes)
    wanted: dict[str, _Scope] = {}
    for path in paths:
        scope = scopes.get(".".join(part for part in (prefix, path) if part))
        if scope is not None and scope.leaving:
            wanted[path] = scope
    original = [output.name for output in model.graph.output]
    given = {graph_input.name for graph_input in model.graph.input}
    names = [name for scope in wanted.values() for name in (*scope.leaving, *scope.entering)]
    extra = [name for name in dict.fromkeys(names) if name not in given and name not in original]
    for name in extra:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    inputs = {key: value for key, value in step.inputs.items() if key in given}
    with tempfile.TemporaryDirectory(prefix="isthmus-explain-") as folder:
        # The weights go to a file beside it, because a protobuf message holds 2 GB at most.
        instrumented = Path(folder, "instrumented.onnx")
        onnx.save(model, str(instrumented), save_as_external_data=True, location="weights")
        values = _RUNS[spec.kind](instrumented, [*original, *extra], inputs, spec.threads)
    values |= inputs
    return Observation(
        values={
            path: Values(
                tuple(values[name] for name in scope.entering if name in values),
                tuple(values[name] for name in scope.leaving if name in values),
            )
            for path, scope in wanted.items()
        },
        lines={path: _line(model.graph.node[scope.nodes[-1]]) for path, scope in wanted.items()},
    )


def _scopes(graph: Any) -> dict[str, _Scope]:
    """Maps the dotted path of each submodule with nodes to its scope."""
    producers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    users: dict[str, list[int]] = {}
    for at, node in enumerate(graph.node):
        for name in node.input:
            users.setdefault(name, []).append(at)
    final = {output.name for output in graph.output}
    # A value that depends on weights alone is the same in every call.
    constant = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in constant or not name for name in node.input):
            constant.update(node.output)
    scopes: dict[str, _Scope] = {}
    for at, node in enumerate(graph.node):
        for path in _owners(node):
            scopes.setdefault(path, _Scope()).nodes.append(at)
    for scope in scopes.values():
        inside = set(scope.nodes)
        entering: dict[str, None] = {}
        leaving: dict[str, None] = {}
        for at in scope.nodes:
            node = graph.node[at]
            for name in node.input:
                if name and name not in constant and producers.get(name, -1) not in inside:
                    entering[name] = None
            for name in node.output:
                out = name in final or any(user not in inside for user in users.get(name, ()))
                if name and out and name not in constant:
                    leaving[name] = None
        scope.entering, scope.leaving = list(entering), list(leaving)
    return scopes


def _owners(node: Any) -> list[str]:
    """Returns the dotted paths of the submodules around a node, the outermost first."""
    for metadata_prop in node.metadata_props:
        if metadata_prop.key == _SCOPES:
            try:
                # The last entry is the operator's own name.
                return [str(name) for name in ast.literal_eval(metadata_prop.value)[:-1] if name]
            except (ValueError, SyntaxError):
                return []
    parts = [part for part in node.name.split("/") if part][:-1]
    return [_dotted(parts[: at + 1]) for at in range(len(parts))]


def _dotted(parts: Sequence[str]) -> str:
    """Joins name parts; the older exporter repeats a parent before an index: layer/layer.0."""
    path: list[str] = []
    for part in parts:
        head = part.rpartition(".")[0]
        if head and path and path[-1] == head:
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)


def _prefix(scopes: dict[str, _Scope]) -> str:
    """Returns the path of the model inside the exported module."""
    return next((path for path in ("holder.module", "module") if path in scopes), "")


def _line(node: Any) -> str:
    """Returns file:line of the innermost source line of a node; empty if it names none."""
    for metadata_prop in node.metadata_props:
        if metadata_prop.key == _TRACE:
            lines = _LINE.findall(metadata_prop.value)
            if lines:
                return f"{lines[-1][0]}:{lines[-1][1]}"
    return ""


def _run_onnxruntime(
    file: Path, names: Sequence[str], inputs: dict[str, Tensor], threads: int
) -> dict[str, Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feeds = {name: value.numpy() for name, value in inputs.items()}
    results = session.run(list(names), feeds)
    return {name: torch.as_tensor(value) for name, value in zip(names, results, strict=True)}


def _run_openvino(
    file: Path, names: Sequence[str], inputs: dict[str, Tensor], threads: int
) -> dict[str, Tensor]:
    import openvino

    core = openvino.Core()
    graph = core.read_model(str(file))
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(graph, "CPU", config)
    feeds = {
        at: inputs[name].numpy()
        for at, port in enumerate(graph.inputs)
        for name in port.get_names()
        if name in inputs
    }
    results = compiled(feeds)
    if len(compiled.outputs) != len(names):
        raise ExecutionError(
            f"openvino gives {len(compiled.outputs)} of {len(names)} outputs; explain it with "
            "--engine onnxruntime"
        )
    return {name: torch.as_tensor(results[at].copy()) for at, name in enumerate(names)}


_RUNS = {"onnxruntime": _run_onnxruntime, "openvino": _run_openvino}
