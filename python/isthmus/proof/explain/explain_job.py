"""The call that is explained, and how the model makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import Artifact, Method
from isthmus.goldens.precision_copy import cast_values
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.run_options import RunOptions

if TYPE_CHECKING:
    import torch

    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden, Step
    from isthmus.capture.run_module import ModuleRunner

__all__ = ["ENGINES", "ExplainJob", "run_step"]

ENGINES = {"torchscript": "torch.jit", "onnxruntime": "onnxruntime", "openvino": "openvino"}
"""Maps an engine's name to the Python runtime whose intermediate outputs are observed."""


@dataclass(frozen=True)
class ExplainJob:
    """The call that is explained, and how the engine may run it."""

    bundle: Bundle
    artifact: Artifact
    engine: str
    golden: Golden
    options: RunOptions

    @property
    def spec(self) -> EngineSpec:
        """The Python runtime that the worker process loads."""
        kind = ENGINES[self.engine]
        return self.options.spec(self.bundle, kind, "cpu", artifact=self.artifact.name)

    @property
    def step(self) -> Step:
        """The first call of the golden."""
        return self.golden.steps[0]

    @property
    def method(self) -> Method:
        """The method that the step calls."""
        methods = self.bundle.manifest.methods
        return next(method for method in methods if method.name == self.step.method)


def run_step(
    runner: ModuleRunner, method: Method, step: Step, dtype: torch.dtype | None = None
) -> Any:
    """Calls the module once, with its inputs cast to `dtype`, and returns its nested result."""
    values: Mapping[str, Any] = step.inputs
    if dtype is not None:
        values = {name: cast_values(value, dtype) for name, value in values.items()}
    with runner.run():
        return runner.call(method, values)
