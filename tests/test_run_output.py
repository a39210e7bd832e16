"""The output of isthmus-run on terminals, pipes and full disks."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from tests.scripted_bundles import (
    Runner,
    make_bundle,
)

from isthmus.runtime import install_paths


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
    except OSError:  # Linux raises this when the other end is closed
        pass
    os.close(parent)
    process.wait(60)
    return written.decode()


def test_colours_only_on_a_terminal(isthmus_run: Runner, affine_bundle: Path) -> None:
    assert "\033[1m\033[32mPASSED" in on_a_terminal(isthmus_run, "verify", affine_bundle)
    assert "verifying batch3" in on_a_terminal(isthmus_run, "verify", affine_bundle)
    assert "\033[1m" not in on_a_terminal(isthmus_run, "verify", affine_bundle, NO_COLOR="1")
    assert "\033" not in isthmus_run("verify", affine_bundle).stdout


def test_failed_rows_are_red(isthmus_run: Runner, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 2\nbias 0.25")
    text = on_a_terminal(isthmus_run, "verify", bundle)
    assert re.search(r"\033\[31my +FAILED", text)
    assert "\033[31mlargest difference" in text


@pytest.mark.parametrize("arguments", [["info"], ["verify"], ["verify", "--json"]])
def test_a_closed_pipe_is_no_error(
    arguments: list[str], isthmus_run: Runner, affine_bundle: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [install_paths.binary(), *arguments, affine_bundle],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=isthmus_run.environment(),
    )
    os.close(writer)
    assert result.returncode == 0
    assert result.stderr == ""


def test_a_full_disk_is_an_error(isthmus_run: Runner, affine_bundle: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [install_paths.binary(), "info", affine_bundle],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 2
    assert "standard output" in result.stderr
