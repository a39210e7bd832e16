"""What to do about each kind of hazard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from isthmus.bundle.manifest import Hazard

__all__ = ["REMEDIES", "with_remedies"]

REMEDIES = {
    "tracer_warning": "compute it with tensor operations (torch.where, masks), or script the part "
    'that holds the line: script=["..."] (--script)',
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
    "writes_input": "clone the input in the module before it is written",
    "impure_operator": 'load it with trust="native" (--allow-native), or leave the operator out',
    "fallback": "mend the line that is named, to get the first way",
    "ill_conditioned": "give probes nearer to real inputs: probes=[...]",
    "large_goldens": "pass a smaller example",
    "batch_dependent": "call it with one sample, or take the fp32 artifact, where that matters",
    "train_mode": "call super().train(mode) in train(), or set .training = False before exporting",
}
"""By the hazard's kind."""


def with_remedies(hazards: Iterable[Hazard]) -> tuple[Hazard, ...]:
    """The same, each that has none with the remedy of its kind."""
    return tuple(
        hazard if hazard.remedy else replace(hazard, remedy=REMEDIES.get(hazard.kind, ""))
        for hazard in hazards
    )
