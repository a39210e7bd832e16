"""The build backend finds the torch of the environment that a build is called from."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = Path(sysconfig.get_path("purelib"))
BUILD = "build/test-build-backend"
"""A build folder of their own, because a hook clears that of a build that is going on."""
HOOK = """
import os, sys
os.chdir({root!r})
sys.path.insert(0, "build_backend")
import isthmus_build
settings = {{"build-dir": sys.argv[2]}}
print("RESULT", getattr(isthmus_build, sys.argv[1])(*sys.argv[3:], config_settings=settings))
"""


def environment(folder: Path) -> Path:
    """Makes a virtual environment; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def put_torch(folder: Path, version: str) -> None:
    """Puts a torch that cannot be imported into a folder of packages."""
    package = folder / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('torch was imported')\n")
    (package / "version.py").write_text(f"__version__ = '{version}'\ncuda = None\n")


def packages_of(python: Path) -> Path:
    return python.parents[1] / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"


@pytest.fixture(scope="session")
def requirements(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the requirements of the build and nothing else, as build isolation makes it."""
    folder = tmp_path_factory.mktemp("overlay")
    for name in ("scikit_build_core", "packaging", "pathspec"):
        (folder / name).symlink_to(PACKAGES / name)
    return folder


def hook(
    python: Path, name: str, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "ISTHMUS_LIBTORCH", "LibTorch_ROOT")
    inherited = {key: value for key, value in os.environ.items() if key not in hidden}
    return subprocess.run(
        [python, "-c", HOOK.format(root=str(ROOT)), name, BUILD, *arguments],
        capture_output=True,
        text=True,
        env={**inherited, **variables},
        check=False,
    )


def isolated(requirements: Path, own: Path) -> dict[str, str]:
    """Returns the variables by which pip hides an environment from the build."""
    (requirements / "sitecustomize.py").write_text(
        "import sys\n"
        "sys.path[:] = [entry for entry in sys.path if not entry.endswith('site-packages')]\n"
    )
    assert own.exists()
    return {"PYTHONPATH": str(requirements), "PYTHONNOUSERSITE": "1"}


def required_torch(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    assert done.returncode == 0, done.stderr
    (metadata,) = folder.glob("*.dist-info/METADATA")
    (line,) = (
        line
        for line in metadata.read_text().splitlines()
        if line.startswith("Requires-Dist: torch")
    )
    return line.removeprefix("Requires-Dist: ")


@pytest.mark.parametrize(
    "version, requirement",
    [("2.11.0+cpu", "torch==2.11.*"), ("2.14.1+cu130", "torch==2.14.*")],
)
def test_isolation_builds_against_the_installed_torch(
    version: str, requirement: str, requirements: Path, tmp_path: Path
) -> None:
    python = environment(tmp_path / "venv")
    put_torch(packages_of(python), version)
    variables = isolated(requirements, python)
    done = hook(python, "get_requires_for_build_wheel", **variables)
    assert done.returncode == 0, done.stderr
    assert "RESULT []" in done.stdout  # nothing is downloaded
    done = hook(python, "prepare_metadata_for_build_wheel", tmp_path, **variables)
    assert required_torch(done, tmp_path) == requirement


def test_without_a_torch_the_newest_one_becomes_a_requirement(
    requirements: Path, tmp_path: Path
) -> None:
    python = environment(tmp_path / "venv")
    variables = isolated(requirements, python)
    for name in ("get_requires_for_build_wheel", "get_requires_for_build_editable"):
        assert "RESULT ['torch==2.14.*']" in hook(python, name, **variables).stdout
    # pip puts it into the folder of the requirements, and there it is built against.
    overlay = tmp_path / "overlay"
    put_torch(overlay, "2.14.3")
    variables["PYTHONPATH"] += f":{overlay}"
    done = hook(python, "prepare_metadata_for_build_wheel", tmp_path, **variables)
    assert required_torch(done, tmp_path) == "torch==2.14.*"


def test_a_build_without_isolation_says_what_to_install(requirements: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    done = hook(python, "build_wheel", tmp_path, PYTHONPATH=str(requirements))
    assert done.returncode == 1
    assert "pip install 'torch==2.14.*'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_torch_that_is_too_old_is_refused(requirements: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    put_torch(packages_of(python), "2.10.2")
    done = hook(python, "get_requires_for_build_wheel", **isolated(requirements, python))
    assert done.returncode == 1
    assert "2.11 or later, found torch 2.10.2" in done.stderr
    assert str(packages_of(python) / "torch") in done.stderr


def test_a_torch_that_is_named_comes_first(requirements: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    put_torch(packages_of(python), "2.13.0")
    unpacked = tmp_path / "libtorch"
    unpacked.mkdir()
    variables = {**isolated(requirements, python), "ISTHMUS_LIBTORCH": str(unpacked)}
    done = hook(python, "prepare_metadata_for_build_wheel", tmp_path, **variables)
    assert done.returncode == 1
    assert f"{unpacked}, which" in done.stderr
    (unpacked / "build-version").write_text("2.12.1+cpu\n")
    done = hook(python, "prepare_metadata_for_build_wheel", tmp_path, **variables)
    assert required_torch(done, tmp_path) == "torch==2.12.*"


def test_uv_builds_against_the_torch_of_its_caller(requirements: Path, tmp_path: Path) -> None:
    """uv builds in an environment of its own, and is the parent of the process of the hook."""
    caller, own = environment(tmp_path / "venv"), environment(tmp_path / "uv")
    put_torch(packages_of(caller), "2.13.0")
    script = tmp_path / "frontend.sh"
    script.write_text(f'VIRTUAL_ENV={own.parents[1]} PYTHONPATH={requirements} "$@"; exit $?\n')
    (requirements / "sitecustomize.py").unlink(missing_ok=True)
    name = "prepare_metadata_for_build_wheel"
    command = [own, "-c", HOOK.format(root=str(ROOT)), name, BUILD, tmp_path]
    done = subprocess.run(
        ["sh", script, *command],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "VIRTUAL_ENV": str(caller.parents[1])},
        check=False,
    )
    assert required_torch(done, tmp_path) == "torch==2.13.*"


def test_a_source_distribution_is_made_for_any_torch(tmp_path: Path) -> None:
    done = hook(Path(sys.executable), "build_sdist", tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("isthmus-*.tar.gz")
    with tarfile.open(archive) as opened:
        names = opened.getnames()
        root = names[0].partition("/")[0]
        assert f"{root}/build_backend/isthmus_build.py" in names
        member = opened.extractfile(f"{root}/PKG-INFO")
        assert member is not None
        lines = member.read().decode().splitlines()
    assert "Dynamic: Requires-Dist" in lines
    assert "Requires-Dist: torch>=2.11" in lines
