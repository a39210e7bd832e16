"""`torch.export` programs of the module itself or of its TorchScript, with named dimensions."""

from __future__ import annotations

import inspect
import io
import keyword
import math
import re
import warnings
from collections.abc import Collection, Mapping
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.fx.experimental._config as size_settings
from torch import nn

from isthmus.bundle.manifest import DimRange, Method
from isthmus.bundle.size_expression import is_plain, names_of, parse_size
from isthmus.capture.private_copy import private_copy
from isthmus.exporters.check import load_bytes
from isthmus.exporters.experts import exportable_experts
from isthmus.exporters.export_request import ExportRequest
from isthmus.exporters.size_guards import SizesNotServed, allowed_sizes, read_size_guards
from isthmus.exporters.torchscript.call_source import (
    flat_call_source,
    module_around,
    structured_call_source,
)
from isthmus.exporters.torchscript.trace import as_tensors, flat_holder
from isthmus.goldens.precision_copy import cast_copy

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["export_module", "export_scripted", "flat_script"]


class FlatCall(nn.Module):
    """A flat holder's method as `forward`, with the signature's inputs in order."""

    def __init__(self, holder: nn.Module, method: str) -> None:
        super().__init__()
        self.holder = holder
        self._method = method

    def forward(self, *flat: Any) -> Any:
        """Calls the method, and returns a tuple of the outputs in order."""
        return getattr(self.holder, self._method)(*flat)


def _flat_call(holder: nn.Module, method: Method) -> nn.Module:
    """Returns the method's `FlatCall`, whose parameters have the inputs' names.

    `torch.export` names the program's inputs after the parameters.
    """
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for spec in method.inputs:
        name = re.sub(r"\W", "_", spec.name)
        if not name.isidentifier() or keyword.iskeyword(name):
            name = f"input_{name}"
        while name in [parameter.name for parameter in parameters]:
            name += "_"
        parameters.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD))

    def forward(self: FlatCall, *flat: Any) -> Any:
        return FlatCall.forward(self, *flat)

    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call = type("FlatCall", (FlatCall,), {"forward": forward})
    return cast(nn.Module, call(holder, method.name).eval())


def export_module(
    request: ExportRequest, method: Method, device: str, *, strict: bool = False
) -> ExportedProgram:
    """Exports one method of the module, in the signature's flat form, with `torch.export`.

    Args:
        request: The request, with the module.
        method: The method to export.
        device: The device on which it is exported.
        strict: Analyse the module's Python instead of running it.

    Raises:
        Exception: Whatever `torch.export` says of code that it cannot follow.
    """
    assert request.module is not None
    if request.dtype is not None:
        module = cast_copy(request.module, request.dtype)
    else:
        module = private_copy(request.module)
    holder = flat_holder(module.to(device).eval(), request.methods, request.dtype)
    with exportable_experts(module):
        return _export(_flat_call(holder, method), request, method, device, strict)


