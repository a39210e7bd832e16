"""Captures a module: an example call becomes named, flat values with their shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import DimRange, Hazard, Method, Tree
from isthmus.capture import resize as resizing
from isthmus.capture.determinism import describe, stuck_in_training
from isthmus.capture.dynamic import DimsSpec, DynamicSpec, resolve
from isthmus.capture.examples import bind_examples, calls_of, check_ranges, donors_of, infer_axes
from isthmus.capture.flat import Bound, FlatModule, bind, input_specs
from isthmus.capture.made_values import Donor, made_values
from isthmus.capture.observe_methods import Examples, observe_methods
from isthmus.capture.prepared import check_prepared, prepared, require_module, unwrapped
from isthmus.capture.program_sizes import ProgramSizes, program_sizes
from isthmus.capture.quantised import is_quantised
from isthmus.capture.run_module import ModuleRunner, evaluating
from isthmus.capture.served import Served, find_served
from isthmus.capture.settled import calls_at_corners, settled
from isthmus.errors import InvalidInput

__all__ = ["Call", "Captured", "FlatModule", "capture", "evaluating", "resize_example"]


@dataclass(frozen=True)
class Call:
    """An example call with its arguments in their original nesting."""

    method: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Captured:
    """A module and all facts about calling it."""

    module: nn.Module
    """The module as handed in, in the modes it came in, or a copy of it where it had to be prepared
    or settles after its first call; `ModuleRunner` puts it in eval mode."""
    methods: tuple[Method, ...]
    """The exported methods; "forward" comes first, where there is one."""
    dims: dict[str, DimRange]
    stateful: bool
    """True when calls change attributes of the module."""
    state: tuple[str, ...]
    """The dotted names of the attributes that calls change."""
    example: dict[str, Any]
    """The inputs of the first method by name (tensors, int, float, bool), resized so that no
    dynamic dimension is 1 and no two are equal."""
    examples: dict[str, dict[str, Any]]
    """The same for each method."""
    dynamic: dict[str, dict[int, str]]
    """Maps input name and axis (from 0) to the name of the dimension, or to the expression over
    names that gives its size."""
    notes: tuple[Hazard, ...]
    """Facts that the user should know: train mode, state, default ranges, ..."""
    given: dict[str, dict[str, Any]]
    """The user's own example by method and input name, at its own sizes."""
    sizes: dict[str, int]
    """The size of each dimension in `example`."""
    given_sizes: dict[str, int]
    """The size of each dimension in `given`."""
    program: dict[str, ProgramSizes] = field(default_factory=dict)
    """What the code of each method says of the sizes of its outputs."""
    further: tuple[Donor, ...] = ()
    """The user's further calls of the first method."""
    sweep: tuple[Golden, ...] = ()
    """Calls at many more sizes, which `make_goldens` adds; they are checked and never stored."""

    def donors(self, method: str) -> list[Donor]:
        """Returns the user's own calls of a method, the example first."""
        own = Donor(self.given[method], self.given_sizes)
        return [own, *(self.further if method == self.methods[0].name else ())]

    def method(self, name: str = "forward") -> Method:
        """Returns the method of that name.

        Raises:
            InvalidInput: No method of that name was captured.
        """
        for method in self.methods:
            if method.name == name:
                return method
        names = ", ".join(method.name for method in self.methods)
        raise InvalidInput(f'no method "{name}" was captured; there are: {names}')


