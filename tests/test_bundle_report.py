"""Each format of `isthmus report`, of made-up results and of a real bundle."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.document import to_json, to_junit, to_markdown, to_text
from isthmus.errors import InvalidInput
from isthmus.proof.verify_report import VerifyReport
from isthmus.reports import bundle_report as reports
from isthmus.reports.bundle_document import document_of
from isthmus.reports.bundle_report import BundleReport, report
from isthmus.reports.html import headline, render, short_source
from isthmus.reports.matrix import TIMES, matrix, per_cent, share_text
from made_up_reports import (
    CPP,
    PYTHON,
    absent,
    bad,
    broken,
    failing,
    good,
    layers,
    made_up,
    made_up_bundle,
    odd,
    passing,
)

SCHEMA = json.loads(Path(reports.__file__).with_name("report.schema.json").read_text("utf-8"))


def strict(schema: Any) -> Any:
    """Returns the schema without additional properties."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: strict(value) for key, value in schema.items()}
    return parts | ({"additionalProperties": False} if "properties" in parts else {})


def check_schema(bundle_report: BundleReport) -> dict[str, Any]:
    text = to_json(document_of(bundle_report))
    document = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    jsonschema.Draft202012Validator(strict(SCHEMA)).validate(document)
    return dict(document)


# --- the matrix -----------------------------------------------------------------------------------


def test_a_cell_is_the_output_nearest_to_failing() -> None:
    lines = matrix(VerifyReport("toy", (failing(), broken(), absent())), ["batch2", "batch1"])
    assert [line.name for line in lines] == [
        "torchscript in C++ on cpu",
        "onnxruntime in C++ on cpu",
    ]
    worst, fine = lines[0].cells
    assert (worst.status, worst.share, worst.reason) == ("failed", 1.004, "too far")
    assert worst.result is not None
    assert worst.result.output == "z"
    assert (fine.status, fine.share) == ("passed", 0.03)
    assert [cell.status for cell in lines[1].cells] == ["missing", "missing"]
    assert lines[1].cells[0].reason == "killed by SIGSEGV"
    assert lines[0].to_json()["cells"][0]["output"] == "z"


def test_two_artifacts_of_an_engine_have_different_names() -> None:
    rows = (passing(), replace(passing(), artifact="torchscript-cpu-fp16"))
    names = [line.name for line in matrix(VerifyReport("toy", rows), ["batch2"])]
    assert names[1] == "torch.jit in Python on cpu, torchscript-cpu-fp16"
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("share", "text", "short"),
    [
        (None, "-", "-"),
        (0.0, "0 %", "0"),
        (0.004, "< 1 %", "<1"),
        (0.38, "38 %", "38"),
        (1.004, "100 %", "100.4"),
        (3.0, "300 %", "300"),
        (52.0, "52 x", "52" + TIMES),
        (51234.0, "5e+04 x", "5e4" + TIMES),
        (math.inf, "inf x", "∞"),
        (math.nan, "nan", "nan"),
    ],
)
def test_shares(share: float | None, text: str, short: str) -> None:
    assert (share_text(share), per_cent(share)) == (text, short)


