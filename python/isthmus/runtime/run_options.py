"""The options that verify, bench, tune, diff, replay, explain and report share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.errors import InvalidInput
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.workers import available_cores

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.manifest import Artifact

__all__ = ["TRUSTS", "RunOptions", "check_rounds"]

TRUSTS = ("data", "graph", "native")


@dataclass(frozen=True)
class RunOptions:
    """The options of everything that a call of verify, bench, tune, diff or replay runs.

    Raises:
        InvalidInput: A device or trust is unknown, or threads or timeout is out of range.
    """

    engines: Sequence[str] | None = None
    """The engines to run, by name; None: all that the bundle's artifacts have."""
    devices: Sequence[str] | None = None
    """"cpu", "cuda" or "cuda:N"; None: "cpu" and "cuda", where an absent GPU is no failure."""
    artifact: str | None = None
    """The name of the only artifact to run; None: all."""
    threads: int | None = None
    """The number of intra-operator threads of every runtime; None: the processors usable."""
    trust: str = "graph"
    """The trust in the bundle: "data", "graph" or "native"."""
    op_libraries: Sequence[str | Path] = ()
    """Libraries of custom operators to open first."""
    timeout: float = 600.0
    """The seconds that a worker process may take, or may keep silent."""
    progress: Callable[[str], None] | None = None
    """Called with a line at each stage."""

    def __post_init__(self) -> None:
        """Checks the values."""
        for device in self.devices or ():
            if device.partition(":")[0] not in ("cpu", "cuda"):
                raise InvalidInput(
                    f"device {device!r} is unknown, expected 'cpu', 'cuda' or 'cuda:N'"
                )
        if self.trust not in TRUSTS:
            raise InvalidInput(f"trust is {self.trust!r}, expected one of {', '.join(TRUSTS)}")
        if self.threads is not None and self.threads < 0:
            raise InvalidInput(f"threads is {self.threads}, expected a positive number or None")
        if self.timeout <= 0:
            raise InvalidInput(
                f"timeout is {self.timeout:g}, expected a positive number of seconds"
            )

    @property
    def device(self) -> str:
        """The first device; "cpu" by default."""
        return self.devices[0] if self.devices else "cpu"

    @property
    def thread_count(self) -> int:
        """The number of threads that is meant."""
        return self.threads or available_cores()

    def wants(self, engine: str) -> bool:
        """Returns True when the engine is one of those to run."""
        return self.engines is None or engine in self.engines

    def refusal(self, artifact: Artifact) -> str:
        """Returns the reason why the bundle may not run native code; empty when it may."""
        if artifact.trust == "native" and self.trust != "native":
            return 'it is native code: allow it with trust="native" (--allow-native)'
        return ""

    def say(self, line: str) -> None:
        """Tells the caller about progress."""
        if self.progress is not None:
            self.progress(line)

    def spec(self, bundle: Bundle, kind: str, device: str, **fields: Any) -> EngineSpec:
        """Returns what a worker needs to load an engine under these options."""
        return EngineSpec(
            kind=kind,
            bundle=str(bundle.path.resolve()),
            device=device,
            trust=self.trust,
            op_libraries=tuple(str(library) for library in self.op_libraries),
            **{"threads": self.thread_count, **fields},
        )

    def arguments(self) -> tuple[str, ...]:
        """Returns the command line of these options, without those that have their default."""
        words = [word for engine in self.engines or () for word in ("--engine", engine)]
        words += [word for device in self.devices or () for word in ("--device", device)]
        words += ["--artifact", self.artifact] if self.artifact is not None else []
        words += ["--threads", str(self.threads)] if self.threads is not None else []
        words += ["--trust", self.trust] if self.trust != "graph" else []
        words += [word for path in self.op_libraries for word in ("--op-library", str(path))]
        return tuple(words)


def check_rounds(rounds: int) -> None:
    """Refuses fewer rounds than an interval needs.

    Raises:
        InvalidInput: Fewer than 2.
    """
    if rounds < 2:
        raise InvalidInput(f"rounds is {rounds}, expected at least 2 for an interval")