def capture(
    module: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: DynamicSpec | None = None,
    dims: DimsSpec | None = None,
    methods: Mapping[str, tuple[Sequence[Any], Mapping[str, Any]]] | None = None,
    constants: Collection[str] = (),
    examples: Iterable[Any] = (),
) -> Captured:
    """Runs a module on an example to learn its names, shapes, state and repeatability.

    The module is run in eval mode and left exactly as it came: modes, buffers and attributes.

    Args:
        module: The module to export, scripted or not.
        args: Example arguments of `forward`: tensors, int, float, bool, None, and nested lists,
            tuples, dicts, named tuples and dataclasses of these.
        kwargs: Example keyword arguments of `forward`.
        dynamic: Maps an input name and an axis to the name of a dimension: `{"x": {0: "batch"}}`,
            or to sizes that follow from others: `{"mask": {1: "past + sequence"}}`. A prefix such
            as "cache" means all inputs below it. Equal names mean equal sizes.
        dims: The inclusive (min, max) of each dimension, `{"batch": (1, 64)}`, or its only sizes,
            `{"width": [256, 512]}`.
        methods: Further methods to export, each with an example call: `{"reset": ((), {})}`.
        constants: Parameters whose numbers become part of the model instead of inputs.
        examples: Further calls of the first method, at other sizes; see `isthmus.export`. The first
            is the example where `args` and `kwargs` are empty.

    Raises:
        InvalidInput: The example does not fit, or the module fails on it, is not repeatable, stays
            in train mode, or writes its parameters.
    """
    notes: list[Hazard] = []
    own_module = unwrapped(require_module(module), notes)
    module, prepared_notes = prepared(own_module)
    notes += prepared_notes
    further = calls_of(examples)
    if further and not args and not kwargs:
        (args, kwargs), *further = further
    calls = _calls(module, args, kwargs or {}, methods or {})
    bound = {
        call.method: bind(module, call.method, call.args, call.kwargs, constants) for call in calls
    }
    _check_constants(constants, bound)
    given = {name: example.values for name, example in bound.items()}
    spec = resolve(dynamic, dims, given)
    first = calls[0].method
    real = bind_examples(module, first, bound[first], further, constants)
    if inferred := infer_axes([given[first], *real], spec.axes):
        notes += [_inferred(*place) for place in inferred]
        axes = {name: dict(entry) for name, entry in spec.axes.items()}
        for name, axis, size in inferred:
            axes.setdefault(name, {})[axis] = size
        spec = resolve(axes, dims, given)
    donors = donors_of(real, given[first], spec.axes)
    if dims is None and donors:
        largest = {n: max(d.sizes[n] for d in donors) for n in donors[0].sizes}
        spec = resolve(spec.axes, None, given, largest)
    check_ranges(donors, spec.dims)
    served = Served((), dict(spec.dims), donors, [])
    if donors:
        draft = _draft(first, bound[first], given[first], spec.axes)
        own = Donor(given[first], spec.sizes)
        with ModuleRunner(module) as runner:
            served = find_served(runner, draft, [own, *donors], spec.axes, spec.dims)
    donors, notes = served.donors, [*notes, *served.notes]
    spec = replace(spec, dims=served.dims)
    notes += spec.notes
    derived = {dim for entry in spec.axes.values() for dim in entry.values()}
    fixed = _fixed_sizes(given, spec.axes)
    chosen = [
        resizing.choose_sizes(spec.dims, given_sizes, fixed, derived)
        for given_sizes in (spec.sizes, *(donor.sizes for donor in donors))
    ]
    # A real call that need not be cut to other sizes is preferred.
    uncut = (sizes for sizes, donor in zip(chosen[1:], donors, strict=True) if sizes == donor.sizes)
    sizes = chosen[0] if chosen[0] == spec.sizes else next(uncut, chosen[0])
    notes += _collisions(sizes)
    resized = {name: resizing.resize(values, spec.axes, sizes) for name, values in given.items()}
    notes += _train_mode(own_module)
    drafts = [
        replace(
            _draft(name, example, resized[name], spec.axes),
            served=served.cases if name == first else (),
        )
        for name, example in bound.items()
    ]
    if module is not own_module:
        for draft in drafts:
            check_prepared(own_module, module, draft, given[draft.name])
    with ModuleRunner(module) as runner:
        stuck_in_training(module)
        for draft in drafts:
            own = Donor(given[draft.name], spec.sizes)
            of_method = [own, *(donors if draft.name == first else ())]
            resized[draft.name] = _accepted(runner, draft, of_method, spec.axes, sizes)
        complete, changed, observed = observe_methods(
            runner, drafts, Examples(given, spec.sizes), Examples(resized, sizes), spec.dims
        )
        program = {
            method.name: program_sizes(
                runner, method, (resized[method.name], given[method.name]), spec.axes
            )
            for method in complete
        }
    if changed:
        calls_of_all = [
            corner
            for method in complete
            for corner in calls_at_corners(
                method, Donor(given[method.name], spec.sizes), resized[method.name], spec
            )
        ]
        found = settled(module, changed, calls_of_all)
        if found is not None:
            module, note = found
            changed = ()
            observed = [note, *(other for other in observed if other.kind != "state")]
    notes += observed
    return Captured(
        module=module,
        methods=complete,
        dims=spec.dims,
        stateful=bool(changed),
        state=changed,
        example=resized[complete[0].name],
        examples=resized,
        dynamic=spec.axes,
        notes=tuple(notes),
        given=given,
        sizes=sizes,
        given_sizes=spec.sizes,
        program=program,
        further=tuple(donors),
    )


def resize_example(
    captured: Captured, sizes: Mapping[str, int], seed: int = 0, method: str | None = None
) -> dict[str, Any]:
    """Returns flat inputs at these sizes, made of the user's own values.

    Args:
        captured: The captured module.
        sizes: The size of each named dimension; those left out keep the size of the example.
        seed: 0 tiles or crops the values as they are; any other seed also perturbs floats (within
            the range of the example) and rolls integers. Masks and scalars stay.
        method: The method that takes the inputs; None for the first one.
    """
    name = captured.methods[0].name if method is None else method
    complete = {**captured.given_sizes, **sizes}
    return resizing.resize(captured.given[name], captured.dynamic, complete, seed)


# --- the parts of capture -------------------------------------------------------------------------


