"""The registry of engines: those of the C++ library by format, and the same runtimes in Python.

Verify, bench, tune and diff ask here; none of them names an engine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from isthmus.bundle.manifest import Artifact

__all__ = [
    "EAGER",
    "ENGINES_IN_PYTHON",
    "EngineInPython",
    "RowKind",
    "engine_title",
    "engines_in_python",
    "engines_of",
    "formats_of_engine",
    "names_for",
]

EAGER = "eager"
"""The name of the eager module where an engine is named."""


class RowKind(str, Enum):
    """The kind of a row in a report; JSON documents have its value."""

    EAGER = "eager"
    """The eager module."""
    EXPORTED = "exported"
    """An artifact as it was exported."""
    OPTIMISED = "optimised"
    """An artifact that was frozen, fused and prepacked at load, alike in both languages."""


@dataclass(frozen=True)
class EngineInPython:
    """A runtime's own Python interface, which a user without isthmus would call."""

    name: str
    """The engine's name in reports and in `EngineSpec.kind`."""
    format: str
    """The format of the artifacts that it runs."""
    engine: str
    """The engine of the C++ library on the same runtime."""
    title: str
    """The name for people."""
    package: str
    """The package to install."""
    module: str
    """The module that has to be importable."""
    devices: tuple[str, ...] = ("cpu",)
    same_bits: bool = False
    """True when both languages give the same bits: the same code runs, with the same threads."""
    optimizes: bool = False
    """True when an artifact can also be rewritten at load, alike in both languages."""

    @property
    def absent(self) -> str:
        """The reason why it cannot run here; empty when it can."""
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
        "torch.export",
        "exported",
        "exported",
        "Exported program",
        "torch",
        "torch",
        devices=("cpu", "cuda"),
        same_bits=True,
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
    """Returns the installed engines that run a format, without opening their runtimes."""
    return tuple(name for name, formats in _formats_by_engine().items() if format in formats)


def formats_of_engine(engine: str) -> tuple[str, ...]:
    """Returns the formats that an installed engine runs; empty for an unknown engine."""
    return _formats_by_engine().get(engine, ())


def engines_in_python(format: str) -> tuple[EngineInPython, ...]:
    """Returns the Python runtimes for a format, installed or not."""
    return tuple(runtime for runtime in ENGINES_IN_PYTHON if runtime.format == format)


def engine_title(engine: str, kind: RowKind = RowKind.EXPORTED) -> str:
    """Returns what people call an engine of the C++ library: "TorchScript optimised".

    The eager module is "Torch"; an unknown engine keeps its name.
    """
    if kind is RowKind.EAGER:
        return "Torch"
    titles = {runtime.engine: runtime.title for runtime in ENGINES_IN_PYTHON}
    title = titles.get(engine, engine)
    return f"{title} optimised" if kind is RowKind.OPTIMISED else title


def names_for(artifacts: Iterable[Artifact]) -> set[str]:
    """Returns the names of all engines, of C++ and of Python, that run these artifacts."""
    formats = {artifact.format for artifact in artifacts}
    return {
        name
        for format in formats
        for name in (*engines_of(format), *(runtime.name for runtime in engines_in_python(format)))
    }


def _formats_by_engine() -> dict[str, tuple[str, ...]]:
    from isthmus import _core
    from isthmus.errors import EngineUnavailable

    formats: dict[str, tuple[str, ...]] = {}
    for name in _core.engine_names():
        try:
            formats[name] = tuple(_core.engine_formats(name))
        except EngineUnavailable:  # a library that does not open runs nothing
            formats[name] = ()
    return formats
