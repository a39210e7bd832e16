"""Makes other values of the same shapes, so that data-dependent branches take another path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from isthmus.capture.resize import is_mask

_MOST_SCALARS = 4
"""The number of scalars that are varied one by one."""


def variations(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns named sets of values of the same shapes that differ from the values given.

    - negated: floats change sign (a constant becomes a wave), integers are reversed along the last
      axis.
    - masked: a mask of ones gets zeros at the end of its last axis; any other mask is all ones.
    - zeroed: floats are zero, integers have the least value given.
    - scalars-changed, scalars-lowered: tensors stay; flags are flipped, integers increase or
      decrease by one, floats change sign or are zero.
    - NAME-changed, NAME-lowered: the same for only one of several scalars.

    Scalars are varied apart from tensors, because a model may accept few of them (a sample rate),
    which must not keep tensors from being varied.

    A set may be invalid for the model; `make_goldens` leaves it out then. There is no NaN, no
    infinity, and, apart from masks, no integer tensor with a value that was not given.

    Args:
        values: Tensors and scalars by input name.
    """
    kinds = {"negated": _negated, "masked": _masked, "zeroed": _zeroed}
    sets = {kind: _changed(values, change) for kind, change in kinds.items()}
    scalars = [name for name, value in values.items() if not isinstance(value, Tensor)]
    for label, change in (("changed", _scalar_changed), ("lowered", _scalar_lowered)):
        changed = {name: change(values[name]) for name in scalars}
        sets[f"scalars-{label}"] = {**values, **changed}
        for name in scalars[:_MOST_SCALARS] if len(scalars) > 1 else ():
            sets[f"{name}-{label}"] = {**values, name: changed[name]}
    return {kind: group for kind, group in sets.items() if differs(group, values)}


def differs(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Returns True when any value differs between two sets with the same names."""
    return any(
        not torch.equal(value, b[name]) if isinstance(value, Tensor) else value != b[name]
        for name, value in a.items()
    )


def _changed(values: Mapping[str, Any], change: Callable[[str, Any], Any]) -> dict[str, Any]:
    return {name: change(name, value) for name, value in values.items()}


def _scalar_changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else -value


def _scalar_lowered(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    return value - 1 if isinstance(value, int) else 0.0


def _negated(_: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.numel() or is_mask(value):
        return value
    if value.is_floating_point() and bool((value == value.flatten()[0]).all()):
        # The negative of a constant, such as the zeros of a first state, is constant too.
        ramp = torch.arange(1, value.numel() + 1, device=value.device, dtype=torch.float64)
        return torch.sin(ramp).reshape(value.shape).to(value.dtype)
    if value.is_floating_point() or value.is_complex():
        return -value
    return value.flip(-1) if value.dim() else value


def _zeroed(_: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.numel() or is_mask(value):
        return value
    if value.is_floating_point() or value.is_complex():
        return torch.zeros_like(value)
    return torch.full_like(value, int(value.min()))


def _masked(name: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.dim() or not value.numel():
        return value
    ones = bool((value == 1).all())
    if value.is_complex() or not (ones or is_mask(value)):
        return value
    if not ones:
        zeros_and_ones = bool(((value == 0) | (value == 1)).all())
        mixed = zeros_and_ones and bool((value == 1).any())
        return torch.ones_like(value) if mixed or (zeros_and_ones and "mask" in name) else value
    length = value.shape[-1]
    if length < 2:
        return value
    # The first element stays 1: attention with all positions masked is NaN in many models.
    result = value.clone()
    result[..., length - length // 2 :] = 0
    return result
