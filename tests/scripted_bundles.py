"""Running isthmus-run on bundles for the scripted engine.

The artifacts of these bundles are lines of text that tell `scripted_engine.cpp` how to behave, so
that a test can cause any outcome without LibTorch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from isthmus.runtime import install_paths

Arrays = dict[str, np.ndarray[Any, Any]]
Result = subprocess.CompletedProcess[str]


class Runner:
    """Runs isthmus-run with the scripted engine installed."""

    def __init__(self, engines: Path) -> None:
        self.engines = engines

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ISTHMUS_")}
        return kept | {"ISTHMUS_ENGINE_PATH": str(self.engines)} | variables

    def __call__(self, *arguments: object, code: int = 0, stdin: str = "", **env: str) -> Result:
        result = subprocess.run(
            [install_paths.binary(), *map(str, arguments)],
            input=stdin,
            text=True,
            capture_output=True,
            timeout=120,
            env=self.environment(**env),
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    def json(self, *arguments: object, code: int = 0, **env: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self(*arguments, "--json", code=code, **env).stdout)
        return document

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [install_paths.binary(), *map(str, arguments)],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment(),
        )


def entry(root: Path, file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {
        "path": file.relative_to(root).as_posix(),
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def value(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "tensor",
        "dtype": "float32",
        "shape": ["batch", 3],
        "optional": False,
    }


def method(name: str, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name,
        "inputs": [value(input_spec) for input_spec in inputs],
        "outputs": [value(output) for output in outputs],
        "args": [{"node": "leaf", "name": input_spec} for input_spec in inputs],
        "kwargs": [],
        "returns": {"node": "leaf", "name": outputs[0]} if outputs else {"node": "none"},
    }


def ramp(batch: int) -> np.ndarray[Any, Any]:
    return np.linspace(-1, 1, 3 * batch, dtype=np.float32).reshape(batch, 3)


Steps = Sequence[tuple[str, Arrays, Arrays]]


def affine(batch: int) -> Steps:
    return [("forward", {"x": ramp(batch)}, {"y": 2 * ramp(batch)})]


GOLDENS: Mapping[str, Steps] = {"batch1": affine(1), "batch3": affine(3)}

# The state is the number of calls since the last reset.
STREAM: Mapping[str, Steps] = {
    "stream": [
        ("forward", {"x": ramp(2)}, {"y": 2 * ramp(2)}),
        ("forward", {"x": ramp(2)}, {"y": 2 * ramp(2) + 1}),
        ("reset", {}, {}),
        ("forward", {"x": ramp(2)}, {"y": 2 * ramp(2)}),
    ]
}


def make_bundle(
    root: Path,
    script: str = "gain 2",
    *,
    goldens: Mapping[str, Steps] = GOLDENS,
    stateful: bool = False,
    passed: bool | None = True,
    **artifact: Any,
) -> Path:
    """Writes a bundle; `passed` is the verdict of the export on the engine, None for no verdict."""
    (root / "artifacts").mkdir(parents=True)
    (root / "goldens").mkdir()
    program = root / "artifacts" / "scripted.txt"
    program.write_text(script + "\n")
    listed = []
    for name, steps in goldens.items():
        arrays = {
            f"{number}/{side}/{key}": array
            for number, (_, inputs, outputs) in enumerate(steps)
            for side, values in (("in", inputs), ("out", outputs))
            for key, array in values.items()
        }
        file = root / "goldens" / f"{name}.safetensors"
        save_file(arrays, file)
        batch = steps[0][1]["x"].shape[0]
        listed.append(
            {
                "name": name,
                "file": entry(root, file),
                "dims": {"batch": batch},
                "steps": [{"method": step[0]} for step in steps],
            }
        )
    verdict = {"engine": "scripted", "device": "cpu", "runtime": "Script 1.0", "passed": passed}
    verdict["reason"] = "" if passed else "it was planted"
    manifest = {
        "format": "isthmus-bundle",
        "format_version": 1,
        "name": "affine",
        "created": "2026-01-31T12:00:00Z",
        "producer": {"isthmus": "0.1.0"},
        "source": {"kind": "test"},
        "stateful": stateful,
        "dims": {"batch": {"min": 1, "max": 8}},
        "methods": [method("forward", ["x"], ["y"])]
        + ([method("reset", [], [])] if stateful else []),
        "artifacts": [
            {
                "name": "scripted-cpu-fp32",
                "format": "scripted",
                "device": "cpu",
                "devices": ["cpu"],
                "precision": "fp32",
                "trust": "graph",
                "convention": "flat",
                "strategy": "trace",
                "files": [entry(root, program)],
                "requires": {"script": "1.0"},
                "op_libraries": [],
                "operators": {"aten::mul": 1},
                "tolerances": {"y": {"atol": 1e-5, "rtol": 0.0}},
                "state": ["calls"] if stateful else [],
                "decisions": [],
                "hazards": [],
                "proofs": [] if passed is None else [verdict],
            }
            | artifact
        ],
        "goldens": listed,
        "noise_floor": {"y": {"max_abs": 1e-6, "rms": 1e-7, "method": "float64"}},
        "warmup": list(goldens)[:1],
        "files": [],
    }
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def tamper(bundle: Path, target: Path) -> Path:
    """Copies a bundle and flips one bit of the artifact."""
    shutil.copytree(bundle, target)
    file = target / "artifacts" / "scripted.txt"
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    return target


def assert_lines(text: str, *patterns: str) -> None:
    """Asserts that each pattern matches a whole line, in this order."""
    lines = iter(text.splitlines())
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines), f"no {pattern!r} in:\n{text}"


NUMBER = r"-?\d+(\.\d+)?(e[+-]\d+)?"
