"""What to do about each kind of hazard, and about an exporter's refusal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from isthmus.bundle.manifest import Hazard

__all__ = ["REMEDIES", "advice_on", "with_remedies"]

REMEDIES = {
    "tracer_warning": "compute it with tensor operations (torch.where, masks), or script the part "
    'that holds the line: script=["..."] (--script)',
    "accepted_branch": "write the choice with torch.where or torch.cond, and leave accept out",
    "frozen_branch": "write the choice with torch.where or torch.cond, or script the part that "
    'holds the line: script=["..."] (--script)',
    "baked_constant": "compute it from tensors at run time: sizes from x.shape, values without "
    ".item(), numpy() or tolist(); a table belongs into register_buffer",
    "captured_parameter": "use it through the module (self.weight), not through .data, .detach() "
    "of a copy, or a tensor made from it in __init__",
    "device_literal": "write device=x.device of an input, or register_buffer",
    "dtype_literal": "write dtype=x.dtype of an input",
    "random_operator": "draw the numbers outside and pass them as an input, or take the operator "
    "out of eval mode",
    "writes_input": "clone the input in the module where the caller's buffer shall stay as it is",
    "unseen_write": "give an example that takes that path: probes=[...]",
    "impure_operator": 'load it with trust="native" (--allow-native), or leave the operator out',
    "fallback": "mend the line that is named, to get the first way",
    "ill_conditioned": "give probes nearer to real inputs: probes=[...]",
    "large_goldens": "pass a smaller example",
    "unproven_sizes": "give examples=[...] at the sizes that the ranges go to, or narrow dims",
    "size_dependent": "narrow dims, or list the sizes that occur, so that each can be tried",
    "eager_refuses": "check these values before the call",
    "experts": "take TorchScript where the memory of long calls matters",
    "fewer_sizes": "for the other sizes take another artifact, as engine auto does; or narrow dims",
    "batch_dependent": "call it with one sample, or take the fp32 artifact, where that matters",
    "attention_fast_path": "do not use answers at padded places; "
    "torch.backends.mha.set_fastpath_enabled(False) gives the same in eager, and "
    'formats=["torchscript"] alone keeps the fast path',
    "train_mode": "call super().train(mode) in train(), or set .training = False before exporting",
}
"""Maps a hazard's kind to its remedy."""

_ADVICE = (
    (
        r"keeps what one call decided.*the goldens are few",
        "write the choice with torch.where or torch.cond, script the part that holds the line "
        "(--script), or accept the line (--accept)",
    ),
    (
        r"data-dependent|GuardOnDataDependent|Could not guard|unbacked|DynamicControlFlow",
        "a branch or a size depends on values: write it with torch.where or torch.cond, or script "
        "that part (--script), which TorchScript keeps",
    ),
    (r"use the formats torchscript or aoti", ""),
    (
        r"argument 'size' failed to unpack the object.*FakeTensor",
        "a size is taken from the values of a tensor, as packed sequences do, which torch.export "
        "does not follow: use the formats torchscript or onnx",
    ),
    (
        r"torch\.export needs .* to be equal",
        "give both dimensions one name in dynamic=",
    ),
    (
        r"torch\.export (fixes|serves|does not serve)|specialized|Constraints violated",
        "the code fixes a size that was declared dynamic: take that dimension out of dynamic=, or "
        "narrow its range in dims= (--dim)",
    ),
    (
        r"No ONNX function|UnsupportedOperator|Unsupported.*operator|not supported in opset|"
        r"No decompositions",
        "that operator has no form in ONNX: replace it in the module, or use another format",
    ),
    (
        r"CppCompileError|C\+\+ compile error|g\+\+|No working C\+\+ compiler",
        "the C++ compiler failed: install g++ 10 or newer, or set CXX",
    ),
    (
        r"wrong at \d+ of \d+ sizes",
        "the format computes a size or a place otherwise than the module does: narrow the range of "
        "that dimension, list the sizes that occur in dims, or use another format",
    ),
    (r"time_limit", "allow more time, or export a smaller model first"),
    (r"pip install|packs them anew", ""),
    (
        r"quantize_dynamic.*least allowed",
        "the model does not bear int8 as it is: serve fp32, or bf16 of torchscript or aoti",
    ),
    (
        r"goldens fail.*slightly above the limit",
        "the artifact may compute the same with other rounding: give an example with usual values, "
        "or use another format",
    ),
    (
        r"first operator whose values differ is aten\.\S*upsample",
        "the runtime interpolates otherwise: resize outside of the model, or use a mode without "
        "antialias",
    ),
    (
        r"first operator whose values differ",
        "write that line with other operators, or use another format",
    ),
    (
        r"own program answers otherwise",
        "torch.export follows the module differently there: rewrite that part, or use TorchScript",
    ),
    (r"goldens fail|wrong at", "the answers differ: use another format or strategy"),
)
"""Maps a pattern in an exporter's error to advice; the first match counts."""


def with_remedies(hazards: Iterable[Hazard]) -> tuple[Hazard, ...]:
    """Returns the hazards; those without a remedy get the remedy of their kind."""
    return tuple(
        hazard if hazard.remedy else replace(hazard, remedy=REMEDIES.get(hazard.kind, ""))
        for hazard in hazards
    )


def advice_on(text: str) -> str:
    """Returns what to try about an exporter's error; empty where nothing is known."""
    for pattern, advice in _ADVICE:
        if re.search(pattern, text):
            return advice
    return ""
