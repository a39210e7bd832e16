"""Checks a recording against the bundle, and selects the calls to replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.errors import InvalidInput
from isthmus.proof.replay.records import RecordedCall, RecordedRun

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = [
    "artifact_notes",
    "check_one_model",
    "check_same_model",
    "find_call",
    "first_calls",
    "unfinished_notes",
]

_NO_CALLS = "nothing was recorded: the program made no call after it had loaded"


def check_one_model(path: str | Path, runs: Sequence[RecordedRun]) -> None:
    """Checks that all calls are of one model.

    Raises:
        InvalidInput: The calls are of several models.
    """
    names = dict.fromkeys(run.model for run in runs)
    if len(names) > 1:
        raise InvalidInput(
            f"{path}: expected the calls of one model, got those of {', '.join(names)}; record"
            " each model to a folder of its own"
        )


def check_same_model(bundle: Bundle, run: RecordedRun) -> None:
    """Checks that the calls are of the bundle's model.

    Raises:
        InvalidInput: The calls are of another model.
    """
    if bundle.manifest.name != run.model:
        raise InvalidInput(
            f"the calls were recorded of {run.model!r}, but the bundle {bundle.path} is"
            f" {bundle.manifest.name!r}; give the bundle that was recorded"
        )


def first_calls(
    runs: Sequence[RecordedRun], limit: int
) -> tuple[list[RecordedRun], tuple[str, ...]]:
    """Returns the runs with their first `limit` calls, and a note if some are left out.

    Raises:
        InvalidInput: `limit` is less than 1, or nothing was recorded.
    """
    if limit < 1:
        raise InvalidInput(f"calls is {limit}, expected 1 or more")
    total = sum(len(run.calls) for run in runs)
    if not total:
        raise InvalidInput(_NO_CALLS)
    selected, left = [], limit
    for run in runs:
        selected.append(replace(run, calls=run.calls[:left]))
        left -= len(selected[-1].calls)
    if total <= limit:
        return selected, ()
    return selected, (f"the first {limit} of {total} recorded calls are replayed (--calls)",)


def find_call(runs: Sequence[RecordedRun], name: str | None) -> RecordedCall:
    """Returns the call of this name or number; None: the first.

    Raises:
        InvalidInput: There is no such call.
    """
    calls = [call for run in runs for call in run.calls]
    if not calls:
        raise InvalidInput(_NO_CALLS)
    if name is None:
        return calls[0]
    for call in calls:
        if call.name == name or (name.isdecimal() and call.name.endswith(f"-{int(name):06}")):
            return call
    raise InvalidInput(
        f"call {name!r} was not recorded; expected a number up to {len(calls) - 1}, or one of"
        f" {calls[0].name} to {calls[-1].name}"
    )


def artifact_notes(bundle: Bundle, runs: Sequence[RecordedRun]) -> list[str]:
    """Returns a note for each run of an artifact that is not the bundle's."""
    notes = []
    known = {artifact.name: artifact for artifact in bundle.manifest.artifacts}
    for run in runs:
        artifact = known.get(run.artifact)
        if artifact is None:
            names = ", ".join(known)
            notes.append(f"the program ran the artifact {run.artifact}; this bundle has {names}")
        elif tuple(file.sha256 for file in artifact.files) != run.digests:
            notes.append(
                f"the program ran another {run.artifact} than this bundle has: its sha256 was"
                f" {run.digests[0][:12]}..., here it is {artifact.files[0].sha256[:12]}...; deploy"
                " this bundle, or replay with the one that was deployed"
            )
    return list(dict.fromkeys(notes))


def unfinished_notes(runs: Sequence[RecordedRun]) -> list[str]:
    """Returns a note if calls did not finish."""
    count = sum(run.unfinished for run in runs)
    if not count:
        return []
    return [f"{count} calls were not finished: the process ended in them; they are left out"]
