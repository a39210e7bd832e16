"""The registry as Python sees it: engines of the C++ library by format, and each one's own Python.

Verify, bench and tune ask here; none of them names an engine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from isthmus.bundle.manifest import Artifact

__all__ = [
    "ENGINES_IN_PYTHON",
    "EngineInPython",
    "engines_in_python",
    "engines_of",
    "formats_of_engine",
    "label",
]


@dataclass(frozen=True)
class EngineInPython:
    """A runtime's own Python interface: what a user without isthmus would call."""

    name: str
    """Of the row in a report, and of the runner."""
    format: str
    """Which artifacts it runs."""
    engine: str
    """The engine of the C++ library on the same runtime."""
    title: str
    """For people."""
    package: str
    """What has to be installed."""
    module: str
    """What has to be importable."""
    devices: tuple[str, ...] = ("cpu",)
    same_bits: bool = False
    """Whether both languages give the same bits: the same code runs, with the same threads."""
    optimizes: bool = False
    """Whether a bundle's artifact can also be rewritten at load, in both languages alike."""

    @property
    def absent(self) -> str:
        """Why it cannot run here; empty when it can."""
        if importlib.util.find_spec(self.module) is not None:
            return ""
        return f"the package {self.package} is not installed: pip install {self.package}"


ENGINES_IN_PYTHON = (
    EngineInPython(
        "torch.jit",
        "torchscript",
        "torchscript",
        "TorchScript",
        "torch",
        "torch",
        devices=("cpu", "cuda"),
        same_bits=True,
        optimizes=True,
    ),
    EngineInPython(
        "onnxruntime", "onnx", "onnxruntime", "ONNX Runtime", "onnxruntime", "onnxruntime"
    ),
    EngineInPython("openvino", "onnx", "openvino", "OpenVINO", "openvino", "openvino"),
    EngineInPython(
        "aoti", "aoti", "aoti", "AOTInductor", "torch", "torch", devices=("cpu", "cuda")
    ),
)


def engines_of(format: str) -> tuple[str, ...]:
    """Engines of this installation that run a format, without opening their runtimes."""
    return tuple(name for name, formats in _engines().items() if format in formats)


def formats_of_engine(engine: str) -> tuple[str, ...]:
    """What an engine of this installation runs; nothing for an unknown one."""
    return _engines().get(engine, ())


def engines_in_python(format: str) -> tuple[EngineInPython, ...]:
    """Python runtimes for a format, installed or not."""
    return tuple(runtime for runtime in ENGINES_IN_PYTHON if runtime.format == format)


def label(engine: str) -> str:
    """What people call an engine; an unknown one by its name."""
    return next(
        (runtime.title for runtime in ENGINES_IN_PYTHON if runtime.engine == engine), engine
    )


def names_for(artifacts: Iterable[Artifact]) -> set[str]:
    """Names of rows that these artifacts can have."""
    formats = {artifact.format for artifact in artifacts}
    return {
        name
        for format in formats
        for name in (*engines_of(format), *(runtime.name for runtime in engines_in_python(format)))
    }


def _engines() -> dict[str, tuple[str, ...]]:
    from isthmus import _core
    from isthmus.errors import EngineUnavailable

    found: dict[str, tuple[str, ...]] = {}
    for name in _core.engine_names():
        try:
            found[name] = tuple(_core.engine_formats(name))
        except EngineUnavailable:  # a library that does not open runs nothing
            found[name] = ()
    return found
