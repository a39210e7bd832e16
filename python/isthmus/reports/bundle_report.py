"""The report on a bundle: what `verify`, `explain`, `bench` and the manifest say about it.

`bundle_document` turns it into Markdown, JSON and JUnit, `html` into a page.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.bundle.manifest import FileEntry
from isthmus.errors import Error
from isthmus.proof.verify_report import VerifyReport, VerifyRow
from isthmus.reports.matrix import MatrixRow, matrix
from isthmus.runtime.run_options import RunOptions, check_rounds
from isthmus.timing.bench_report import BenchReport

if TYPE_CHECKING:
    import torch

    from isthmus.proof.explain import Explanation

__all__ = ["BundleReport", "Command", "report", "report_bundle"]

SHOWN_INSIDE = ("torchscript", "onnxruntime", "openvino")
"""The engines whose artifacts show their layers without compiling a copy, preferred first."""
_MACHINE = ("machine", "cpu", "python", "isthmus", "torch", "threads")
"""The entries of verify's context that describe the machine."""
_A_MODEL = "package.module:factory"


@dataclass(frozen=True)
class Command:
    """A command line, and what it does."""

    does: str
    command: str


@dataclass(frozen=True)
class BundleReport:
    """Everything that is known about a bundle on this machine; truthy when it is proven."""

    bundle: Bundle
    parity: VerifyReport
    speed: BenchReport | None = None
    """The timings; None if the bundle was not timed."""
    layers: tuple[Explanation, ...] = ()
    """The error by layer of engines that verify did not explain by itself."""
    created: str = ""
    """The time of the report in UTC: "2026-01-31T12:00:00Z"."""
    model: str = ""
    """The value of `--model`; empty without one."""
    options: tuple[str, ...] = ()
    """Further options of the command that repeats this report."""
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Returns verify's verdict."""
        return bool(self.parity)

    @property
    def ok(self) -> bool:
        """True when the bundle is proven."""
        return bool(self)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.bundle.manifest.name

    @property
    def verdict(self) -> str:
        """The verdict in one sentence."""
        return self.parity.verdict

    @cached_property
    def matrix(self) -> tuple[MatrixRow, ...]:
        """The matrix: a row for each engine on a device, a cell for each golden."""
        return matrix(self.parity, [golden.name for golden in self.bundle.manifest.goldens])

    @property
    def explanations(self) -> tuple[Explanation, ...]:
        """Verify's explanations, then those in `layers`; the first of each artifact and engine."""
        first: dict[tuple[str, str], Explanation] = {}
        for explanation in (*self.parity.explanations, *self.layers):
            first.setdefault((explanation.engine, explanation.artifact), explanation)
        return tuple(first.values())

    @property
    def parts(self) -> Mapping[str, Sequence[FileEntry]]:
        """Maps each part of the bundle to its files: artifacts, goldens, other files."""
        manifest = self.bundle.manifest
        parts: dict[str, list[FileEntry]] = {}
        for artifact in manifest.artifacts:
            parts.setdefault(artifact.name, []).extend(artifact.files)
        for golden in (*manifest.goldens, *manifest.specials):
            parts.setdefault("goldens", []).append(golden.file)
        for file in manifest.files:
            parts.setdefault("other files", []).append(file)
        return parts

    @property
    def files(self) -> tuple[tuple[str, FileEntry], ...]:
        """Every file of the bundle, with its part."""
        return tuple((part, file) for part, files in self.parts.items() for file in files)

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(file.size for _, file in self.files)

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes that ran, with versions."""
        names = [row.runtime for row in self.parity.rows]
        names += [row.runtime for row in self.speed.rows] if self.speed is not None else []
        return tuple(name for name in dict.fromkeys(names) if name)

    @property
    def machine(self) -> Mapping[str, str]:
        """The machine and the versions that the numbers come from."""
        return {key: self.parity.context[key] for key in _MACHINE if key in self.parity.context}

    @property
    def next_step(self) -> Command:
        """The command to run next, given the verdict."""
        bundle = shlex.quote(str(self.bundle.path))
        failed = [row for row in self.parity.rows if row.status == "failed"]
        if not self and not failed:
            return Command("see what is missing on this machine", f"isthmus doctor {bundle}")
        if failed:
            model = shlex.quote(self.model or _A_MODEL)
            command = f"isthmus verify {bundle} --model {model} --explain --repro repro"
            return Command("get the submodule that diverges as a script of its own", command)
        return Command(
            "prove it again where it will serve, without Python", f"isthmus-run verify {bundle}"
        )

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands that repeat the report and its parts."""
        bundle = shlex.quote(str(self.bundle.path))
        model = f" --model {shlex.quote(self.model)}" if self.model else ""
        options = "".join(f" {shlex.quote(option)}" for option in self.options)
        timed = " --no-bench" if self.speed is None else ""
        return (
            Command(
                "this report", f"isthmus report {bundle}{model}{options}{timed} -o report.html"
            ),
            Command("the proof alone", f"isthmus verify {bundle}{model} --rank"),
            Command("the proof without Python", f"isthmus-run verify {bundle}"),
            Command("the timings alone", f"isthmus bench {bundle}{model}"),
            Command("which engine is the fastest here", f"isthmus tune {bundle}"),
            Command("what the bundle needs, and whether it is here", f"isthmus doctor {bundle}"),
        )

    def __str__(self) -> str:
        """Returns the verdict."""
        return self.verdict


