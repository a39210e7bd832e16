"""Tests of small Hugging Face models with random weights, from a local folder to C++."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import isthmus
from isthmus.capture.huggingface import load_hf

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}


def small(name: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, f"{name}Config")(**{**SMALL, **more})


def tiny(name: str, **sizes: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, f"{name}Config")(**sizes)


FAMILIES: dict[str, tuple[str, Callable[[], Any], list[str]]] = {
    "distilbert": (
        "DistilBertForSequenceClassification",
        tiny("DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=99,
             max_position_embeddings=64),
        ["logits"],
    ),
    "roberta": ("RobertaModel", small("Roberta"), ["last_hidden_state", "pooler_output"]),
    "mpnet": ("MPNetModel", small("MPNet"), ["last_hidden_state", "pooler_output"]),
    "deberta-v2": ("DebertaV2ForTokenClassification", small("DebertaV2"), ["logits"]),
    "modernbert": (
        "ModernBertModel",
        small("ModernBert", pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1,
              eos_token_id=2),
        ["last_hidden_state"],
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        tiny("GPT2", n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=64,
             bos_token_id=0, eos_token_id=0),
        ["logits"],
    ),
    "llama": ("LlamaForCausalLM", small("Llama", num_key_value_heads=2), ["logits"]),
    "qwen2": ("Qwen2ForCausalLM", small("Qwen2", num_key_value_heads=2), ["logits"]),
    "vit": (
        "ViTForImageClassification",
        tiny("ViT", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
             intermediate_size=64, image_size=32, patch_size=8),
        ["logits"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_from_its_folder_to_cpp(family: str, tmp_path: Path) -> None:
    architecture, config, outputs = FAMILIES[family]
    torch.manual_seed(0)
    module = getattr(transformers, architecture)(config()).eval()
    module.save_pretrained(tmp_path / family)
    loaded = load_hf(str(tmp_path / family))
    bundle = isthmus.export(
        loaded.module,
        loaded.args,
        loaded.kwargs,
        path=tmp_path / "bundle",
        dynamic=loaded.dynamic,
        dims=loaded.dims,
        source=loaded.source,
    )
    assert bundle.manifest.artifacts[0].strategy == "trace"
    model = isthmus.load(bundle.path)
    assert [output.name for output in model.signature().outputs] == outputs
    assert bundle.manifest.source["attention"] in ("sdpa", "eager")
    # A batch and a length that were not traced.
    inputs = {name: torch.cat([value] * 5) for name, value in loaded.kwargs.items()}
    if "input_ids" in inputs:
        inputs = {name: value[:, :9] for name, value in inputs.items()}
    with torch.inference_mode():
        expected = module(**inputs)[0]
    torch.testing.assert_close(model(**inputs)[outputs[0]], expected, rtol=0, atol=1e-5)
