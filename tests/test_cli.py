"""The command line, Hugging Face folders, adopted files and inspect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import isthmus
from isthmus.capture.load_model import load_model, parse_axes, parse_dims
from isthmus.errors import BundleError, InvalidInput
from models import ScriptedLoop, SumBranch, tiny_bert

TESTS = Path(__file__).parent


def isthmus_command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isthmus", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        timeout=300,
    )


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "tiny-bert"
    torch.manual_seed(0)
    tiny_bert().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def branch_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("adopt") / "branch.pt"
    torch.jit.save(torch.jit.script(SumBranch().eval()), path)
    np.savez(path.with_suffix(".npz"), input=np.ones((2, 4), dtype=np.float32))
    return path


def test_a_factory_goes_all_the_way(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Linear(4, 3), (torch.randn(2, 4),)\n"
    )
    export = isthmus_command(
        "export", "mine:make", "-o", "net", "--dynamic", "input:0=batch", "--dim", "batch=1:8",
        cwd=tmp_path,
    )  # fmt: skip
    assert export.returncode == 0, export.stderr
    assert "chosen" in export.stdout and "isthmus-run verify net" in export.stdout
    again = isthmus_command("export", "mine:make", "-o", "net", cwd=tmp_path)
    assert again.returncode == 3 and "--overwrite" in again.stderr
    proof = isthmus_command(
        "verify", "net", "--model", "mine:make", "--device", "cpu", "--json", "--junit", "r.xml",
        cwd=tmp_path,
    )  # fmt: skip
    assert proof.returncode == 0, proof.stderr
    report = json.loads(proof.stdout)
    assert report["schema"] == "isthmus-verify" and (tmp_path / "r.xml").is_file()
    info = isthmus_command("info", "net", "--json", cwd=tmp_path)
    assert info.returncode == 0 and json.loads(info.stdout)


def test_errors_are_one_block_with_a_code(tmp_path: Path) -> None:
    for arguments, code, word in (
        (("export", "no.such:thing", "-o", "b"), 2, "no.such"),
        (("export", "./nowhere", "-o", "b"), 2, "nowhere"),
        (("export", "models:SumBranch", "-o", "b", "--dim", "batch=x"), 2, "batch=x"),
        (("verify", "nowhere"), 3, "nowhere"),
        (("inspect", "nowhere.pt"), 3, "nowhere.pt"),
        (("adopt", "nowhere.pt", "-o", "b", "--inputs", "x.npz"), 3, "nowhere.pt"),
    ):
        result = isthmus_command(*arguments, cwd=tmp_path)
        assert result.returncode == code, (arguments, result.stderr)
        assert word in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_hub_folder_becomes_a_bundle(bert_folder: Path, tmp_path: Path) -> None:
    export = isthmus_command(
        "export", bert_folder, "-o", "bert", "--attention", "eager", "--dim", "sequence=1:32",
        cwd=tmp_path,
    )  # fmt: skip
    assert export.returncode == 0, export.stderr
    bundle = isthmus.open_bundle(tmp_path / "bert")
    assert bundle.manifest.source["attention"] == "eager"
    assert bundle.manifest.source["task"] == "feature-extraction"
    assert bundle.manifest.dims["sequence"].max == 32
    assert str(bert_folder.parent) not in (tmp_path / "bert" / "manifest.json").read_text()
    report = isthmus.verify(bundle, str(bert_folder), devices=["cpu"])
    assert report, str(report)
    assert report.row("torchscript").vs_torch_jit == 0


def test_the_hub_refuses_what_would_be_random_or_is_foreign(
    bert_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="would be random"):
        load_model(str(bert_folder), "text-classification")
    with pytest.raises(InvalidInput, match="juggling"):
        load_model(str(bert_folder), "juggling")
    with pytest.raises(InvalidInput, match=r"config\.json"):
        load_model(str(tmp_path))
    with pytest.raises(InvalidInput, match="give its folder"):
        load_model(str(next(bert_folder.glob("*.safetensors"))))


def test_factories_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.py").write_text(
        "import torch\nnumber = 5\n"
        "def wrong(): return torch.nn.ReLU(), {}, ()\n"
        "def option(): return torch.nn.ReLU(), (), {}, {'dynamc': {}}\n"
        "def full(): return torch.nn.ReLU(), (), {}, {'dims': {'b': (1, 2)}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, word in (("number", "int"), ("wrong", "tuple"), ("option", "dynamc")):
        with pytest.raises(InvalidInput, match=word):
            load_model(f"odd:{name}")
    assert load_model("odd:full").dims == {"b": (1, 2)}


def test_axes_and_dims_are_parsed() -> None:
    assert parse_axes(["a.b:0=batch,-1=length"]) == {"a.b": {0: "batch", -1: "length"}}
    assert parse_dims(["batch=1:64"]) == {"batch": (1, 64)}
    for wrong in ("x", "x:0", ":0=b", "x:b=0"):
        with pytest.raises(InvalidInput):
            parse_axes([wrong])


def test_a_torchscript_file_is_adopted_and_keeps_its_branch(
    branch_file: Path, tmp_path: Path
) -> None:
    adopted = isthmus_command(
        "adopt", branch_file, "--inputs", branch_file.with_suffix(".npz"), "-o", "b",
        "--dynamic", "input:0=batch", "--dim", "batch=1:8", cwd=tmp_path,
    )  # fmt: skip
    assert adopted.returncode == 0, adopted.stderr
    original = torch.jit.load(str(branch_file))
    model = isthmus.load(tmp_path / "b")
    for sign in (1.0, -1.0):
        x = torch.full((5, 4), sign)
        assert torch.equal(model(x), original(x))
    assert isthmus.verify(tmp_path / "b", devices=["cpu"])


def test_an_adopted_file_may_have_scalars_state_and_methods(tmp_path: Path) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(2))

        def forward(self, x: torch.Tensor, times: int, add: bool) -> torch.Tensor:
            if add:
                for _ in range(times):
                    self.total = self.total + x
            return self.total

        @torch.jit.export
        def reset(self) -> None:
            self.total = torch.zeros(2)

        @torch.jit.export
        def scaled(self, factor: float) -> torch.Tensor:
            return self.total * factor

    file = tmp_path / "counter.pt"
    torch.jit.save(torch.jit.script(Counter()), file)
    np.savez(tmp_path / "x.npz", x=np.ones(2, np.float32), times=np.int64(3), add=np.bool_(True))
    np.savez(tmp_path / "factor.npz", factor=np.float64(0.5))
    adopted = isthmus_command(
        "adopt", file, "--inputs", "x.npz", "-o", "b", "--method", "reset",
        "--method", "scaled=factor.npz", cwd=tmp_path,
    )  # fmt: skip
    assert adopted.returncode == 0, adopted.stderr
    model = isthmus.load(tmp_path / "b")
    assert [value.kind for value in model.signature().inputs] == ["tensor", "int", "bool"]
    session, other = model.session(), model.session()
    x = torch.ones(2)
    assert session(x, 3, True).tolist() == [3, 3]
    assert session(x, 2, True).tolist() == [5, 5]
    assert session(x, 2, False).tolist() == [5, 5]
    assert other(x, times=1, add=True).tolist() == [1, 1]
    assert session.call("scaled", 0.5).tolist() == [2.5, 2.5]
    session.call("reset")
    assert session(x, 1, True).tolist() == [1, 1]
    assert isthmus.verify(tmp_path / "b", devices=["cpu"])
    wrong = isthmus_command(
        "adopt", file, "--inputs", "x.npz", "-o", "c", "--method", "rest", cwd=tmp_path
    )
    assert wrong.returncode == 2 and '"rest"' in wrong.stderr and "reset" in wrong.stderr


def test_adopt_refuses_other_files_and_other_inputs(branch_file: Path, tmp_path: Path) -> None:
    state = tmp_path / "weights.pt"
    torch.save(nn.Linear(2, 2).state_dict(), state)
    with pytest.raises(BundleError, match="state"):
        isthmus.adopt(state, {}, output=tmp_path / "b")
    save_file({"other": torch.ones(2, 4)}, tmp_path / "x.safetensors")
    with pytest.raises(InvalidInput, match="other"):
        isthmus.adopt(branch_file, tmp_path / "x.safetensors", output=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_inspect_tells_operators_signature_and_code(branch_file: Path, tmp_path: Path) -> None:
    inspection = isthmus.inspect(branch_file)
    assert [value.name for value in inspection.inputs["forward"]] == ["input"]
    assert "aten::sum" in {use.name for use in inspection.operators}
    assert {use.owner for use in inspection.operators} == {"LibTorch"}
    assert not inspection.refused and not inspection.graph
    assert any("torch.gt" in text for text in inspection.code.values())
    graph = isthmus.inspect(branch_file, graph=True)
    assert "prim::If" in graph.graph
    part = isthmus.inspect(branch_file, submodule="up", graph=True)
    assert "linear" in part.graph and "prim::If" not in part.graph
    with pytest.raises(InvalidInput, match="upp"):
        isthmus.inspect(branch_file, submodule="upp")
    shown = isthmus_command("inspect", branch_file, "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["schema"] == "isthmus-inspect"


def test_inspect_reads_what_must_not_be_loaded(tmp_path: Path) -> None:
    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file("/etc/hostname", False, 1)

    path = tmp_path / "evil.pt"
    torch.jit.save(torch.jit.script(Reads()), path)
    inspection = isthmus.inspect(path)
    assert any("from_file" in line for line in inspection.refused)
    with pytest.raises(BundleError, match="from_file"):
        isthmus.inspect(path, graph=True)
    with pytest.raises(BundleError, match="trust"):
        isthmus.adopt(path, {"x": torch.ones(2)}, output=tmp_path / "b")


def test_public_names_are_functions_whatever_was_imported() -> None:
    import isthmus.exporters.export
    import isthmus.proof.verify
    import isthmus.timing.bench

    for name in ("export", "verify", "bench", "adopt", "inspect", "load"):
        assert callable(getattr(isthmus, name)), name


def test_importing_isthmus_imports_no_torch() -> None:
    code = "import isthmus, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_arrays_come_back_in_the_family_they_came_in(tmp_path: Path) -> None:
    module = torch.jit.script(ScriptedLoop())
    isthmus.export(
        module, (torch.randn(3, 4),), path=tmp_path / "b",
        dynamic={"x": {0: "n"}}, dims={"n": (1, 9)},
    )  # fmt: skip
    model = isthmus.load(tmp_path / "b")
    x = torch.randn(5, 4)
    expected = module(x)
    assert torch.equal(model(x), expected)
    array = model(x.numpy())
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, expected.numpy())
    assert torch.equal(model(x=x), expected)
    with pytest.raises(InvalidInput, match="n"):
        model(torch.randn(10, 4))
    assert torch.equal(model(x), expected)
