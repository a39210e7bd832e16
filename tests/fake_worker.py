"""A fake bench worker that answers with made-up durations, or misbehaves."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time


def say(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--median-ms", type=float, default=5.0)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fail", default="", help="how to misbehave")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    if options.fail == "error at start":
        say("error", message="EngineUnavailable: no LibTorch here")
        return 1
    if options.fail == "dies at start":
        print("undefined symbol: frobnicate", file=sys.stderr)
        return 127
    if options.fail == "silent":
        time.sleep(30)
    print("a library's chatter on stdout")
    say(
        "ready",
        load_ms=120.0,
        warmup_ms=30.0,
        first_call_ms=50.0,
        threads=2,
        runtime="fake 1.0",
        warnings=["the governor saves power"],
    )
    for turns, line in enumerate(sys.stdin, start=1):
        if line.strip() == "quit":
            break
        count = int(line.split()[1])
        if options.fail == "dies later" and turns > 6:
            return 9
        # All workers share this drift, as when the clock is lowered for a while.
        drift = 1.3 if turns % 7 == 0 else 1.0
        samples = [
            options.median_ms * drift * (1 + rng.gauss(0, options.noise)) for _ in range(count)
        ]
        if options.fail != "no cold start":
            samples[0] *= 50
        say("samples", samples_ms=[max(sample, 1e-6) for sample in samples])
    say("done", peak_rss_bytes=300_000_000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
