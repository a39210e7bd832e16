"""Taps for AOTInductor, whose packages show nothing inside: an instrumented copy is compiled.

The copy is exported from the model at hand; so this finds what the compiler does wrong, and not
what is wrong in the package alone. For that its weights are compared with the model's, and set to
zero (`isthmus.proof.explain.weight_ablation`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isthmus.bundle.manifest import Method
from isthmus.exporters.subprocess_export import isolated
from isthmus.exporters.torchscript.trace import as_tensors, flat_holder
from isthmus.goldens.precision_copy import deep_copy
from isthmus.proof.explain.layers import Values, tensors_in
from isthmus.proof.explain.observation import Observation

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Step

__all__ = ["observe_aoti", "weights_of_package"]


class _Instrumented(nn.Module):
    """Gives the model's outputs, and what some submodules take and give."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        paths: Collection[str],
        count: Callable[[dict[tuple[str, str], int]], None],
    ) -> None:
        """Puts the taps in.

        Args:
            model: The module.
            method: The one that is called.
            paths: Submodules.
            count: Is told, at each call, how many tensors follow by path and side, "in" or "out".
        """
        super().__init__()
        self.holder = flat_holder(model, [method])
        self._method = method.name
        self._kept: dict[tuple[str, str], list[Tensor]] = {}
        # A function, since export gives attributes that hold values back as they were.
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
        # Copies, lest an output is also another's, which export would merge.
        self._kept.setdefault((path, side), [one.clone() for one in tensors_in(value)])

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """The flat outputs, then what the submodules took and gave."""
        self._kept.clear()
        outputs = getattr(self.holder, self._method)(*flat)
        self._count({place: len(several) for place, several in self._kept.items()})
        return (*outputs, *(one for several in self._kept.values() for one in several))


def observe_aoti(
    model: nn.Module,
    method: Method,
    step: Step,
    paths: Sequence[str],
    *,
    seconds: float,
    progress: Callable[[str], None],
) -> Observation:
    """Compiles an instrumented copy at the shapes of one call, and runs that call.

    Args:
        model: The module, in eval mode; is left as it came.
        method: The one that is called.
        step: The call.
        paths: Submodules.
        seconds: How long it may take.
        progress: Called with a sentence at each stage.

    Raises:
        ExportError: The process died or took too long.
        Exception: What the exporter or the compiler raised.
    """

    def work(say: Callable[[str], None]) -> tuple[list[Tensor], dict[tuple[str, str], int]]:
        # As it was exported: a model may give its submodules another mask then.
        counts: dict[tuple[str, str], int] = {}

        def count(found: dict[tuple[str, str], int]) -> None:
            counts.clear()
            counts.update(found)

        copy = _Instrumented(deep_copy(model).eval(), method, paths, count).eval()
        args = as_tensors(method, step.inputs, "cpu")
        with tempfile.TemporaryDirectory(prefix="isthmus-explain-") as folder, torch.no_grad():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                say(f"Exporting a copy with {len(paths)} taps")
                program = torch.export.export(copy, args, strict=False)
                say("Compiling it")
                package = torch._inductor.aoti_compile_and_package(
                    program, package_path=str(Path(folder, "tapped.pt2"))
                )
                found = torch._inductor.aoti_load_package(package)(*args)
        return [one.clone() for one in tensors_in(found)], counts

    found, counts = isolated(work, seconds=seconds, progress=progress)
    names = [spec.name for spec in method.outputs]
    tapped = Observation(outputs=dict(zip(names, found, strict=False)))
    rest = found[len(names) :]
    for (path, side), count in counts.items():
        values = tapped.values.setdefault(path, Values())
        if side == "in":
            values.inputs = tuple(rest[:count])
        else:
            values.outputs = tuple(rest[:count])
        rest = rest[count:]
    return tapped


def weights_of_package(bundle: Bundle, name: str) -> Mapping[str, Tensor]:
    """Constants of a package by the model's parameter names; runs its native code.

    Empty where this torch cannot give them.
    """
    from isthmus.proof.explain.weight_ablation import open_package

    with open_package(bundle, name) as package:
        return {} if package is None else package.weights
