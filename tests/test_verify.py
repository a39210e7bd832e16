"""Verify: what passes, and that every kind of failure is found and named."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.document import to_json, to_junit, to_markdown
from isthmus.errors import ExecutionError, InvalidInput
from isthmus.goldens.compare import OutputParity
from isthmus.proof import jobs
from isthmus.proof.jobs import Run, against_jit, parity_of_run
from isthmus.proof.verify import ParityError, VerifyReport, VerifyRow, verify
from isthmus.runtime import workers

GOOD = OutputParity(
    "y", "small", passed=True, max_abs=1e-7, atol=1e-6, passing_atol=1e-7, strain=0.1
)
BAD = OutputParity("z", "large", reason="too far", max_abs=1.0, atol=1e-6, strain=1e6)


class Small(nn.Module):
    """A module with two outputs of two kinds, from a single input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.linear(x)
        return {"scores": scores, "best": scores.argmax(-1)}


def make_small() -> nn.Module:
    """Makes the module for worker processes, which import it as test_verify:make_small."""
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return isthmus.export(
        make_small(),
        (torch.randn(3, 4),),
        path=tmp_path_factory.mktemp("verify") / "small",
        dynamic={"x": {0: "batch"}},
        dims={"batch": (1, 8)},
    )


# --- a whole verification -------------------------------------------------------------------------


def test_a_good_bundle_is_proven_from_every_side(small: Bundle) -> None:
    lines: list[str] = []
    report = verify(small, make_small(), progress=lines.append)
    assert report, report
    report.raise_for_failure()
    here = [(row.engine, row.language) for row in report.rows if row.device == "cpu"]
    assert here == [("eager", "Python"), ("torch.jit", "Python"), ("torchscript", "C++")]
    for row in report.rows:
        if row.device == "cuda" and not torch.cuda.is_available():
            assert row.status == "absent"
            assert "CUDA" in row.reason
    cpp = report.row("torchscript")
    assert cpp.vs_torch_jit == 0.0
    assert cpp.reference == "model"
    assert "LibTorch" in cpp.runtime
    assert len(cpp.results) == 2 * len(small.manifest.goldens)
    assert any("torchscript" in line for line in lines)


def test_without_a_model_the_goldens_are_the_reference(small: Bundle) -> None:
    report = verify(small.path, devices=["cpu"])
    assert report
    assert [row.engine for row in report.rows] == ["torch.jit", "torchscript"]
    assert {row.reference for row in report.rows} == {"goldens"}


def test_a_model_by_name_runs_in_a_process_of_its_own(small: Bundle) -> None:
    report = verify(small, "test_verify:make_small", ["eager"], ["cpu"])
    assert report, report
    missing = verify(small, "test_verify:no_such_factory", ["eager"], ["cpu"])
    assert not missing
    assert "cannot be imported" in missing.row("eager").reason


def test_another_model_is_found_out(small: Bundle) -> None:
    other = make_small()
    with torch.no_grad():
        other.linear.bias.add_(1e-3)  # type: ignore[operator, union-attr]
    report = verify(small, other, devices=["cpu"])
    assert [row.status for row in report.rows] == ["failed"] * 3
    worst = report.row("torchscript").worst
    assert worst is not None
    assert worst.output == "scores"
    assert worst.passing_atol == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(ParityError, match="scores of golden") as caught:
        report.raise_for_failure()
    assert caught.value.report is report
    assert isinstance(caught.value, AssertionError)


def test_the_model_is_left_as_it_was(small: Bundle) -> None:
    module = make_small().train()
    assert verify(small, module, ["eager"], ["cpu"])
    assert module.training


def test_a_model_that_raises_is_a_row(small: Bundle) -> None:
    class Broken(Small):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            raise RuntimeError("out of tea")

    report = verify(small, Broken().eval(), ["eager", "torch.jit"], ["cpu"])
    assert report.row("eager").status == "error"
    assert "out of tea" in report.row("eager").reason
    assert report.row("torch.jit"), "the goldens are the reference then"


