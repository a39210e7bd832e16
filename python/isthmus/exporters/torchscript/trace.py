"""Traces a module in its flat form, and finds what the tracer could not see.

A trace records what one call did. Where the module turned a tensor into a Python value (a branch,
a loop count, `.item()`), the trace holds that call's answer for good. `diagnose` finds each such
place, with its line, the modules on the stack, and what the value was computed from.
"""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from isthmus.bundle.manifest import Method, written_name
from isthmus.capture.tree import flatten, unflatten
from isthmus.capture.values import arguments_after, to_tensor
from isthmus.exporters.quiet_torch import ignore_deprecation
from isthmus.exporters.source_lines import in_frames, is_machinery, source_line
from isthmus.exporters.torchscript.autograd_functions import traced_through

Depends = Literal["data", "shape", "constant"]

_CONVERSIONS = {
    "__bool__": "a tensor's value became a Python bool",
    "__int__": "a tensor's value became a Python int",
    "__index__": "a tensor's value became a Python int",
    "__float__": "a tensor's value became a Python float",
    "__complex__": "a tensor's value became a Python complex",
    "item": "a tensor's value became a Python number",
    "tolist": "a tensor's values became a Python list",
    "numpy": "a tensor became a NumPy array",
    "__array__": "a tensor became a NumPy array",
    "__len__": "a tensor's length became a Python int",
    "unbind": "a tensor was iterated over",
}
_SIZES = {"aten::size", "aten::numel", "aten::dim", "aten::len", "aten::sym_size"}
_SIZED_BY_VALUES = {
    "aten::nonzero", "aten::nonzero_numpy", "aten::masked_select", "aten::_unique",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
    "aten::unique_dim_consecutive", "aten::repeat_interleave", "torchvision::nms",
}  # fmt: skip
"""Operators whose results have sizes that the values of their arguments decide."""
_SIZE_CHECKS = ("check_forward_args",)
"""Methods of torch's recurrent layers that compare sizes, and raise an error or do nothing. The
sizes of packed sequences are values of a tensor."""

_OVERRIDES = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
"""What torch's Python functions ask before they hand themselves to a mode."""


@dataclass(frozen=True)
class Site:
    """A place where a trace keeps the answer of the call that was traced."""

    where: str
    """file:line of the user's code; empty where it is not known."""
    what: str
    depends: Depends
    """"data": computed from an input's values; "shape": from sizes only, which the goldens vary."""
    owners: tuple[str, ...] = ()
    """The dotted paths of the modules on the stack, innermost first, without the root ("")."""
    function: Callable[..., Any] | None = None
    """The module-level function that holds the line, if any."""


