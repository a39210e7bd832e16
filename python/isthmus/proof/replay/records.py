"""Reads the calls that `LoadOptions::record` wrote; docs/replay.md describes the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "isthmus-record"
SCHEMA_VERSION = 1

_HEAD = "record-"
_MAX_FACTS = 16 << 20
"""The largest size of a recording's JSON file in bytes; isthmus writes less."""


@dataclass(frozen=True)
class RecordedCall:
    """A call of a program."""

    name: str
    """The name of its files, without the extension."""
    method: str
    inputs: Mapping[str, Tensor]
    """The inputs by name, as they were before the engine could write them."""
    outputs: Mapping[str, Tensor]
    """The outputs by name; empty when the call failed."""
    session: int = 0
    """The number of the session whose state the call used; 0: the model's own."""
    error: str = ""
    """The message of the error that the call threw; empty if none."""
    refused: bool = False
    """True when the input did not fit the signature, so that the engine was not called."""
    given: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    """Maps each input to the dtype, shape, strides and device that the program gave."""
    milliseconds: float = 0.0


@dataclass(frozen=True)
class RecordedRun:
    """The calls of one loaded model in one process."""

    name: str
    bundle: str
    """The path of the bundle."""
    model: str
    """The name of the model in its manifest."""
    engine: str
    runtime: str
    artifact: str
    digests: tuple[str, ...]
    """The SHA-256 of each of the artifact's files."""
    device: str
    threads: int
    calls: tuple[RecordedCall, ...]
    """The calls in the order in which they began."""
    unfinished: int = 0
    """The number of calls during which the process ended."""


def read_recording(path: str | Path) -> tuple[RecordedRun, ...]:
    """Reads a folder that calls were recorded to.

    Args:
        path: The folder; it may hold the recordings of several processes.

    Raises:
        InvalidInput: There is no such folder, it holds no recording, or a file is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InvalidInput(
            f"{folder}: expected the folder that calls were recorded to (LoadOptions::record, "
            f"`isthmus-run predict --record`), got {'a file' if folder.exists() else 'nothing'}"
        )
    heads = sorted(folder.glob(f"{_HEAD}*.json"))
    if not heads:
        raise InvalidInput(
            f"{folder}: expected a recording, got a folder without {_HEAD}*.json; give the folder "
            "that was named as LoadOptions::record or `isthmus-run predict --record`"
        )
    return tuple(_read_run(folder, head) for head in heads)


def _read_run(folder: Path, head: Path) -> RecordedRun:
    facts = _facts(head)
    if facts.get("schema") != SCHEMA or facts.get("schema_version") != SCHEMA_VERSION:
        raise InvalidInput(
            f"{head}: expected {SCHEMA} version {SCHEMA_VERSION}, got {facts.get('schema')} "
            f"version {facts.get('schema_version')}; replay it with the isthmus that wrote it"
        )
    stem = head.stem.removeprefix(_HEAD)
    names, tensors = (
        {path.stem for path in folder.glob(f"{stem}-*.{kind}") if _is_call(path.stem, stem)}
        for kind in ("json", "safetensors")
    )
    return RecordedRun(
        name=stem,
        bundle=str(facts["bundle"]),
        model=str(facts["name"]),
        engine=str(facts["engine"]),
        runtime=str(facts["runtime"]),
        artifact=str(facts["artifact"]),
        digests=tuple(facts["sha256"]),
        device=str(facts["device"]),
        threads=int(facts["threads"]),
        calls=tuple(_read_call(folder, name) for name in sorted(names)),
        unfinished=len(tensors - names),
    )


def _is_call(name: str, stem: str) -> bool:
    """Returns True if a file is of this recording, not of one like TIME-PID-2 beside TIME-PID."""
    number = name.removeprefix(f"{stem}-")
    return len(number) >= 6 and number.isdecimal()


def _read_call(folder: Path, name: str) -> RecordedCall:
    import safetensors.torch

    facts = _facts(folder / f"{name}.json")
    file = folder / f"{name}.safetensors"
    try:
        tensors = safetensors.torch.load_file(file)
    except Exception as error:  # the reader of a damaged file raises many types
        raise InvalidInput(f"{file}: cannot be read: {error}; record again") from error
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for key, value in tensors.items():
        step, _, rest = key.partition("/")
        side, _, value_name = rest.partition("/")
        if step != "0" or side not in ("in", "out"):
            raise InvalidInput(
                f'{file}: unexpected tensor "{key}"; expected 0/in/NAME or 0/out/NAME'
            )
        (inputs if side == "in" else outputs)[value_name] = value
    return RecordedCall(
        name=name,
        method=str(facts["method"]),
        inputs=inputs,
        outputs=outputs,
        session=int(facts["session"]),
        error=facts["error"] or "",
        refused=bool(facts["refused"]),
        given=facts["inputs"],
        milliseconds=float(facts["milliseconds"]),
    )


def _facts(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_FACTS:
            raise InvalidInput(f"{path}: larger than any that isthmus writes")
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}; record again") from error
    if not isinstance(facts, dict):
        raise InvalidInput(f"{path}: expected a JSON object, got {type(facts).__name__}")
    return _Facts(facts, path)


class _Facts(dict[str, Any]):
    """A dict that names the file when a key is missing."""

    def __init__(self, facts: Mapping[str, Any], path: Path) -> None:
        super().__init__(facts)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise InvalidInput(
            f'{self._path}: "{key}" is missing; isthmus did not write it: record again'
        )
