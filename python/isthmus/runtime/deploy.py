"""Writes a folder that runs a bundle without Python: program, libraries and model.

An engine names the files that it opens (`EngineInfo.runtime_files`). The libraries that these link
against are copied with them, except for the C library, which belongs to the system.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from isthmus.bundle.bundle import Bundle, open_bundle, write_bundle
from isthmus.bundle.bundle_files import replace_directory, staging
from isthmus.bundle.manifest import Artifact
from isthmus.document import Document, Table
from isthmus.errors import BundleError, EngineUnavailable, InvalidInput
from isthmus.runtime.engines import formats_of_engine
from isthmus.runtime.op_libraries import installed_libraries
from isthmus.runtime.prove import prove_engine

__all__ = ["DeployedFile", "Deployment", "deploy"]

_OF_THE_SYSTEM = re.compile(
    r"^(ld-linux.*|linux-vdso|libc|libm|libdl|libpthread|librt|libresolv|libutil|libnsl|libanl)\."
    r"so(\.\d+)*$"
)
"""Matches the C library: a copy of it would have to fit the system's loader."""

_OF_PYTHON = "libtorch_python.so"
"""A library that packages link to; without Python, the engine puts another one in its place."""


@dataclass(frozen=True)
class DeployedFile:
    """A file in the folder."""

    path: str
    """The path relative to the folder."""
    size: int
    """The size in bytes."""


@dataclass(frozen=True)
class Deployment:
    """A folder that was written."""

    path: Path
    engine: str
    runtime: str
    """The runtime of the engine, with its version."""
    artifact: str
    files: tuple[DeployedFile, ...]

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(file.size for file in self.files)

    def document(self) -> Document:
        """Returns the result as a document to print; see `isthmus.document`."""
        parts: dict[str, list[DeployedFile]] = {}
        for file in self.files:
            parts.setdefault(file.path.partition("/")[0], []).append(file)
        largest = sorted(self.files, key=lambda file: -file.size)[:8]
        rows = [(f"{name}/", f"{len(own)}", _mb(own)) for name, own in sorted(parts.items())]
        rows += [(f"  {file.path}", "", _mb([file])) for file in largest]
        return Document(
            title=f"isthmus deploy folder: {self.path}",
            schema="isthmus-deploy",
            schema_version=1,
            context={
                "engine": self.engine,
                "runtime": self.runtime,
                "artifact": self.artifact,
                "run": f"{self.path}/bin/isthmus-run verify {self.path}/bundle"
                f" --engine {self.engine}",
            },
            tables=(
                Table(
                    "What is in it, and its largest files",
                    ("part", "files", "MB"),
                    tuple(rows),
                    numeric=frozenset({"files", "MB"}),
                ),
            ),
            passed=True,
            verdict=f"{len(self.files)} files, {self.size / 1e6:.1f} MB",
            rows=tuple(asdict(file) for file in self.files),
            extra={"path": str(self.path), "size": self.size},
        )


