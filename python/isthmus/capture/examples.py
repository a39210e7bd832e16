"""Real calls that the user gives beside the example, at several sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from torch import Tensor, nn

from isthmus.bundle.manifest import DimRange
from isthmus.bundle.size_expression import bind_sizes, is_plain, parse_size
from isthmus.capture.flat import Bound, bind, dtype_name
from isthmus.capture.made_values import Donor
from isthmus.capture.size_inference import infer_expressions
from isthmus.errors import InvalidInput

__all__ = [
    "MOST_EXAMPLES", "bind_examples", "calls_of", "check_ranges", "donors_of", "infer_axes",
]  # fmt: skip

MOST_EXAMPLES = 8
"""The number of calls that are taken of a longer list or a data set."""

ExampleCall = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and keyword arguments of a call."""


def calls_of(examples: Iterable[Any]) -> list[ExampleCall]:
    """Returns the first calls of a list or a data set.

    Args:
        examples: Each item is a tuple of positional arguments, a dict of keyword arguments, a pair
            `(args, kwargs)` of both, or a single argument.

    Raises:
        InvalidInput: `examples` is a single call, or nothing that can be iterated.
    """
    if isinstance(examples, (Mapping, Tensor, str)) or not (
        hasattr(examples, "__iter__") or hasattr(examples, "__getitem__")
    ):
        raise InvalidInput(
            "examples: expected a list of calls, each a tuple of arguments, a dict of keyword "
            f"arguments or (args, kwargs), got a {type(examples).__name__}; for a single call "
            "write [call]"
        )
    # A data set that counts its items need not end when they are counted through.
    limit = min(MOST_EXAMPLES, len(examples)) if isinstance(examples, Sized) else MOST_EXAMPLES
    return [_call(item) for item in itertools.islice(iter(examples), limit)]


def _call(item: Any) -> ExampleCall:
    if isinstance(item, Mapping):
        return (), dict(item)
    if isinstance(item, (tuple, list)):
        pair = len(item) == 2 and isinstance(item[1], Mapping)
        if pair and isinstance(item[0], (tuple, list)):
            return tuple(item[0]), dict(item[1])
        return tuple(item), {}
    return (item,), {}


def bind_examples(
    module: nn.Module,
    method: str,
    own: Bound,
    calls: Sequence[ExampleCall],
    constants: Iterable[str],
) -> list[dict[str, Any]]:
    """Returns the values of each call by input name.

    Args:
        module: The module.
        method: The name of the method that takes the calls.
        own: The bound example, whose nesting the calls have to have.
        calls: The calls, from `calls_of`.
        constants: Parameters whose numbers are part of the model.

    Raises:
        InvalidInput: A call does not fit the example; names it.
    """
    values = []
    for at, (args, kwargs) in enumerate(calls):
        try:
            bound = bind(module, method, args, kwargs, tuple(constants))
        except InvalidInput as error:
            raise InvalidInput(f"examples[{at}]: {error}") from error
        if _trees(bound) != _trees(own):
            raise InvalidInput(
                f"examples[{at}]: its arguments ({', '.join(bound.values) or 'none'}) are not "
                f"those of the example ({', '.join(own.values) or 'none'}), or are nested "
                "otherwise; give every call the same arguments"
            )
        values.append(
            {name: _like(value, own.values[name]) for name, value in bound.values.items()}
        )
    return values


def infer_axes(
    calls: Sequence[Mapping[str, Any]], axes: Mapping[str, Mapping[int, str]]
) -> list[tuple[str, int, str]]:
    """Returns the axes that change between calls and have no name, where their sizes follow.

    Args:
        calls: The values of several calls by input name, the example's among them.
        axes: The dynamic axes by input name.

    Returns:
        The input name, the axis and the expression, such as ("mask", 1, "past + sequence"), of each
        axis whose sizes in all calls a single expression over the named dimensions gives.
    """
    shapes = [
        {name: value.shape for name, value in call.items() if isinstance(value, Tensor)}
        for call in calls
    ]
    common = [name for name in shapes[0] if all(name in call for call in shapes)]
    alike = [name for name in common if len({len(call[name]) for call in shapes}) == 1]
    free = {
        (name, axis): [int(call[name][axis]) for call in shapes]
        for name in alike
        for axis in range(len(shapes[0][name]))
        if axis not in axes.get(name, {})
    }
    sizes = [
        bind_sizes(
            (size, int(call[name][axis]))
            for name in alike
            for axis, size in axes.get(name, {}).items()
        )
        for call in shapes
    ]
    names = [name for name in sizes[0] if all(name in call for call in sizes)]
    known = {name: [call[name] for call in sizes] for name in names}
    same = any(len(set(of_calls)) == 1 for of_calls in known.values())
    # A constant may be the size of a dimension that is the same in every call.
    return [
        (name, axis, str(expression))
        for (name, axis), expression in infer_expressions(free, known).items()
        if not (expression.constant and same)
    ]


