"""Operators of other packages: found by package, named, carried by a deployment, else refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.native_engines import compile_operators

import isthmus
from isthmus.runtime import install_paths

pytestmark = pytest.mark.slow

EXPORT = """
import sys, torch, isthmus, twice_ops
class Twice(torch.nn.Module):
    def forward(self, x):
        return torch.ops.isthmus_test.twice(x) + 1
isthmus.export(Twice(), (torch.randn(2, 4),), path=sys.argv[1], formats=sys.argv[2].split(","))
"""
LOAD = """
import sys, torch, isthmus
model = isthmus.load(sys.argv[1], engine=sys.argv[2], trust="native")
print(model(torch.ones(2, 4)).tolist())
print(model.load_report.op_libraries[0])
print(model.load_report.notes)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for Python's path with the installed package twice-ops 1.2 and its operators."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "twice_ops").mkdir()
    compile_operators(folder / "twice_ops" / "_C.so")
    (folder / "twice_ops" / "__init__.py").write_text(
        "import pathlib, torch\n"
        "torch.ops.load_library(str(pathlib.Path(__file__).with_name('_C.so')))\n"
    )
    facts = folder / "twice_ops-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: twice-ops\nVersion: 1.2\n")
    files = ("twice_ops/__init__.py", "twice_ops/_C.so")
    (facts / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    return folder


@pytest.fixture(scope="module")
def bundle(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "bundle"
    done = python(EXPORT, path, "torchscript,aoti", site=site)
    assert done.returncode == 0, done.stderr
    return path


def python(
    code: str, *arguments: object, site: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site or "")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("artifact", ["torchscript", "aoti"])
def test_the_manifest_names_the_package_and_no_path(
    bundle: Path, site: Path, artifact: str
) -> None:
    exported = isthmus.open_bundle(bundle)
    (library,) = exported.artifact(f"{artifact}-cpu-fp32").op_libraries
    assert (library.namespace, library.library) == ("isthmus_test", "_C.so")
    assert (library.package, library.version) == ("twice-ops", "1.2")
    assert str(site) not in (bundle / "manifest.json").read_text()


@pytest.mark.parametrize("engine", ["torchscript", "aoti"])
def test_python_opens_the_installed_package_and_says_so(
    bundle: Path, site: Path, engine: str
) -> None:
    done = python(LOAD, bundle, engine, site=site)
    assert done.returncode == 0, done.stderr
    answer, library, notes = done.stdout.splitlines()
    assert json.loads(answer) == [[3.0] * 4] * 2
    assert Path(library) == site / "twice_ops" / "_C.so"
    assert library in notes


@pytest.mark.parametrize("engine", ["torchscript", "aoti"])
def test_a_package_that_is_not_installed_is_named(bundle: Path, engine: str) -> None:
    done = python(LOAD, bundle, engine)
    assert done.returncode != 0
    assert "isthmus_test::twice" in done.stderr
    assert "_C.so of the Python package twice-ops 1.2" in done.stderr
    assert "pip install twice-ops==1.2" in done.stderr


def test_a_package_without_these_operators_is_not_opened(
    bundle: Path, site: Path, tmp_path: Path
) -> None:
    other = tmp_path / "site"
    (other / "twice_ops").mkdir(parents=True)
    (other / "twice_ops" / "_C.so").write_bytes(b"\0libtorch.so\0another\0")
    facts = other / "twice_ops-1.2.dist-info"
    facts.mkdir()
    for name in ("METADATA", "RECORD"):
        (facts / name).write_text((site / "twice_ops-1.2.dist-info" / name).read_text())
    done = python(LOAD, bundle, "torchscript", site=other)
    assert done.returncode != 0
    assert "twice-ops 1.2" in done.stderr


def test_verify_and_doctor_of_the_binary_name_it(bundle: Path, site: Path) -> None:
    run = [str(install_paths.binary())]
    verified = subprocess.run(
        [*run, "verify", bundle, "--engine", "torchscript"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode in (3, 4)
    assert "pip install twice-ops==1.2" in verified.stderr
    doctor = subprocess.run(
        [*run, "doctor", bundle, "--json"], capture_output=True, text=True, check=False
    )
    assert "isthmus_test (_C.so of the Python package twice-ops 1.2)" in doctor.stdout
    library = site / "twice_ops" / "_C.so"
    named = subprocess.run(
        [*run, "verify", bundle, "--engine", "torchscript", "--op-library", library],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert named.returncode == 0, named.stdout + named.stderr


def test_a_library_that_calls_python_is_refused_without_python(
    bundle: Path, tmp_path: Path
) -> None:
    calls = 'extern "C" const char* Py_GetVersion(); const char* (*calls)() = Py_GetVersion;'
    library = compile_operators(tmp_path / "calls.so", calls)
    done = subprocess.run(
        [install_paths.binary(), "verify", bundle, "--engine", "torchscript",
         "--op-library", library],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (3, 4)
    assert "Py_GetVersion" in done.stderr
    assert "it calls Python, which this process does not have" in done.stderr


def test_a_deployment_carries_the_library(bundle: Path, site: Path, tmp_path: Path) -> None:
    deploy = "import sys, isthmus; isthmus.deploy(sys.argv[1], sys.argv[2], engine='torchscript')"
    refused = python(deploy, bundle, tmp_path / "app")
    assert "twice-ops, which is no installed package" in refused.stderr
    assert not (tmp_path / "app").exists()
    done = python(deploy, bundle, tmp_path / "app", site=site)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "app" / "lib" / "operators" / "isthmus_test.so").is_file()
    for command in ("verify", "doctor"):
        ran = subprocess.run(
            [tmp_path / "app" / "bin" / "isthmus-run", command, tmp_path / "app" / "bundle"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_namespace_that_is_a_path_finds_no_file(bundle: Path, tmp_path: Path) -> None:
    """A manifest cannot lead the loader out of the folder of operators."""
    engines = tmp_path / "engines"
    (engines / "operators").mkdir(parents=True)
    (tmp_path / "evil.so").write_bytes(b"no library")
    changed = tmp_path / "bundle"
    text = (bundle / "manifest.json").read_text()
    subprocess.run(["cp", "-r", bundle, changed], check=True)
    namespace = '"namespace": "isthmus_test"'
    assert namespace in text
    (changed / "manifest.json").write_text(text.replace(namespace, '"namespace": "../../evil"'))
    done = subprocess.run(
        [install_paths.binary(), "verify", changed, "--engine", "torchscript",
         "--engine-path", engines],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (3, 4)
    assert 'evil.so" cannot be opened' not in done.stderr
