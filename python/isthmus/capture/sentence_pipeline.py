"""The modules that follow the transformer in a folder of sentence-transformers: `modules.json`.

Their files are read here, so that the package itself is not needed. The semantics are those of its
version 5: pooling by the attention mask, dense layers, layer norms and normalisation.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus.errors import InvalidInput

__all__ = ["SentencePipeline", "sentence_modules", "transformer_path"]

ReadFile = Callable[[str], Path | None]
"""Returns where a file of the model lies, by its path in the folder; None where there is none."""

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The modes by their flags in older files, in the order in which the results are joined."""
_NO_MODE = ("word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt")


class SentencePipeline(nn.Module):
    """A transformer and the modules after it.

    The result has the transformer's own outputs, and "sentence_embedding", float32[batch, width].
    """

    def __init__(self, transformer: nn.Module, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = modules[0]
        self.rest = nn.Sequential(*modules[1:])
        self.config = transformer.config

    def forward(self, input_ids: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Returns the outputs by name."""
        outputs = dict(self.transformer(input_ids, **inputs))
        hidden = outputs["last_hidden_state"]
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(input_ids)
        return {**outputs, "sentence_embedding": self.rest(self.pooling(hidden, mask))}


class Pooling(nn.Module):
    """Makes one vector of the hidden states of a sentence; several modes are joined."""

    def __init__(self, modes: Sequence[str]) -> None:
        super().__init__()
        self.modes = tuple(modes)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Returns float32[batch, width] of hidden states and the attention mask."""
        return torch.cat([_POOLS[mode](hidden, mask.unsqueeze(-1)) for mode in self.modes], dim=-1)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _mean_sqrt(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9).sqrt()


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None]
    weights = (mask * (places - _first(mask))).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask == 0, float("-inf")).amax(1)


def _cls(hidden: Tensor, mask: Tensor) -> Tensor:
    return _at(hidden, _first(mask))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(hidden.shape[1], device=hidden.device)[None, :, None]
    last = (places * (mask != 0)).amax(1, keepdim=True)
    return _at(hidden * mask.to(hidden.dtype), last)


def _first(mask: Tensor) -> Tensor:
    """Returns the place of the first token that is no padding, int64[batch, 1, 1]."""
    return mask.to(torch.int32).argmax(1, keepdim=True)


def _at(hidden: Tensor, place: Tensor) -> Tensor:
    return hidden.gather(1, place.expand(-1, 1, hidden.shape[-1])).squeeze(1)


_POOLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


class Normalize(nn.Module):
    """Scales each vector to length 1."""

    def forward(self, vector: Tensor) -> Tensor:
        """Returns a tensor of the same shape."""
        return functional.normalize(vector, p=2.0, dim=-1)


class Dense(nn.Module):
    """A linear layer with an activation, and the input on top where the file says so."""

    def __init__(self, config: Mapping[str, Any], activation: nn.Module) -> None:
        super().__init__()
        sizes = int(config["in_features"]), int(config["out_features"])
        self.linear = nn.Linear(*sizes, bias=bool(config.get("bias", True)))
        self.activation = activation
        self.adds_input = bool(config.get("use_residual", False))
        if self.adds_input and sizes[0] != sizes[1]:
            self.residual = nn.Linear(*sizes, bias=False)

    def forward(self, vector: Tensor) -> Tensor:
        """Returns float32[batch, out_features]."""
        result: Tensor = self.activation(self.linear(vector))
        if self.adds_input:
            result = result + (self.residual(vector) if hasattr(self, "residual") else vector)
        return result


# --- reading --------------------------------------------------------------------------------------


def transformer_path(read: ReadFile) -> str:
    """Returns the path of the transformer inside the folder; empty for the folder itself."""
    entries = _entries(read)
    return str(entries[0].get("path", "")) if entries else ""


def sentence_modules(reference: str, read: ReadFile) -> list[nn.Module]:
    """Returns the modules after the transformer; none for a folder without `modules.json`.

    Args:
        reference: The folder or id, for messages.
        read: Finds the files of the model.

    Raises:
        InvalidInput: A module is of a kind, or has a setting, that cannot be honoured; names it.
    """
    entries = _entries(read)
    if not entries:
        return []
    kinds = [str(entry.get("type", "")).rpartition(".")[2] for entry in entries]
    if kinds[0] != "Transformer" or "Pooling" not in kinds[1:2]:
        raise _refused(reference, " and ".join(kinds[:2]), "expected a Transformer and Pooling")
    modules: list[nn.Module] = []
    for kind, entry in zip(kinds[1:], entries[1:], strict=True):
        maker = _MAKERS.get(kind)
        if maker is None:
            raise _refused(reference, kind, f"known are {', '.join(_MAKERS)}")
        path = str(entry.get("path", ""))
        config = _json(read, f"{path}/config.json")
        for name in ("module_input_name", "module_output_name"):
            if config.get(name) not in (None, "sentence_embedding"):
                raise _refused(reference, kind, f'its {name} is "{config[name]}"')
        modules.append(maker(reference, config, partial(_read_in, read, path)))
    _warn_of_settings(reference, read)
    return modules


