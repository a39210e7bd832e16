"""The contenders and the request that a worker gets. Imports no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    import numpy as np

AnyRequest = TypeVar("AnyRequest", bound="Request")
Values = dict[str, "np.ndarray"]
"""Maps the name of an input to int64 values."""
OUTPUT = "last_hidden_state"
"""The output of every contender, which is compared."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
INT8_COSINE = 0.99
"""The cosine that int8 has to reach; see `isthmus.goldens.tolerance`."""


@dataclass(frozen=True)
class Shape:
    """The rows and tokens of a call."""

    batch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.sequence}"

    @staticmethod
    def parse(text: str) -> Shape:
        """Parses "16x64"."""
        batch, _, sequence = text.replace(" ", "").partition("x")
        return Shape(int(batch), int(sequence))


@dataclass(frozen=True)
class Contender:
    """A process that runs the model with one tool."""

    name: str
    kind: str
    """The key of `calls.CALLS`; "isthmus" for isthmus itself."""
    language: str = "Python"
    precision: str = "fp32"
    engine: str = ""
    """The engine, or "auto", of isthmus; for a peer the engine that runs the same runtime."""
    option: str = ""
    """A mode of the kind ("frozen", "int8"); for isthmus the artifact, or empty for any."""
    file: str = ""
    """The key of the peer file that it opens; empty for none."""

    def to_json(self) -> dict[str, str]:
        """Returns the members that are not empty."""
        return {key: value for key, value in asdict(self).items() if value}

    @property
    def ours(self) -> bool:
        """True for isthmus."""
        return self.kind == "isthmus"

    @property
    def auto(self) -> bool:
        """True for isthmus with the engine that it chooses: all are compared with it."""
        return self.ours and self.engine == "auto"

    @property
    def label(self) -> str:
        """The name in rows; only isthmus is called from C++ as well."""
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
"""The tools that a user would pick instead of isthmus."""
INT8_ARTIFACT = "onnx-cpu-int8"


def ours(engines: tuple[str, ...]) -> tuple[Contender, ...]:
    """Returns isthmus with `auto`, each engine and int8, from Python and from C++."""
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
    """The contender that a worker loads, and its inputs."""

    CONTENDER: ClassVar[type[Contender]] = Contender
    contender: Contender
    threads: int
    bundle: str = ""
    file: str = ""
    factory: str = ""
    inputs: str = ""
    """The path of an .npz with the inputs or the stream."""
    order: str = ""
    """The order of a stream: "arrival", "sorted" or "batcher"; empty for a single call."""
    batch: int = 16
    """The most sentences in a call of a stream."""
    workers: int = 1
    """The number of concurrent calls of isthmus in a stream."""
    padding: float = 0.1
    """The share of a call of isthmus that may be padding in a stream."""
    warmup: bool = True
    """True when isthmus warms up while it loads, which is its default."""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls: type[AnyRequest], data: Mapping[str, Any]) -> AnyRequest:
        """Inverts `to_json`."""
        return cls(**{**data, "contender": cls.CONTENDER(**data["contender"])})
