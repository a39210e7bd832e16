"""The request to a worker process: which engine to load, and with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["EngineSpec"]


@dataclass(frozen=True)
class EngineSpec:
    """One engine with everything that it is loaded with; travels as JSON."""

    kind: str
    """"eager", "isthmus", or the name of a Python runtime (`isthmus.runtime.engines`)."""
    bundle: str
    """The bundle's folder."""
    artifact: str = ""
    engine: str = "auto"
    """The engine of the C++ library, for "isthmus"."""
    device: str = "cpu"
    threads: int = 0
    """The number of intra-operator threads; 0 leaves it as it is."""
    optimize: str = "none"
    """The rewriting at load: "none", "freeze", "inference"; "auto" for "isthmus" only."""
    warmup: bool = True
    """True to warm up at load, for "isthmus"."""
    trust: str = "graph"
    op_libraries: tuple[str, ...] = ()
    model: str = ""
    """The source of the eager module, for "eager"."""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)

    def arguments(self) -> list[str]:
        """Returns the options of `isthmus-run` for this engine, the rewriting left out."""
        words = ["--artifact", self.artifact, "--engine", self.engine, "--device", self.device]
        words += ["--threads", str(self.threads), "--trust", self.trust]
        return [*words, *(word for path in self.op_libraries for word in ("--op-library", path))]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EngineSpec:
        """Reads what `to_json` returned."""
        return EngineSpec(**{**data, "op_libraries": tuple(data["op_libraries"])})
