"""Running the untouched module: eval mode, fixed randomness, no gradients, fresh state."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isthmus.capture.module_state import same_tensor
from isthmus.capture.tree import flatten, unflatten
from isthmus.errors import InvalidInput

if TYPE_CHECKING:
    from isthmus.bundle.manifest import Method, ValueSpec

SCALAR_DTYPES = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module in eval mode; afterwards each submodule is in the mode it came in.

    Args:
        module: Any module; submodules may be in different modes.
    """
    # Straight into `training`: an overridden `train()` could refuse to go back.
    before = [(one, one.training) for one in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for one, training in before:
            if one.training != training:
                one.training = training


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


def arguments(method: Method, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Gives flat values back the nesting of the Python call.

    Args:
        method: Its `args` and `kwargs` are the nesting.
        values: Tensors and scalars by input name; a scalar input may come as a 0-d tensor.
    """
    plain = {spec.name: to_python(spec, values.get(spec.name)) for spec in method.inputs}
    args = tuple(unflatten(tree, plain) for tree in method.args)
    return args, {name: unflatten(tree, plain) for name, tree in method.kwargs}


def to_python(spec: ValueSpec, value: Any) -> Any:
    """A 0-d tensor that stands for a scalar becomes the scalar, all else stays."""
    if spec.kind != "tensor" and isinstance(value, Tensor):
        return value.item()
    return value


def to_tensor(spec: ValueSpec, value: Any) -> Tensor:
    """A scalar becomes the 0-d tensor that stands for it, all else stays."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=SCALAR_DTYPES[spec.kind])


def fresh(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the tensors, outside any graph: a call may write its inputs."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in values.items()
    }


def call(
    module: nn.Module,
    method: Method,
    values: Mapping[str, Any],
    written: set[str] | None = None,
) -> Any:
    """One eager call on copies of the inputs, in `no_grad`; gives the original structure.

    The caller sees to eval mode, state and randomness.

    Args:
        module: Whose method it is.
        method: Its inputs and their nesting.
        values: Inputs by name.
        written: Takes the names of the inputs that the call changed in place.
    """
    copies = fresh(values)
    # Not inference_mode: state that is written in there could never be written again outside.
    with torch.no_grad():
        args, kwargs = arguments(method, copies)
        # forward by calling the module: hooks are part of it.
        function = module if method.name == "forward" else getattr(module, method.name)
        result = function(*args, **kwargs)
    if written is not None:
        for name, value in values.items():
            if isinstance(value, Tensor) and not same_tensor(value, copies[name]):
                written.add(name)
    return result


def flat_outputs(method: Method, result: Any) -> dict[str, Tensor]:
    """Result of a call as named tensors; scalars as 0-d tensors, absent values left out.

    Raises:
        InvalidInput: The result is not of the structure that the method had at capture.
    """
    flat = flatten(method.returns, result)
    outputs: dict[str, Tensor] = {}
    for spec in method.outputs:
        value = flat.get(spec.name)
        if value is not None:
            outputs[spec.name] = to_tensor(spec, value).detach()
    return outputs


def first_line(error: BaseException) -> str:
    """ "ValueError: what it says", in one line, for messages."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def require_module(module: Any) -> nn.Module:
    """The `nn.Module` to export.

    Raises:
        InvalidInput: It is something else, with what to do about it.
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
    raise InvalidInput(f"expected a torch.nn.Module, got {type(module).__name__}{hint}")
