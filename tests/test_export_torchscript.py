"""The export strategies: which one each case needs, why it is chosen, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.native_engines import compile_operators
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.errors import BundleError, ExportError, InvalidInput
from isthmus.exporters.check import load_bytes
from isthmus.runtime import install_paths
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.load_engine import load_engine
from models import CASES, REFUSED, Case, Refusal, SumBranch, Uncompilable
from models import case as case_named


def export(case: Case, path: Path, **options: Any) -> Bundle:
    args, kwargs = case.inputs()
    return isthmus.export(case.module(), args, kwargs, path=path, **case.options(), **options)


def reasons(bundle: Bundle) -> str:
    return "\n".join(
        f"{d.strategy} {d.reason} {d.where}" for d in bundle.manifest.artifacts[0].decisions
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_auto_chooses_and_cpp_equals_torch_jit_bit_by_bit(case: Case, tmp_path: Path) -> None:
    bundle = export(case, tmp_path / "b")
    artifact = bundle.manifest.artifacts[0]
    assert artifact.strategy == case.strategy, reasons(bundle)
    assert artifact.decisions[-1].accepted
    assert bundle.manifest.stateful == case.stateful
    proof = subprocess.run(
        [install_paths.binary(), "verify", bundle.path], capture_output=True, text=True, timeout=120
    )
    assert proof.returncode == 0, proof.stdout + proof.stderr

    jit, _ = load_engine(EngineSpec("torch.jit", str(bundle.path), artifact=artifact.name), bundle)
    cpp, _ = load_engine(
        EngineSpec(
            "isthmus", str(bundle.path), artifact=artifact.name, warmup=False, optimize="none"
        ),
        bundle,
    )
    for golden in bundle.goldens():
        jit.reset()
        cpp.reset()
        for step in golden.steps:
            python = jit.run(step.method, step.inputs)
            native_outputs = cpp.run(step.method, step.inputs)
            assert python.keys() == native_outputs.keys()
            for name, value in python.items():
                assert torch.equal(value, native_outputs[name]), (golden.name, name)


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda refusal: refusal.name)
def test_what_must_not_be_exported_is_refused_by_name(refusal: Refusal, tmp_path: Path) -> None:
    torch.manual_seed(0)
    args, kwargs = refusal.example()
    with pytest.raises(isthmus.Error) as caught:
        isthmus.export(refusal.make().eval(), args, kwargs, path=tmp_path / "b")
    for word in refusal.words:
        assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_branch_is_refused_by_trace_with_its_line(tmp_path: Path) -> None:
    case = case_named("sum_branch")
    with pytest.raises(ExportError, match=r"models\.py:\d+") as caught:
        export(case, tmp_path / "b", strategy="trace")
    assert [d.accepted for d in caught.value.decisions] == [False]
    assert not list(tmp_path.iterdir())
    bundle = export(case, tmp_path / "b")
    assert "trace" in reasons(bundle)
    model = isthmus.load(bundle.path)
    module = case.module()
    for sign in (1.0, -1.0):
        x = torch.full((3, 4), sign)
        assert torch.equal(model(x), module(x))


class LoudInput(nn.Module):
    """A module that scales loud input down, in a method that TorchScript does not compile."""

    def forward(self, wav: Tensor) -> Tensor:
        return self.inner(wav)

    def inner(self, wav: Tensor, **more: Any) -> Tensor:
        peak = wav.abs().max()
        if peak > 100.0:
            wav = wav / peak
        return wav.tanh()


def export_loud_input(path: Path, **options: Any) -> Bundle:
    return isthmus.export(
        LoudInput().eval(),
        (torch.rand(3, 4),),
        path=path,
        dynamic={"wav": {0: "batch"}},
        dims={"batch": (1, 4)},
        **options,
    )


def test_a_branch_on_values_is_refused_unless_its_line_is_accepted(tmp_path: Path) -> None:
    """No golden is loud, so that the trace answers right on all of them."""
    source = Path(__file__).read_text().splitlines()
    line = 1 + source.index("        if peak > 100.0:")
    accept = f"test_export_torchscript.py:{line}"
    with pytest.raises(ExportError, match="keeps what one call decided") as caught:
        export_loud_input(tmp_path / "b")
    assert f'accept=["tests/{accept}"]' in str(caught.value)
    assert not (tmp_path / "b").exists()
    with pytest.raises(InvalidInput, match=rf'"other.py:1"; there was .*{accept}'):
        export_loud_input(tmp_path / "b", accept=[accept, "other.py:1"])
    with pytest.raises(InvalidInput, match="accept: expected a line such as"):
        export_loud_input(tmp_path / "b", accept=["peak"])
    assert not (tmp_path / "b").exists()
    bundle = export_loud_input(tmp_path / "b", accept=[accept])
    (hazard,) = [h for h in bundle.manifest.artifacts[0].hazards if h.kind == "accepted_branch"]
    assert hazard.severity == "warning"
    assert hazard.where.endswith(accept)


def test_the_uncompilable_is_refused_by_script(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be scripted"):
        export(case_named("uncompilable"), tmp_path / "b", strategy="script")


def test_mixed_by_hand_and_by_search_name_the_same_part(tmp_path: Path) -> None:
    case = case_named("uncompilable")
    by_hand = export(case, tmp_path / "hand", script=["loop"])
    by_search = export(case, tmp_path / "search", strategy="mixed")
    for bundle in (by_hand, by_search):
        assert bundle.manifest.artifacts[0].strategy == "mixed"
        assert "scripted loop" in reasons(bundle)


def test_traced_parts_inside_a_scripted_whole(tmp_path: Path) -> None:
    case = case_named("sum_branch")
    bundle = isthmus.export(
        case.module(),
        (torch.ones(2, 4),),  # takes the branch through "up"
        path=tmp_path / "b",
        strategy="mixed",
        trace=["up"],
        **case.options(),
    )
    artifact = bundle.manifest.artifacts[0]
    assert (artifact.strategy, artifact.convention) == ("mixed", "structured")
    assert "traced up" in reasons(bundle)


def loop(x: Tensor) -> Tensor:
    total = torch.zeros_like(x[0])
    for at in range(x.size(0)):
        total = total * 0.5 + x[at]
    return total


class CallsFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return loop(x * 2) + {"one": 1}["one"]


def test_a_function_is_scripted_and_put_back(tmp_path: Path) -> None:
    before = loop
    bundle = isthmus.export(
        CallsFunction(),
        (torch.randn(3, 4),),
        path=tmp_path / "b",
        dynamic={"x": {0: "length"}},
        dims={"length": (1, 16)},
        script=[loop],
    )
    assert loop is before
    x = torch.randn(7, 4)
    torch.testing.assert_close(isthmus.load(bundle.path)(x), CallsFunction()(x))


def test_unknown_parts_and_options_are_refused_before_any_work(tmp_path: Path) -> None:
    x = (torch.randn(2, 4),)
    with pytest.raises(InvalidInput, match="lop"):
        isthmus.export(Uncompilable(), x, path=tmp_path / "b", script=["lop"])
    for options, word in (
        ({"strategy": "magic"}, "magic"),
        ({"precision": "fp8"}, "fp8"),
        ({"formats": ["onnx9"]}, "onnx9"),
        ({"device": "tpu"}, "tpu"),
        ({"script": ["up"], "strategy": "trace"}, "mixed"),
        ({"op_libraries": ["/nowhere.so"]}, "nowhere"),
    ):
        with pytest.raises(InvalidInput, match=word):
            isthmus.export(SumBranch(), x, path=tmp_path / "b", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_literals_are_flagged_with_their_line(tmp_path: Path) -> None:
    artifact = export(case_named("literals"), tmp_path / "b").manifest.artifacts[0]
    kinds = {hazard.kind: hazard for hazard in artifact.hazards}
    assert "models.py:" in kinds["device_literal"].where
    assert "models.py:" in kinds["dtype_literal"].where
    assert artifact.devices == ("cpu", "cuda")


class DrawsInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            for _ in range(2):
                x = x + torch.rand(3)
        else:
            x = x + torch.randn(3) * 0
        return x * 2


def test_only_random_operators_of_eval_mode_are_hazards(tmp_path: Path) -> None:
    x = (torch.ones(3),)
    bundle = isthmus.export(DrawsInTraining(), x, path=tmp_path / "b", strategy="script")
    hazards = bundle.manifest.artifacts[0].hazards
    messages = [hazard.message for hazard in hazards if hazard.kind == "random_operator"]
    operators = [word for message in messages for word in message.split() if "aten::" in word]
    assert operators == ["aten::randn"]


def test_a_device_literal_in_scripted_code_pins_the_artifact(tmp_path: Path) -> None:
    artifact = export(case_named("literals"), tmp_path / "b", strategy="script").manifest.artifacts[
        0
    ]
    assert artifact.devices == ("cpu",)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_reduced_precision_keeps_the_signature(precision: str, tmp_path: Path) -> None:
    case = case_named("bert")
    bundle = export(case, tmp_path / "b", precision=precision)
    artifact = bundle.manifest.artifacts[0]
    assert artifact.precision == precision
    loaded = load_bytes(bundle.read(artifact.files[0]), "cpu")
    assert {p.dtype for p in loaded.parameters() if p.is_floating_point()} == {
        {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    }
    proof = subprocess.run(
        [install_paths.binary(), "verify", bundle.path], capture_output=True, timeout=120
    )
    assert proof.returncode == 0, proof.stdout
    args, kwargs = case.inputs()
    assert isthmus.load(bundle.path)(*args, **kwargs)["last_hidden_state"].dtype == torch.float32


def test_the_module_is_left_as_it_came(tmp_path: Path) -> None:
    case = case_named("streaming")
    module = case.module()
    module.train()
    module.h.fill_(0.25)
    args, kwargs = case.inputs()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    grad = torch.is_grad_enabled()
    isthmus.export(module, args, kwargs, path=tmp_path / "b", **case.options())
    assert module.training and torch.is_grad_enabled() == grad
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_sessions_have_their_own_state_and_reset_by_name(tmp_path: Path) -> None:
    case = case_named("streaming")
    model = isthmus.load(export(case, tmp_path / "b").path)
    first, second = model.session(), model.session()
    x = torch.ones(1, 4)
    once = first(x)
    twice = first(x)
    assert not torch.equal(once, twice)
    assert torch.equal(second(x), once)
    first.call("reset")
    assert torch.equal(first(x), once)


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious.txt").write_text("mine")
    with pytest.raises(BundleError, match="b"):
        export(case_named("dict_output"), tmp_path / "b", overwrite=True)
    assert (tmp_path / "b" / "precious.txt").read_text() == "mine"


EXPORT = """
import sys, torch, isthmus
torch.ops.load_library(sys.argv[1])
class Twice(torch.nn.Module):
    def forward(self, x):
        return torch.ops.isthmus_test.twice(x) + 1
b = isthmus.export(Twice(), (torch.randn(2, 4),), path=sys.argv[2], op_libraries=[sys.argv[1]])
print(b.manifest.artifacts[0].op_libraries)
"""


@pytest.mark.slow
def test_a_custom_operator_needs_its_library_and_runs_with_it(tmp_path: Path) -> None:
    library = compile_operators(tmp_path / "libisthmus_test_op.so")
    bundle = tmp_path / "b"
    export_run = subprocess.run(
        [sys.executable, "-c", EXPORT, library, bundle], capture_output=True, text=True
    )
    assert export_run.returncode == 0, export_run.stderr
    assert "libisthmus_test_op.so" in export_run.stdout
    run = [install_paths.binary(), "verify", bundle]
    without = subprocess.run(run, capture_output=True, text=True)
    assert without.returncode in (3, 4), without.stderr
    assert "isthmus_test" in without.stderr and "libisthmus_test_op.so" in without.stderr
    with_it = subprocess.run([*run, "--op-library", library], capture_output=True, text=True)
    assert with_it.returncode == 0, with_it.stdout + with_it.stderr
