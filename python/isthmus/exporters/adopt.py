"""Makes a bundle of a TorchScript file that somebody else made; the file itself is the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from isthmus.bundle.bundle import Bundle, check_destination
from isthmus.bundle.tensor_file import read_tensors
from isthmus.capture.dynamic import DimsSpec, DynamicSpec
from isthmus.errors import BundleError, InvalidInput, first_line
from isthmus.exporters.check import load_bytes
from isthmus.exporters.export import export
from isthmus.exporters.options import ExportOptions, ignore_progress, open_libraries
from isthmus.exporters.quiet_torch import quiet_torch
from isthmus.exporters.torchscript.archive import read_archive
from isthmus.exporters.torchscript.operators import CORE_NAMESPACES

__all__ = ["adopt"]


def adopt(
    path: str | Path,
    inputs: Mapping[str, Any] | str | Path,
    *,
    output: str | Path,
    dynamic: DynamicSpec | None = None,
    dims: DimsSpec | None = None,
    methods: Mapping[str, Mapping[str, Any] | str | Path] | None = None,
    examples: Sequence[Mapping[str, Any] | str | Path] = (),
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    name: str = "",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Makes a bundle of a TorchScript archive.

    The file is scanned before it is loaded; its own answers on the example, over the grid of
    shapes, become the goldens.

    Args:
        path: A file that `torch.jit.save` wrote.
        inputs: Example inputs by the names of `forward`'s parameters: tensors, or arrays, in a
            dict, an .npz or a .safetensors file. A file's single values without a dimension are
            scalars where the parameter is a number.
        output: The folder to make for the bundle.
        dynamic: The dynamic dimensions, as for `isthmus.export`.
        dims: The range of each dimension, as for `isthmus.export`.
        methods: Further methods to export, by name, each with its example inputs, as `inputs`:
            `{"reset": {}}`.
        examples: Further inputs of `forward` at other sizes, each as `inputs`; see
            `isthmus.export`.
        trust: "graph", or "native" for operators that are not on the allowlist.
        op_libraries: Libraries of custom operators to open first.
        name: The model's name; the file's name when empty.
        overwrite: Replace an existing bundle.
        progress: Receives a sentence at each stage.

    Raises:
        BundleError: The file is not a TorchScript archive, or the scan refuses it.
        InvalidInput: The example or an option does not fit.
        ExportError: The module does not repeat its own answers.
    """
    options = ExportOptions(
        trust=trust, op_libraries=op_libraries, progress=progress or ignore_progress
    )
    check_destination(output, overwrite=overwrite)
    source = Path(path)
    options.progress(f"Scanning {source.name}")
    module = _load_scripted(source, options)
    example = _arguments(module, "forward", _read(inputs))
    others = [_arguments(module, "forward", _read(values)) for values in examples]
    further = {
        method: ((), _arguments(module, method, _read(values)))
        for method, values in (methods or {}).items()
    }
    return export(
        module,
        (),
        example,
        path=output,
        dynamic=dynamic,
        dims=dims,
        methods=further or None,
        examples=others,
        op_libraries=op_libraries,
        name=name or source.stem,
        source={"kind": "torchscript", "file": source.name},
        overwrite=overwrite,
        progress=options.progress,
    )


def _load_scripted(path: Path, options: ExportOptions) -> torch.jit.ScriptModule:
    """Loads a TorchScript archive after the scanner has read it.

    Raises:
        BundleError: The file is something else, or holds what `trust` does not allow.
    """
    from isthmus import _core

    archive = read_archive(path)
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


def _read(inputs: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return dict(read_tensors(Path(inputs), "inputs"))


def _arguments(
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
