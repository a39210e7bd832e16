"""How far an output may be from the truth: the tolerances that follow from eager's own error.

docs/verify.md says the rule and what it was measured on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isthmus.bundle.manifest import NoiseFloor, Tolerance

if TYPE_CHECKING:
    from isthmus.bundle.golden import Golden

MULTIPLES: Mapping[str, float] = {
    "max": 6.0,
    "rms": 3.0,
    "p99": 3.5,
    "median": 3.0,
    "bias": 3.0,
    "cosine": 9.0,
}
"""Of eager's own error to float64, by statistic; benchmarks/proof.py measures what passes."""
NOISE_FACTOR = 10
"""Where the truth is not known: the tolerance in units of the noise floor."""
LEAST_ULPS = 8
"""There, no tolerance is smaller, in units in the last place of the largest golden value."""
FALLBACK_ULPS = 64
"""The noise floor where float64 cannot be had."""
REDUCED_FACTOR = 4
"""Reduced precision adds this many times its own eager error."""
REDUCED_ULPS = 32
"""That error where it was not measured: this many eps of the largest golden value."""
INT8_COSINE = 0.99
"""An output of an int8 artifact has at least this cosine similarity to float64."""
SAMPLE_COSINES: Mapping[str, float] = {"bf16": 0.999, "int8": INT8_COSINE}
"""By precision: the least cosine similarity of any sample to what eager gave, or the artifact is
not made. The bundle's tolerances judge an output as a whole, in which a bad sample hides."""

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def ulp(largest: float, dtype: torch.dtype) -> float:
    """One unit in the last place of a value, in a floating-point type."""
    info = torch.finfo(dtype)
    if largest == 0 or not math.isfinite(largest):
        return float(info.tiny)
    exponent = math.frexp(abs(largest))[1] - 1
    return max(float(info.eps) * 2.0**exponent, float(info.tiny))


def largest_value(tensors: Sequence[Tensor]) -> float:
    """Largest finite magnitude, 0 when there is none."""
    most = 0.0
    for tensor in tensors:
        finite = tensor[tensor.isfinite()]
        if finite.numel():
            most = max(most, float(finite.abs().double().max()))
    return most


def is_float(tensor: Tensor) -> bool:
    """Whether outputs of this type are judged by tolerance; the others must be equal."""
    return tensor.is_floating_point() or tensor.is_complex()


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of a complex number's parts; a real type is its own."""
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def tolerances(
    noise_floor: Mapping[str, NoiseFloor],
    goldens: Sequence[Golden],
    precision: str = "fp32",
    *,
    reduced: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Tolerance]:
    """Tolerance of each output.

    Args:
        noise_floor: By output name.
        goldens: For the largest value of each output.
        precision: Of the artifact: "fp32", "fp16", "bf16" or "int8".
        reduced: For fp16 and bf16: eager's own error in that precision, by output name and
            statistic, see `reduced_errors`. Where it is missing, 32 eps of the largest golden
            value.
    """
    result: dict[str, Tolerance] = {}
    for name, floor in noise_floor.items():
        if floor.method == "exact":
            result[name] = Tolerance(0.0, 0.0)
            continue
        values = [s.outputs[name] for g in goldens for s in g.steps if name in s.outputs]
        floats = [value for value in values if is_float(value)]
        dtype = real_dtype(floats[0].dtype) if floats else torch.float32
        largest = largest_value(floats)
        atol = max(NOISE_FACTOR * floor.max_abs, LEAST_ULPS * ulp(largest, dtype))
        if precision == "int8":
            result[name] = _int8(largest)
            continue
        known = floor.method == "float64"
        multiples = dict(MULTIPLES) if known else {}
        allowance: dict[str, float] = {}
        if precision != "fp32":
            eps = float(torch.finfo(PRECISIONS[precision]).eps)
            own = dict((reduced or {}).get(name, {}))
            if not own:
                own = dict.fromkeys(MULTIPLES, REDUCED_ULPS * eps * largest)
                # A cosine distance has no unit, so nothing follows for it from the largest value.
                del own["cosine"]
                multiples.pop("cosine", None)
            atol += REDUCED_FACTOR * own["max"]
            if known:
                allowance = {
                    key: value * (REDUCED_FACTOR**2 if key == "cosine" else REDUCED_FACTOR)
                    for key, value in own.items()
                }
        result[name] = Tolerance(atol, 0.0, multiples, allowance, dict(floor.worst))
    return result


def _int8(largest: float) -> Tolerance:
    """By the cosine alone; where the truth is not known, by what that allows a single value."""
    share = 1 - INT8_COSINE
    atol = math.sqrt(2 * share) * largest
    return Tolerance(atol, 0.0, {"cosine": 1.0}, {"cosine": share})
