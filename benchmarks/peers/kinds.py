"""What takes part: each contender, and what is asked of a worker. Imports no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Values = dict[str, "np.ndarray"]
"""Inputs by name, int64."""
OUTPUT = "last_hidden_state"
"""What every contender gives, and what is compared."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
INT8_COSINE = 0.99
"""Like `isthmus.goldens.tolerance`: what reduced precision has to reach."""


@dataclass(frozen=True)
class Shape:
    """Rows and tokens of a call."""

    batch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.sequence}"

    @staticmethod
    def parse(text: str) -> Shape:
        """ "16x64"."""
        batch, _, sequence = text.replace(" ", "").partition("x")
        return Shape(int(batch), int(sequence))


@dataclass(frozen=True)
class Contender:
    """One way to run the model: a process of its own."""

    name: str
    kind: str
    """Which of `calls.CALLS` makes the call; "isthmus" for ours."""
    language: str = "Python"
    precision: str = "fp32"
    engine: str = ""
    """Ours: "auto" or an engine. A peer's: the engine of ours that runs the same runtime."""
    option: str = ""
    """What the kind knows beyond its name: "frozen", "int8", ... Ours: the artifact; empty: any."""
    file: str = ""
    """Which of the subject's files it opens; empty: none."""

    @property
    def ours(self) -> bool:
        """Whether it is isthmus."""
        return self.kind == "isthmus"

    @property
    def auto(self) -> bool:
        """Whether it is what isthmus takes by itself: what all are compared with."""
        return self.ours and self.engine == "auto"

    @property
    def label(self) -> str:
        """As rows name it: all but isthmus are called from Python."""
        return f"{self.name} ({self.language})" if self.ours else self.name


PEERS = (
    Contender("eager", "eager"),
    Contender("torch.compile", "compile"),
    Contender("torch.compile, frozen", "compile", option="frozen"),
    Contender("torch.jit traced", "jit", engine="torchscript", file="jit"),
    Contender("torch.jit frozen", "jit", engine="torchscript", option="freeze", file="jit"),
    Contender("torch.jit optimised", "jit", engine="torchscript", option="inference", file="jit"),
    Contender("ONNX Runtime", "onnxruntime", engine="onnxruntime", file="onnxruntime"),
    Contender("OpenVINO", "openvino", engine="openvino", file="openvino"),
    Contender("OpenVINO, converted", "openvino", engine="openvino", file="openvino-converted"),
    Contender("AOTInductor", "aoti", engine="aoti", file="aoti"),
    Contender("AOTInductor, frozen", "aoti", engine="aoti", file="aoti-frozen"),
    Contender("CTranslate2", "ctranslate2", option="float32", file="ctranslate2"),
    Contender(
        "CTranslate2 int8", "ctranslate2", precision="int8", option="int8", file="ctranslate2"
    ),
)
"""What a user would pick instead. Files that the tool makes itself are its own."""


INT8_ARTIFACT = "onnx-cpu-int8"


def ours(engines: tuple[str, ...]) -> tuple[Contender, ...]:
    """`auto` and every engine, from Python and from C++; int8, which is never taken unasked."""
    return (
        *(
            Contender(f"isthmus {engine}", "isthmus", language, engine=engine)
            for engine in ("auto", *engines)
            for language in ("Python", "C++")
        ),
        *(
            Contender(
                "isthmus int8", "isthmus", language, "int8", "onnxruntime", option=INT8_ARTIFACT
            )
            for language in ("Python", "C++")
        ),
    )


@dataclass(frozen=True)
class Request:
    """What a worker is asked for."""

    contender: Contender
    threads: int
    bundle: str = ""
    file: str = ""
    factory: str = ""
    inputs: str = ""
    """An .npz of the inputs, or of the stream."""
    order: str = ""
    """Of a stream: "arrival", "sorted" or "batcher"."""
    batch: int = 16
    """Of a stream: sentences in a call, at most."""
    workers: int = 1
    """Of isthmus in a stream: calls at once."""
    padding: float = 0.1
    """Of isthmus in a stream: share of a call that may be padding."""
    warmup: bool = True
    """Of isthmus: whether the load calls the model until it is steady, as it does by default."""

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Request:
        """The inverse of `to_json`."""
        return Request(**{**data, "contender": Contender(**data["contender"])})
