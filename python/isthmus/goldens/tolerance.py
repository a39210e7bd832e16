"""Derives the tolerances of outputs from eager's own error to float64.

docs/verify.md states the rule and the models that it was measured on.
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
"""The allowed multiple of eager's own error to float64, by statistic; see benchmarks/proof.py."""
NOISE_FACTOR = 10
"""The tolerance in units of the noise floor where the float64 output is not known."""
LEAST_ULPS = 8
"""The least such tolerance, in units in the last place of the largest golden value."""
FALLBACK_ULPS = 64
"""The noise floor of a module that cannot run in float64, in units in the last place."""
REDUCED_FACTOR = 4
"""The tolerance of reduced precision grows by this multiple of its own eager error."""
REDUCED_ULPS = 32
"""The error that is assumed when it was not measured, in eps of the largest golden value."""
INT8_COSINE = 0.99
"""The least cosine similarity of an output of an int8 artifact to float64."""
SAMPLE_COSINES: Mapping[str, float] = {"bf16": 0.999, "int8": INT8_COSINE}
"""The least cosine similarity of any sample to eager's output, by precision; below it, no artifact
is made. The bundle's tolerances judge an output as a whole, where one bad sample counts little."""

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def ulp(largest: float, dtype: torch.dtype) -> float:
    """Returns one unit in the last place of a value, in a floating-point type."""
    info = torch.finfo(dtype)
    if largest == 0 or not math.isfinite(largest):
        return float(info.tiny)
    exponent = math.frexp(abs(largest))[1] - 1
    return max(float(info.eps) * 2.0**exponent, float(info.tiny))


def largest_value(tensors: Sequence[Tensor]) -> float:
    """Returns the largest finite magnitude of the elements; 0 when there is none."""
    largest = 0.0
    for tensor in tensors:
        finite = tensor[tensor.isfinite()]
        if finite.numel():
            largest = max(largest, float(finite.abs().double().max()))
    return largest


def is_float(tensor: Tensor) -> bool:
    """Returns True for types that are judged by tolerance; the others must be equal."""
    return tensor.is_floating_point() or tensor.is_complex()


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the type of the parts of a complex type; other types unchanged."""
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def tolerances(
    noise_floor: Mapping[str, NoiseFloor],
    goldens: Sequence[Golden],
    precision: str = "fp32",
    *,
    reduced: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Tolerance]:
    """Returns the tolerance of each output.

    Args:
        noise_floor: The noise floor by output name.
        goldens: The goldens, which tell the largest value of each output.
        precision: The precision of the artifact: "fp32", "fp16", "bf16" or "int8".
        reduced: Eager's own error in fp16 or bf16 by output name and statistic, from
            `reduced_errors`; where it is missing, it is 32 eps of the largest golden value.
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
                # A cosine distance has no unit, so it does not follow from the largest value.
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
    """Returns a tolerance for the cosine; `atol` is what that allows for a single value."""
    share = 1 - INT8_COSINE
    atol = math.sqrt(2 * share) * largest
    return Tolerance(atol, 0.0, {"cosine": 1.0}, {"cosine": share})
