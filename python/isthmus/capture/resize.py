"""Makes example values of other sizes: the user's data, tiled or cropped along dynamic axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from isthmus.bundle.manifest import DimRange
from isthmus.bundle.size_expression import SizeExpression, is_plain, parse_size

_NOISE = 0.1
"""The standard deviation of the perturbation, as a share of the tensor's own."""


def choose_sizes(
    dims: Mapping[str, DimRange],
    given: Mapping[str, int],
    fixed: Iterable[int] = (),
    derived: Iterable[str] = (),
) -> dict[str, int]:
    """Returns the sizes to export at: as near to the example's as the ranges allow.

    Exporters treat sizes 0 and 1 as constants and equal sizes as one dimension, so no size is 1 and
    no two are equal, unless the ranges leave no other.

    Args:
        dims: The range of each dimension.
        given: The size of each dimension in the user's example.
        fixed: The sizes of the fixed dimensions, which are avoided where possible.
        derived: The expressions over dimensions, whose values are avoided where possible, too.
    """
    chosen: dict[str, int] = {}
    avoid = set(fixed)
    expressions = [parse_size(text) for text in derived if not is_plain(text)]
    # The narrowest range is served first, because the others have more sizes to choose from.
    for name in sorted(dims, key=lambda dim: dims[dim].max - dims[dim].min):
        taken = set(chosen.values())
        usable = _nearest(dims[name], given[name])
        free = [size for size in usable if size not in taken]
        preferred = [size for size in free if size not in avoid]
        apart = [
            size
            for size in preferred
            if not _collides(expressions, {**chosen, name: size}, avoid | taken | {size})
        ]
        chosen[name] = (apart or preferred or free or usable)[0]
    return {name: chosen[name] for name in dims}


def _collides(
    expressions: Iterable[SizeExpression], chosen: Mapping[str, int], avoid: set[int]
) -> bool:
    """Returns True when an expression has one of these values, of those that are known by now."""
    known = [expression for expression in expressions if set(expression.names) <= set(chosen)]
    return any(expression.evaluate(chosen) in avoid | {0, 1} for expression in known)


def _nearest(dim_range: DimRange, size: int) -> list[int]:
    """Returns sizes of at least 2 in the range, nearest to `size` first, then larger ones first."""
    reach = 64  # more than the number of dimensions of any model
    low, high = max(dim_range.min, size - reach, 2), min(dim_range.max, size + reach)
    allowed: Iterable[int] = dim_range.sizes or range(low, high + 1)
    sizes = sorted((n for n in allowed if n > 1), key=lambda n: (abs(n - size), -n))
    return sizes or [min(max(size, dim_range.min), dim_range.max)]


def resize(
    values: Mapping[str, Any],
    axes: Mapping[str, Mapping[int, str]],
    sizes: Mapping[str, int],
    seed: int = 0,
    *,
    roll: bool = True,
) -> dict[str, Any]:
    """Returns values of these sizes.

    Integers that rise along an axis, such as offsets, still rise along it.

    Args:
        values: Tensors and scalars by input name.
        axes: The dynamic axes by input name, with the names of their dimensions or expressions
            over names.
        sizes: The size of each named dimension; dimensions not named keep their size.
        seed: 0 tiles or crops the values as they are. Any other seed also perturbs floats, within
            the range of `values`, and rolls integers along their dynamic axes. Masks (see
            `is_mask`), scalars and integers that rise stay.
        roll: False keeps all integers in their order, whatever the seed.
    """
    generator = torch.Generator().manual_seed(seed)
    result: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, Tensor):
            result[name] = value
            continue
        own = axes.get(name, {})
        tensor = _tile(value.detach(), {axis: _size_of(dim, sizes) for axis, dim in own.items()})
        if seed and not is_mask(value):
            tensor = _vary(tensor, value, own if roll else {}, generator)
        result[name] = tensor
    return result


def _size_of(dim: str, sizes: Mapping[str, int]) -> int:
    """Returns the size of an axis; -1 where a name has none."""
    size = parse_size(dim)
    return size.evaluate(sizes) if all(name in sizes for name in size.names) else -1


def _tile(tensor: Tensor, sizes: Mapping[int, int]) -> Tensor:
    for axis, size in sizes.items():
        old = tensor.shape[axis]
        if size in (-1, old):
            continue
        if old == 0:  # there are no values to repeat
            shape = [size if at == axis else n for at, n in enumerate(tensor.shape)]
            tensor = tensor.new_zeros(shape)
        else:
            index = torch.arange(size, device=tensor.device) % old
            rising = size > old and _rises(tensor, axis)
            tensor = tensor.index_select(axis, index)
            tensor = tensor.sort(axis).values if rising else tensor
    return tensor.contiguous()


def _vary(
    tensor: Tensor, example: Tensor, axes: Mapping[int, str], generator: torch.Generator
) -> Tensor:
    if not tensor.numel() or not example.numel():
        return tensor
    if tensor.is_floating_point():
        single = example.numel() == 1
        spread = abs(float(example)) or 1.0 if single else float(example.double().std())
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        noisy = tensor.double() + _NOISE * spread * noise.to(tensor.device)
        # The range of the example is kept: pixels stay in [0, 1].
        low, high = float(example.double().min()), float(example.double().max())
        return noisy.clamp(low, high).to(tensor.dtype)
    if tensor.dtype == torch.bool or tensor.is_complex():
        return tensor
    for axis in axes:
        if _rises(example, axis):
            continue
        shift = int(torch.randint(0, tensor.shape[axis] + 1, (1,), generator=generator))
        tensor = tensor.roll(shift, axis)
    return tensor


def _rises(tensor: Tensor, axis: int) -> bool:
    """Returns True for integers that never fall along an axis and are not all equal there."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        return False
    steps = tensor.long().diff(dim=axis)
    return bool((steps >= 0).all()) and bool((steps > 0).any()) and not is_mask(tensor)


def is_mask(tensor: Tensor) -> bool:
    """Returns True when a tensor looks like a mask.

    Masks are booleans, integers of 0 and 1, and floats of both 0 and 1 or with values of -1e4 or
    less, which an additive attention mask has.
    """
    if tensor.dtype == torch.bool:
        return True
    if not tensor.numel() or tensor.is_complex():
        return False
    binary = bool(((tensor == 0) | (tensor == 1)).all())
    if not tensor.is_floating_point():
        return binary
    additive = bool((tensor <= -1e4).any())
    return additive or (binary and bool((tensor == 0).any()) and bool((tensor == 1).any()))