class _Holder(nn.Module):
    """The module that is traced: a Python method for each exported one, with flat values."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def flat_holder(
    module: nn.Module, methods: Sequence[Method], dtype: torch.dtype | None = None
) -> nn.Module:
    """Returns a module whose methods take the flat inputs in order and return flat outputs.

    The values of written inputs after the call follow the outputs; the inputs themselves are not
    written. With a `dtype`, floating-point inputs are cast to it, and outputs back to the
    signature's type.
    """
    bodies = {method.name: _flat_method(method, dtype) for method in methods}
    return cast(nn.Module, type("FlatModule", (_Holder,), bodies)(module).eval())


def _flat_method(method: Method, dtype: torch.dtype | None) -> Callable[..., Any]:
    names = [spec.name for spec in method.inputs]
    results = method.results

    def body(self: _Holder, *flat: Any) -> tuple[Tensor, ...]:
        if dtype is not None:
            flat = tuple(x.to(dtype) if x.is_floating_point() else x for x in flat)
        inputs = dict(zip(names, flat, strict=True))
        inputs.update({name: inputs[name].clone() for name in method.writes})
        args = [unflatten(tree, inputs) for tree in method.args]
        kwargs = {name: unflatten(tree, inputs) for name, tree in method.kwargs}
        call = self.module if method.name == "forward" else getattr(self.module, method.name)
        values = flatten(method.returns, call(*args, **kwargs))
        missing = [spec.name for spec in method.outputs if values.get(spec.name) is None]
        if missing:
            raise RuntimeError(
                f"the output {missing[0]} is None here, and a trace cannot hold that"
            )
        if method.writes:
            after, _ = arguments_after(method, args, kwargs, inputs)
            # A copy, because torch.export merges outputs that are the same tensor.
            own = after if _tracing() else {name: after[name].clone() for name in method.writes}
            values |= {written_name(name): own[name] for name in method.writes}
        outputs = [to_tensor(spec, values[spec.name]) for spec in results]
        if dtype is not None:
            outputs = [
                output.to(getattr(torch, spec.dtype)) if output.is_floating_point() else output
                for output, spec in zip(outputs, results, strict=True)
            ]
        return tuple(outputs)

    # The tracer names the graph's inputs after the parameters: give it the signature's names.
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [
        inspect.Parameter(f"input_{index}", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for index, _ in enumerate(names)
    ]
    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    body.__name__ = method.name
    return body


def as_tensors(method: Method, values: Mapping[str, Any], device: str) -> tuple[Tensor, ...]:
    """Returns copies of a method's inputs in order, scalars as 0-dimensional tensors.

    Raises:
        RuntimeError: An optional input is absent.
    """
    result = []
    for spec in method.inputs:
        value = values.get(spec.name)
        if value is None:
            raise RuntimeError(f"the optional input {spec.name} is absent, and a trace has no None")
        result.append(to_tensor(spec, value).detach().clone().to(device))
    return tuple(result)


def trace(
    module: nn.Module,
    methods: Sequence[Method],
    examples: Mapping[str, Mapping[str, Any]],
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[torch.jit.ScriptModule, list[str]]:
    """Traces every method of a module; scripted parts inside stay as they are.

    Args:
        module: A copy that may be changed, in eval mode.
        methods: The signature.
        examples: Flat example values by method and input name.
        device: The device to trace on.
        dtype: The module's floating-point type, where it is not the signature's.

    Returns:
        The traced module, flat, and the tracer's warnings as "message at file:line".
    """
    holder = flat_holder(module, methods, dtype)
    inputs = {m.name: as_tensors(m, examples[m.name], device) for m in methods}
    with traced_through(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ignore_deprecation()
        # check_trace only repeats the traced call; the goldens vary shapes and values.
        traced = torch.jit.trace_module(  # type: ignore[no-untyped-call]
            holder, inputs, check_trace=False
        )
    notes = [
        f"{_first_sentence(str(note.message))} at {source_line(note.filename, note.lineno)}"
        for note in caught
        if issubclass(note.category, torch.jit._trace.TracerWarning)
    ]
    return traced, list(dict.fromkeys(notes))


def _first_sentence(text: str) -> str:
    return text.split(". ", 1)[0].strip().rstrip(".")


def diagnose(
    module: nn.Module,
    methods: Sequence[Method],
    examples: Mapping[str, Mapping[str, Any]],
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[Site, ...]:
    """Traces once more, and returns every place where a tensor became a Python value.

    It is a second trace because watching makes some torch modules take other paths. The arguments
    are those of `trace`; a trace that fails yields the places seen until then.
    """
    holder = flat_holder(module, methods, dtype)
    watcher = _Watcher({id(sub): name for name, sub in module.named_modules()})
    inputs = {m.name: as_tensors(m, examples[m.name], device) for m in methods}
    with traced_through(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with watcher:
                torch.jit.trace_module(  # type: ignore[no-untyped-call]
                    holder, inputs, check_trace=False
                )
        except Exception:  # the caller has the same error from `trace`
            pass
    order = {"data": 0, "shape": 1, "constant": 2}
    return tuple(sorted(watcher.sites.values(), key=lambda site: order[site.depends]))


class _Watcher(TorchFunctionMode):
    """Records each conversion of a traced tensor into a Python value."""

    def __init__(self, paths: dict[int, str]) -> None:
        super().__init__()
        self._paths = paths
        self.sites: dict[tuple[str, str, Depends], Site] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _CONVERSIONS and args and isinstance(args[0], Tensor) and _tracing():
            frame = sys._getframe(1)
            # `for row in tensor` unbinds it in Tensor.__iter__; a plain unbind is traceable.
            if name != "unbind" or frame.f_code.co_name == "__iter__":
                self._record(name, args[0], frame)
        if getattr(func, "__globals__", None) is vars(nn.functional):
            return self._inside(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _inside(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Runs a function of torch.nn.functional so that conversions inside of it are seen too.

        A mode is off while it handles a function, and these ask for a mode once more.
        """
        space = vars(nn.functional)
        saved = {name: space[name] for name in _OVERRIDES if name in space}
        space.update(dict.fromkeys(saved, lambda *_: False))
        try:
            with self:
                return func(*args, **kwargs)
        finally:
            space.update(saved)

    def _record(self, name: str, tensor: Tensor, frame: types.FrameType) -> None:
        where, frames = in_frames(frame)
        # Torch's own code has a line as well, by which the user can accept it.
        where = where or source_line(frame.f_code.co_filename, frame.f_lineno)
        sizes_only = name in ("unbind", "__len__") or _only_checks_sizes(frame)
        depends: Depends = "shape" if sizes_only else provenance(tensor)
        what = _CONVERSIONS[name]
        if (where, what, depends) not in self.sites:
            self.sites[where, what, depends] = Site(
                where, what, depends, self._owners(frames), _function_of(frames)
            )

    def _owners(self, frames: list[types.FrameType]) -> tuple[str, ...]:
        owners = []
        for frame in frames:
            path = self._paths.get(id(frame.f_locals.get("self")), "")
            if path and path not in owners:
                owners.append(path)
        return tuple(owners)


