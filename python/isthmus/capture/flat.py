"""Calls as flat, named values: binds an example to names, and wraps modules to take flat inputs."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.bundle.manifest import Method, Tree, ValueSpec
from isthmus.bundle.manifest_rules import DTYPES
from isthmus.capture.caches import WITHOUT_CACHE
from isthmus.capture.run_module import function_of
from isthmus.capture.tree import build_tree, flatten, unflatten
from isthmus.capture.values import SCALAR_DTYPES, to_tensor
from isthmus.errors import InvalidInput

_KINDS: dict[type, str] = {bool: "bool", int: "int", float: "float"}


@dataclass(frozen=True)
class Bound:
    """An example call with its values by name."""

    args: tuple[Tree, ...]
    kwargs: tuple[tuple[str, Tree], ...]
    values: dict[str, Any]
    """The tensors and scalars by input name, in the order of the call."""
    arguments: tuple[str, ...]
    """The names of the arguments that the example gives."""


def parameters(module: nn.Module, method: str) -> inspect.Signature:
    """Returns the parameters of a method without `self`; scripted methods have them in a schema.

    Raises:
        InvalidInput: The module has no such method.
    """
    function = getattr(module, method, None)
    if not callable(function):
        raise InvalidInput(
            f'{type(module).__name__} has no method "{method}"; name methods that it has'
        )
    if isinstance(function, torch.ScriptMethod):
        return inspect.Signature(
            [
                inspect.Parameter(
                    argument.name,
                    inspect.Parameter.KEYWORD_ONLY
                    if argument.kwarg_only
                    else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=argument.default_value
                    if argument.has_default_value()
                    else inspect.Parameter.empty,
                )
                for argument in function.schema.arguments[1:]
            ]
        )
    return inspect.signature(function)


def bind(
    module: nn.Module,
    method: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    constants: Collection[str] = (),
) -> Bound:
    """Names the values of an example call after the method's parameters.

    Args:
        module: The module that has the method.
        method: The name of the method.
        args: Positional arguments.
        kwargs: Keyword arguments.
        constants: Parameters whose scalars become part of the model.

    Raises:
        InvalidInput: The example does not fit the parameters, the type of a value cannot be that
            of an input, or two values would have the same name.
    """
    signature = parameters(module, method)
    label = f"{type(module).__name__}.{method}"
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidInput(
            f"{label} does not take this example: {error}; its parameters are {signature}"
        ) from error
    trees: list[Tree] = []
    named: list[tuple[str, Tree]] = []
    values: dict[str, Any] = {}
    positional = _positional(signature, args)
    for name, value in positional:
        tree = _bind_value(label, name, value, constants, values)
        trees.append(replace(tree, name=name) if tree.node == "const" else tree)
    for name, value in kwargs.items():
        named.append((name, _bind_value(label, name, value, constants, values)))
    given = (*(name for name, _ in positional), *kwargs)
    return Bound(tuple(trees), tuple(named), values, given)


def _positional(signature: inspect.Signature, args: Sequence[Any]) -> list[tuple[str, Any]]:
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}.{at}" for at in range(len(args) - len(names))]
            break
        names.append(parameter.name)
    return list(zip(names, args, strict=False))


def _bind_value(
    label: str, name: str, value: Any, constants: Collection[str], values: dict[str, Any]
) -> Tree:
    tree, leaves = build_tree(value, name)
    if name in constants or name.partition(".")[0] in constants:
        return _frozen(label, tree, leaves)
    names = tree.leaves()
    for leaf, content in leaves.items():
        hint = "; use torch.from_numpy()" if type(content).__module__ == "numpy" else ""
        _check_value(f'{label}: input "{leaf}"', content, hint)
        if leaf in values or names.count(leaf) > 1:
            raise InvalidInput(
                f'{label}: two inputs would be called "{leaf}"; rename the dictionary key or the '
                "argument that makes the name"
            )
        values[leaf] = content.detach() if isinstance(content, Tensor) else content
    return tree


def _frozen(label: str, tree: Tree, leaves: Mapping[str, Any]) -> Tree:
    if tree.node == "leaf":
        value = leaves[tree.name]
        if type(value) not in _KINDS:
            raise InvalidInput(
                f'{label}: constants names "{tree.name}", a {type(value).__name__}; only int, '
                "float and bool can become constants: make a tensor a buffer of the module"
            )
        return Tree("const", value=value)
    return replace(tree, items=tuple(_frozen(label, item, leaves) for item in tree.items))


def _check_value(label: str, value: Any, hint: str) -> None:
    if isinstance(value, Tensor):
        _check_tensor(label, value)
    elif type(value) not in _KINDS:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise InvalidInput(
            f"{label} is a {kind}; expected a tensor, int, float, bool, None, or lists, tuples, "
            "dicts, named tuples, dataclasses and objects of classes that are registered with "
            f"torch.utils._pytree of these{hint}"
            f"{f'; {WITHOUT_CACHE}' if 'cache' in kind.lower() else ''}"
        )


def _check_tensor(label: str, value: Tensor) -> None:
    dtype = dtype_name(value)
    if value.layout != torch.strided or value.is_nested:
        raise InvalidInput(
            f"{label} is a {value.layout} tensor; expected a dense one: call .to_dense()"
        )
    if value.is_quantized or dtype not in DTYPES:
        raise InvalidInput(
            f"{label} has dtype {dtype}; expected one of {', '.join(sorted(DTYPES))}"
        )
    if value.is_meta:
        raise InvalidInput(f"{label} is on the meta device and holds no values; use a real tensor")


def dtype_name(value: Tensor) -> str:
    """Returns the name of a tensor's dtype without its prefix, such as "float32"."""
    return str(value.dtype).removeprefix("torch.")


