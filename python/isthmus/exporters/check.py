"""Checks an artifact against the goldens before it may be written.

What is checked is what is shipped: its bytes, loaded again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import Method, Tolerance
from isthmus.exporters.call_module import call_flat, call_structured
from isthmus.exporters.sample_cosine import Cosines
from isthmus.exporters.source_lines import summarize
from isthmus.goldens.compare import compare

Convention = Literal["flat", "structured"]
Call = Callable[[Method, Mapping[str, Tensor]], "dict[str, Tensor]"]
"""One call of a loaded artifact: inputs by name in, outputs by name out."""

# The profiling executor optimizes after the first call of a shape: the second and third call run
# code that the first did not.
CALLS = 3


@dataclass(frozen=True)
class Failure:
    """The first thing that was wrong with one golden."""

    golden: str
    output: str
    reason: str
    call: int = 1
    where: str = ""

    def __str__(self) -> str:
        when = f" on call {self.call}" if self.call > 1 else ""
        what = f"output {self.output}" if self.output else "the call"
        return f"golden {self.golden}: {what}{when}: {self.reason}"


@dataclass(frozen=True)
class Verdict:
    """All goldens against one module."""

    goldens: int
    calls: int
    failures: tuple[Failure, ...] = ()
    mutated: tuple[str, ...] = field(default=())
    """Inputs that the module changed in place."""
    cosines: Cosines = field(default_factory=Cosines)
    """Of the samples, where they were asked for."""

    def __bool__(self) -> bool:
        return not self.failures


def load_bytes(archive: bytes, device: str) -> torch.jit.ScriptModule:
    """Loads an archive as a consumer would."""
    loaded = torch.jit.load(  # type: ignore[no-untyped-call]
        io.BytesIO(archive), map_location=device
    )
    assert isinstance(loaded, torch.jit.ScriptModule)
    return loaded


def check(
    archive: bytes,
    convention: Convention,
    methods: Sequence[Method],
    goldens: Sequence[Golden],
    tolerances: Mapping[str, Tolerance],
    *,
    device: str = "cpu",
    stateful: bool = False,
    least_cosine: float = 0.0,
) -> Verdict:
    """Runs every golden `CALLS` times against a TorchScript archive's bytes, loaded again."""
    run = call_flat if convention == "flat" else call_structured

    def load() -> Call:
        module = load_bytes(archive, device)
        return lambda method, inputs: run(module, method, inputs)

    return check_calls(
        load,
        methods,
        goldens,
        tolerances,
        device=device,
        stateful=stateful,
        least_cosine=least_cosine,
    )


def check_calls(
    load: Callable[[], Call],
    methods: Sequence[Method],
    goldens: Sequence[Golden],
    tolerances: Mapping[str, Tolerance],
    *,
    device: str = "cpu",
    stateful: bool = False,
    calls_each: int = CALLS,
    least_cosine: float = 0.0,
) -> Verdict:
    """Runs every golden `calls_each` times against what `load` gives.

    A stateful artifact is loaded afresh for each sequence. A golden stops at its first failure, and
    the next one goes on.

    Args:
        load: Gives a call.
        methods: Of the signature.
        goldens: With the answers.
        tolerances: By output name.
        device: Where it runs.
        stateful: Calls change it.
        calls_each: Of each golden.
        least_cosine: Of each sample of each output to the golden's; 0 asks nothing.
    """
    by_name = {method.name: method for method in methods}
    run = load()
    failures: list[Failure] = []
    mutated: set[str] = set()
    cosines = Cosines(least_cosine)
    calls = 0
    for golden in goldens:
        for call in range(1, calls_each + 1):
            if stateful and calls:
                run = load()
            calls += 1
            failure = _run(run, by_name, golden, tolerances, device, call, mutated, cosines)
            if failure is not None:
                failures.append(failure)
                break
    return Verdict(len(goldens), calls, tuple(failures), tuple(sorted(mutated)), cosines)


def _run(
    run: Call,
    methods: Mapping[str, Method],
    golden: Golden,
    tolerances: Mapping[str, Tolerance],
    device: str,
    call: int,
    mutated: set[str],
    cosines: Cosines,
) -> Failure | None:
    for step in golden.steps:
        given = {name: value.clone().to(device) for name, value in step.inputs.items()}
        before = {name: value.clone() for name, value in given.items()}
        try:
            with torch.inference_mode():
                actual = run(methods[step.method], given)
        except Exception as error:  # whatever a runtime raises is that golden's reason
            reason, where = summarize(error)
            return Failure(golden.name, "", f"{type(error).__name__}: {reason}", call, where)
        mutated.update(name for name in given if not _same(before[name], given[name]))
        for spec in methods[step.method].outputs:
            tolerance = tolerances.get(spec.name, Tolerance(0.0, 0.0))
            expected, got = step.outputs.get(spec.name), actual.get(spec.name)
            # First, for its reason says more: the cosine of one sample, in plain numbers.
            reason = cosines.add(golden.name, spec, expected, got) if call == 1 else ""
            if reason:
                return Failure(golden.name, spec.name, reason, call)
            found = compare(
                spec.name,
                expected,
                got,
                tolerance,
                own_error=step.errors.get(spec.name),
            )
            if not found:
                return Failure(golden.name, spec.name, found.reason, call)
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return bool(
        torch.equal(a, b)
        or (
            a.is_floating_point()
            and torch.equal(a.isnan(), b.isnan())
            and torch.equal(a.nan_to_num(), b.nan_to_num())
        )
    )
