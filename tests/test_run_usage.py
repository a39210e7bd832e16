"""Tests of isthmus-run: help, usage errors, and the exit codes of the library's errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.scripted_bundles import (
    Runner,
    assert_lines,
    make_bundle,
    tamper,
)


def test_help_names_every_command_and_exit_code(isthmus_run: Runner) -> None:
    for arguments in (["--help"], ["verify", "--help"]):
        text = isthmus_run(*arguments).stdout
        for words in ("0 good", "1 parity failed", "2 bad usage", "3 the bundle", "4 engine", "5 "):
            assert words in text
    assert_lines(
        isthmus_run("--help").stdout,
        *(rf"  {command} +\S.*" for command in ("info", "predict", "verify", "bench", "doctor")),
    )


def test_version(isthmus_run: Runner) -> None:
    assert re.fullmatch(r"isthmus-run \d+\.\d+\.\d+\n", isthmus_run("--version").stdout)


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
def test_bad_usage(
    arguments: list[str], words: str, isthmus_run: Runner, affine_bundle: Path, affine_inputs: Path
) -> None:
    places = {"BUNDLE": str(affine_bundle), "INPUTS": str(affine_inputs)}
    arguments = [places.get(argument, argument) for argument in arguments]
    result = isthmus_run(*arguments, code=2)
    assert result.stdout == ""
    assert re.match(r"error: \S", result.stderr)
    assert words in result.stderr
    error = json.loads(isthmus_run(*arguments, "--json", code=2).stdout)["error"]
    assert error["kind"] == "InvalidInput"
    assert words in error["message"]


COMMANDS = ("info", "predict", "verify", "bench")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_bundle(command: str, isthmus_run: Runner, tmp_path: Path, affine_inputs: Path) -> None:
    extra = ["--inputs", affine_inputs] if command == "predict" else []
    result = isthmus_run(command, tmp_path / "nowhere", *extra, "--json", code=3)
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "BundleError"
    assert "nowhere" in error["message"]
    assert result.stderr == f"error: {error['message']}\n"


@pytest.mark.parametrize("command", ("predict", "verify", "bench"))
def test_tampered_artifact(
    command: str, isthmus_run: Runner, affine_bundle: Path, tmp_path: Path, affine_inputs: Path
) -> None:
    bad = tamper(affine_bundle, tmp_path / "bad")
    extra = ["--inputs", affine_inputs] if command == "predict" else []
    assert isthmus_run.json(command, bad, *extra, code=3)["error"]["kind"] == "BundleError"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--engine", "nonesuch"], "EngineUnavailable"),
        (["--device", "cuda:0"], "DeviceUnavailable"),
    ],
)
def test_engine_or_device_not_available(
    options: list[str], kind: str, isthmus_run: Runner, affine_bundle: Path
) -> None:
    assert isthmus_run.json("verify", affine_bundle, *options, code=4)["error"]["kind"] == kind


def test_too_little_trust(isthmus_run: Runner, affine_bundle: Path, tmp_path: Path) -> None:
    assert (
        isthmus_run.json("verify", affine_bundle, "--trust", "data", code=3)["error"]["kind"]
        == "BundleError"
    )
    native_code = make_bundle(tmp_path / "native", trust="native")
    isthmus_run("verify", native_code, code=3)
    isthmus_run("verify", native_code, "--trust", "native")
    isthmus_run("verify", native_code, "--allow-native")


def test_engine_fails(isthmus_run: Runner, tmp_path: Path, affine_inputs: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 1")
    error = isthmus_run.json("predict", bundle, "--inputs", affine_inputs, code=5)["error"]
    assert error["kind"] == "ExecutionError"
    assert "the script says so" in error["message"]
