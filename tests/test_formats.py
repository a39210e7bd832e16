"""Several formats: a process and a row for each, and the conversion from TorchScript."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import isthmus
from isthmus import _core
from isthmus.bundle.bundle import Bundle
from isthmus.cli import app
from isthmus.errors import Decision
from isthmus.exporters import plan, subprocess_export
from isthmus.exporters.export_request import ExportedArtifact
from isthmus.exporters.subprocess_export import isolated
from isthmus.runtime import install_paths
from isthmus.timing.tune import FILE, TuneReport


class Branch(nn.Module):
    """A module with a branch on its input's values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, input: Tensor) -> Tensor:
        if bool(input.sum() > 0):
            return self.linear(input)
        return -input


class Loop(nn.Module):
    """A module that loops over the rows of its input."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[0])
        for row in range(x.size(0)):
            total = torch.tanh(total + x[row])
        return total


class Sorted(nn.Module):
    """A module with an operator that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x @ x.transpose(-1, -2))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(install_paths.binary()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- processes ------------------------------------------------------------------------------------


def nothing(_: str) -> None:
    """Ignores progress."""


def test_what_a_process_gives_comes_back_with_its_progress() -> None:
    lines: list[str] = []

    def work(say: Any) -> dict[str, int]:
        say("halfway")
        return {"pid": os.getpid()}

    answer = isolated(work, seconds=30, progress=lines.append)
    assert answer["pid"] != os.getpid()
    assert lines == ["halfway"]


def test_a_crash_is_an_error_with_its_signal() -> None:
    def work(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(isthmus.ExportError, match="SIGSEGV"):
        isolated(work, seconds=30, progress=nothing)


def test_a_time_limit_ends_the_process_and_its_children() -> None:
    def work(_: Any) -> None:
        subprocess.Popen(["sleep", "3600"])
        time.sleep(3600)

    start = time.monotonic()
    with pytest.raises(isthmus.ExportError, match="more than 1 s"):
        isolated(work, seconds=1, progress=nothing)
    assert time.monotonic() - start < 60


def test_a_lock_that_was_held_at_the_fork_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_export, "STUCK_SECONDS", 2.0)
    lock = threading.Lock()
    lock.acquire()
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        lock.release()

    def work(_: Any) -> str:
        with lock:  # in the child, it is never released
            return "done"

    assert isolated(work, seconds=600, progress=progress) == "done"
    assert lines == ["the exporter's process hangs; starting it again"]


def test_a_lock_that_stays_held_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_export, "STUCK_SECONDS", 1.0)
    lock = threading.Lock()
    lock.acquire()
    with pytest.raises(isthmus.ExportError, match="holds a lock"):
        isolated(lambda _: lock.acquire(), seconds=600, progress=nothing)


def test_a_child_leaves_the_garbage_of_its_parent_alone() -> None:
    parent = os.getpid()
    seen: list[str] = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            if os.getpid() != parent:
                seen.append("collected in the child")

    def work(_: Any) -> list[str]:
        held.clear()
        gc.collect()
        return seen

    held = [Cycle()]
    assert isolated(work, seconds=60, progress=nothing) == []
    assert gc.get_freeze_count() == 0


def test_an_error_keeps_its_kind_and_what_it_carries() -> None:
    def work(_: Any) -> None:
        error = isthmus.ExportError("the reason")
        error.decisions = ()
        raise error

    with pytest.raises(isthmus.ExportError, match="the reason"):
        isolated(work, seconds=30, progress=nothing)


def test_one_formats_crash_loses_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> ExportedArtifact:
        os.kill(os.getpid(), signal.SIGABRT)
        raise AssertionError

    monkeypatch.setattr(plan, "export_aoti", crash)
    with pytest.warns(RuntimeWarning, match="aoti is not in the bundle: .*SIGABRT"):
        bundle = isthmus.export(
            nn.Linear(4, 3),
            (torch.randn(2, 4),),
            path=tmp_path / "b",
            formats=("torchscript", "aoti", "onnx"),
        )
    assert [(result.format, result.ok) for result in bundle.results] == [
        ("torchscript", True),
        ("aoti", False),
        ("onnx", True),
    ]
    assert [artifact.format for artifact in bundle.manifest.artifacts] == ["torchscript", "onnx"]
    assert run("verify", bundle.path, "--engine", "onnxruntime").returncode == 0


