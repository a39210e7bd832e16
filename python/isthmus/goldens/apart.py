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
from collections.abc import Callable, Hashable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["limit_memory", "run_apart", "start_forked"]

T = TypeVar("T")

_SPARE_BYTES = 4 << 30
"""The memory that a task may allocate on top of what the process has."""


def run_apart(
    tasks: Sequence[tuple[Hashable, Callable[[], T]]], *, seconds: float, total: float
) -> Iterator[T | None]:
    """Yields the result of each task in order, and None for a task that has none.

    A task has none when it raises, ends its process, takes too long or allocates too much. The
    tasks run one after the other in a forked process; after one that ended it or took too long,
    another process goes on, without the tasks of the same group. Nothing that they change is seen
    here. Where a process cannot fork, such as one that used CUDA, no task has a result.

    Args:
        tasks: The tasks, each with its group; their results have to be picklable.
        seconds: The time that one task may take.
        total: The time that all of them may take; the tasks that are left over have no result.
    """
    import torch

    cuda: Any = torch.cuda
    end = time.monotonic() + total
    results: dict[int, T | None] = {}
    left = list(range(len(tasks))) if hasattr(os, "fork") and not cuda.is_initialized() else []
    while left and time.monotonic() < end:
        done = dict(zip(left, _results([tasks[at][1] for at in left], seconds, end), strict=False))
        results |= done
        left = left[len(done) :]
        if left:  # the process did not survive the first of these
            group = tasks[left[0]][0]
            left = [at for at in left[1:] if tasks[at][0] != group]
    for at in range(len(tasks)):
        yield results.get(at)


def _results(tasks: Sequence[Callable[[], Any]], seconds: float, end: float) -> Iterator[Any]:
    """Yields the results of one process, up to the first task that it does not survive."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(tasks, theirs), daemon=True)
    start_forked(process)
    theirs.close()
    try:
        for _ in tasks:
            if not ours.poll(min(seconds, max(0.0, end - time.monotonic()))):
                return
            try:
                answer = ours.recv_bytes()
            except (EOFError, OSError):
                return
            yield pickle.loads(answer)
    finally:
        process.kill()
        process.join()
        ours.close()


def start_forked(process: BaseProcess) -> None:
    """Starts a process that forks this one, which may have threads."""
    with warnings.catch_warnings():
        # The threads of runtimes do not exist in the child, which has to start its own.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # The child must not collect this process's garbage: objects that own threads would wait for
        # threads that the child does not have.
        gc.freeze()
        try:
            process.start()
        finally:
            gc.unfreeze()


def _child(tasks: Sequence[Callable[[], Any]], pipe: Connection[Any, Any]) -> None:
    import torch

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # The parent's thread pool does not exist here; waiting for it would never end.
    torch.set_num_threads(1)
    limit_memory()
    for task in tasks:
        try:
            answer = pickle.dumps(task())
        except Exception:  # eager refuses these values, so that there is nothing to compare with
            answer = pickle.dumps(None)
        pipe.send_bytes(answer)
    pipe.close()
    # The parent's exit handlers must not run here.
    os._exit(0)


def limit_memory() -> None:
    """Limits what this process may allocate on top of what it has."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + _SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
