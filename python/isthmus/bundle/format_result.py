"""The result of the export of a format."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.bundle.manifest import EngineProof
from isthmus.errors import Decision

__all__ = ["FormatResult"]


@dataclass(frozen=True)
class FormatResult:
    """The result of the export of a format."""

    format: str
    ok: bool
    seconds: float
    precision: str = "fp32"
    size: int = 0
    """The bytes of the artifact's files."""
    strategy: str = ""
    """The strategy that made the artifact: "trace", "dynamo", "export", ..."""
    reason: str = ""
    """The reason why there is no artifact, in one sentence."""
    where: str = ""
    """The file:line of the first cause in the user's or a library's source."""
    advice: str = ""
    """The advice to the user."""
    decisions: tuple[Decision, ...] = ()
    """Every strategy that was tried."""
    proofs: tuple[EngineProof, ...] = ()
    """The verdict of each engine that was tried."""
    sizes: str = ""
    """The sizes that it serves, in words, where these are fewer than the bundle's."""
    error: Exception | None = None
    """The exception, for a caller that asked for this format only."""

    @property
    def label(self) -> str:
        """The format with its precision unless that is fp32: "onnx", "onnx int8"."""
        return self.format if self.precision == "fp32" else f"{self.format} {self.precision}"

    @property
    def explanation(self) -> str:
        """The reason with its line and the advice."""
        where = f" ({self.where})" if self.where else ""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.reason}{where}{advice}"
