"""How the export of one format went."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.errors import Decision

__all__ = ["FormatResult"]


@dataclass(frozen=True)
class FormatResult:
    """How the export of one format went."""

    format: str
    ok: bool
    seconds: float
    precision: str = "fp32"
    size: int = 0
    """Bytes of the artifact's files."""
    strategy: str = ""
    """How it was made: "trace", "dynamo", "export", ..."""
    reason: str = ""
    """Why there is no artifact: one sentence."""
    where: str = ""
    """file:line of the first cause in the user's or a library's source."""
    advice: str = ""
    """What to try."""
    decisions: tuple[Decision, ...] = ()
    """Every way that was tried."""
    error: Exception | None = None
    """What was raised, for a caller that wants just this format."""

    @property
    def label(self) -> str:
        """ "onnx", "onnx int8"."""
        return self.format if self.precision == "fp32" else f"{self.format} {self.precision}"

    @property
    def explanation(self) -> str:
        """The reason with its line and what to try."""
        where = f" ({self.where})" if self.where else ""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.reason}{where}{advice}"
