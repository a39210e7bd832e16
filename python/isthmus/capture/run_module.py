"""Runs the untouched module: in eval mode, without gradients, from its saved state."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isthmus.capture.module_state import ModuleState, same_tensor
from isthmus.capture.values import arguments, arguments_after, serves
from isthmus.errors import InvalidInput

if TYPE_CHECKING:
    from isthmus.bundle.manifest import Method


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module in eval mode; afterwards each submodule is in the mode it came in."""
    # Written straight into `training`: an overridden `train()` could refuse to go back.
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    try:
        try:
            module.eval()
        except NotImplementedError:  # a program that torch.export made has one mode only
            for submodule, _ in modes:
                submodule.training = False
        yield
    finally:
        for submodule, training in modes:
            if submodule.training != training:
                submodule.training = training


@contextmanager
def watching(module: nn.Module, returned: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Calls a function after each call of a submodule: with its path, arguments and result.

    Scripted submodules take no Python hooks and are left out. Children return before their parents.
    """
    with ExitStack() as stack:
        for path, submodule in module.named_modules():
            if not isinstance(submodule, torch.jit.ScriptModule):

                def hook(_: nn.Module, args: Any, kwargs: Any, result: Any, at: str = path) -> None:
                    returned(at, (args, kwargs), result)

                handle = submodule.register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of torch, Python and NumPy; afterwards they are as before."""
    numpy: Any = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy is not None else None
    cuda: Any = torch.cuda
    devices = list(range(cuda.device_count())) if cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            random.seed(seed)
            if numpy is not None:
                numpy.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


def fresh(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns copies of the tensors, outside any graph, because a call may write its inputs."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in values.items()
    }


@dataclass(frozen=True)
class Effects:
    """What a call did to its inputs."""

    before: Mapping[str, Any]
    """The inputs as they were handed in, by name."""
    after: Mapping[str, Any]
    """The inputs as the call left them; an item that it replaced in a list or a dictionary is the
    new one."""
    restructured: tuple[str, ...]
    """The arguments whose nesting the call changed, such as a list to which it appended."""

    @property
    def written(self) -> tuple[str, ...]:
        """Returns the names of the inputs whose tensors the call changed in place or replaced.

        The version of a tensor counts its changes, also those that left every value as it was.
        """
        return tuple(
            name
            for name, value in self.before.items()
            if isinstance(value, Tensor) and _is_written(value, self.after[name])
        )


def _is_written(before: Tensor, after: Any) -> bool:
    if not isinstance(after, Tensor):
        return True
    if not after.is_inference() and after._version > 0:
        return True
    return not same_tensor(before, after)


def call(module: nn.Module, method: Method, values: Mapping[str, Any]) -> tuple[Any, Effects]:
    """Calls a method on copies of the inputs, in `no_grad`; returns its nested result and effects.

    Modes, state and random numbers are left to the caller; `ModuleRunner` controls them.

    Args:
        module: The module that has the method.
        method: The method's inputs and their nesting.
        values: Inputs by name.

    Raises:
        InvalidInput: The method does not serve these sizes and numbers together.
        Exception: Whatever the module raises.
    """
    if not serves(method, values):
        raise InvalidInput(f"{method.name} does not serve these sizes and numbers together")
    copies = fresh(values)
    # Not inference_mode: state that is written in there could never be written again outside.
    # Structured control flow (torch.cond) compiles itself when it is called, and fails once a call
    # was watched; run eagerly, it needs no compiler.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        args, kwargs = arguments(method, copies)
        result = function_of(module, method)(*args, **kwargs)
    after, restructured = arguments_after(method, args, kwargs, copies)
    return result, Effects(values, {**copies, **after}, restructured)


def function_of(module: nn.Module, method: Method) -> Any:
    """Returns what to call for a method: the module itself for forward, so that hooks run."""
    return module if method.name == "forward" else getattr(module, method.name)


class ModuleRunner:
    """Runs a module's methods and leaves the module exactly as it came.

    Inside the context the module is in eval mode; leaving it restores the modes, and the state
    that the module had when the context was entered. Each `run` starts from that state.
    """

    def __init__(self, module: nn.Module, *, stateful: bool = True) -> None:
        """Prepares a runner.

        Args:
            module: Any module; its submodules may be in different modes.
            stateful: False when calls are known to change nothing: no state is saved.
        """
        self.module = module
        self._stateful = stateful
        self._state: ModuleState | None = None
        self._stack = ExitStack()

    def __enter__(self) -> ModuleRunner:
        """Puts the module in eval mode and saves its state."""
        self._stack.enter_context(evaluating(self.module))
        if self._stateful:
            self._state = ModuleState(self.module)
        return self

    def __exit__(self, *error: object) -> None:
        """Restores the state and the modes."""
        with self._stack:
            self._restore()

    @contextmanager
    def run(self, seed: int = 0) -> Iterator[None]:
        """Starts a sequence of calls from the saved state, which is restored afterwards."""
        try:
            with seeded(seed):
                yield
        finally:
            self._restore()

    def call(self, method: Method, values: Mapping[str, Any]) -> Any:
        """Calls a method of the module, and returns its nested result; see `call`."""
        return call(self.module, method, values)[0]

    def accepts(self, method: Method, values: Mapping[str, Any]) -> bool:
        """Returns False when the module raises anything for these inputs, in a run of its own."""
        try:
            with self.run():
                self.call(method, values)
        except Exception:
            return False
        return True

    def call_watched(self, method: Method, values: Mapping[str, Any]) -> tuple[Any, Effects]:
        """Calls a method of the module, and returns its result and its effects; see `call`."""
        return call(self.module, method, values)

    def changed(self) -> tuple[str, ...]:
        """Returns the dotted names of the attributes that the calls of this run changed."""
        return self._state.changed() if self._state is not None else ()

    def _restore(self) -> None:
        if self._state is not None:
            self._state.restore()
