"""What the machine can do at most: `python -m peers.limit THREADS` prints it as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from isthmus.errors import ExecutionError
from isthmus.runtime.workers import explain_exit, python_worker, run_command

from .kinds import Shape

SIZE = 2048
"""Rows and columns of the matrices: large enough to reach the limit, small enough for the cache."""
COPIED = 256 << 20
"""Bytes of the copy: far more than a cache holds."""
FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Limit:
    """Measured, the best of several tries: a limit is what nothing was above."""

    gflops: float
    """float32 matrix product."""
    gbytes: float
    """Memory read and written by a large copy, GB/s."""

    def describe(self) -> str:
        """For the report's head."""
        return (
            f"float32 matrix product {self.gflops:.0f} GFLOP/s (torch.mm, {SIZE} x {SIZE}),"
            f" copy {self.gbytes:.1f} GB/s read and written ({COPIED >> 20} MiB)"
        )


def best_of(limits: Sequence[Limit]) -> Limit:
    """Of several times: a neighbour that was busy makes a limit too low, and nothing too high."""
    return Limit(max(limit.gflops for limit in limits), max(limit.gbytes for limit in limits))


def measure_limit(threads: int) -> Limit:
    """In a process of its own, like every contender.

    Raises:
        ExecutionError: It ended without an answer.
    """
    done = run_command(python_worker("peers.limit", str(threads)), threads=threads)
    if done.returncode != 0:
        raise ExecutionError(explain_exit(done.returncode, done.stderr))
    return Limit(**json.loads(done.stdout.splitlines()[-1]))


def flops(config: Mapping[str, int], shape: Shape) -> float:
    """Floating-point operations of a BERT encoder's matrix products, 2 for each multiply-add.

    layers x tokens x (8 hidden² + 4 hidden x intermediate)   projections and feed-forward
    + layers x batch x 4 sequence² x hidden                   scores, and values by weights
    """
    hidden = config["hidden"]
    tokens = shape.batch * shape.sequence
    dense = tokens * (8 * hidden**2 + 4 * hidden * config["intermediate"])
    attention = shape.batch * 4 * shape.sequence**2 * hidden
    return float(config["layers"] * (dense + attention))


def weight_bytes(config: Mapping[str, int]) -> float:
    """The encoder's matrices in float32: what a call has to read at least."""
    hidden = config["hidden"]
    matrices = 4 * hidden**2 + 2 * hidden * config["intermediate"]
    return float(config["layers"] * matrices * FLOAT)


def _best(call: Callable[[], object], seconds: float) -> float:
    """Shortest duration, seconds."""
    end = time.perf_counter() + seconds
    best = float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> int:
    """Measures, and prints one line."""
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    left, right = torch.randn(2, SIZE, SIZE)
    product = torch.empty(SIZE, SIZE)
    source = torch.ones(COPIED // FLOAT)
    target = torch.empty_like(source)
    multiply = _best(lambda: torch.mm(left, right, out=product), 3)
    copy = _best(lambda: target.copy_(source), 3)
    print(json.dumps({"gflops": 2 * SIZE**3 / multiply / 1e9, "gbytes": 2 * COPIED / copy / 1e9}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