# --- JSON, JUnit, Markdown ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [good, bad, odd, lambda: made_up(), lambda: made_up(absent())])
def test_the_document_matches_its_schema(make: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    document = check_schema(make())
    assert (document["schema"], document["schema_version"]) == ("isthmus-report", 2)
    assert list(document)[:3] == ["schema", "schema_version", "context"]


def test_the_schema_refuses_missing_members_and_unknown_values() -> None:
    document = check_schema(good())
    valid = jsonschema.Draft202012Validator(SCHEMA)
    for key in document:
        assert not valid.is_valid({k: v for k, v in document.items() if k != key}), key
    document["matrix"][0]["cells"][0]["status"] = "fine"
    assert not valid.is_valid(document)


def test_json_holds_every_part() -> None:
    document = check_schema(bad())
    assert document["passed"] is False
    assert [line["status"] for line in document["matrix"]] == ["passed", "failed", "error"]
    assert document["explanations"][0]["culprit"]["path"] == "net.3.linear"
    assert document["speed"]["comparisons"][0]["verdict"] == "C++ faster"
    assert document["sizes"]["total"] == 2_500_000 + 200 + 70
    hazards = document["artifacts"][0]["hazards"]
    assert [hazard["severity"] for hazard in hazards] == ["warning", "info"]
    assert document["signature"]["dims"] == {"batch": {"min": 1, "max": 64}}
    assert document["versions"]["runtimes"] == ["LibTorch 2.13.0"]
    assert [row["name"] for row in document["ranking"]] == [
        "torch.jit in Python on cpu", "torchscript in C++ on cpu",
    ]  # fmt: skip
    assert check_schema(made_up(passing()))["speed"] is None


def test_junit_has_a_case_for_each_engine_device_and_golden() -> None:
    suite = ElementTree.fromstring(to_junit(document_of(bad()))).find("testsuite")
    assert suite is not None
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert list(cases) == [
        "torchscript in C++ on cuda",
        "torch.jit in Python on cpu: batch2",
        "torch.jit in Python on cpu: batch1",
        "torchscript in C++ on cpu: batch2",
        "torchscript in C++ on cpu: batch1",
        "onnxruntime in C++ on cpu: batch2",
        "onnxruntime in C++ on cpu: batch1",
    ]
    assert (suite.get("failures"), suite.get("skipped"), suite.get("time")) == ("3", "1", "6.000")
    failure = cases["torchscript in C++ on cpu: batch2"].find("failure")
    assert failure is not None
    assert failure.text == "z: too far"
    assert cases["torchscript in C++ on cpu: batch1"].find("failure") is None
    dead = cases["onnxruntime in C++ on cpu: batch1"].find("failure")
    assert dead is not None
    assert "SIGSEGV" in str(dead.text)


def test_junit_has_a_failure_for_a_row_that_failed_although_its_goldens_passed() -> None:
    other_bits = replace(passing(), status="failed", reason="differs from torch.jit")
    cases = document_of(made_up(other_bits)).cases
    assert [case.failure for case in cases] == ["", "", "differs from torch.jit"]
    alone = document_of(made_up(broken(), bundle=made_up_bundle(goldens=()))).cases
    assert [case.failure for case in alone] == ["killed by SIGSEGV"]


def test_markdown_starts_with_the_verdict_and_folds_long_tables() -> None:
    text = to_markdown(document_of(bad()))
    assert text.splitlines()[:3] == [
        "## isthmus report toy",
        "",
        "**FAILED: 2 of 3 ways of running toy; first torchscript in C++ on cpu: z of golden batch2:"
        " too far**",
    ]
    assert "| batch2 | 20 % | 100 % FAILED | no answer |" in text
    assert "| TorchScript CPU | " in text
    assert (
        "| warning | torchscript-cpu-fp32 | a value became a bool | net.py:7 | script it |" in text
    )
    assert "| forward | in | x | float32 | [batch, 4] | batch 1 to 64 |" in text
    assert text.count("<details>") == text.count("</details>") > 3
    assert "<script" not in to_markdown(document_of(odd()))


def test_the_console_prints_the_document() -> None:
    lines = to_text(document_of(bad())).splitlines()
    assert lines[0] == "isthmus report toy"
    assert lines[-1].startswith("FAILED")


# --- texts ----------------------------------------------------------------------------------------


def test_each_verdict_has_a_next_step() -> None:
    assert good()
    assert good().next_step.command == "isthmus-run verify bundles/toy"
    assert not bad()
    assert bad().next_step.command == (
        "isthmus verify bundles/toy --model package.module:factory --explain --repro repro"
    )
    assert made_up(passing(), broken()).next_step.command == "isthmus doctor bundles/toy"
    assert made_up(absent()).next_step.command == "isthmus doctor bundles/toy"


def test_commands_are_quoted() -> None:
    quoted = replace(good(), bundle=replace(good().bundle, path=Path("my bundle")), model="a b")
    assert quoted.commands[0].command == "isthmus report 'my bundle' --model 'a b' -o report.html"
    assert "--no-bench" in replace(quoted, speed=None).commands[0].command


def test_headlines() -> None:
    reports = (good(), bad(), made_up(absent()))
    assert ["".join(headline(report)) for report in reports] == [
        "The one way of running toy here gives the model's answers",
        "2 of 3 ways of running toy do not give the model's answers",
        "Nothing here could run toy",
    ]


def test_an_explanation_of_verify_is_not_repeated() -> None:
    explained = replace(bad(), parity=replace(bad().parity, explanations=(layers(),)))
    assert len(explained.explanations) == 1
    assert to_markdown(document_of(explained)).count("### Error by layer") == 1


def test_sources_are_shown_without_the_machines_folders() -> None:
    path = "/home/a/.venv/lib/python3.11/site-packages/torch/nn/modules/linear.py:130"
    assert (
        short_source(f"its forward is at {path}")
        == "its forward is at torch/nn/modules/linear.py:130"
    )
    assert short_source("/usr/lib/python3.11/json/decoder.py:3") == "json/decoder.py:3"


# --- a real bundle --------------------------------------------------------------------------------


class Net(nn.Module):
    """A model of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def make_net() -> nn.Module:
    """Returns the model; worker processes import it as test_bundle_report:make_net."""
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return isthmus.export(
        make_net(), (torch.randn(3, 4),), path=tmp_path_factory.mktemp("report") / "net",
        dynamic={"x": {0: "batch"}}, dims={"batch": (1, 16)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def proven(net: Bundle) -> BundleReport:
    return report(net, "test_bundle_report:make_net", devices=["cpu"], rounds=8)


@pytest.fixture(scope="module")
def refuted(net: Bundle) -> BundleReport:
    """Returns the report against a model whose first layer differs."""
    other = make_net()
    with torch.no_grad():
        other.first.weight.mul_(1.01)  # type: ignore[union-attr, operator]
    return report(net, other, devices=["cpu"], bench=False)


@pytest.mark.slow
def test_a_real_bundle_is_proven_timed_and_explained(proven: BundleReport) -> None:
    assert proven, to_text(document_of(proven))
    document = check_schema(proven)
    assert [line["name"] for line in document["matrix"]] == [
        "eager in Python on cpu", "torch.jit in Python on cpu", "torchscript in C++ on cpu",
    ]  # fmt: skip
    goldens = [golden.name for golden in proven.bundle.manifest.goldens]
    for line in document["matrix"]:
        assert [cell["golden"] for cell in line["cells"]] == goldens
        assert all(cell["share"] <= 1 for cell in line["cells"])
    assert document["explanations"][0]["layers"][0]["path"] == "first"
    assert document["explanations"][0]["culprit"] is None
    timed = {
        (row["engine"], row["kind"], row["language"])
        for row in document["speed"]["rows"]
        if row["available"]
    }
    assert {
        ("eager", "eager", PYTHON),
        ("torchscript", "exported", PYTHON),
        ("torchscript", "exported", CPP),
    } <= timed
    assert document["sizes"]["total"] == sum(file.size for file in proven.bundle.files())
    assert document["commands"][0]["command"].endswith(
        "--model test_bundle_report:make_net --device cpu -o report.html"
    )


@pytest.mark.slow
def test_the_layer_of_a_wrong_model_is_named(refuted: BundleReport) -> None:
    assert not refuted
    document = check_schema(refuted)
    assert document["explanations"][0]["culprit"]["path"] == "first"
    assert len(document["explanations"]) == 1
    assert "first (Linear) is the first to diverge" in render(refuted)
    assert document["next"]["command"].startswith("isthmus verify ")


@pytest.mark.slow
def test_only_the_engines_asked_for_are_timed(net: Bundle) -> None:
    found = report(net, engines=["torchscript"], devices=["cpu"], rounds=2)
    assert [row.engine for row in found.parity.rows] == ["torchscript"]
    assert found.speed is not None
    assert {row.title for row in found.speed.rows} == {"TorchScript", "TorchScript optimised"}
    assert found.explanations == (), "explanations need the model"


def test_too_few_rounds_are_an_error_before_anything_runs(net: Bundle) -> None:
    with pytest.raises(InvalidInput, match="rounds is 1"):
        report(net, rounds=1, progress=pytest.fail)
