"""Checks that a module gives the same outputs twice, and names the submodule that does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.bundle.manifest import Hazard, Method
from isthmus.capture.module_state import same_tensor
from isthmus.capture.run_module import ModuleRunner, watching
from isthmus.capture.values import flat_outputs
from isthmus.errors import InvalidInput

_RELATIVE = 1e-4
"""The allowed difference as a share of the largest value: sums on several threads may differ in
their order, which explains less than this; dropout differs by more."""


def stuck_in_training(module: nn.Module) -> None:
    """Refuses a module that stays in train mode after `eval()`.

    Raises:
        InvalidInput: A submodule does; names the submodules.
    """
    stuck = [(path, submodule) for path, submodule in module.named_modules() if submodule.training]
    if stuck:
        names = ", ".join(describe(path, submodule) for path, submodule in stuck[:5])
        more = f" and {len(stuck) - 5} more" if len(stuck) > 5 else ""
        raise InvalidInput(
            f"{names}{more} stays in train mode after eval(): its train() or eval() is overridden; "
            "the exported model would be the training one. Make train(mode) call "
            "super().train(mode), or set .training = False on it before exporting"
        )


def describe(path: str, module: nn.Module) -> str:
    """Returns the name of a submodule for messages, such as `"encoder.dropout" (Dropout)`."""
    kind = type(module).__name__
    return f'"{path}" ({kind})' if path else f"the module itself ({kind})"


def check_repeatable(
    runner: ModuleRunner, method: Method, values: Mapping[str, Any]
) -> tuple[Hazard, ...]:
    """Runs a method twice on the same input and the same state, with different random seeds.

    Raises:
        InvalidInput: The outputs differ; names the first submodule that differs on equal inputs.
    """
    outputs = []
    drew = False
    for seed in (1, 2):
        with runner.run(seed):
            before = torch.get_rng_state()
            outputs.append(flat_outputs(method, runner.call(method, values)))
            drew = drew or not torch.equal(before, torch.get_rng_state())
    names = [spec.name for spec in method.outputs]
    differing = [name for name in names if not _close(outputs[0].get(name), outputs[1].get(name))]
    if differing:
        culprit = _first_difference(runner, method, values)
        raise InvalidInput(
            f'{method.name} gives other outputs ("{differing[0]}") on the same input each time: '
            f"the first submodule to differ is {culprit}. In eval mode a model has to be "
            "repeatable: pass training=self.training to functional dropout, or make the random "
            "numbers an input"
        )
    if drew:
        return (
            Hazard(
                "random_operator",
                "warning",
                f"{method.name} draws random numbers, though its outputs did not change on the "
                "example; a branch that uses them would not be reproducible",
            ),
        )
    return ()


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if same_tensor(a, b):
        return True
    if a.dtype != b.dtype or a.shape != b.shape or not a.is_floating_point():
        return False
    bound = _RELATIVE * float(a.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(a.double(), b.double(), rtol=0, atol=bound, equal_nan=True)


@dataclass(frozen=True)
class _Event:
    path: str
    inputs: list[Tensor]
    outputs: list[Tensor]


def _first_difference(runner: ModuleRunner, method: Method, values: Mapping[str, Any]) -> str:
    runs = []
    for seed in (1, 2):
        with runner.run(seed):
            runs.append(_record(runner, method, values))
    modules = dict(runner.module.named_modules())
    # Hooks fire when a call returns, children first: the first event that differs on equal inputs
    # is the innermost submodule that is not repeatable.
    for a, b in zip(*runs, strict=False):
        if a.path != b.path:
            break
        if all_close(a.inputs, b.inputs) and not all_close(a.outputs, b.outputs):
            return describe(a.path, modules[a.path])
    return f"{describe('', runner.module)}, in the code of {method.name} and not in a submodule"


def all_close(a: list[Tensor], b: list[Tensor]) -> bool:
    """Returns True for lists of tensors that differ by no more than the order of sums explains."""
    return len(a) == len(b) and all(_close(x, y) for x, y in zip(a, b, strict=True))


def _record(runner: ModuleRunner, method: Method, values: Mapping[str, Any]) -> list[_Event]:
    events: list[_Event] = []

    def returned(path: str, arguments: Any, result: Any) -> None:
        events.append(_Event(path, _tensors(arguments), _tensors(result)))

    with watching(runner.module, returned):
        runner.call(method, values)
    return events


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach().clone()]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