def input_specs(
    values: Mapping[str, Any], axes: Mapping[str, Mapping[int, str]]
) -> tuple[ValueSpec, ...]:
    """Returns the specs of inputs, with names at the dynamic axes and the example's other sizes."""
    specs = []
    for name, value in values.items():
        own = axes.get(name, {})
        shape = tuple(own.get(at, size) for at, size in enumerate(_sizes(value)))
        specs.append(_spec(name, value, shape))
    return tuple(specs)


def _sizes(value: Any) -> list[int]:
    return [int(size) for size in value.shape] if isinstance(value, Tensor) else []


def _spec(name: str, value: Any, shape: tuple[int | str, ...]) -> ValueSpec:
    if isinstance(value, Tensor):
        return ValueSpec(name, "tensor", dtype_name(value), shape)
    kind: Any = _KINDS[type(value)]
    return ValueSpec(name, kind, str(SCALAR_DTYPES[kind]).removeprefix("torch."), ())


def returns_tree(label: str, result: Any) -> tuple[Tree, dict[str, Any]]:
    """Returns the nesting of a result, and its values by output name.

    Named results keep their own names ("last_hidden_state"); others are "output", "output.0", ...

    Raises:
        InvalidInput: The result holds a value that is not a tensor, scalar, None or text.
    """
    named = (
        isinstance(result, Mapping)
        or (is_dataclass(result) and not isinstance(result, type))
        or hasattr(result, "_fields")
    )
    tree, leaves = build_tree(result, "" if named else "output")
    for name, value in leaves.items():
        _check_value(f'{label}: output "{name}"', value, ": return the tensors that it holds")
    return tree, leaves


def output_specs(values: Mapping[str, Any], sizes: Mapping[str, int]) -> tuple[ValueSpec, ...]:
    """Returns the specs of the outputs of one call.

    A size that equals the size of a dimension is taken for that dimension. One example does not
    prove that: `infer_outputs` decides from the goldens.
    """
    names: dict[int, str] = {}
    for name, size in sizes.items():
        if size > 1:
            names.setdefault(size, name)
    return tuple(
        _spec(name, value, tuple(names.get(size, size) for size in _sizes(value)))
        for name, value in values.items()
    )


def tensors_of(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns output values as tensors, scalars as 0-d tensors."""
    specs = output_specs(values, {})
    return {spec.name: to_tensor(spec, values[spec.name]) for spec in specs}


class FlatModule(nn.Module):
    """Takes the inputs of a method in order, and returns its outputs in order, as a tuple.

    This is the module that is traced: the nesting of the original call is kept in the manifest and
    not in the graph. Scalar inputs are 0-d tensors (so that tracing sees them) or numbers; scalar
    outputs are 0-d tensors; an absent output is None.
    """

    def __init__(self, module: nn.Module, method: Method) -> None:
        super().__init__()
        self.module = module
        self._method = method
        self.training = module.training

    def forward(self, *flat: Any) -> tuple[Any, ...]:
        """Calls the method.

        Args:
            flat: One value for each input, in the order of the signature.

        Raises:
            InvalidInput: The number of values is not that of the inputs.
        """
        method = self._method
        if len(flat) != len(method.inputs):
            raise InvalidInput(
                f"{method.name} takes {len(method.inputs)} flat inputs, got {len(flat)}"
            )
        values = {spec.name: value for spec, value in zip(method.inputs, flat, strict=True)}
        args = tuple(unflatten(tree, values) for tree in method.args)
        kwargs = {name: unflatten(tree, values) for name, tree in method.kwargs}
        outputs = flatten(method.returns, function_of(self.module, method)(*args, **kwargs))
        return tuple(
            None if (value := outputs.get(spec.name)) is None else to_tensor(spec, value)
            for spec in method.outputs
        )
