"""A row of a benchmark: the timings of one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from isthmus.runtime.engines import RowKind, engine_title
from isthmus.timing.statistics import Summary, summarize

__all__ = ["BenchRow", "Language", "place"]

Language = Literal["Python", "C++"]


@dataclass(frozen=True)
class BenchRow:
    """One process: an engine in one language, on one device."""

    engine: str
    """The engine of the C++ library, also for its Python counterpart; "eager" for the module."""
    kind: RowKind
    language: Language
    device: str
    unavailable: str = ""
    """The reason why there is no number; empty when there is one."""
    artifact: str = ""
    runtime: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    """The settings, which are the same on both sides of a comparison."""
    load_ms: float | None = None
    """The time to read, check and load the model."""
    warmup_ms: float | None = None
    """The time of the calls at load, which make the user's first call no slower than others."""
    first_call_ms: float | None = None
    """The time of the first call after the load and its warm-up."""
    warnings: tuple[str, ...] = ()
    """Warnings of the worker about what makes timings unsteady."""
    peak_rss_bytes: int | None = None
    """The largest resident memory of the process, its interpreter and libraries included."""
    rounds_ms: tuple[tuple[float, ...], ...] = ()
    """The durations of the counted calls, round by round."""

    def __bool__(self) -> bool:
        """True when there are numbers."""
        return not self.unavailable

    @property
    def title(self) -> str:
        """The engine's name for people: "TorchScript optimised"."""
        return engine_title(self.engine, self.kind)

    @property
    def label(self) -> str:
        """The row's name for people: "TorchScript CPU in C++"."""
        return f"{self.title} {place(self.device)} in {self.language}"

    @property
    def samples_ms(self) -> list[float]:
        """The durations of all counted calls, in the order in which they were made."""
        return [sample for turn in self.rounds_ms for sample in turn]

    @property
    def round_medians_ms(self) -> list[float]:
        """The median of each round."""
        return [summarize(turn).median_ms for turn in self.rounds_ms]

    @property
    def summary(self) -> Summary | None:
        """The median and percentiles; None where there are no numbers."""
        return summarize(self.samples_ms) if self.rounds_ms else None

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values; durations are in milliseconds."""
        return {
            **asdict(self),
            "kind": self.kind.value,
            "available": bool(self),
            "summary": asdict(self.summary) if self.summary is not None else None,
        }


def place(device: str) -> str:
    """Returns the device's name for people: "CPU", "GPU" or "GPU 1"."""
    kind, _, index = device.partition(":")
    name = {"cpu": "CPU", "cuda": "GPU"}.get(kind, device)
    return f"{name} {index}" if index not in ("", "0") else name
