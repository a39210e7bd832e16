"""Checks a contender's answers before anything is timed."""

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
    """Compares the answer to a call; a wrong one ends the runner."""
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
    """Compares the answers to the sampled sentences; a wrong one ends the runner."""
    reply: dict[str, Any] = runner.ask(f"answer {file}")
    if runner.worker is None:
        return
    runner.elements = int(reply["elements"])
    answers = load_file(file) if file.suffix == ".safetensors" else dict(np.load(file))
    hidden = {name: answer.reshape(answer.shape[-2:]) for name, answer in answers.items()}
    judge(runner, expected, hidden, bundle)


def judge(
    runner: Runner,
    expected: Mapping[str, np.ndarray],
    answers: Mapping[str, np.ndarray],
    bundle: Bundle,
) -> None:
    """Judges float32 by the absolute tolerance of the bundle's goldens, int8 by the cosine.

    The bundle's own rule, by six statistics, is sharper: it tells whether an export is faithful.
    Here it is enough that two contenders did the same work.
    """
    tolerance = bundle.manifest.artifacts[0].tolerances[OUTPUT]
    plain = Tolerance(tolerance.atol, 0.0)
    if expected.keys() != answers.keys():
        runner.fail(f"wrong: {len(answers)} answers, expected {len(expected)}")
        return
    results = [
        compare(OUTPUT, torch.from_numpy(value), torch.from_numpy(answers[name].copy()), plain)
        for name, value in expected.items()
    ]
    cosine = min(result.cosine for result in results)
    worst = max(results, key=lambda result: (result.strain, result.max_abs))
    if runner.contender.precision == "int8":
        runner.accuracy = f"cosine {cosine:.4f}"
        right = cosine >= INT8_COSINE
    else:
        runner.accuracy = f"{worst.strain:.2f}"
        right = all(results)
    if not right:
        wanted = f"cosine {INT8_COSINE}" if runner.contender.precision == "int8" else plain.atol
        runner.fail(
            f"wrong: largest difference from eager {worst.max_abs:.3g}, cosine {cosine:.5f};"
            f" expected {wanted}. {worst.reason}"
        )


def _predicted(runner: Runner, request: Request, file: Path) -> np.ndarray | None:
    """Returns the answer of `isthmus-run predict` with the same options."""
    try:
        process = run_command(
            [*native_command("predict", request), "--output", str(file)], threads=request.threads
        )
    except Error as error:
        runner.fail(str(error))
        return None
    if process.returncode != 0:
        runner.fail(explain_exit(process.returncode, process.stderr))
        return None
    answer: np.ndarray = load_file(file)[OUTPUT]
    return answer
