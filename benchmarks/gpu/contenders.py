"""The contenders on a GPU and the request that a worker gets. Imports no engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peers import kinds

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Maps a precision to the dtype in which torch's own contenders compute."""
GRAPHS = {"cuda_graphs": "on"}


@dataclass(frozen=True)
class Contender(kinds.Contender):
    """A process that runs the model in one way: `kind` is a key of `worker.CALLS`, or "bare"."""

    format: str = ""
    """The format of the artifact that it runs; empty for the module itself."""
    graphs: bool = False
    """True when isthmus has to record CUDA graphs."""

    @property
    def label(self) -> str:
        """The name in rows."""
        return f"{self.name} ({self.language})"


def _isthmus(engine: str, language: str, graphs: bool) -> Contender:
    name = f"isthmus {engine}{', CUDA graphs' if graphs else ''}"
    return Contender(name, "isthmus", language, engine=engine, format=engine, graphs=graphs)


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
class Request(kinds.Request):
    """The contender that a worker loads, its device and its inputs."""

    CONTENDER: ClassVar[type[kinds.Contender]] = Contender
    contender: Contender
    device: str = "cpu"
    precision: str = "fp32"
