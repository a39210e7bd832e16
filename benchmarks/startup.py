"""Process start to first answer, and peak memory: isthmus-run on each engine against Python.

MiniLM, 1 x 14 tokens. The processes take turns in random order; files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from shared import (
    Result,
    accepted_inputs,
    interval_text,
    medians,
    minilm_bundle,
    minilm_weights,
    ratio,
    run,
    sentence_inputs,
    turns,
)

from isthmus.runtime import install_paths
from isthmus.runtime.workers import available_cores, worker_environment

TRANSFORMERS = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1]).eval()
with torch.inference_mode():
    out = model(**load_file(sys.argv[2]))
save_file({"last_hidden_state": out.last_hidden_state.contiguous()}, sys.argv[3])
"""

TORCH_JIT = """
import sys, torch
from safetensors.torch import load_file, save_file
model = torch.jit.load(sys.argv[1])
with torch.inference_mode():
    inputs = load_file(sys.argv[2])
    out = model(*(inputs[name] for name in sys.argv[4:]))
save_file({"last_hidden_state": out[0].contiguous()}, sys.argv[3])
"""

LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(json.dumps([time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6, status]))
"""
"""A small process starts each contender: a process inherits its parent's peak resident memory, and
this process has loaded PyTorch."""

CLAIMS = {"torchscript": 15.0, "onnxruntime": 35.0}
"""The speed over Python with transformers that is claimed for each engine."""
CLAIM_MB = {"onnxruntime": 100.0}
ENGINES = ("torchscript", "onnxruntime", "openvino")


def launch(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Returns (seconds, peak resident memory in MB) of a process."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LAUNCHER, *command],
        check=True, env=environment, stdout=subprocess.PIPE,
    )  # fmt: skip
    seconds, megabytes, status = json.loads(done.stdout)
    if status != 0:
        raise subprocess.CalledProcessError(status, command)
    return seconds, megabytes


def native_row(engine: str) -> str:
    """Returns the name of isthmus-run's row."""
    return f"isthmus-run, {engine}"


def measure(options: argparse.Namespace) -> Result:
    """Runs every contender once a round."""
    from safetensors.torch import load_file, save_file

    bundle = minilm_bundle(options.folder)
    threads = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "inputs.safetensors", Path(folder) / "out.safetensors"
        inputs = accepted_inputs(bundle, sentence_inputs())
        save_file(inputs, source)
        artifact = next(
            artifact for artifact in bundle.manifest.artifacts if artifact.format == "torchscript"
        )
        archive = bundle.path / artifact.files[0].path
        commands = {
            **{
                native_row(engine): [
                    str(install_paths.binary()), "predict", str(bundle.path), "--engine", engine,
                    "--inputs", str(source), "-o", str(target), "--threads", str(threads),
                ]
                for engine in ENGINES
            },
            "Python with torch.jit": [
                sys.executable, "-W", "ignore", "-c", TORCH_JIT,
                str(archive), str(source), str(target), *inputs,
            ],
            "Python with transformers": [
                sys.executable, "-W", "ignore", "-c", TRANSFORMERS,
                str(minilm_weights()), str(source), str(target),
            ],
        }  # fmt: skip
        if artifact.convention != "flat":
            del commands["Python with torch.jit"]
        environment = worker_environment(threads)
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        megabytes: dict[str, list[float]] = {name: [] for name in commands}
        answers = {}
        for turn, name in turns(commands, options.rounds + 1):
            duration, peak = launch(commands[name], environment)
            if turn > 0:  # the first round fills the page cache
                seconds[name].append(duration)
                megabytes[name].append(peak)
            answers[name] = load_file(target)["last_hidden_state"]
    furthest = max(
        float((answer - answers["Python with transformers"]).abs().max())
        for answer in answers.values()
    )
    if furthest > 1e-4:
        sys.exit(f"the answers differ by {furthest:.3g}: this would compare different work")
    python = seconds["Python with transformers"]
    ratios = {name: ratio(python, samples) for name, samples in seconds.items()}
    reached = {engine: ratios[native_row(engine)].ratio for engine in CLAIMS}
    peaks = {engine: max(megabytes[native_row(engine)]) for engine in CLAIM_MB}
    claims = [
        f"{engine} {reached[engine]:.1f} times as fast as Python with transformers"
        f" (wanted {wanted:g})"
        for engine, wanted in CLAIMS.items()
    ]
    claims += [
        f"at most {peaks[engine]:.0f} MB on {engine} (wanted {wanted:g})"
        for engine, wanted in CLAIM_MB.items()
    ]
    return Result(
        name="startup",
        columns=(
            "from process start to answer", "median s", "min s", "peak MB", "times as fast",
        ),
        rows=tuple(
            {
                "from process start to answer": name,
                **medians({"median s": samples}),
                "min s": min(samples),
                "peak MB": statistics.median(megabytes[name]),
                "times as fast": interval_text(ratios[name]),
            }
            for name, samples in seconds.items()
        ),
        claim=", ".join(claims),
        passed=all(reached[engine] >= wanted for engine, wanted in CLAIMS.items())
        and all(peaks[engine] <= wanted for engine, wanted in CLAIM_MB.items()),
        facts={
            "model": "all-MiniLM-L6-v2, 1 x 14 tokens",
            "threads": str(threads),
            "times as fast": "as Python with transformers",
        },
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
