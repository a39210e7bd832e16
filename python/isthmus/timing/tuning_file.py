"""Writes tuning.json into a bundle: for each machine, which engine `load` takes."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.atomic_write import write_atomically
from isthmus.errors import ExecutionError, InvalidInput
from isthmus.timing.tune_report import TuneReport

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["FILE", "write_tuning"]

FILE = "tuning.json"
_VERSION = 1


def write_tuning(bundle: Bundle, report: TuneReport) -> Path:
    """Replaces this machine's entry, keeps those of other machines, and returns the file.

    Raises:
        ExecutionError: The file cannot be written.
    """
    path = bundle.path / FILE
    now = datetime.datetime.now(datetime.timezone.utc)
    kind = report.device.partition(":")[0]
    entry: dict[str, Any] = {
        "machine": report.machine,
        "device": kind,
        "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "ranking": [
            {
                "artifact": candidate.artifact,
                "engine": candidate.engine,
                "threads": candidate.threads,
                "sha256": bundle.artifact(candidate.artifact).files[0].sha256,
            }
            for candidate in report.ranking
        ],
        "candidates": [
            {
                "artifact": candidate.artifact,
                "engine": candidate.engine,
                "threads": candidate.threads,
                "medians_ms": candidate.medians_ms,
                "reason": candidate.reason,
            }
            for candidate in report.candidates
        ],
    }
    kept = [
        machine
        for machine in _machines(path)
        if (machine.get("machine"), machine.get("device")) != (report.machine, kind)
    ]
    document = {
        "format": "isthmus-tuning",
        "format_version": _VERSION,
        "machines": [*kept, entry],
    }
    try:
        write_atomically(path, json.dumps(document, indent=2) + "\n")
    except InvalidInput as error:
        reason = error.__cause__
        raise ExecutionError(f"{path} cannot be written ({reason}); pass --no-write") from error
    return path


def _machines(path: Path) -> list[dict[str, Any]]:
    """Returns the entries of a tuning file; a file that cannot be read has none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        machines = document["machines"] if document["format"] == "isthmus-tuning" else []
        return [machine for machine in machines if isinstance(machine, dict)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
