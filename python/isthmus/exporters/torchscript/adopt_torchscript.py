"""Adopts a TorchScript archive: it is scanned, loaded, and called with a user's example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from isthmus.errors import BundleError, InvalidInput, first_line
from isthmus.exporters.check import load_bytes
from isthmus.exporters.options import ExportOptions, open_libraries
from isthmus.exporters.quiet_torch import quiet_torch
from isthmus.exporters.torchscript.archive import read_archive
from isthmus.exporters.torchscript.operators import CORE_NAMESPACES

__all__ = ["arguments_of", "load_scripted"]


def load_scripted(path: Path, options: ExportOptions) -> torch.jit.ScriptModule:
    """Loads a TorchScript archive after the scanner has read it.

    Raises:
        BundleError: The file is something else, or holds what `trust` does not allow.
    """
    from isthmus import _core

    archive = read_archive(
        path, "a TorchScript archive, an ONNX file or an AOTInductor package to adopt"
    )
    namespaces = _open_libraries(options.op_libraries)
    if options.trust == "graph":
        scan = _core.scan_torchscript(archive, namespaces)
        if scan.refused:
            raise BundleError(
                f"{path} is refused: {scan.describe()}. Pure operators are allowed; if you trust "
                'the file as you would a program, pass trust="native" (--trust native)'
            )
    try:
        with quiet_torch():
            return load_bytes(archive, "cpu")
    except Exception as error:  # whatever torch says of a file that it cannot read
        raise BundleError(
            f"{path}: torch {torch.__version__} cannot load it ({first_line(error)}); it may come "
            "from a newer torch, or need --op-library"
        ) from error


def _open_libraries(libraries: Sequence[str | Path]) -> set[str]:
    """Opens libraries, and returns the operator namespaces that they brought."""
    if not libraries:
        return set()
    before = _namespaces()
    open_libraries(libraries)
    return (_namespaces() - before) or (_namespaces() - CORE_NAMESPACES)


def _namespaces() -> set[str]:
    return {schema.name.partition("::")[0] for schema in torch._C._jit_get_all_schemas()}


def arguments_of(
    module: torch.jit.ScriptModule, method: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a method's keyword arguments; single values become numbers where it takes numbers."""
    if not module._c._has_method(method):
        has = ", ".join(sorted(module._c._method_names()))
        raise InvalidInput(f'the module has no method "{method}"; it has {has or "none"}')
    arguments = module._c._get_method(method).schema.arguments[1:]
    names = [argument.name for argument in arguments]
    unknown = [name for name in values if name not in names]
    missing = [argument.name for argument in arguments if not argument.has_default_value()]
    missing = [name for name in missing if name not in values]
    if unknown or missing:
        wrong = f"{unknown[0]} is unknown" if unknown else f"{missing[0]} is missing"
        raise InvalidInput(
            f"inputs: {wrong}; {method} takes "
            + (", ".join(f"{a.name}: {a.type}" for a in arguments) or "nothing")
        )
    result = {}
    for argument in arguments:
        if argument.name not in values:
            continue
        value = values[argument.name]
        if not isinstance(value, torch.Tensor) and hasattr(value, "__array__"):
            value = torch.from_numpy(value)
        is_number = argument.type.kind() in ("IntType", "FloatType", "BoolType", "NumberType")
        if is_number and isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        result[argument.name] = value
    return result
