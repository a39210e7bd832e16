"""Scripts a whole module, or parts of a module that is traced around them."""

from __future__ import annotations

import copy
import difflib
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from isthmus.errors import InvalidInput
from isthmus.exporters.options import Target


class ScriptingFailed(Exception):
    """The TorchScript compiler refused one target."""

    def __init__(self, target: Target, error: Exception) -> None:
        super().__init__(f"{describe(target)} cannot be scripted: {error}")
        self.target = target
        self.error = error


def describe(target: Target) -> str:
    """Returns "encoder.loop" or "pkg.mod:function"."""
    if isinstance(target, str):
        return target
    return f"{target.__module__}:{target.__qualname__}"


def script_module(module: nn.Module, methods: Sequence[str]) -> torch.jit.ScriptModule:
    """Scripts a whole module; methods that lack `torch.jit.export` get it for the time."""
    with _exported(module, methods), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cast(torch.jit.ScriptModule, torch.jit.script(module))


@contextmanager
def _exported(module: nn.Module, methods: Sequence[str]) -> Iterator[None]:
    marked = []
    for name in methods:
        function = getattr(getattr(module, name), "__func__", None)
        if name == "forward" or function is None:
            continue
        if not hasattr(function, "_torchscript_modifier"):
            torch.jit.export(function)
            marked.append(function)
    try:
        yield
    finally:
        for function in marked:
            del function._torchscript_modifier


@contextmanager
def scripted_parts(module: nn.Module, targets: Sequence[Target]) -> Iterator[nn.Module]:
    """Scripts parts of a module in place; functions are restored afterwards.

    Args:
        module: A copy that may be changed.
        targets: Dotted paths of submodules, and functions.

    Raises:
        ScriptingFailed: The compiler refused a target.
    """
    functions: dict[Callable[..., Any], Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for target in targets:
            try:
                if isinstance(target, str):
                    parent, _, leaf = target.rpartition(".")
                    scripted = torch.jit.script(module.get_submodule(target))
                    module.get_submodule(parent)._modules[leaf] = cast(nn.Module, scripted)
                else:
                    functions[target] = torch.jit.script(target)
            except Exception as error:
                raise ScriptingFailed(target, error) from error
    with _replaced(functions):
        yield module


def traced_parts(
    module: nn.Module, targets: Sequence[str], run: Callable[[nn.Module], None]
) -> None:
    """Traces parts of a module in place, on the arguments that they get in example calls.

    Args:
        module: A copy that may be changed.
        targets: Dotted paths of submodules.
        run: Makes the example calls, and leaves the module as it was.

    Raises:
        ScriptingFailed: A part is not called in the examples, or cannot be traced.
    """
    arguments: dict[str, tuple[Any, ...]] = {}
    hooks = []
    for target in targets:

        def record(_: nn.Module, args: tuple[Any, ...], target: str = target) -> None:
            arguments.setdefault(target, copy.deepcopy(args))

        hooks.append(module.get_submodule(target).register_forward_pre_hook(record))
    try:
        run(module)
    finally:
        for hook in hooks:
            hook.remove()
    for target in targets:
        try:
            if target not in arguments:
                raise InvalidInput("the example calls never reach it")
            parent, _, leaf = target.rpartition(".")
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                module.get_submodule(target), arguments[target], check_trace=False
            )
            module.get_submodule(parent)._modules[leaf] = cast(nn.Module, traced)
        except Exception as error:
            raise ScriptingFailed(target, error) from error


@contextmanager
def _replaced(functions: Mapping[Callable[..., Any], Any]) -> Iterator[None]:
    """Replaces functions by scripted ones wherever a loaded module names them."""
    plain = {id(function): function for function in functions}
    spaces: list[dict[str, Any]] = [function.__globals__ for function in functions]
    if functions:
        spaces += [vars(module) for module in list(sys.modules.values())
                   if isinstance(module, types.ModuleType)]  # fmt: skip
    saved: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for space in spaces:
            for name, value in list(space.items()):
                if id(value) in plain and value is plain[id(value)]:
                    saved.append((space, name, value))
                    space[name] = functions[value]
        yield
    finally:
        for space, name, value in saved:
            space[name] = value


def resolve(module: nn.Module, script: Sequence[Target]) -> list[Target]:
    """Returns the targets that the user's `script=` entries name.

    Raises:
        InvalidInput: There is no such submodule or function; names the nearest ones.
    """
    known = [name for name, _ in module.named_modules() if name]
    targets: list[Target] = []
    for entry in script:
        if isinstance(entry, str) and ":" in entry:
            targets.append(_function(entry))
        elif isinstance(entry, str):
            if entry not in known:
                near = difflib.get_close_matches(entry, known, n=5) or known[:5]
                raise InvalidInput(
                    f"script: {type(module).__name__} has no submodule {entry!r}. Expected a "
                    f"dotted path such as {', '.join(near) or '(it has none)'}, a function, or "
                    '"package.module:function"'
                )
            if not isinstance(module.get_submodule(entry), torch.jit.ScriptModule):
                targets.append(entry)
        elif isinstance(entry, types.FunctionType):
            targets.append(entry)
        elif not isinstance(entry, torch.jit.ScriptFunction):
            raise InvalidInput(
                f"script: expected dotted submodule paths and functions, got {entry!r}"
            )
    return targets


def _function(entry: str) -> Callable[..., Any]:
    package, _, name = entry.partition(":")
    try:
        function = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(
            f"script: {entry!r} cannot be imported: {error}. Expected "
            '"package.module:function" of a module that Python finds'
        ) from error
    if not isinstance(function, types.FunctionType):
        kind = type(function).__name__
        raise InvalidInput(f"script: {entry!r} is a {kind}, expected a function")
    return function
