"""Tests of the comparison of one output: what passes, what fails, what would pass."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from isthmus.bundle.manifest import NoiseFloor, Tolerance
from isthmus.goldens.compare import OutputParity, compare, difference, error_statistics, worst
from isthmus.goldens.tolerance import MULTIPLES

TIGHT = Tolerance(1e-5, 0.0)
NOISE = NoiseFloor(2e-6, 1e-6, "float64")


def test_equal_passes_with_no_error() -> None:
    value = torch.randn(3, 4)
    result = compare("y", value, value.clone(), TIGHT, NOISE, golden="g")
    assert result
    assert (result.output, result.golden, result.reason, result.max_abs) == ("y", "g", "", 0.0)
    assert (result.argmax_agreement, result.elements) == (1.0, 12)
    assert result.cosine == pytest.approx(1.0)


def test_numbers_of_a_small_error() -> None:
    reference = torch.tensor([1.0, -2.0, 0.0, 4.0], dtype=torch.float64)
    actual = reference + torch.tensor([0.0, 4e-6, 1e-6, 0.0], dtype=torch.float64)
    result = compare("y", reference, actual, TIGHT, NOISE)
    assert result
    assert result.max_abs == pytest.approx(4e-6)
    assert result.max_rel == pytest.approx(2e-6), "where the reference is not 0"
    assert result.noise_units == pytest.approx(2.0)
    assert result.passing_atol == pytest.approx(4e-6)
    assert result.strain == pytest.approx(0.4)


def test_a_dropped_bias_fails_and_says_what_would_pass() -> None:
    reference = torch.randn(8, 8)
    result = compare("y", reference, reference + 0.01, TIGHT)
    assert not result
    assert "beyond atol 1e-05" in result.reason
    assert result.passing_atol == pytest.approx(0.01, rel=1e-3)
    again = compare("y", reference, reference + 0.01, Tolerance(result.passing_atol, 0.0))
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
    result = compare("y", reference, actual, huge)
    assert not result
    assert re.search(words, result.reason), result.reason
    assert difference(reference, actual) > 0


def test_nan_equals_nan_and_infinity_itself_in_its_place() -> None:
    value = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    result = compare("y", value, value.clone(), Tolerance(0.0, 0.0))
    assert result
    assert (result.nans, result.infs, result.max_abs) == (1, 2, 0.0)
    assert difference(value, value.clone()) == 0.0


def test_absent_on_both_sides_passes() -> None:
    assert compare("y", None, None, TIGHT)


def test_empty_and_scalar_values() -> None:
    assert compare("y", torch.zeros(0, 4), torch.zeros(0, 4), TIGHT)
    assert compare("y", torch.tensor(2.0), torch.tensor(2.0), TIGHT)
    assert not compare("y", torch.tensor(2.0), torch.tensor(2.1), TIGHT)


def test_difference_is_exact() -> None:
    value = torch.tensor([1.0])
    assert difference(value, torch.nextafter(value, torch.tensor([2.0]))) == 2.0**-23
    big = torch.tensor([2**60], dtype=torch.int64)
    assert difference(big, big + 1) > 0, "float64 cannot tell these apart"
    assert difference(value, None) == math.inf
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
    loose = OutputParity("a", passed=True, max_abs=5.0, strain=0.5)
    tight = OutputParity("b", passed=True, max_abs=0.9, strain=0.9)
    failed = OutputParity("c", passed=False, max_abs=0.1, strain=2.0)
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
def test_the_numbers_are_those_of_numpy(
    pairs: list[tuple[float, float]], near: bool, atol: float, rtol: float
) -> None:
    """Compares the numbers of `compare` with the same rule written in NumPy."""
    reference = np.array([left for left, _ in pairs], dtype=np.float32)
    actual = np.array([right for _, right in pairs], dtype=np.float32)
    if near:
        actual = np.where(np.isfinite(actual), reference + np.float32(1e-4), reference)
        actual = actual.astype(np.float32)
    result = compare(
        "y", torch.from_numpy(reference), torch.from_numpy(actual), Tolerance(atol, rtol), NOISE
    )
    left, right = reference.astype(np.float64), actual.astype(np.float64)
    differ = left != right
    nans = int((np.isnan(left) != np.isnan(right)).sum())
    infinite = np.isinf(left) | np.isinf(right)
    infs = int((infinite & ~np.isnan(left) & ~np.isnan(right) & differ).sum())
    finite = np.isfinite(left) & np.isfinite(right)
    error, size = np.abs(right[finite] - left[finite]), np.abs(left[finite])
    needed = max([0.0, *(error - rtol * size)]) if not nans and not infs else math.inf
    assert bool(result) == (needed <= atol)
    assert (result.nan_mismatches, result.inf_mismatches) == (nans, infs)
    assert (result.nans, result.infs) == (int(np.isnan(right).sum()), int(np.isinf(right).sum()))
    assert result.max_abs == pytest.approx(max([0.0, *error]), rel=1e-12)
    assert result.max_rel == pytest.approx(
        max([0.0, *(error[size > 0] / size[size > 0])]), rel=1e-12
    )
    assert result.passing_atol == pytest.approx(needed, rel=1e-12)


# --- to the truth ---------------------------------------------------------------------------------

JUDGED = Tolerance(1e-30, 0.0, MULTIPLES)
"""A tolerance that passes nothing by atol, so that a pass was judged by the error to float64."""


def eager(rows: int = 40, columns: int = 32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a truth in float64, a float32 golden a few units off, and golden minus truth."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    noise = 3e-7 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    golden = (truth + noise).float()
    return truth, golden, (golden.double() - truth).float()


def noisy(truth: Tensor, scale: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        truth + scale * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    ).float()


@pytest.mark.parametrize("seed", range(20))
def test_as_far_from_the_truth_as_eager_passes(seed: int) -> None:
    truth, golden, error = eager(seed=seed)
    result = compare("y", golden, noisy(truth, 4e-7, seed + 100), JUDGED, own_error=error)
    assert result, result.reason
    assert result.to_truth
    assert result.strain < 0.6
    assert result.noise_units == pytest.approx(4 / 3, rel=0.15)


@pytest.mark.parametrize("seed", range(20))
def test_one_ulp_of_noise_passes(seed: int) -> None:
    _, golden, error = eager(rows=1 + seed, columns=7, seed=seed)
    up = torch.nextafter(golden, torch.full_like(golden, math.inf))
    down = torch.nextafter(golden, torch.full_like(golden, -math.inf))
    generator = torch.Generator().manual_seed(seed)
    actual = torch.where(torch.rand(golden.shape, generator=generator) < 0.5, up, down)
    assert compare("y", golden, actual, JUDGED, own_error=error)


def test_each_statistic_catches_what_the_others_let_pass() -> None:
    truth, golden, error = eager(rows=400)
    clean = compare("y", golden, golden, JUDGED, own_error=error)
    nudged = golden.clone()
    nudged[0, 0] += 1e-5
    column = golden.clone()
    column[:, 3] += 2e-6
    results = {
        "max": compare("y", golden, nudged, JUDGED, own_error=error),
        "bias": compare("y", golden, column, JUDGED, own_error=error),
        "rms": compare("y", golden, noisy(truth, 1.5e-6, 1), JUDGED, own_error=error),
    }
    assert clean
    for statistic, result in results.items():
        assert not result
        share = {name: result.errors[name] / result.allowed[name] for name in MULTIPLES}
        assert share[statistic] > 1, (statistic, share)
    assert results["max"].statistic == "max"
    assert results["bias"].statistic == "bias"


@pytest.mark.parametrize(("share", "passes"), [(0.8, True), (1.5, False)])
def test_rows_have_some_of_their_rounding_in_common(share: float, passes: bool) -> None:
    size, columns = 3e-7, 64
    truth, golden, error = eager(rows=1024, columns=columns)
    offsets = torch.randn(columns, generator=torch.Generator().manual_seed(7)).double()
    offsets *= share * size / offsets.square().mean().sqrt()
    result = compare("y", golden, noisy(truth + offsets, size, 1), JUDGED, own_error=error)
    assert bool(result) == passes, result.reason
    assert passes or result.statistic == "bias"


def test_the_reason_names_the_multiple_that_would_pass() -> None:
    truth, golden, error = eager()
    result = compare("y", golden, noisy(truth, 3e-6, 1), JUDGED, own_error=error)
    assert not result
    assert f"a multiple of {result.multiple:.3g} would pass" in result.reason
    assert "slightly" not in result.reason
    wider = dict.fromkeys(MULTIPLES, 1e9) | {result.statistic: result.multiple * 1.001}
    assert compare("y", golden, noisy(truth, 3e-6, 1), Tolerance(0, 0, wider), own_error=error)


def test_the_statistics_are_those_of_numpy() -> None:
    truth, golden, error = eager(rows=33, columns=40)
    actual = noisy(truth, 1e-6, 5)
    statistics = error_statistics(golden, actual, error)
    wrong = (actual.double() - (golden.double() - error.double())).numpy()
    sizes = np.sort(np.abs(wrong).ravel())
    assert statistics["max"] == pytest.approx(sizes[-1], rel=1e-12)
    assert statistics["rms"] == pytest.approx(np.sqrt((wrong**2).mean()), rel=1e-12)
    assert statistics["p99"] == pytest.approx(sizes[math.ceil(0.99 * sizes.size) - 1], rel=1e-12)
    assert statistics["median"] == pytest.approx(sizes[math.ceil(0.5 * sizes.size) - 1], rel=1e-12)
    assert statistics["bias"] == pytest.approx(np.sqrt((wrong.mean(0) ** 2).mean()), rel=1e-12)
    right = truth.numpy().ravel() / np.linalg.norm(truth)
    got = actual.double().numpy().ravel() / np.linalg.norm(actual.double())
    assert statistics["cosine"] == pytest.approx(((right - got) ** 2).sum() / 2, rel=1e-6)


def test_a_few_elements_are_judged_by_the_noise_of_all_goldens() -> None:
    golden = torch.tensor([1.0, 2.0, 3.0])
    error = torch.zeros(3)
    actual = golden + 2e-6
    assert not compare("y", golden, actual, JUDGED, own_error=error)
    pooled = dict.fromkeys(MULTIPLES, 1e-6)
    assert compare("y", golden, actual, Tolerance(0, 0, MULTIPLES, own=pooled), own_error=error)


def test_the_largest_of_a_few_elements_is_not_judged_as_a_quantile() -> None:
    """A remainder of 15 values is judged by the limit of the maximum, not by that of p99."""
    truth, golden, error = eager(rows=1, columns=15)
    actual = (truth + 4.5 * error).float()
    result = compare("y", golden, actual, JUDGED, own_error=error)
    assert result, result.reason
    assert 3.5 < result.multiple < 6
    assert result.allowed["p99"] == result.allowed["rms"] == math.inf
    assert not compare("y", golden, (truth + 8 * error).float(), JUDGED, own_error=error)
    only_rms = Tolerance(0, 0, {"rms": 3.0})
    assert not compare("y", golden, actual, only_rms, own_error=error), "nothing else judges"


def test_a_slight_excess_is_called_so() -> None:
    truth, golden, error = eager()
    slight = compare("y", golden, noisy(truth, 1.2e-6, 1), JUDGED, own_error=error)
    assert not slight
    assert slight.reason.startswith("slightly above the limit: ")
    garbage = compare("y", golden, -golden, JUDGED, own_error=error)
    assert not garbage
    assert "slightly" not in garbage.reason


def test_an_allowance_comes_on_top() -> None:
    _, golden, error = eager()
    actual = (golden + 1e-3 * torch.sign(golden)).float()
    assert not compare("y", golden, actual, JUDGED, own_error=error)
    allowance = dict.fromkeys(MULTIPLES, 2e-3)
    assert compare("y", golden, actual, Tolerance(0, 0, MULTIPLES, allowance), own_error=error)


def test_nan_and_infinity_are_patterns_to_the_truth_too() -> None:
    _, golden, error = eager()
    special = golden.clone()
    special[0, 0], special[0, 1] = math.nan, math.inf
    assert compare("y", special, special.clone(), JUDGED, own_error=error)
    assert "NaN on one side" in compare("y", golden, special, JUDGED, own_error=error).reason


def test_near_ties_are_no_disagreement_in_the_top_five() -> None:
    golden = torch.arange(20.0).repeat(3, 1)
    swapped = golden.clone()
    swapped[0, 14], swapped[0, 15] = 15.0, 14.0
    result = compare("y", golden, swapped, Tolerance(9.0, 0.0))
    assert result.topk_agreement == 1.0, "within twice the tolerance"
    result = compare("y", golden, swapped, Tolerance(0.1, 0.0))
    assert result.topk_agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_types_are_judged_to_the_truth(dtype: torch.dtype) -> None:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    truth = torch.randn(30, 30, dtype=wide)
    golden = truth.to(dtype)
    error = (golden.to(wide) - truth).to(torch.complex64 if dtype.is_complex else torch.float32)
    assert compare("y", golden, golden.clone(), JUDGED, own_error=error)
    assert not compare("y", golden, golden * 1.1, JUDGED, own_error=error)
