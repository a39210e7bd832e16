"""Runs both bundles on a device, each call in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import Artifact
from isthmus.bundle_diff.pairs import ArtifactPair, methods_of, pair_values
from isthmus.errors import ExecutionError
from isthmus.proof.jobs import Job, Run, prove_without_python, read_run
from isthmus.proof.verify_report import VerifyRow
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.engines import engines_of
from isthmus.runtime.run_options import RunOptions
from isthmus.runtime.workers import ask_worker

if TYPE_CHECKING:
    from torch import Tensor

    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden, Step

__all__ = ["Names", "PairedEngine", "RunContext"]

Names = dict[str, dict[str, str]]
"""Maps a method to B's name of each of A's inputs or outputs."""


@dataclass(frozen=True)
class PairedEngine:
    """An engine on the artifacts of a pair."""

    pair: ArtifactPair
    engine: str
    name: str
    """The name in a report: the engine, and the artifact where the engine runs several."""
    before: Artifact | None
    """A's artifact; None when this engine may not run it here."""
    after: Artifact | None
    """B's artifact; None when this engine may not run it here."""


@dataclass(frozen=True)
class RunContext:
    """The two bundles and the options of everything that is run."""

    before: Bundle
    after: Bundle
    options: RunOptions
    folder: Path
    """A temporary folder for the outputs of workers."""

    @cached_property
    def goldens(self) -> list[Golden]:
        """The goldens of A."""
        return self.before.goldens()

    @cached_property
    def new_goldens(self) -> list[Golden]:
        """The goldens of B."""
        return self.after.goldens()

    @cached_property
    def names(self) -> tuple[Names, Names]:
        """B's names of A's inputs and of A's outputs."""
        inputs, outputs = {}, {}
        for method, other in methods_of(self.before.manifest, self.after.manifest):
            inputs[method.name] = pair_values(method.inputs, other.inputs).names
            outputs[method.name] = pair_values(method.results, other.results).names
        return inputs, outputs

    def renamed(self, step: Step) -> dict[str, Tensor]:
        """Returns the inputs of one of A's steps by B's names."""
        names = self.names[0].get(step.method, {})
        return {names.get(name, name): value for name, value in step.inputs.items()}

    def job(self, *, new: bool) -> Job:
        """Returns the job of `verify` for B if `new`, else for A."""
        return Job(
            bundle=self.after if new else self.before,
            goldens=self.new_goldens if new else self.goldens,
            options=self.options,
            folder=self.folder,
        )

    def spec(self, artifact: Artifact, engine: PairedEngine, *, new: bool) -> EngineSpec:
        """Returns the engine as C++ runs it, for B if `new`, else for A."""
        return self.job(new=new).spec(
            "isthmus",
            self.options.device,
            artifact=artifact.name,
            engine=engine.engine,
            optimize="auto",
        )

    def pair_engines(self, pairs: Sequence[ArtifactPair]) -> list[PairedEngine]:
        """Returns each wanted engine of each pair."""
        wanted: list[tuple[ArtifactPair, str]] = []
        for pair in pairs:
            sides = [artifact for artifact in (pair.before, pair.after) if artifact is not None]
            names = dict.fromkeys(name for side in sides for name in engines_of(side.format))
            wanted += [(pair, name) for name in names if self.options.wants(name)]
        engines = [engine for _, engine in wanted]
        return [
            PairedEngine(
                pair,
                engine,
                f"{pair.name} on {engine}" if engines.count(engine) > 1 else engine,
                self._usable(pair.before, engine),
                self._usable(pair.after, engine),
            )
            for pair, engine in wanted
        ]

    def _usable(self, artifact: Artifact | None, engine: str) -> Artifact | None:
        return None if artifact is None or self.why_not(artifact, engine) else artifact

    def why_not(self, artifact: Artifact, engine: str) -> str:
        """Returns the reason why an engine may not run an artifact here; empty when it may."""
        kind = self.options.device.partition(":")[0]
        if engine not in engines_of(artifact.format):
            return f"{engine} does not run {artifact.format}"
        if kind not in artifact.devices:
            return f"{artifact.name} is not made for {kind}, only for {', '.join(artifact.devices)}"
        return self.options.refusal(artifact)

    def prove(self, engine: PairedEngine, *, new: bool) -> VerifyRow | None:
        """Proves a bundle on its own goldens, without Python; None where it may not run."""
        artifact = engine.after if new else engine.before
        if artifact is None:
            return None
        side = "B" if new else "A"
        self.options.say(f"{side} on its own goldens: {artifact.name} on {engine.engine}")
        row = VerifyRow(engine.engine, "C++", self.options.device, "passed", artifact=artifact.name)
        return prove_without_python(self.job(new=new), row)[0]

    def run_goldens(self, engine: PairedEngine, goldens: Sequence[str], *, new: bool) -> Run | None:
        """Runs a bundle on A's goldens; None where it may not run.

        Args:
            engine: The engine and its artifacts.
            goldens: The names of A's goldens.
            new: True runs B, False runs A itself.
        """
        artifact = engine.after if new else engine.before
        if artifact is None:
            return None
        side = "B" if new else "A"
        self.options.say(f"{side} on A's goldens: {artifact.name} on {engine.engine}")
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        inputs, outputs = self.names
        if not new:
            # A keeps its names, for the outputs that B has as well.
            inputs, outputs = {}, {key: {name: name for name in outputs[key]} for key in outputs}
        request: dict[str, Any] = {
            "spec": replace(self.spec(artifact, engine, new=new), warmup=False).to_json(),
            "goldens_of": str(self.before.path.resolve()),
            "goldens": list(goldens),
            "inputs": inputs,
            "outputs": outputs,
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
