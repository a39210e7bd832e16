"""isthmus takes a PyTorch or Hugging Face model into C++, with proof.

`export` writes a bundle of a module, `load` runs a bundle, `verify` proves it. Importing isthmus
imports neither torch nor NumPy: the module of a name is imported when the name is first used.
"""

from __future__ import annotations

import importlib
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
    from isthmus.bundle.bundle import Bundle, open_bundle
    from isthmus.bundle_diff import diff
    from isthmus.exporters.adopt import adopt
    from isthmus.exporters.convert import convert
    from isthmus.exporters.export import export
    from isthmus.proof.inspect import inspect
    from isthmus.proof.replay import replay
    from isthmus.proof.verify import verify
    from isthmus.runtime.batcher import Batcher
    from isthmus.runtime.deploy import deploy
    from isthmus.runtime.model import Model, Session, load
    from isthmus.timing.bench import bench
    from isthmus.timing.tune import tune

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
    "adopt": "exporters.adopt",
    "Batcher": "runtime.batcher",
    "bench": "timing.bench",
    "Bundle": "bundle.bundle",
    "open_bundle": "bundle.bundle",
    "convert": "exporters.convert",
    "deploy": "runtime.deploy",
    "diff": "bundle_diff",
    "export": "exporters.export",
    "inspect": "proof.inspect",
    "replay": "proof.replay",
    "load": "runtime.model",
    "Model": "runtime.model",
    "Session": "runtime.model",
    "tune": "timing.tune",
    "verify": "proof.verify",
}
"""Maps each public name to the module below `isthmus` that defines it."""


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
