"""The exceptions of isthmus: the classes of C++, each derived from a builtin exception."""

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
    "cause_of",
    "exit_code",
    "first_line",
]

_INTERPRETER = "The following operation failed in the TorchScript interpreter"


class Error(Exception):
    """The base class. A message says what was wrong, what was expected, and what to do."""


class InvalidInput(Error, ValueError):
    """A value from the caller does not fit the signature or the options."""


class BundleError(Error, ValueError):
    """A file is damaged, of another format, changed, or not allowed."""


class EngineUnavailable(Error, ImportError):
    """No engine on this machine can run the artifact."""


class DeviceUnavailable(Error, RuntimeError):
    """The requested device is absent, or the artifact does not run on it."""


class ExecutionError(Error, RuntimeError):
    """The engine failed in a call whose inputs were valid."""


@dataclass(frozen=True)
class Decision:
    """A strategy that was tried, and the reason why it was accepted or refused."""

    strategy: str
    accepted: bool
    reason: str
    where: str = ""
    """The file:line of the first cause, where there is one."""


class ExportError(Error, RuntimeError):
    """No strategy gave an export that verifies; nothing was written."""

    decisions: tuple[Decision, ...] = ()
    """The strategies that were tried."""
    where: str = ""
    """The file:line of the cause, where the message does not name it."""
    last_of_parts: Decision | None = None
    """The last refusal for a part of the sizes, where the whole ranges had failed before."""


def cause_of(error: BaseException) -> str:
    """Returns an error's message; of an error in TorchScript its last line, which is the cause.

    The lines before that one are the interpreter's traceback.
    """
    text = str(error).strip()
    if not text.startswith(_INTERPRETER):
        return text
    cause = text.splitlines()[-1].strip()
    return cause.removeprefix("builtins.").removeprefix(f"{type(error).__name__}: ") or text


def first_line(error: BaseException) -> str:
    """Returns "ValueError: the first line of its message", for use inside other messages."""
    text = cause_of(error)
    line = text.splitlines()[0] if text else ""
    if type(error).__name__ == "Error":  # of TorchScript, whose line names the error itself
        return line or "Error"
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def exit_code(error: Error) -> int:
    """Returns the exit code of the commands: 2 input, 3 bundle, 4 engine or device, 5 any other."""
    if isinstance(error, InvalidInput):
        return 2
    if isinstance(error, BundleError):
        return 3
    if isinstance(error, (EngineUnavailable, DeviceUnavailable)):
        return 4
    return 5
