"""Observes a TorchScript archive: an operator in its graphs copies the values that pass.

A traced or scripted archive has the model's submodules, each with its graph. The operator is put
after the graph's inputs and before its return, and returns its input unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isthmus.exporters.source_lines import in_source_range
from isthmus.proof.explain.layers import Values
from isthmus.proof.explain.observation import Observation
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.python_engines import TorchJitEngine

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Step

_seen: dict[str, Tensor] = {}
"""Maps "PATH|in|INDEX" or "PATH|out|INDEX" to the value of the first call."""


@cache
def _library() -> Any:
    library: Any = torch.library.Library("isthmus_explain", "DEF")  # type: ignore[no-untyped-call]
    library.define("observe(Tensor x, str key) -> Tensor")

    def keep(x: Tensor, key: str) -> Tensor:
        if key not in _seen:
            _seen[key] = x.detach().cpu().clone()
        return x.clone()

    library.impl("observe", keep, "CompositeExplicitAutograd")
    return library


def observe_torchscript(
    bundle: Bundle, spec: EngineSpec, step: Step, paths: Sequence[str]
) -> Observation:
    """Runs one call of the archive and observes the submodules.

    Args:
        bundle: The bundle that holds the archive.
        spec: The artifact; its `optimize` is "none", because other graphs have no submodules.
        step: The call.
        paths: The dotted paths of the submodules in the model.
    """
    _library()
    _seen.clear()
    engine = TorchJitEngine(bundle, bundle.artifact(spec.artifact), spec)
    archive: Any = engine._module
    artifact = bundle.artifact(spec.artifact)
    # Such an archive holds the model inside another module.
    held = artifact.convention == "flat" or any(
        hazard.kind == "last_member" for hazard in artifact.hazards
    )
    modules = dict(archive.named_modules())
    observation = Observation()
    counts: dict[str, tuple[int, int]] = {}
    for path in paths:
        inner = ".".join(part for part in ("module" if held else "", path) if part)
        module = modules.get(inner)
        if module is None or not _has_graph(module):
            continue
        counts[path] = _instrument(module.graph, path)
        observation.lines[path] = _last_line(module.graph)
    engine.run(step.method, step.inputs)
    for path, (inputs, outputs) in counts.items():
        values = Values(_seen_at(f"{path}|in", inputs), _seen_at(f"{path}|out", outputs))
        if values.outputs:
            observation.values[path] = values
    return observation


def _seen_at(side: str, count: int) -> tuple[Tensor, ...]:
    keys = (f"{side}|{at}" for at in range(count))
    return tuple(_seen[key] for key in keys if key in _seen)


def _has_graph(module: Any) -> bool:
    try:
        module.graph  # noqa: B018  (a property that raises)
    except (AttributeError, RuntimeError):
        return False
    return True


def _instrument(graph: Any, path: str) -> tuple[int, int]:
    """Inserts the operators, and returns how many inputs and outputs they copy."""
    inputs = 0
    for value in list(graph.inputs())[1:]:
        if _is_tensor(value):
            first = next(iter(graph.nodes()), graph.return_node())
            node = _insert(graph, value, f"{path}|in|{inputs}", before=first)
            value.replaceAllUsesAfterNodeWith(node, node.output())
            inputs += 1
    outputs = 0
    end = graph.return_node()
    for value in list(end.inputs()):
        parts = [value]
        if value.node().kind() in ("prim::TupleConstruct", "prim::ListConstruct"):
            end = value.node()
            parts = list(end.inputs())
        elif value.node().kind() == "prim::DictConstruct":
            end = value.node()
            parts = list(end.inputs())[1::2]
        for part in parts:
            if _is_tensor(part):
                node = _insert(graph, part, f"{path}|out|{outputs}", before=end)
                end.replaceInputWith(part, node.output())
                outputs += 1
    return inputs, outputs


def _is_tensor(value: Any) -> bool:
    return bool(value.type().kind() == "TensorType")


def _insert(graph: Any, value: Any, key: str, *, before: Any) -> Any:
    constant = graph.insertConstant(key)
    constant.node().moveBefore(before)
    node = graph.create("isthmus_explain::observe", [value, constant], 1)
    node.insertBefore(before)
    node.output().setType(value.type())
    return node


def _last_line(graph: Any) -> str:
    """Returns file:line of a graph's last operator; empty if it names none."""
    for node in reversed(list(graph.nodes())):
        if node.kind().startswith("aten::"):
            where, _ = in_source_range(node.sourceRange())
            if where:
                return where
    return ""
