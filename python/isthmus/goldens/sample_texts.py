"""Makes goldens of real sentences through a model's own tokenizer, to judge reduced precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isthmus.bundle.golden import Golden, Step, named_sizes
from isthmus.bundle.manifest import written_name
from isthmus.bundle.size_expression import bind_sizes, names_of, parse_size
from isthmus.capture.flat import returns_tree, tensors_of
from isthmus.capture.run_module import ModuleRunner
from isthmus.capture.values import to_tensor
from isthmus.goldens.noise_floor import NoiseMeter
from isthmus.goldens.tolerance import is_float

if TYPE_CHECKING:
    from isthmus.bundle.bundle_files import Source
    from isthmus.bundle.manifest import DimRange, Method, Size
    from isthmus.capture.capture import Captured
    from isthmus.goldens.precision_copy import Calls

__all__ = ["SENTENCES", "as_golden", "encode", "kept_as_goldens", "sentence_goldens"]

SENTENCES = (
    "The ferry leaves at half past six, and the last bus back is at nine.",
    "How do I reset my password?",
    "Interest rates rose by half a percent in March, and the banks followed within days.",
    "She wrote the whole novel by hand, in three notebooks, before she showed it to anyone.",
    "Thanks!",
    "Patients who took the drug slept 40 minutes longer than those who took the placebo.",
    "def area(width, height): return width * height",
    "The tenant shall give notice in writing not later than sixty days before the lease ends.",
    "Cook the onions slowly in butter until they are soft, then add the rice and stir.",
    "WARNING: do not open the valve while the tank is under pressure.",
    "A protein folds because that is the shape in which its energy is lowest.",
    "Is there a pharmacy near the station that is open on Sundays?",
    "The goalkeeper saved two penalties, and still the team lost the final 3-2.",
    "my order #48213 arrived broken, i want my money back",
    "In 1783 two brothers sent a sheep, a duck and a rooster up in a balloon near Paris.",
    "Light takes a little more than eight minutes from the Sun to the Earth.",
    "He is not unkind; he is only very, very tired.",
    "Click 'Save', wait for the green tick, and restart the router.",
    "The committee postponed its decision because two of the five members were ill.",
    "Rain is expected in the north tonight, with gusts of up to 90 km/h along the coast.",
    "No.",
    "Where the river bends, the current cuts into the outer bank and leaves sand on the inner one.",
    "Dear Ms. Okafor, we are glad to offer you the position of senior engineer.",
    "The museum keeps the painting in the dark for ten months of the year so that it won't fade.",
    "What is the difference between a virus and a bacterium?",
    "Unemployment fell for the third month in a row, although wages hardly moved.",
    "The cat slept on the warm bonnet of the car until the owner came back with the shopping.",
    "Two trains left the same city at noon, one of them at 80 and the other at 120 km/h, and the "
    "slower one stopped twice for ten minutes; which was the first to arrive at the junction that "
    "lies 240 kilometres away, and by how much?",
    "Could you turn the music down, please? The baby has just fallen asleep.",
    "Error 0x80070005: access is denied.",
    "They planted oaks, knowing that none of them would ever sit in the shade.",
    "The 'cheap' flight cost more than the train, once we had paid for the bags and the taxi.",
)
"""Sentences of different lengths and kinds: news, questions, law, cooking, code, complaints."""
_MOST_KEPT = 8
"""The number of sentences that a bundle keeps, because every proof runs every golden."""


def encode(
    files: Mapping[str, Source], method: Method, dims: Mapping[str, DimRange]
) -> list[dict[str, Tensor]]:
    """Returns the sentences as inputs of one call each, [1, tokens].

    The list is empty when there is no readable tokenizer, or the method takes other inputs.

    Args:
        files: The further files of a bundle by path; "tokenizer/tokenizer.json" is read.
        method: The method, all of whose inputs have to come from the tokenizer.
        dims: The ranges of the method's dimensions; a sentence outside of them is left out.
    """
    source = files.get("tokenizer/tokenizer.json")
    if source is None:
        return []
    try:
        from tokenizers import Tokenizer

        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        # The file may ask for padding to one length.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        encodings = [tokenizer.encode(sentence) for sentence in SENTENCES]
    except Exception:  # tokenizers raises plain Exceptions; the other goldens remain
        return []
    calls = [
        {
            "input_ids": torch.tensor([encoding.ids]),
            "attention_mask": torch.tensor([encoding.attention_mask]),
            "token_type_ids": torch.tensor([encoding.type_ids]),
        }
        for encoding in encodings
    ]
    fitting = (_fitting(call, method, dims) for call in calls)
    return [inputs for inputs in fitting if inputs is not None]


def _fitting(
    call: Mapping[str, Tensor], method: Method, dims: Mapping[str, DimRange]
) -> dict[str, Tensor] | None:
    """Returns the method's inputs of a call; None when they do not fit its signature."""
    inputs: dict[str, Tensor] = {}
    axes: list[tuple[Size, int]] = []
    for spec in method.inputs:
        value = call.get(spec.name)
        if value is None or spec.shape is None or len(spec.shape) != value.dim():
            return None
        axes += zip(spec.shape, value.shape, strict=True)
        inputs[spec.name] = value.to(getattr(torch, spec.dtype))
    sizes = bind_sizes(axes)
    allowed = all(dims[name].allows(size) for name, size in sizes.items())
    fits = all(
        size == actual if isinstance(size, int) else _value_of(size, sizes) == actual
        for size, actual in axes
    )
    return inputs if allowed and fits else None


