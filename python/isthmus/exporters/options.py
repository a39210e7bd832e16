"""The options of an export, checked once and then passed on as one object."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from isthmus.errors import DeviceUnavailable, InvalidInput

__all__ = [
    "FORMATS",
    "ISAS",
    "PRECISIONS",
    "STRATEGIES",
    "ExportOptions",
    "Progress",
    "Strategy",
    "Target",
    "ignore_progress",
    "open_libraries",
]

FORMATS = ("torchscript", "exported", "onnx", "aoti")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
STRATEGIES = ("auto", "trace", "script", "mixed")
ISAS = ("portable", "avx2", "avx512", "native")

Strategy = Literal["auto", "trace", "script", "mixed"]
Target = str | Callable[..., Any]
"""A submodule by its dotted path, or a function."""
Progress = Callable[[str], None]
"""Receives a sentence at each stage."""


def ignore_progress(_: str) -> None:
    """Reports no progress."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The formats, precisions and settings of an export, as `isthmus.export` describes them.

    Raises:
        InvalidInput: An option is unknown, or two options exclude each other.
        DeviceUnavailable: The device is not present on this machine.
    """

    formats: str | Sequence[str] = ("torchscript",)
    """The formats to export, in the order in which `load` prefers them; a tuple once checked."""
    precisions: str | Sequence[str] = ("fp32",)
    """The precisions in which each format is exported; a tuple once checked."""
    strategy: str = "auto"
    """The strategy for TorchScript, one of `STRATEGIES`."""
    script: Sequence[Target] = ()
    """The parts that are scripted inside a traced whole."""
    trace: Sequence[str] = ()
    """The submodules that are traced inside a scripted whole."""
    accept: Sequence[str] = ()
    """The lines, "file.py:13", whose branches on values a trace may keep as one call decided."""
    device: str = "cpu"
    """The device on which artifacts are made: "cpu", "cuda" or "cuda:N"."""
    opset: int | None = None
    """The ONNX operator set version; None for each exporter's default."""
    isa: str = "portable"
    """The processors for which AOTInductor compiles, one of `ISAS`."""
    time_limit: float = 1800.0
    """The seconds that each artifact may take."""
    op_libraries: Sequence[str | Path] = ()
    """The libraries of custom operators that are open during the export."""
    trust: str = "graph"
    """"graph", or "native" to accept TorchScript archives with operators off the allowlist."""
    progress: Progress = ignore_progress
    """Receives a sentence at each stage of the whole export."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", _choices("formats", self.formats, FORMATS))
        object.__setattr__(self, "precisions", _choices("precision", self.precisions, PRECISIONS))
        object.__setattr__(self, "device", _device(self.device))
        _require("strategy", self.strategy, STRATEGIES)
        _require("isa", self.isa, ISAS)
        if self.trust not in ("graph", "native"):
            raise InvalidInput(f'trust: expected "graph" or "native", got "{self.trust}"')
        self._check_parts()
        self._check_accept()

    def _check_accept(self) -> None:
        if isinstance(self.accept, str):
            raise InvalidInput(f'accept: expected a list of lines, got the text "{self.accept}"')
        for entry in self.accept:
            if not re.fullmatch(r".+:\d+", entry):
                raise InvalidInput(
                    f'accept: expected a line such as "front.py:13", as a refusal names it, got '
                    f"{entry!r}"
                )

    def _check_parts(self) -> None:
        for label, parts in (("script", self.script), ("trace", self.trace)):
            if isinstance(parts, str):
                raise InvalidInput(f'{label}: expected a list of parts, got the text "{parts}"')
            if parts and self.strategy not in ("auto", "mixed"):
                raise InvalidInput(
                    f'{label}: parts are named for strategy="mixed", got strategy='
                    f'"{self.strategy}"; leave the strategy out'
                )
        if self.script and self.trace:
            raise InvalidInput(
                "script and trace: expected one of them; script names the parts to script inside "
                "a traced whole, trace those to trace inside a scripted whole"
            )
        reduced = [precision for precision in self.precisions if precision in ("fp16", "bf16")]
        if reduced and (self.strategy == "script" or self.trace):
            raise InvalidInput(
                f'precision="{reduced[0]}" needs a traced whole, for scripted code keeps the types '
                'of its source; use strategy="trace", or "mixed" with script'
            )


def _choices(label: str, value: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        _require(label, name, known)
    if not names:
        raise InvalidInput(f"{label}: expected some of {', '.join(known)}, got none")
    return tuple(dict.fromkeys(names))


def _require(label: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidInput(f"{label}: expected {', '.join(known)}, got {value!r}")


def _device(text: str) -> str:
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InvalidInput(f'device: expected "cpu", "cuda" or "cuda:N", got {text!r}')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"{text} is not available: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; export on the CPU, where the artifact runs "
            "on CUDA too, or on a machine with that device"
        )
    return str(device)


def open_libraries(libraries: Sequence[str | Path]) -> None:
    """Opens libraries of custom operators.

    Raises:
        InvalidInput: A path is no file, or no library for this torch.
    """
    for library in libraries:
        if not Path(library).is_file():
            raise InvalidInput(f"op_libraries: {library} is no file; give a shared library")
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError) as error:
            raise InvalidInput(
                f"op_libraries: {library} cannot be opened ({error}); expected a shared library "
                f"built for torch {torch.__version__}"
            ) from error