def _entries(read: ReadFile) -> list[dict[str, Any]]:
    file = read("modules.json")
    return sorted(json.loads(file.read_text("utf-8")), key=lambda e: e["idx"]) if file else []


def _read_in(read: ReadFile, folder: str, name: str) -> Path | None:
    return read(f"{folder}/{name}")


def _json(read: ReadFile, name: str) -> dict[str, Any]:
    file = read(name)
    return dict(json.loads(file.read_text("utf-8"))) if file else {}


def _refused(reference: str, kind: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{reference}: its modules.json has {kind}, which cannot be exported ({reason}); write a "
        "function that returns the whole pipeline as one module with example arguments, and give "
        "it as package.module:function"
    )


def _pooling(reference: str, config: Mapping[str, Any], read: ReadFile) -> nn.Module:
    given = config.get("pooling_mode")
    modes = [given] if isinstance(given, str) else list(given or ())
    modes = modes or [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]
    unknown = [mode for mode in modes if mode not in _POOLS]
    unknown += [name for name, value in config.items()
                if value and name not in _FLAGS and name not in _NO_MODE]  # fmt: skip
    if unknown:
        raise _refused(reference, "Pooling", f'its setting "{unknown[0]}" is unknown')
    if not config.get("include_prompt", True):
        _say(reference, "include_prompt", False, "every token is pooled, those of a prompt too")
    return Pooling(modes)


def _normalize(reference: str, config: Mapping[str, Any], read: ReadFile) -> nn.Module:
    return Normalize()


def _dropout(reference: str, config: Mapping[str, Any], read: ReadFile) -> nn.Module:
    return nn.Identity()  # as it is in eval mode


def _dense(reference: str, config: Mapping[str, Any], read: ReadFile) -> nn.Module:
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise _refused(reference, "Dense", f'its activation is "{name}"')
    return _with_weights(reference, Dense(config, kind()), read)


def _layer_norm(reference: str, config: Mapping[str, Any], read: ReadFile) -> nn.Module:
    norm = nn.LayerNorm(int(config["dimension"]))
    _with_weights(reference, nn.ModuleDict({"norm": norm}), read)
    return norm


_MAKERS: Mapping[str, Callable[[str, Mapping[str, Any], ReadFile], nn.Module]] = {
    "Pooling": _pooling,
    "Normalize": _normalize,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Dropout": _dropout,
}


def _with_weights(reference: str, module: nn.Module, read: ReadFile) -> nn.Module:
    """Returns the module with the weights beside its configuration.

    Raises:
        InvalidInput: There are none, or they do not fit.
    """
    from safetensors.torch import load_file

    kept, pickled = read("model.safetensors"), read("pytorch_model.bin")
    try:
        if kept is not None:
            module.load_state_dict(load_file(kept))
        elif pickled is not None:
            module.load_state_dict(torch.load(pickled, weights_only=True, map_location="cpu"))
        else:
            raise FileNotFoundError("there is neither model.safetensors nor pytorch_model.bin")
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidInput(
            f"{reference}: the weights of its {type(module).__name__} cannot be loaded ({error}); "
            "fetch the folder again"
        ) from error
    return module


def _warn_of_settings(reference: str, read: ReadFile) -> None:
    """Warns of settings that the exported module does not have, because they act outside of it."""
    settings = _json(read, "sentence_bert_config.json")
    settings |= _json(read, "config_sentence_transformers.json")
    said = {
        "do_lower_case": "make the texts lower case before the tokenizer",
        "truncate_dim": "cut the embedding after the call",
        "default_prompt_name": "put that prompt before the texts",
    }
    for name, advice in said.items():
        if settings.get(name):
            _say(reference, name, settings[name], advice)


def _say(reference: str, name: str, value: Any, advice: str) -> None:
    warnings.warn(
        f'{reference}: "{name}" is {value!r}, which is no part of the exported module: {advice}',
        RuntimeWarning,
        stacklevel=2,
    )
