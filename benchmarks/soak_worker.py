"""The worker of soak.py: calls random shapes and reads resident memory along the way.

soak_worker.py BUNDLE ENGINE [--calls N ...] prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import isthmus

MARKS = 40
"""The number of times that memory is read."""


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS: resident memory cannot be read here")


def growth(readings: Sequence[int]) -> tuple[float, float, float]:
    """Returns the median resident bytes of the second and of the last quarter, and the growth."""
    after = readings[1:]
    quarter = len(after) // 4
    early = statistics.median(after[quarter : 2 * quarter])
    late = statistics.median(after[-quarter:])
    return early, late, late - early


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Calls from new threads between two readings, so that threads come and go as well."""
    model = isthmus.load(options.bundle, engine=options.engine, trust="native", threads=1)
    names = [spec.name for spec in model.signature().inputs]
    kept: list[Any] = []
    errors: list[Exception] = []

    def call(random: np.random.Generator) -> None:
        batch = int(random.integers(1, options.batch + 1))
        sequence = options.step * int(random.integers(1, options.sequence // options.step + 1))
        ids = random.integers(1, 40, (batch, sequence))
        values = {name: np.ones_like(ids) for name in names} | {"input_ids": ids}
        answer = model(**values)
        if options.leak:
            kept.append(answer)

    def work(seed: int, calls: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for _ in range(calls):
                call(random)
        except Exception as error:  # an error of a thread would be lost
            errors.append(error)

    readings = [resident_bytes()]
    each = -(-options.calls // (MARKS * options.callers))
    for mark in range(MARKS):
        threads = [
            threading.Thread(target=work, args=(mark * options.callers + i, each))
            for i in range(options.callers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        readings.append(resident_bytes())
    return {"calls": each * MARKS * options.callers, "resident_bytes": readings}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("engine")
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--callers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="largest batch")
    parser.add_argument("--sequence", type=int, default=64, help="longest sequence")
    parser.add_argument("--step", type=int, default=1, help="sequences are multiples of it")
    parser.add_argument("--leak", action="store_true", help="keeps every answer: is it noticed?")
    return parser.parse_args()


if __name__ == "__main__":
    print(json.dumps(soak(parse())))
    sys.exit(0)
