"""Modules made from the operators of PyTorch's own test suite, and values to call them with.

`op_db` lists each operator with sample inputs. A sample becomes an `OperatorCall`: the operator
with the numbers and options of the sample, and the sample's tensors as inputs. Several calls become
one module, so that one export serves all of them.
"""

from __future__ import annotations

import hashlib
import sys
import types
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = (torch.float32, torch.int64, torch.bool)
SAMPLES = {torch.float32: 2, torch.int64: 1, torch.bool: 1}
"""The number of samples of each operator, by type."""
SIZES = (3, 1, 2, 5, 7)
"""The sizes of dynamic dimensions: that of the example, and those that are tried after it."""
RANGE = (1, 7)
MOST_SAMPLES = 40
MOST_ELEMENTS = 20_000

LEFT_OUT = {
    "empty": "its values are not defined",
    "empty_like": "its values are not defined",
    "empty_permuted": "its values are not defined",
    "empty_strided": "its values are not defined",
    "new_empty": "its values are not defined",
    "new_empty_strided": "its values are not defined",
    "resize_": "the values that it adds are not defined",
    "resize_as_": "the values that it adds are not defined",
}
"""Operators that have no right answer."""

SPECIALS = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "-0.0": -0.0,
    "denormal": 1e-40,
    "large": 1e30,
}
"""The values that are put into float inputs, one kind a call."""
MAGNITUDES = {"negative": -7, "2^24": 2**24 + 1, "2^31": 2**31 + 5, "-2^33": -(2**33) - 1}
"""The values that are put into integer inputs."""


@dataclass(frozen=True)
class Slot:
    """The place of a tensor among the arguments."""

    index: int


def fill(value: Any, tensors: Sequence[Tensor]) -> Any:
    """Returns nested arguments with tensors in place of slots."""
    if isinstance(value, Slot):
        return tensors[value.index]
    if type(value) in (list, tuple):
        return type(value)(fill(item, tensors) for item in value)
    if type(value) is dict:
        return {key: fill(item, tensors) for key, item in value.items()}
    return value


def _taken(value: Any, tensors: list[Tensor]) -> Any:
    """Returns nested arguments with slots in place of tensors, which are added to the list."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return Slot(len(tensors) - 1)
    if type(value) in (list, tuple):
        return type(value)(_taken(item, tensors) for item in value)
    if type(value) is dict:
        return {key: _taken(item, tensors) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class OperatorCall:
    """An operator with the numbers and options of one of its samples."""

    operator: str
    dtype: torch.dtype
    number: int
    """The position of the sample."""
    function: Callable[..., Any]
    args: Any
    kwargs: Any
    values: Callable[[int], list[Tensor]] = field(repr=False)
    """Returns the tensors of the sample for a seed."""
    axes: tuple[int, ...] = ()
    """The tensors whose first axis may have any size."""

    @property
    def label(self) -> str:
        """The name for findings: "clamp float32, sample 2"."""
        return f"{self.operator} {str(self.dtype).removeprefix('torch.')}, sample {self.number}"

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Returns the tensors among the results."""
        return answer(self.function, self.args, self.kwargs, tensors)

    def inputs(self, seed: int, size: int = SIZES[0]) -> list[Tensor]:
        """Returns inputs of a seed; dynamic axes have that size."""
        return resized(self.values(seed), self.axes, size)


