"""What isthmus raises: the same classes as in C++, deriving from what a Python user expects."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BundleError",
    "Decision",
    "DeviceUnavailable",
    "EngineUnavailable",
    "Error",
    "ExecutionError",
    "ExportError",
    "InvalidInput",
    "exit_code",
    "first_line",
]


class Error(Exception):
    """Base of all. The message says what was wrong, what was expected, what came, what to do."""


class InvalidInput(Error, ValueError):
    """The caller's values do not fit the signature or the options."""


class BundleError(Error, ValueError):
    """Files are damaged, foreign, tampered with, or not allowed."""


class EngineUnavailable(Error, ImportError):
    """No engine on this machine can run the artifact."""


class DeviceUnavailable(Error, RuntimeError):
    """The requested device is absent, or the artifact is not valid on it."""


class ExecutionError(Error, RuntimeError):
    """The engine failed while it ran a checked call."""


@dataclass(frozen=True)
class Decision:
    """One strategy that was tried, and why it was kept or refused."""

    strategy: str
    accepted: bool
    reason: str
    where: str = ""
    """file:line of the first cause, where there is one."""


class ExportError(Error, RuntimeError):
    """No strategy made an export that verifies; nothing was written."""

    decisions: tuple[Decision, ...] = ()
    """What was tried, and why each was refused."""
    where: str = ""
    """file:line of the cause, where the message does not hold it."""


def first_line(error: BaseException) -> str:
    """Returns "ValueError: the first line of its message", for use inside other messages."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def exit_code(error: Error) -> int:
    """Exit code of the command line: 2 input, 3 bundle, 4 engine or device, 5 all others."""
    if isinstance(error, InvalidInput):
        return 2
    if isinstance(error, BundleError):
        return 3
    if isinstance(error, (EngineUnavailable, DeviceUnavailable)):
        return 4
    return 5
