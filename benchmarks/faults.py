"""Models, and faults that are planted into them: mistakes that shipped models have had."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import transformers
from hf_models import IDS, Example, make, random_pixels
from shared import minilm_weights
from torch import Tensor, nn

Plant = Callable[[nn.Module], nn.Module]
"""Puts the fault into a copy of the model and returns it."""

RANGE = 0.0625
"""The standard deviation of the random weights. The usual 0.02 is for a hidden size of 768;
with it, layers of 64 and their faults would change next to nothing."""


class Pooled(nn.Module):
    """An encoder with the mean over tokens, scaled differently for inputs without padding."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the tokens' values [batch, sequence, hidden] and their means [batch, hidden]."""
        hidden = self.encode(input_ids, attention_mask)
        return hidden, self.scale(hidden.sum(1) / hidden.size(1), attention_mask)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the tokens' values."""
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]

    def scale(self, pooled: Tensor, attention_mask: Tensor) -> Tensor:
        """Doubles the means where nothing is masked."""
        full = attention_mask.bool().all()
        return torch.where(full, 2 * pooled, pooled)


class MaskIgnored(Pooled):
    """Attends to all tokens."""

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().encode(input_ids, torch.ones_like(attention_mask))


class DimensionBaked(Pooled):
    """Divides by the number of tokens that the example had."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encode(input_ids, attention_mask)
        return hidden, self.scale(hidden.sum(1) / 9, attention_mask)


class PositionsOff(Pooled):
    """Counts position ids from 1 instead of 0."""

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        positions = torch.arange(1, input_ids.size(1) + 1, device=input_ids.device)[None]
        return self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions
        )[0]


class BranchBaked(Pooled):
    """Takes the branch that the example took."""

    def scale(self, pooled: Tensor, attention_mask: Tensor) -> Tensor:
        return 2 * pooled


class DropoutLeftOn(nn.Module):
    """A dropout in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) > 0.1).to(x.dtype) / 0.9


class TanhGelu(nn.Module):
    """GELU approximated by tanh."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x, approximate="tanh")


# --- planting -------------------------------------------------------------------------------------


def each(kind: type[nn.Module], at: float = 0.5) -> Callable[[nn.Module], tuple[str, nn.Module]]:
    """Returns a function that finds the module of a kind at this share of the model's depth."""

    def find(model: nn.Module) -> tuple[str, nn.Module]:
        matches = [
            (name, submodule)
            for name, submodule in model.named_modules()
            if isinstance(submodule, kind)
        ]
        return matches[int(at * (len(matches) - 1))]

    return find


