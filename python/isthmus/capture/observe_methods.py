"""Runs every method on its examples: outputs, written attributes and inputs, repeatability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from isthmus.bundle.manifest import Hazard, Method
from isthmus.capture.determinism import check_repeatable
from isthmus.capture.flat import output_specs, returns_tree
from isthmus.capture.index_ranges import index_ranges
from isthmus.capture.run_module import ModuleRunner
from isthmus.errors import InvalidInput, first_line


@dataclass(frozen=True)
class Examples:
    """An example call of every method."""

    values: Mapping[str, Mapping[str, Any]]
    """The inputs by method and input name."""
    sizes: Mapping[str, int]
    """The size of each dimension."""

    def __str__(self) -> str:
        """Returns the sizes for messages: "batch=2, sequence=14"."""
        return ", ".join(f"{name}={size}" for name, size in self.sizes.items())


def observe_methods(
    runner: ModuleRunner, drafts: Sequence[Method], own: Examples, resized: Examples
) -> tuple[tuple[Method, ...], tuple[str, ...], list[Hazard]]:
    """Runs every method on the user's own example and on the resized one.

    Args:
        runner: The runner of the module.
        drafts: The methods without outputs.
        own: The user's own examples.
        resized: The examples at the sizes to export at.

    Returns:
        The methods with outputs and ranges of integer inputs, the dotted names of the attributes
        that calls change, and notes.

    Raises:
        InvalidInput: The module fails on an example, is not repeatable, or writes its parameters.
    """
    methods: list[Method] = []
    changed: dict[str, list[str]] = {}
    written: set[str] = set()
    notes: list[Hazard] = []
    for draft in drafts:
        name = draft.name
        values = resized.values[name]
        _, first = _run(runner, draft, own, own, written)
        result, second = _run(runner, draft, resized, own, written)
        changed[name] = list(dict.fromkeys((*first, *second)))
        tree, leaves = returns_tree(_label(runner, draft), result)
        ranges = index_ranges(runner, draft, (own.values[name], values))
        inputs = tuple(replace(spec, values=ranges.get(spec.name)) for spec in draft.inputs)
        outputs = output_specs(leaves, resized.sizes)
        method = replace(draft, inputs=inputs, outputs=outputs, returns=tree)
        notes += check_repeatable(runner, method, values)
        methods.append(method)
    attributes = tuple(dict.fromkeys(name for names in changed.values() for name in names))
    _refuse_written_parameters(runner.module, attributes)
    notes += [
        Hazard(
            "state",
            "info",
            f"{name} changes {', '.join(names)}: the model has state, so each session gets its own "
            "copy, and the goldens are sequences of calls",
        )
        for name, names in changed.items()
        if names
    ]
    notes += [
        Hazard(
            "writes_input",
            "warning",
            f'a call writes its input "{name}" in place; a caller in C++ would see its own tensor '
            "change: clone it in the module, or pass a tensor that may change",
        )
        for name in sorted(written)
    ]
    return tuple(methods), attributes, notes


def _label(runner: ModuleRunner, method: Method) -> str:
    return f"{type(runner.module).__name__}.{method.name}"


def _run(
    runner: ModuleRunner, method: Method, examples: Examples, own: Examples, written: set[str]
) -> tuple[Any, tuple[str, ...]]:
    """Returns the result of a call and the attributes it changed; adds the inputs it wrote."""
    try:
        with runner.run():
            return runner.call(method, examples.values[method.name], written), runner.changed()
    except Exception as error:
        label, reason = _label(runner, method), first_line(error)
        if examples.sizes == own.sizes:
            raise InvalidInput(f"{label} fails on the example itself: {reason}") from error
        raise InvalidInput(
            f"{label} runs on the example ({own}) and fails at {examples}: {reason}. Is that "
            "dimension truly dynamic? Take it out of dynamic, give both dimensions one name if "
            "they have to be equal, or narrow the range in dims"
        ) from error


def _refuse_written_parameters(module: nn.Module, changed: Iterable[str]) -> None:
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    written = [name for name in changed if name in parameters]
    if written:
        raise InvalidInput(
            f'a call writes the parameter "{written[0]}"; sessions share the parameters: register '
            "what changes as a buffer, or do not write it in eval mode"
        )
