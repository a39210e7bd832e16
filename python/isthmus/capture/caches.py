"""Takes the key/value caches of transformers apart into their tensors, and builds them again.

transformers is never imported here: a cache that is handed in belongs to a process that has it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from isthmus.errors import InvalidInput

__all__ = ["WITHOUT_CACHE", "cache_parts", "is_cache", "is_known_cache", "make_cache"]

WITHOUT_CACHE = (
    "to export the model without its cache, set model.config.use_cache = False (or pass "
    'use_cache=False and constants=["use_cache"])'
)
"""The advice for a cache that cannot be an input or an output."""

_MODULE = "transformers.cache_utils"
_LAYERS: Mapping[str, tuple[str, ...]] = {
    "DynamicLayer": ("keys", "values"),
    "DynamicSlidingWindowLayer": ("keys", "values"),
    "StaticLayer": ("keys", "values", "cumulative_length"),
    "DummyLayer": (),
}
"""The attributes of each layer that hold its tensors."""
_CONSTANTS = {"DynamicSlidingWindowLayer": "sliding_window", "StaticLayer": "max_cache_len"}
"""The number that a layer is made with."""
_CACHES = ("DynamicCache", "StaticCache")
_PAIR_CLASS = "EncoderDecoderCache"
_BASES = ("Cache", "CacheLayerMixin", "LinearAttentionCacheLayerMixin", "DummyLayer", _PAIR_CLASS)
_PAIR = ("self_attention_cache", "cross_attention_cache")


def is_cache(value: Any) -> bool:
    """Returns True for a cache or a layer of one, whether it can be taken apart or not."""
    return any(
        base.__module__ == _MODULE and base.__name__ in _BASES for base in type(value).__mro__
    )


def is_known_cache(type_name: str) -> bool:
    """Returns True for the class of a cache or a layer that is taken apart here.

    Args:
        type_name: "transformers.cache_utils:DynamicCache".
    """
    module, _, kind = type_name.partition(":")
    return module == _MODULE and (kind in _LAYERS or kind in _CACHES or kind == _PAIR_CLASS)


def cache_parts(value: Any, name: str) -> tuple[list[tuple[str | int, Any]], Any]:
    """Returns the parts of a cache or a layer by key, and the number that it is made with.

    Args:
        value: A value for which `is_cache` is True.
        name: The name of the value, for messages.

    Raises:
        InvalidInput: It is of a class, or in a state, that its tensors alone do not describe.
    """
    kind = type(value).__name__
    known = is_known_cache(f"{type(value).__module__}:{kind}")
    if known and kind == _PAIR_CLASS:
        return [(part, getattr(value, part)) for part in _PAIR], None
    if known and kind in _CACHES and not getattr(value, "offloading", False):
        return list(enumerate(value.layers)), None
    if not known or kind not in _LAYERS:
        raise InvalidInput(
            f'"{name}" is a {type(value).__module__}.{kind}; expected a cache of '
            f"{', '.join(_LAYERS)} that is not offloaded, whose tensors become inputs and outputs; "
            f"{WITHOUT_CACHE}"
        )
    _check_window(value, name)
    constant = _CONSTANTS.get(kind)
    parts = [(part, getattr(value, part)) for part in _LAYERS[kind] if hasattr(value, part)]
    return list(parts), getattr(value, constant) if constant else None


def make_cache(name: str, parts: Mapping[str | int, Any], constant: Any) -> Any:
    """Returns a cache or a layer of the class of this name; None where the class is not imported.

    Args:
        name: A name for which `is_known_cache` is True.
        parts: The parts by key, as `cache_parts` gives them.
        constant: The number that it is made with.
    """
    kind = name.partition(":")[2]
    cls: Any = getattr(sys.modules.get(_MODULE), kind, None)
    if cls is None:
        return None
    if kind == _PAIR_CLASS and set(parts) == set(_PAIR):
        return _make_pair(cls, parts)
    if kind in _CACHES:
        return _make_cache(cls, list(parts.values()))
    if kind not in _LAYERS:
        return None
    wanted = _CONSTANTS.get(kind)
    if (type(constant) is int) != (wanted is not None):
        return None
    layer = cls(**{wanted: constant}) if wanted else cls()
    return _filled(layer, parts)


def _make_cache(cls: Any, layers: Sequence[Any]) -> Any:
    if not layers:
        return cls() if cls.__name__ == "DynamicCache" else None
    cache = cls.__new__(cls)
    # What both classes do once they have made their layers.
    super(cls, cache).__init__(layers=layers)
    return cache


def _make_pair(cls: Any, parts: Mapping[str | int, Any]) -> Any:
    own, cross = (parts[name] for name in _PAIR)
    pair = cls.__new__(cls)
    pair.self_attention_cache, pair.cross_attention_cache = own, cross
    pair.is_updated = {
        at: getattr(layer, "keys", None) is not None for at, layer in enumerate(cross.layers)
    }
    return pair


def _filled(layer: Any, parts: Mapping[str | int, Any]) -> Any:
    """Returns the layer with its tensors, in the state in which updates of them leave it."""
    for name, part in parts.items():
        if name not in _LAYERS[type(layer).__name__]:
            return None
        setattr(layer, str(name), part)
    keys, values = parts.get("keys"), parts.get("values")
    if keys is None or values is None:
        return layer
    layer.is_initialized = True
    layer.device, layer.dtype = keys.device, keys.dtype
    layer.batch_size, layer.num_heads = keys.shape[0], keys.shape[1]
    layer.k_head_dim, layer.v_head_dim = keys.shape[-1], values.shape[-1]
    if type(layer).__name__ == "DynamicSlidingWindowLayer":
        layer.cumulative_length = keys.shape[-2]
    return layer


def _check_window(layer: Any, name: str) -> None:
    """Refuses a sliding layer that has seen more tokens than it holds.

    How many is a Python number beside the tensors, on which the mask depends.
    """
    if type(layer).__name__ != "DynamicSlidingWindowLayer" or layer.keys is None or _is_recorded():
        return
    held, seen = int(layer.keys.shape[-2]), int(getattr(layer, "cumulative_length", -1))
    if held != seen or getattr(layer, "record_past", False):
        raise InvalidInput(
            f'"{name}" is a layer with a window of {layer.sliding_window} tokens that has seen '
            f"{seen} and holds {held}; its tensors do not tell how many it has seen: keep past and "
            f"new tokens together below the window (narrow dims), or {WITHOUT_CACHE}"
        )


def _is_recorded() -> bool:
    """Returns True while a tracer or torch.export runs the model, where sizes are no numbers."""
    torch: Any = sys.modules["torch"]
    return bool(torch.jit.is_tracing() or torch.compiler.is_compiling())