def test_what_cpp_refuses_python_does_not_load(small: Bundle, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "tampered"
    shutil.copytree(small.path, copy)
    artifact = copy / small.manifest.artifacts[0].files[0].path
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)
    report = verify(copy, devices=["cpu"])
    cpp, jit = report.row("torchscript"), report.row("torch.jit")
    assert (cpp.status, jit.status) == ("error", "error")
    assert "sha256" in cpp.reason.lower()
    assert "refused the artifact" in jit.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_asked_for_is_a_contract(small: Bundle) -> None:
    report = verify(small, devices=["cuda"])
    assert not report
    assert {row.status for row in report.rows} == {"error"}
    assert "no CUDA device" in report.rows[0].reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engines": ["eager"]}, "needs the model"),
        ({"engines": ["tensorrt"]}, "expected one of torch.jit, torchscript"),
        ({"devices": ["tpu"]}, "expected 'cpu', 'cuda' or 'cuda:N'"),
        ({"artifact": "none"}, "torchscript-cpu-fp32"),
    ],
)
def test_bad_options(small: Bundle, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        verify(small, **options)


def test_one_engine_alone(small: Bundle) -> None:
    report = verify(small, engines=["torchscript"], devices=["cpu"])
    assert [row.engine for row in report.rows] == ["torchscript"]
    assert report.rows[0].vs_torch_jit is None


# --- failures of processes ------------------------------------------------------------------------


def answer_of_run(
    monkeypatch: pytest.MonkeyPatch, code: int, stdout: str, stderr: str = ""
) -> None:
    """Replaces `isthmus-run` by this answer."""

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    monkeypatch.setattr(jobs, "run_command", run)


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "reason"),
    [
        (3, '{"error": {"kind": "BundleError", "message": "bad hash"}}', "", "bad hash"),
        (
            4,
            '{"error": {"kind": "EngineUnavailable", "message": "no LibTorch"}}',
            "",
            "no LibTorch",
        ),
        (-11, "", "", "killed by SIGSEGV"),
        (127, "", "a\nundefined symbol: x", "exit code 127: a / undefined symbol: x"),
        (0, '{"context": {}, "rows": []}', "", "goldens were run"),
    ],
)
def test_a_failed_process_is_a_reason(
    small: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    stdout: str,
    stderr: str,
    reason: str,
) -> None:
    answer_of_run(monkeypatch, code, stdout, stderr)
    row = verify(small, engines=["torchscript"], devices=["cpu"]).rows[0]
    assert row.status == "error"
    assert reason in row.reason


def test_the_answer_of_isthmus_run_is_read() -> None:
    row = {
        "golden": "g",
        "output": "y",
        "max_abs": 0.5,
        "passing_atol": None,
        "passed": False,
        "reason": "NaN",
        "unknown": 1,
    }
    error = {"golden": "h", "output": None, "error": "it threw", "passed": False, "reason": ""}
    document = {"context": {"runtime": "LibTorch 9"}, "rows": [row, error]}
    results, errors, runtime = parity_of_run(json.loads(json.dumps(document)))
    assert results == (
        OutputParity("y", "g", reason="NaN", max_abs=0.5, passing_atol=float("inf")),
    )
    assert errors == {"h": "it threw"}
    assert runtime == "LibTorch 9"


