"""Where an engine leaves the model: the layer with the fault is named, on every engine."""

from __future__ import annotations

import hashlib
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

ENGINES = ("torchscript", "onnxruntime", "openvino")


class Block(nn.Module):
    """A layer with work of its own between its parts."""

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
    """Six blocks."""

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
    """Right in eager mode, wrong in what an exporter sees: a fault of the way into C++."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return x + self.down(torch.tanh(self.up(self.norm(x))) * 0.51)
        return super().forward(x)


class Scaled(nn.Module):
    """Takes a mask that it may be given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.linear(x)
        return y if mask is None else y * mask


class MaskUnderExport(nn.Module):
    """Gives its submodule a mask only while it is exported, as masks of transformers do."""

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


_made: dict[tuple[Callable[[Model], None], Path], Bundle] = {}


def faulty(change: Callable[[Model], None], right: Bundle) -> Bundle:
    """The right bundle with the artifacts of a model with a fault; made once."""
    if (change, right.path) not in _made:
        model = make()
        with torch.no_grad():
            change(model)
        folder = right.path.parent
        formats = tuple(artifact.format for artifact in right.manifest.artifacts)
        wrong = export(model, folder / f"wrong-{len(_made)}", formats)
        _made[change, right.path] = swapped(right, wrong, folder / f"swapped-{len(_made)}")
    return _made[change, right.path]


def swapped(right: Bundle, wrong: Bundle, path: Path) -> Bundle:
    shutil.copytree(right.path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        for entry in artifact["files"]:
            content = (wrong.path / entry["path"]).read_bytes()
            (path / entry["path"]).write_bytes(content)
            entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
            entry.pop("chunks", None)
    (path / "manifest.json").write_text(json.dumps(manifest))
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
def test_the_layer_with_the_fault_is_named(
    right: Bundle, change: Callable[[Model], None], path: str, engine: str
) -> None:
    found = explain(faulty(change, right), make(), engine=engine)
    assert named(found) == path
    assert found.culprit is not None
    if not path.endswith((".up", ".norm")):
        assert found.culprit.source.startswith(f"{__file__}:"), "its own forward"
    before = [layer for layer in found.layers if layer.path.startswith("blocks.1.")]
    assert before
    assert not any(one.diverged for one in before)
    assert found.layers[-1].path == ""
    assert found.layers[-1].diverged


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_is_accused_of_a_right_artifact(right: Bundle, engine: str) -> None:
    found = explain(right, make(), engine=engine)
    assert not found
    assert not any(layer.diverged for layer in found.layers)
    assert sum(layer.seen for layer in found.layers) >= 20
    assert "no submodule diverges" in found.sentence


def test_a_small_budget_of_memory_gives_the_same_answer(right: Bundle) -> None:
    wrong = faulty(drop_bias, right)
    said: list[str] = []
    whole = explain(wrong, make(), engine="onnxruntime")
    parts = explain(wrong, make(), engine="onnxruntime", budget_bytes=50_000, progress=said.append)
    assert len([one for one in said if "Looking into" in one]) > 2
    assert named(parts) == named(whole)
    assert [layer.path for layer in parts.layers] == [layer.path for layer in whole.layers]


def test_a_weight_is_told_with_its_value(right: Bundle) -> None:
    def change(model: Model) -> None:
        block = model.blocks[1]
        assert isinstance(block, Block)
        block.down.weight[3, 4] = 7.0

    found = explain(faulty(change, right), make(), engine="torchscript")
    assert named(found) == "blocks.1.down"
    hint = next(hint for hint in found.hints if "blocks.1.down.weight" in hint)
    assert hint.startswith("1 of 512 elements")
    assert "the furthest is 7 and should be" in hint


def test_the_repro_shows_the_fault(right: Bundle, tmp_path: Path) -> None:
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
    # To rounding: this process may have run it on another number of threads.
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
def test_masking_finds_what_no_copy_and_no_weight_shows(
    change: Callable[[Model], None], path: str, tmp_path: Path
) -> None:
    right = export(make(), tmp_path / "right", "aoti")
    found = explain(faulty(change, right), make(), engine="aoti", trust="native")
    assert named(found) == path, found.sentence
    assert "set to zero" in found.sentence
    assert not explain(right, make(), engine="aoti", trust="native")


def test_what_only_export_gives_a_submodule_is_not_taken_for_another_value(
    tmp_path: Path,
) -> None:
    model = MaskUnderExport().eval()
    found = explain(
        export(model, tmp_path / "masked", "aoti"), model, engine="aoti", trust="native"
    )
    assert not found, found.sentence
    assert all(layer.seen for layer in found.layers)


def test_verify_explains_a_failure_when_the_model_is_at_hand(right: Bundle, tmp_path: Path) -> None:
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


def test_bad_arguments_are_named(right: Bundle) -> None:
    with pytest.raises(isthmus.InvalidInput, match="engine: expected torchscript"):
        explain(right, make(), engine="tensorrt")
    with pytest.raises(isthmus.InvalidInput, match="no artifact that aoti runs"):
        explain(right, make(), engine="aoti")


# --- the parts ------------------------------------------------------------------------------------


def layer(path: str, *, diverged: bool = False, inputs: bool = False) -> LayerError:
    return LayerError(path, "Block", "", diverged=diverged, inputs_diverged=inputs)


def test_blame_goes_to_the_parent_whose_own_code_is_wrong() -> None:
    right = layer("a.first")
    inner = layer("a.second", diverged=True, inputs=True)
    around = layer("a", diverged=True)
    assert blame([right, inner, around, layer("", diverged=True)]) == around
    alone = layer("a.second", diverged=True)
    assert blame([right, alone, around]) == alone
    assert blame([right]) is None
    everything = layer("", diverged=True)
    wrong_from_above = layer("a", diverged=True, inputs=True)
    assert blame([inner, wrong_from_above, everything]) == everything


def test_layers_finish_from_the_inside() -> None:
    model = make()
    with layers_of(model) as found:
        model(torch.zeros(1, 16))
    paths = [one.path for one in found]
    assert paths.index("blocks.0.norm") < paths.index("blocks.0.up") < paths.index("blocks.0")
    assert paths[-1] == ""
    assert not model.head._forward_hooks
    sizes = [sum(one.nbytes for one in chunk) for chunk in in_chunks(found, 500)]
    assert len(sizes) > 3
    assert sum(sizes) == sum(one.nbytes for one in found)


def test_what_is_recorded_is_a_copy_of_the_first_call() -> None:
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