def test_nothing_made_is_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(isthmus.ExportError) as caught:
        isthmus.export(Sorted(), (torch.randn(3, 3),), path=tmp_path / "b", formats="onnx")
    assert "linalg_eig" in str(caught.value)
    assert "test_formats.py" in str(caught.value)
    assert {decision.strategy for decision in caught.value.decisions} >= {"dynamo", "torchscript"}
    assert not (tmp_path / "b").exists()


def test_the_table_names_the_line_and_what_to_try(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="no form in ONNX"):
        bundle = isthmus.export(
            Sorted(), (torch.randn(3, 3),), path=tmp_path / "b", formats=("torchscript", "onnx")
        )
    lost = bundle.results[1]
    assert not lost.ok
    assert "test_formats.py" in lost.where
    assert "another format" in lost.advice


class LoudInput(nn.Module):
    """A module with a branch on values that neither torch.export nor a trace can keep."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def inner(self, x: Tensor, **more: Any) -> Tensor:
        peak = x.abs().max()
        if peak > 100.0:
            x = x / peak
        return x.tanh()


def test_onnx_inherits_the_hazards_of_the_trace_it_is_made_from(tmp_path: Path) -> None:
    lines = Path(__file__).read_text().splitlines()
    where = f"test_formats.py:{1 + lines.index('        if peak > 100.0:')}"
    options: dict[str, Any] = {"path": tmp_path / "b", "formats": ("onnx",)}
    with pytest.raises(isthmus.ExportError) as caught:
        isthmus.export(LoudInput().eval(), (torch.rand(3, 4),), **options)
    reasons = {decision.strategy: decision.reason for decision in caught.value.decisions}
    assert "data-dependent" in reasons["dynamo"]
    assert "keeps what one call decided" in reasons["torchscript"]
    bundle = isthmus.export(LoudInput().eval(), (torch.rand(3, 4),), accept=[where], **options)
    hazards = {hazard.kind: hazard for hazard in bundle.manifest.artifacts[0].hazards}
    assert hazards["accepted_branch"].severity == "warning"
    assert hazards["accepted_branch"].where.endswith(where)
    assert "fallback" in hazards


class Waves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).exp()


def test_wrong_numbers_name_the_first_operator_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxscript import opset18

    from isthmus.exporters.onnx import export_onnx

    wrong = {torch.ops.aten.tanh.default: opset18.Sin}
    monkeypatch.setattr(export_onnx, "exact_translations", lambda _: wrong)
    monkeypatch.setattr(export_onnx, "_ATTEMPTS", export_onnx._ATTEMPTS[:1])
    with pytest.raises(isthmus.ExportError) as caught:
        isthmus.export(Waves().eval(), (torch.randn(3, 4),), path=tmp_path / "b", formats=("onnx",))
    assert "the first operator whose values differ is aten.tanh.default in second" in str(
        caught.value
    )
    assert "write that line with other operators" in str(caught.value)
    lines = Path(__file__).read_text().splitlines()
    line = 1 + lines.index("        return self.second(self.first(x)).exp()")
    assert caught.value.decisions[0].where.endswith(f"test_formats.py:{line}")


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=mask)


def padded(batch: int, length: int, lengths: list[int]) -> tuple[Tensor, Tensor]:
    places = torch.arange(length)[None].expand(batch, length)
    return torch.rand(batch, length, 8), places >= torch.tensor(lengths)[:, None]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:.*is not proven on openvino")
@pytest.mark.parametrize("formats", [("onnx",), ("aoti", "torchscript")], ids=str)
def test_attentions_fast_path_is_off_where_no_export_follows_it(
    formats: tuple[str, ...], tmp_path: Path
) -> None:
    module = Padded().eval()
    axes = {0: "b", 1: "t"}
    bundle = isthmus.export(
        module, padded(2, 9, [9, 5]), path=tmp_path / "b", formats=formats,
        dynamic={"x": axes, "mask": axes}, dims={"b": (1, 8), "t": (2, 32)},
    )  # fmt: skip
    assert torch.backends.mha.get_fastpath_enabled()
    for artifact in bundle.manifest.artifacts:
        (hazard,) = (h for h in artifact.hazards if h.kind == "attention_fast_path")
        assert '32 of the 144 values of "output" differ' in hazard.message
    x, mask = padded(3, 12, [12, 3, 7])
    with torch.no_grad():
        eager = module(x, mask)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            expected = module(x, mask)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    assert not eager[mask].any() and expected[mask].any()
    for artifact in bundle.manifest.artifacts:
        model = isthmus.load(bundle.path, artifact=artifact.name, trust="native")
        answer = model(x, mask)
        torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(answer[~mask], eager[~mask], rtol=0, atol=1e-5)
    rows = isthmus.verify(bundle.path, module, ["eager"], ["cpu"]).rows
    assert [row.status for row in rows] == ["passed"]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_trace_alone_keeps_attentions_fast_path(tmp_path: Path) -> None:
    module = Padded().eval()
    bundle = isthmus.export(module, padded(2, 9, [9, 5]), path=tmp_path / "b")
    x, mask = padded(2, 9, [4, 9])
    with torch.no_grad():
        torch.testing.assert_close(
            isthmus.load(bundle.path)(x, mask), module(x, mask), rtol=0, atol=1e-6
        )
    kinds = [hazard.kind for hazard in bundle.manifest.artifacts[0].hazards]
    assert "attention_fast_path" not in kinds


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(x.sum() > 0, lambda v: v + 1, lambda v: v * 2, (x,))
        return chosen


def test_a_lost_format_names_those_that_could_do_it(tmp_path: Path) -> None:
    with pytest.raises(isthmus.ExportError, match="try the formats exported, onnx, aoti"):
        isthmus.export(Chooses().eval(), (torch.randn(3),), path=tmp_path / "b")


def test_advice_is_on_the_reason_that_is_shown() -> None:
    wrong = Decision("dynamo", False, "3 of 9 goldens fail; golden a: output y")
    unsupported = Decision("torchscript", False, "UnsupportedOperatorError: aten::x")
    error = isthmus.ExportError("dynamo: 3 of 9 goldens fail")
    error.decisions = (wrong, unsupported)
    result = plan._failed(plan.FormatResult("onnx", False, 0.0), error)
    assert result.reason.startswith("dynamo: 3 of 9 goldens fail")
    assert "no form in ONNX" not in result.advice


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_model_is_refused_by_onnx_for_what_it_is(tmp_path: Path) -> None:
    module = torch.ao.quantization.quantize_dynamic(Waves().eval(), {nn.Linear})
    with pytest.raises(isthmus.ExportError, match=r"the model is quantised \(first\).*int8"):
        isthmus.export(module, (torch.randn(3, 4),), path=tmp_path / "b", formats=("onnx",))


def test_an_unknown_format_or_isa_is_refused(tmp_path: Path) -> None:
    example = (torch.randn(2, 4),)
    with pytest.raises(isthmus.InvalidInput, match="torchscript, exported, onnx, aoti"):
        isthmus.export(nn.Linear(4, 3), example, path=tmp_path / "b", formats=("tflite",))
    with pytest.raises(isthmus.InvalidInput, match="portable, avx2"):
        isthmus.export(nn.Linear(4, 3), example, path=tmp_path / "b", isa="mmx")
    if "avx512f" not in _core.this_machine().isa:
        with pytest.raises(isthmus.InvalidInput, match="lacks avx512f"):
            isthmus.export(
                nn.Linear(4, 3), example, path=tmp_path / "b", formats="aoti", isa="avx512"
            )


# --- from TorchScript -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Returns a scripted branch, adopted from its file and converted to every format."""
    folder = tmp_path_factory.mktemp("convert")
    torch.manual_seed(0)
    torch.jit.script(Branch().eval()).save(folder / "model.pt")
    adopted = isthmus.adopt(
        folder / "model.pt",
        {"input": torch.randn(3, 8)},
        output=folder / "bundle",
        dynamic={"input": {0: "batch"}},
        dims={"batch": (1, 16)},
    )
    return isthmus.convert(adopted, to=("onnx", "aoti"))


