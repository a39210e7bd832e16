"""A model's folder is more than its configuration: sentence embeddings, and LoRA adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2Model,
)

import isthmus
from isthmus.capture.load_model import load_model
from isthmus.errors import InvalidInput
from models import tiny_bert

Module = tuple[str, dict[str, Any], dict[str, Tensor]]
"""The type of a module in modules.json, its configuration and its weights."""

POOLING: Module = ("Pooling", {"pooling_mode_mean_tokens": True}, {})
WIDTH = 32


def sentence_folder(folder: Path, *modules: Module, inside: str = "", prefix: str = "") -> Path:
    """Writes a tiny BERT with modules after it, as sentence-transformers does."""
    torch.manual_seed(0)
    tiny_bert().save_pretrained(folder / inside)
    entries = [{"idx": 0, "path": inside, "type": f"{prefix}Transformer"}]
    for at, (kind, config, weights) in enumerate(modules, start=1):
        path = f"{at}_{kind}"
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(config))
        if weights:
            save_file(weights, folder / path / "model.safetensors")
        entries.append({"idx": at, "path": path, "type": f"sentence_transformers.models.{kind}"})
    (folder / "modules.json").write_text(json.dumps(entries))
    return folder


def padded_call() -> dict[str, Tensor]:
    """Returns three rows, of which one is padded on the right and one on the left."""
    ids = torch.randint(5, 60, (3, 6), generator=torch.Generator().manual_seed(3))
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:] = 0
    mask[2, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}


def answers(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the hidden states, the mask and the sentence embedding of the padded call."""
    module = load_model(str(folder)).module.eval()
    call = padded_call()
    with torch.no_grad():
        outputs = module(**call)
        hidden = AutoModel.from_pretrained(folder).eval()(**call).last_hidden_state
    torch.testing.assert_close(outputs["last_hidden_state"], hidden, rtol=0, atol=0)
    return hidden, call["attention_mask"], outputs["sentence_embedding"]


def rows(hidden: Tensor, mask: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns a function of each row's tokens that are no padding, computed row by row."""
    return torch.stack([pool(row[kept == 1]) for row, kept in zip(hidden, mask, strict=True)])


def weighted(tokens: Tensor) -> Tensor:
    weights = torch.arange(1, len(tokens) + 1)[:, None]
    return (tokens * weights).sum(0) / weights.sum()


BY_HAND: Mapping[str, Callable[[Tensor], Tensor]] = {
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.max(0).values,
    "mean": lambda tokens: tokens.mean(0),
    "mean_sqrt_len_tokens": lambda tokens: tokens.sum(0) / len(tokens) ** 0.5,
    "weightedmean": weighted,
    "lasttoken": lambda tokens: tokens[-1],
}


@pytest.mark.parametrize("mode", BY_HAND)
def test_each_way_of_pooling_is_what_it_is_by_hand(mode: str, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "m", ("Pooling", {"pooling_mode": mode}, {}))
    hidden, mask, embedding = answers(folder)
    torch.testing.assert_close(embedding, rows(hidden, mask, BY_HAND[mode]), rtol=0, atol=1e-6)


def test_flags_of_older_files_are_joined_in_their_order(tmp_path: Path) -> None:
    flags = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True,
             "pooling_mode_max_tokens": False, "word_embedding_dimension": WIDTH}  # fmt: skip
    hidden, mask, embedding = answers(sentence_folder(tmp_path / "m", ("Pooling", flags, {})))
    expected = [rows(hidden, mask, BY_HAND[mode]) for mode in ("cls", "mean")]
    torch.testing.assert_close(embedding, torch.cat(expected, 1), rtol=0, atol=1e-6)


