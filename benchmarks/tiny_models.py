"""Builds a tiny model of every family of Hugging Face models that has one kind of input.

A family's default configuration is made small by the names of its values, so that a new family of
transformers is tried without a line about it here. A family that this does not fit, such as one
that takes text and images, has no model.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from hf_models import IDS, Example
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

VOCABULARY = 99
IMAGE = 64

_SIZES: dict[str, int] = {
    # widths
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "embed_dim": 32, "dim": 32, "emb_dim": 32,
    "embedding_size": 32, "word_embed_proj_dim": 32, "embedding_dim": 32, "conv_stem_dim": 16,
    "attention_hidden_size": 32, "projection_dim": 16, "decoder_hidden_size": 32,
    "decoder_hidden_dim": 32, "intermediate_size": 64, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "ffn_dim": 64, "d_ff": 64, "ffn_hidden_size": 64, "hidden_dim": 64,
    "n_inner": 64, "d_inner": 64, "mlp_dim": 64, "feed_forward_size": 64, "d_kv": 8, "head_dim": 8,
    "d_head": 8, "attention_head_size": 8, "bottleneck_dim": 16, "true_hidden_size": 32,
    "intra_bottleneck_size": 16, "lstm_hidden": 32, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    # heads and layers
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "num_decoder_layers": 2,
    "encoder_layers": 2, "decoder_layers": 2, "depth": 2, "num_encoder_layers": 2,
    # positions and ids
    "vocab_size": VOCABULARY, "max_position_embeddings": 80, "n_positions": 80, "n_ctx": 80,
    "max_source_positions": 40, "max_target_positions": 40, "sliding_window": 16, "seq_length": 80,
    "max_sequence_length": 80, "max_seq_len": 80, "max_2d_position_embeddings": 64,
    "rotary_dim": 4, "n_special": 0,
    # mixtures of experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_group": 1,
    "topk_group": 1, "moe_num_experts": 4, "moe_k": 2, "expert_capacity": 8,
    "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
    # low-rank attention
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "qk_head_dim": 16, "index_head_dim": 16, "index_n_heads": 2, "index_topk": 8,
    # recurrent and state-space layers
    "state_size": 8, "time_step_rank": 4, "mamba_d_state": 8, "mamba_n_heads": 8,
    "mamba_d_head": 8, "mamba_chunk_size": 16, "chunk_size": 16, "mamba_n_groups": 1,
    "lru_width": 32, "linear_num_value_heads": 4, "linear_num_key_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    # images and sound
    "image_size": IMAGE, "num_mel_bins": 16, "max_length": 64, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2, "codevector_dim": 16,
    "num_codevectors_per_group": 8, "proj_codevector_dim": 16, "classifier_proj_size": 16,
    "xvector_output_dim": 16, "output_hidden_size": 32, "pooler_output_size": 32, "num_queries": 8,
    "auxiliary_channels": 16, "num_position_embeddings": 64, "num_frames": 4, "tubelet_size": 2,
    "feature_size": 16,
}  # fmt: skip
"""The value of a configuration's number, by its name."""

_LISTS: dict[str, list[Any]] = {
    "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2],
    "tdnn_dim": [16, 16], "tdnn_kernel": [3, 1], "tdnn_dilation": [1, 1],
}  # fmt: skip
"""The value of a configuration's list, by its name."""

_NEEDED = ("vocab_size", "num_experts_per_tok")
"""The numbers that a family needs although its default configuration has none."""

_NARROWED = ("hidden_sizes", "embed_dims", "encoder_hidden_sizes", "neck_hidden_sizes", "dims",
             "embedding_dims", "decoder_hidden_sizes", "fusion_hidden_sizes")  # fmt: skip
"""The lists of widths, which are divided by the same number, to a multiple of 8."""


def family_names() -> list[str]:
    """Returns the names of all families for which transformers has a base model."""
    return list(MODEL_MAPPING_NAMES)


def build(name: str) -> Example:
    """Returns a tiny model of a family with a call that it answers.

    Raises:
        ValueError: the family takes other inputs than ids, an image, features or samples.
        Exception: whatever transformers raises when a configuration or a call does not fit.
    """
    torch.manual_seed(0)
    config = tiny_config(name)
    module = transformers.AutoModel.from_config(config).eval()
    return next(iter(_answered(name, module, config)))


def tiny_config(name: str) -> Any:
    """Returns the family's configuration with small sizes."""
    default = transformers.AutoConfig.for_model(name)
    defaults = default.to_dict()
    if any(isinstance(value, dict) and "model_type" in value for value in defaults.values()):
        raise ValueError("it is made of several models")
    values = _small(defaults)
    config = transformers.AutoConfig.for_model(name, **values)
    config.use_cache = False
    return config