@pytest.mark.parametrize("engine", ["torchscript", "onnxruntime", "openvino", "aoti"])
def test_a_branch_survives_the_conversion_from_torchscript(converted: Bundle, engine: str) -> None:
    model = isthmus.load(converted.path, engine=engine, trust="native")
    origin = isthmus.load(converted.path, engine="torchscript")
    for x in (torch.rand(5, 8), -torch.rand(1, 8), torch.randn(16, 8)):
        torch.testing.assert_close(model(x), origin(x), rtol=0, atol=1e-5)


def test_the_bundle_grew_and_kept_its_goldens(converted: Bundle) -> None:
    assert [artifact.format for artifact in converted.manifest.artifacts] == [
        "torchscript",
        "onnx",
        "aoti",
    ]
    assert [result.ok for result in converted.results] == [True, True]
    assert converted.verify_files() == ()
    compiled = converted.manifest.artifacts[2]
    assert compiled.strategy == "converter"
    assert compiled.requires["isa"]
    assert compiled.trust == "native"


def test_every_row_of_verify_asks_the_registry(converted: Bundle) -> None:
    report = isthmus.verify(converted.path, devices=["cpu"], trust="native")
    assert report, report
    rows = {(row.engine, row.language) for row in report.rows}
    assert rows == {
        ("torch.jit", "Python"),
        ("torchscript", "C++"),
        ("onnxruntime", "Python"),
        ("openvino", "Python"),
        ("onnxruntime", "C++"),
        ("openvino", "C++"),
        ("aoti", "Python"),
        ("aoti", "C++"),
    }


