"""What the submodules take and give inside an artifact: the interface, and its worker process.

`python -m isthmus.proof.explain.observe REQUEST` runs one golden's first call through an
artifact with taps at some submodules, in a process of its own, and writes what it saw as
safetensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.proof.explain.layers import Values

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Observation", "read", "write"]


@dataclass
class Observation:
    """What was seen inside an artifact."""

    values: dict[str, Values] = field(default_factory=dict)
    """By the submodule's path; paths that the artifact does not show are missing."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Of the whole model, with the taps in place."""
    lines: dict[str, str] = field(default_factory=dict)
    """By path: file:line of the last operator, where the artifact tells."""
    weights: dict[str, str] = field(default_factory=dict)
    """By path: how a weight differs from the model's, where it can be told."""


def write(tapped: Observation, folder: Path) -> None:
    """Tensors as one safetensors file, the rest as JSON beside it."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    paths: dict[str, dict[str, int]] = {}
    for index, (path, values) in enumerate(tapped.values.items()):
        paths[path] = {
            "index": index,
            "inputs": len(values.inputs),
            "outputs": len(values.outputs),
        }
        for side, several in (("in", values.inputs), ("out", values.outputs)):
            for at, one in enumerate(several):
                tensors[f"{index}/{side}/{at}"] = one.contiguous().clone()
    for name, output in tapped.outputs.items():
        tensors[f"model/{name}"] = output.contiguous().clone()
    save_file(tensors, folder / "taps.safetensors")
    facts = {"paths": paths, "lines": tapped.lines, "outputs": list(tapped.outputs)}
    (folder / "taps.json").write_text(json.dumps(facts), encoding="utf-8")


def read(folder: Path) -> Observation:
    """What `write` wrote."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "taps.safetensors")
    facts = json.loads((folder / "taps.json").read_text(encoding="utf-8"))
    return Observation(
        values={
            path: Values(*(_side(tensors, fact, side) for side in ("in", "out")))
            for path, fact in facts["paths"].items()
        },
        outputs={name: tensors[f"model/{name}"] for name in facts["outputs"]},
        lines=facts["lines"],
    )


def _side(tensors: Mapping[str, Any], one: Mapping[str, int], side: str) -> tuple[Any, ...]:
    count = one["inputs" if side == "in" else "outputs"]
    return tuple(tensors[f"{one['index']}/{side}/{at}"] for at in range(count))


def observe(runner: str, request: Mapping[str, Any]) -> Observation:
    """Runs the artifact of a request, with taps at its `paths`."""
    from isthmus.bundle.bundle import open_bundle
    from isthmus.runtime.runners import EngineSpec

    spec = EngineSpec.from_json(request["spec"])
    bundle = open_bundle(Path(spec.bundle))
    golden = bundle.golden(request["golden"])
    paths: Sequence[str] = request["paths"]
    if runner == "torch.jit":
        from isthmus.proof.explain.observe_torchscript import observe_torchscript

        return observe_torchscript(bundle, spec, golden.steps[0], paths)
    from isthmus.proof.explain.observe_onnx import observe_onnx

    return observe_onnx(bundle, spec, golden.steps[0], paths)


def main() -> None:
    """Answers the request that the command line names."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    write(observe(request["spec"]["kind"], request), Path(request["folder"]))
    Path(request["answer"]).write_text("{}", encoding="utf-8")


if __name__ == "__main__":
    main()
