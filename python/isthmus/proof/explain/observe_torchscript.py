"""Taps inside a TorchScript archive: its own graphs, with an operator that keeps what passes.

A traced or scripted archive has the model's submodules, each with its graph. The operator is put
before the graph's return and after its inputs; it gives its input on, so nothing else changes.
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
from isthmus.runtime.runners import EngineSpec, TorchJitEngine

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Step

_seen: dict[str, list[Tensor]] = {}


@cache
def _library() -> Any:
    library: Any = torch.library.Library("isthmus_explain", "DEF")  # type: ignore[no-untyped-call]
    library.define("observe(Tensor x, str key) -> Tensor")

    def keep(x: Tensor, key: str) -> Tensor:
        _seen.setdefault(key, []).append(x.detach().cpu().clone())
        return x.clone()

    library.impl("observe", keep, "CompositeExplicitAutograd")
    return library


def observe_torchscript(
    bundle: Bundle, spec: EngineSpec, step: Step, paths: Sequence[str]
) -> Observation:
    """One call of the archive, with taps.

    Args:
        bundle: Holds the archive.
        spec: Names the artifact; no rewriting at load.
        step: The call.
        paths: Submodules, as the model names them.
    """
    _library()
    _seen.clear()
    runner = TorchJitEngine(bundle, bundle.artifact(spec.artifact), spec)
    archive: Any = runner._module
    flat = bundle.artifact(spec.artifact).convention == "flat"
    modules = dict(archive.named_modules())
    tapped = Observation()
    counts: dict[str, tuple[int, int]] = {}
    for path in paths:
        inner = ".".join(one for one in ("module" if flat else "", path) if one)
        module = modules.get(inner)
        if module is None or not _has_graph(module):
            continue
        counts[path] = _tap(module.graph, path)
        tapped.lines[path] = _last_line(module.graph)
    tapped.outputs = runner.run(step.method, step.inputs)
    for path, (inputs, outputs) in counts.items():
        first_in = [
            _seen[f"{path}|in|{at}"][0] for at in range(inputs) if f"{path}|in|{at}" in _seen
        ]
        first = [
            _seen[f"{path}|out|{at}"][0] for at in range(outputs) if f"{path}|out|{at}" in _seen
        ]
        if first:
            tapped.values[path] = Values(tuple(first_in), tuple(first))
    return tapped


def _has_graph(module: Any) -> bool:
    try:
        module.graph  # noqa: B018  (a property that raises)
    except (AttributeError, RuntimeError):
        return False
    return True


def _tap(graph: Any, path: str) -> tuple[int, int]:
    """Puts the taps in; gives how many inputs and outputs they keep."""
    inputs = 0
    for value in list(graph.inputs())[1:]:
        if _is_tensor(value):
            first = next(iter(graph.nodes()), graph.return_node())
            node = _node(graph, value, f"{path}|in|{inputs}", before=first)
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
                node = _node(graph, part, f"{path}|out|{outputs}", before=end)
                end.replaceInputWith(part, node.output())
                outputs += 1
    return inputs, outputs


def _is_tensor(value: Any) -> bool:
    return bool(value.type().kind() == "TensorType")


def _node(graph: Any, value: Any, key: str, *, before: Any) -> Any:
    constant = graph.insertConstant(key)
    constant.node().moveBefore(before)
    node = graph.create("isthmus_explain::observe", [value, constant], 1)
    node.insertBefore(before)
    node.output().setType(value.type())
    return node


def _last_line(graph: Any) -> str:
    """Where the last operator of a graph was written."""
    for node in reversed(list(graph.nodes())):
        if node.kind().startswith("aten::"):
            location, _ = in_source_range(node.sourceRange())
            if location:
                return str(location)
    return ""
