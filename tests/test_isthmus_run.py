"""isthmus-run from outside: what it prints, its JSON, its exit codes.

Most tests run bundles for `scripted_engine.cpp`, whose artifacts are lines of text that say how to
behave: every outcome is to be had at will, and none needs LibTorch. The last ones run a real model.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from isthmus.runtime import install_paths

Arrays = dict[str, np.ndarray[Any, Any]]
Result = subprocess.CompletedProcess[str]
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripted engine."""
    folder = tmp_path_factory.mktemp("engines")
    library = install_paths.binary().resolve().parents[1] / "lib"
    subprocess.run(
        [
            *("g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-fvisibility=hidden"),
            f"-I{REPOSITORY / 'cpp' / 'include'}",
            Path(__file__).with_name("scripted_engine.cpp"),
            *("-o", folder / "libisthmus_engine_scripted.so", f"-L{library}", "-listhmus"),
        ],
        check=True,
    )
    return folder


class Runner:
    """Runs isthmus-run with the scripted engine in reach."""

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


@pytest.fixture(scope="session")
def run(engines: Path) -> Runner:
    return Runner(engines)


# --- bundles -------------------------------------------------------------------------------------


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

# The state counts the calls since the last reset.
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
    **artifact: Any,
) -> Path:
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


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("good") / "affine")


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("stream") / "affine", goldens=STREAM, stateful=True)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    file = tmp_path / "inputs.safetensors"
    save_file({"x": ramp(2)}, file)
    return file


def tamper(bundle: Path, target: Path) -> Path:
    """A copy with one bit of the artifact flipped."""
    shutil.copytree(bundle, target)
    file = target / "artifacts" / "scripted.txt"
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    return target


def assert_lines(text: str, *patterns: str) -> None:
    """Each pattern matches a whole line, in this order."""
    lines = iter(text.splitlines())
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines), f"no {pattern!r} in:\n{text}"


NUMBER = r"-?\d+(\.\d+)?(e[+-]\d+)?"

# --- usage ---------------------------------------------------------------------------------------


def test_help_names_every_command_and_exit_code(run: Runner) -> None:
    for arguments in (["--help"], ["verify", "--help"]):
        text = run(*arguments).stdout
        for words in ("0 good", "1 parity failed", "2 bad usage", "3 the bundle", "4 engine", "5 "):
            assert words in text
    assert_lines(
        run("--help").stdout,
        *(rf"  {command} +\S.*" for command in ("info", "predict", "verify", "bench", "doctor")),
    )


def test_version(run: Runner) -> None:
    assert re.fullmatch(r"isthmus-run \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "command"),
        (["frob"], "frob"),
        (["verify"], "BUNDLE"),
        (["verify", "BUNDLE", "--frob"], "--frob"),
        (["verify", "BUNDLE", "--threads", "two"], "two"),
        (["verify", "BUNDLE", "--threads", "-1"], "-1"),
        (["verify", "BUNDLE", "--trust", "full"], "full"),
        (["verify", "BUNDLE", "--optimize", "hard"], "hard"),
        (["verify", "BUNDLE", "--device", "gpu"], "gpu"),
        (["verify", "BUNDLE", "--artifact", "nonesuch"], "nonesuch"),
        (["verify", "BUNDLE", "--engine-option", "novalue"], "novalue"),
        (["verify", "BUNDLE", "--engine-option", "speed=high"], "speed"),
        (["predict", "BUNDLE"], "--inputs"),
        (["predict", "BUNDLE", "--inputs", "/nonexistent.npz"], "/nonexistent.npz"),
        (["predict", "BUNDLE", "--inputs", "INPUTS", "--repeat", "0"], "--repeat"),
        (["predict", "BUNDLE", "--inputs", "INPUTS", "--method", "nonesuch"], "nonesuch"),
        (["bench", "BUNDLE", "--golden", "nonesuch"], "nonesuch"),
        (["bench", "BUNDLE", "--golden", "batch1", "--inputs", "INPUTS"], "--golden"),
        (["bench", "BUNDLE", "--iterations", "0"], "iterations"),
        (["bench", "BUNDLE", "--callers", "0"], "--callers"),
        (["bench", "BUNDLE", "--callers", "2", "--iterations", "0"], "iterations"),
        (["bench", "BUNDLE", "--callers", "2", "--worker"], "--worker"),
        (["bench", "BUNDLE", "--batch"], "--callers"),
        (["bench", "BUNDLE", "--soak", "10"], "--soak"),
        (["bench", "BUNDLE", "--soak", "1000", "--golden", "batch1"], "--golden"),
        (["doctor", "BUNDLE", "--artifact", "nonesuch"], "nonesuch"),
        (["doctor", "--device", "tpu"], "tpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage(arguments: list[str], words: str, run: Runner, good: Path, inputs: Path) -> None:
    places = {"BUNDLE": str(good), "INPUTS": str(inputs)}
    arguments = [places.get(argument, argument) for argument in arguments]
    result = run(*arguments, code=2)
    assert result.stdout == ""
    assert re.match(r"error: \S", result.stderr)
    assert words in result.stderr
    error = json.loads(run(*arguments, "--json", code=2).stdout)["error"]
    assert error["kind"] == "InvalidInput"
    assert words in error["message"]


# --- errors of the library -----------------------------------------------------------------------

COMMANDS = ("info", "predict", "verify", "bench")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_bundle(command: str, run: Runner, tmp_path: Path, inputs: Path) -> None:
    extra = ["--inputs", inputs] if command == "predict" else []
    result = run(command, tmp_path / "nowhere", *extra, "--json", code=3)
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "BundleError"
    assert "nowhere" in error["message"]
    assert result.stderr == f"error: {error['message']}\n"


@pytest.mark.parametrize("command", ("predict", "verify", "bench"))
def test_tampered_artifact(
    command: str, run: Runner, good: Path, tmp_path: Path, inputs: Path
) -> None:
    bad = tamper(good, tmp_path / "bad")
    extra = ["--inputs", inputs] if command == "predict" else []
    assert run.json(command, bad, *extra, code=3)["error"]["kind"] == "BundleError"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--engine", "nonesuch"], "EngineUnavailable"),
        (["--device", "cuda:0"], "DeviceUnavailable"),
    ],
)
def test_engine_or_device_not_available(
    options: list[str], kind: str, run: Runner, good: Path
) -> None:
    assert run.json("verify", good, *options, code=4)["error"]["kind"] == kind


