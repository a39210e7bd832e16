"""The result of tune: every candidate, and the one to load."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from isthmus.document import Document, Table

__all__ = ["Candidate", "TuneReport"]


@dataclass(frozen=True)
class Candidate:
    """An engine on an artifact with a number of threads, and its timings."""

    artifact: str
    engine: str
    threads: int
    medians_ms: dict[str, float] = field(default_factory=dict)
    """Maps a golden to the median duration of a call."""
    reason: str = ""
    """The reason why it cannot be chosen; empty when it can."""
    precision: str = "fp32"
    """The precision of the artifact."""

    @property
    def rank(self) -> tuple[bool, float]:
        """The order of choice: a load must not lose precision because it is faster."""
        return self.precision != "fp32", self.score

    @property
    def score(self) -> float:
        """The geometric mean of the medians, so that every shape counts alike; else infinite."""
        if self.reason or not self.medians_ms:
            return math.inf
        logs = [math.log(median) for median in self.medians_ms.values()]
        return math.exp(sum(logs) / len(logs))

    @property
    def label(self) -> str:
        """The name for people: "onnx-cpu-fp32 on onnxruntime with 2 threads"."""
        noun = "thread" if self.threads == 1 else "threads"
        return f"{self.artifact} on {self.engine} with {self.threads} {noun}"


@dataclass(frozen=True)
class TuneReport:
    """Every candidate, the fastest first; truthy when there is one."""

    bundle: str
    device: str
    machine: str
    """The `isthmus::machine_key` of this machine."""
    candidates: tuple[Candidate, ...]
    goldens: tuple[str, ...]
    context: dict[str, str]
    file: Path | None = None
    """The file that the choice was written to."""

    def __bool__(self) -> bool:
        """True when a candidate verified."""
        return self.best is not None

    @property
    def best(self) -> Candidate | None:
        """The fastest candidate that verified; in fp32, where one in fp32 did."""
        usable = [candidate for candidate in self.candidates if math.isfinite(candidate.score)]
        return min(usable, key=lambda candidate: candidate.rank, default=None)

    @property
    def ranking(self) -> tuple[Candidate, ...]:
        """Each artifact on each engine with its best number of threads, as `load` tries them."""
        ranking: dict[tuple[str, str], Candidate] = {}
        for candidate in sorted(self.candidates, key=lambda candidate: candidate.rank):
            if math.isfinite(candidate.score):
                ranking.setdefault((candidate.artifact, candidate.engine), candidate)
        return tuple(ranking.values())

    def document(self) -> Document:
        """Returns the report as a document to print; see `isthmus.document`."""
        best = self.best
        rows = []
        for candidate in self.candidates:
            cells = [
                f"{candidate.medians_ms[golden]:.3g}" if golden in candidate.medians_ms else "-"
                for golden in self.goldens
            ]
            measured = best is not None and math.isfinite(candidate.score)
            ratio = f"{candidate.score / best.score:.2f}" if best and measured else "-"
            name = (candidate.engine, candidate.artifact, str(candidate.threads))
            rows.append((*name, *cells, ratio, candidate.reason))
        verdict = (
            f"{best.label} is the fastest of those that verified" if best else "nothing verified"
        )
        faster = [
            candidate for candidate in self.candidates if best and candidate.score < best.score
        ]
        if best and faster:
            verdict = (
                f"{best.label} is the fastest in fp32; {faster[0].label} takes "
                f"{faster[0].score / best.score:.2f} of its time, for who asks for that artifact"
            )
        if self.file is not None:
            verdict += f"; {self.file} says so to every load on this machine"
        return Document(
            title=f"isthmus tune: {self.bundle} on {self.device}",
            schema="isthmus-tune",
            schema_version=1,
            context=self.context,
            tables=(
                Table(
                    "Median of a call in C++, milliseconds, by golden",
                    ("engine", "artifact", "threads", *self.goldens, "of the best", "why not"),
                    tuple(rows),
                    marks=tuple(
                        candidate is best or (None if not candidate.reason else False)
                        for candidate in self.candidates
                    ),
                    numeric=frozenset({"threads", *self.goldens, "of the best"}),
                ),
            ),
            passed=bool(self),
            verdict=verdict,
            rows=tuple(
                {
                    **asdict(candidate),
                    "score_ms": candidate.score if math.isfinite(candidate.score) else None,
                }
                for candidate in self.candidates
            ),
            extra={"machine": self.machine, "best": asdict(best) if best else None},
        )