def _small(values: Mapping[str, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, bool) or (value is None and key not in _NEEDED):
            continue
        if key in _SIZES and (value is None or isinstance(value, int)):
            small[key] = _SIZES[key]
        elif key in _LISTS and isinstance(value, list | tuple):
            small[key] = _LISTS[key]
        elif key in _NARROWED and isinstance(value, list | tuple):
            unit = max(min(value) // 8, 1)
            small[key] = [max(size // unit // 8, 1) * 8 for size in value]
        elif key == "depths" and isinstance(value, list | tuple):
            small[key] = [1 for _ in value]
        elif key == "layer_types" and isinstance(value, list | tuple):
            small[key] = [value[0], value[-1]]
        elif key.endswith(("token_id", "token_index")) and isinstance(value, int):
            small[key] = value if 0 <= value < VOCABULARY else 2
    stages = values.get("num_heads")
    if isinstance(stages, list | tuple) and "embed_dim" in small:
        small["embed_dim"] = 8 * stages[0]
    key_heads = values.get("num_key_value_heads")
    if "num_attention_heads" in small and key_heads == values["num_attention_heads"]:
        small["num_key_value_heads"] = small["num_attention_heads"]
    return small


def _answered(name: str, module: nn.Module, config: Any) -> Iterator[Example]:
    """Yields the calls that the module answers, the most usual one first."""
    reasons: list[str] = []
    for example in _calls(module, config):
        try:
            with torch.no_grad():
                module(**example.inputs)
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        yield example
    raise ValueError(reasons[0] if reasons else f"no call is known for {module.main_input_name}")


def _calls(module: nn.Module, config: Any) -> Iterator[Example]:
    main = str(module.main_input_name)
    parameters = inspect.signature(module.forward).parameters
    if main == "input_ids":
        ids = torch.arange(3, 12).repeat(2, 1)
        inputs = {"input_ids": ids}
        if "attention_mask" in parameters:
            inputs["attention_mask"] = torch.ones_like(ids)
        dynamic: dict[str, Mapping[int, str]] = dict.fromkeys(inputs, IDS)
        dims = {"batch": (1, 16), "sequence": (1, 48)}
        if "decoder_input_ids" in parameters:
            inputs["decoder_input_ids"] = torch.arange(3, 8).repeat(2, 1)
            dynamic["decoder_input_ids"] = {0: "batch", 1: "target"}
            dims["target"] = (1, 32)
        yield Example(module, inputs, dynamic, dims)
    elif main == "pixel_values":
        channels = int(getattr(config, "num_channels", 3) or 3)
        size = config.image_size if isinstance(getattr(config, "image_size", None), int) else IMAGE
        generator = torch.Generator().manual_seed(0)
        for shape in ((2, channels, size, size), (2, 4, channels, size, size)):
            pixels = torch.randn(*shape, generator=generator)
            yield Example(module, {main: pixels}, {main: {0: "batch"}}, {"batch": (1, 8)})
    elif main in ("input_values", "input_features"):
        yield from _sounds(module, config, main, "decoder_input_ids" in parameters)


def _sounds(module: nn.Module, config: Any, main: str, decoder: bool) -> Iterator[Example]:
    generator = torch.Generator().manual_seed(0)
    bins = int(getattr(config, "num_mel_bins", 16) or 16)
    longest = int(getattr(config, "max_length", 64) or 64)
    frames = 2 * int(getattr(config, "max_source_positions", 20) or 20)
    shapes: list[tuple[tuple[int, ...], dict[int, str], dict[str, tuple[int, int]]]] = [
        ((2, 800), {0: "batch", 1: "samples"}, {"samples": (400, 3200)}),
        ((2, 1, 800), {0: "batch", 2: "samples"}, {"samples": (400, 3200)}),
        ((2, bins, frames), {0: "batch"}, {}),
        ((2, longest, bins), {0: "batch"}, {}),
        ((2, frames, bins), {0: "batch", 1: "frames"}, {"frames": (16, 128)}),
    ]
    for shape, axes, more in shapes:
        inputs: dict[str, Tensor] = {main: torch.randn(*shape, generator=generator)}
        dynamic: dict[str, Mapping[int, str]] = {main: axes}
        dims = {"batch": (1, 8), **more}
        if decoder:
            inputs["decoder_input_ids"] = torch.arange(3, 8).repeat(2, 1)
            dynamic["decoder_input_ids"] = {0: "batch", 1: "target"}
            dims["target"] = (1, 32)
        yield Example(module, inputs, dynamic, dims)
