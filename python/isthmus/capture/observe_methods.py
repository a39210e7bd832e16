"""Runs every method on its examples: outputs, written attributes and inputs, repeatability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from isthmus.bundle.manifest import DimRange, Hazard, Method, Tree
from isthmus.capture.caches import WITHOUT_CACHE, is_known_cache
from isthmus.capture.determinism import check_repeatable
from isthmus.capture.flat import output_specs, returns_tree
from isthmus.capture.index_ranges import index_ranges
from isthmus.capture.made_values import Donor
from isthmus.capture.run_module import Effects, ModuleRunner
from isthmus.capture.size_proposals import proposal
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
    runner: ModuleRunner,
    drafts: Sequence[Method],
    own: Examples,
    resized: Examples,
    dims: Mapping[str, DimRange] | None = None,
) -> tuple[tuple[Method, ...], tuple[str, ...], list[Hazard]]:
    """Runs every method on the user's own example and on the resized one.

    Args:
        runner: The runner of the module.
        drafts: The methods without outputs.
        own: The user's own examples.
        resized: The examples at the sizes to export at.
        dims: The range of each dimension.

    Returns:
        The methods with outputs and ranges of integer inputs, the dotted names of the attributes
        that calls change, and notes.

    Raises:
        InvalidInput: The module fails on an example, is not repeatable, or writes its parameters.
    """
    methods: list[Method] = []
    changed: dict[str, list[str]] = {}
    notes: list[Hazard] = []
    for draft in drafts:
        name = draft.name
        values = resized.values[name]
        _, first, own_effects = _run(runner, draft, own, own)
        result, second, effects = _run(runner, draft, resized, own)
        changed[name] = list(dict.fromkeys((*first, *second)))
        tree, leaves = returns_tree(_label(runner, draft), result)
        notes += _cache_note(draft, tree)
        donors = [Donor(called.values[name], called.sizes) for called in (own, resized)]
        ranges = index_ranges(runner, draft, donors, dims)
        inputs = tuple(replace(spec, values=ranges.get(spec.name)) for spec in draft.inputs)
        outputs = output_specs(leaves, resized.sizes)
        method = replace(draft, inputs=inputs, outputs=outputs, returns=tree)
        method, found = with_effects(method, (own_effects, effects))
        notes += found
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
    return tuple(methods), attributes, notes


def with_effects(method: Method, effects: Iterable[Effects]) -> tuple[Method, list[Hazard]]:
    """Adds the inputs that calls wrote to a method's signature, with a note for each new one.

    Raises:
        InvalidInput: A call changed the shape or the type of an input in place.
    """
    written = set(method.writes)
    notes: list[Hazard] = []
    for effect in effects:
        for name in effect.written:
            before, after = effect.before[name], effect.after[name]
            same = isinstance(after, Tensor) and before.shape == after.shape
            if not same or before.dtype != after.dtype:
                raise InvalidInput(
                    f'{method.name} changes its input "{name}" in place from {_kind(before)} to '
                    f"{_kind(after)} (unsqueeze_, resize_, an item of a list that is replaced): "
                    "make a new tensor, and return it if the caller needs it"
                )
            written.add(name)
        for name in effect.restructured:
            notes.append(
                Hazard(
                    "changes_argument",
                    "warning",
                    f'{method.name} changes its argument "{name}" (an item that it adds or takes '
                    "out, a tensor of an object that it replaces, as a cache that grows); the "
                    "caller's own list, dictionary or object stays as it is here: return what the "
                    "caller needs",
                )
            )
    notes += [
        Hazard(
            "writes_input",
            "info",
            f'{method.name} writes its input "{name}" in place, so a call writes the caller\'s '
            "buffer, on every engine",
        )
        for name in sorted(written - set(method.writes))
    ]
    names = tuple(spec.name for spec in method.inputs if spec.name in written)
    return replace(method, writes=names), list(dict.fromkeys(notes))


def _cache_note(method: Method, tree: Tree) -> list[Hazard]:
    """Returns the note that the outputs hold a cache, and how to do without."""
    caches = [node for node in tree.nodes() if is_known_cache(node.type) and len(node.leaves()) > 2]
    if not caches:
        return []
    kind = caches[0].type.rpartition(":")[2]
    return [
        Hazard(
            "cache_output",
            "info",
            f"{method.name} returns a {kind}, whose {len(caches[0].leaves())} tensors are outputs; "
            f"{WITHOUT_CACHE}",
        )
    ]


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def _label(runner: ModuleRunner, method: Method) -> str:
    return f"{type(runner.module).__name__}.{method.name}"


def _run(
    runner: ModuleRunner, method: Method, examples: Examples, own: Examples
) -> tuple[Any, tuple[str, ...], Effects]:
    """Returns the result of a call, the attributes it changed and its effects on the inputs."""
    try:
        with runner.run():
            result, effects = runner.call_watched(method, examples.values[method.name])
            return result, runner.changed(), effects
    except Exception as error:
        label, reason = _label(runner, method), first_line(error)
        if examples.sizes == own.sizes:
            raise InvalidInput(f"{label} fails on the example itself: {reason}") from error
        tie = proposal(runner, method, own.values[method.name], own.sizes)
        raise InvalidInput(
            f"{label} runs on the example ({own}) and fails at {examples}: {reason}. "
            f"{tie}{'. ' if tie else ''}Is that dimension truly dynamic? Take it out of dynamic, "
            "give both dimensions one name if they have to be equal, or narrow the range in dims"
        ) from error


def _refuse_written_parameters(module: nn.Module, changed: Iterable[str]) -> None:
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    written = [name for name in changed if name in parameters]
    if written:
        raise InvalidInput(
            f'a call writes the parameter "{written[0]}"; sessions share the parameters: register '
            "what changes as a buffer, or do not write it in eval mode"
        )
