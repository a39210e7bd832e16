"""What is run for a comparison: both bundles on one device, each call in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import Artifact
from isthmus.bundle_diff.pairs import ArtifactPair
from isthmus.errors import ExecutionError
from isthmus.proof.jobs import Job, Run, prove_without_python, read_run
from isthmus.proof.verify_report import VerifyRow
from isthmus.runtime.engines import engines_of
from isthmus.runtime.run_options import RunOptions
from isthmus.runtime.workers import ask_worker

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden

__all__ = ["Runs", "Way"]


@dataclass(frozen=True)
class Way:
    """One engine on the artifacts of a pair."""

    pair: ArtifactPair
    engine: str
    name: str
    """What a report calls it: the engine, and the artifact where the engine runs several."""
    before: Artifact | None
    """A's artifact, where this engine may run it here."""
    after: Artifact | None


@dataclass(frozen=True)
class Runs:
    """What holds for all that is run."""

    before: Bundle
    after: Bundle
    options: RunOptions
    folder: Path
    """A temporary folder for the outputs of workers."""

    @cached_property
    def goldens(self) -> list[Golden]:
        """A's."""
        return self.before.goldens()

    @cached_property
    def new_goldens(self) -> list[Golden]:
        """B's."""
        return self.after.goldens()

    def job(self, *, new: bool) -> Job:
        """As verify takes it: B's if `new`, else A's."""
        return Job(
            bundle=self.after if new else self.before,
            goldens=self.new_goldens if new else self.goldens,
            options=self.options,
            folder=self.folder,
        )

    def ways(self, pairs: Sequence[ArtifactPair]) -> list[Way]:
        """Each engine of each pair; a side that may not run here is None, see `why_not`."""
        engines: list[tuple[ArtifactPair, str]] = []
        for pair in pairs:
            sides = [one for one in (pair.before, pair.after) if one is not None]
            names = dict.fromkeys(name for side in sides for name in engines_of(side.format))
            engines += [(pair, name) for name in names if self.options.wants(name)]
        found = []
        for pair, engine in engines:
            several = sum(other == engine for _, other in engines) > 1
            usable = [
                None if one is None or self.why_not(one, engine) else one
                for one in (pair.before, pair.after)
            ]
            name = f"{pair.name} on {engine}" if several else engine
            found.append(Way(pair, engine, name, *usable))
        return found

    def why_not(self, artifact: Artifact, engine: str) -> str:
        """Why an engine may not run an artifact here; empty when it may."""
        kind = self.options.device.partition(":")[0]
        if engine not in engines_of(artifact.format):
            return f"{engine} does not run {artifact.format}"
        if kind not in artifact.devices:
            return f"{artifact.name} is not made for {kind}, only for {', '.join(artifact.devices)}"
        return self.options.refusal(artifact)

    def prove(self, way: Way, *, new: bool) -> VerifyRow | None:
        """A bundle on its own goldens, without Python; None where it may not run."""
        artifact = way.after if new else way.before
        if artifact is None:
            return None
        self.options.say(
            f"{'B' if new else 'A'} on its own goldens: {artifact.name} on {way.engine}"
        )
        row = VerifyRow(way.engine, "C++", self.options.device, "passed", artifact=artifact.name)
        return prove_without_python(self.job(new=new), row)[0]

    def cross(
        self,
        way: Way,
        goldens: Sequence[str],
        names: tuple[Mapping[str, Mapping[str, str]], Mapping[str, Mapping[str, str]]],
        *,
        new: bool,
    ) -> Run | None:
        """A bundle on A's goldens; None where it may not run.

        Args:
            way: Artifact and engine.
            goldens: Names of A's goldens.
            names: By method, names of A's inputs and outputs in B.
            new: B runs; else A itself.
        """
        artifact = way.after if new else way.before
        if artifact is None:
            return None
        self.options.say(f"{'B' if new else 'A'} on A's goldens: {artifact.name} on {way.engine}")
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        spec = self.job(new=new).spec(
            "isthmus",
            self.options.device,
            artifact=artifact.name,
            engine=way.engine,
            optimize="auto",
        )
        request: dict[str, Any] = {
            "spec": replace(spec, warmup=False).to_json(),
            "goldens_of": str(self.before.path.resolve()),
            "goldens": list(goldens),
            "inputs": names[0] if new else {},
            "outputs": names[1] if new else _themselves(names[1]),
            "folder": str(folder),
        }
        try:
            answer = ask_worker(
                "isthmus.bundle_diff.worker",
                request,
                threads=self.options.thread_count,
                timeout=self.options.timeout,
            )
        except ExecutionError as error:
            return Run([], {}, error=str(error))
        return read_run(answer, folder, len(goldens))


def _themselves(names: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """A's own names for what B has as well."""
    return {method: {name: name for name in outputs} for method, outputs in names.items()}
