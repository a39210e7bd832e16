"""A wheel that scripts/wheel makes runs in an environment that did not build it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PACKAGES = Path(sysconfig.get_path("purelib"))
MINOR = ".".join(torch.__version__.split(".")[:2])
PROGRAM = """
import sys, torch, isthmus
module = torch.nn.Linear(4, 2)
isthmus.export(module, (torch.ones(2, 4),), path=sys.argv[1], formats=["torchscript"])
assert isthmus.verify(sys.argv[1])
print(isthmus.__file__)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def clean_environment(folder: Path) -> Path:
    """Makes an environment with everything that is installed here but isthmus."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    for entry in PACKAGES.iterdir():
        if "isthmus" not in entry.name:
            (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def test_a_wheel_runs_in_a_clean_environment(tmp_path: Path) -> None:
    output = tmp_path / "dist"
    command = [ROOT / "scripts" / "wheel", "--torch", Path(torch.__file__).parent]
    made = subprocess.run(
        [sys.executable, *command, "--output", output], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = output.glob("isthmus-*.whl")
    assert "manylinux" in wheel.name
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        requirements = opened.read(metadata).decode()
        here = str(PACKAGES).encode()
        assert not any(here in opened.read(name) for name in names if name.endswith(".so"))
    assert f"isthmus/lib/engines/torch-{MINOR}/libisthmus_libtorch.so" in names
    assert not any("libtorch_cpu" in name or "libc10" in name for name in names)
    assert f"Requires-Dist: torch>={MINOR}," in requirements

    python = clean_environment(tmp_path / "venv")
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    for arguments in (
        ("-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel),
        ("-c", PROGRAM, tmp_path / "bundle"),
    ):
        done = subprocess.run(
            [python, *arguments], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert str(tmp_path / "venv") in done.stdout
    program = [python.with_name("isthmus-run"), "verify", tmp_path / "bundle"]
    verified = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