def test_native_rows_are_told_as_absent_until_they_are_allowed(converted: Bundle) -> None:
    report = isthmus.verify(converted.path, devices=["cpu"])
    assert report
    absent = [row for row in report.rows if row.status == "absent"]
    assert {row.engine for row in absent} == {"aoti"}
    assert all("native code" in row.reason for row in absent)
    asked = isthmus.verify(converted.path, engines=["aoti"], devices=["cpu"])
    assert not asked


def test_a_loop_survives_as_onnx(tmp_path: Path) -> None:
    torch.jit.script(Loop()).save(tmp_path / "loop.pt")
    adopted = isthmus.adopt(
        tmp_path / "loop.pt",
        {"x": torch.randn(3, 4)},
        output=tmp_path / "bundle",
        dynamic={"x": {0: "rows"}},
        dims={"rows": (1, 9)},
    )
    bundle = isthmus.convert(adopted, to="onnx")
    assert "Loop" in bundle.manifest.artifacts[1].operators
    model = isthmus.load(bundle.path, engine="onnxruntime")
    for rows in (1, 2, 9):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(model(x), Loop()(x))


def test_what_cannot_be_converted_leaves_the_bundle(tmp_path: Path) -> None:
    torch.jit.script(Sorted()).save(tmp_path / "sorted.pt")
    adopted = isthmus.adopt(
        tmp_path / "sorted.pt", {"x": torch.randn(3, 3)}, output=tmp_path / "bundle"
    )
    before = (adopted.path / "manifest.json").read_bytes()
    with pytest.raises(isthmus.ExportError, match="the bundle is as it was"):
        isthmus.convert(adopted, to="onnx")
    assert (adopted.path / "manifest.json").read_bytes() == before


def test_convert_refuses_what_it_does_not_know(converted: Bundle) -> None:
    with pytest.raises(isthmus.InvalidInput, match="exported or onnx or aoti"):
        isthmus.convert(converted, to="torchscript")
    with pytest.raises(isthmus.InvalidInput, match="got nothing"):
        isthmus.convert(converted, to=())
    with pytest.raises(isthmus.InvalidInput, match="expected a TorchScript one"):
        isthmus.convert(converted, to="onnx", artifact="onnx-cpu-fp32")


