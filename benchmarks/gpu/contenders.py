"""What takes part, and what a worker is asked for. Imports no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""By precision: the type that torch's own contenders compute in."""
GRAPHS = {"cuda_graphs": "on"}


@dataclass(frozen=True)
class Contender:
    """One way to run the model: a process of its own."""

    name: str
    kind: str
    """Which of `worker.CALLS` makes the call; in C++ "bare" or "isthmus"."""
    language: str = "Python"
    option: str = ""
    """What the kind knows beyond its name: a mode, an engine."""
    format: str = ""
    """Of the artifact that it runs; empty: the module itself."""
    graphs: bool = False
    """isthmus: recorded, or an error."""

    @property
    def label(self) -> str:
        """As rows name it."""
        return f"{self.name} ({self.language})"


def _isthmus(engine: str, language: str, graphs: bool) -> Contender:
    name = f"isthmus {engine}{', CUDA graphs' if graphs else ''}"
    return Contender(name, "isthmus", language, option=engine, format=engine, graphs=graphs)


CONTENDERS = (
    Contender("eager", "eager"),
    Contender("torch.compile", "compile", option="default"),
    Contender("torch.compile reduce-overhead", "compile", option="reduce-overhead"),
    Contender("torch.jit traced", "jit", format="torchscript"),
    Contender("AOTInductor", "aoti", format="aoti"),
    Contender("LibTorch TorchScript", "bare", "C++", option="torchscript", format="torchscript"),
    Contender("LibTorch AOTInductor", "bare", "C++", option="aoti", format="aoti"),
    *(
        _isthmus(engine, language, graphs)
        for engine in ("torchscript", "aoti")
        for graphs in (False, True)
        for language in ("Python", "C++")
    ),
)


@dataclass(frozen=True)
class Request:
    """What a worker is asked for."""

    contender: Contender
    device: str
    precision: str
    threads: int
    bundle: str
    file: str
    """The artifact's file, for those that open it without isthmus."""
    inputs: str
    """An .npz."""

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Request:
        """The inverse of `to_json`."""
        return Request(**{**data, "contender": Contender(**data["contender"])})
