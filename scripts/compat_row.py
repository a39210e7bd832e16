"""Writes the result of a run of pytest into the table of torch versions of a page."""

from __future__ import annotations

import argparse
import platform
import re
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path

HEADER = "| torch | Python | transformers | result |"


def result_of(junit: Path) -> str:
    """Returns the counts of a JUnit file, with the names of the tests that failed."""
    cases = ElementTree.parse(junit).getroot().findall(".//testcase")
    if not cases:
        raise SystemExit(f"{junit} has no tests: the run ended before the first one")
    files = {case.get("classname", "").removeprefix("tests.").partition(".")[0] for case in cases}
    skipped = sum(case.find("skipped") is not None for case in cases)
    failed = [
        case.get("name", "")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    passed = len(cases) - skipped - len(failed)
    counts = f"{passed} passed, {skipped} skipped, {len(failed)} failed, of {len(files)} test files"
    names = ", ".join(f"`{name}`" for name in failed).replace("|", "\\|")
    return f"{counts}: {names}" if failed else counts


def with_row(page: str, row: tuple[str, str, str, str]) -> str:
    """Returns the page with a row for this torch and Python; an older one is replaced."""
    lines = page.splitlines()
    if HEADER not in lines:
        raise SystemExit(f"the page has no table with the header {HEADER}")
    start = lines.index(HEADER) + 2
    end = start
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    same = f"| {row[0]} | {row[1]} | "
    rows = [line for line in lines[start:end] if not line.startswith(same)]
    rows.append("| " + " | ".join(row) + " |")
    rows.sort(key=lambda line: [int(number) for number in re.findall(r"\d+", line)[:3]])
    return "\n".join([*lines[:start], *rows, *lines[end:]]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("junit", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    import torch

    row = (
        torch.__version__,
        platform.python_version(),
        version("transformers"),
        result_of(options.junit),
    )
    options.page.write_text(with_row(options.page.read_text(), row))
    print(" | ".join(row))


if __name__ == "__main__":
    main()