def answer(function: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Calls an operator, and returns the tensors among its results."""
    results: list[Tensor] = []
    _add_tensors(function(*fill(args, tensors), **fill(kwargs, tensors)), results)
    return results


def _add_tensors(value: Any, results: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        results.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add_tensors(item, results)


def resized(tensors: Sequence[Tensor], axes: Sequence[int], size: int) -> list[Tensor]:
    """Returns the tensors with the first axis of some of them repeated or cut to a size."""
    result = list(tensors)
    for at in axes:
        rows = torch.arange(size) % max(1, tensors[at].shape[0])
        result[at] = tensors[at].index_select(0, rows)
    return result


class OperatorModule(nn.Module):
    """Calls operators, each on its own inputs, and gives all results."""

    def __init__(self, calls: Sequence[OperatorCall]) -> None:
        super().__init__()
        self.parts = [
            (call.function, call.args, call.kwargs, len(call.values(0))) for call in calls
        ]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        results: list[Tensor] = []
        start = 0
        for function, args, kwargs, count in self.parts:
            results += answer(function, args, kwargs, tensors[start : start + count])
            start += count
        return tuple(results)


class OperatorGroup:
    """Calls that share a module."""

    def __init__(self, calls: Sequence[OperatorCall]) -> None:
        self.calls = calls
        self.module = OperatorModule(calls).eval()

    def inputs(self, seed: int, size: int = SIZES[0]) -> list[Tensor]:
        """Returns inputs of a seed for all calls."""
        return [tensor for call in self.calls for tensor in call.inputs(seed, size)]

    def dynamic(self) -> dict[str, dict[int, str]]:
        """Returns the dynamic axes for `isthmus.export`."""
        axes: dict[str, dict[int, str]] = {}
        start = 0
        for call in self.calls:
            axes |= {f"tensors.{start + at}": {0: "n"} for at in call.axes}
            start += len(call.values(0))
        return axes

    def owners(self) -> list[OperatorCall]:
        """Returns the call of each result."""
        return [call for call in self.calls for _ in call(call.inputs(0))]


# --- from op_db -----------------------------------------------------------------------------------


def operators() -> dict[str, Any]:
    """Returns PyTorch's entries of operators by name, variants as "name:variant"."""
    if "expecttest" not in sys.modules:
        try:
            import expecttest  # noqa: F401
        except ImportError:
            # Torch's test utilities want it for a base class that nothing here uses.
            stub = types.ModuleType("expecttest")
            stub.TestCase = unittest.TestCase  # type: ignore[attr-defined]
            sys.modules["expecttest"] = stub
    from torch.testing._internal.common_methods_invocations import op_db

    entries: dict[str, Any] = {}
    for entry in op_db:
        variant = entry.variant_test_name
        entries.setdefault(f"{entry.name}:{variant}" if variant else entry.name, entry)
    return entries


def shuffled(names: Sequence[str]) -> list[str]:
    """Returns the names in an order that looks random, and is the same everywhere."""
    return sorted(names, key=lambda name: hashlib.sha256(f"campaign {name}".encode()).digest())


def fixed_sample(names: Sequence[str], count: int) -> list[str]:
    """Returns that many names, which stay nearly the same when operators are added."""
    return sorted(shuffled(names)[:count])


def calls_of(name: str, entry: Any) -> tuple[list[OperatorCall], str]:
    """Returns calls of an operator, and the reason where there are none."""
    if entry.name in LEFT_OUT:
        return [], LEFT_OUT[entry.name]
    calls: list[OperatorCall] = []
    reason = "no sample has a tensor as input and one as result"
    for dtype in DTYPES:
        if dtype not in entry.dtypes:
            continue
        count = 0
        for number, (sample, tensors) in enumerate(_samples(entry, dtype, 0)):
            call = OperatorCall(
                name, dtype, number, entry.op, *_structure(sample), _Values(entry, dtype, number)
            )
            try:
                why = _unusable(call, tensors)
            except Exception as error:  # an operator that this build of torch does not have
                why = f"{type(error).__name__}: {error}".splitlines()[0]
            if why:
                reason = why
                continue
            calls.append(OperatorCall(**{**vars(call), "axes": _dynamic_axes(call, tensors)}))
            count += 1
            if count == SAMPLES[dtype]:
                break
    return calls, "" if calls else reason


def _structure(sample: Any) -> tuple[Any, Any]:
    tensors: list[Tensor] = []
    args = _taken((sample.input, *sample.args), tensors)
    return args, _taken(dict(sample.kwargs), tensors)


def _samples(entry: Any, dtype: torch.dtype, seed: int) -> Iterator[tuple[Any, list[Tensor]]]:
    """Yields the samples of a seed with their tensors, those of scalars alone last."""
    torch.manual_seed(seed)
    try:
        samples = list(islice(entry.sample_inputs("cpu", dtype), MOST_SAMPLES))
    except Exception:  # a sample that needs a package which is not installed
        return
    found = []
    # The first sample is a plain one, and options come in later ones.
    for at in dict.fromkeys([*range(0, len(samples), 7), *range(len(samples))]):
        tensors: list[Tensor] = []
        _taken([(samples[at].input, *samples[at].args), dict(samples[at].kwargs)], tensors)
        found.append((samples[at], tensors))
    yield from sorted(found, key=lambda sample: not any(value.dim() for value in sample[1]))


class _Values:
    """The tensors of a sample by seed."""

    def __init__(self, entry: Any, dtype: torch.dtype, number: int) -> None:
        self.entry, self.dtype, self.number = entry, dtype, number
        self.known: dict[int, list[Tensor]] = {}

    def __call__(self, seed: int) -> list[Tensor]:
        if seed not in self.known:
            _, tensors = next(islice(_samples(self.entry, self.dtype, seed), self.number, None))
            self.known[seed] = [tensor.detach().contiguous() for tensor in tensors]
        return [tensor.clone() for tensor in self.known[seed]]


def _unusable(call: OperatorCall, tensors: Sequence[Tensor]) -> str:
    """Returns why a sample cannot be used, else ""."""
    if not tensors:
        return "no sample has a tensor as input"
    for tensor in tensors:
        if tensor.layout != torch.strided or not 0 < tensor.numel() <= MOST_ELEMENTS:
            return "all samples have sparse, empty or large inputs"
    values = call.values(0)
    with _RandomOperators() as seen:
        first = call(values)
    if seen.random:
        return "it draws random numbers"
    if not first:
        return "no sample has a tensor as result"
    if any(result.layout != torch.strided for result in first):
        return "its results are sparse"
    if sum(result.numel() for result in first) > MOST_ELEMENTS:
        return "its results are large"
    return ""


class _RandomOperators(TorchDispatchMode):
    """Notes whether an operator draws random numbers; op_db sets the seed before some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.random = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.random = self.random or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _dynamic_axes(call: OperatorCall, tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Returns the tensors whose first axis eager accepts at any size, alone or together."""
    lead = tensors[0].shape[0] if tensors[0].dim() else 0
    if not lead:
        return ()
    together = tuple(
        at
        for at, tensor in enumerate(tensors)
        if tensor.dim() == tensors[0].dim() and tensor.shape[0] == lead
    )
    for axes in dict.fromkeys((together, (0,))):
        try:
            for size in range(RANGE[0], RANGE[1] + 1):
                call(resized(call.values(0), axes, size))
        except Exception:
            continue
        return axes
    return ()


# --- special values -------------------------------------------------------------------------------


def with_special(tensors: Sequence[Tensor], kind: str) -> list[Tensor] | None:
    """Returns the tensors with a special value in each that can hold it; None where none can."""
    wanted = torch.float32 if kind in SPECIALS else torch.int64
    value = SPECIALS[kind] if kind in SPECIALS else MAGNITUDES[kind]
    result, changed = [], False
    for at, tensor in enumerate(tensors):
        tensor = tensor.clone()
        if tensor.dtype == wanted:
            tensor.view(-1)[(at + tensor.numel() // 2) % tensor.numel()] = value
            changed = True
        result.append(tensor)
    return result if changed else None


# --- comparison -----------------------------------------------------------------------------------


def differences(
    expected: Sequence[Tensor], got: Sequence[Any], truth: Callable[[], Sequence[Tensor] | None]
) -> dict[int, str]:
    """Returns how results of an engine differ from eager's beyond rounding, by position.

    Args:
        expected: The results of eager.
        got: The results of the engine.
        truth: Returns eager's results in float64, or None where it has none; it is asked only where
            rounding may explain a difference.
    """
    if len(expected) != len(got):
        return {
            at: f"{len(got)} results in place of {len(expected)}" for at in range(len(expected))
        }
    found: dict[int, str] = {}
    for at, (a, b) in enumerate(zip(expected, got, strict=True)):
        if not isinstance(b, Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            found[at] = f"expected {_kind(a)}, got {_kind(b)}"
            continue
        wrong = _wrong_elements(a, b)
        if wrong.any() and (a.is_floating_point() or a.is_complex()):
            exact = truth()
            if exact is not None and exact[at].shape == a.shape:
                wrong &= ~_as_near(a, b, exact[at])
        if wrong.any():
            place = int(wrong.reshape(-1).nonzero()[0])
            found[at] = (
                f"{int(wrong.sum())} of {a.numel()} elements differ, the first at {place}: "
                f"expected {a.reshape(-1)[place].item()}, got {b.reshape(-1)[place].item()}"
            )
    return found


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__


def _wrong_elements(a: Tensor, b: Tensor) -> Tensor:
    if not (a.is_floating_point() or a.is_complex()):
        return a != b
    if a.is_complex():
        parts = _wrong_elements(torch.view_as_real(a.resolve_conj()), torch.view_as_real(b))
        return parts.any(-1)
    x, y = a.double(), b.double()
    finite = x.isfinite() & y.isfinite()
    same = (x == y) | (x.isnan() & y.isnan())
    usual = x[x.abs() < 1e20].abs()
    scale = usual.max() if usual.numel() else x.new_zeros(())
    near = (x - y).abs() <= 2e-4 * x.abs() + 2e-4 * scale + 1e-12
    return ~(same | (finite & near))


def _as_near(a: Tensor, b: Tensor, exact: Tensor) -> Tensor:
    """Returns which elements are not much farther from float64 than those of eager."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    x, y, z = a.to(wide), b.to(wide), exact.to(wide)
    own = torch.nan_to_num((x - z).abs(), nan=0.0, posinf=0.0)
    near = (y - z).abs() <= 20 * (own + own.median())
    return near & x.isfinite() & y.isfinite()