# --- tune -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(converted: Bundle) -> TuneReport:
    return isthmus.tune(converted, rounds=2, turn_seconds=0.01, trust="native")


def test_tune_measures_what_verified_and_load_takes_the_fastest(
    converted: Bundle, tuned: Any
) -> None:
    assert tuned
    assert {candidate.engine for candidate in tuned.candidates} == {
        "torchscript",
        "onnxruntime",
        "openvino",
        "aoti",
    }
    scores = [candidate.score for candidate in tuned.candidates]
    assert scores == sorted(scores)
    model = isthmus.load(converted.path, trust="native")
    report = model.load_report
    assert (report.engine, report.artifact) == (tuned.best.engine, tuned.best.artifact)
    assert report.threads == tuned.best.threads
    assert "the fastest of" in report.chosen
    done = run("info", converted.path)
    assert "that were measured on this machine" in done.stdout


def test_native_code_that_won_is_passed_over_without_trust(converted: Bundle, tuned: Any) -> None:
    best = next(candidate for candidate in tuned.candidates if candidate.engine != "aoti")
    assert isthmus.load(converted.path).load_report.engine == best.engine


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["machines"][0].update(machine="elsewhere"), "other machines"),
        (lambda d: d["machines"][0]["ranking"][0].update(sha256="0" * 64), "has changed since"),
        (lambda d: d["machines"][0]["ranking"][0].update(artifact="gone"), "no longer has"),
        (lambda d: d.update(format="other"), "another isthmus"),
        (lambda d: d.pop("machines"), "cannot be read"),
    ],
)
def test_a_tuning_that_does_not_fit_is_a_note_and_never_an_error(
    converted: Bundle, tuned: Any, change: Any, words: str
) -> None:
    path = converted.path / FILE
    whole = path.read_text()
    try:
        document = json.loads(whole)
        change(document)
        path.write_text(json.dumps(document))
        report = isthmus.load(converted.path).load_report
        assert report.engine == "torchscript"
        assert words in report.chosen
        path.write_text("{")
        assert "cannot be read" in isthmus.load(converted.path).load_report.chosen
    finally:
        path.write_text(whole)


