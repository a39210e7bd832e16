"""What the bundles were made with, what their artifacts need, and how artifacts are paired."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diff_bundles import ARTIFACT, FILE, bundle_of, method, severities
from isthmus.bundle.manifest import Artifact, FileEntry, Hazard
from isthmus.bundle_diff.findings import Findings, Severity
from isthmus.bundle_diff.pairs import pair_artifacts
from isthmus.bundle_diff.requirements import compare_requirements


def requirement_changes(before: Artifact, after: Artifact, **more: Any) -> dict[str, Severity]:
    findings = Findings()
    sides = [replace(bundle_of(method()), artifacts=(artifact,)) for artifact in (before, after)]
    sides[1] = replace(sides[1], **more)
    compare_requirements(*sides, pair_artifacts(*sides), findings)
    return severities(findings)


BIG = replace(FILE, size=1_000_000)
HAZARD = Hazard("tracer_warning", "warning", "a branch", "a.py:3")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (ARTIFACT, ARTIFACT, {}),
        (ARTIFACT, replace(ARTIFACT, name="b"), {"name": "breaking"}),
        (ARTIFACT, replace(ARTIFACT, trust="native"), {"trust": "breaking"}),
        (replace(ARTIFACT, trust="native"), ARTIFACT, {"trust": "changed"}),
        (replace(ARTIFACT, devices=("cpu", "cuda")), ARTIFACT, {"devices": "breaking"}),
        (ARTIFACT, replace(ARTIFACT, devices=("cpu", "cuda")), {"devices": "changed"}),
        (ARTIFACT, replace(ARTIFACT, requires={"isa": "avx2"}), {"requires isa": "breaking"}),
        (
            replace(ARTIFACT, requires={"isa": "avx2 avx512f"}),
            replace(ARTIFACT, requires={"isa": "avx2"}),
            {"requires isa": "changed"},
        ),
        (ARTIFACT, replace(ARTIFACT, requires={"torch": "3"}), {"requires torch": "changed"}),
        (
            replace(ARTIFACT, files=(BIG,)),
            replace(ARTIFACT, files=(replace(BIG, size=1_200_000),)),
            {"size": "worse"},
        ),
        (
            replace(ARTIFACT, files=(BIG,)),
            replace(ARTIFACT, files=(replace(BIG, size=1_050_000),)),
            {},
        ),
        (ARTIFACT, replace(ARTIFACT, hazards=(HAZARD,)), {"hazard: a branch": "worse"}),
        (replace(ARTIFACT, hazards=(HAZARD,)), ARTIFACT, {"hazard: a branch": "better"}),
        (
            replace(ARTIFACT, hazards=(HAZARD,)),
            replace(ARTIFACT, hazards=(replace(HAZARD, where="a.py:9"),)),
            {},
        ),
    ],
)
def test_what_an_artifact_needs(
    before: Artifact, after: Artifact, expected: dict[str, Severity]
) -> None:
    assert requirement_changes(before, after) == expected


def test_what_the_bundle_was_made_with() -> None:
    assert requirement_changes(ARTIFACT, ARTIFACT, producer={"torch": "3"}) == {
        "made with torch": "changed"
    }
    extra = FileEntry("tokenizer/t.json", 1, "a" * 64)
    assert requirement_changes(ARTIFACT, ARTIFACT, files=(extra,)) == {
        "file tokenizer/t.json": "changed"
    }


def test_artifacts_are_paired_by_name_then_by_likeness() -> None:
    half = replace(ARTIFACT, name="half", precision="fp16")
    onnx = replace(ARTIFACT, name="o", format="onnx")
    left = replace(bundle_of(method()), artifacts=(ARTIFACT, half))
    right = replace(bundle_of(method()), artifacts=(onnx, replace(half, name="h"), ARTIFACT))
    assert [pair_artifact.name for pair_artifact in pair_artifacts(left, right)] == [
        "a",
        "half -> h",
        "o",
    ]
