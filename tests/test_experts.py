"""Mixtures of experts from transformers are exported by an implementation that the format has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import isthmus
from isthmus.exporters.experts import experts_hazard, exportable_experts

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters warn about themselves


@pytest.fixture(scope="module")
def mixtral() -> nn.Module:
    """A tiny model with two experts in each layer."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        num_local_experts=3,
        vocab_size=64,
        use_cache=False,
    )
    return transformers.MixtralModel(config).eval()


def test_the_choice_of_the_model_is_restored(mixtral: nn.Module) -> None:
    """Also when the export fails."""
    config = mixtral.config
    before = config._experts_implementation
    assert before == "grouped_mm"
    with pytest.raises(ValueError, match="stop"), exportable_experts(mixtral):
        assert config._experts_implementation == "batched_mm"
        raise ValueError("stop")
    assert config._experts_implementation == before


def test_other_models_have_no_choice() -> None:
    """Neither has one without experts, nor one whose user chose."""
    bert = transformers.BertModel(transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    ))  # fmt: skip
    assert experts_hazard(bert) == ()
    assert experts_hazard(nn.Linear(2, 2)) == ()


@pytest.mark.parametrize(
    ("form", "engine"), [("onnx", "onnxruntime"), ("aoti", "aoti"), ("torchscript", "torchscript")]
)
def test_experts_are_exported(form: str, engine: str, mixtral: nn.Module, tmp_path: Path) -> None:
    """The answers are eager's, and the bundle says which implementation it has."""
    axes = {0: "batch", 1: "sequence"}
    bundle = isthmus.export(
        mixtral,
        kwargs={"input_ids": torch.randint(0, 64, (2, 7))},
        path=tmp_path / "mixtral",
        formats=(form,),
        dynamic={"input_ids": axes},
        dims={"batch": (1, 4), "sequence": (1, 24)},
    )
    (artifact,) = bundle.manifest.artifacts
    notes = [hazard.message for hazard in artifact.hazards if hazard.kind == "experts"]
    assert len(notes) == (form != "torchscript")
    assert all("batched_mm" in note for note in notes)
    model = isthmus.load(tmp_path / "mixtral", engine=engine, trust="native")
    for shape in ((1, 1), (3, 24)):
        ids = torch.randint(0, 64, shape)
        with torch.no_grad():
            expected = mixtral(input_ids=ids).last_hidden_state
        actual = model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