def export_scripted(request: ExportRequest, method: Method, device: str) -> ExportedProgram:
    """Exports one method of a TorchScript archive, control flow included.

    `torch._export.converter.TS2EPConverter` converts it; the result is exported again for the
    named dimensions.

    Raises:
        Exception: Whatever the converter says of a graph that it cannot convert.
    """
    from torch._export.converter import TS2EPConverter

    module = flat_script(request, method, device)
    args = as_tensors(method, request.examples[method.name], device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = TS2EPConverter(module, args, {}).convert().module()
    return _export(cast(nn.Module, program), request, method, device)


def flat_script(request: ExportRequest, method: Method, device: str) -> torch.jit.ScriptModule:
    """Returns the request's TorchScript with one method as `forward`, taking flat tensors.

    Where the archive takes numbers or nested values, a scripted call around it makes them, so that
    its control flow depends on the inputs and not on the values of one call.
    """
    torchscript = request.torchscript
    assert torchscript is not None
    module = load_bytes(torchscript.files[0].read_bytes(), device)
    module.eval()
    flat = torchscript.artifact.convention == "flat"
    arguments = getattr(module, method.name).schema.arguments[1:]
    kinds = [argument.type.kind() for argument in arguments]
    if flat and method.name == "forward" and all(kind == "TensorType" for kind in kinds):
        return module
    source = flat_call_source(method, kinds) if flat else structured_call_source(method)
    return module_around(module, [source])


def _symbol(name: str, limits: DimRange) -> Any:
    """Returns the dimension of a name; of sizes such as 256 and 512 only multiples are promised."""
    step = math.gcd(*limits.sizes)
    if step > 1:
        steps = torch.export.Dim(f"{name}_steps", min=limits.min // step, max=limits.max // step)
        return steps * step
    return torch.export.Dim(name, min=limits.min, max=limits.max)


def _axis_symbol(size: str, roots: Mapping[str, Any]) -> Any:
    """Returns the dimension of an axis: what torch.export can say of it, or AUTO."""
    if is_plain(size):
        return roots[size]
    expression = parse_size(size)
    atom, factor = expression.terms[0]
    if len(expression.terms) > 1 or not isinstance(atom, str) or factor < 1:
        return torch.export.Dim.AUTO
    return roots[atom] * factor + expression.constant


def _export(
    module: nn.Module, request: ExportRequest, method: Method, device: str, strict: bool = False
) -> ExportedProgram:
    """Exports a module that takes the method's inputs in order.

    Raises:
        SizesNotServed: The program does not serve every size of the ranges.
        Exception: Whatever else `torch.export` says of code that it cannot follow.
    """
    args = as_tensors(method, request.examples[method.name], device)

    def export(inferred: Collection[str] = ()) -> ExportedProgram:
        dynamic = _dynamic_shapes(module, request, method, inferred)
        return torch.export.export(module, args, dynamic_shapes=dynamic, strict=strict)

    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        # torch.export prints the graph of a program that it gives up.
        warnings.simplefilter("ignore")
        try:
            return export()
        except torch._dynamo.exc.UserError:
            pass
        # A size that may become 1 somewhere inside, such as that of a feature map, is refused, for
        # torch treats 1 as special. Without that, one program serves it too.
        with size_settings.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            try:
                return export()
            except torch._dynamo.exc.UserError as error:
                refused = error
        if "Constraints violated" not in str(refused):
            raise refused
        limits = {name: DimRange(size.min, size.max) for name, size in request.dims.items()}
        guards = read_size_guards(str(refused), limits, _sizes_of(request))
        if guards.understood and all(
            served.allows(size)
            for name, served in guards.served.items()
            for size in allowed_sizes(request.dims[name])
        ):
            # torch has no range with gaps. The sizes in them never come, for calls are checked.
            return export(guards.served)
        raise SizesNotServed(guards, request.dims) from refused


def _dynamic_shapes(
    module: nn.Module, request: ExportRequest, method: Method, inferred: Collection[str]
) -> Any:
    """Returns the dynamic dimensions as `torch.export` takes them.

    Args:
        module: The module that is exported.
        request: The request, with the range of each dimension.
        method: The method that the module is.
        inferred: Dimensions whose guards torch shall infer within their range.
    """
    roots = {
        name: torch.export.Dim.AUTO(min=limits.min, max=limits.max)
        if name in inferred
        else _symbol(name, limits)
        for name, limits in request.dims.items()
        if limits.min != limits.max
    }
    shapes = tuple(
        {
            axis: torch.export.Dim.AUTO
            if set(names_of(size)) & set(inferred) and not is_plain(size)
            else _axis_symbol(size, roots)
            for axis, size in request.axes.get(spec.name, {}).items()
            if set(names_of(size)) & set(roots)
        }
        for spec in method.inputs
    )
    names = list(inspect.signature(module.forward).parameters)
    return {names[0]: shapes} if names == ["flat"] else shapes


def _sizes_of(request: ExportRequest) -> Mapping[str, int]:
    """Returns the sizes of the user's example; empty where there are no goldens."""
    return request.goldens[0].dims if request.goldens else {}
