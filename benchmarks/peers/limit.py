"""Measures the machine's limits: `python -m peers.limit THREADS` prints them as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared import output_of

from isthmus.runtime.workers import python_worker

from .kinds import Shape

SIZE = 2048
"""The rows and columns of the matrices: they reach the limit and fit into the cache."""
COPIED = 256 << 20
"""The bytes of the copy, far more than a cache holds."""
FLOAT = 4
"""The bytes of a float32."""


@dataclass(frozen=True)
class Limit:
    """The best of several measurements."""

    gflops: float
    """The rate of a float32 matrix product, GFLOP/s."""
    gbytes: float
    """The memory that a large copy reads and writes, GB/s."""

    def describe(self) -> str:
        """Returns the limits in words."""
        return (
            f"float32 matrix product {self.gflops:.0f} GFLOP/s (torch.mm, {SIZE} x {SIZE}),"
            f" copy {self.gbytes:.1f} GB/s read and written ({COPIED >> 20} MiB)"
        )


def best_of(limits: Sequence[Limit]) -> Limit:
    """Returns the highest rates: a busy neighbour makes a limit too low, and nothing too high."""
    return Limit(max(limit.gflops for limit in limits), max(limit.gbytes for limit in limits))


def measure_limit(threads: int) -> Limit:
    """Measures in a process of its own, like every contender.

    Raises:
        ExecutionError: The process failed.
    """
    output = output_of(python_worker("peers.limit", str(threads)), threads)
    return Limit(**json.loads(output.splitlines()[-1]))


def flops(config: Mapping[str, int], shape: Shape) -> float:
    """Returns the operations of a BERT encoder's matrix products, 2 for each multiply-add.

    layers x tokens x (8 hidden² + 4 hidden x intermediate)   projections and feed-forward
    + layers x batch x 4 sequence² x hidden                   scores, and values by weights
    """
    hidden = config["hidden"]
    tokens = shape.batch * shape.sequence
    dense = tokens * (8 * hidden**2 + 4 * hidden * config["intermediate"])
    attention = shape.batch * 4 * shape.sequence**2 * hidden
    return float(config["layers"] * (dense + attention))


def weight_bytes(config: Mapping[str, int]) -> float:
    """Returns the bytes of the encoder's float32 matrices, the least that a call reads."""
    hidden = config["hidden"]
    matrices = 4 * hidden**2 + 2 * hidden * config["intermediate"]
    return float(config["layers"] * matrices * FLOAT)


def _best(call: Callable[[], object], seconds: float) -> float:
    """Returns the shortest duration in seconds."""
    end = time.perf_counter() + seconds
    best = float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> int:
    """Measures and prints a line of JSON."""
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
