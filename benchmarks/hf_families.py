"""Families of Hugging Face models whose tiny configurations and calls are written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hf_models import IDS, Example, make, random_pixels

__all__ = ["FAMILIES"]

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
TEXT = SMALL | {"vocab_size": 99, "max_position_embeddings": 64}
IMAGE = SMALL | {"image_size": 32, "patch_size": 8}


def text(name: str, **more: Any) -> Callable[[], Example]:
    """Returns a builder of a text model: input_ids and attention_mask."""

    def build() -> Example:
        ids = torch.arange(3, 12).repeat(2, 1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        dims = {"batch": (1, 16), "sequence": (1, 48)}
        return Example(make(name, **{**TEXT, **more}), inputs, dict.fromkeys(inputs, IDS), dims)

    return build


def seq2seq(name: str, **config: Any) -> Callable[[], Example]:
    """Returns a builder of an encoder with a decoder."""

    def build() -> Example:
        inputs = {
            "input_ids": torch.arange(3, 12).repeat(2, 1),
            "attention_mask": torch.ones(2, 9, dtype=torch.int64),
            "decoder_input_ids": torch.arange(3, 8).repeat(2, 1),
        }
        dynamic = {**dict.fromkeys(inputs, IDS), "decoder_input_ids": {0: "batch", 1: "target"}}
        dims = {"batch": (1, 16), "sequence": (1, 48), "target": (1, 48)}
        return Example(make(name, **config), inputs, dynamic, dims)

    return build


def image(name: str, size: int = 32, **config: Any) -> Callable[[], Example]:
    """Returns a builder of a vision model: pixel_values of a fixed size."""

    def build() -> Example:
        pixels = random_pixels(2, size)
        dynamic = {"pixel_values": {0: "batch"}}
        return Example(make(name, **config), {"pixel_values": pixels}, dynamic, {"batch": (1, 16)})

    return build


def clip() -> Example:
    """Returns CLIP, which takes text and images."""
    module = make(
        "CLIPModel", text_config=TEXT | {"eos_token_id": 98}, vision_config=IMAGE, projection_dim=16
    )
    ids = torch.arange(3, 12).repeat(2, 1)
    pixels = random_pixels(3, 32)
    inputs = {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}
    dynamic = {"input_ids": IDS, "attention_mask": IDS, "pixel_values": {0: "images"}}
    return Example(
        module, inputs, dynamic, {"batch": (1, 16), "sequence": (1, 48), "images": (1, 16)}
    )


def whisper() -> Example:
    """Returns Whisper's encoder, on features of the fixed length that it requires."""
    module = make(
        "WhisperModel", d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=99,
        max_source_positions=30, max_target_positions=20, num_mel_bins=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    ).get_encoder()  # fmt: skip
    features = torch.randn(2, 16, 60, generator=torch.Generator().manual_seed(0))
    dynamic = {"input_features": {0: "batch"}}
    return Example(module, {"input_features": features}, dynamic, {"batch": (1, 16)})


def wav2vec2() -> Example:
    """Returns wav2vec 2.0, on raw audio of any length."""
    module = make(
        "Wav2Vec2Model", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2),
        num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    audio = torch.randn(2, 800, generator=torch.Generator().manual_seed(0))
    dynamic = {"input_values": {0: "batch", 1: "samples"}}
    return Example(
        module, {"input_values": audio}, dynamic, {"batch": (1, 16), "samples": (400, 4000)}
    )


BART: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 99,
    "max_position_embeddings": 64,
}  # fmt: skip

FAMILIES: dict[str, Callable[[], Example]] = {
    "bert": text("BertModel"),
    "roberta": text("RobertaModel", max_position_embeddings=66),
    "distilbert": text("DistilBertModel", dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "albert": text("AlbertModel", embedding_size=16),
    "electra": text("ElectraModel", embedding_size=16),
    "deberta-v2": text("DebertaV2Model"),
    "mpnet": text("MPNetModel", max_position_embeddings=66),
    "modernbert": text(
        "ModernBertModel", pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt2": text(
        "GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0,
        eos_token_id=0,
    ),
    "gpt_neox": text("GPTNeoXForCausalLM"),
    "llama": text("LlamaForCausalLM", num_key_value_heads=2),
    "qwen2": text("Qwen2ForCausalLM", num_key_value_heads=2),
    "opt": text("OPTForCausalLM", ffn_dim=64, word_embed_proj_dim=32),
    "t5": seq2seq(
        "T5ForConditionalGeneration", d_model=32, num_layers=2, num_heads=4, d_kv=8, d_ff=64,
        vocab_size=99,
    ),
    "bart": seq2seq("BartForConditionalGeneration", **BART),
    "vit": image("ViTModel", **IMAGE),
    "deit": image("DeiTModel", **IMAGE),
    "swin": image(
        "SwinModel", embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=2, image_size=32,
        patch_size=4,
    ),
    "convnext": image("ConvNextModel", hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1]),
    "dinov2": image("Dinov2Model", **IMAGE),
    "clip": clip,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "segformer": image(
        "SegformerForSemanticSegmentation", size=64, hidden_sizes=[8, 16, 32, 32],
        depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=16,
    ),
}  # fmt: skip
"""Builders by the name that transformers gives the family."""
