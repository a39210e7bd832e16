"""Two bundles compared: what is told, how grave it is, and whether B is still A's model."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus import bundle_diff
from isthmus.bundle.bundle import Bundle
from isthmus.bundle.manifest import (
    Artifact,
    DimRange,
    FileEntry,
    Hazard,
    Manifest,
    Method,
    Tolerance,
    Tree,
    ValueRange,
    ValueSpec,
)
from isthmus.bundle_diff import diff
from isthmus.bundle_diff.accuracy import Accuracy
from isthmus.bundle_diff.archive import ArchiveContents, StoredTensor, read_archive_contents
from isthmus.bundle_diff.cross_check import refusal, tolerances_for
from isthmus.bundle_diff.findings import Change, Findings, Severity
from isthmus.bundle_diff.graph import Part, compare_graphs
from isthmus.bundle_diff.pairs import pair_artifacts
from isthmus.bundle_diff.report import DiffReport, Side
from isthmus.bundle_diff.requirements import compare_requirements
from isthmus.bundle_diff.signature import compare_signatures
from isthmus.bundle_diff.torchscript_code import torchscript_parts
from isthmus.bundle_diff.weights import compare_weights
from isthmus.document import to_json, to_junit, to_markdown, to_text
from isthmus.errors import BundleError, DeviceUnavailable, InvalidInput
from models import CASES

SCHEMA = json.loads(Path(bundle_diff.__file__).with_name("diff.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


class Net(nn.Module):
    """Two outputs, of which one is judged by its noise and one has to be equal."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(4, 64)
        self.act = nn.GELU(approximate=approximate)
        self.down = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.down(self.act(self.up(x)))
        return {"scores": scores, "best": scores.argmax(-1)}


