"""Observes AOTInductor by an instrumented copy, because packages hide intermediate outputs.

The copy is exported and compiled from the model, so it shows errors of the compiler, but not those
of the package alone. To find these, the package's weights are compared with the model's and
ablated (`isthmus.proof.explain.weight_ablation`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.bundle.manifest import Method
from isthmus.exporters.subprocess_export import isolated
from isthmus.exporters.torchscript.trace import as_tensors, flat_holder
from isthmus.goldens.precision_copy import deep_copy
from isthmus.proof.explain.explain_job import ExplainJob
from isthmus.proof.explain.layers import Values, tensors_in
from isthmus.proof.explain.observation import Observation

__all__ = ["observe_aoti"]

_Counts = dict[tuple[str, str], int]
"""Maps a submodule's path and "in" or "out" to its number of tensors."""


class _Instrumented(nn.Module):
    """Returns the model's outputs, then the inputs and outputs of some submodules."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        paths: Collection[str],
        count: Callable[[_Counts], None],
    ) -> None:
        """Registers the hooks.

        Args:
            model: The module; it keeps the hooks.
            method: The method that is called.
            paths: The dotted paths of the submodules.
            count: Receives, at each call, the number of tensors that follow the outputs.
        """
        super().__init__()
        self.holder = flat_holder(model, [method])
        self._method = method.name
        self._kept: dict[tuple[str, str], list[Tensor]] = {}
        # A function, because export resets attributes to their values before the call.
        self._count = count
        for path, submodule in model.named_modules():
            if path in paths:
                submodule.register_forward_pre_hook(self._before(path), with_kwargs=True)
                submodule.register_forward_hook(self._after(path))

    def _before(self, path: str) -> Callable[..., None]:
        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._keep(path, "in", (args, kwargs))

        return before

    def _after(self, path: str) -> Callable[..., None]:
        def after(_: nn.Module, args: Any, result: Any) -> None:
            self._keep(path, "out", result)

        return after

    def _keep(self, path: str, side: str, value: Any) -> None:
        # Export would merge outputs that are the same tensor.
        self._kept.setdefault((path, side), [tensor.clone() for tensor in tensors_in(value)])

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """Runs the method on flat inputs."""
        self._kept.clear()
        outputs = getattr(self.holder, self._method)(*flat)
        self._count({place: len(tensors) for place, tensors in self._kept.items()})
        return (*outputs, *(tensor for tensors in self._kept.values() for tensor in tensors))


def observe_aoti(model: nn.Module, job: ExplainJob, paths: Sequence[str]) -> Observation:
    """Compiles an instrumented copy for the shapes of the job's call, and runs that call.

    Args:
        model: The module; is left as it came.
        job: The call.
        paths: The dotted paths of the submodules.

    Raises:
        ExportError: The process died or took too long.
        Exception: The exporter or the compiler failed.
    """
    method = job.method

    def work(say: Callable[[str], None]) -> tuple[list[Tensor], _Counts]:
        # The counts are those under export: a model may pass other masks than in eager mode.
        counts: _Counts = {}

        def count(latest: _Counts) -> None:
            counts.clear()
            counts.update(latest)

        copy = _Instrumented(deep_copy(model).eval(), method, paths, count).eval()
        args = as_tensors(method, job.step.inputs, "cpu")
        with tempfile.TemporaryDirectory(prefix="isthmus-explain-") as folder, torch.no_grad():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                say(f"Exporting a copy that returns the values of {len(paths)} submodules")
                program = torch.export.export(copy, args, strict=False)
                say("Compiling it")
                package = torch._inductor.aoti_compile_and_package(
                    program, package_path=str(Path(folder, "instrumented.pt2"))
                )
                results = torch._inductor.aoti_load_package(package)(*args)
        return [tensor.clone() for tensor in tensors_in(results)], counts

    tensors, counts = isolated(work, seconds=job.options.timeout, progress=job.options.say)
    observation = Observation()
    rest = tensors[len(method.results) :]
    for (path, side), count in counts.items():
        values = observation.values.setdefault(path, Values())
        if side == "in":
            values.inputs = tuple(rest[:count])
        else:
            values.outputs = tuple(rest[:count])
        rest = rest[count:]
    return observation