def deploy(
    path: str | Path | Bundle,
    output: str | Path,
    *,
    engine: str,
    artifact: str = "",
    trust: str = "graph",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Deployment:
    """Writes a folder of `bin/isthmus-run`, `lib/` and `bundle/` that needs only a C library.

    The engine must have given the goldens' answers with the very runtime that is copied. Where the
    bundle does not say so, they are run now, and the copy keeps the verdict.

    Args:
        path: The bundle; only the artifact that the engine runs, the goldens and the tokenizer are
            copied.
        output: The folder to write.
        engine: The engine whose libraries are copied.
        artifact: The name of an artifact; when empty, the first that the engine runs.
        trust: "graph", or "native" to run native code for its proof.
        overwrite: Replace an existing folder of this kind.
        progress: Called with a sentence at each stage.

    Raises:
        EngineUnavailable: The engine is not installed, or its runtime is not, or it does not give
            the goldens' answers.
        InvalidInput: The engine runs none of the bundle's artifacts.
        BundleError: The bundle is damaged, or the output is taken.
    """
    from isthmus import _core
    from isthmus.runtime import install_paths

    say = progress or (lambda _: None)
    bundle = open_bundle(path)
    target = Path(output)
    _check_output(target, overwrite=overwrite)
    chosen = _artifact(bundle, engine, artifact)
    faults = bundle.verify_files()
    if faults:
        raise BundleError(faults[0])
    info = _core.engine_info(engine)
    if info.unavailable:
        raise EngineUnavailable(info.unavailable)
    libraries = install_paths.lib_dir()
    roots = [
        install_paths.binary(),
        libraries / f"libisthmus_engine_{engine}.so",
        *(Path(runtime_file) for runtime_file in info.runtime_files),
    ]
    operators = _operators(chosen)
    with staging(target) as work:
        say("Copying the program and its libraries")
        (work / "bin").mkdir()
        (work / "lib").mkdir()
        shutil.copy2(install_paths.binary(), work / "bin" / "isthmus-run")
        own = {_name_in_lib(root, libraries): root for root in roots[1:]}
        needed = {**_needed(roots), **own}
        for name, file in needed.items():
            (work / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, work / "lib" / name)
        _copy_operators(operators, work / "lib", needed)
        say("Copying the bundle")
        _write_part(bundle, _proven(bundle, chosen, engine, info.runtime, trust, say), work)
        files = tuple(
            DeployedFile(path.relative_to(work).as_posix(), path.stat().st_size)
            for path in sorted(work.rglob("*"))
            if path.is_file()
        )
        replace_directory(work, target)
    return Deployment(target, engine, info.runtime, chosen.name, files)


def _check_output(target: Path, *, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    ours = (target / "bin" / "isthmus-run").is_file() and (target / "bundle").is_dir()
    if overwrite and ours:
        return
    hint = "pass overwrite=True (--overwrite) to replace it" if ours else "give another path"
    raise BundleError(f"{target} exists already; {hint}")


def _artifact(bundle: Bundle, engine: str, name: str) -> Artifact:
    formats = formats_of_engine(engine)
    if not formats:
        from isthmus import _core

        raise EngineUnavailable(
            f'engine "{engine}" is not installed; there is {", ".join(_core.engine_names())}'
        )
    candidates = [bundle.artifact(name)] if name else list(bundle.manifest.artifacts)
    for candidate in candidates:
        if candidate.format in formats:
            return candidate
    has = ", ".join(f"{candidate.name} ({candidate.format})" for candidate in candidates)
    raise InvalidInput(
        f"engine {engine} runs {', '.join(formats)}, the bundle has {has}; export it with "
        f"--formats {formats[0]}, or `isthmus convert` it"
    )


def _proven(
    bundle: Bundle,
    artifact: Artifact,
    engine: str,
    runtime: str,
    trust: str,
    say: Callable[[str], None],
) -> Artifact:
    """Returns the artifact with the verdict on the engine.

    Raises:
        EngineUnavailable: The engine failed.
        BundleError: The proof would run native code that is not trusted, or the bundle has no
            goldens.
    """
    known = [
        proof
        for proof in artifact.proofs
        if (proof.engine, proof.device, proof.runtime) == (engine, "cpu", runtime)
    ]
    if not known:
        if not bundle.manifest.goldens:
            raise BundleError(
                f"{bundle.path} has no goldens to prove {engine} on, and an engine that is not "
                "proven is not deployed; export the model again"
            )
        if artifact.trust == "native" and trust != "native":
            raise BundleError(
                f"{artifact.name} is native code that was not proven with {runtime}; allow to run "
                'it with trust="native" (--trust native)'
            )
        say(f"Proving {artifact.name} on {engine}")
        proof = prove_engine(bundle.path, artifact, engine)
        if proof is None:
            raise EngineUnavailable(
                f"{artifact.name} cannot be proven on {engine} here; `isthmus-run verify "
                f"{bundle.path} --engine {engine}` says why"
            )
        known = [proof]
    if not known[-1].passed:
        raise EngineUnavailable(
            f"{engine} with {runtime} does not give the model's answers for {artifact.name} "
            f"({known[-1].reason}); deploy another engine"
        )
    others = [proof for proof in artifact.proofs if proof not in known]
    return replace(artifact, proofs=(*others, *known))


def _operators(artifact: Artifact) -> Mapping[str, Path]:
    """Returns the libraries of the artifact's custom operators by namespace.

    Raises:
        EngineUnavailable: The package of one is not installed.
    """
    found = installed_libraries(artifact.op_libraries)
    for library in artifact.op_libraries:
        if library.namespace not in found:
            origin = library.package or library.library or "an unknown library"
            raise EngineUnavailable(
                f"{artifact.name} needs the operators {library.namespace}::* of {origin}, which is "
                "no installed package, so that nothing can be copied; install it, or deploy an "
                "artifact without them"
            )
    return found


def _copy_operators(operators: Mapping[str, Path], folder: Path, present: Collection[str]) -> None:
    """Copies libraries of operators to where `op_libraries_of` looks for them in a deployment.

    What they link against and is not there yet is put where it lies relative to them in their
    package, for that is where they look for it.
    """
    for namespace, file in operators.items():
        target = folder / "operators" / f"{namespace}.so"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
        for name, linked in _needed([file], {*present, _OF_PYTHON}).items():
            beside = os.path.relpath(linked.parent, file.parent)
            place = Path(os.path.normpath(target.parent / beside / name))
            if place.is_relative_to(folder):
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(linked, place)


def _name_in_lib(file: Path, libraries: Path) -> str:
    """Returns the path in `lib`: our own libraries keep their subfolders, which engines search."""
    inside = file.is_relative_to(libraries)
    return file.relative_to(libraries).as_posix() if inside else file.name


def _needed(roots: Sequence[Path], present: Collection[str] = ()) -> Mapping[str, Path]:
    """Returns the libraries that files link against, directly or not, by their link names.

    Args:
        roots: The files.
        present: The link names of libraries that are left out.

    Raises:
        EngineUnavailable: One of them is not found on this machine.
    """
    needed: dict[str, Path] = {}
    # The loader does not search the folders of the libraries that an engine opens by itself.
    folders = dict.fromkeys(root.parent for root in roots)
    pending = [root for root in roots if ".so" in root.name or not root.suffix]
    while pending:
        root = pending.pop()
        done = subprocess.run(["ldd", str(root)], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            name, arrow, rest = line.strip().partition(" => ")
            if not arrow or _OF_THE_SYSTEM.match(Path(name).name):
                continue
            if name in needed or name in present:
                continue
            if rest.startswith("not found"):
                place = next(
                    (folder / name for folder in folders if (folder / name).exists()), None
                )
                if place is None:
                    raise EngineUnavailable(
                        f"{root} needs {name}, which is not found on this machine; install it"
                    )
                pending.append(place)
            else:
                place = Path(rest.rpartition(" (")[0])
            needed[name] = place.resolve()
    return needed


def _write_part(bundle: Bundle, artifact: Artifact, folder: Path) -> None:
    """Writes the bundle with one artifact: its files, the goldens, and everything else."""
    write_bundle(
        folder / "bundle",
        replace(bundle.manifest, artifacts=(artifact,)),
        artifact_files={
            artifact.name: {
                entry.path.removeprefix("artifacts/"): bundle.path / entry.path
                for entry in artifact.files
            }
        },
        goldens=bundle.goldens(),
        specials=bundle.specials(),
        extra_files={entry.path: bundle.path / entry.path for entry in bundle.manifest.files},
    )


def _mb(files: Sequence[DeployedFile]) -> str:
    return f"{sum(file.size for file in files) / 1e6:.1f}"
