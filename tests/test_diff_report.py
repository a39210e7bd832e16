"""The verdicts and tables of a diff."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from isthmus.bundle_diff.accuracy import Accuracy
from isthmus.bundle_diff.findings import Change
from isthmus.bundle_diff.report import DiffReport, Side
from isthmus.document import to_json, to_text


def accuracy(before: float, after: float, own: float = 1e-7, elements: int = 1000) -> str:
    return Accuracy("e", "y", before, after, own, own, elements, "all").verdict


def test_an_error_is_worse_only_beyond_rounding() -> None:
    assert accuracy(1e-7, 1.5e-7) == "same"
    assert accuracy(1e-7, 3e-7) == "worse"
    assert accuracy(3e-7, 1e-7) == "better"
    assert accuracy(1e-9, 9e-9) == "same", "nine times nothing is nothing"
    assert accuracy(0.0, 1e-6) == "worse"
    assert accuracy(1e-7, 1e-6, elements=10) == "too few elements"


def report_of(*changes: Change, **more: Any) -> DiffReport:
    side = Side("p", "n", "", {})
    return DiffReport(side, side, changes=changes, ran=False, **more)


def test_the_exit_is_chosen_by_severity() -> None:
    worse = Change("speed", "torchscript", "a call", "1 ms", "2 ms", "worse")
    better = replace(worse, severity="better")
    changed = replace(worse, severity="changed")
    breaking = replace(worse, severity="breaking", what="gone")
    assert report_of(better, changed)
    assert not report_of(changed, worse)
    assert report_of(changed, worse, fail_on="breaking")
    assert not report_of(changed, fail_on="changed")
    assert report_of(better, fail_on="changed")
    assert report_of(worse, breaking).failures == (breaking, worse)
    assert report_of(worse, breaking).counts == {
        "breaking": 1,
        "worse": 1,
        "changed": 0,
        "better": 0,
    }


def test_long_lists_are_cut_unless_all_is_asked_for() -> None:
    changes = [Change("operators", "a", f"aten::op{at}", "1", "2", "changed") for at in range(40)]
    short, full = report_of(*changes), report_of(*changes, full=True)
    assert "25 more, with --full or --json" in to_text(short)
    assert "aten::op39" not in to_text(short)
    assert "aten::op39" in to_text(full)
    assert len(json.loads(to_json(short))["rows"]) == 40
