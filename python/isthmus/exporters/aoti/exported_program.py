"""`torch.export` programs: of the module itself, or of its TorchScript, at named dimensions."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from isthmus.bundle.manifest import Method
from isthmus.exporters.export_request import ExportRequest, Scripted
from isthmus.exporters.quiet_torch import ignore_deprecation
from isthmus.exporters.torchscript.call_source import flat_call_source, structured_call_source
from isthmus.exporters.torchscript.script import private_copy
from isthmus.exporters.torchscript.trace import as_tensors, flat_holder
from isthmus.goldens.precision_copy import cast_copy, deep_copy

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["FlatCall", "export_module", "export_scripted", "flat_script"]


class FlatCall(nn.Module):
    """One method of a flat holder as `forward`, with the signature's inputs in order."""

    def __init__(self, holder: nn.Module, method: str) -> None:
        super().__init__()
        self.holder = holder
        self._method = method

    def forward(self, *flat: Any) -> Any:
        """Calls the method; gives a tuple of the outputs in order."""
        return getattr(self.holder, self._method)(*flat)


def export_module(subject: ExportRequest, method: Method, device: str) -> ExportedProgram:
    """`torch.export` of one method of the module, in the signature's flat form.

    Raises:
        Exception: Whatever `torch.export` says of code that it cannot follow.
    """
    assert subject.module is not None
    if subject.dtype is not None:
        copy = cast_copy(subject.module, subject.dtype)
    elif isinstance(subject.module, torch.jit.ScriptModule):
        copy = deep_copy(subject.module)
    else:
        copy = private_copy(subject.module, ())
    flat = FlatCall(
        flat_holder(copy.to(device).eval(), subject.methods, subject.dtype), method.name
    ).eval()
    return _export(flat, subject, method, device)


def export_scripted(subject: ExportRequest, method: Method, device: str) -> ExportedProgram:
    """The program of a TorchScript archive, control flow included.

    By `torch._export.converter.TS2EPConverter`, exported again for the named dimensions.

    Raises:
        Exception: Whatever the converter says of a graph that it cannot turn.
    """
    from torch._export.converter import TS2EPConverter

    assert subject.scripted is not None
    module = flat_script(subject.scripted, subject, method, device)
    args = as_tensors(method, subject.examples[method.name], device)
    with _quiet():
        converted = TS2EPConverter(module, args, {}).convert()
        flat = converted.module()
    return _export(cast(nn.Module, flat), subject, method, device)


def flat_script(
    scripted: Scripted, subject: ExportRequest, method: Method, device: str
) -> torch.jit.ScriptModule:
    """The archive with one method as `forward`, taking the flat inputs as tensors.

    Where the archive takes numbers or nested values, a scripted call around it makes them, so that
    its control flow depends on the inputs and on nothing that one call decided.
    """
    module = torch.jit.load(  # type: ignore[no-untyped-call]
        io.BytesIO(scripted.archive), map_location=device
    )
    module.eval()
    schema = getattr(module, method.name).schema
    kinds = [argument.type.kind() for argument in schema.arguments[1:]]
    if (
        scripted.convention == "flat"
        and method.name == "forward"
        and all(kind == "TensorType" for kind in kinds)
    ):
        return cast(torch.jit.ScriptModule, module)
    if scripted.convention == "flat":
        source = flat_call_source(method, kinds, len(schema.returns))
    else:
        source = structured_call_source(method)
    with _quiet():
        outer = torch.jit.script(_Outer(module))
        outer.define(source)
        return cast(torch.jit.ScriptModule, outer.eval())


class _Outer(nn.Module):
    """Holds a scripted module; its `forward` is defined from source."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def _export(
    flat: nn.Module, subject: ExportRequest, method: Method, device: str
) -> ExportedProgram:
    args = as_tensors(method, subject.examples[method.name], device)
    made: dict[str, Any] = {}
    shapes = tuple(_shape_of(subject, spec.name, made) for spec in method.inputs)
    names = list(_parameters(flat))
    dynamic: Any = {names[0]: shapes} if names == ["flat"] else shapes
    with _quiet():
        return torch.export.export(flat, args, dynamic_shapes=dynamic, strict=False)


def _parameters(flat: nn.Module) -> Mapping[str, Any]:
    import inspect

    return inspect.signature(flat.forward).parameters


def _shape_of(subject: ExportRequest, name: str, made: dict[str, Any]) -> dict[int, Any]:
    """`torch.export` dimensions of one input; one object is one size wherever it is used."""
    found: dict[int, Any] = {}
    for axis, dim in subject.axes.get(name, {}).items():
        size = subject.dims[dim]
        if size.min == size.max:
            continue
        if dim not in made:
            made[dim] = torch.export.Dim(dim, min=size.min, max=size.max)
        found[axis] = made[dim]
    return found


class _quiet(warnings.catch_warnings):  # noqa: N801  (a context manager, used like a function)
    """No warnings of the exporters' own making: what matters is proven on the goldens."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        ignore_deprecation()
        return entered