def test_what_fails_is_not_chosen(converted: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from isthmus import tune

    def fails(job: Any, row: Any) -> Any:
        if row.engine == "onnxruntime":
            return replace(row, status="failed", reason="planted"), ""
        return row, ""

    import sys

    monkeypatch.setattr(sys.modules["isthmus.timing.tune"], "prove_without_python", fails)
    report = tune(
        converted, rounds=2, turn_seconds=0.01, threads=[1], engines=["onnxruntime"], write=False
    )
    assert not report
    assert {candidate.reason for candidate in report.candidates} == {"planted"}


# --- deploy ---------------------------------------------------------------------------------------

SYSTEM = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1")


@pytest.mark.parametrize("engine", ["onnxruntime", "torchscript", "openvino"])
def test_a_deployed_folder_runs_with_nothing_but_a_c_library(
    converted: Bundle, tmp_path: Path, engine: str
) -> None:
    root = tmp_path / "root"
    deployment = isthmus.deploy(converted, root / "app", engine=engine)
    assert deployment.size > 1 << 20
    names = {Path(file.path).name for file in deployment.files}
    assert not any("python" in name for name in names - {"libisthmus_without_python.so"})
    assert engine == "torchscript" or not any("torch" in name for name in names if ".so" in name)
    command = [str(root / "app" / "bin" / "isthmus-run"), "verify", str(root / "app" / "bundle")]
    environment = {}
    # OpenVINO asks the system for the processors' topology, which a bare root does not tell.
    if engine != "openvino" and os.geteuid() == 0 and Path("/usr/sbin/chroot").exists():
        make_bare_root(root)
        command = ["/usr/sbin/chroot", str(root), "/app/bin/isthmus-run", "verify", "/app/bundle"]
        # Without /proc the loader cannot tell where the program lies.
        environment = {"LD_ORIGIN_PATH": "/app/bin"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


def make_bare_root(root: Path) -> None:
    """Nothing but the C library and its loader."""
    for target in ("lib64", "lib/x86_64-linux-gnu", "tmp"):
        (root / target).mkdir(parents=True)
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    (root / "lib64" / loader.name).write_bytes(loader.read_bytes())
    (root / "lib64" / loader.name).chmod(0o755)
    for name in SYSTEM:
        source = Path("/lib/x86_64-linux-gnu", name)
        if source.exists():
            (root / "lib" / "x86_64-linux-gnu" / name).write_bytes(source.read_bytes())


def test_deploy_refuses_what_does_not_fit(
    converted: Bundle, linear_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(isthmus.EngineUnavailable, match='"abacus" is not installed'):
        isthmus.deploy(converted, tmp_path / "a", engine="abacus")
    with pytest.raises(isthmus.InvalidInput, match="isthmus convert"):
        isthmus.deploy(linear_bundle, tmp_path / "b", engine="onnxruntime")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").write_text("kept")
    with pytest.raises(isthmus.BundleError, match="exists already"):
        isthmus.deploy(converted, tmp_path / "c", engine="onnxruntime", overwrite=True)
    assert (tmp_path / "c" / "mine").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


# --- the command line -----------------------------------------------------------------------------


def test_the_command_line_prints_a_row_for_each_format(tmp_path: Path) -> None:
    factory = tmp_path / "factory.py"
    factory.write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(4, 3), (torch.randn(2, 4),), {}\n"
    )
    done = subprocess.run(
        [
            *("isthmus", "export", "factory:make", "-o", "bundle"),
            *("--formats", "torchscript,onnx", "--json"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PATH": _path()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["formats"]
    assert [(row["format"], row["ok"]) for row in rows] == [("torchscript", True), ("onnx", True)]
    folder = subprocess.run(
        [
            *(
                "isthmus",
                "deploy",
                "folder",
                "bundle",
                "--engine",
                "onnxruntime",
                "-o",
                "out",
                "--json",
            )
        ],
        cwd=tmp_path,
        env={**os.environ, "PATH": _path()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert folder.returncode == 0, folder.stderr
    assert json.loads(folder.stdout)["size"] > 1 << 20


def _path() -> str:
    import sys

    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def test_help_names_the_new_commands() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    for command in ("convert", "tune", "deploy"):
        assert command in text


# --- looking inside -------------------------------------------------------------------------------


def test_inspect_looks_into_every_format(tmp_path: Path) -> None:
    bundle = isthmus.export(
        Branch().eval(),
        (torch.randn(2, 8),),
        path=tmp_path / "b",
        dynamic={"input": {0: "batch"}},
        dims={"batch": (1, 8)},
        formats=("onnx", "torchscript"),
    )
    inspection = isthmus.inspect(bundle.path)
    assert inspection.format == "onnx" and "opset ai.onnx" in inspection.versions
    assert {"If", "Gemm"} <= {use.name for use in inspection.operators}
    assert {use.owner for use in inspection.operators} == {"ONNX"}
    assert [input_spec.type for input_spec in inspection.inputs["forward"]] == ["float32[batch, 8]"]
    assert not inspection.refused
    shown = CliRunner().invoke(app, ["inspect", str(bundle.path)])
    assert shown.exit_code == 0 and "ONNX, ir " in shown.output
    # Only TorchScript has graphs and submodules, so it is the default for them.
    assert "prim::If" in isthmus.inspect(bundle.path, graph=True).graph
    onnx = bundle.manifest.artifacts[0]
    with pytest.raises(isthmus.InvalidInput, match="TorchScript"):
        isthmus.inspect(bundle.path, artifact=onnx.name, graph=True)
    file = isthmus.inspect(bundle.path / onnx.files[0].path)
    assert [input_spec.name for input_spec in file.inputs["forward"]] == ["input"]


def test_inspect_says_why_an_onnx_file_would_be_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [0.0, 0.0])
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../outside")
    graph = helper.make_graph(
        [helper.make_node("Own", ["w"], ["y"], domain="my.domain")],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [weight],
    )
    file = tmp_path / "m.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    refused = "\n".join(isthmus.inspect(file).refused)
    assert "../../outside" in refused and "my.domain::Own" in refused
