"""An engine is offered only when it is proven: at export, at the first load, or by verify."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import isthmus
from isthmus.bundle.bundle import Bundle, write_bundle
from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import (
    Artifact,
    DimRange,
    EngineProof,
    Manifest,
    Method,
    Tolerance,
    Tree,
    ValueSpec,
)
from native_engines import compile_engine
from rewrite_manifest import rewrite_manifest
from scripted_bundles import Runner, make_bundle

# --- at load: bundles for the scripted engine -----------------------------------------------------


def predict(
    run: Runner, bundle: Path, inputs: Path, *options: object, code: int = 0
) -> dict[str, Any]:
    return run.json("predict", bundle, "--inputs", inputs, *options, code=code)


def test_an_engine_without_a_verdict_is_proven_once(
    isthmus_run: Runner, affine_inputs: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", passed=None)
    first = predict(isthmus_run, bundle, affine_inputs)["context"]["proof"]
    assert first.startswith("proven with Script 1.0 now, on 2 goldens")
    second = predict(isthmus_run, bundle, affine_inputs)["context"]["proof"]
    assert second.startswith("proven with Script 1.0, on this machine")
    (entry,) = json.loads((bundle / "proofs.json").read_text())["proofs"]
    assert (entry["engine"], entry["runtime"], entry["passed"]) == ("scripted", "Script 1.0", True)


def test_a_verdict_of_another_machine_artifact_or_runtime_does_not_count(
    isthmus_run: Runner, affine_inputs: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", passed=None)
    predict(isthmus_run, bundle, affine_inputs)
    for key in ("machine", "sha256", "runtime", "device", "engine", "options"):
        document = json.loads((bundle / "proofs.json").read_text())
        document["proofs"][-1][key] = "cuda" if key == "device" else "another"
        (bundle / "proofs.json").write_text(json.dumps(document))
        proof = predict(isthmus_run, bundle, affine_inputs)["context"]["proof"]
        assert " now, on " in proof, key


@pytest.mark.parametrize("passed", [None, False])
def test_an_engine_that_fails_is_refused_by_name_too(
    isthmus_run: Runner, affine_inputs: Path, tmp_path: Path, passed: bool | None
) -> None:
    bundle = make_bundle(tmp_path / "bundle", "gain 3", passed=passed)
    why = "2 of 2 goldens fail; golden batch1: output y" if passed is None else "it was planted"
    for options in ([], ["--engine", "scripted"], ["--unproven", "refuse"]):
        if passed is None and "refuse" in options:
            continue
        error = predict(isthmus_run, bundle, affine_inputs, *options, code=4)["error"]["message"]
        assert why in error and "--unproven allow" in error
    context = predict(isthmus_run, bundle, affine_inputs, "--unproven", "allow")["context"]
    assert "taken although it FAILED" in context["proof"]
    assert context["proof"] in context.values()
    # These two are how one finds out.
    isthmus_run("verify", bundle, code=1)
    isthmus_run("bench", bundle, "--iterations", "1", "--min-seconds", "0")


def test_verify_is_remembered(isthmus_run: Runner, affine_inputs: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", passed=None)
    refused = predict(isthmus_run, bundle, affine_inputs, "--unproven", "refuse", code=4)
    assert "isthmus-run verify BUNDLE --engine scripted" in refused["error"]["message"]
    isthmus_run("verify", bundle)
    predict(isthmus_run, bundle, affine_inputs, "--unproven", "refuse")
    # A failure here counts more than what the export saw, and a later success more than that.
    proven = make_bundle(tmp_path / "proven", "gain 3")
    isthmus_run("verify", proven, code=1)
    assert (
        "on this machine" in predict(isthmus_run, proven, affine_inputs, code=4)["error"]["message"]
    )


def test_a_valid_verdict_leaves_the_folder_as_it_is(
    isthmus_run: Runner, affine_inputs: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert "at export" in predict(isthmus_run, bundle, affine_inputs)["context"]["proof"]
    isthmus_run("verify", bundle)
    assert not (bundle / "proofs.json").exists()


def test_a_folder_that_cannot_be_written_costs_a_note(
    isthmus_run: Runner, affine_inputs: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", passed=None)
    (bundle / "proofs.json").mkdir()
    context = predict(isthmus_run, bundle, affine_inputs)["context"]
    assert any("proofs.json cannot be written" in text for text in context.values())


def test_info_shows_each_engine(isthmus_run: Runner, tmp_path: Path) -> None:
    for passed, status in ((None, "not proven"), (True, "passed"), (False, "failed")):
        bundle = make_bundle(tmp_path / status, passed=passed)
        (row,) = isthmus_run.json("info", bundle)["rows"]
        (engine,) = row["engines"]
        assert (engine["engine"], engine["status"]) == ("scripted", status)
        text = isthmus_run("info", bundle).stdout
        assert status in text
        assert ("it was planted" in text) == (passed is False)


def test_a_call_of_an_engine_that_cannot_stop_takes_no_timeout(linear_bundle: Bundle) -> None:
    with pytest.raises(isthmus.InvalidInput, match="torchscript cannot stop a call"):
        isthmus.load(linear_bundle.path, timeout=1.0)
    model = isthmus.load(linear_bundle.path)
    with pytest.raises(isthmus.InvalidInput, match="timeout -1"):
        model.timeout = -1
    assert model.timeout == 0


# --- at export ------------------------------------------------------------------------------------


class PackedLstm(nn.Module):
    """OpenVINO computes it without the lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, _ = self.lstm(packed)
        return pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    with pytest.warns(RuntimeWarning, match="onnx-cpu-fp32 is not proven on openvino"):
        return isthmus.export(
            PackedLstm(),
            (torch.randn(3, 7, 6), torch.tensor([7, 2, 5])),
            path=tmp_path_factory.mktemp("packed") / "bundle",
            formats=("torchscript", "onnx"),
            dynamic={"x": {0: "batch", 1: "time"}, "lengths": {0: "batch"}},
            dims={"batch": (1, 4), "time": (1, 16)},
        )