def test_dense_norm_and_normalisation_follow(tmp_path: Path) -> None:
    weights = {"linear.weight": torch.randn(8, WIDTH), "linear.bias": torch.randn(8)}
    norm = {"norm.weight": torch.rand(8), "norm.bias": torch.rand(8)}
    dense = {"in_features": WIDTH, "out_features": 8, "bias": True,
             "activation_function": "torch.nn.modules.activation.Tanh"}  # fmt: skip
    folder = sentence_folder(
        tmp_path / "m",
        POOLING,
        ("Dropout", {"dropout": 0.5}, {}),
        ("Dense", dense, weights),
        ("LayerNorm", {"dimension": 8}, norm),
        ("Normalize", {}, {}),
    )
    hidden, mask, embedding = answers(folder)
    expected = rows(hidden, mask, BY_HAND["mean"]) @ weights["linear.weight"].T
    expected = torch.tanh(expected + weights["linear.bias"])
    expected = nn.functional.layer_norm(expected, (8,), norm["norm.weight"], norm["norm.bias"])
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("formats", ["torchscript", "onnx"])
def test_the_embedding_is_an_output_in_cpp(tmp_path: Path, formats: str) -> None:
    folder = sentence_folder(tmp_path / "m", POOLING, ("Normalize", {}, {}), inside="0_Transformer")
    loaded = load_model(str(folder))
    bundle = isthmus.export(
        loaded.module, kwargs=loaded.kwargs, path=tmp_path / "b", dynamic=loaded.dynamic,
        dims={"batch": (1, 4), "sequence": (1, 16)}, formats=formats,
    )  # fmt: skip
    spec = next(v for v in bundle.manifest.methods[0].outputs if v.name == "sentence_embedding")
    assert spec.shape == ("batch", WIDTH)
    call = {**padded_call(), "token_type_ids": torch.zeros(3, 6, dtype=torch.long)}
    call = {name: call[name] for name in loaded.kwargs}
    with torch.no_grad():
        expected = loaded.module(**call)["sentence_embedding"]
    actual = isthmus.load(bundle.path)(**call)["sentence_embedding"]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_minilm_gives_its_sentence_embeddings(minilm_weights: Path) -> None:
    module = load_model(str(minilm_weights)).module.eval()
    texts = ["Who was Jim Henson ?", "a cat", "The quick brown fox jumps over the lazy dog."]
    call = AutoTokenizer.from_pretrained(minilm_weights)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(minilm_weights).eval()(**call).last_hidden_state
        embedding = module(**call)["sentence_embedding"]
    expected = rows(hidden, call["attention_mask"], BY_HAND["mean"])
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([("WordWeights", {}, {})], "Transformer and WordWeights"),
        ([POOLING, ("CNN", {}, {})], "has CNN.*known are Pooling, Normalize"),
        ([("Pooling", {"pooling_mode": "median"}, {})], 'Pooling.*"median" is unknown'),
        ([("Pooling", {"pooling_mode_new": True}, {})], '"pooling_mode_new" is unknown'),
        ([POOLING, ("Normalize", {"module_input_name": "token_embeddings"}, {})], "token_embed"),
        (
            [POOLING, ("Dense", {"in_features": 2, "out_features": 2,
                                 "activation_function": "os.system"}, {})],
            r'its activation is "os\.system"',
        ),
        ([POOLING, ("Dense", {"in_features": 2, "out_features": 2}, {})], "neither model.safe"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(
    modules: list[Module], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=words):
        load_model(str(sentence_folder(tmp_path / "m", *modules)))


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "m", ("Pooling", {"include_prompt": False}, {}))
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.warns(RuntimeWarning) as said:
        load_model(str(folder))
    texts = [str(warning.message) for warning in said]
    assert any("include_prompt" in text for text in texts)
    assert any("lower case" in text for text in texts)
    plain = sentence_folder(tmp_path / "plain", POOLING)
    with (
        pytest.warns(RuntimeWarning, match=r"Pooling.*left out for the task"),
        pytest.raises(InvalidInput, match="would be random"),
    ):
        load_model(str(plain), "text-classification")


# --- LoRA -----------------------------------------------------------------------------------------


