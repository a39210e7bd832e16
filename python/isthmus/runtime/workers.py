"""Starts, watches and ends worker processes, and explains how they ended.

Each row of verify and bench is a process: two runtimes with live thread pools slow each other down
several times over, and a crash of one must not take the report with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from isthmus.errors import ExecutionError


def available_cores() -> int:
    """Returns the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_environment(threads: int = 0) -> dict[str, str]:
    """Returns the environment of every worker, the same for Python and C++."""
    environment = dict(os.environ)
    # The same imports as here, and nothing from the current folder.
    environment["PYTHONPATH"] = os.pathsep.join(
        str(Path(entry or ".").resolve()) for entry in sys.path
    )
    environment["PYTHONSAFEPATH"] = "1"
    if threads > 0:
        environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(threads)
    return environment


def python_worker(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module of this package in another process."""
    return [sys.executable, "-m", module, *arguments]


def explain_exit(code: int, stderr: str) -> str:
    """Returns how a process ended, with its last lines: "killed by SIGSEGV: ..."."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        what = f"killed by {name}"
    else:
        what = f"exit code {code}"
    tail = [line for line in stderr.strip().splitlines() if line.strip()][-3:]
    return f"{what}: {' / '.join(tail)}" if tail else what


def run_command(
    command: Sequence[str], *, threads: int = 0, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end and captures its output.

    Raises:
        ExecutionError: It cannot be started, or took longer than `timeout` seconds.
    """
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=worker_environment(threads),
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExecutionError(
            f"{Path(command[0]).name} took more than {timeout:g} s and was stopped; allow more with"
            " timeout="
        ) from error
    except OSError as error:
        raise ExecutionError(
            f"{command[0]} cannot be started ({error}); install isthmus again"
        ) from error


def ask_worker(
    module: str, request: Mapping[str, Any], *, threads: int = 0, timeout: float = 600
) -> dict[str, Any]:
    """Hands a request to a worker module and returns its answer, a JSON object.

    The module calls `isthmus.runtime.worker_main.run_worker`.

    Raises:
        ExecutionError: The worker failed, died, took too long, or gave no answer; says how.
    """
    with tempfile.TemporaryDirectory(prefix="isthmus-") as folder:
        answer = Path(folder, "answer.json")
        question = Path(folder, "request.json")
        question.write_text(json.dumps({**request, "answer": str(answer)}), encoding="utf-8")
        done = run_command(python_worker(module, str(question)), threads=threads, timeout=timeout)
        if done.returncode != 0 or not answer.exists():
            raise ExecutionError(explain_exit(done.returncode, done.stderr))
        result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in result:
        raise ExecutionError(str(result["error"]))
    return result


class LineWorker:
    """A living process that takes lines and answers with lines of JSON."""

    def __init__(self, command: Sequence[str], *, threads: int = 0) -> None:
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                bufsize=1,
                env=worker_environment(threads),
            )
        except OSError as error:
            self._stderr.close()
            raise ExecutionError(
                f"{command[0]} cannot be started ({error}); install isthmus again"
            ) from error
        self._lines: queue.Queue[str | None] = queue.Queue()
        # A thread reads, so that waiting for the next line can have a timeout.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, line: str) -> None:
        """Writes one line; a dead worker shows at the next `receive`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def receive(self, timeout: float) -> dict[str, Any]:
        """Returns the next JSON line; other lines, such as a library's logs, are skipped.

        Raises:
            ExecutionError: The worker ended, reported an error, or was silent for `timeout` s.
        """
        while True:
            try:
                line = self._lines.get(timeout=timeout)
            except queue.Empty:
                self.close()
                raise ExecutionError(f"the worker said nothing for {timeout:g} s") from None
            if line is None:
                raise ExecutionError(self._explain_end())
            if not line.lstrip().startswith("{"):
                continue
            message: dict[str, Any] = json.loads(line)
            if message.get("event") == "error":
                raise ExecutionError(str(message.get("message", "the worker failed")))
            return message

    def kill(self) -> None:
        """Ends the process by force."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Ends the process by closing its input, or by force after 5 seconds."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=5)
        if self._process.stdout is not None:
            self._process.stdout.close()
        if not self._stderr.closed:
            self._stderr.close()

    def _read(self) -> None:
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        for line in stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _explain_end(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        return explain_exit(code, self._stderr.read())