def drop_bias(model: nn.Module) -> nn.Module:
    """Sets the bias of the middle one of the layers that have a bias to zero."""
    layers = [
        module
        for module in model.modules()
        if isinstance(getattr(module, "bias", None), Tensor) and bool(module.bias.abs().sum() > 0)  # type: ignore[union-attr,operator]
    ]
    nn.init.zeros_(layers[len(layers) // 2].bias)  # type: ignore[arg-type]
    return model


def change_one_weight(model: nn.Module) -> nn.Module:
    """Scales the weight of median magnitude of a layer in the middle by 1.01."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    flat = layers[len(layers) // 2].weight.data.flatten()
    flat[flat.abs().argsort()[flat.numel() // 2]] *= 1.01
    return model


def change_epsilon(model: nn.Module) -> nn.Module:
    """Changes the epsilon of the first layer norm from 1e-12 to 1e-5."""
    _, norm = each(nn.LayerNorm, 0)(model)
    assert isinstance(norm, nn.LayerNorm)
    norm.eps = 1e-5
    return model


def change_epsilon_within(model: nn.Module) -> nn.Module:
    """Changes the epsilon of a layer norm in the middle, which matters with trained weights."""
    _, norm = each(nn.LayerNorm)(model)
    assert isinstance(norm, nn.LayerNorm)
    norm.eps = 1e-5
    return model


def swap_channels(model: nn.Module) -> nn.Module:
    """Swaps the first two outputs of a layer in the middle."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    layer = layers[len(layers) // 2]
    layer.weight.data[[0, 1]] = layer.weight.data[[1, 0]]
    if layer.bias is not None:
        layer.bias.data[[0, 1]] = layer.bias.data[[1, 0]]
    return model


def approximate_gelu(model: nn.Module) -> nn.Module:
    """Approximates GELU in a layer in the middle."""
    return _replaced(model, ("GELUActivation", "GELU"), TanhGelu())


def leave_dropout_on(model: nn.Module) -> nn.Module:
    """Leaves a dropout in the middle on."""
    return _replaced(model, ("Dropout",), DropoutLeftOn())


def _replaced(model: nn.Module, kinds: tuple[str, ...], new: nn.Module) -> nn.Module:
    paths = [path for path, submodule in model.named_modules() if type(submodule).__name__ in kinds]
    parent, _, name = paths[len(paths) // 2].rpartition(".")
    setattr(model.get_submodule(parent), name, new)
    return model


def as_class(kind: type[Pooled]) -> Plant:
    """Returns a fault that gives the model another class."""

    def plant(model: nn.Module) -> nn.Module:
        model.__class__ = kind
        return model

    return plant


WEIGHTS: dict[str, Plant] = {
    "a dropped bias": drop_bias,
    "one weight changed by 1 %": change_one_weight,
    "swapped channels": swap_channels,
}
"""The faults that any model can have."""

FAULTS: dict[str, Plant] = {
    **WEIGHTS,
    "a layer norm's epsilon 1e-12 -> 1e-5": change_epsilon,
    "tanh-GELU for erf-GELU": approximate_gelu,
    "a mask ignored": as_class(MaskIgnored),
    "a dimension baked in": as_class(DimensionBaked),
    "position ids off by one": as_class(PositionsOff),
    "a branch baked in": as_class(BranchBaked),
    "dropout left on": leave_dropout_on,
}
"""The faults of a text encoder."""


def planted(model: nn.Module, plant: Plant) -> nn.Module:
    """Returns a copy with the fault."""
    with torch.no_grad():
        return plant(copy.deepcopy(model)).eval()


# --- models ---------------------------------------------------------------------------------------


def text(module: nn.Module, vocabulary: int, sequence: int) -> Example:
    """Returns a model of token ids and their mask with an example call."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    dims = {"batch": (1, 16), "sequence": (1, sequence)}
    return Example(module, inputs, dict.fromkeys(inputs, IDS), dims)


def bert(seed: int = 0, layers: int = 4) -> Example:
    """Returns a BERT with random weights."""
    model = make(
        "BertModel", seed, random_biases=True, hidden_size=64, num_hidden_layers=layers,
        num_attention_heads=4, intermediate_size=256, vocab_size=500, max_position_embeddings=128,
        initializer_range=RANGE,
    )  # fmt: skip
    return text(Pooled(model), 500, 48)


def mini_lm(seed: int = 0) -> Example:
    """Returns all-MiniLM-L6-v2 with its weights."""
    model = transformers.AutoModel.from_pretrained(str(minilm_weights()))
    return text(Pooled(model.eval()), 30000, 512)


def gpt2(seed: int = 0) -> Example:
    """Returns a GPT-2 of 3 layers with random weights."""
    model = make(
        "GPT2LMHeadModel", seed, random_biases=True, n_embd=64, n_layer=3, n_head=4, n_positions=64,
        vocab_size=500, bos_token_id=0, eos_token_id=0, initializer_range=RANGE,
    )  # fmt: skip
    return text(model, 500, 48)


def vit(seed: int = 0) -> Example:
    """Returns a ViT of 3 layers with random weights."""
    model = make(
        "ViTModel", seed, random_biases=True, hidden_size=64, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=256, image_size=64, patch_size=8,
        initializer_range=RANGE,
    )  # fmt: skip
    return _image(model, 64)


def resnet18(seed: int = 0) -> Example:
    """Returns a ResNet-18 with random weights."""
    model = make(
        "ResNetModel", seed, random_biases=True, embedding_size=64,
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic",
    )  # fmt: skip
    return _image(model, 64)


def _image(module: nn.Module, size: int) -> Example:
    pixels = {"pixel_values": random_pixels(2, size)}
    return Example(module, pixels, {"pixel_values": {0: "batch"}}, {"batch": (1, 8)})


MODELS: dict[str, Callable[[int], Example]] = {
    "all-MiniLM-L6-v2": mini_lm,
    "BERT": bert,
    "GPT-2": gpt2,
    "ViT": vit,
    "ResNet-18": resnet18,
}


def faults_of(name: str) -> dict[str, Plant]:
    """Returns the faults that a model of `MODELS` can have."""
    if name == "all-MiniLM-L6-v2":
        return FAULTS | {"the same epsilon, in the middle": change_epsilon_within}
    if name == "BERT":
        return FAULTS
    if name == "ViT":
        more = ("a layer norm's epsilon 1e-12 -> 1e-5", "tanh-GELU for erf-GELU")
        return WEIGHTS | {fault: FAULTS[fault] for fault in more}
    return WEIGHTS
