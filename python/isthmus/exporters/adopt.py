"""Makes a bundle of a model's file that somebody else made; the file itself is the truth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isthmus.bundle.bundle import Bundle, check_destination
from isthmus.bundle.tensor_file import read_tensors
from isthmus.capture.dynamic import DimsSpec, DynamicSpec
from isthmus.capture.file_module import FileModule
from isthmus.errors import ExportError, InvalidInput
from isthmus.exporters.aoti.adopt_aoti import open_aoti, refuse_unchecked_sizes
from isthmus.exporters.aoti.aoti_file import AotiFile
from isthmus.exporters.export import export
from isthmus.exporters.exported.exported_file import ExportedFile, open_program
from isthmus.exporters.onnx.adopt_onnx import dynamic_axes, open_onnx
from isthmus.exporters.onnx.onnx_file import OnnxFile
from isthmus.exporters.options import ExportOptions, ignore_progress, open_libraries
from isthmus.exporters.torchscript.adopt_torchscript import arguments_of, load_scripted

__all__ = ["adopt"]

_Inputs = Mapping[str, Any] | str | Path


def adopt(
    path: str | Path,
    inputs: _Inputs,
    *,
    output: str | Path,
    dynamic: DynamicSpec | None = None,
    dims: DimsSpec | None = None,
    methods: Mapping[str, _Inputs] | None = None,
    examples: Sequence[_Inputs] = (),
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    name: str = "",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Makes a bundle of a TorchScript archive, an exported program, an ONNX file or a package.

    The file is scanned before it is loaded; its own answers on the example, over the grid of
    shapes, become the goldens. An ONNX file answers by ONNX Runtime in Python, in float32, an
    exported program by torch in Python. An AOTInductor package is native code, cannot be scanned,
    and needs `trust`.

    Args:
        path: A file that `torch.jit.save` or `torch.export.save` wrote; an ONNX file with its
            weights in it or beside it; or a package that
            `torch._inductor.aoti_compile_and_package` wrote.
        inputs: Example inputs by the names of `forward`'s parameters or of the graph's inputs:
            tensors, or arrays, in a dict, an .npz or a .safetensors file. A file's single values
            without a dimension are scalars where the parameter is a number. A package has no names
            for positional arguments: they are "arg.0", "arg.1" and so on.
        output: The folder to make for the bundle.
        dynamic: The dynamic dimensions, as for `isthmus.export`. An ONNX file and an exported
            program bring those that they name or leave open; what is given here counts first.
        dims: The range of each dimension, as for `isthmus.export`.
        methods: Further methods of TorchScript to export, by name, each with its example inputs, as
            `inputs`: `{"reset": {}}`.
        examples: Further inputs of `forward` at other sizes, each as `inputs`; see
            `isthmus.export`.
        trust: "graph", or "native" for operators that are not on the allowlist, and for packages.
        op_libraries: Libraries of custom operators of torch to open first.
        name: The model's name; the file's name when empty.
        overwrite: Replace an existing bundle.
        progress: Receives a sentence at each stage.

    Raises:
        BundleError: The file is of another kind, or the scan refuses it.
        InvalidInput: The example or an option does not fit.
        ExportError: The file does not repeat its own answers, or no engine gives them.
    """
    options = ExportOptions(
        trust=trust, op_libraries=op_libraries, progress=progress or ignore_progress
    )
    check_destination(output, overwrite=overwrite)
    source = Path(path)
    options.progress(f"Scanning {source.name}")
    common: dict[str, Any] = {
        "path": output,
        "dims": dims,
        "name": name or source.stem,
        "overwrite": overwrite,
        "progress": options.progress,
    }
    kind = _kind_of(source)
    kind = {"exported_program": "exported"}.get(kind, kind)
    if kind in ("onnx", "aoti", "exported"):
        _refuse(methods, "methods", "the file has one method, which is called forward")
        with tempfile.TemporaryDirectory(prefix="isthmus-adopt-") as folder:
            if kind == "onnx":
                _refuse(op_libraries, "op_libraries", "no library is opened for an ONNX file")
                model: OnnxFile | ExportedFile | AotiFile = open_onnx(source, Path(folder))
            elif kind == "exported":
                open_libraries(op_libraries)
                model = open_program(source, Path(folder))
            else:
                open_libraries(op_libraries)
                model = open_aoti(source, Path(folder), trust)
            with _reworded(model):
                args, kwargs = model.arguments(_read(inputs))
                if isinstance(model, OnnxFile):
                    dynamic = dynamic_axes(model.inputs, dynamic)
                elif isinstance(model, ExportedFile):
                    dynamic = dynamic_axes(model.inputs, dynamic)
                    common["dims"] = model.limits(dynamic, dims)
                else:
                    refuse_unchecked_sizes(model, args, kwargs, dynamic)
                return export(
                    model,
                    args,
                    kwargs,
                    dynamic=dynamic,
                    examples=[model.arguments(_read(values)) for values in examples],
                    formats=(kind,),
                    op_libraries=op_libraries,
                    source={"kind": kind, "file": source.name},
                    **common,
                )
    module = load_scripted(source, options)
    further = {
        method: ((), arguments_of(module, method, _read(values)))
        for method, values in (methods or {}).items()
    }
    return export(
        module,
        (),
        arguments_of(module, "forward", _read(inputs)),
        dynamic=dynamic,
        methods=further or None,
        examples=[arguments_of(module, "forward", _read(values)) for values in examples],
        op_libraries=op_libraries,
        source={"kind": "torchscript", "file": source.name},
        **common,
    )


@contextmanager
def _reworded(model: FileModule) -> Iterator[None]:
    """Says of the file what errors say of an eager module."""
    try:
        yield
    except (InvalidInput, ExportError) as error:
        error.args = (model.reworded(str(error)),)
        raise


def _kind_of(path: Path) -> str:
    """Returns the kind of a file by its content; ".onnx" is one whatever it begins with."""
    from isthmus import _core

    if not path.is_file():
        return "missing"
    return "onnx" if path.suffix == ".onnx" else _core.identify_file(path).kind


def _refuse(given: object, option: str, reason: str) -> None:
    if given:
        raise InvalidInput(f"{option}: {reason}; leave it out")


def _read(inputs: _Inputs) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return dict(read_tensors(Path(inputs), "inputs"))
