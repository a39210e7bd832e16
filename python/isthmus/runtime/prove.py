"""Proves one engine on one artifact of a bundle, in a process of its own without Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from isthmus.bundle.manifest import Artifact, EngineProof
from isthmus.bundle.proofs_file import read_proofs
from isthmus.errors import ExecutionError
from isthmus.runtime import install_paths
from isthmus.runtime.op_libraries import libraries_to_open
from isthmus.runtime.workers import LineWorker, explain_exit, run_command

__all__ = ["prove_engine", "try_specials"]

_LOAD_SECONDS = 120.0
"""The seconds that the load of an engine may take."""

_VERDICT = (0, 1)
"""The exit codes of `isthmus-run verify` that come with a verdict on the goldens."""
_NOT_AVAILABLE = 4
"""Its exit code when the engine, its runtime or the device is not there."""


def prove_engine(
    bundle: Path,
    artifact: Artifact,
    engine: str,
    device: str = "cpu",
    *,
    op_libraries: Sequence[str | Path] = (),
    timeout: float = 600.0,
) -> EngineProof | None:
    """Runs all goldens of a bundle on an engine, as `isthmus-run verify` does.

    An engine that crashes, or takes too long, has failed. The verdict is kept in the bundle's
    proofs.json unless the manifest has the same one.

    Args:
        bundle: The bundle's folder.
        artifact: The artifact, with the trust that it needs.
        engine: The engine of the native library.
        device: "cpu", "cuda" or "cuda:N".
        op_libraries: Libraries of custom operators to open first.
        timeout: The seconds that it may take.

    Returns:
        The verdict; None where the engine or the device is not available here.

    Raises:
        ImportError: The native part of isthmus is not built.
    """
    words = _words(artifact, engine, device, op_libraries)
    kind = device.partition(":")[0]
    try:
        command = [str(install_paths.binary()), "verify", str(bundle), "--json", *words]
        done = run_command(command, timeout=timeout)
    except ExecutionError:
        reason = f"it did not end within {timeout:g} s"
        return EngineProof(engine, kind, _runtime(engine), False, reason)
    if done.returncode == _NOT_AVAILABLE:
        return None
    if done.returncode not in _VERDICT:
        reason = _error(done.stdout) or explain_exit(done.returncode, done.stderr)
        return EngineProof(engine, kind, _runtime(engine), False, reason)
    document = json.loads(done.stdout)
    runtime = str(document["context"]["runtime"])
    known = [
        proof
        for proof in (*artifact.proofs, *read_proofs(bundle))
        if (proof.engine, proof.device, proof.runtime, proof.passed)
        == (engine, kind, runtime, done.returncode == 0)
    ]
    if known:
        return known[-1]
    reason = "" if done.returncode == 0 else str(document["verdict"])
    return EngineProof(engine, kind, runtime, done.returncode == 0, reason)


def try_specials(
    bundle: Path,
    artifact: Artifact,
    engine: str,
    device: str,
    specials: Sequence[Mapping[str, str]],
    limits: Sequence[Mapping[str, int]] = (),
    *,
    op_libraries: Sequence[str | Path] = (),
    timeout: float = 10.0,
) -> list[str]:
    """Runs a bundle's goldens of special values on an engine, each with a time limit.

    A golden with which the engine hangs or crashes costs its process; another one goes on with the
    next golden. What cannot change the result any more is not run: other values of a kind that
    differs, and numbers beyond one that differs.

    Args:
        bundle: The bundle's folder.
        artifact: The artifact, with the trust that it needs.
        engine: The engine of the native library.
        device: "cpu", "cuda" or "cuda:N".
        specials: `GoldenEntry.special` of each golden of special values, in the bundle's order.
        limits: The numbers furthest from 0 of each of them, by input.
        op_libraries: Libraries of custom operators to open first.
        timeout: The seconds that one golden may take.

    Returns:
        How the engine differs from each golden; empty text where it does not.
    """
    words = [*_words(artifact, engine, device, op_libraries), "--serve-specials"]
    command = [str(install_paths.binary()), "verify", str(bundle), *words]
    differences: list[str] = []
    known: set[tuple[str, str, int]] = set()
    worker: LineWorker | None = None
    try:
        for at, special in enumerate(specials):
            reach = limits[at] if limits else {}
            if any(_implied(known, name, kind, reach) for name, kind in special.items()):
                differences.append("not run: other values of this kind differ already")
                continue
            try:
                if worker is None:
                    worker = LineWorker(command)
                    worker.receive(_LOAD_SECONDS)
                worker.send(str(at))
                difference = str(worker.receive(timeout)["difference"])
            except ExecutionError as error:
                difference = str(error)
                if worker is not None:
                    worker.kill()
                worker = None
            differences.append(difference)
            if difference and len(special) == 1:
                known |= {(name, kind, reach.get(name, 0)) for name, kind in special.items()}
    finally:
        if worker is not None:
            worker.kill()
    return differences


def _implied(
    known: set[tuple[str, str, int]], name: str, kind: str, reach: Mapping[str, int]
) -> bool:
    """Returns True when an input is known to differ with this kind, or with a smaller number."""
    number = reach.get(name, 0)
    return any(
        (name, kind) == (other, other_kind)
        and (number == least or (abs(number) > abs(least) and number * least > 0))
        for other, other_kind, least in known
    )


def _words(
    artifact: Artifact, engine: str, device: str, op_libraries: Sequence[str | Path]
) -> list[str]:
    words = ["--artifact", artifact.name, "--engine", engine, "--device", device]
    words += ["--trust", artifact.trust]
    libraries = libraries_to_open(artifact.op_libraries, op_libraries)
    return [*words, *(word for path in libraries for word in ("--op-library", path))]


def _error(output: str) -> str:
    """Returns the error that `isthmus-run` reported; empty when it reported none."""
    try:
        return str(json.loads(output)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _runtime(engine: str) -> str:
    """Returns the runtime of an engine with its version; empty where it cannot be told."""
    command = [str(install_paths.binary()), "doctor", "--engine", engine, "--json"]
    try:
        rows = json.loads(run_command(command, timeout=60).stdout)["rows"]
        return str(rows[0]["runtime"])
    except (ExecutionError, ValueError, KeyError, IndexError, TypeError):
        return ""
