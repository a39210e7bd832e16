"""Taps inside an ONNX file: values that leave a submodule become outputs of the graph.

Exporters write the submodule into each node: the one that starts from `torch.export` as metadata
("pkg.torch.onnx.name_scopes"), the older one as the node's name.
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
from isthmus.runtime.runners import EngineSpec

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Step

_SCOPES = "pkg.torch.onnx.name_scopes"
_TRACE = "pkg.torch.onnx.stack_trace"
_LINE = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass
class _Scope:
    """The nodes of one submodule, and the values that cross its border."""

    nodes: list[int] = field(default_factory=list)
    entering: list[str] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)


def observe_onnx(bundle: Bundle, spec: EngineSpec, step: Step, paths: Sequence[str]) -> Observation:
    """One call of the file, with taps, in the engine that the spec's kind names.

    Args:
        bundle: Holds the file.
        spec: Names the artifact.
        step: The call.
        paths: Submodules, as the model names them.
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
        found = scopes.get(".".join(one for one in (prefix, path) if one))
        if found is not None and found.leaving:
            wanted[path] = found
    existing = {one.name for one in model.graph.output}
    names = [name for scope in wanted.values() for name in (*scope.leaving, *scope.entering)]
    extra = [name for name in dict.fromkeys(names) if name not in existing]
    given = {one.name for one in model.graph.input}
    extra = [name for name in extra if name not in given]
    original = [one.name for one in model.graph.output]
    for name in extra:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    inputs = {key: value for key, value in step.inputs.items() if key in given}
    with tempfile.TemporaryDirectory(prefix="isthmus-explain-") as folder:
        # As a file with its weights beside it: one message holds 2 GB at most.
        tapped = Path(folder, "tapped.onnx")
        onnx.save(model, str(tapped), save_as_external_data=True, location="weights")
        values = _RUNS[spec.kind](tapped, [*original, *extra], inputs, spec.threads)
    values |= inputs
    signature = bundle.manifest.methods[index]
    outputs = {
        output.name: values[name] for output, name in zip(signature.outputs, original, strict=True)
    }
    return Observation(
        values={
            path: Values(
                tuple(values[name] for name in scope.entering if name in values),
                tuple(values[name] for name in scope.leaving if name in values),
            )
            for path, scope in wanted.items()
        },
        outputs=outputs,
        lines={path: _line(model.graph.node[scope.nodes[-1]]) for path, scope in wanted.items()},
    )


def _scopes(graph: Any) -> dict[str, _Scope]:
    """By the dotted path of each submodule that any node belongs to."""
    owners = [_owners(node) for node in graph.node]
    fixed = {one.name for one in graph.initializer}
    makers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    users: dict[str, list[int]] = {}
    for at, node in enumerate(graph.node):
        for name in node.input:
            users.setdefault(name, []).append(at)
    final = {one.name for one in graph.output}
    # What follows from weights alone is no value of the call.
    constant = set(fixed)
    for node in graph.node:
        if all(name in constant or not name for name in node.input):
            constant.update(node.output)
    scopes: dict[str, _Scope] = {}
    for at, paths in enumerate(owners):
        for path in paths:
            scopes.setdefault(path, _Scope()).nodes.append(at)
    for scope in scopes.values():
        inside = set(scope.nodes)
        entering: dict[str, None] = {}
        leaving: dict[str, None] = {}
        for at in scope.nodes:
            node = graph.node[at]
            for name in node.input:
                if name and name not in constant and makers.get(name, -1) not in inside:
                    entering[name] = None
            for name in node.output:
                out = name in final or any(user not in inside for user in users.get(name, ()))
                if name and out and name not in constant:
                    leaving[name] = None
        scope.entering, scope.leaving = list(entering), list(leaving)
    return scopes


def _owners(node: Any) -> list[str]:
    for metadata_prop in node.metadata_props:
        if metadata_prop.key == _SCOPES:
            try:
                # The last is the operator's own name.
                return [str(name) for name in ast.literal_eval(metadata_prop.value)[:-1] if name]
            except (ValueError, SyntaxError):
                return []
    parts = [part for part in node.name.split("/") if part][:-1]
    return [_dotted(parts[: at + 1]) for at in range(len(parts))]


def _dotted(parts: Sequence[str]) -> str:
    """The older exporter repeats the parents' path in an index: layer/layer.0 is layer.0."""
    path: list[str] = []
    for part in parts:
        head = part.rpartition(".")[0]
        if head and path and path[-1] == head:
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)


def _prefix(scopes: dict[str, _Scope]) -> str:
    """What stands before the model's own paths."""
    return next((one for one in ("holder.module", "module") if one in scopes), "")


def _line(node: Any) -> str:
    """The innermost line of the source that a node tells of."""
    for metadata_prop in node.metadata_props:
        if metadata_prop.key == _TRACE:
            found = _LINE.findall(metadata_prop.value)
            if found:
                return f"{found[-1][0]}:{found[-1][1]}"
    return ""


def _run_onnxruntime(
    file: Path, names: Sequence[str], inputs: dict[str, Tensor], threads: int
) -> dict[str, Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feeds = {name: value.numpy() for name, value in inputs.items()}
    found = session.run(list(names), feeds)
    return {name: torch.as_tensor(one) for name, one in zip(names, found, strict=True)}


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
    found = compiled(feeds)
    if len(compiled.outputs) != len(names):
        raise ExecutionError(
            f"openvino gives {len(compiled.outputs)} of {len(names)} outputs; explain it with "
            "--engine onnxruntime"
        )
    return {name: torch.as_tensor(found[at].copy()) for at, name in enumerate(names)}


_RUNS = {"onnxruntime": _run_onnxruntime, "openvino": _run_openvino}
