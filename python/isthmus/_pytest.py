"""The pytest plugin: versions in the header, the `isthmus_parity` fixture, tables for failures.

Every run of pytest loads it where isthmus is installed, so it imports nothing heavy at import.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from isthmus.proof.verify_report import VerifyReport


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option `--isthmus-bundle PATH`."""
    group = parser.getgroup("isthmus")
    group.addoption(
        "--isthmus-bundle",
        metavar="PATH",
        default=None,
        help="bundle for the isthmus_bundle fixture; isthmus_parity() without a bundle verifies it",
    )


def pytest_report_header() -> str:
    """Returns the versions of isthmus and torch."""
    from isthmus.runtime.machine import version_of

    return f"isthmus: {version_of('isthmus')}, torch {version_of('torch')}"


@pytest.fixture
def isthmus_bundle(request: pytest.FixtureRequest) -> Path:
    """Returns the bundle of `--isthmus-bundle`; skips the test without one."""
    path = request.config.getoption("--isthmus-bundle")
    if path is None:
        pytest.skip("needs a bundle: pytest --isthmus-bundle PATH")
    return Path(path)


@pytest.fixture
def isthmus_parity(request: pytest.FixtureRequest) -> Callable[..., VerifyReport]:
    """Returns `assert_parity`, whose default is the bundle of `--isthmus-bundle`."""
    from isthmus.testing import assert_parity

    def parity(*args: Any, **kwargs: Any) -> VerifyReport:
        arguments = args or (request.getfixturevalue("isthmus_bundle"),)
        return assert_parity(*arguments, **kwargs)

    return parity


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Adds the whole table to the failure of a report."""
    outcome = yield
    error = call.excinfo.value if call.excinfo is not None else None
    # By name and attribute: importing the class would import isthmus for every failure.
    report = getattr(error, "report", None)
    if type(error).__name__ == "ParityError" and report is not None:
        outcome.get_result().sections.append(("isthmus parity", str(report)))