def report(
    path: str | Path | Bundle,
    model: torch.nn.Module | str | None = None,
    *,
    engines: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    artifact: str | None = None,
    threads: int | None = None,
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    rounds: int = 15,
    bench: bool = True,
    timeout: float = 600.0,
    progress: Callable[[str], None] | None = None,
) -> BundleReport:
    """Verifies, explains and times a bundle.

    Args:
        path: The bundle.
        model: The eager module, for the reference, the error by layer and the eager timings: a
            module, "package.module:factory", or a Hugging Face id or folder. A module itself is
            not timed, because processes of their own could not import it.
        engines: The engines to verify and time, as in `isthmus.verify`.
        devices: "cpu", "cuda" or "cuda:N"; None: "cpu" and "cuda".
        artifact: The only artifact to use; None: all.
        threads: The intra-operator threads of every runtime; None: the processors usable.
        trust: What the bundle may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        rounds: The turns of each timed row; at least 2, and 8 for a verdict on C++ and Python.
        bench: Whether to time the bundle.
        timeout: The seconds that each process may take.
        progress: Called with a line at each stage.

    Raises:
        BundleError: `path` is not a valid bundle.
        InvalidInput: Unknown engine, artifact or device, or too few rounds.
    """
    options = RunOptions(
        engines=engines,
        devices=devices,
        artifact=artifact,
        threads=threads,
        trust=trust,
        op_libraries=op_libraries,
        timeout=timeout,
        progress=progress,
    )
    return report_bundle(path, options, model, rounds=rounds, bench=bench)


def report_bundle(
    path: str | Path | Bundle,
    options: RunOptions,
    model: torch.nn.Module | str | None = None,
    *,
    rounds: int = 15,
    bench: bool = True,
) -> BundleReport:
    """Reports on a bundle under options that several steps share; see `report`."""
    from isthmus.proof.verify import verify_bundle

    if bench:
        check_rounds(rounds)  # fail before minutes of verification
    bundle = open_bundle(path)
    parity = verify_bundle(bundle, options, model, rank=True)
    notes: list[str] = []
    layers: tuple[Explanation, ...] = ()
    shown = _row_to_explain(parity)
    if model is not None and not parity.explanations and shown is not None:
        from isthmus.proof.explain import explain_engine

        options.say(f"following the error through the layers in {shown.engine}")
        try:
            of_artifact = replace(options, artifact=shown.artifact)
            layers = (explain_engine(bundle, model, of_artifact, engine=shown.engine),)
        except Error as error:
            notes.append(f"no error growth by layer in {shown.engine}: {error}")
    named = model if isinstance(model, str) else None
    speed: BenchReport | None = None
    if bench and not bundle.manifest.goldens:
        notes.append("not timed: the bundle has no goldens to time with; export it again")
    elif bench:
        from isthmus.timing.bench import bench_bundle

        speed = bench_bundle(bundle, options, named, rounds=rounds)
    return BundleReport(
        bundle=bundle,
        parity=parity,
        speed=speed,
        layers=layers,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        model=named or (_A_MODEL if model is not None else ""),
        options=options.arguments(),
        notes=tuple(notes),
    )


def _row_to_explain(parity: VerifyReport) -> VerifyRow | None:
    """Returns the row whose layers are shown: a failed one, else the first of SHOWN_INSIDE."""
    rows = [
        row
        for row in parity.rows
        if row.engine in SHOWN_INSIDE
        and (row.language, row.device) == ("C++", "cpu")
        and row.status in ("passed", "failed")
    ]
    return min(
        rows, key=lambda row: (row.status != "failed", SHOWN_INSIDE.index(row.engine)), default=None
    )
