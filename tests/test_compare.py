"""The verdict on one output: what passes, what fails, and the number that would pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isthmus.compare import OutputParity, compare, difference, worst
from isthmus.manifest import NoiseFloor, Tolerance

TIGHT = Tolerance(1e-5, 0.0)
NOISE = NoiseFloor(2e-6, 1e-6, "float64")


def test_equal_passes_with_no_error() -> None:
    value = torch.randn(3, 4)
    found = compare("y", value, value.clone(), TIGHT, NOISE, golden="g")
    assert found
    assert (found.output, found.golden, found.reason, found.max_abs) == ("y", "g", "", 0.0)
    assert (found.argmax_agreement, found.elements) == (1.0, 12)
    assert found.cosine == pytest.approx(1.0)


def test_numbers_of_a_small_error() -> None:
    reference = torch.tensor([1.0, -2.0, 0.0, 4.0], dtype=torch.float64)
    actual = reference + torch.tensor([0.0, 4e-6, 1e-6, 0.0], dtype=torch.float64)
    found = compare("y", reference, actual, TIGHT, NOISE)
    assert found
    assert found.max_abs == pytest.approx(4e-6)
    assert found.max_rel == pytest.approx(2e-6), "where the reference is not 0"
    assert found.noise_units == pytest.approx(2.0)
    assert found.passing_atol == pytest.approx(4e-6)
    assert found.strain == pytest.approx(0.4)


def test_a_dropped_bias_fails_and_says_what_would_pass() -> None:
    reference = torch.randn(8, 8)
    found = compare("y", reference, reference + 0.01, TIGHT)
    assert not found
    assert "beyond atol 1e-05" in found.reason
    assert found.passing_atol == pytest.approx(0.01, rel=1e-3)
    again = compare("y", reference, reference + 0.01, Tolerance(found.passing_atol, 0.0))
    assert again, "the tolerance it names is one that passes"


def test_relative_tolerance_counts() -> None:
    reference, actual = torch.tensor([1000.0]), torch.tensor([1000.5])
    assert not compare("y", reference, actual, Tolerance(0.1, 0.0))
    assert compare("y", reference, actual, Tolerance(0.0, 1e-3))


@pytest.mark.parametrize(
    ("reference", "actual", "words"),
    [
        (torch.zeros(2), torch.zeros(3), r"expected float32\[2\], got float32\[3\]"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), r"got float64\[2\]"),
        (torch.zeros(2), None, r"got nothing \(None\)"),
        (None, torch.zeros(1, dtype=torch.int64), r"expected nothing .*, got int64\[1\]"),
        (torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4]), "1 of 3 .* whole numbers"),
        (torch.tensor([True]), torch.tensor([False]), "whole numbers must be equal"),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.nan]), "1 of 2 elements are NaN"),
        (torch.tensor([math.nan]), torch.tensor([1.0]), "1 of 1 elements are NaN"),
        (torch.tensor([math.inf]), torch.tensor([-math.inf]), "infinite on one side"),
        (torch.tensor([math.inf]), torch.tensor([3e38]), "infinite on one side"),
    ],
)
def test_what_never_passes(reference: Tensor | None, actual: Tensor | None, words: str) -> None:
    huge = Tolerance(1e30, 1e30)
    found = compare("y", reference, actual, huge)
    assert not found
    import re

    assert re.search(words, found.reason), found.reason
    assert difference(reference, actual) > 0


def test_nan_equals_nan_and_infinity_itself_in_its_place() -> None:
    value = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    found = compare("y", value, value.clone(), Tolerance(0.0, 0.0))
    assert found
    assert (found.nans, found.infs, found.max_abs) == (1, 2, 0.0)
    assert difference(value, value.clone()) == 0.0


def test_absent_on_both_sides_passes() -> None:
    assert compare("y", None, None, TIGHT)


def test_empty_and_scalar_values() -> None:
    assert compare("y", torch.zeros(0, 4), torch.zeros(0, 4), TIGHT)
    assert compare("y", torch.tensor(2.0), torch.tensor(2.0), TIGHT)
    assert not compare("y", torch.tensor(2.0), torch.tensor(2.1), TIGHT)


def test_difference_is_exact() -> None:
    one = torch.tensor([1.0])
    assert difference(one, torch.nextafter(one, torch.tensor([2.0]))) == 2.0**-23
    big = torch.tensor([2**60], dtype=torch.int64)
    assert difference(big, big + 1) > 0, "float64 cannot tell these apart"
    assert difference(one, None) == math.inf
    assert difference(torch.zeros(1), -torch.zeros(1)) == 0.0


def test_argmax_agreement_is_by_row() -> None:
    reference = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    actual = torch.tensor([[2.0, 1.0], [3.0, 1.0]])
    assert compare("y", reference, actual, Tolerance(9, 0)).argmax_agreement == 0.5


def test_cosine_of_large_values_does_not_overflow() -> None:
    huge = torch.full((4,), 1e300, dtype=torch.float64)
    assert compare("y", huge, -huge, TIGHT).cosine == pytest.approx(-1.0)
    assert compare("y", huge, huge * 0, TIGHT).cosine == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_float_types(dtype: torch.dtype) -> None:
    value = torch.ones(4, dtype=dtype)
    assert compare("y", value, value.clone(), TIGHT)
    assert not compare("y", value, value * 2, TIGHT)


def test_worst_is_the_one_nearest_to_failing() -> None:
    loose = OutputParity("a", passed=True, max_abs=5.0, passing_atol=5.0, atol=10.0)
    tight = OutputParity("b", passed=True, max_abs=0.9, passing_atol=0.9, atol=1.0)
    failed = OutputParity("c", passed=False, max_abs=0.1, passing_atol=0.2, atol=0.1)
    assert worst([loose, tight]) is tight
    assert worst([loose, tight, failed]) is failed
    assert worst([]) is None


special = st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1e30, 1e-30])
floats = st.one_of(special, st.floats(-4, 4, width=32))


@given(
    pairs=st.lists(st.tuples(floats, floats), min_size=1, max_size=12),
    near=st.booleans(),
    atol=st.sampled_from([0.0, 1e-3, 1.0]),
    rtol=st.sampled_from([0.0, 1e-3]),
)
@settings(max_examples=300, deadline=None)
def test_python_and_cpp_judge_alike(
    pairs: list[tuple[float, float]], near: bool, atol: float, rtol: float
) -> None:
    """One rule in two languages: what either says of any values, the other says too."""
    from isthmus import _core

    reference = np.array([left for left, _ in pairs], dtype=np.float32)
    actual = np.array([right for _, right in pairs], dtype=np.float32)
    if near:
        actual = np.where(np.isfinite(actual), reference + np.float32(1e-4), reference)
        actual = actual.astype(np.float32)
    here = compare(
        "y", torch.from_numpy(reference), torch.from_numpy(actual), Tolerance(atol, rtol), NOISE
    )
    there = _core.compare("y", reference, actual, atol=atol, rtol=rtol, noise=NOISE.max_abs)
    assert bool(here) == bool(there)
    assert here.reason == there.reason
    for name in ("nan_mismatches", "inf_mismatches", "nans", "infs", "elements"):
        assert getattr(here, name) == getattr(there, name), name
    for name in ("max_abs", "max_rel", "noise_units", "argmax_agreement", "passing_atol"):
        assert getattr(here, name) == pytest.approx(getattr(there, name), rel=1e-12), name
    assert here.cosine == pytest.approx(there.cosine, abs=1e-9)