def test_too_little_trust(run: Runner, good: Path, tmp_path: Path) -> None:
    assert run.json("verify", good, "--trust", "data", code=3)["error"]["kind"] == "BundleError"
    native_code = make_bundle(tmp_path / "native", trust="native")
    run("verify", native_code, code=3)
    run("verify", native_code, "--trust", "native")
    run("verify", native_code, "--allow-native")


def test_engine_fails(run: Runner, tmp_path: Path, inputs: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 1")
    error = run.json("predict", bundle, "--inputs", inputs, code=5)["error"]
    assert error["kind"] == "ExecutionError"
    assert "the script says so" in error["message"]


# --- info ----------------------------------------------------------------------------------------


def test_info(run: Runner, good: Path) -> None:
    assert_lines(
        run("info", good).stdout,
        "isthmus-run info",
        r"  bundle +affine",
        r"  producer +isthmus=0\.1\.0",
        r"  stateful +no",
        r"  size +\d+ B|  size +\d+\.\d kB",
        r"  method forward +forward\(x: float32\[batch, 3\]\) -> \(y: float32\[batch, 3\]\)",
        r"  dim batch +1 to 8",
        r"  noise floor y +1e-06 \(float64\)",
        r"  golden batch1 +1 call, batch=1, .*",
        r"  golden batch3 +1 call, batch=3, .*",
        r"  artifact +format +made on +runs on +precision +strategy +trust +size +requires.*",
        r"  scripted-cpu-fp32  scripted  cpu +cpu +fp32 +trace +graph +7 B +script=1\.0  -",
        r"  artifact +output +atol +rtol",
        r"  scripted-cpu-fp32  y +1e-05 +0",
        r"files not checked; --check .*",
    )


def test_info_json(run: Runner, good: Path) -> None:
    document = run.json("info", good)
    assert document["schema"] == "isthmus-run.info"
    assert document["schema_version"] == 1
    assert document["context"]["bundle"] == "affine"
    assert document["passed"] is True
    (row,) = document["rows"]
    assert row["artifact"] == "scripted-cpu-fp32"
    assert row["size"] == 7
    assert row["requires"] == {"script": "1.0"}
    assert row["operators"] == {"aten::mul": 1}
    assert row["tolerances"] == {"y": {"atol": 1e-5, "rtol": 0.0}}


def test_info_checks_files_only_when_asked(run: Runner, good: Path, tmp_path: Path) -> None:
    assert "all files are as the manifest says" in run("info", good, "--check").stdout
    bad = tamper(good, tmp_path / "bad")
    run("info", bad)
    assert "artifacts/scripted.txt" in run("info", bad, "--check", code=3).stdout
    document = run.json("info", bad, "--check", code=3)
    assert document["passed"] is False
    assert "artifacts/scripted.txt" in document["verdict"]


def test_info_opens_no_engine(run: Runner, good: Path) -> None:
    mapped = subprocess.run(
        ["ldd", install_paths.binary()], text=True, capture_output=True, check=True
    ).stdout
    assert "libtorch" not in mapped
    # An engine that cannot be opened would be noticed by whoever opens engines.
    run("info", good, SCRIPTED_ENGINE_UNAVAILABLE="1")


# --- predict -------------------------------------------------------------------------------------


def test_predict_prints_a_summary(run: Runner, good: Path, inputs: Path) -> None:
    assert_lines(
        run("predict", good, "--inputs", inputs).stdout,
        "isthmus-run predict",
        r"  bundle +affine \(.*\)",
        r"  artifact +scripted-cpu-fp32",
        r"  engine +scripted",
        r"  runtime +Script 1\.0",
        r"  device +cpu",
        r"  threads +the runtime's default",
        r"  isthmus +\d.*",
        r"  machine +.*",
        r"  note +it is only a script",
        r"  output  dtype    shape   first values +mean +std +min +max +NaN/Inf",
        rf"  y +float32  \[2, 3\]  -2 -1\.2 -0\.4 0\.4 \.\.\. +{NUMBER}  1\.3663 +-2 +2 +0/0",
    )


def test_predict_writes_the_answer(run: Runner, good: Path, inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    run("predict", good, "--inputs", inputs, "-o", output)
    answer = load_file(output)
    assert list(answer) == ["y"]
    np.testing.assert_array_equal(answer["y"], 2 * ramp(2))


def test_predict_reads_npz(run: Runner, good: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", x=ramp(4))
    output = tmp_path / "out.safetensors"
    run("predict", good, "-i", tmp_path / "inputs.npz", "--output", output)
    np.testing.assert_array_equal(load_file(output)["y"], 2 * ramp(4))


def test_predict_json(run: Runner, tmp_path: Path, inputs: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nnan 1")
    document = run.json("predict", bundle, "--inputs", inputs, "--threads", "1")
    assert document["schema"] == "isthmus-run.predict"
    assert document["context"]["threads"] == "1"
    (row,) = document["rows"]
    assert row["output"] == "y"
    assert row["dtype"] == "float32"
    assert row["shape"] == [2, 3]
    assert row["first"][0] == "NaN"
    assert row["first"][1:] == pytest.approx((2 * ramp(2)).reshape(-1)[1:].tolist())
    assert row["nans"] == 1
    assert row["max"] == 2


def test_predict_batch_runs_requests_together(run: Runner, good: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "many.safetensors", tmp_path / "out.safetensors"
    save_file({f"{at}/in/x": ramp(1) + at for at in range(20)}, file)
    options = ["--batch", "--workers", "2", "--max-requests", "4"]
    context = run.json("predict", good, "-i", file, "-o", output, *options)["context"]
    assert context["requests"] == "20"
    assert 5 <= int(context["calls"]) <= 20
    answers = load_file(output)
    assert len(answers) == 20
    for at in range(20):
        np.testing.assert_array_equal(answers[f"{at}/out/y"], 2 * (ramp(1) + at))


def test_predict_batch_names_the_request_that_does_not_fit(
    run: Runner, good: Path, inputs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "many.safetensors"
    save_file({"0/in/x": ramp(1), "1/in/x": ramp(1).astype(np.float64)}, file)
    message = run.json("predict", good, "-i", file, "--batch", code=2)["error"]["message"]
    assert "request 1" in message and "float64" in message
    message = run.json("predict", good, "-i", inputs, "--batch", code=2)["error"]["message"]
    assert "leave --batch out" in message


def test_predict_says_what_is_wrong_with_the_inputs(
    run: Runner, good: Path, tmp_path: Path
) -> None:
    file, output = tmp_path / "inputs.safetensors", tmp_path / "out.safetensors"
    save_file({"x": ramp(2).astype(np.float64)}, file)
    stderr = run("predict", good, "--inputs", file, "-o", output, code=2).stderr
    assert "float32" in stderr
    assert "float64" in stderr
    assert not output.exists()


def test_predict_cannot_write(run: Runner, good: Path, inputs: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "out.safetensors"
    assert "nowhere" in run("predict", good, "-i", inputs, "-o", target, code=2).stderr


def test_predict_runs_a_sequence_in_one_session(run: Runner, stream: Path, tmp_path: Path) -> None:
    golden = stream / "goldens" / "stream.safetensors"
    output = tmp_path / "out.safetensors"
    methods = [word for one in STREAM["stream"] for word in ("--method", one[0])]
    run("predict", stream, "--inputs", golden, "-o", output, *methods)
    expected = {key: array for key, array in load_file(golden).items() if "/out/" in key}
    answer = load_file(output)
    assert answer.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(answer[key], array, atol=1e-6)

    run("predict", stream, "--inputs", golden, "-o", output, code=2)  # "reset" takes no x ...
    two = ["--method", "forward", "--method", "reset"]  # ... and two methods fit no four calls
    assert "4 calls" in run("predict", stream, "--inputs", golden, *two, code=2).stderr


def test_predict_refuses_a_mixture_of_names(run: Runner, good: Path, tmp_path: Path) -> None:
    file = tmp_path / "inputs.safetensors"
    save_file({"x": ramp(1), "0/in/x": ramp(1)}, file)
    stderr = run("predict", good, "--inputs", file, code=2).stderr
    assert '"x"' in stderr
    assert '"0/in/x"' in stderr
    save_file({"99999999/in/x": ramp(1)}, file)
    assert "99999999" in run("predict", good, "--inputs", file, code=2).stderr


def test_predict_repeats_from_a_fresh_session(run: Runner, stream: Path, inputs: Path) -> None:
    context = run.json("predict", stream, "--inputs", inputs, "--repeat", "3", "--timing")[
        "context"
    ]
    assert context["repeats"] == "3, the same bytes each time"


def test_predict_says_where_the_time_went(run: Runner, good: Path, inputs: Path) -> None:
    context = run.json("predict", good, "--inputs", inputs, "--timing")["context"]
    for name in ("read inputs", "read and hash files", "engine load", "first call", "in all"):
        assert re.fullmatch(r"\d+\.\d+ [mu]?s", context[name]), name
    assert "warm-up" not in context
    warm = run.json("predict", good, "--inputs", inputs, "--timing", "--warmup")["context"]
    assert "warm-up" in warm
    assert "in all" not in run.json("predict", good, "--inputs", inputs)["context"]


# --- verify --------------------------------------------------------------------------------------


def test_verify_passes(run: Runner, good: Path) -> None:
    assert_lines(
        run("verify", good).stdout,
        "isthmus-run verify",
        r"  bundle +affine \(.*\)",
        r"  runtime +Script 1\.0",
        r"  output  verdict  max abs  max rel  x eager's own  of allowed  nearest +cosine +"
        r"top 1/5  NaN/Inf  worst golden",
        r"  y       passed +0 +0 +- +0 %  atol +1  100/100 % +0/0  batch1",
        r"PASSED: 2 goldens on cpu with Script 1\.0",
    )


NO_STATISTICS = dict.fromkeys(("max", "rms", "p99", "median", "bias", "cosine"), 0.0)


def judged_to_truth(bundle: Path, off: float) -> None:
    """Lets a bundle's goldens say that eager itself was 1e-6 off, and by how much more may be."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for golden in manifest["goldens"]:
        file = bundle / golden["file"]["path"]
        tensors = load_file(file)
        tensors["0/error/y"] = np.full_like(tensors["0/out/y"], off)
        save_file(tensors, file)
        golden["file"] = entry(bundle, file)
    limits = {"multiples": {"max": 6.0, "rms": 3.0}, "own": {"max": abs(off), "rms": abs(off)}}
    manifest["artifacts"][0]["tolerances"]["y"] |= limits | {"allowance": {}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_verify_judges_by_the_distance_to_the_truth(run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    judged_to_truth(bundle, 0.25)
    row = run.json("verify", bundle)["rows"][0]
    assert row["to_truth"]
    assert row["errors"]["rms"] == pytest.approx(0.25), "as far off as eager"
    assert row["allowed"]["rms"] == pytest.approx(0.75)
    assert row["allowed"]["median"] is None, "not judged"
    assert row["noise_units"] == pytest.approx(1.0)


def test_verify_fails_beyond_the_multiple_and_names_it(run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nbias 0.75")
    judged_to_truth(bundle, 0.25)
    row = run.json("verify", bundle, code=1)["rows"][0]
    assert row["statistic"] == "rms"
    assert row["multiple"] == pytest.approx(4.0)
    assert "rms error 1 to float64 is 4 x eager's own 0.25" in row["reason"]
    assert "a multiple of 4 would pass" in row["reason"]


def test_an_error_of_another_shape_is_a_damaged_golden(run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    judged_to_truth(bundle, 0.25)
    manifest = json.loads((bundle / "manifest.json").read_text())
    file = bundle / manifest["goldens"][0]["file"]["path"]
    save_file(load_file(file) | {"0/error/y": np.zeros(2, np.float32)}, file)
    manifest["goldens"][0]["file"] = entry(bundle, file)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert "error/y" in run("verify", bundle, code=3).stderr


def test_verify_json(run: Runner, good: Path) -> None:
    document = run.json("verify", good)
    assert document["schema"] == "isthmus-run.verify"
    assert document["schema_version"] == 1
    assert document["passed"] is True
    assert document["context"].keys() >= {
        *("bundle", "artifact", "engine", "runtime", "device", "threads", "isthmus", "machine")
    }
    assert [row["golden"] for row in document["rows"]] == ["batch1", "batch3"]
    assert document["rows"][1] == {
        "golden": "batch3",
        "output": "y",
        "max_abs": 0.0,
        "max_rel": 0.0,
        "noise_units": 0.0,
        "cosine": 1.0,
        "nan_mismatches": 0,
        "inf_mismatches": 0,
        "nans": 0,
        "infs": 0,
        "argmax_agreement": 1.0,
        "atol": 1e-5,
        "rtol": 0.0,
        "passing_atol": 0.0,
        "elements": 9,
        "topk_agreement": 1.0,
        "to_truth": False,
        "errors": NO_STATISTICS,
        "own": NO_STATISTICS,
        "allowed": NO_STATISTICS,
        "statistic": "",
        "multiple": 0.0,
        "strain": 0.0,
        "passed": True,
        "reason": "",
    }


def test_verify_fails(run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nbias 0.25")
    assert_lines(
        run("verify", bundle, code=1).stdout,
        r"  y +FAILED +0\.25 +.* %  atol +0\.\d+ +100/100 % +0/0  batch[13]",
        r"    largest difference 0\.25 is beyond atol 1e-05 .* atol 0\.25 would pass",
        r"FAILED: 2 of 2 goldens on cpu with Script 1\.0",
    )
    document = run.json("verify", bundle, code=1)
    assert document["passed"] is False
    assert [row["passed"] for row in document["rows"]] == [False, False]
    assert document["rows"][0]["max_abs"] == 0.25
    assert document["rows"][0]["noise_units"] == pytest.approx(0.25e6)


def test_verify_sees_a_nan(run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nnan 1")
    row = run.json("verify", bundle, code=1)["rows"][0]
    assert row["nan_mismatches"] == 1
    assert row["passing_atol"] is None
    assert "NaN" in row["reason"]


def test_verify_makes_a_second_call(run: Runner, tmp_path: Path) -> None:
    """A profiling runtime runs other code in the second call of a shape than in the first."""
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 3")
    rows = run.json("verify", bundle, code=1)["rows"]
    failed = [row for row in rows if not row["passed"]]
    assert [(row["golden"], row["output"]) for row in failed] == [("batch1", None)]
    assert "the script says so" in failed[0]["error"]
    assert "run 2" in failed[0]["error"]
    assert_lines(
        run("verify", bundle, code=1).stdout,
        r"  y +passed .*",
        r"  \(all\) +FAILED .* batch1",
        r"    .*the script says so.*",
        r"FAILED: 1 of 2 goldens .*",
    )


def test_verify_makes_four_calls_with_a_single_golden(run: Runner, tmp_path: Path) -> None:
    one = {"batch1": affine(1)}
    run("verify", make_bundle(tmp_path / "4", "gain 2\nfail_on_call 4", goldens=one), code=1)
    run("verify", make_bundle(tmp_path / "5", "gain 2\nfail_on_call 5", goldens=one))


def test_verify_restarts_sequences(run: Runner, stream: Path, tmp_path: Path) -> None:
    assert run.json("verify", stream)["passed"] is True
    wrong = {"stream": [*STREAM["stream"][:3], STREAM["stream"][1]]}
    bundle = make_bundle(tmp_path / "bundle", goldens=wrong, stateful=True)
    (row,) = run.json("verify", bundle, code=1)["rows"]
    assert row["max_abs"] == pytest.approx(1)
    assert "in call 4 of 4" in row["reason"]


def test_verify_without_goldens_proves_nothing(run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", goldens={})
    assert "no goldens" in run.json("verify", bundle, code=1)["verdict"]


def test_verify_with_a_damaged_golden(run: Runner, good: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    file = bad / "goldens" / "batch3.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "batch3" in run.json("verify", bad, code=3)["error"]["message"]


def test_verify_takes_repeatable_options_before_the_bundle(
    run: Runner, engines: Path, good: Path
) -> None:
    run("verify", "--engine-path", engines, good)


# --- bench ---------------------------------------------------------------------------------------


def test_bench(run: Runner, good: Path) -> None:
    text = run("bench", good, "--iterations", "70", "--min-seconds", "0").stdout
    assert_lines(
        text,
        "isthmus-run bench",
        r"  warm-up batch1 +\d+ calls?, .* [mu]s to .* [mu]s(, not steady)?",
        r"  inputs +median ms +p90 ms +p99 ms +min ms +calls/s +first call ms +load ms .*",
        rf"  batch1 +{NUMBER} +{NUMBER} +-( +{NUMBER}){{5}} +\d+\.\d MB +70",
        r"p90 is told from 64 samples on, p99 from 662; .*",
    )


def test_bench_json(run: Runner, good: Path, inputs: Path) -> None:
    options = ["--iterations", "5", "--min-seconds", "0", "--no-warmup"]
    document = run.json("bench", good, *options, "--inputs", inputs)
    assert document["schema"] == "isthmus-run.bench"
    (row,) = document["rows"]
    assert row["inputs"] == str(inputs)
    assert len(row["samples_ms"]) == row["samples"] == 5
    assert row["min_ms"] <= row["median_ms"]
    assert row["p90_ms"] is None
    assert row["p99_ms"] is None
    assert row["warmup_ms"] == 0
    assert row["peak_rss_bytes"] > 1e6
    for key in ("mean_ms", "calls_per_second", "first_call_ms", "load_ms", "total_load_ms"):
        assert row[key] > 0, key
    many = run.json(
        "bench", good, "--iterations", "662", "--min-seconds", "0", "--golden", "batch3"
    )
    assert many["rows"][0]["inputs"] == "batch3"
    assert many["rows"][0]["median_ms"] <= many["rows"][0]["p90_ms"] <= many["rows"][0]["p99_ms"]


def test_bench_can_be_slowed_down_on_purpose(run: Runner, good: Path) -> None:
    options = ["--iterations", "5", "--min-seconds", "0", "--slow-down-us", "3000"]
    assert run.json("bench", good, *options)["rows"][0]["min_ms"] >= 3
    assert "slow-down" not in run("bench", "--help").stdout


def test_bench_refuses_a_sequence(run: Runner, good: Path) -> None:
    golden = good / "goldens" / "batch1.safetensors"
    run("bench", good, "--inputs", golden, "--iterations", "1", "--min-seconds", "0")
    two = good / "goldens" / "two.safetensors"
    save_file({"0/in/x": ramp(1), "1/in/x": ramp(1)}, two)
    assert "2 calls" in run("bench", good, "--inputs", two, code=2).stderr
    two.unlink()


def test_bench_with_many_callers(run: Runner, good: Path) -> None:
    options = ["--callers", "4", "--iterations", "700", "--min-seconds", "0.1"]
    text = run("bench", good, *options).stdout
    assert_lines(
        text,
        r"  inputs +callers +calls/s +median ms +p90 ms +p99 ms +max ms +peak memory +threads .*",
        rf"  batch1 +4( +{NUMBER}){{5}} +\d+\.\d MB +\d+ +\d+",
    )
    for batch in (False, True):
        more = ["--batch", "--workers", "2", "--max-wait-ms", "0.5"] if batch else []
        (row,) = run.json("bench", good, *options, *more)["rows"]
        assert row["callers"] == 4
        assert row["batch"] is batch
        assert row["samples"] == sum(row["calls_by_caller"]) == len(row["samples_ms"]) >= 700
        assert min(row["calls_by_caller"]) > 0
        assert row["median_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["calls_per_second"] == pytest.approx(row["samples"] / row["seconds"])
        assert row["seconds"] >= 0.1
        assert row["process_threads"] >= (5 + 2 if batch else 5)
        if batch:
            assert row["requests"] == row["samples"] + 4 * 10 >= row["model_calls"]


def test_bench_with_many_callers_ends_at_the_first_error(run: Runner, tmp_path: Path) -> None:
    failing = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 40")
    result = run("bench", failing, "--callers", "4", "--no-warmup", code=5)
    assert "the script says so" in result.stderr


def test_bench_soak(run: Runner, good: Path, tmp_path: Path) -> None:
    text = run("bench", good, "--soak", "4000").stdout
    assert_lines(
        text,
        r"  calls +callers +goldens +calls/s +loaded +second quarter +last quarter +growth kB .*",
        r"memory is steady: .*, at most 4\.0 MB of it is noise",
    )
    (row,) = run.json("bench", good, "--soak", "4000", "--callers", "3")["rows"]
    assert row["callers"] == 3
    assert row["calls"] >= 4000
    assert row["goldens"] == 2
    assert len(row["resident_bytes"]) == 41
    assert row["growth_bytes"] == row["last_quarter_bytes"] - row["second_quarter_bytes"]

    leaking = make_bundle(tmp_path / "leaking", "gain 2\nleak 20000")
    result = run("bench", leaking, "--soak", "4000", code=1)
    assert "memory grows" in result.stdout


def test_soak_ends_at_the_first_error(run: Runner, tmp_path: Path) -> None:
    failing = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 40")
    result = run("bench", failing, "--soak", "1000", "--no-warmup", code=5)
    assert "the script says so" in result.stderr


def test_bench_worker(run: Runner, good: Path) -> None:
    commands = "run 3\nrun 0\nfrob\nrun 2x\nrun 2\nquit\nrun 1\n"
    result = run("bench", good, "--worker", "--golden", "batch3", "--threads", "1", stdin=commands)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == [
        *("ready", "samples", "error", "error", "error", "samples", "done")
    ]
    ready = events[0]
    assert ready["inputs"] == "batch3"
    assert ready["threads"] == 1
    assert ready["engine"] == "scripted"
    assert ready["runtime"] == "Script 1.0"
    assert ready["artifact"] == "scripted-cpu-fp32"
    assert ready["device"] == "cpu"
    assert ready["first_call_ms"] > 0
    assert ready["load_ms"] > 0
    assert ready["warmup"][0]["golden"] == "batch1"
    assert [len(event["samples_ms"]) for event in events if event["event"] == "samples"] == [3, 2]
    assert "frob" in events[3]["message"]
    assert events[-1]["peak_rss_bytes"] > 1e6


def test_bench_worker_answers_each_line_at_once(run: Runner, good: Path) -> None:
    with run.start("bench", good, "--worker", "--no-warmup") as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline())["warmup"] == []
        for _ in range(3):
            print("run 1", file=worker.stdin, flush=True)
            assert json.loads(worker.stdout.readline())["event"] == "samples"
        worker.stdin.close()  # the end of the input ends it as well as "quit"
        assert json.loads(worker.stdout.readline())["event"] == "done"
        assert worker.wait(30) == 0


def test_bench_worker_reports_errors(run: Runner, tmp_path: Path) -> None:
    result = run("bench", tmp_path, "--worker", code=3)
    assert json.loads(result.stdout)["event"] == "error"
    failing = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 2")
    result = run("bench", failing, "--worker", "--no-warmup", stdin="run 1\n", code=5)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["ready", "error"]
    assert "the script says so" in events[1]["message"]


# --- doctor --------------------------------------------------------------------------------------

SCRIPTED = ("--engine", "scripted")


def test_doctor_describes_the_machine(run: Runner) -> None:
    assert_lines(
        run("doctor", *SCRIPTED).stdout,
        "isthmus-run doctor",
        r"  isthmus +\d+\.\d+\.\d+ \(.*C\+\+20.*\)",
        r"  system +Linux .*",
        r"  processor +.*, \d+ cores?",
        r"  instruction sets +.*",
        r"  memory +.* GB",
        r"  GPUs +.*",
        r"  NVIDIA driver +.*",
        r"  OpenMP runtimes +.*",
        r"  engine +state +formats +runtime +devices +found in",
        r"  scripted  ready  scripted  Script 1\.0  cpu +/nowhere/script",
        r"    one detail",
        r"1 engine ready",
    )


def test_doctor_without_a_runtime(run: Runner) -> None:
    result = run("doctor", *SCRIPTED, code=4, SCRIPTED_ENGINE_UNAVAILABLE="1")
    assert_lines(
        result.stdout,
        r"  scripted  not available .*",
        r"    the scripted runtime is not here; .*",
        r"no engine can run here: each says above .*",
    )


def test_doctor_reports_an_engine_that_cannot_be_opened(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "libisthmus_engine_broken.so").write_bytes(b"not a library")
    document = run.json("doctor", "--engine", "broken", "--engine-path", tmp_path, code=4)
    (row,) = document["rows"]
    assert row["kind"] == "engine"
    assert row["ready"] is False
    assert "broken" in row["reason"]


def test_doctor_says_that_a_bundle_fits(run: Runner, good: Path) -> None:
    assert_lines(
        run("doctor", good, *SCRIPTED).stdout,
        r"  bundle  files +size",
        r"  affine  as the manifest says +.*",
        r"  artifact +verdict +engine +format +devices +precision +trust +made with +operator.*",
        r"  scripted-cpu-fp32  fits +scripted  scripted  cpu +fp32 +graph  script=1\.0  -",
        r"the bundle fits here: scripted-cpu-fp32 on cpu with scripted",
    )
    document = run.json("doctor", good, *SCRIPTED)
    assert document["schema"] == "isthmus-run.doctor"
    assert [row["kind"] for row in document["rows"]] == ["engine", "bundle", "artifact"]
    assert document["rows"][1]["faults"] == []
    assert document["rows"][2]["fits"] is True
    assert document["rows"][2]["engine"] == "scripted"


@pytest.mark.parametrize(
    ("artifact", "options", "words"),
    [
        ({}, ["--device", "cuda:0"], "cuda"),
        ({}, ["--trust", "data"], "--trust graph"),
        ({"trust": "native"}, [], "--trust native"),
        ({"requires": {"script": "2.0"}}, [], "made for Script 2.0, found Script 1.0"),
        ({"format": "onnx"}, [], "onnx"),
        (
            {"op_libraries": [{"namespace": "my_ops", "library": "libmy_ops.so"}]},
            [],
            "my_ops::* (libmy_ops.so)",
        ),
    ],
    ids=["device", "data", "native", "version", "format", "operators"],
)
def test_doctor_says_why_a_bundle_does_not_fit(
    artifact: dict[str, Any], options: list[str], words: str, run: Runner, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", **artifact)
    document = run.json("doctor", bundle, *SCRIPTED, *options, code=4)
    assert document["passed"] is False
    assert "does not fit" in document["verdict"]
    row = document["rows"][-1]
    assert row["fits"] is False
    assert words in row["reason"]


def test_doctor_of_a_damaged_bundle_still_describes_the_machine(
    run: Runner, good: Path, tmp_path: Path
) -> None:
    bad = tamper(good, tmp_path / "bad")
    document = run.json("doctor", bad, *SCRIPTED, code=3)
    assert "artifacts/scripted.txt" in document["rows"][1]["reason"]
    assert "system" in document["context"]
    (bad / "manifest.json").write_text("{")
    assert run.json("doctor", bad, *SCRIPTED, code=3)["rows"][1]["faults"]


# --- terminals and pipes -------------------------------------------------------------------------


def on_a_terminal(runner: Runner, *arguments: object, **env: str) -> str:
    parent, child = pty.openpty()
    environment = runner.environment() | {"TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [install_paths.binary(), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
        env=environment | env,
    )
    os.close(child)
    written = b""
    try:
        while part := os.read(parent, 4096):
            written += part
    except OSError:  # how Linux tells that the other end is closed
        pass
    os.close(parent)
    process.wait(60)
    return written.decode()


def test_colours_only_on_a_terminal(run: Runner, good: Path) -> None:
    assert "\033[1m\033[32mPASSED" in on_a_terminal(run, "verify", good)
    assert "verifying batch3" in on_a_terminal(run, "verify", good)
    assert "\033[1m" not in on_a_terminal(run, "verify", good, NO_COLOR="1")
    assert "\033" not in run("verify", good).stdout


def test_failed_rows_are_red(run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nbias 0.25")
    text = on_a_terminal(run, "verify", bundle)
    assert re.search(r"\033\[31my +FAILED", text)
    assert "\033[31mlargest difference" in text


@pytest.mark.parametrize("arguments", [["info"], ["verify"], ["verify", "--json"]])
def test_a_closed_pipe_is_no_error(arguments: list[str], run: Runner, good: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [install_paths.binary(), *arguments, good],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=run.environment(),
    )
    os.close(writer)
    assert result.returncode == 0
    assert result.stderr == ""


def test_a_full_disk_is_an_error(run: Runner, good: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [install_paths.binary(), "info", good], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 2
    assert "standard output" in result.stderr


# --- a real model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    import isthmus

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("torchscript") / "mlp"
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    isthmus.export(
        module,
        (torch.randn(2, 3),),
        path=path,
        dynamic={"input": {0: "batch"}},
        dims={"batch": (1, 16)},
    )
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "--check"],
        ["verify"],
        ["verify", "--warmup", "--threads", "1"],
        ["verify", "--optimize", "none"],
        ["bench", "--iterations", "3", "--min-seconds", "0"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_commands_on_torchscript(arguments: list[str], run: Runner, torchscript: Path) -> None:
    document = run.json(arguments[0], torchscript, *arguments[1:])
    assert document["passed"] is True
    if arguments[0] == "verify":
        assert document["context"]["engine"] == "torchscript"
        assert document["context"]["runtime"].startswith("LibTorch 2.")


def test_predict_gives_the_eager_answer(run: Runner, torchscript: Path, tmp_path: Path) -> None:
    golden = load_file(next((torchscript / "goldens").iterdir()))
    output = tmp_path / "out.safetensors"
    save_file({"input": golden["0/in/input"]}, tmp_path / "inputs.safetensors")
    run("predict", torchscript, "-i", tmp_path / "inputs.safetensors", "-o", output)
    (answer,) = load_file(output).values()
    (expected,) = (array for key, array in golden.items() if key.startswith("0/out/"))
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_no_python_in_the_process(run: Runner, torchscript: Path) -> None:
    """The promise of the verdict: nothing of Python is mapped while the model runs."""
    with run.start("bench", torchscript, "--worker") as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline())["event"] == "ready"
        maps = Path(f"/proc/{worker.pid}/maps").read_text()
        worker.stdin.close()
        worker.stdout.read()
    assert "libtorch_cpu" in maps
    assert "libpython" not in maps
    assert "libtorch_python" not in maps
