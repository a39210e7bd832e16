"""Two bundles compared: the changes, their severities, and whether B is still A's model."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import isthmus
from diff_bundles import Net, Renamed, Wide, export_net, severities, validated
from isthmus.bundle.bundle import Bundle
from isthmus.bundle_diff import diff
from isthmus.bundle_diff.archive import read_archive_contents
from isthmus.document import to_junit, to_markdown, to_text
from isthmus.errors import BundleError, DeviceUnavailable, InvalidInput
from models import CASES

Make = Callable[..., Bundle]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Exports a module of `diff_bundles` under a name."""
    root = tmp_path_factory.mktemp("diff")

    def make(name: str, module: nn.Module, **options: Any) -> Bundle:
        return export_net(root / name, module, **options)

    return make


@pytest.fixture(scope="module")
def base(export: Make) -> Bundle:
    return export("base", Net())


def test_the_same_export_twice_has_no_change(base: Bundle, export: Make) -> None:
    lines: list[str] = []
    report = diff(base, export("again", Net()), progress=lines.append)
    assert report
    assert report.changes == ()
    assert report.same_model
    (check,) = report.cross_checks
    assert (check.status, check.vs_before) == ("passed", 0.0)
    assert check.goldens == len(base.manifest.goldens)
    scores = [result for result in check.results if result.output == "scores"]
    assert scores and all(score.to_truth for score in scores), "the truth is A's in float64"
    assert check.judged_by == "A's torchscript-cpu-fp32"
    count = len(base.manifest.goldens)
    assert report.verdict == (
        f"PASSED: B is the same model, bit for bit, on {count} goldens; nothing changed"
    )
    assert [(entry.area, entry.subject) for entry in report.not_compared] == [("speed", "")]
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
    assert [change.name for change in weights.changed] == ["down.weight"]
    assert (weights.equal, weights.changed[0].differing) == (3, 64)
    assert weights.changed[0].share == pytest.approx(0.01, rel=0.5)
    assert severities(report, "weights") == {"tensors": "changed"}
    assert severities(report, "graph") == {}, "the code is the same"
    assert bool(report.graphs[0])
    # Each is as accurate as before on its own goldens; only the cross-check shows a difference.
    assert severities(report, "errors") == {}
    validated(report)
    junit = to_junit(report)
    assert 'failures="1"' in junit
    assert "breaking: torchscript: scores of golden" in junit
    markdown = to_markdown(report)
    assert "**FAILED: B is not the same model" in markdown
    assert "3 of 4 tensors equal bit for bit" in markdown


def test_a_replaced_operator_is_reported_and_the_cross_check_fails(
    base: Bundle, export: Make
) -> None:
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
    assert report.same_model, "the cross-check calls B by its own names"
    (check,) = report.cross_checks
    assert check.vs_before == 0.0
    assert {result.output for result in check.results} == {"scores", "best"}
    assert ("eager, at export", "scores") in {(row.name, row.output) for row in report.accuracy}
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


def test_a_narrower_range_breaks_and_the_cross_check_says_what_it_left_out(
    base: Bundle, export: Make
) -> None:
    report = diff(base, export("narrow", Net(), rows=(2, 40)))
    assert not report
    assert severities(report, "signature") == {
        "range of dimension batch, which is x[0]": "breaking"
    }
    left_out = [entry for entry in report.not_compared if entry.area == "cross-check"]
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


def test_what_was_not_run_is_reported(base: Bundle, export: Make) -> None:
    report = diff(base, export("unrun", Net()), run=False)
    assert report.same_model is None
    assert report.verdict == "PASSED: what the models answer was not compared; nothing changed"
    reasons = {entry.area: entry.reason for entry in report.not_compared}
    assert "--no-run" in reasons["cross-check"]
    assert "--bench" in reasons["speed"]
    assert '<skipped message="nothing was to be run (--no-run)"' in to_junit(report)


def test_another_type_cannot_be_cross_checked_and_does_not_pass(base: Bundle, export: Make) -> None:
    report = diff(base, export("double", Wide(), dtype=torch.float64))
    assert not report
    change = report.change("type of input x")
    assert (change.before, change.after, change.severity) == ("float32", "float64", "breaking")
    assert report.cross_checks == ()
    assert report.change("B on A's goldens").severity == "breaking"
    assert "A gives x as float32, B takes float64" in report.change("B on A's goldens").why
    assert "nothing of B could be run on A's goldens" in report.verdict
    validated(report)


def test_another_format_is_added_and_cross_checked(base: Bundle, export: Make) -> None:
    both = export("both", Net(), formats=("torchscript", "onnx"))
    report = diff(base, both)
    assert report, report
    assert severities(report) == {"artifact": "changed"}
    assert report.change("onnx-cpu-fp32").after.startswith("onnx, fp32")
    engines = {check.engine: check for check in report.cross_checks}
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
    assert [change.name for change in report.weights[0].changed] == ["up.bias"]
    tanh = diff(old, export("onnx-tanh", Net("tanh"), formats=formats), run=False)
    (part,) = tanh.graphs[0].differing
    assert part.paths == ("act",)
    marks = dict(part.lines)
    assert 'approximate="none"' in marks["-"]
    assert 'approximate="tanh"' in marks["+"]
    validated(tanh)


def test_a_stateful_model_is_cross_checked_call_by_call(tmp_path: Path) -> None:
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
    assert any("too few" in entry.reason for entry in few.not_compared)


def test_an_archive_s_tensors_are_the_model_s(base: Bundle) -> None:
    archive = read_archive_contents(base.path / base.manifest.artifacts[0].files[0].path)
    # The number in the class name depends on what the process traced before.
    kind = re.sub(r"___torch_mangle_\d+\.", "", archive.modules["module.up"])
    assert kind == "__torch__.torch.nn.modules.linear.Linear"
    weights = {
        name.removeprefix("module."): tensor.read() for name, tensor in archive.tensors.items()
    }
    for name, expected in Net().state_dict().items():
        assert torch.equal(weights[name], expected), name


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
def test_a_requested_device_has_to_be_present(base: Bundle, tmp_path: Path) -> None:
    shutil.copytree(base.path, tmp_path / "b")
    with pytest.raises(DeviceUnavailable, match="no CUDA device"):
        diff(base, tmp_path / "b", device="cuda")
    assert diff(base, tmp_path / "b", device="cuda", run=False)