def _only_checks_sizes(frame: types.FrameType | None) -> bool:
    """Returns True inside a check of sizes in torch's own layers."""
    while frame is not None and is_machinery(frame.f_code.co_filename):
        if frame.f_code.co_name in _SIZE_CHECKS:
            return True
        frame = frame.f_back
    return False


def _function_of(frames: list[types.FrameType]) -> Callable[..., Any] | None:
    """Returns the module-level function that runs in the innermost frame, if it is one."""
    for frame in frames[:1]:
        value = frame.f_globals.get(frame.f_code.co_name)
        if isinstance(value, types.FunctionType) and value.__code__ is frame.f_code:
            return value
    return None


def _tracing() -> bool:
    return bool(torch._C._get_tracing_state() is not None)


def provenance(tensor: Tensor) -> Depends:
    """Returns what a traced tensor's value was computed from, by walking the trace so far."""
    try:
        value = torch._C._get_value_trace(tensor)  # type: ignore[attr-defined]
    except RuntimeError:
        return "data"  # unknown: the careful answer
    result: Depends = "constant"
    measured: list[Any] = []
    for node in _ancestors([value], _SIZES):
        kind = node.kind()
        if kind in _SIZES:
            result = "shape"
            measured += node.inputs()
        elif kind == "prim::Param":
            return "data"
    sized_by_values = any(map(_is_sized_by_values, _ancestors(measured)))
    return "data" if sized_by_values else result


def _ancestors(values: list[Any], stop: Collection[str] = ()) -> Iterator[Any]:
    """Yields the nodes that these values were computed by, not beyond parameters and `stop`."""
    seen: set[str] = {value.debugName() for value in values}
    stack = list(values)
    while stack:
        node = stack.pop().node()
        yield node
        # A parameter or a buffer is a part of the model.
        if node.kind() in stop or node.kind() in ("prim::GetAttr", "prim::TracedAttr"):
            continue
        for operand in node.inputs():
            if operand.debugName() not in seen:
                seen.add(operand.debugName())
                stack.append(operand)


def _is_sized_by_values(node: Any) -> bool:
    if node.kind() == "aten::index":
        return any(_is_bool(index) for index in list(node.inputs())[1].node().inputs())
    return node.kind() in _SIZED_BY_VALUES


def _is_bool(value: Any) -> bool:
    kind = value.type()
    return bool(kind.kind() == "TensorType" and kind.dtype() == torch.bool)
