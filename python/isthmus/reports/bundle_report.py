"""`isthmus report`: everything that is known of a bundle on this machine, in one document.

What `verify`, `explain` and `bench` find, and what the manifest says, as HTML, Markdown, JSON and
JUnit.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.bundle.atomic_write import write_atomically
from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.bundle.manifest import FileEntry
from isthmus.document import Document, to_text
from isthmus.errors import Error, InvalidInput
from isthmus.proof.verify_report import VerifyReport, VerifyRow
from isthmus.reports.bundle_document import document_of, files_of
from isthmus.reports.matrix import MatrixRow, matrix
from isthmus.timing.bench_report import BenchReport

if TYPE_CHECKING:
    import torch

    from isthmus.proof.explain import Explanation

__all__ = ["BundleReport", "Command", "report"]

SHOWN_INSIDE = ("torchscript", "onnxruntime", "openvino")
"""Engines whose artifacts show their layers without compiling a copy, the preferred first."""
_MACHINE = ("machine", "cpu", "python", "isthmus", "torch", "threads")
"""Of verify's context: where the numbers come from."""
_A_MODEL = "package.module:factory"


@dataclass(frozen=True)
class Command:
    """A line for the shell, and what it does."""

    does: str
    command: str


@dataclass(frozen=True)
class BundleReport:
    """A bundle on this machine; truthy when it is proven."""

    bundle: Bundle
    parity: VerifyReport
    speed: BenchReport | None = None
    """None: it was not timed."""
    layers: tuple[Explanation, ...] = ()
    """Error growth by layer, of engines that verify did not look into by itself."""
    created: str = ""
    """When, in UTC: "2026-01-31T12:00:00Z"."""
    model: str = ""
    """What `--model` names; empty without one."""
    options: tuple[str, ...] = ()
    """Further options of the command that makes this report again."""
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """The verdict: that of verify."""
        return bool(self.parity)

    @property
    def ok(self) -> bool:
        """The same, by name."""
        return bool(self)

    @property
    def name(self) -> str:
        """Of the model."""
        return self.bundle.manifest.name

    @property
    def verdict(self) -> str:
        """One sentence."""
        return self.parity.verdict

    @cached_property
    def matrix(self) -> tuple[MatrixRow, ...]:
        """An engine on a device a row, with a cell for every golden."""
        return matrix(self.parity, [golden.name for golden in self.bundle.manifest.goldens])

    @property
    def explanations(self) -> tuple[Explanation, ...]:
        """Verify's, then those that were asked for; one an artifact and engine."""
        found: dict[tuple[str, str], Explanation] = {}
        for explanation in (*self.parity.explanations, *self.layers):
            found.setdefault((explanation.engine, explanation.artifact), explanation)
        return tuple(found.values())

    @property
    def files(self) -> tuple[tuple[str, FileEntry], ...]:
        """Every file of the bundle, with the part that it belongs to."""
        manifest = self.bundle.manifest
        goldens = [("goldens", golden.file) for golden in manifest.goldens]
        others = [("other files", file) for file in manifest.files]
        return (*files_of(manifest.artifacts), *goldens, *others)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for _, file in self.files)

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What ran, with versions."""
        names = [row.runtime for row in self.parity.rows]
        names += [row.runtime for row in self.speed.rows] if self.speed is not None else []
        return tuple(name for name in dict.fromkeys(names) if name)

    @property
    def machine(self) -> Mapping[str, str]:
        """Where the numbers come from."""
        return {key: self.parity.context[key] for key in _MACHINE if key in self.parity.context}

    @property
    def next_step(self) -> Command:
        """What to do about the verdict."""
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
        """How to have all this again."""
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

    def document(self) -> Document:
        """See `isthmus.report`."""
        return document_of(self)

    def html(self) -> str:
        """One file that needs nothing else: no script, no font, no network.

        Raises:
            InvalidInput: There is no jinja2.
        """
        from isthmus.reports.html import render

        return render(self)

    def write_html(self, path: str | Path) -> None:
        """Writes `html()`, whole or not at all.

        Raises:
            InvalidInput: There is no jinja2, or the file cannot be written.
        """
        write_atomically(path, self.html())

    def __str__(self) -> str:
        """The tables, as on the console."""
        return to_text(self)


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
    """Proves a bundle, looks into its layers, times it, and tells all of it.

    Args:
        path: The bundle.
        model: The eager module, for the reference, the error growth by layer, and the eager
            timings: a module, "package.module:factory", or a Hugging Face id or folder. Only what
            has a name can be timed, in a process of its own.
        engines: As in `isthmus.verify`; the timings are of the same engines.
        devices: "cpu", "cuda" or "cuda:N"; None: both kinds.
        artifact: Only this one.
        threads: Of every runtime; None: the processors usable.
        trust: What the bundle may do: "data", "graph" or "native".
        op_libraries: Libraries of custom operators to open first.
        rounds: Turns of each row of the timings; at least 2, 8 for a verdict on C++ and Python.
        bench: Time it, too.
        timeout: Seconds that each process may take.
        progress: Called with a line at each stage.

    Raises:
        BundleError: `path` is no good bundle.
        InvalidInput: Unknown engine, artifact or device, or too few rounds.
    """
    from isthmus.proof.verify import verify

    if bench and rounds < 2:  # told before minutes of proof, not after
        raise InvalidInput(f"rounds is {rounds}, expected at least 2 for an interval")
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    say = progress or (lambda line: None)
    parity = verify(
        bundle, model, engines, devices, artifact=artifact, threads=threads, trust=trust,
        op_libraries=op_libraries, timeout=timeout, rank=True, progress=progress,
    )  # fmt: skip
    notes: list[str] = []
    layers: tuple[Explanation, ...] = ()
    shown = _to_look_into(parity)
    if model is not None and not parity.explanations and shown is not None:
        from isthmus.proof.explain import explain

        say(f"following the error through the layers in {shown.runner}")
        try:
            found = explain(
                bundle, model, engine=shown.runner, artifact=shown.artifact, threads=threads,
                trust=trust, op_libraries=op_libraries, timeout=timeout, progress=progress,
            )  # fmt: skip
            layers = (found,)
        except Error as error:
            notes.append(f"no error growth by layer in {shown.runner}: {error}")
    named = model if isinstance(model, str) else None
    speed: BenchReport | None = None
    if bench and not bundle.manifest.goldens:
        notes.append("not timed: the bundle has no goldens to time with; export it again")
    elif bench:
        from isthmus.timing.bench import bench as measure

        speed = measure(
            bundle, named, _forms(bundle, engines), devices, artifact=artifact, threads=threads,
            rounds=rounds, trust=trust, op_libraries=op_libraries, timeout=timeout,
            progress=progress,
        )  # fmt: skip
    return BundleReport(
        bundle=bundle,
        parity=parity,
        speed=speed,
        layers=layers,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        model=named or (_A_MODEL if model is not None else ""),
        options=_options(engines, devices, artifact, threads, trust, op_libraries),
        notes=tuple(notes),
    )


def _to_look_into(parity: VerifyReport) -> VerifyRow | None:
    """The row whose layers are shown: what failed first, then in the order of preference."""
    rows = [
        row
        for row in parity.rows
        if row.runner in SHOWN_INSIDE
        and (row.language, row.device) == ("C++", "cpu")
        and row.status in ("passed", "failed")
    ]
    return min(
        rows, key=lambda row: (row.status != "failed", SHOWN_INSIDE.index(row.runner)), default=None
    )


def _forms(bundle: Bundle, engines: Sequence[str] | None) -> tuple[str, ...] | None:
    """Of bench: those of the engines that were asked for."""
    if engines is None:
        return None
    from isthmus.runtime.engines import ENGINES_IN_PYTHON, formats_of_engine
    from isthmus.timing.bench import FORMS
    from isthmus.timing.turns import EAGER, engine_of

    here = {artifact.format for artifact in bundle.manifest.artifacts}
    wanted = {
        runtime.engine
        for runtime in ENGINES_IN_PYTHON
        if runtime.engine in engines or runtime.name in engines
    }  # a Python runtime's name gives its engine's pair
    return tuple(
        form
        for form in FORMS
        if (form == EAGER and "eager" in engines)
        or (engine_of(form) in wanted and here & set(formats_of_engine(engine_of(form))))
    )


def _options(
    engines: Sequence[str] | None,
    devices: Sequence[str] | None,
    artifact: str | None,
    threads: int | None,
    trust: str,
    op_libraries: Sequence[str | Path],
) -> tuple[str, ...]:
    found = [word for engine in engines or () for word in ("--engine", engine)]
    found += [word for device in devices or () for word in ("--device", device)]
    found += ["--artifact", artifact] if artifact is not None else []
    found += ["--threads", str(threads)] if threads is not None else []
    found += ["--trust", trust] if trust != "graph" else []
    found += [word for op_library in op_libraries for word in ("--op-library", str(op_library))]
    return tuple(found)
