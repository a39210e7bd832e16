"""Tells state, which changes later answers, from what a module sets once and never looks back at.

Some modules set attributes in their first call: they choose an attention for short inputs, or limit
a window to the size of the image. If every later call has the answer that it would have had as the
first one, that is no state of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from isthmus.bundle.manifest import Hazard, Method
from isthmus.capture.determinism import all_close
from isthmus.capture.dynamic import Dynamic
from isthmus.capture.flat import returns_tree, tensors_of
from isthmus.capture.made_values import Donor, made_values
from isthmus.capture.module_state import ModuleState
from isthmus.capture.private_copy import private_copy
from isthmus.capture.run_module import ModuleRunner, call, evaluating, seeded

__all__ = ["calls_at_corners", "settled"]

Call = tuple[Method, Mapping[str, Any]]
"""A method and its inputs by name."""


_MOST_ELEMENTS = 1 << 22
"""The elements of the inputs of a call at the largest sizes, above which it is not made."""


def calls_at_corners(
    method: Method, own: Donor, resized: Mapping[str, Any], spec: Dynamic
) -> list[Call]:
    """Returns calls with the user's values, those to export at, and values at the ends of ranges.

    Args:
        method: The method to call.
        own: The user's example.
        resized: The inputs at the sizes to export at.
        spec: The dynamic axes and the ranges.
    """
    calls: list[Call] = [(method, own.values), (method, resized)]
    for end in ("min", "max") if spec.dims else ():
        sizes = {name: int(getattr(limits, end)) for name, limits in spec.dims.items()}
        made = next(made_values([own], method.inputs, spec.axes, sizes), ("", {}))[1]
        tensors = [value for value in made.values() if isinstance(value, Tensor)]
        if tensors and sum(tensor.numel() for tensor in tensors) <= _MOST_ELEMENTS:
            calls.append((method, made))
    return calls


def settled(
    module: nn.Module, changed: Sequence[str], calls: Sequence[Call]
) -> tuple[nn.Module, Hazard] | None:
    """Returns a copy of the module as its first call leaves it, if later calls change nothing.

    Args:
        module: A module that changes attributes in calls; it is left as it is.
        changed: The dotted names of these attributes.
        calls: Calls of all methods, at several sizes. Calls that the module refuses are left out.

    Returns:
        The copy and a note; None where an attribute changes again, or where an answer depends on
        the calls before it.
    """
    with ModuleRunner(module) as runner:
        alone: list[tuple[Call, list[Any]]] = []
        for trial in calls:
            try:
                with runner.run():
                    alone.append((trial, _answer(module, trial)))
            except Exception:  # the module does not take this size
                continue
        with runner.run():
            for at in _each_after_each(len(alone)):
                trial, expected = alone[at]
                try:
                    if not all_close(_answer(module, trial), expected):
                        return None
                except Exception:  # it was accepted as the first call
                    return None
    copied = private_copy(module, changed)
    with evaluating(copied), seeded(0):
        for trial, _ in alone:
            _answer(copied, trial)
        state = ModuleState(copied)
        for trial, _ in alone:
            _answer(copied, trial)
        if state.changed():
            return None
    names = ", ".join(changed[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
    note = Hazard(
        "settles",
        "info",
        f"calls set {names}, and each of {len(alone)} calls gave the same answer as the first call "
        "and after each other: the module is exported as they leave it, and has no state",
    )
    return copied, note


def _answer(module: nn.Module, trial: Call) -> list[Any]:
    method, values = trial
    result, effects = call(module, method, values)
    _, leaves = returns_tree(method.name, result)
    tensors = [value.detach().clone() for value in tensors_of(leaves).values()]
    return [*tensors, *(effects.after[name] for name in method.writes)]


def _each_after_each(count: int) -> list[int]:
    """Returns indices in which each follows each other and itself."""
    walk = []
    for first in range(count):
        walk += [first, *(at for second in range(first + 1, count) for at in (first, second))]
    return [*walk, *walk[:1]]
