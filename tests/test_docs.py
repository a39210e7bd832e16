"""The documents name folders and files that exist, and the architecture names every folder."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = (ROOT / "docs/architecture.md", ROOT / "docs/images/architecture.svg")
DOCUMENTS = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    + list((ROOT / "docs").glob("*.md"))
    + list((ROOT / "benchmarks").glob("*.md"))
)
# A changelog names paths as they were at the time.
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"] + [ARCHITECTURE[1]]
PATH = re.compile(
    r"(?<![\w./-])(?:python/isthmus|cpp|tests|scripts|examples|benchmarks|docs)"
    r"(?:/[\w-]+(?:\.[\w-]+)*)+"
)
PLACEHOLDER = re.compile(r"/[A-Z]+\b")
FENCED_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"(?<![\w/.-])isthmus(?:\.[A-Za-z_]\w*)+")
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def paths_named(document: Path) -> set[str]:
    return {path for path in PATH.findall(document.read_text()) if not PLACEHOLDER.search(path)}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def folders_below(top: str) -> set[str]:
    return {
        relative(folder)
        for folder in (ROOT / top).rglob("*")
        if folder.is_dir()
        and "__pycache__" not in folder.parts
        and any(child.is_file() for child in folder.iterdir())
    }


def anchor(heading: str) -> str:
    """Returns the anchor that GitHub gives to a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@pytest.mark.parametrize("document", CURRENT, ids=relative)
def test_documents_name_paths_that_exist(document: Path) -> None:
    missing = {path for path in paths_named(document) if not (ROOT / path).exists()}
    assert not missing


def is_python_name(name: str) -> bool:
    """Returns True when a dotted name is that of a module or of something in a module."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.mark.parametrize("document", CURRENT, ids=relative)
def test_documents_name_python_modules_and_functions_that_exist(document: Path) -> None:
    missing = {name for name in MODULE.findall(document.read_text()) if not is_python_name(name)}
    assert not missing


def test_documents_name_the_versions_of_the_schemas() -> None:
    from isthmus.bundle_diff import report as diff
    from isthmus.proof import verify_report
    from isthmus.proof.replay import records
    from isthmus.proof.replay import report as replay
    from isthmus.reports import bundle_document
    from isthmus.timing import bench_report

    modules = (diff, verify_report, records, replay, bundle_document, bench_report)
    versions = {module.SCHEMA: module.SCHEMA_VERSION for module in modules}
    named = {
        schema: int(version)
        for path in (ROOT / "docs").glob("*.md")
        for schema, version in re.findall(r"`(isthmus-\w+)`, version (\d+)", path.read_text())
    }
    assert named == versions


@pytest.mark.parametrize("top", ["python/isthmus", "cpp/core", "cpp/engines"])
def test_the_architecture_names_every_folder(top: str) -> None:
    missing = folders_below(top) - paths_named(ARCHITECTURE[0])
    assert not missing


def test_the_picture_shows_every_folder_of_the_data_way() -> None:
    direct = {
        folder
        for top in ("python/isthmus", "cpp/core", "cpp/engines")
        for folder in folders_below(top)
        if folder.count("/") == 2
    }
    missing = direct - paths_named(ARCHITECTURE[1])
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_relative_links_point_to_files_and_headings(path: Path) -> None:
    broken = []
    for link in LINK.findall(FENCED_CODE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists():
            broken.append(link)
        elif fragment and target.suffix == ".md":
            text = FENCED_CODE.sub("", target.read_text())
            if fragment not in {anchor(heading) for heading in HEADING.findall(text)}:
                broken.append(link)
    assert not broken


def test_the_text_of_the_picture_is_large_enough() -> None:
    """The picture is 900 units wide, so that a unit is a pixel at a width of 900 pixels."""
    text = ARCHITECTURE[1].read_text()
    assert 'viewBox="0 0 900 ' in text
    sizes = [int(size) for size in re.findall(r'font-size(?::\s*|=")(\d+)', text)]
    assert sizes and min(sizes) >= 12


def readme_steps() -> list[tuple[str, str]]:
    """Returns language and text of each code block below the heading of the four steps."""
    _, steps = (ROOT / "README.md").read_text().split("\n## Your own module, in four steps\n")
    return re.findall(r"^```(\w+)\n(.*?)^```", steps, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_steps_of_the_readme_work(tmp_path: Path) -> None:
    """Exports, proves, builds and calls a module by the README's code alone."""
    source, prove, cmake, program, build = (text for _, text in readme_steps())
    (tmp_path / "make_net.py").write_text(source)
    (tmp_path / "CMakeLists.txt").write_text(cmake)
    (tmp_path / "main.cpp").write_text(program)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = "set -e\npython make_net.py\n" + prove + build
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
    assert "float32[3, 4]" in done.stdout.splitlines()[-1]
