"""The worker process that observes intermediate outputs inside an artifact.

`python -m isthmus.proof.explain.observe REQUEST` runs the first call of one golden through an
artifact and writes the inputs and outputs of the submodules that the request names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isthmus.proof.explain.observation import Observation, write
from isthmus.runtime.worker_main import run_worker


def observe(request: Mapping[str, Any]) -> Observation:
    """Runs the artifact of a request and observes the submodules at its `paths`."""
    from isthmus.bundle.bundle import open_bundle
    from isthmus.runtime.engine_spec import EngineSpec

    spec = EngineSpec.from_json(request["spec"])
    bundle = open_bundle(Path(spec.bundle))
    step = bundle.golden(request["golden"]).steps[0]
    if spec.kind == "torch.jit":
        from isthmus.proof.explain.observe_torchscript import observe_torchscript

        return observe_torchscript(bundle, spec, step, request["paths"])
    from isthmus.proof.explain.observe_onnx import observe_onnx

    return observe_onnx(bundle, spec, step, request["paths"])


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    write(observe(request), Path(request["folder"]))
    return {}


if __name__ == "__main__":
    run_worker(_answer)