def test_a_worker_that_dies_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying_worker.py").write_text(
        "import os, signal, sys\n"
        "print('last words', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "idle_worker.py").write_text("import time; time.sleep(60)\n")
    (tmp_path / "silent_worker.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExecutionError, match="killed by SIGKILL: last words"):
        workers.ask_worker("dying_worker", {})
    with pytest.raises(ExecutionError, match=r"took more than 0\.5 s"):
        workers.ask_worker("idle_worker", {}, timeout=0.5)
    with pytest.raises(ExecutionError, match="exit code 0"):
        workers.ask_worker("silent_worker", {})


def test_workers_see_the_same_threads_and_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = workers.worker_environment(2)
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == ("2", "2")
    assert str(Path(isthmus.__file__).parent.parent) in environment["PYTHONPATH"].split(os.pathsep)
    assert workers.worker_environment()["OMP_NUM_THREADS"] == "7"


# --- C++ against torch.jit, bit by bit ------------------------------------------------------------


def outputs(value: float) -> list[Any]:
    return [{"0/out/y": torch.tensor([1.0, value])}]


def test_one_bit_of_difference_to_torch_jit_fails_on_the_cpu() -> None:
    row = VerifyRow("torchscript", "C++", "cpu", "passed", results=(GOOD,))
    same = against_jit(row, Run(outputs(2.0), {}), Run(outputs(2.0), {}), "cpu")
    assert same
    assert same.vs_torch_jit == 0.0
    bit = 2.0 + 2**-22
    off = against_jit(row, Run(outputs(bit), {}), Run(outputs(2.0), {}), "cpu")
    assert off.status == "failed"
    assert off.vs_torch_jit == pytest.approx(2**-22)
    assert "expected 0" in off.reason
    unsteady = Run(outputs(2.0), {}, drift=1e-6)
    assert against_jit(row, Run(outputs(bit), {}), unsteady, "cpu"), "torch.jit itself drifts"
    assert against_jit(row, Run(outputs(bit), {}), Run(outputs(2.0), {}), "cuda:0")
    missing: list[Any] = [{}]
    assert not against_jit(row, Run(missing, {}), Run(outputs(2.0), {}), "cpu")


# --- the report -----------------------------------------------------------------------------------


def report_of(*rows: VerifyRow) -> VerifyReport:
    return VerifyReport("toy", rows, {"threads": "2"})


PASSED = VerifyRow("torch.jit", "Python", "cpu", "passed", results=(GOOD,), seconds=1.0)
ABSENT = VerifyRow("torchscript", "C++", "cuda", "absent", "no CUDA device on this machine")
FAILED = VerifyRow("torchscript", "C++", "cpu", "failed", "too far", results=(GOOD, BAD))


def test_ok_needs_something_that_ran_and_nothing_that_failed() -> None:
    assert report_of(PASSED, ABSENT).ok
    assert not report_of(ABSENT).ok, "nothing ran, so nothing is proven"
    assert not report_of().ok
    assert not report_of(PASSED, FAILED).ok
    assert not report_of(PASSED, replace(ABSENT, status="error")).ok


def test_the_worst_golden_of_each_output_is_named() -> None:
    nearer = replace(GOOD, golden="odd", strain=0.9)
    row = VerifyRow("torchscript", "C++", "cpu", "failed", "", results=(GOOD, nearer, BAD))
    assert row.worst == BAD
    assert row.outputs == {"y": nearer, "z": BAD}
    assert "z of large" in str(report_of(row))


def test_parity_error_names_each_failure_and_stays_short() -> None:
    many = replace(FAILED, results=tuple(replace(BAD, golden=str(index)) for index in range(99)))
    text = str(ParityError(report_of(many)))
    assert "z of golden 0: too far" in text
    assert "more; print the report" in text
    assert len(text.splitlines()) < 20


def test_formats_hold_the_facts() -> None:
    report = report_of(PASSED, ABSENT, FAILED)
    data = json.loads(to_json(report))
    assert (data["schema"], data["schema_version"], data["passed"]) == ("isthmus-verify", 3, False)
    statuses = [(row["engine"], row["status"], row["passed"]) for row in data["rows"]]
    assert statuses == [
        ("torch.jit", "passed", True),
        ("torchscript", "absent", False),
        ("torchscript", "failed", False),
    ]
    assert data["rows"][2]["worst"]["golden"] == "large"
    assert data["verdict"].startswith("FAILED: 1 of 2 ways of running toy")
    junit = to_junit(report)
    assert 'failures="1"' in junit
    assert 'skipped="1"' in junit
    markdown = to_markdown(report)
    assert "| torch.jit in Python | cpu | passed |" in markdown
    assert "no CUDA device on this machine" in markdown
    assert "**FAILED" in markdown


def test_a_row_by_name() -> None:
    report = report_of(PASSED)
    assert report.row("torch.jit") is PASSED
    with pytest.raises(KeyError, match=r"torch\.jit on cpu"):
        report.row("eager")