class Renamed(Net):
    def forward(self, rows: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        scores = self.down(self.act(self.up(rows)))
        return {"logits": scores, "best": scores.argmax(-1), "sums": rows.sum(-1)}


class Wide(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x.float())


Make = Callable[..., Bundle]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Exports a module of this file under a name; the inputs are the same each time."""
    root = tmp_path_factory.mktemp("diff")

    def make(
        name: str,
        module: nn.Module,
        *,
        rows: tuple[int, int] = (1, 40),
        argument: str = "x",
        dtype: torch.dtype = torch.float32,
        formats: tuple[str, ...] = ("torchscript",),
    ) -> Bundle:
        torch.manual_seed(1)
        return isthmus.export(
            module.eval(),
            (torch.randn(6, 4).to(dtype),),
            path=root / name,
            dynamic={argument: {0: "batch"}},
            dims={"batch": rows},
            formats=formats,
        )

    return make


@pytest.fixture(scope="module")
def base(export: Make) -> Bundle:
    return export("base", Net())


def severities(report: DiffReport | Findings, area: str = "") -> dict[str, Severity]:
    return {change.what: change.severity for change in report.changes if area in ("", change.area)}


def validated(report: DiffReport) -> Any:
    document = json.loads(to_json(report))
    VALIDATOR.validate(document)
    return document


# --- the whole way --------------------------------------------------------------------------------


def test_the_same_export_twice_has_no_change(base: Bundle, export: Make) -> None:
    lines: list[str] = []
    report = diff(base, export("again", Net()), progress=lines.append)
    assert report
    assert report.changes == ()
    assert report.same_model
    (crossing,) = report.cross_checks
    assert (crossing.status, crossing.vs_before) == ("passed", 0.0)
    assert crossing.goldens == len(base.manifest.goldens)
    scores = [result for result in crossing.results if result.output == "scores"]
    assert scores and all(score.to_truth for score in scores), "the truth is A's in float64"
    assert crossing.judged_by == "A's torchscript-cpu-fp32"
    count = len(base.manifest.goldens)
    assert report.verdict == (
        f"PASSED: B is the same model, bit for bit, on {count} goldens; nothing changed"
    )
    assert [(one.area, one.subject) for one in report.not_compared] == [("speed", "")]
    assert any("B on A's goldens" in line for line in lines)
    document = validated(report)
    assert (document["schema"], document["schema_version"]) == ("isthmus-diff", 2)
    assert (document["passed"], document["same_model"], document["rows"]) == (True, True, [])
    text = to_text(report, 100)
    assert "equal: the same files" in text or "bit for bit" in text
    assert "Signature of" not in text, "what did not change has no table"


def test_a_weight_that_changed_by_one_per_cent_is_another_model(base: Bundle, export: Make) -> None:
    module = Net()
    with torch.no_grad():
        module.down.weight[0] *= 1.01
    report = diff(base, export("weight", module))
    assert not report
    assert report.same_model is False
    change = next(change for change in report.changes if change.area == "cross-check")
    assert change.severity == "breaking"
    assert change.what.startswith("scores of golden batch")
    assert "off by" in change.after
    assert report.verdict.startswith("FAILED: B is not the same model: scores of golden batch")
    assert "x what is allowed" in report.verdict
    (weights,) = report.weights
    assert [one.name for one in weights.changed] == ["down.weight"]
    assert (weights.equal, weights.changed[0].differing) == (3, 64)
    assert weights.changed[0].share == pytest.approx(0.01, rel=0.5)
    assert severities(report, "weights") == {"tensors": "changed"}
    assert severities(report, "graph") == {}, "the code is the same"
    assert bool(report.graphs[0])
    # Each is as good as before on its own goldens: only the crossing tells them apart.
    assert severities(report, "errors") == {}
    validated(report)
    junit = to_junit(report)
    assert 'failures="1"' in junit
    assert "breaking: torchscript: scores of golden" in junit
    markdown = to_markdown(report)
    assert "**FAILED: B is not the same model" in markdown
    assert "3 of 4 tensors equal bit for bit" in markdown


def test_a_replaced_operator_is_told_and_the_crossing_fails(base: Bundle, export: Make) -> None:
    report = diff(base, export("tanh", Net("tanh")))
    assert report.same_model is False
    (graph,) = report.graphs
    (part,) = graph.differing
    assert (part.paths, part.title) == (("act",), "GELU")
    assert ("-", "    return torch.gelu(argument_1)") in part.lines
    assert any(mark == "+" and 'approximate="tanh"' in text for mark, text in part.lines)
    assert bool(report.weights[0])
    text = to_text(report, 100)
    assert "torchscript-cpu-fp32: act (GELU)" in text
    assert "1 of 5 submodules differ" in text
    validated(report)


def test_a_renamed_input_breaks_callers_though_the_model_is_the_same(
    base: Bundle, export: Make
) -> None:
    report = diff(base, export("renamed", Renamed(), argument="rows"))
    assert not report
    assert report.same_model, "the crossing passes B its own names"
    (crossing,) = report.cross_checks
    assert crossing.vs_before == 0.0
    assert {result.output for result in crossing.results} == {"scores", "best"}
    assert ("eager, at export", "scores") in {(one.name, one.output) for one in report.accuracy}
    assert severities(report, "signature") == {
        "name of input x": "breaking",
        "name of output scores": "breaking",
        "output sums": "changed",
    }
    assert report.change("name of input x").after == "rows"
    assert "first name of input x: x -> rows (forward)" in report.verdict
    assert report.change("aten::sum").before == "-"
    assert diff(base, report.b.path, run=False, fail_on="breaking").failures
    validated(report)


def test_a_narrower_range_breaks_and_the_crossing_says_what_it_left_out(
    base: Bundle, export: Make
) -> None:
    report = diff(base, export("narrow", Net(), rows=(2, 40)))
    assert not report
    assert severities(report, "signature") == {
        "range of dimension batch, which is x[0]": "breaking"
    }
    left_out = [one for one in report.not_compared if one.area == "cross-check"]
    assert len(left_out) == 1
    assert left_out[0].reason.startswith("batch is 2 to 40 in B (batch1")
    assert report.same_model
    assert "the same model as far as it takes A's inputs" in report.verdict
    assert 0 < report.cross_checks[0].goldens < len(base.manifest.goldens)


def test_a_wider_range_is_compatible(base: Bundle, export: Make) -> None:
    wide = export("wide", Net(), rows=(1, 80))
    report = diff(base, wide, run=False)
    assert report
    change = report.change("range of dimension batch")
    assert (change.before, change.after, change.severity) == ("1 to 40", "1 to 80", "changed")
    assert not diff(base, wide, run=False, fail_on="changed")


def test_what_was_not_run_is_said(base: Bundle, export: Make) -> None:
    report = diff(base, export("unrun", Net()), run=False)
    assert report.same_model is None
    assert report.verdict == "PASSED: what the models answer was not compared; nothing changed"
    reasons = {one.area: one.reason for one in report.not_compared}
    assert "--no-run" in reasons["cross-check"]
    assert "--bench" in reasons["speed"]
    assert '<skipped message="nothing was to be run (--no-run)"' in to_junit(report)


def test_another_type_cannot_be_crossed_and_does_not_pass(base: Bundle, export: Make) -> None:
    report = diff(base, export("double", Wide(), dtype=torch.float64))
    assert not report
    change = report.change("type of input x")
    assert (change.before, change.after, change.severity) == ("float32", "float64", "breaking")
    assert report.cross_checks == ()
    assert report.change("B on A's goldens").severity == "breaking"
    assert "A gives x as float32, B takes float64" in report.change("B on A's goldens").why
    assert "nothing of B could be run on A's goldens" in report.verdict
    validated(report)


def test_another_format_is_added_and_crossed(base: Bundle, export: Make) -> None:
    both = export("both", Net(), formats=("torchscript", "onnx"))
    report = diff(base, both)
    assert report, report
    assert severities(report) == {"artifact": "changed"}
    assert report.change("onnx-cpu-fp32").after.startswith("onnx, fp32")
    engines = {crossing.engine: crossing for crossing in report.cross_checks}
    assert {"torchscript", "onnxruntime"} <= engines.keys()
    assert engines["onnxruntime"].vs_before is None, "A has nothing on that engine"
    assert all(report.cross_checks)
    gone = diff(both, base, run=False)
    assert severities(gone) == {"artifact": "breaking"}
    only = diff(base, both, artifact="torchscript-cpu-fp32", run=False)
    assert only.changes == ()


def test_onnx_graphs_and_weights_are_read(export: Make) -> None:
    module = Net()
    with torch.no_grad():
        module.up.bias[0] += 0.5
    formats = ("onnx",)
    old = export("onnx-old", Net(), formats=formats)
    report = diff(old, export("onnx-new", module, formats=formats), run=False)
    assert bool(report.graphs[0])
    assert [one.name for one in report.weights[0].changed] == ["up.bias"]
    tanh = diff(old, export("onnx-tanh", Net("tanh"), formats=formats), run=False)
    (part,) = tanh.graphs[0].differing
    assert part.paths == ("act",)
    marks = dict(part.lines)
    assert 'approximate="none"' in marks["-"]
    assert 'approximate="tanh"' in marks["+"]
    validated(tanh)


def test_a_stateful_model_is_crossed_call_by_call(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "streaming_in_place")
    sides = []
    for name in "ab":
        args, kwargs = case.inputs()
        sides.append(
            isthmus.export(case.module(), args, kwargs, path=tmp_path / name, **case.options())
        )
    report = diff(*sides)
    assert report, report
    assert report.same_model
    assert max(len(golden.steps) for golden in sides[0].manifest.goldens) > 1


def test_speed_is_compared_turn_by_turn(base: Bundle, export: Make) -> None:
    report = diff(base, export("timed", Net()), run=False, bench=True, rounds=8, threads=1)
    (speed,) = report.speeds
    assert speed.interval is not None
    assert speed.verdict
    assert len(speed.before.rounds_ms) == len(speed.after.rounds_ms) == 8
    assert "Speed: median milliseconds a call" in to_text(report, 160)
    validated(report)
    few = diff(base, report.b.path, run=False, bench=True, rounds=2, threads=1)
    assert few.speeds[0].interval is None
    assert any("too few" in one.reason for one in few.not_compared)


# --- bad input ------------------------------------------------------------------------------------


def test_a_damaged_bundle_is_refused(base: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(base.path, copy)
    artifact = copy / base.manifest.artifacts[0].files[0].path
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)
    with pytest.raises(BundleError, match="sha256"):
        diff(base, copy, run=False)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"engines": ["tensorrt"]}, InvalidInput, "expected one of torchscript"),
        ({"artifact": "none"}, InvalidInput, "torchscript-cpu-fp32"),
        ({"fail_on": "better"}, InvalidInput, "expected one of breaking, worse, changed"),
        ({"rounds": 1}, InvalidInput, "at least 2"),
        ({"device": "tpu"}, InvalidInput, "expected 'cpu', 'cuda' or 'cuda:N'"),
    ],
)
def test_bad_options(
    base: Bundle, tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    shutil.copytree(base.path, tmp_path / "b")
    with pytest.raises(error, match=words):
        diff(base, tmp_path / "b", **options)


def test_bad_paths(base: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected two bundles"):
        diff(base, base.path)
    with pytest.raises(BundleError, match="no such directory"):
        diff(base, tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"without manifest\.json"):
        diff(tmp_path, base)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_asked_for_is_a_contract(base: Bundle, tmp_path: Path) -> None:
    shutil.copytree(base.path, tmp_path / "b")
    with pytest.raises(DeviceUnavailable, match="no CUDA device"):
        diff(base, tmp_path / "b", device="cuda")
    assert diff(base, tmp_path / "b", device="cuda", run=False)


# --- signatures -----------------------------------------------------------------------------------


def leaf(name: str) -> Tree:
    return Tree("leaf", name)


def value(name: str, *shape: int | str | None, dtype: str = "float32", **more: Any) -> ValueSpec:
    return ValueSpec(name, "tensor", dtype, tuple(shape), **more)


ROWS = (value("x", "batch", 3), value("y", "batch", 3, optional=True))
SCORES = (value("scores", "batch", 8),)
DIMS = {"batch": DimRange(1, 8), "other": DimRange(1, 8)}
FILE = FileEntry("artifacts/a.pt", 1000, "0" * 64)


def method(
    inputs: tuple[ValueSpec, ...] = ROWS,
    outputs: tuple[ValueSpec, ...] = SCORES,
    returns: Tree | None = None,
    order: tuple[str, ...] = (),
) -> Method:
    names = order or tuple(input_spec.name for input_spec in inputs)
    result = returns or Tree(
        "dict",
        keys=tuple(output.name for output in outputs),
        items=tuple(leaf(output.name) for output in outputs),
    )
    return Method("forward", inputs, outputs, tuple(leaf(name) for name in names), (), result)


def bundle_of(*methods: Method, dims: dict[str, DimRange] | None = None, **more: Any) -> Manifest:
    known = dims or DIMS
    return Manifest("m", "", {}, {}, False, known, methods, (), (), {}, **more)


def signature_changes(before: Manifest, after: Manifest) -> dict[str, Severity]:
    found = Findings()
    compare_signatures(before, after, found)
    return severities(found)


X, Y = ROWS
TUPLE = Tree("tuple", items=(leaf("scores"),))
CHANGES: list[tuple[str, Method, Method, dict[str, Severity]]] = [
    ("nothing", method(), method(), {}),
    ("input removed", method(), method((X,)), {"input y": "breaking"}),
    ("input added", method((X,)), method((X, value("z", 2))), {"input z": "breaking"}),
    (
        "optional input added",
        method((X,)),
        method((X, value("z", 2, optional=True))),
        {"input z": "changed"},
    ),
    (
        "optional input added in front",
        method((X,)),
        method((value("z", 2, optional=True), X)),
        {"input z": "changed", "arguments of the Python call": "breaking"},
    ),
    (
        "fewer values",
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 9)),)),
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 8)),)),
        {"values of input ids": "breaking"},
    ),
    (
        "more values",
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 9)),)),
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 10)),)),
        {"values of input ids": "changed"},
    ),
    (
        "values are known",
        method((value("ids", 2, dtype="int64"),)),
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 9)),)),
        {"values of input ids": "changed"},
    ),
    ("reordered", method(), method((Y, X)), {"arguments of the Python call": "breaking"}),
    (
        "now required",
        method(),
        method((X, replace(Y, optional=False))),
        {"presence of input y": "breaking"},
    ),
    (
        "now optional",
        method(),
        method((replace(X, optional=True), Y)),
        {"presence of input x": "changed"},
    ),
    (
        "rank",
        method(),
        method((replace(X, shape=("batch",)), Y)),
        {"rank of input x": "breaking"},
    ),
    ("any rank", method(), method((replace(X, shape=None), Y)), {"rank of input x": "changed"}),
    (
        "another fixed size",
        method(),
        method((replace(X, shape=("batch", 4)), Y)),
        {"size of x[1]": "breaking"},
    ),
    (
        "no longer fixed",
        method(),
        method((replace(X, shape=("batch", "other")), Y)),
        {"size of x[1]": "changed"},
    ),
    (
        "now fixed",
        method(),
        method((replace(X, shape=(3, 3)), Y)),
        {"size of x[0]": "breaking"},
    ),
    (
        "need not be equal",
        method(),
        method((X, replace(Y, shape=("other", 3)))),
        {
            "name of the dimension of y[0]": "changed",
            "sizes of x[0], y[0]": "changed",
        },
    ),
    (
        "have to be equal",
        method((X, replace(Y, shape=("other", 3)))),
        method(),
        {
            "name of the dimension of y[0]": "changed",
            "sizes of x[0], y[0]": "breaking",
        },
    ),
    (
        "output removed",
        method(outputs=(*SCORES, value("best", "batch"))),
        method(),
        {"output best": "breaking"},
    ),
    (
        "output added",
        method(),
        method(outputs=(*SCORES, value("best", "batch"))),
        {"output best": "changed"},
    ),
    (
        "output added to a tuple",
        method(returns=TUPLE),
        method(
            outputs=(*SCORES, value("best", "batch")),
            returns=Tree("tuple", items=(leaf("scores"), leaf("best"))),
        ),
        {"output best": "changed", "nesting of the result": "breaking"},
    ),
    ("nesting", method(), method(returns=TUPLE), {"nesting of the result": "breaking"}),
    (
        "output's type",
        method(),
        method(outputs=(replace(SCORES[0], dtype="float16"),)),
        {"type of output scores": "breaking"},
    ),
    (
        "output's size",
        method(),
        method(outputs=(value("scores", "batch", 9),)),
        {"size of output scores[1]": "breaking"},
    ),
    (
        "output may be None",
        method(),
        method(outputs=(replace(SCORES[0], optional=True),)),
        {"presence of output scores": "breaking"},
    ),
]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [change[1:] for change in CHANGES],
    ids=[change[0] for change in CHANGES],
)
def test_what_breaks_a_caller(before: Method, after: Method, expected: dict[str, Severity]) -> None:
    assert signature_changes(bundle_of(before), bundle_of(after)) == expected


def test_ranges_and_methods_and_state() -> None:
    narrow = bundle_of(method(), dims={"batch": DimRange(2, 9)})
    found = signature_changes(bundle_of(method()), narrow)
    assert found == {"range of dimension batch, which is x[0], y[0]": "breaking"}
    reset = replace(method(), name="reset")
    assert signature_changes(bundle_of(method(), reset), bundle_of(method())) == {
        "method": "breaking"
    }
    assert signature_changes(bundle_of(method()), bundle_of(method(), reset)) == {
        "method": "changed"
    }
    stateful = replace(bundle_of(method()), stateful=True)
    assert signature_changes(bundle_of(method()), stateful) == {"state": "breaking"}


def test_why_a_golden_is_not_taken() -> None:
    def why(**values: Tensor) -> str:
        return refusal(method(), DIMS, values)

    good = torch.zeros(2, 3)
    assert why(x=good) == ""
    assert why(x=good, z=good) == "B has no input z"
    assert why(y=good) == "A's goldens do not give B's input x"
    assert why(x=good.double()) == "A gives x as float64, B takes float32"
    assert why(x=good[0]) == "A gives x with rank 1, B takes 2"
    assert why(x=torch.zeros(2, 4)) == "A gives x[1] = 4, B takes 3"
    assert why(x=torch.zeros(9, 3)) == "batch is 1 to 8 in B"
    assert why(x=good, y=torch.zeros(3, 3)) == "batch has to be the same everywhere in B"


# --- requirements ---------------------------------------------------------------------------------

ARTIFACT = Artifact(
    "a", "torchscript", "cpu", ("cpu",), "fp32", "graph", "flat", "trace", (FILE,), {}
)


def requirement_changes(before: Artifact, after: Artifact, **more: Any) -> dict[str, Severity]:
    found = Findings()
    sides = [replace(bundle_of(method()), artifacts=(one,)) for one in (before, after)]
    sides[1] = replace(sides[1], **more)
    compare_requirements(*sides, pair_artifacts(*sides), found)
    return severities(found)


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


def test_a_precision_that_a_lacks_is_judged_by_what_b_allows_it() -> None:
    own = {"y": Tolerance(1e-6, 0.0, {"rms": 3.0}, {}, {"rms": 1e-7})}
    wide = {"y": Tolerance(1e-2, 0.0, {"rms": 3.0}, {"rms": 1e-3}, {"rms": 9.0})}
    old = replace(ARTIFACT, tolerances=own)
    half = replace(ARTIFACT, name="h", precision="fp16", tolerances=wide)
    manifest = replace(bundle_of(method()), artifacts=(old,))
    found, by = tolerances_for(manifest, old, half)
    assert found["y"].allowance == {"rms": 1e-3}
    assert found["y"].own == {"rms": 1e-7}, "the unit is A's noise all the same"
    assert by == "what fp16 is allowed in B"
    assert tolerances_for(manifest, old, replace(half, precision="fp32"))[0] is own


# --- graphs ---------------------------------------------------------------------------------------

CODE = """class Block(Module):
  __parameters__ = []
  inner : __torch__.lib.{mangle}Inner
  def forward(self: __torch__.lib.Block,
    x: Tensor) -> Tensor:
    inner = self.inner
{extra}    {a} = torch.add(x, CONSTANTS.c{c})
    {b} = __torch__.lib.{mangle}helper({a}, {a})
    return (inner).forward({b}, )
class Inner(Module):
  __parameters__ = []
  def forward(self: __torch__.lib.{mangle}Inner,
    argument_1: Tensor) -> Tensor:
    return torch.{op}(argument_1)
"""


def constant(number: float) -> StoredTensor:
    return StoredTensor("float32", (1,), lambda: torch.tensor([number]))


def parts_of(
    a: str = "_0",
    b: str = "_1",
    mangle: str = "",
    op: str = "gelu",
    c: int = 0,
    extra: str = "",
    constants: tuple[float, ...] = (1.0, 2.0),
) -> dict[str, Part]:
    block, _, inner = CODE.format(a=a, b=b, mangle=mangle, op=op, c=c, extra=extra).partition(
        "class Inner"
    )
    files = {"code/__torch__/lib.py": block}
    home = f"code/__torch__/lib/{mangle.strip('.')}.py" if mangle else "code/__torch__/lib.py"
    files[home] = files.get(home, "") + f"class Inner{inner}"
    modules = {"": "__torch__.lib.Block", "inner": f"__torch__.lib.{mangle}Inner"}
    archive = ArchiveContents(modules, {}, tuple(constant(one) for one in constants))
    return torchscript_parts(files, archive)


def test_what_is_only_renamed_is_equal() -> None:
    before = parts_of()
    assert before["inner"].title == "Inner"
    for after in (
        parts_of(a="_7", b="hidden12"),
        parts_of(mangle="___torch_mangle_12."),
        parts_of(c=1, constants=(2.0, 1.0)),
    ):
        assert compare_graphs("a", before, after), "names and places say nothing"
    assert not compare_graphs("a", before, parts_of(c=1)), "another constant is another graph"


def code_part(body: str) -> Part:
    text = f"class M(Module):\n  def forward(self: __torch__.M,\n    x: Tensor) -> Tensor:\n{body}"
    return torchscript_parts(
        {"code/__torch__.py": text}, ArchiveContents({"": "__torch__.M"}, {}, ())
    )[""]


def test_how_the_printer_breaks_its_lines_says_nothing() -> None:
    direct = code_part("    _0 = __torch__.lib.helper(torch.neg(x), )\n    return torch.abs(_0)\n")
    hoisted = code_part(
        "    _0 = __torch__.lib.___torch_mangle_3.helper\n"
        "    _1 = torch.neg(x)\n"
        "    return torch.abs(_0(_1, ))\n"
    )
    assert direct.exact == hoisted.exact
    # Used twice, or not at once, a value may stand for what was before a change in place.
    for body in (
        "    _0 = torch.neg(x)\n    x0 = torch.add_(x, 1)\n    return torch.abs(_0)\n",
        "    _0 = torch.neg(x)\n    return torch.mul(_0, _0)\n",
    ):
        assert len(code_part(body).exact) == len(code_part(body).lines)


def test_a_diff_shows_the_lines_and_no_renumbering() -> None:
    graph = compare_graphs("a", parts_of(), parts_of(op="relu", a="_3", b="_4"))
    (part,) = graph.differing
    assert part.paths == ("inner",)
    assert [line for line in part.lines if line[0] in "-+"] == [
        ("-", "    return torch.gelu(argument_1)"),
        ("+", "    return torch.relu(argument_1)"),
    ]


def test_a_line_more_does_not_renumber_what_follows() -> None:
    after = parts_of(a="_1", b="_2", extra="    _0 = torch.neg(x)\n")
    (part,) = compare_graphs("a", parts_of(), after).differing
    assert [line for line in part.lines if line[0] in "-+"] == [("+", "    _0 = torch.neg(x)")]


def test_values_that_go_elsewhere_differ_though_the_lines_look_alike() -> None:
    lines = ("_0 = f(x)", "_1 = g(x)", "return _0")
    other = ("_0 = f(x)", "_1 = g(x)", "return _1")
    keys = ("_ = f(x)", "_ = g(x)", "return _")
    graph = compare_graphs(
        "a", {"": Part("M", lines, keys, lines)}, {"": Part("M", other, keys, other)}
    )
    assert graph.differing[0].paths == ("the model",)
    assert ("+", "return _1") in graph.differing[0].lines


def test_submodules_that_differ_alike_are_told_once() -> None:
    before = {f"layer.{at}": Part("L", ("a",), ("a",), ("a",)) for at in range(9)}
    after = {path: Part("L", ("b",), ("b",), ("b",)) for path in before}
    graph = compare_graphs("a", before, after | {"head": Part("H", ("c",), ("c",), ("c",))})
    assert len(graph.differing) == 1
    assert len(graph.differing[0].paths) == 9
    assert graph.added == ("head (H)",)


# --- archives and weights -------------------------------------------------------------------------


def test_reading_an_archive_executes_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Harm:
        def __reduce__(self) -> Any:
            return open, (str(trap), "w")

    file = tmp_path / "harm.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("harm/data.pkl", pickle.dumps({"x": Harm()}, protocol=2))
    assert read_archive_contents(file).tensors == {}
    assert not trap.exists()
    file.write_bytes(b"no archive")
    with pytest.raises(BundleError, match="expected a TorchScript archive"):
        read_archive_contents(file)


def test_an_archive_s_tensors_are_the_model_s(base: Bundle) -> None:
    archive = read_archive_contents(base.path / base.manifest.artifacts[0].files[0].path)
    # Which of the process's Linear it is depends on what was traced before.
    kind = re.sub(r"___torch_mangle_\d+\.", "", archive.modules["module.up"])
    assert kind == "__torch__.torch.nn.modules.linear.Linear"
    found = {
        name.removeprefix("module."): tensor.read() for name, tensor in archive.tensors.items()
    }
    for name, expected in Net().state_dict().items():
        assert torch.equal(found[name], expected), name


def stored(tensor: Tensor) -> StoredTensor:
    return StoredTensor(str(tensor.dtype), tuple(tensor.shape), lambda: tensor)


def test_weights_are_paired_by_name_then_by_content() -> None:
    one, two = torch.arange(6.0).reshape(2, 3), torch.full((2,), float("nan"))
    before = {"a": stored(one), "b": stored(two), "c": stored(one + 1), "gone": stored(one * 7)}
    changed = one.clone()
    changed[0, 0] = 0.5
    after = {"a": stored(changed), "b": stored(two.clone()), "d": stored(one + 1)}
    found = compare_weights("w", before, after)
    assert not found
    assert (found.equal, found.renamed) == (2, 1)
    (change,) = found.changed
    assert (change.name, change.differing, change.max_abs) == ("a", 1, 0.5)
    assert change.share == pytest.approx(0.1)
    assert (found.removed, found.added) == (("gone",), ())


# --- the report -----------------------------------------------------------------------------------


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
