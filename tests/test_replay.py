"""Replay finds out what is wrong: the model, an engine, the program or its input."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.cli import app
from isthmus.document import to_json, to_junit, to_markdown
from isthmus.errors import InvalidInput
from isthmus.proof.replay import ReplayReport, replay
from isthmus.runtime import install_paths
from models import Streaming
from rewrite_manifest import rewrite_manifest


class Classifier(nn.Module):
    """A small image classifier that depends on the order of channels and pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 7 * 7, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(pixels))).flatten(1))


def make_classifier() -> nn.Module:
    torch.manual_seed(0)
    return Classifier().eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return isthmus.export(
        make_classifier(),
        (torch.rand(2, 3, 16, 16),),
        path=tmp_path_factory.mktemp("replay") / "classifier",
        dynamic={"pixels": {0: "batch"}},
        dims={"batch": (1, 8)},
        formats=("torchscript", "onnx"),
    )


def picture(seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.rand(1, 3, 16, 16)


def record(
    bundle: Bundle | Path, folder: Path, *pictures: Tensor, engine: str = "torchscript"
) -> Path:
    """Records calls as a program does, through the native core."""
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    model = isthmus.load(path, engine=engine, record=folder)
    for picture in pictures:
        model(picture)
    return folder


def edit(folder: Path, change: Mapping[str, Tensor]) -> None:
    """Changes tensors of the first recorded call."""
    file = next(iter(sorted(folder.glob("2*.safetensors"))))
    save_file({**load_file(file), **change}, file)


def planted(bundle: Bundle, path: Path, name: str, artifact: bytes) -> Path:
    """Returns a copy of the bundle with another artifact and the matching checksum."""
    shutil.copytree(bundle.path, path)
    with rewrite_manifest(path):
        (path / bundle.artifact(name).files[0].path).write_bytes(artifact)
    return path


@pytest.fixture(scope="module")
def wrong(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the bundle with a wrong weight in its TorchScript artifact."""
    module = make_classifier()
    with torch.no_grad():
        module.head.weight[0] *= 1.01
    folder = tmp_path_factory.mktemp("wrong")
    other = isthmus.export(
        module,
        (torch.rand(2, 3, 16, 16),),
        path=folder / "other",
        dynamic={"pixels": {0: "batch"}},
        dims={"batch": (1, 8)},
    )
    name = bundle.manifest.artifacts[0].name
    content = other.read(other.manifest.artifacts[0].files[0])
    return planted(bundle, folder / "wrong", name, content)


# --- right ----------------------------------------------------------------------------------------


def test_with_right_answers_the_verdict_points_to_the_input(bundle: Bundle, tmp_path: Path) -> None:
    folder = record(bundle, tmp_path / "calls", picture(), picture(1))
    report = replay(folder, model=make_classifier())
    assert report, str(report)
    assert report.blame == "nobody"
    assert "the model is right (2 of 2 recorded answers are its)" in report.verdict
    assert "your input differs (--expect FILE says how)" in report.verdict
    assert all(answer.results[0].to_truth for answer in report.answers)
    assert report.parity is not None
    assert {row.engine for row in report.parity.rows} >= {"torchscript", "onnxruntime"}


def test_the_command_replays_a_recording_of_isthmus_run(bundle: Bundle, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", pixels=picture().numpy())
    command = [install_paths.binary(), "predict", bundle.path, "-i", tmp_path / "in.npz"]
    subprocess.run([*command, "--record", tmp_path / "calls"], check=True, capture_output=True)
    arguments = ["replay", str(tmp_path / "calls"), "--model", "test_replay:make_classifier"]
    done = CliRunner().invoke(app, [*arguments, "--expect", str(tmp_path / "in.npz"), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["schema"], document["schema_version"]) == ("isthmus-replay", 2)
    assert document["blame"] == "nobody" and document["passed"]
    assert document["differences"][0]["kind"] == "same"
    assert "the input is the one expected" in document["verdict"]
    assert document["context"]["recorded by"].startswith("LibTorch")


def test_without_the_model_engines_reproduce_what_was_recorded(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = record(bundle, tmp_path / "calls", picture())
    report = replay(folder)
    assert report, str(report)
    assert "torchscript in C++" in report.verdict and "gave the recorded answers again" in (
        report.verdict
    )


# --- the input ------------------------------------------------------------------------------------


def test_a_wrong_input_is_blamed_and_its_kind_named(bundle: Bundle, tmp_path: Path) -> None:
    folder = record(bundle, tmp_path / "calls", picture().flip(1) * 255)
    report = replay(
        folder, model=make_classifier(), expect={"pixels": picture()}, engines=["torchscript"]
    )
    assert not report
    assert report.blame == "input"
    assert "the model is right" in report.verdict and "your input differs" in report.verdict
    assert report.differences[0].kind == "swapped channels + scale"
    assert "BGR" in report.verdict
    assert "remedy for pixels" in to_markdown(report)
    assert json.loads(to_json(report))["blame"] == "input"


def test_the_strides_of_a_view_are_reported(bundle: Bundle, tmp_path: Path) -> None:
    model = isthmus.load(bundle.path, engine="torchscript", record=tmp_path / "calls")
    model(picture().transpose(2, 3))  # not contiguous
    report = replay(tmp_path / "calls", expect={"pixels": picture()}, engines=["torchscript"])
    assert report.differences[0].kind == "transposed"
    assert "as a view with strides [768, 256, 1, 16]" in report.differences[0].sentence


def test_the_compared_call_can_be_chosen(bundle: Bundle, tmp_path: Path) -> None:
    folder = record(bundle, tmp_path / "calls", picture(), picture(1), picture(2))
    for number in ("1", "000001"):
        report = replay(folder, expect={"pixels": picture(1)}, call=number, engines=["torchscript"])
        assert report and report.compared_call.endswith("-000001")
    assert not replay(folder, expect={"pixels": picture(1)}, engines=["torchscript"])
    with pytest.raises(InvalidInput, match=r"number up to 2"):
        replay(folder, expect={"pixels": picture()}, call="7")


def test_a_refused_input_is_blamed(bundle: Bundle, tmp_path: Path) -> None:
    model = isthmus.load(bundle.path, engine="torchscript", record=tmp_path / "calls")
    with pytest.raises(InvalidInput):
        model(picture().double())
    model(picture())
    report = replay(
        tmp_path / "calls",
        model=make_classifier(),
        expect={"pixels": picture()},
        engines=["torchscript"],
    )
    assert report.blame == "input" and "float64" in report.verdict
    assert report.differences[0].kind in ("dtype", "rounding")
    assert [answer.status for answer in report.answers] == ["right", "refused"]


# --- engines and programs -------------------------------------------------------------------------


def test_an_engine_that_is_wrong_is_named(wrong: Path, tmp_path: Path) -> None:
    folder = record(wrong, tmp_path / "calls", picture())
    report = replay(folder, model=make_classifier())
    assert report.blame == "engine", str(report)
    assert report.verdict.startswith("torchscript is wrong")
    assert "wrong here too" in report.verdict
    assert {row.engine for row in report.parity.rows if row} == {"onnxruntime", "openvino"}  # type: ignore[union-attr]


def test_right_answers_of_one_engine_do_not_hide_another(wrong: Path, tmp_path: Path) -> None:
    folder = record(wrong, tmp_path / "calls", picture(), engine="onnxruntime")
    report = replay(folder, model=make_classifier())
    assert report.blame == "engine"
    assert "torchscript in C++ wrong on the recorded inputs" in report.verdict
    assert "right in 1 of 1" in report.verdict


def test_without_the_model_engines_that_differ_are_reported(wrong: Path, tmp_path: Path) -> None:
    report = replay(record(wrong, tmp_path / "calls", picture()))
    assert report.blame == "unknown"
    assert "pass the model (--model)" in report.verdict


@pytest.mark.parametrize("with_model", [True, False])
def test_the_program_is_blamed_for_answers_that_the_engine_does_not_give(
    bundle: Bundle, tmp_path: Path, with_model: bool
) -> None:
    folder = record(bundle, tmp_path / "calls", picture())
    name = bundle.manifest.methods[0].outputs[0].name
    edit(folder, {f"0/out/{name}": torch.full((1, 5), 7.0)})
    model = make_classifier() if with_model else None
    report = replay(folder, model=model, engines=["torchscript"])
    assert report.blame == "program", str(report)
    assert "look at the program" in report.verdict.lower()


def test_another_artifact_than_the_deployed_one_is_reported(
    bundle: Bundle, wrong: Path, tmp_path: Path
) -> None:
    folder = record(wrong, tmp_path / "calls", picture())
    report = replay(folder, bundle=bundle, model=make_classifier(), engines=["torchscript"])
    assert report.blame == "program"
    assert any("another" in note and "sha256" in note for note in report.notes)


def test_a_model_that_does_not_run_on_the_input_is_blamed(bundle: Bundle, tmp_path: Path) -> None:
    class Refuses(Classifier):
        def forward(self, pixels: Tensor) -> Tensor:
            if pixels.amax() > 1:
                raise ValueError("pixels are from 0 to 1")
            return super().forward(pixels)

    torch.manual_seed(0)
    folder = record(bundle, tmp_path / "calls", picture() * 255)
    report = replay(folder, model=Refuses())
    assert report.blame == "model"
    assert "pixels are from 0 to 1" in report.verdict


# --- state ----------------------------------------------------------------------------------------


def test_calls_of_a_state_are_replayed_in_their_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Streaming()
    example = (torch.randn(2, 4),)
    bundle = isthmus.export(module, example, path=tmp_path / "stream")
    assert bundle.manifest.stateful
    model = isthmus.load(bundle.path, record=tmp_path / "calls")
    sessions = [model.session(), model.session()]
    for at in range(6):
        sessions[at % 2](torch.randn(2, 4))
    model(torch.randn(2, 4))
    report = replay(tmp_path / "calls", model=module)
    assert report, str(report)
    assert len(report.answers) == 7
    assert len({answer.golden for answer in report.answers}) == 3
    # The same calls in another order give other answers.
    files = sorted((tmp_path / "calls").glob("2*-00000[02].safetensors"))
    first, third = (load_file(file) for file in files)
    save_file(third, files[0])
    save_file(first, files[1])
    assert replay(tmp_path / "calls", model=module).blame == "program"


# --- bad recordings -------------------------------------------------------------------------------


def test_a_folder_without_a_recording_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="got nothing"):
        replay(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="got a file"):
        replay(tmp_path / "file")
    with pytest.raises(InvalidInput, match=r"without record-\*\.json"):
        replay(bundle.path)
    isthmus.load(bundle.path, record=tmp_path / "idle")
    with pytest.raises(InvalidInput, match="nothing was recorded"):
        replay(tmp_path / "idle")


def test_damaged_recordings_are_refused_by_name(bundle: Bundle, tmp_path: Path) -> None:
    folder = record(bundle, tmp_path / "calls", picture())
    head, file = next(folder.glob("record-*.json")), next(folder.glob("2*.safetensors"))
    facts = next(folder.glob("2*.json"))
    good = head.read_text(), file.read_bytes(), facts.read_text()
    for path, content, word in (
        (head, b"{", "cannot be read"),
        (head, b"[]", "JSON object"),
        (head, json.dumps({**json.loads(good[0]), "schema_version": 9}).encode(), "version 9"),
        (facts, b"{}", "is missing"),
        (file, good[1][:40], "cannot be read"),
    ):
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=word) as caught:
            replay(folder)
        assert path.name in str(caught.value)
        path.write_bytes(before)
    assert replay(folder, engines=["torchscript"])


def test_unfinished_calls_are_left_out_and_reported(bundle: Bundle, tmp_path: Path) -> None:
    folder = record(bundle, tmp_path / "calls", picture(), picture(1))
    sorted(folder.glob("2*.json"))[1].unlink()
    report = replay(folder, engines=["torchscript"])
    assert report and len(report.answers) == 1
    assert any("1 calls were not finished" in note for note in report.notes)


def test_another_models_calls_are_refused(
    bundle: Bundle, linear_bundle: Bundle, tmp_path: Path
) -> None:
    folder = record(bundle, tmp_path / "calls", picture())
    with pytest.raises(InvalidInput, match="give the bundle that was recorded"):
        replay(folder, bundle=linear_bundle)
    isthmus.load(linear_bundle.path, record=folder)(torch.randn(2, 4))
    with pytest.raises(InvalidInput, match="calls of one model"):
        replay(folder)


def test_only_the_first_calls_are_replayed(bundle: Bundle, tmp_path: Path) -> None:
    folder = record(bundle, tmp_path / "calls", *(picture(at) for at in range(5)))
    report = replay(folder, calls=2, engines=["torchscript"])
    assert len(report.answers) == 2
    assert "the first 2 of 5 recorded calls are replayed (--calls)" in report.notes
    with pytest.raises(InvalidInput, match="expected 1 or more"):
        replay(folder, calls=0)


def test_reports(wrong: Path, tmp_path: Path) -> None:
    report: ReplayReport = replay(
        record(wrong, tmp_path / "calls", picture(), picture(1)),
        model=make_classifier(),
        engines=["torchscript"],
    )
    text = str(report)
    assert "Recorded answers" in text and "x eager's own" in text
    junit = to_junit(report)
    assert 'failures="' in junit and "recorded " in junit
    rows: list[dict[str, Any]] = json.loads(to_json(report))["rows"]
    assert [row["status"] for row in rows] == ["wrong", "wrong"]