def _value_of(size: Size, sizes: Mapping[str, int]) -> int | None:
    known = isinstance(size, str) and set(names_of(size)) <= set(sizes)
    return parse_size(size).evaluate(sizes) if isinstance(size, str) and known else None


def sentence_goldens(captured: Captured, calls: Sequence[Mapping[str, Tensor]]) -> list[Golden]:
    """Returns goldens of these calls; calls on which the untouched module fails are left out.

    Args:
        captured: A captured module without state.
        calls: The inputs of its first method, from `encode`.
    """
    method = captured.methods[0]
    runs: list[tuple[Calls, Step]] = []
    with ModuleRunner(captured.module, stateful=False) as runner:
        for values in calls:
            try:
                with runner.run():
                    result, effects = runner.call_watched(method, values)
            except Exception:
                # The tokenizer gives ids that the model does not have.
                continue
            _, leaves = returns_tree(method.name, result)
            tensors = tensors_of(leaves)
            tensors |= {written_name(name): effects.after[name] for name in method.writes}
            outputs = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
            inputs = {spec.name: to_tensor(spec, values[spec.name]) for spec in method.inputs}
            if all(
                bool(output.isfinite().all()) for output in outputs.values() if is_float(output)
            ):
                runs.append(([(method.name, values)], Step(method.name, inputs, outputs)))
        meter = NoiseMeter(captured)
        for run, step in runs:
            meter.add(run, [step.outputs])
    return [
        as_golden(method, at, replace(step, errors=meter.errors_of(at)[0]))
        for at, (_, step) in enumerate(runs)
    ]


def as_golden(method: Method, number: int, step: Step) -> Golden:
    """Returns a golden of one call, with a name that no golden of the shape grid has."""
    return Golden(f"text-{number}", named_sizes(method, step), (step,))


def kept_as_goldens(
    goldens: Sequence[Golden], sentences: Sequence[Golden], budget_bytes: int = 16 << 20
) -> list[Golden]:
    """Returns the first sentences, as many as fit into the budget beside the other goldens."""
    room = budget_bytes - sum(golden.nbytes for golden in goldens)
    fitting: list[Golden] = []
    for sentence in sentences[:_MOST_KEPT]:
        room -= sentence.nbytes
        if room < 0:
            break
        fitting.append(sentence)
    return fitting
