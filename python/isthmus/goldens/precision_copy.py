"""Runs a module in another precision: as a copy that is cast, or cast part by part as it runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from isthmus.bundle.manifest import written_name
from isthmus.capture.flat import returns_tree, tensors_of
from isthmus.capture.run_module import ModuleRunner

if TYPE_CHECKING:
    from isthmus.bundle.manifest import Method

_SPARE = 1.5
"""A copy is made when this many times its size is free."""


def deep_copy(module: nn.Module) -> nn.Module:
    """Returns a deep copy that shares compiled functions, which have no state and no copy.

    Raises:
        Exception: Whatever the module's own `__deepcopy__` raises.
    """
    memo: dict[int, Any] = {
        id(value): value
        for submodule in module.modules()
        for value in vars(submodule).values()
        if isinstance(value, torch.jit.ScriptFunction)
    }
    return copy.deepcopy(module, memo)


def cast_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Returns a deep copy in another floating-point type, plain tensor attributes included.

    Raises:
        Exception: Whatever the module's own `__deepcopy__` raises.
    """
    copied = deep_copy(module).to(dtype)
    for submodule in copied.modules():
        if isinstance(submodule, torch.jit.ScriptModule):
            continue
        for name, value in list(vars(submodule).items()):
            if name not in ("_parameters", "_buffers", "_modules"):
                cast = cast_values(value, dtype)
                if cast is not value:
                    vars(submodule)[name] = cast
    return copied


def cast_values(value: Any, dtype: torch.dtype) -> Any:
    """Returns a value with its floating-point tensors cast; the same object when it has none."""
    if isinstance(value, nn.Parameter):
        return value
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        items = [cast_values(item, dtype) for item in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return type(value)(items)
    if type(value) is dict:
        cast = {key: cast_values(item, dtype) for key, item in value.items()}
        return value if all(cast[key] is value[key] for key in value) else cast
    return value


def fits_in_memory(module: nn.Module, dtype: torch.dtype) -> bool:
    """Returns True when a copy in this type fits into free memory, or that is not known."""
    needed = sum(parameter.numel() for parameter in (*module.parameters(), *module.buffers()))
    needed *= torch.empty((), dtype=dtype).element_size()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    free = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return free is None or needed * _SPARE < int(free) * 1024


@contextmanager
def cast_by_parts(module: nn.Module, dtype: torch.dtype) -> Iterator[nn.Module]:
    """Makes the module itself compute in another type: each submodule is cast when it runs.

    Only the parameters and buffers of the submodules that are running exist in that type, so a
    model whose copy does not fit in memory can be run. A submodule that uses another's parameters
    without calling it fails on mixed types.

    Args:
        module: The module; afterwards it is as it was, even after an error.
        dtype: The floating-point type to compute in.
    """
    with ExitStack() as stack:
        for submodule in module.modules():
            if submodule._parameters or submodule._buffers:
                part = _Part(submodule, dtype)
                before = submodule.register_forward_pre_hook(part.enter, prepend=True)
                after = submodule.register_forward_hook(part.leave, always_call=True)
                stack.callback(part.restore)
                stack.callback(after.remove)
                stack.callback(before.remove)
        yield module


class _Part:
    """The direct parameters and buffers of a submodule; its calls may be nested."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._module = module
        self._dtype = dtype
        self._depth = 0
        self._original: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    def enter(self, module: nn.Module, args: Any) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self._original = (dict(module._parameters), dict(module._buffers))
        for name, value in module._parameters.items():
            if value is not None and value.is_floating_point():
                cast = nn.Parameter(value.detach().to(self._dtype), requires_grad=False)
                module._parameters[name] = cast
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.to(self._dtype)

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.restore()

    def restore(self) -> None:
        """Restores the original parameters and buffers."""
        parameters, buffers = self._original
        self._module._parameters.update(parameters)
        self._module._buffers.update(buffers)
        self._original, self._depth = ({}, {}), 0


Calls = Sequence[tuple[str, Mapping[str, Any]]]
"""A sequence of calls: the method and the flat inputs of each."""


class Callee(Protocol):
    """A module and the signatures of its methods: a `Captured`, or a manifest with a module."""

    @property
    def module(self) -> nn.Module:
        """The module in the modes it came in."""

    @property
    def stateful(self) -> bool:
        """True when calls change attributes."""

    def method(self, name: str = "forward") -> Method:
        """Returns the method of that name."""
        ...


class PrecisionCopy:
    """A module in another precision, to be run on the same sequences of calls."""

    def __init__(
        self, captured: Callee, dtype: torch.dtype, *, by_parts: bool | None = None
    ) -> None:
        """Copies and casts the module.

        Args:
            captured: The module and its methods.
            dtype: The type to compute in.
            by_parts: True to cast each submodule when it runs instead of copying the module; None
                to do so when a copy does not fit in memory. A stateful module is always copied.

        Raises:
            Exception: The module cannot be copied or cast.
        """
        self._captured = captured
        self._dtype = dtype
        if by_parts is None:
            by_parts = not fits_in_memory(captured.module, dtype)
        self._by_parts = by_parts and not captured.stateful
        self._module = captured.module if self._by_parts else cast_copy(captured.module, dtype)

    def run(self, steps: Calls) -> list[dict[str, Tensor]]:
        """Returns the results of each call by name (`Method.results`), on the CPU.

        Raises:
            Exception: The module fails in this type, for example on a literal dtype.
        """
        results = []
        runner = ModuleRunner(self._module, stateful=self._captured.stateful)
        with ExitStack() as stack:
            if self._by_parts:
                stack.enter_context(cast_by_parts(self._module, self._dtype))
            stack.enter_context(runner)
            stack.enter_context(runner.run())
            for name, values in steps:
                method = self._captured.method(name)
                cast = {key: cast_values(value, self._dtype) for key, value in values.items()}
                # The nesting is that of this result, because optional outputs are not known yet.
                result, effects = runner.call_watched(method, cast)
                _, leaves = returns_tree(name, result)
                tensors = tensors_of(leaves)
                for written in method.writes:
                    if isinstance(effects.after.get(written), Tensor):
                        tensors[written_name(written)] = effects.after[written]
                results.append({key: value.detach().cpu() for key, value in tensors.items()})
        return results
