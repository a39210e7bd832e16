"""Reads modules and tensors of a TorchScript archive without executing anything.

The unpickler knows tensors and plain containers; every other class becomes an object that only
keeps its state.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus.errors import BundleError

__all__ = ["ArchiveContents", "StoredTensor", "read_archive_contents"]

_LARGEST_PICKLE = 256 << 20
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose values are read on demand."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    """Reads the values onto the CPU, at each call."""

    @property
    def text(self) -> str:
        """The dtype and shape: "float32[3, 4]"."""
        return f"{self.dtype}{list(self.shape)}"

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ArchiveContents:
    """The modules, tensors and constants of an archive."""

    modules: Mapping[str, str]
    """Maps a dotted path, "" for the root, to a qualified class name."""
    tensors: Mapping[str, StoredTensor]
    """Maps a dotted path to a parameter, buffer or other tensor."""
    constants: tuple[StoredTensor, ...]
    """The tensors that the code calls CONSTANTS.c0 and so on."""


def read_archive_contents(path: Path) -> ArchiveContents:
    """Reads the structure of an archive; the values of tensors are read on demand.

    Raises:
        BundleError: The file is no TorchScript archive, or cannot be read as one.
    """
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            prefix = next(name for name in names if name.endswith("data.pkl")).rpartition("/")[0]
            root = _unpickle(path, file, f"{prefix}/data.pkl", f"{prefix}/data")
            constants: Any = ()
            if f"{prefix}/constants.pkl" in names:
                record = f"{prefix}/constants.pkl"
                constants = _unpickle(path, file, record, f"{prefix}/constants")
    except BundleError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise BundleError(
            f"{path}: expected a TorchScript archive, got something that cannot be read as one "
            f"({type(error).__name__}: {error}); export the model again"
        ) from error
    modules, tensors = _walk(root)
    return ArchiveContents(
        modules,
        tensors,
        tuple(constant for constant in constants if isinstance(constant, StoredTensor)),
    )


class _Object:
    """An object that is neither a tensor nor a plain container; it only keeps its state."""

    qualified = ""

    def __new__(cls, *arguments: object, **keywords: object) -> _Object:
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        self.state: object = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Reads tensors and containers, and makes an `_Object` of every other class."""

    def __init__(self, content: bytes, path: Path, folder: str) -> None:
        super().__init__(io.BytesIO(content))
        self._path, self._folder = path, folder

    def find_class(self, module: str, name: str) -> Any:
        """Returns a substitute for the class, which is never imported."""
        if module == "torch._utils" and name.startswith("_rebuild_"):
            return self._tensor if name in ("_rebuild_tensor", "_rebuild_tensor_v2") else _opaque
        if module == "torch.jit._pickle":
            return _container
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        return type(name, (_Object,), {"qualified": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """Returns the name of a storage's type and its record."""
        _, kind, key, *_ = pid
        return kind.qualified.rpartition(".")[2], f"{self._folder}/{key}"

    def _tensor(
        self,
        storage: tuple[str, str],
        offset: int,
        shape: Sequence[int],
        stride: Sequence[int],
        *_: object,
    ) -> StoredTensor:
        kind, record = storage
        dtype = _DTYPES.get(kind)
        path, sizes, steps = self._path, tuple(shape), tuple(stride)

        def read() -> Tensor:
            with zipfile.ZipFile(path) as file:
                content = bytearray(file.read(_checked(path, file, record)))
            if not content:
                return torch.empty(sizes, dtype=dtype or torch.uint8)
            flat = torch.frombuffer(content, dtype=dtype or torch.uint8)
            return flat if dtype is None else flat.as_strided(sizes, steps, offset)

        name = kind if dtype is None else str(dtype).removeprefix("torch.")
        return StoredTensor(name, sizes, read)


def _opaque(*arguments: object) -> _Object:
    """Replaces a tensor of a kind that is not read, such as a quantised tensor."""
    return _Object(*arguments)


def _container(value: object, *_: object) -> object:
    """Returns a list or dict without its TorchScript type."""
    return value


def _checked(path: Path, file: zipfile.ZipFile, record: str) -> zipfile.ZipInfo:
    """Returns the record; refuses compressed ones that unpack to too much.

    LibTorch stores tensors uncompressed.
    """
    entry = file.getinfo(record)
    if entry.compress_type != zipfile.ZIP_STORED and entry.file_size > _LARGEST_PICKLE:
        raise BundleError(f"{path}: {record} unpacks to {entry.file_size} bytes; it is not read")
    return entry


def _unpickle(path: Path, file: zipfile.ZipFile, record: str, folder: str) -> Any:
    return _Unpickler(file.read(_checked(path, file, record)), path, folder).load()


def _walk(root: object) -> tuple[dict[str, str], dict[str, StoredTensor]]:
    """Returns modules and tensors by dotted path; shared ones once, by their first path."""
    modules: dict[str, str] = {}
    tensors: dict[str, StoredTensor] = {}
    seen: set[int] = set()
    todo: list[tuple[str, object]] = [("", root)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, StoredTensor):
            tensors[path] = value
            continue
        if isinstance(value, (str, bytes, int, float, bool, type(None))) or id(value) in seen:
            continue
        seen.add(id(value))
        items: list[tuple[object, object]] = []
        if isinstance(value, _Object):
            modules[path] = value.qualified
            state = value.state
            items = list(state.items()) if isinstance(state, dict) else [("state", state)]
        elif isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))
        todo += [(f"{path}.{key}" if path else str(key), item) for key, item in reversed(items)]
    return modules, tensors
