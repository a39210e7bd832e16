"""Process start to first answer: isthmus-run against Python that loads the model by transformers.

MiniLM, batch 1 x 14 tokens; the processes take turns, in random order; files are in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shared import (
    Result,
    fitting,
    interval_text,
    minilm_bundle,
    minilm_weights,
    run,
    sentence_inputs,
    turns,
)

from isthmus import native
from isthmus.processes import available_cores, worker_environment
from isthmus.statistics import ratio_over_rounds

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

CLAIM = 8.0


def measure(options: argparse.Namespace) -> Result:
    """Runs every contender once a round."""
    from safetensors.torch import load_file, save_file

    bundle = minilm_bundle(options.folder)
    threads = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "inputs.safetensors", Path(folder) / "out.safetensors"
        save_file(fitting(bundle, sentence_inputs()), source)
        artifact = bundle.manifest.artifacts[0]
        archive = bundle.path / artifact.files[0].path
        commands = {
            "isthmus-run predict": [
                str(native.binary()), "predict", str(bundle.path),
                "--inputs", str(source), "-o", str(target), "--threads", str(threads),
            ],
            "Python with torch.jit": [
                sys.executable, "-W", "ignore", "-c", TORCH_JIT,
                str(archive), str(source), str(target), *fitting(bundle, sentence_inputs()),
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
        answers = {}
        for turn, name in turns(commands, options.rounds + 1):
            start = time.perf_counter()
            subprocess.run(
                commands[name],
                check=True,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # progress bars
            )
            if turn > 0:  # the first round fills the page cache
                seconds[name].append(time.perf_counter() - start)
            answers[name] = load_file(target)["last_hidden_state"]
    furthest = max(
        float((answer - answers["Python with transformers"]).abs().max())
        for answer in answers.values()
    )
    if furthest > 1e-4:
        sys.exit(f"the answers differ by {furthest:.3g}: this would compare different work")
    ours = seconds["isthmus-run predict"]
    ratios = {
        name: ratio_over_rounds(other, ours, confidence=0.95) for name, other in seconds.items()
    }
    reached = ratios["Python with transformers"].ratio
    return Result(
        name="startup",
        columns=("from process start to answer", "median s", "min s", "times isthmus-run"),
        rows=tuple(
            {
                "from process start to answer": name,
                "median s": statistics.median(samples),
                "min s": min(samples),
                "times isthmus-run": interval_text(ratios[name]),
                "samples_s": samples,
            }
            for name, samples in seconds.items()
        ),
        claim=f"{reached:.1f} times as fast as Python with transformers, wanted {CLAIM:g}",
        passed=reached >= CLAIM,
        facts={"model": "all-MiniLM-L6-v2, 1 x 14 tokens", "threads": str(threads)},
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
