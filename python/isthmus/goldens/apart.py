"""Calls the eager module in a forked process: some inputs make it hang or run out of memory."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, cast

__all__ = ["run_apart"]

T = TypeVar("T")

_SPARE_BYTES = 4 << 30
"""The memory that a task may allocate on top of what the process has."""


def run_apart(
    tasks: Sequence[Callable[[], T]], *, seconds: float, total: float
) -> Iterator[T | None]:
    """Yields the result of each task in order, and None for a task that has none.

    A task has none when it raises, ends its process, takes too long or allocates too much. The
    tasks run one after the other in a forked process; after one that ended it, another process
    goes on with the next. Nothing that they change is seen here. Where a process cannot fork, such
    as one that used CUDA, no task has a result.

    Args:
        tasks: The tasks; their results have to be picklable.
        seconds: The time that one task may take.
        total: The time that all of them may take; the tasks that are left over have no result.
    """
    import torch

    cuda: Any = torch.cuda
    end = time.monotonic() + total
    at = 0
    if hasattr(os, "fork") and not cuda.is_initialized():
        while at < len(tasks) and time.monotonic() < end:
            for result in _results(tasks[at:], seconds, end):
                at += 1
                yield cast("T | None", result)
    for _ in tasks[at:]:
        yield None


def _results(tasks: Sequence[Callable[[], Any]], seconds: float, end: float) -> Iterator[Any]:
    """Yields results of one process, up to None for the first task that it did not survive."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(tasks, theirs), daemon=True)
    with warnings.catch_warnings():
        # The threads of runtimes do not exist in the child, which starts its own (see _child).
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # The child must not collect this process's garbage, which may own threads.
        gc.collect()
        gc.freeze()
        try:
            process.start()
        finally:
            gc.unfreeze()
    theirs.close()
    try:
        for _ in tasks:
            answer: bytes | None = None
            with contextlib.suppress(EOFError, OSError):
                if ours.poll(min(seconds, max(0.0, end - time.monotonic()))):
                    answer = ours.recv_bytes()
            yield None if answer is None else pickle.loads(answer)
            if answer is None:
                return
    finally:
        process.kill()
        process.join()
        ours.close()


def _child(tasks: Sequence[Callable[[], Any]], pipe: Connection[Any, Any]) -> None:
    import torch

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # The parent's thread pool does not exist here; waiting for it would never end.
    torch.set_num_threads(1)
    _limit_memory()
    for task in tasks:
        try:
            answer = pickle.dumps(task())
        except Exception:  # eager refuses these values, so that there is nothing to compare with
            answer = pickle.dumps(None)
        pipe.send_bytes(answer)
    pipe.close()
    # The parent's exit handlers must not run here.
    os._exit(0)


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + _SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
