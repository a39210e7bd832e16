"""Switches torch's fast path of attention off where an export cannot follow it, and says so.

In eval mode `nn.TransformerEncoder` and `nn.MultiheadAttention` may take one fused operator, which
gives zeros at padded places. A trace keeps that operator; `torch.export` follows attention itself,
which computes something else there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isthmus.bundle.manifest import Hazard, Manifest, Method
from isthmus.capture.operator_mode import OperatorMode
from isthmus.capture.run_module import ModuleRunner
from isthmus.capture.values import flat_outputs

if TYPE_CHECKING:
    from isthmus.capture.capture import Captured

__all__ = ["FAST_PATH", "WITH_FAST_PATH", "as_exported", "noted", "without_fast_path"]

FAST_PATH = "attention_fast_path"
"""The kind of the hazard."""
WITH_FAST_PATH = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
_OPERATORS = ("_transformer_encoder_layer_fwd", "_native_multi_head_attention")
_ROUNDING = 1e-4
"""The share of the largest value that other rounding may explain."""


@contextmanager
def fast_path_off() -> Iterator[None]:
    """Switches the fast path off; afterwards it is as before."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def as_exported(manifest: Manifest) -> AbstractContextManager[None]:
    """Returns a context in which eager answers as it did when the goldens were made."""
    hazards = (hazard for artifact in manifest.artifacts for hazard in artifact.hazards)
    return fast_path_off() if any(hazard.kind == FAST_PATH for hazard in hazards) else nullcontext()


@contextmanager
def without_fast_path(module: object, formats: Collection[str]) -> Iterator[bool]:
    """Switches the fast path off for an export to formats that cannot follow it.

    Yields:
        True where it was on before and is off inside.
    """
    parts = module.modules() if isinstance(module, nn.Module) else ()
    has_attention = any(isinstance(part, WITH_FAST_PATH) for part in parts)
    beyond_traces = any(name != "torchscript" for name in formats)
    if not (has_attention and beyond_traces and torch.backends.mha.get_fastpath_enabled()):
        yield False
        return
    with fast_path_off():
        yield True


def noted(captured: Captured) -> Captured:
    """Adds a note where the module takes the fast path on its examples when that is on."""
    notes = [note for method in captured.methods for note in _notes(captured, method)]
    return replace(captured, notes=(*captured.notes, *notes))


def _notes(captured: Captured, method: Method) -> list[Hazard]:
    values = captured.given[method.name]
    with ModuleRunner(captured.module) as runner:
        with runner.run():
            off = flat_outputs(method, runner.call(method, values))
        torch.backends.mha.set_fastpath_enabled(True)
        try:
            with runner.run(), _Watch() as watch:
                runner.call(method, values)
            with runner.run():
                on = flat_outputs(method, runner.call(method, values))
        finally:
            torch.backends.mha.set_fastpath_enabled(False)
    if not watch.seen:
        return []
    differing = {name: _differing(on[name], off[name]) for name in on if name in off}
    counts = [
        f'{count} of the {on[name].numel()} values of "{name}"'
        for name, count in differing.items()
        if count
    ]
    measured = f"In the example {' and '.join(counts) or 'no values'} differ"
    paths = [
        path for path, part in captured.module.named_modules() if isinstance(part, WITH_FAST_PATH)
    ]
    return [
        Hazard(
            FAST_PATH,
            "warning",
            f"{method.name} takes torch's fast path of attention in eval mode "
            f'({watch.seen[0]} in "{paths[0] or "the module itself"}"), which only a trace can '
            "follow: it was off for this export, so the goldens and every format have the answers "
            "of attention itself. With the fast path on, eager gives zeros at padded places, where "
            f"these answers are other numbers; elsewhere both are equal. {measured}",
        )
    ]


def _differing(a: Tensor, b: Tensor) -> int:
    if a.shape != b.shape or not a.is_floating_point():
        return int(a.numel()) if not torch.equal(a, b) else 0
    bound = _ROUNDING * float(b.nan_to_num(0, 0, 0).abs().max()) if b.numel() else 0.0
    return int((~torch.isclose(a, b, rtol=0, atol=bound, equal_nan=True)).sum())


class _Watch(OperatorMode):  # type: ignore[no-untyped-call]
    """Records the operators of the fast path."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Runs an operator, and notes whether it is one of the fast path."""
        name = getattr(getattr(func, "overloadpacket", None), "__name__", "")
        if name in _OPERATORS:
            self.seen.append(name)
        return func(*args, **kwargs)