def donors_of(
    calls: Sequence[Mapping[str, Any]],
    own: Mapping[str, Any],
    axes: Mapping[str, Mapping[int, str]],
) -> list[Donor]:
    """Returns the calls with the sizes of their dimensions.

    Args:
        calls: The values of the calls, from `bind_examples`.
        own: The values of the example, whose fixed sizes the calls have to have.
        axes: The dynamic axes by input name.

    Raises:
        InvalidInput: A call does not fit the example; names it.
    """
    return [
        Donor(dict(call), _sizes(f"examples[{at}]", call, own, axes))
        for at, call in enumerate(calls)
    ]


def _like(value: Any, known: Any) -> Any:
    """Returns the number in a tensor of one value where the example has a number."""
    single = isinstance(value, Tensor) and value.numel() == 1
    return value.item() if single and not isinstance(known, Tensor) else value


def _trees(bound: Bound) -> dict[str, Any]:
    """Returns the nesting by parameter, whether it came by position or by name."""
    trees = (*bound.args, *(tree for _, tree in bound.kwargs))
    return dict(zip(bound.arguments, trees, strict=True))


def _sizes(
    label: str,
    values: Mapping[str, Any],
    own: Mapping[str, Any],
    axes: Mapping[str, Mapping[int, str]],
) -> dict[str, int]:
    pairs: list[tuple[str, int]] = []
    for name, value in values.items():
        known = own[name]
        if isinstance(value, Tensor) != isinstance(known, Tensor):
            raise InvalidInput(
                f'{label}: "{name}" is a {type(value).__name__}, and a {type(known).__name__} in '
                "the example; give every call the same types"
            )
        if not isinstance(value, Tensor):
            continue
        if value.dtype != known.dtype or value.dim() != known.dim():
            raise InvalidInput(
                f'{label}: "{name}" is {dtype_name(value)}{list(value.shape)}, and '
                f"{dtype_name(known)}{list(known.shape)} in the example; give every call the same "
                "type and number of axes"
            )
        named = axes.get(name, {})
        for axis, (size, expected) in enumerate(zip(value.shape, known.shape, strict=True)):
            if axis in named:
                pairs.append((named[axis], int(size)))
            elif size != expected:
                raise InvalidInput(
                    f'{label}: axis {axis} of "{name}" is {size}, and {expected} in the example; '
                    f'name it in dynamic={{"{name}": {{{axis}: "..."}}}} if it may change, or give '
                    "more examples if it follows from the named sizes"
                )
    sizes = bind_sizes(pairs)
    for name, size in pairs:
        if is_plain(name) and sizes[name] != size:
            raise InvalidInput(
                f'{label}: "{name}" is {sizes[name]} in one input and {size} in another; equal '
                "names mean equal sizes"
            )
        expression = parse_size(name)
        if set(expression.names) <= set(sizes) and expression.evaluate(sizes) != size:
            raise InvalidInput(
                f'{label}: an axis is {size}, and "{name}" is {expression.explain(sizes)}; mend '
                "the expression in dynamic, or the call"
            )
    return sizes


def check_ranges(donors: Sequence[Donor], dims: Mapping[str, DimRange]) -> None:
    """Refuses calls whose sizes are outside of the ranges.

    Raises:
        InvalidInput: A size is not allowed; names the call and the dimension.
    """
    for at, donor in enumerate(donors):
        for name, size in donor.sizes.items():
            if name in dims and not dims[name].allows(size):
                raise InvalidInput(
                    f'examples[{at}]: "{name}" is {size}, and dims allows {dims[name]}; widen the '
                    "range, or leave the call out"
                )
