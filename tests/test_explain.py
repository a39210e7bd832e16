"""Explain names the faulty layer, on every engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import isthmus
from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.cli import app
from isthmus.proof.explain import Explanation, explain
from isthmus.proof.explain.explanation import LayerError
from isthmus.proof.explain.layer_errors import blame
from isthmus.proof.explain.layers import in_chunks, layers_of, record
from rewrite_manifest import rewrite_manifest

ENGINES = ("torchscript", "onnxruntime", "openvino")


class Block(nn.Module):
    """A layer that computes between its submodules."""

    scale = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.tanh(self.up(self.norm(x))) * self.scale
        return x + self.down(wide)


class Model(nn.Module):
    """A model of six blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(6))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class WrongUnderExport(Block):
    """A block that is right in eager mode and wrong under export."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return x + self.down(torch.tanh(self.up(self.norm(x))) * 0.51)
        return super().forward(x)


class Scaled(nn.Module):
    """A layer with an optional mask."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.linear(x)
        return y if mask is None else y * mask


class MaskUnderExport(nn.Module):
    """A model that passes a mask only under export, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = Scaled()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones_like(x[..., :1]) if torch.compiler.is_exporting() else None
        return self.head(self.inner(x, mask))


def make() -> Model:
    return Model().eval()


def export(model: nn.Module, path: Path, formats: str | tuple[str, ...]) -> Bundle:
    return isthmus.export(
        model,
        (torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1)),),
        path=path,
        dynamic={"x": {0: "batch"}},
        formats=formats,
    )


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(make(), tmp_path_factory.mktemp("right") / "b", ("torchscript", "onnx"))


_faulty: dict[tuple[Callable[[Model], None], Path], Bundle] = {}


def faulty(change: Callable[[Model], None], right: Bundle) -> Bundle:
    """Returns the right bundle with the artifacts of a faulty model; cached."""
    if (change, right.path) not in _faulty:
        model = make()
        with torch.no_grad():
            change(model)
        folder = right.path.parent
        formats = tuple(artifact.format for artifact in right.manifest.artifacts)
        wrong = export(model, folder / f"wrong-{len(_faulty)}", formats)
        _faulty[change, right.path] = swapped(right, wrong, folder / f"swapped-{len(_faulty)}")
    return _faulty[change, right.path]


def swapped(right: Bundle, wrong: Bundle, path: Path) -> Bundle:
    shutil.copytree(right.path, path)
    with rewrite_manifest(path) as manifest:
        for artifact in manifest["artifacts"]:
            for entry in artifact["files"]:
                shutil.copyfile(wrong.path / entry["path"], path / entry["path"])
    return open_bundle(path)


def named(found: Explanation) -> str:
    assert found.culprit is not None, found.sentence
    return found.culprit.path


def drop_bias(model: Model) -> None:
    block = model.blocks[3]
    assert isinstance(block, Block)
    nn.init.zeros_(block.up.bias)


def change_own_code(model: Model) -> None:
    model.blocks[2].scale = 0.5001


def change_epsilon(model: Model) -> None:
    block = model.blocks[4]
    assert isinstance(block, Block)
    block.norm.eps = 1e-3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("change", "path"),
    [(drop_bias, "blocks.3.up"), (change_own_code, "blocks.2"), (change_epsilon, "blocks.4.norm")],
)
def test_the_faulty_layer_is_named(
    right: Bundle, change: Callable[[Model], None], path: str, engine: str
) -> None:
    found = explain(faulty(change, right), make(), engine=engine)
    assert named(found) == path
    assert found.culprit is not None
    if not path.endswith((".up", ".norm")):
        assert found.culprit.source.startswith(f"{__file__}:"), "its own forward"
    before = [layer for layer in found.layers if layer.path.startswith("blocks.1.")]
    assert before
    assert not any(layer.diverged for layer in before)
    assert found.layers[-1].path == ""
    assert found.layers[-1].diverged


@pytest.mark.parametrize("engine", ENGINES)
def test_no_layer_of_a_right_artifact_is_named(right: Bundle, engine: str) -> None:
    found = explain(right, make(), engine=engine)
    assert not found
    assert not any(layer.diverged for layer in found.layers)
    assert sum(layer.seen for layer in found.layers) >= 20
    assert "no submodule diverges" in found.sentence


def test_a_small_memory_budget_gives_the_same_result(right: Bundle) -> None:
    wrong = faulty(drop_bias, right)
    lines: list[str] = []
    whole = explain(wrong, make(), engine="onnxruntime")
    parts = explain(wrong, make(), engine="onnxruntime", budget_bytes=50_000, progress=lines.append)
    assert len([line for line in lines if "Looking into" in line]) > 2
    assert named(parts) == named(whole)
    assert [layer.path for layer in parts.layers] == [layer.path for layer in whole.layers]


def test_a_wrong_weight_is_reported_with_its_value(right: Bundle) -> None:
    def change(model: Model) -> None:
        block = model.blocks[1]
        assert isinstance(block, Block)
        block.down.weight[3, 4] = 7.0

    found = explain(faulty(change, right), make(), engine="torchscript")
    assert named(found) == "blocks.1.down"
    hint = next(hint for hint in found.hints if "blocks.1.down.weight" in hint)
    assert hint.startswith("1 of 512 elements")
    assert "the furthest is 7 and should be" in hint


def test_the_repro_reproduces_the_error(right: Bundle, tmp_path: Path) -> None:
    wrong = faulty(drop_bias, right)
    found = explain(wrong, make(), engine="onnxruntime", repro=tmp_path / "repro")
    assert found.repro == str(tmp_path / "repro")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "repro" / "repro.py")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert "onnxruntime against eager" in done.stdout
    assert "Linear(in_features=16, out_features=32" in done.stdout
    # Rounding may differ, because this process may use another number of threads.
    again = re.search(r"against the recorded output: max ([^,]+),", done.stdout)
    assert again is not None and float(again[1]) < 1e-6


def test_a_compiled_package_is_judged_by_a_copy_and_by_its_weights(tmp_path: Path) -> None:
    right = export(make(), tmp_path / "right", "aoti")
    wrong = faulty(drop_bias, right)
    found = explain(wrong, make(), engine="aoti", trust="native")
    assert named(found) == "blocks.3.up"
    assert "other weights" in found.sentence
    assert any("blocks.3.up.bias" in hint for hint in found.hints)

    model = make()
    wrong_block = WrongUnderExport()
    wrong_block.load_state_dict(model.blocks[4].state_dict())
    model.blocks[4] = wrong_block
    found = explain(right, model.eval(), engine="aoti", trust="native")
    assert named(found) == "blocks.4"


@pytest.mark.parametrize(
    ("change", "path"),
    [(change_own_code, "blocks.2"), (change_epsilon, "blocks.4.norm")],
    ids=["own code", "epsilon"],
)
def test_ablation_finds_errors_that_neither_a_copy_nor_the_weights_show(
    change: Callable[[Model], None], path: str, tmp_path: Path
) -> None:
    right = export(make(), tmp_path / "right", "aoti")
    found = explain(faulty(change, right), make(), engine="aoti", trust="native")
    assert named(found) == path, found.sentence
    assert "set to zero" in found.sentence
    assert not explain(right, make(), engine="aoti", trust="native")


def test_an_input_that_only_export_passes_is_no_difference(
    tmp_path: Path,
) -> None:
    model = MaskUnderExport().eval()
    found = explain(
        export(model, tmp_path / "masked", "aoti"), model, engine="aoti", trust="native"
    )
    assert not found, found.sentence
    assert all(layer.seen for layer in found.layers)


def test_verify_explains_a_failure_when_it_has_the_model(right: Bundle, tmp_path: Path) -> None:
    wrong = faulty(drop_bias, right)
    report = isthmus.verify(wrong, make(), engines=["torchscript"])
    assert not report
    assert [named(explanation) for explanation in report.explanations] == ["blocks.3.up"]
    assert "blocks.3.up (Linear) is the first to diverge in torchscript" in str(report)
    assert not isthmus.verify(wrong, make(), engines=["torchscript"], explain=False).explanations
    with pytest.raises(isthmus.InvalidInput, match="needs the model"):
        isthmus.verify(wrong, engines=["torchscript"], explain=True)


def test_the_command_line_explains(right: Bundle, tmp_path: Path) -> None:
    wrong = faulty(change_own_code, right)
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        done = CliRunner().invoke(
            app,
            [
                *("verify", str(wrong.path), "--engine", "onnxruntime"),
                *("--model", "test_explain:make", "--repro", str(tmp_path / "repro"), "--json"),
            ],
        )
    finally:
        sys.path.pop(0)
    assert done.exit_code == 1, done.output
    document = json.loads(done.stdout)
    assert document["explanations"][0]["culprit"]["path"] == "blocks.2"
    assert (tmp_path / "repro" / "onnxruntime" / "repro.py").exists()


def test_invalid_arguments_are_errors(right: Bundle) -> None:
    with pytest.raises(isthmus.InvalidInput, match="engine: expected torchscript"):
        explain(right, make(), engine="tensorrt")
    with pytest.raises(isthmus.InvalidInput, match="no artifact that aoti runs"):
        explain(right, make(), engine="aoti")


# --- the parts ------------------------------------------------------------------------------------


def layer_error(path: str, *, diverged: bool = False, inputs: bool = False) -> LayerError:
    return LayerError(path, "Block", "", diverged=diverged, inputs_diverged=inputs)


def test_a_parent_with_wrong_code_is_blamed() -> None:
    right = layer_error("a.first")
    inner = layer_error("a.second", diverged=True, inputs=True)
    around = layer_error("a", diverged=True)
    assert blame([right, inner, around, layer_error("", diverged=True)]) == around
    alone = layer_error("a.second", diverged=True)
    assert blame([right, alone, around]) == alone
    assert blame([right]) is None
    everything = layer_error("", diverged=True)
    wrong_from_above = layer_error("a", diverged=True, inputs=True)
    assert blame([inner, wrong_from_above, everything]) == everything


def test_children_finish_before_their_parent() -> None:
    model = make()
    with layers_of(model) as found:
        model(torch.zeros(1, 16))
    paths = [layer.path for layer in found]
    assert paths.index("blocks.0.norm") < paths.index("blocks.0.up") < paths.index("blocks.0")
    assert paths[-1] == ""
    assert not model.head._forward_hooks
    sizes = [sum(layer.nbytes for layer in chunk) for chunk in in_chunks(found, 500)]
    assert len(sizes) > 3
    assert sum(sizes) == sum(layer.nbytes for layer in found)


def test_a_copy_of_the_first_call_is_recorded() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            y.add_(1)
            return self.inner(y)

    model = InPlace()
    with record(model, {"inner"}) as found:
        model(torch.zeros(2))
    assert found["inner"].outputs[0].tolist() == [0.0, 0.0]
    assert found["inner"].inputs[0].tolist() == [0.0, 0.0]
