"""Says what a file is that was given in place of a model, and what to do with it."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["refusal_of_file"]

_ADOPTED = ("torchscript", "exported_program", "onnx", "aoti")
_TENSORS = ("collections", "torch", "torch._utils", "torch._tensor", "torch.serialization")
"""The modules whose names occur in a file of tensors alone."""
_ARRAYS = ("numpy", "_codecs")
"""The packages whose names occur beside them where a file holds arrays of NumPy too."""
_LEGACY_PICKLES = 4
"""The pickles of torch.save's old format: a number, its version, the machine, and the object."""


def refusal_of_file(path: Path) -> str:
    """Returns what a file is, and what to do with it, without loading it.

    Args:
        path: A file that exists.
    """
    from isthmus import _core

    if path.suffix == ".py":
        return (
            f"{path} is a Python file; write a function in it that returns the module and example "
            f"arguments, and name it: `isthmus export {path.stem}:FUNCTION`"
        )
    identified = _core.identify_file(path)
    folder = path.parent
    if identified.kind in ("state_dict", "safetensors") and (folder / "config.json").is_file():
        return (
            f"{path} holds the weights of a Hugging Face model; give its folder: `isthmus export "
            f"{folder} -o BUNDLE`"
        )
    if identified.kind == "safetensors":
        return _weights(path, "a safetensors file", f'safetensors.torch.load_file("{path}")')
    if identified.kind in ("state_dict", "pickle"):
        names = _foreign_names(path)
        loading = f'torch.load("{path}", weights_only={not names})'
        if identified.kind == "pickle":
            loading = f'pickle.load(open("{path}", "rb"))'
        objects = [name for name in names if name.partition(".")[0] not in _ARRAYS]
        if objects:
            return (
                f"{path} is a pickled {objects[0]}, and reading it runs code: only if you trust "
                f"it, write a function that returns {loading} and example arguments, where the "
                "class can be imported, and give it as package.module:function"
            )
        return _weights(path, "a state dict", loading)
    advice = identified.advice
    if identified.kind in _ADOPTED:
        return f"{advice} Expected was a Hugging Face folder or id, or package.module:factory"
    return f"{advice} Expected a Hugging Face folder or id, or package.module:factory"


def _weights(path: Path, what: str, loading: str) -> str:
    return (
        f"{path} is {what}: weights without the program that uses them. Write a function that "
        f"makes the module, calls load_state_dict({loading}), or of a checkpoint with the entry of "
        "it that holds the weights, and returns the module with example arguments; give it as "
        "package.module:function"
    )


def _foreign_names(path: Path) -> list[str]:
    """Returns the classes and functions in a pickle that plain tensors do not need.

    The pickle is read as text and never loaded.
    """
    names: list[str] = []
    try:
        for pickle in _pickles(path):
            for module, name in _globals(pickle):
                if module not in _TENSORS:
                    names.append(f"{module}.{name}")
    except (ValueError, IndexError, EOFError):  # damaged; what reads it will say so
        return names
    return names


def _pickles(path: Path) -> Iterator[io.BytesIO]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for record in archive.namelist():
                if record.rpartition("/")[2] == "data.pkl":
                    yield io.BytesIO(archive.read(record))
        return
    content = io.BytesIO(path.read_bytes())
    for _ in range(_LEGACY_PICKLES):
        yield content  # each is read up to its end, where the next begins


def _globals(pickle: io.BytesIO) -> Iterator[tuple[str, str]]:
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
            yield texts[-2], texts[-1]
        elif isinstance(argument, str):
            texts.append(argument)
