"""An installation has engines for several versions of torch, and says what to do when none fits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from isthmus.runtime import install_paths

REAL = Path(torch.__file__).parent
MINOR = ".".join(torch.__version__.split(".")[:2])


class Installation:
    """An environment with a copy of the installed libraries, and with a torch of any version."""

    def __init__(self, prefix: Path) -> None:
        self.python = prefix / "bin" / "python"
        self.packages = prefix / "lib" / "python3.11" / "site-packages"
        self.package = self.packages / "isthmus"
        self.python.parent.mkdir(parents=True)
        self.python.touch()
        (self.packages / "pip").mkdir(parents=True)
        shutil.copytree(install_paths.lib_dir(), self.package / "lib")
        (self.package / "bin").mkdir()
        shutil.copy2(install_paths.binary(), self.package / "bin")

    def engine_for(self, minor: str) -> Path:
        """Puts a library that is none beside the engine that is there; returns its path."""
        file = self.package / "lib" / "engines" / f"torch-{minor}" / "libisthmus_libtorch.so"
        file.parent.mkdir()
        file.touch()
        return file

    def put_torch(self, version: str) -> None:
        (self.packages / "torch" / "lib").mkdir(parents=True)
        (self.packages / "torch" / "lib" / "libtorch_cpu.so").touch()
        (self.packages / "torch" / "version.py").write_text(f"__version__ = '{version}'\n")

    def torchscript(self, **variables: str) -> dict[str, Any]:
        """Returns what `isthmus-run doctor` says about the engine."""
        inherited = {key: value for key, value in os.environ.items() if key != "ISTHMUS_LIBTORCH"}
        done = subprocess.run(
            [self.package / "bin" / "isthmus-run", "doctor", "--json"],
            capture_output=True,
            text=True,
            env={**inherited, **variables},
            check=False,
        )
        rows = json.loads(done.stdout)["rows"]
        (row,) = (row for row in rows if row.get("engine") == "torchscript")
        return row  # type: ignore[no-any-return]


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "venv")


def test_the_engine_for_the_torch_that_is_found_is_taken(here: Installation) -> None:
    here.engine_for("2.99")
    (here.packages / "torch").symlink_to(REAL)
    row = here.torchscript()
    assert row["ready"], row
    assert f"built for torch {MINOR} and 2.99" in str(row)


def test_a_torch_that_nothing_fits_is_answered_with_commands(here: Installation) -> None:
    here.put_torch("2.98.1+cpu")
    reason = here.torchscript()["reason"]
    assert f"built for torch {MINOR}, found torch 2.98.1+cpu in {here.packages}" in reason
    assert f"`{here.python} -m pip install 'torch=={MINOR}.*'`" in reason
    assert "build isthmus" not in reason  # nothing tells where it was installed from

    source = here.packages / "source"
    source.mkdir()
    record = here.packages / "isthmus-9.9.9.dist-info" / "direct_url.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"url": f"file://{source}", "dir_info": {}}))
    shutil.rmtree(here.packages / "pip")
    here.engine_for("2.97")
    reason = here.torchscript()["reason"]
    assert f"built for torch {MINOR} and 2.97" in reason
    assert f"`uv pip install --python {here.python} 'torch==2.97.*'`" in reason
    assert f"`uv pip install --python {here.python} --force-reinstall --no-deps {source}`" in reason


def test_a_torch_that_is_damaged_is_installed_again(here: Installation) -> None:
    here.put_torch(MINOR + ".0")
    reason = here.torchscript()["reason"]
    assert f"LibTorch in {here.packages / 'torch' / 'lib'} cannot be opened" in reason
    assert f"`{here.python} -m pip install --force-reinstall 'torch=={MINOR}.*'`" in reason


def test_without_a_torch_the_command_gets_one(here: Installation, tmp_path: Path) -> None:
    reason = here.torchscript(ISTHMUS_LIBTORCH=str(tmp_path))["reason"]
    assert f"ISTHMUS_LIBTORCH={tmp_path} holds no lib/libtorch_cpu.so" in reason
    assert f"`{here.python} -m pip install 'torch=={MINOR}.*'`" in reason


def test_a_torch_that_is_named_is_not_replaced_by_a_command(
    here: Installation, tmp_path: Path
) -> None:
    here.put_torch("2.98.1")
    reason = here.torchscript(ISTHMUS_LIBTORCH=str(here.packages / "torch"))["reason"]
    assert "unset ISTHMUS_LIBTORCH, or let it name a LibTorch that fits" in reason
    assert "pip install 'torch" not in reason


def test_an_engine_of_another_isthmus_is_refused(here: Installation) -> None:
    (here.packages / "torch").symlink_to(REAL)
    file = here.package / "lib" / "engines" / f"torch-{MINOR}" / "libisthmus_libtorch.so"
    source = here.packages / "other.c"
    source.write_text(
        'const char* isthmus_release(void) { return "0.0.1"; }\n'
        "const void* isthmus_libtorch_runtime(const void* c) { return c; }\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", file, source], check=True)
    reason = here.torchscript()["reason"]
    assert "is of isthmus 0.0.1, and this is isthmus" in reason