def proofs(bundle: Bundle, format: str) -> dict[str, EngineProof]:
    (artifact,) = [entry for entry in bundle.manifest.artifacts if entry.format == format]
    return {proof.engine: proof for proof in artifact.proofs}


def test_export_proves_every_engine_and_keeps_what_one_of_them_gives(packed: Bundle) -> None:
    assert {engine: proof.passed for engine, proof in proofs(packed, "onnx").items()} == {
        "onnxruntime": True,
        "openvino": False,
    }
    assert "goldens fail" in proofs(packed, "onnx")["openvino"].reason
    assert proofs(packed, "onnx")["openvino"].runtime.startswith("OpenVINO 20")
    assert proofs(packed, "torchscript")["torchscript"].passed
    assert [result.proofs for result in packed.results] == [
        artifact.proofs for artifact in packed.manifest.artifacts
    ]


def test_no_load_takes_an_engine_that_failed(packed: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(packed.path, tmp_path / "bundle")
    with pytest.raises(isthmus.EngineUnavailable, match=r"model's answers .*at export"):
        isthmus.load(folder, engine="openvino")
    assert "proven" in isthmus.load(folder, engine="onnxruntime").load_report.proof
    with rewrite_manifest(folder) as manifest:  # openvino comes first, and is passed over
        (onnx_artifact,) = [a for a in manifest["artifacts"] if a["format"] == "onnx"]
        onnx_artifact["proofs"].reverse()
        manifest["artifacts"] = [onnx_artifact]
    assert isthmus.load(folder).load_report.engine == "onnxruntime"
    model = isthmus.load(folder, engine="openvino", unproven="allow")
    assert "FAILED" in model.load_report.proof
    with pytest.raises(isthmus.InvalidInput, match="expected prove, refuse or allow"):
        isthmus.load(folder, unproven="maybe")


def test_another_version_of_the_runtime_is_tried_again(packed: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(packed.path, tmp_path / "bundle")
    with rewrite_manifest(folder) as manifest:
        for artifact in manifest["artifacts"]:
            for proof in artifact["proofs"]:
                proof.update(runtime="another", passed=True, reason="")
    with pytest.raises(isthmus.EngineUnavailable, match="on this machine"):
        isthmus.load(folder, engine="openvino")
    assert " now, on " in isthmus.load(folder, engine="onnxruntime").load_report.proof


def test_tune_does_not_choose_it(packed: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(packed.path, tmp_path / "bundle")
    report = isthmus.tune(
        folder, engines=["onnxruntime", "openvino"], threads=[1], rounds=2, turn_seconds=0.01
    )
    assert {candidate.engine for candidate in report.ranking} == {"onnxruntime"}
    assert isthmus.load(folder).load_report.engine == "onnxruntime"


def test_deploy_ships_only_what_is_proven(packed: Bundle, tmp_path: Path) -> None:
    with pytest.raises(isthmus.EngineUnavailable, match="does not give the model's answers"):
        isthmus.deploy(packed, tmp_path / "openvino", engine="openvino")
    assert not (tmp_path / "openvino").exists()
    folder = shutil.copytree(packed.path, tmp_path / "bundle")
    with rewrite_manifest(folder) as manifest:
        for artifact in manifest["artifacts"]:
            del artifact["proofs"]
    with pytest.raises(isthmus.EngineUnavailable, match="does not give the model's answers"):
        isthmus.deploy(folder, tmp_path / "again", engine="openvino")
    isthmus.deploy(folder, tmp_path / "app", engine="onnxruntime")
    shipped = isthmus.open_bundle(tmp_path / "app" / "bundle")
    assert proofs(shipped, "onnx")["onnxruntime"].passed
    assert (
        [entry.special for entry in shipped.manifest.specials]
        == [entry.special for entry in packed.manifest.specials]
        != []
    )


def test_inspect_and_the_report_show_the_verdicts(packed: Bundle) -> None:
    from isthmus.reports.bundle_document import _engine_table

    inspection = isthmus.inspect(packed.path, artifact="onnx-cpu-fp32")
    assert [proof.engine for proof in inspection.proofs] == ["onnxruntime", "openvino"]
    (table,) = _engine_table(packed.manifest.artifacts)
    assert ("onnx-cpu-fp32", "openvino", "cpu", "FAILED") in [row[:4] for row in table.rows]


@pytest.mark.parametrize(
    ("behaviour", "reason"), [("crash", "killed by SIGABRT"), ("hang", "did not end within 10 s")]
)
def test_an_engine_that_crashes_or_hangs_costs_its_own_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, reason: str
) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    compile_engine("misbehaving_engine.cpp", folder, "misbehaving")
    monkeypatch.setenv("ISTHMUS_ENGINE_PATH", str(folder))
    monkeypatch.setenv("MISBEHAVE", behaviour)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle = isthmus.export(
            nn.Linear(4, 3), (torch.randn(2, 4),), path=tmp_path / "bundle", time_limit=10.0
        )
    verdicts = proofs(bundle, "torchscript")
    assert verdicts["torchscript"].passed
    assert not verdicts["misbehaving"].passed
    assert reason in verdicts["misbehaving"].reason
    assert verdicts["misbehaving"].runtime == "Trouble 1.0"


def test_an_artifact_is_kept_that_only_another_engine_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import isthmus.exporters.engine_proofs as module
    from isthmus.runtime.file_engines import OnnxRuntimeEngine

    def unloadable(*_: object) -> None:
        raise RuntimeError("this runtime lacks an operator")

    def prove(bundle: Path, artifact: Artifact, engine: str, *_: object, **__: object) -> Any:
        if engine == "onnxruntime":
            return EngineProof(engine, "cpu", "ONNX Runtime 1", False, "it lacks an operator")
        return EngineProof(engine, "cpu", "OpenVINO 1", True)

    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", unloadable)
    monkeypatch.setattr(module, "prove_engine", prove)
    monkeypatch.setattr(module, "try_specials", lambda *args, **_: [""] * len(args[4]))
    with pytest.warns(RuntimeWarning, match="not proven on onnxruntime"):
        bundle = isthmus.export(
            nn.Linear(4, 3), (torch.randn(2, 4),), path=tmp_path / "bundle", formats="onnx"
        )
    (artifact,) = bundle.manifest.artifacts
    assert [proof.passed for proof in artifact.proofs] == [False, True]
    assert "cannot be loaded again" in artifact.decisions[0].reason
    assert artifact.decisions[-1].accepted
    assert "openvino (OpenVINO 1) gives eager's answers" in artifact.decisions[-1].reason


def test_an_artifact_that_no_engine_gives_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import isthmus.exporters.engine_proofs as module

    failed = EngineProof("torchscript", "cpu", "LibTorch 1", False, "it was planted")
    monkeypatch.setattr(module, "prove_engine", lambda *_, **__: failed)
    with pytest.raises(isthmus.ExportError, match=r"no engine gives .*LibTorch 1.*planted"):
        isthmus.export(nn.Linear(4, 3), (torch.randn(2, 4),), path=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


# --- the time limit of a call ---------------------------------------------------------------------

LENGTH = 512


def onnx_bundle(path: Path, graph: onnx.GraphProto, method: Method, golden: Golden) -> Path:
    """Writes a bundle of an ONNX graph that was made by hand."""
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    artifact = Artifact(
        name="onnx-cpu-fp32",
        format="onnx",
        device="cpu",
        devices=("cpu",),
        precision="fp32",
        trust="graph",
        convention="flat",
        strategy="adopted",
        files=(),
        requires={},
        tolerances={"y": Tolerance(1e-4, 0.0)},
    )
    manifest = Manifest(
        name="slow",
        created="",
        producer={},
        source={},
        stateful=False,
        dims={"rows": DimRange(1, 1 << 20)},
        methods=(method,),
        artifacts=(artifact,),
        goldens=(),
        noise_floor={},
    )
    files = {artifact.name: {"slow.onnx": model.SerializeToString()}}
    return write_bundle(path, manifest, artifact_files=files, goldens=[golden]).path


def tensor(name: str, *shape: int | str, type: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, type, shape)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repeats a product with the unit matrix `n` times, in a loop."""
    unit = onnx.numpy_helper.from_array(np.eye(LENGTH, dtype=np.float32), "unit")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["value", "unit"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            tensor("step", type=TensorProto.INT64),
            tensor("go", type=TensorProto.BOOL),
            tensor("value", "rows", LENGTH),
        ],
        [tensor("go_on", type=TensorProto.BOOL), tensor("next", "rows", LENGTH)],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "slow",
        [tensor("x", "rows", LENGTH), tensor("n", type=TensorProto.INT64)],
        [tensor("y", "rows", LENGTH)],
        [unit],
    )
    x = torch.randn(2, LENGTH)
    spec = ("tensor", "float32", ("rows", LENGTH))
    method = Method(
        "forward",
        (ValueSpec("x", *spec), ValueSpec("n", "int", "int64", ())),
        (ValueSpec("y", *spec),),
        (Tree("leaf", "x"), Tree("leaf", "n")),
        (),
        Tree("leaf", "y"),
    )
    step = Step("forward", {"x": x, "n": torch.tensor(2)}, {"y": x})
    folder = tmp_path_factory.mktemp("slow")
    return onnx_bundle(folder / "bundle", graph, method, Golden("two", {"rows": 2}, (step,)))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_call_is_stopped_at_its_timeout_and_the_next_one_works(slow: Path, engine: str) -> None:
    model = isthmus.load(slow, engine=engine, threads=1)
    x, many = torch.randn(2, LENGTH), torch.randn(256, LENGTH)
    torch.testing.assert_close(model(x, 3), x)
    start = time.perf_counter()
    model(many, 20)
    enough = int(20 * 6 / (time.perf_counter() - start))  # about 6 seconds of work
    model.timeout = 0.5
    start = time.perf_counter()
    with pytest.raises(isthmus.ExecutionError, match='"forward" was stopped at its timeout'):
        model(many, enough)
    assert time.perf_counter() - start < 4
    # Other sizes and values: nothing of the stopped call is in the answer.
    for rows in (1, 5):
        model.timeout = 60.0
        other = torch.randn(rows, LENGTH)
        torch.testing.assert_close(model(other, 2), other)
    model.timeout = 0
    torch.testing.assert_close(model(x, 1), x)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_session_has_the_time_limit_of_its_model(slow: Path, engine: str) -> None:
    model = isthmus.load(slow, engine=engine, timeout=30.0)
    session = model.session()
    x = torch.randn(2, LENGTH)
    torch.testing.assert_close(session(x, 2), x)
    assert model.timeout == 30.0


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_packed_otherwise_elsewhere_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quantised module of torchvision sets an engine that no other process has."""
    module = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
    failed = EngineProof("torchscript", "cpu", "LibTorch", False, "1 of 3 goldens fail")
    monkeypatch.setattr("isthmus.exporters.engine_proofs.prove_engines", lambda *_: (failed,))
    monkeypatch.setattr(torch.backends.quantized, "engine", "fbgemm")
    with pytest.raises(isthmus.ExportError, match=r"packed for fbgemm.*packs them anew$"):
        isthmus.export(module, (torch.randn(2, 4),), path=tmp_path / "b")
    monkeypatch.setattr(torch.backends.quantized, "engine", "x86")
    with pytest.raises(isthmus.ExportError, match="use another format or strategy"):
        isthmus.export(module, (torch.randn(2, 4),), path=tmp_path / "b")
