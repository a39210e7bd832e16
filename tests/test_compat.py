"""The row that scripts/compat writes, and the requirement and merge of scripts/wheel."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str) -> ModuleType:
    """Imports a script, whose name need not end with .py."""
    loader = importlib.machinery.SourceFileLoader(f"script_{name}", str(SCRIPTS / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = kept
    return module


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="one"/>
<testcase classname="tests.test_a.TestB" name="two"><skipped/></testcase>
<testcase classname="tests.test_c" name="three[a|b]"><failure/></testcase>
</testsuite></testsuites>"""

PAGE = """Text.

| torch | Python | transformers | result |
| --- | --- | --- | --- |
| 2.9.0 | 3.11.7 | 5.0 | old |
| 2.13.0 | 3.11.7 | 5.0 | old |

More text.
"""


def test_a_result_counts_and_names_what_failed(tmp_path: Path) -> None:
    compat = script("compat_row.py")
    junit = tmp_path / "tests.xml"
    junit.write_text(JUNIT)
    assert compat.result_of(junit) == (
        "1 passed, 1 skipped, 1 failed, of 2 test files: `three[a\\|b]`"
    )
    junit.write_text("<testsuites><testsuite/></testsuites>")
    with pytest.raises(SystemExit, match="has no tests"):
        compat.result_of(junit)


def test_a_row_is_renewed_or_added_in_the_order_of_versions() -> None:
    compat = script("compat_row.py")
    renewed = compat.with_row(PAGE, ("2.9.0", "3.11.7", "6.0", "new"))
    assert renewed == PAGE.replace(
        "| 2.9.0 | 3.11.7 | 5.0 | old |", "| 2.9.0 | 3.11.7 | 6.0 | new |"
    )
    added = compat.with_row(PAGE, ("2.11.0", "3.11.7", "6.0", "new")).splitlines()
    assert added.index("| 2.11.0 | 3.11.7 | 6.0 | new |") == 5
    assert added[-1] == "More text."
    with pytest.raises(SystemExit, match="no table"):
        compat.with_row("Text.\n", ("2.9.0", "3.11.7", "6.0", "new"))


@pytest.mark.parametrize(
    "versions, requirement",
    [
        ([(2, 13)], "torch>=2.13,<2.14"),
        ([(2, 14), (2, 13)], "torch>=2.13,<2.15"),
        ([(2, 11), (2, 14)], "torch>=2.11,<2.15,!=2.12.*,!=2.13.*"),
    ],
)
def test_a_wheel_requires_the_versions_that_it_has_engines_for(
    versions: list[tuple[int, int]], requirement: str
) -> None:
    assert script("wheel").requirement(versions) == requirement


def test_wheels_are_merged_only_when_their_cores_are_the_same(tmp_path: Path) -> None:
    wheel = script("wheel")
    for name, minor in (("a", "2.13"), ("b", "2.14")):
        lib = tmp_path / name / "isthmus" / "lib"
        (lib / "engines" / f"torch-{minor}").mkdir(parents=True)
        (lib / "libisthmus.so").write_text("core")
        (lib / "engines" / f"torch-{minor}" / "libisthmus_libtorch.so").write_text(minor)
    wheel.merge(tmp_path / "a", tmp_path / "b")
    assert sorted(wheel.engines(tmp_path / "a")) == [(2, 13), (2, 14)]
    (tmp_path / "b" / "isthmus" / "lib" / "libisthmus.so").write_text("another core")
    with pytest.raises(SystemExit, match=r"libisthmus\.so is not the same"):
        wheel.merge(tmp_path / "a", tmp_path / "b")
