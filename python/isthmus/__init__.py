"""isthmus takes a PyTorch or Hugging Face model into C++, with proof.

`export` makes a bundle of a module, `load` runs one, `verify` proves it. Importing isthmus imports
neither torch nor NumPy: names are looked up when they are first used.
"""

from __future__ import annotations

import importlib
import sys
import types
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from isthmus.errors import (
    BundleError,
    DeviceUnavailable,
    EngineUnavailable,
    Error,
    ExecutionError,
    ExportError,
    InvalidInput,
)

if TYPE_CHECKING:
    from isthmus.adopt import adopt
    from isthmus.batcher import Batcher
    from isthmus.bench import bench
    from isthmus.bundle import Bundle, open_bundle
    from isthmus.convert import convert
    from isthmus.deploy import deploy
    from isthmus.diff import diff
    from isthmus.export import export
    from isthmus.graph import inspect
    from isthmus.replay import replay
    from isthmus.runtime import Model, Session, load
    from isthmus.tune import tune
    from isthmus.verify import verify

__all__ = [
    "Batcher",
    "Bundle",
    "BundleError",
    "DeviceUnavailable",
    "EngineUnavailable",
    "Error",
    "ExecutionError",
    "ExportError",
    "InvalidInput",
    "Model",
    "Session",
    "adopt",
    "bench",
    "convert",
    "deploy",
    "diff",
    "export",
    "inspect",
    "load",
    "open_bundle",
    "replay",
    "tune",
    "verify",
]

try:
    __version__ = version("isthmus")
except PackageNotFoundError:  # a source tree on the path
    __version__ = "0.0.0"

_HOMES = {
    "adopt": "adopt",
    "Batcher": "batcher",
    "bench": "bench",
    "Bundle": "bundle",
    "open_bundle": "bundle",
    "convert": "convert",
    "deploy": "deploy",
    "diff": "diff",
    "export": "export",
    "inspect": "graph",
    "replay": "replay",
    "load": "runtime",
    "Model": "runtime",
    "Session": "runtime",
    "tune": "tune",
    "verify": "verify",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when the name is first used."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'isthmus' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"isthmus.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """Keeps `isthmus.export` the function, whose module is called the same.

    Importing a submodule sets it as an attribute of its package; here the public name wins.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name, value)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
