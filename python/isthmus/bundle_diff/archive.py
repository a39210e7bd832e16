"""Modules and tensors of a TorchScript archive, read without executing anything.

The archive's pickle is read by an unpickler that knows tensors and plain containers; every other
class becomes an object that only keeps its state.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus.errors import BundleError

__all__ = ["Archive", "StoredTensor", "read_archive"]

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
    """A tensor that is read when it is asked for."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    """Its values, on the CPU; nothing is kept."""

    @property
    def text(self) -> str:
        """ "float32[3, 4]"."""
        return f"{self.dtype}{list(self.shape)}"

    @property
    def elements(self) -> int:
        """How many it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Archive:
    """What the pickles of an archive say."""

    modules: Mapping[str, str]
    """Class by dotted path, "" for the root: "__torch__.torch.nn.modules.linear.Linear"."""
    tensors: Mapping[str, StoredTensor]
    """Parameters, buffers and other tensors by dotted path."""
    constants: tuple[StoredTensor, ...]
    """Tensors baked into the code, which calls them CONSTANTS.c0 and so on."""


def read_archive(path: Path) -> Archive:
    """Reads the structure of an archive; the values of tensors stay where they are.

    Raises:
        BundleError: It is no TorchScript archive, or one that this cannot read.
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
    except Exception as error:  # a foreign pickle may fail in any way
        raise BundleError(
            f"{path}: expected a TorchScript archive, got something that cannot be read as one "
            f"({type(error).__name__}: {error}); export the model again"
        ) from error
    modules, tensors = _walk(root)
    return Archive(
        modules, tensors, tuple(constant for constant in constants if _is_tensor(constant))
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, StoredTensor)


class _Object:
    """Anything that is neither a tensor nor a plain container: keeps its state, does nothing."""

    qualified = ""

    def __new__(cls, *arguments: object, **keywords: object) -> _Object:
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        self.state: object = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows tensors; makes an `_Object` of every other class."""

    def __init__(self, content: bytes, path: Path, folder: str) -> None:
        super().__init__(io.BytesIO(content))
        self._path, self._folder = path, folder

    def find_class(self, module: str, name: str) -> Any:
        """Never the class itself."""
        if module == "torch._utils" and name.startswith("_rebuild_"):
            return self._tensor if name in ("_rebuild_tensor", "_rebuild_tensor_v2") else _opaque
        if module == "torch.jit._pickle":
            return _container
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        return type(name, (_Object,), {"qualified": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """A storage: its type's name and its record."""
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
    """A tensor of a kind that is not looked into, such as a quantised one."""
    return _Object(*arguments)


def _container(value: object, *_: object) -> object:
    """Lists and dicts that carry their TorchScript type."""
    return value


def _checked(path: Path, file: zipfile.ZipFile, record: str) -> zipfile.ZipInfo:
    """The record, if it is not larger than what it is made of: LibTorch stores tensors as is."""
    entry = file.getinfo(record)
    if entry.compress_type != zipfile.ZIP_STORED and entry.file_size > _LARGEST_PICKLE:
        raise BundleError(f"{path}: {record} unpacks to {entry.file_size} bytes; it is not read")
    return entry


def _unpickle(path: Path, file: zipfile.ZipFile, record: str, folder: str) -> Any:
    return _Unpickler(file.read(_checked(path, file, record)), path, folder).load()


def _walk(root: object) -> tuple[dict[str, str], dict[str, StoredTensor]]:
    """Modules and tensors by dotted path; what is shared, once, by its first path."""
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
