"""Pins every format that reports print."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from xml.etree import ElementTree

import pytest

from isthmus.document import (
    Case,
    Document,
    Table,
    number,
    to_json,
    to_junit,
    to_markdown,
    to_text,
)


@dataclass(frozen=True)
class Fixed:
    """A report with every feature."""

    passed: bool = False

    def document(self) -> Document:
        return Document(
            title="isthmus verify toy",
            schema="isthmus-verify",
            schema_version=1,
            context={"machine": "Linux", "threads": "2"},
            tables=(
                Table(
                    title="Parity",
                    columns=("runner", "max abs"),
                    rows=(("torch.jit", "0"), ("a|b", "1e-07")),
                    marks=(True, False),
                    numeric=frozenset({"max abs"}),
                ),
            ),
            passed=self.passed,
            verdict="FAILED: a reason",
            rows=({"runner": "torch.jit", "max_abs": math.nan, "inner": [math.inf, 1.5]},),
            cases=(
                Case("torch.jit on cpu", seconds=1.5),
                Case("eager on cpu", failure="too far\nby 3", output="numbers"),
                Case("eager on cuda", skipped="no CUDA device <here>"),
            ),
            notes=("busy",),
            extra={"comparisons": []},
        )


def test_json_names_its_schema_and_has_no_bare_nan() -> None:
    data = json.loads(to_json(Fixed()), parse_constant=lambda name: pytest.fail(name))
    assert data == {
        "schema": "isthmus-verify",
        "schema_version": 1,
        "context": {"machine": "Linux", "threads": "2"},
        "rows": [{"runner": "torch.jit", "max_abs": "nan", "inner": ["inf", 1.5]}],
        "comparisons": [],
        "notes": ["busy"],
        "passed": False,
        "verdict": "FAILED: a reason",
    }
    assert list(data)[:3] == ["schema", "schema_version", "context"], "context before numbers"


def test_junit_counts_failures_and_skips() -> None:
    root = ElementTree.fromstring(to_junit(Fixed()))
    suite = root.find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped", "time")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "time": "1.500",
    }
    good, bad, absent = suite.findall("testcase")
    assert list(good) == []
    failure = bad.find("failure")
    assert failure is not None
    assert (failure.get("message"), failure.text) == ("too far", "too far\nby 3")
    assert bad.findtext("system-out") == "numbers"
    skipped = absent.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "no CUDA device <here>"


def test_junit_leaves_out_control_characters() -> None:
    class Odd(Fixed):
        def document(self) -> Document:
            return Document(
                title="",
                schema="s",
                schema_version=1,
                context={"colour": "\x1b[31mred"},
                tables=(),
                passed=False,
                verdict="",
                rows=(),
                cases=(Case("bell\x07", failure="nul\x00l"),),
            )

    root = ElementTree.fromstring(to_junit(Odd()))
    assert root.find(".//property").get("value") == "[31mred"  # type: ignore[union-attr]
    assert root.find(".//testcase").get("name") == "bell"  # type: ignore[union-attr]
    assert root.find(".//failure").text == "null"  # type: ignore[union-attr]


def test_markdown() -> None:
    assert to_markdown(Fixed()) == (
        "## isthmus verify toy\n"
        "\n"
        "- machine: Linux\n"
        "- threads: 2\n"
        "\n"
        "### Parity\n"
        "\n"
        "| runner | max abs |\n"
        "| - | -: |\n"
        "| torch.jit | 0 |\n"
        "| a\\|b | 1e-07 |\n"
        "\n"
        "- busy\n"
        "\n"
        "**FAILED: a reason**\n"
    )


def test_console_prints_context_first_and_the_verdict_last() -> None:
    lines = [line for line in to_text(Fixed()).splitlines() if line.strip()]
    assert lines[0] == "isthmus verify toy"
    assert lines[1:3] == ["  machine: Linux", "  threads: 2"]
    assert lines[3].strip() == "Parity"
    assert any("torch.jit" in line and line.rstrip().endswith("0 │") for line in lines)
    assert lines[-2:] == ["note: busy", "FAILED: a reason"]


def test_console_does_not_read_markup_in_cells() -> None:
    class Marked(Fixed):
        def document(self) -> Document:
            table = Table("t", ("[a]",), (("[red]x[/red]",),))
            return Document("[b]", "s", 1, {}, (table,), True, "[/c]", ())

    text = to_text(Marked())
    assert all(mark in text for mark in ("[b]", "[a]", "[red]x[/red]", "[/c]"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (1.0, "1"),
        (1.23456e-7, "1.23e-07"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (41.26, "41.3"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_narrow_terminal_gets_upright_tables() -> None:
    wide = Table("t", tuple(f"column {at}" for at in range(9)), (tuple("123456789"),))

    class Wide(Fixed):
        def document(self) -> Document:
            return Document("", "s", 1, {}, (wide,), True, "", ())

    assert "column 0 ┃ column 1" in to_text(Wide(), width=180)
    narrow = to_text(Wide(), width=60)
    assert "column 0 ┃ column 1" not in narrow
    assert "│ column 8 │ 9 │" in narrow
    assert all(len(line) <= 60 for line in narrow.splitlines())
