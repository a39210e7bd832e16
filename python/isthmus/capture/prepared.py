"""Prepares a copy of a module for the export: wrappers taken off, computed weights made plain.

A submodule in torch.compile or data parallelism is replaced by what it wraps. Weights that are
computed anew in each call from other parameters (parametrizations, weight norm, spectral norm) are
computed once: no format has to follow how. The user's module is left as it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from isthmus.bundle.manifest import Hazard, Method
from isthmus.capture.determinism import all_close
from isthmus.capture.flat import returns_tree, tensors_of
from isthmus.capture.private_copy import inner_module, private_copy
from isthmus.capture.run_module import ModuleRunner
from isthmus.errors import InvalidInput

__all__ = ["check_prepared", "prepared", "require_module", "unwrapped"]


def require_module(module: Any) -> nn.Module:
    """Returns the module that was handed in, if it is an `nn.Module`.

    Raises:
        InvalidInput: It is something else; says what to do about it.
    """
    if isinstance(module, nn.Module):
        return module
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise InvalidInput(
            f"expected a torch.nn.Module, got the class {module.__name__}: call it first, as in "
            f"export({module.__name__}(...), ...)"
        )
    if isinstance(module, Mapping):
        raise InvalidInput(
            f"expected a torch.nn.Module, got a {type(module).__name__}: this looks like a state "
            "dict, which holds weights and no code; make the module, load_state_dict() it, and "
            "export that"
        )
    hint = "; wrap the function in a small nn.Module" if callable(module) else ""
    if isinstance(module, (str, PurePath)):
        hint = "; `isthmus export NAME -o BUNDLE` loads a model by name, and says what a file is"
    raise InvalidInput(f"expected a torch.nn.Module, got {type(module).__name__}{hint}")


def unwrapped(module: nn.Module, notes: list[Hazard]) -> nn.Module:
    """Returns the module inside the wrappers of the whole, with a note for each in `notes`."""
    inner = inner_module(module)
    if inner is None:
        return module
    notes.append(
        Hazard(
            "unwrapped",
            "info",
            f"the module was wrapped in {type(module).__name__}; the {type(inner).__name__} inside "
            "is what is exported",
        )
    )
    return unwrapped(inner, notes)


def prepared(module: nn.Module) -> tuple[nn.Module, list[Hazard]]:
    """Returns the module itself where there is nothing to prepare, else a copy, with notes.

    Raises:
        InvalidInput: The module has to be prepared, and cannot be copied.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return module, []
    wrappers = {path: sub for path, sub in module.named_modules() if inner_module(sub) is not None}
    computed = dict(_computed(module))
    if not wrappers and not computed:
        return module, []
    originals = {
        name
        for name, _ in module.named_parameters()
        if any(path == name.rpartition(".")[0] or name.startswith(f"{path}.parametrizations.")
               or not path for path in computed)
    }  # fmt: skip
    made = private_copy(module, originals, wrappers.values()).eval()
    notes = [
        Hazard(
            "unwrapped",
            "info",
            f'"{path}" was wrapped in {type(wrapper).__name__}; the '
            f"{type(inner_module(wrapper)).__name__} inside is what is exported",
        )
        for path, wrapper in wrappers.items()
    ]
    if computed:
        names = list(computed.items())
        first, what = names[0]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        notes.append(
            Hazard(
                "folded_weights",
                "info",
                f'the weights of "{first}" ({what}){more} are computed from other parameters in '
                "each call of the module; they were computed once for the export",
            )
        )
        with torch.no_grad():
            _fold(made)
    return made, notes


def check_prepared(
    module: nn.Module, made: nn.Module, method: Method, values: Mapping[str, Any]
) -> None:
    """Checks that the prepared copy answers as the module does.

    Args:
        module: The user's module.
        made: The copy that `prepared` made of it.
        method: A method without outputs.
        values: Its inputs by name.

    Raises:
        InvalidInput: An answer differs.
    """
    answers = []
    for either in (module, made):
        with ModuleRunner(either) as runner, runner.run():
            _, leaves = returns_tree(method.name, runner.call(method, values))
            answers.append(list(tensors_of(leaves).values()))
    if not all_close(*answers):
        raise InvalidInput(
            f"{method.name} answers otherwise once the weights that it computes in each call are "
            "computed once for all: they depend on more than parameters; take the "
            "parametrization off before the export (torch.nn.utils.parametrize"
            ".remove_parametrizations), or compute these weights in forward"
        )


def _computed(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yields the path of each submodule with computed weights, and how they are computed."""
    for path, submodule in module.named_modules():
        if isinstance(submodule, torch.jit.ScriptModule):
            continue
        if parametrize.is_parametrized(submodule):
            lists: Any = submodule.parametrizations
            kinds = {type(part).__name__.strip("_") for parts in lists.values() for part in parts}
            yield path, f"parametrized by {', '.join(sorted(kinds))}"
        elif hooks := _weight_hooks(submodule):
            yield path, type(hooks[0]).__name__


def _weight_hooks(module: nn.Module) -> list[Any]:
    hooks = vars(module)["_forward_pre_hooks"].values()
    return [hook for hook in hooks if isinstance(hook, (WeightNorm, SpectralNorm))]


def _fold(module: nn.Module) -> None:
    """Makes the computed weights of a copy plain parameters."""
    for submodule in list(module.modules()):
        if isinstance(submodule, torch.jit.ScriptModule):
            continue
        if parametrize.is_parametrized(submodule):
            _fold_parametrizations(submodule)
        for hook in _weight_hooks(submodule):
            if isinstance(hook, WeightNorm):
                nn.utils.remove_weight_norm(submodule, hook.name)
            else:
                nn.utils.remove_spectral_norm(submodule, hook.name)


def _fold_parametrizations(module: nn.Module) -> None:
    """Does what torch's `remove_parametrizations` does, which would change the user's module too:
    a copy has the same class, and that function takes the weights off the class."""
    parametrizations: Any = module.parametrizations
    values = {name: getattr(module, name).detach().clone() for name in parametrizations}
    buffers = {name for name, part in parametrizations.items() if "original" in part._buffers}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, value in values.items():
        if name in buffers:
            module.register_buffer(name, value)
        else:
            module.register_parameter(name, nn.Parameter(value, value.is_floating_point()))