def adapter_folder(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> str:
    folder.mkdir()
    defaults = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none",
                "base_model_name_or_path": "../base"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**defaults, **config}))
    save_file({f"base_model.model.{k}": v for k, v in tensors.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    return str(folder)


QUERY = "encoder.layer.1.attention.self.query"


def low_rank(path: str = QUERY, rows: int = WIDTH, columns: int = WIDTH) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        f"{path}.lora_A.weight": torch.randn(2, columns, generator=generator),
        f"{path}.lora_B.weight": torch.randn(rows, 2, generator=generator),
    }


@pytest.mark.parametrize(("rslora", "scale"), [(False, 4.0), (True, 8 / 2**0.5)])
def test_an_adapter_is_merged_into_its_base(tmp_path: Path, rslora: bool, scale: float) -> None:
    torch.manual_seed(0)
    base = tiny_bert()
    base.save_pretrained(tmp_path / "base")
    tensors = low_rank()
    loaded = load_model(adapter_folder(tmp_path / "adapter", tensors, use_rslora=rslora))
    assert loaded.source["adapter_of"] == "base"
    weight = base.get_submodule(QUERY).weight
    with torch.no_grad():
        weight += scale * tensors[f"{QUERY}.lora_B.weight"] @ tensors[f"{QUERY}.lora_A.weight"]
        expected = base.eval()(**padded_call()).last_hidden_state
        actual = loaded.module.eval()(**padded_call()).last_hidden_state
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_gpt2_keeps_its_weights_the_other_way_round(tmp_path: Path) -> None:
    base = GPT2Model(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, n_positions=32))
    base.save_pretrained(tmp_path / "base")
    tensors = low_rank("h.0.attn.c_attn", rows=96)
    loaded = load_model(adapter_folder(tmp_path / "adapter", tensors, fan_in_fan_out=True),
                        "feature-extraction")  # fmt: skip
    change = (
        4.0 * tensors["h.0.attn.c_attn.lora_B.weight"] @ tensors["h.0.attn.c_attn.lora_A.weight"]
    )
    expected = base.h[0].attn.c_attn.weight + change.T
    torch.testing.assert_close(loaded.module.h[0].attn.c_attn.weight, expected, rtol=0, atol=1e-5)


def test_a_head_that_the_adapter_brings_is_not_random(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "base")
    head = {"classifier.weight": torch.randn(2, WIDTH), "classifier.bias": torch.randn(2)}
    tensors = {**low_rank(f"bert.{QUERY}"), **head}
    loaded = load_model(adapter_folder(tmp_path / "adapter", tensors), "text-classification")
    assert isinstance(loaded.module, BertForSequenceClassification)
    torch.testing.assert_close(loaded.module.classifier.weight.data, head["classifier.weight"])


@pytest.mark.parametrize(
    ("config", "tensors", "words"),
    [
        ({"use_dora": True}, low_rank(), "use_dora"),
        ({"bias": "all"}, low_rank(), 'bias is "all"'),
        ({"peft_type": "IA3"}, low_rank(), "IA3"),
        ({"alpha_pattern": {"query": 3}}, low_rank(), "alpha_pattern"),
        ({"init_lora_weights": "pissa_niter_4"}, low_rank(), "changes the base"),
        ({}, low_rank("encoder.layer.9.query"), 'no layer "encoder.layer.9.query"'),
        ({}, low_rank(rows=7), "has the shape"),
        ({}, {"embeddings.lora_embedding_A": torch.ones(2)}, "has no place in the model"),
        ({"base_model_name_or_path": ""}, low_rank(), "names no base"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(
    config: dict[str, Any], tensors: dict[str, Tensor], words: str, tmp_path: Path
) -> None:
    tiny_bert().save_pretrained(tmp_path / "base")
    with pytest.raises(InvalidInput, match=words):
        load_model(adapter_folder(tmp_path / "adapter", tensors, **config))


def test_tiny_bert_has_the_width_of_these_tests() -> None:
    config = tiny_bert().config
    assert isinstance(config, BertConfig) and config.hidden_size == WIDTH