def _has_forward(module: nn.Module) -> bool:
    handle: Any = getattr(module, "_c", None)
    if handle is not None and hasattr(handle, "_has_method"):
        return bool(handle._has_method("forward"))
    return getattr(module.forward, "__name__", "") != "_forward_unimplemented"


def _calls(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    methods: Mapping[str, tuple[Sequence[Any], Mapping[str, Any]]],
) -> list[Call]:
    kind = type(module).__name__
    if isinstance(args, Tensor) or not isinstance(args, (tuple, list)):
        raise InvalidInput(
            f"args: expected a tuple of the positional arguments, got {type(args).__name__}; "
            "for a single one write (x,)"
        )
    calls: list[Call] = []
    if _has_forward(module):
        calls.append(Call("forward", tuple(args), dict(kwargs)))
    elif args or kwargs or not methods:
        raise InvalidInput(
            f"{kind} has no forward; name the methods to export, each with an example call, as "
            'methods={"encode": ((x,), {})}'
        )
    for name, example in methods.items():
        if name == "forward" and calls:
            raise InvalidInput("methods: forward's example is args and kwargs; take it out here")
        well_formed = (
            isinstance(example, (tuple, list))
            and len(example) == 2
            and isinstance(example[0], (tuple, list))
            and isinstance(example[1], Mapping)
        )
        if not well_formed:
            raise InvalidInput(
                f'methods["{name}"]: expected (args, kwargs), an example call such as ((x,), {{}}),'
                f" got {type(example).__name__}"
            )
        calls.append(Call(name, tuple(example[0]), dict(example[1])))
    return calls


def _draft(
    name: str, bound: Bound, values: Mapping[str, Any], axes: Mapping[str, Mapping[int, str]]
) -> Method:
    """Returns a method whose outputs are not known yet."""
    return Method(name, input_specs(values, axes), (), bound.args, bound.kwargs, Tree("none"))


def _accepted(
    runner: ModuleRunner,
    method: Method,
    donors: Sequence[Donor],
    axes: Mapping[str, Mapping[int, str]],
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    """Returns the first inputs of these sizes that the method accepts, or else the first."""
    ways = [values for _, values in made_values(donors, method.inputs, axes, sizes)]
    for values in ways if len(ways) > 1 else ():
        if runner.accepts(method, values):
            return values
    return ways[0]


def _check_constants(constants: Collection[str], bound: Mapping[str, Bound]) -> None:
    if isinstance(constants, str):
        raise InvalidInput(f'constants: expected a list of names, got the text "{constants}"')
    known = {name for example in bound.values() for name in example.arguments}
    for name in constants:
        if name not in known:
            raise InvalidInput(
                f'constants: the example has no argument "{name}"; it has: '
                f"{', '.join(sorted(known)) or 'none'}"
            )


def _fixed_sizes(
    given: Mapping[str, Mapping[str, Any]], axes: Mapping[str, Mapping[int, str]]
) -> set[int]:
    return {
        int(size)
        for values in given.values()
        for name, value in values.items()
        if isinstance(value, Tensor)
        for at, size in enumerate(value.shape)
        if at not in axes.get(name, {})
    }


def _collisions(sizes: Mapping[str, int]) -> list[Hazard]:
    notes = []
    names = list(sizes)
    for at, name in enumerate(names):
        for other in names[:at]:
            if sizes[name] == sizes[other] and sizes[name] > 1:
                notes.append(
                    Hazard(
                        "equal_sizes",
                        "warning",
                        f'"{other}" and "{name}" are both exported at size {sizes[name]}, as their '
                        "ranges leave no other; an exporter may take them for one dimension",
                    )
                )
    return notes


def _inferred(name: str, axis: int, size: str) -> Hazard:
    """Returns the note that an axis was found to follow from others."""
    return Hazard(
        "inferred_size",
        "info",
        f'axis {axis} of "{name}" is "{size}" in every example, and is taken to be; where that '
        f'does not always hold, give the axis a name: dynamic={{"{name}": {{{axis}: "..."}}}}',
    )


def _train_mode(module: nn.Module) -> list[Hazard]:
    training = [
        (path, submodule)
        for path, submodule in module.named_modules()
        # Quantisation leaves its own submodules in train mode, which changes nothing in them.
        if submodule.training and not is_quantised(submodule)
    ]
    if not training:
        return []
    if module.training:
        message = f"{describe('', module)} was handed in train mode; it is exported in eval mode"
        still = [path for path, submodule in module.named_modules() if not submodule.training]
        if still:
            message += f" ({len(still)} submodules were in eval mode already)"
        return [Hazard("train_mode", "info", message)]
    names = ", ".join(describe(path, submodule) for path, submodule in training[:5])
    more = f" and {len(training) - 5} more" if len(training) > 5 else ""
    were, they = ("were", "they are") if len(training) > 1 else ("was", "it is")
    return [
        Hazard(
            "train_mode",
            "warning",
            f"{names}{more} {were} in train mode inside a module in eval mode; {they} exported in "
            "eval mode",
            training[0][0],
        )
    ]
