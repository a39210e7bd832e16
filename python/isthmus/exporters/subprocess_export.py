"""Work in a process of its own, forked so that it has the caller's very objects."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar, cast

from isthmus.errors import ExportError
from isthmus.runtime.workers import explain_exit

__all__ = ["can_isolate", "isolated"]

T = TypeVar("T")

STUCK_SECONDS = 120.0
"""A process that uses no processor for so long waits for a lock that nobody holds any more."""
_POLL_SECONDS = 0.5
_ATTEMPTS = 2


class _Stuck(Exception):
    """The forked process waits for ever."""


def can_isolate() -> bool:
    """Whether a forked process could do the work: one that has used CUDA cannot be forked."""
    import torch

    cuda: Any = torch.cuda
    return hasattr(os, "fork") and not cuda.is_initialized()


def isolated(
    work: Callable[[Callable[[str], None]], T],
    *,
    seconds: float,
    progress: Callable[[str], None],
) -> T:
    """Runs `work(progress)` in a forked process, whose group is ended with it.

    A module cannot be pickled in general, and a fork needs no pickling on the way in; what comes
    back has to be pickled.

    Args:
        work: Takes a function that is called with a sentence at each stage.
        seconds: How long it may take.
        progress: Called here with the sentences.

    Raises:
        ExportError: The process died or took too long; says how, with its last words.
        Exception: What `work` raised, with its cause's text.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _attempt(work, seconds, progress)
        except _Stuck:
            # Another thread of ours held a lock at the moment of the fork, and its copy in the
            # child is held for ever. It is likely to be free at the next moment.
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
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        process = context.Process(target=_child, args=(work, theirs, words.fileno()))
        with warnings.catch_warnings():
            # Threads of runtimes do not live on in the child, which makes its own (see _child).
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            # Garbage of ours is not the child's to collect: what owns threads would wait for them,
            # and the child has none.
            gc.collect()
            gc.freeze()
            try:
                process.start()
            finally:
                gc.unfreeze()
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
            words.seek(0)
            raise ExportError(
                "the exporter's process died: " + explain_exit(process.exitcode or 0, words.read())
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
    """What the child sends at last; None when it is gone without a word."""
    end = time.monotonic() + seconds
    idle = _Idle(child.pid or 0)
    while True:
        # Its own children may keep the pipe open after its death: look at the child itself too.
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

    Polls and not the clock: a machine that was suspended must not look like a hang.
    """

    def __init__(self, session: int) -> None:
        self._session = session
        self._used = -1
        self._polls = 0

    def reset(self) -> None:
        """It said something."""
        self._polls = 0

    def too_long(self) -> bool:
        """One poll more; whether that makes too many without work."""
        used = _ticks(self._session)
        self._polls = self._polls + 1 if used == self._used else 0
        self._used = used
        return used >= 0 and self._polls * _POLL_SECONDS >= STUCK_SECONDS


def _ticks(session: int) -> int:
    """Processor time of all processes of a session, in clock ticks; -1 where it cannot be told."""
    total = -1
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; then: state, parent, group, session, ...
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == session:
            total = max(total, 0) + sum(int(field) for field in fields[11:15])
    return total


def _end(group: int) -> None:
    """The child and whatever it started: compilers, worker pools."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _child(
    work: Callable[[Callable[[str], None]], Any], pipe: Connection[Any, Any], words: int
) -> None:
    os.setsid()
    os.dup2(words, 1)
    os.dup2(words, 2)
    import torch

    # The parent's pool of threads was not forked; waiting for it would be for ever.
    torch.set_num_threads(1)
    try:
        answer: Any = work(lambda line: pipe.send(("say", line)))
    except BaseException as error:  # all of it goes to the parent
        answer = error
    pipe.send(("done", _pickled(answer)))
    pipe.close()
    # Without the parent's exit handlers, which are the parent's to run.
    os._exit(0)


def _pickled(answer: Any) -> bytes:
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)
    except Exception:  # an error with arguments of its own kind
        lines = traceback.format_exception_only(type(answer), answer)
        return pickle.dumps(ExportError("".join(lines).strip()))
    return data
