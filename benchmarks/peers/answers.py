"""Whether a contender gives the model's answers: asked before anything is timed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from isthmus.bundle.bundle import Bundle
from isthmus.bundle.manifest import Tolerance
from isthmus.errors import Error
from isthmus.goldens.compare import compare
from isthmus.runtime.workers import explain_exit, run_command

from .kinds import INT8_COSINE, OUTPUT, Request
from .processes import Runner, native_command


def check_call(runner: Runner, request: Request, expected: np.ndarray, bundle: Bundle) -> None:
    """The answer to a call; a wrong one ends the runner."""
    file = Path(request.inputs).with_name("answer")
    if runner.contender.language == "C++":
        answer = _predicted(runner, request, file.with_suffix(".safetensors"))
    else:
        runner.ask(f"answer {file.with_suffix('.npy')}")
        answer = np.load(file.with_suffix(".npy")) if runner.worker is not None else None
    if answer is not None:
        judge(runner, {"": expected}, {"": answer}, bundle)


def check_stream(
    runner: Runner, file: Path, expected: Mapping[str, np.ndarray], bundle: Bundle
) -> None:
    """The answers to the sentences of the sample; one that is wrong ends the runner."""
    told: dict[str, Any] = runner.ask(f"answer {file}")
    if runner.worker is None:
        return
    runner.elements = int(told["elements"])
    answers = load_file(file) if file.suffix == ".safetensors" else dict(np.load(file))
    hidden = {name: answer.reshape(answer.shape[-2:]) for name, answer in answers.items()}
    judge(runner, expected, hidden, bundle)


def judge(
    runner: Runner,
    expected: Mapping[str, np.ndarray],
    answers: Mapping[str, np.ndarray],
    bundle: Bundle,
) -> None:
    """float32 by the absolute tolerance of the bundle's goldens, less than that by the cosine.

    The bundle's own rule, by six statistics, is sharper: whether an export is faithful. Here it is
    whether two contenders did the same work.
    """
    tolerance = bundle.manifest.artifacts[0].tolerances[OUTPUT]
    plain = Tolerance(tolerance.atol, 0.0)
    if expected.keys() != answers.keys():
        runner.fail(f"wrong: {len(answers)} answers, expected {len(expected)}")
        return
    found = [
        compare(OUTPUT, torch.from_numpy(one), torch.from_numpy(answers[name].copy()), plain)
        for name, one in expected.items()
    ]
    cosine = min(one.cosine for one in found)
    worst = max(found, key=lambda one: (one.strain, one.max_abs))
    if runner.contender.precision == "int8":
        runner.accuracy = f"cosine {cosine:.4f}"
        right = cosine >= INT8_COSINE
    else:
        runner.accuracy = f"{worst.strain:.2f}"
        right = all(found)
    if not right:
        wanted = f"cosine {INT8_COSINE}" if runner.contender.precision == "int8" else plain.atol
        runner.fail(
            f"wrong: largest difference from eager {worst.max_abs:.3g}, cosine {cosine:.5f};"
            f" expected {wanted}. {worst.reason}"
        )


def _predicted(runner: Runner, request: Request, file: Path) -> np.ndarray | None:
    """What `isthmus-run predict` answers with the same options."""
    try:
        done = run_command(
            [*native_command("predict", request), "--output", str(file)], threads=request.threads
        )
    except Error as error:
        runner.fail(str(error))
        return None
    if done.returncode != 0:
        runner.fail(explain_exit(done.returncode, done.stderr))
        return None
    answer: np.ndarray = load_file(file)[OUTPUT]
    return answer
