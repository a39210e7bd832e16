"""Runs work in a forked process, which has the caller's objects without pickling them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar, cast

from isthmus.errors import ExportError
from isthmus.goldens.apart import start_forked
from isthmus.runtime.workers import explain_exit

__all__ = ["can_isolate", "isolated"]

T = TypeVar("T")

STUCK_SECONDS = 120.0
"""A process that uses no processor for so long waits for a lock that is never released."""
_POLL_SECONDS = 0.5
_ATTEMPTS = 2


class _Stuck(Exception):
    """The forked process hangs."""


def can_isolate() -> bool:
    """Returns True when the work can run in a forked process; one that used CUDA cannot fork."""
    import torch

    cuda: Any = torch.cuda
    return hasattr(os, "fork") and not cuda.is_initialized()


def isolated(
    work: Callable[[Callable[[str], None]], T],
    *,
    seconds: float,
    progress: Callable[[str], None],
) -> T:
    """Runs `work(progress)` in a forked process, and ends the processes that it started.

    A fork needs no pickling on the way in, for a module cannot be pickled in general; the result
    has to be pickled.

    Args:
        work: Takes a function, and calls it with a sentence at each stage.
        seconds: The time that the work may take.
        progress: Receives the sentences in this process.

    Raises:
        ExportError: The process died or took too long; says how, with the end of its output.
        Exception: The error that `work` raised.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _attempt(work, seconds, progress)
        except _Stuck:
            # Another thread of this process held a lock at the time of the fork, and its copy in
            # the child is never released. It is likely to be free at the next attempt.
            if attempt < _ATTEMPTS:
                progress("the exporter's process hangs; starting it again")
    raise ExportError(
        f"the exporter's process used no processor for {STUCK_SECONDS:g} s, {_ATTEMPTS} times: a "
        "thread of this process holds a lock that the forked one waits for; export from a process "
        "that runs nothing else"
    )


def _attempt(
    work: Callable[[Callable[[str], None]], T], seconds: float, progress: Callable[[str], None]
) -> T:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = context.Process(target=_child, args=(work, theirs, output.fileno()))
        start_forked(process)
        theirs.close()
        assert process.pid is not None
        try:
            answer = _listen(process, ours, seconds, progress)
        finally:
            _end(process.pid)
            process.kill()
            process.join()
            ours.close()
        if answer is None:
            output.seek(0)
            raise ExportError(
                "the exporter's process died: " + explain_exit(process.exitcode or 0, output.read())
            )
    if isinstance(answer, BaseException):
        raise answer
    return cast(T, answer)


def _listen(
    child: BaseProcess,
    pipe: Connection[Any, Any],
    seconds: float,
    progress: Callable[[str], None],
) -> Any:
    """Returns what the child sends at the end; None when it ended without an answer."""
    end = time.monotonic() + seconds
    idle = _Idle(child.pid or 0)
    while True:
        # The child's own children may keep the pipe open after its end: check the child too.
        alive = child.is_alive()
        if not pipe.poll(min(_POLL_SECONDS, max(0.0, end - time.monotonic()))):
            if not alive:
                return None
            if idle.too_long():
                raise _Stuck
            if time.monotonic() < end:
                continue
            return ExportError(
                f"it took more than {seconds:g} s and was stopped; allow more with time_limit= "
                "(--time-limit)"
            )
        try:
            kind, payload = pipe.recv()
        except EOFError:
            return None
        idle.reset()
        if kind == "say":
            progress(payload)
        else:
            return pickle.loads(payload)


class _Idle:
    """Counts the polls in which a session of processes used no processor.

    It counts polls and not time, so that a machine that was suspended does not look like a hang.
    """

    def __init__(self, session: int) -> None:
        self._session = session
        self._used = -1
        self._polls = 0

    def reset(self) -> None:
        """Starts counting again, because the child sent something."""
        self._polls = 0

    def too_long(self) -> bool:
        """Counts a poll; returns True when too many were without work."""
        used = _ticks(self._session)
        self._polls = self._polls + 1 if used == self._used else 0
        self._used = used
        return used >= 0 and self._polls * _POLL_SECONDS >= STUCK_SECONDS


def _ticks(session: int) -> int:
    """Returns the processor time of a session in clock ticks; -1 where it is unknown."""
    total = -1
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; then: state, parent, group, session, ...
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # the process ended meanwhile
            continue
        if int(fields[3]) == session:
            total = max(total, 0) + sum(int(field) for field in fields[11:15])
    return total


def _end(group: int) -> None:
    """Ends the child and the processes that it started: compilers, worker pools."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _child(
    work: Callable[[Callable[[str], None]], Any], pipe: Connection[Any, Any], output: int
) -> None:
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    import torch

    # The parent's thread pool does not exist here; waiting for it would never end.
    torch.set_num_threads(1)
    try:
        answer: Any = work(lambda line: pipe.send(("say", line)))
    except BaseException as error:  # the parent raises it
        answer = error
    pipe.send(("done", _pickled(answer)))
    pipe.close()
    # The parent's exit handlers must not run here.
    os._exit(0)


def _pickled(answer: Any) -> bytes:
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)
    except Exception:  # an error whose arguments cannot be pickled
        lines = traceback.format_exception_only(type(answer), answer)
        return pickle.dumps(ExportError("".join(lines).strip()))
    return data
