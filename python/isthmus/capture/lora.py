"""Merges a LoRA adapter, as peft saves it, into the model that it was trained for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.errors import InvalidInput

__all__ = ["Adapter", "merge_adapter", "read_adapter", "read_weights"]

Adapter = Mapping[str, Any]
"""The content of adapter_config.json."""

_PREFIX = "base_model.model."
_KNOWN = {"peft_type": ("LORA",), "bias": ("none",), "use_dora": (False,), "alpha_pattern": ({},)}
"""The values of settings that change how weights are merged; none of them is the first."""
_UNSUPPORTED = (
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
)
"""Settings that have to be empty."""
_CHANGING_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to begin the training that change the weights of the base model."""


def read_adapter(file: Path | None) -> Adapter | None:
    """Returns the configuration of an adapter; None where there is none."""
    return dict(json.loads(file.read_text("utf-8"))) if file is not None else None


def read_weights(file: Path | None, label: str) -> dict[str, Tensor]:
    """Returns the tensors of an adapter by their names in the base model.

    Raises:
        InvalidInput: There is no adapter_model.safetensors.
    """
    from safetensors.torch import load_file

    if file is None:
        raise InvalidInput(
            f"{label}: it has adapter_config.json and no adapter_model.safetensors; save the "
            "adapter again with safe_serialization=True"
        )
    return {
        name.removeprefix(_PREFIX).replace(".modules_to_save", ""): value
        for name, value in load_file(file).items()
    }


def merge_adapter(
    module: nn.Module, adapter: Adapter, tensors: Mapping[str, Tensor], label: str
) -> None:
    """Adds scale * B @ A of each adapted layer to its weight, and replaces weights saved whole.

    Args:
        module: The base model, which is changed.
        adapter: The adapter's configuration.
        tensors: The adapter's tensors, from `read_weights`.
        label: The adapter's folder or id, for messages.

    Raises:
        InvalidInput: The adapter is of a kind that is not merged, or does not fit the model.
    """
    _refuse_unknown(adapter, label)
    modules = dict(module.named_modules())
    parameters = dict(module.named_parameters())
    merged: set[str] = set()
    with torch.no_grad():
        for name, low in tensors.items():
            path, found, _ = name.partition(".lora_A.")
            if not found:
                continue
            high = tensors.get(f"{path}.lora_B.weight")
            layer = modules.get(path)
            weight = getattr(layer, "weight", None)
            if high is None or not isinstance(weight, Tensor):
                raise _refused(label, f'the model has no layer "{path}" for it')
            change = _scale(adapter, low.shape[0]) * (high.double() @ low.double())
            # Conv1D of GPT-2 keeps its weight the other way round.
            change = change.T if type(layer).__name__ == "Conv1D" else change
            if change.shape != weight.shape:
                raise _refused(label, f'"{path}" has the shape {list(weight.shape)} in the model')
            weight.copy_((weight.double() + change).to(weight.dtype))
            merged |= {name, f"{path}.lora_B.weight"}
        for name in sorted(set(tensors) - merged):
            whole = parameters.get(name)
            if ".lora_" in name or whole is None or whole.shape != tensors[name].shape:
                raise _refused(label, f'its "{name}" has no place in the model')
            whole.copy_(tensors[name])


def _scale(adapter: Adapter, rank: int) -> float:
    alpha = float(adapter.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if adapter.get("use_rslora") else rank)


def _refuse_unknown(adapter: Adapter, label: str) -> None:
    for name, values in _KNOWN.items():
        if (adapter.get(name) or values[0]) not in values:
            raise _refused(label, f'its {name} is "{adapter[name]}"')
    for name in _UNSUPPORTED:
        if adapter.get(name):
            raise _refused(label, f"it has {name}")
    start = str(adapter.get("init_lora_weights", "")).lower()
    if start.startswith(_CHANGING_BASE):
        raise _refused(label, f'its init_lora_weights is "{start}", which changes the base model')


def _refused(label: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{label}: the adapter cannot be merged ({reason}); merge it with peft "
        "(PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)) and "
        "export that folder"
    )
