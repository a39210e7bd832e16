"""Which goldens of A a bundle accepts, and which tolerances apply."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diff_bundles import ARTIFACT, DIMS, bundle_of, method
from isthmus.bundle.manifest import Tolerance
from isthmus.bundle_diff.cross_check import refusal, tolerances_for


def test_why_a_golden_is_not_taken() -> None:
    def why(**values: Tensor) -> str:
        return refusal(method(), DIMS, values)

    good = torch.zeros(2, 3)
    assert why(x=good) == ""
    assert why(x=good, z=good) == "B has no input z"
    assert why(y=good) == "A's goldens do not give B's input x"
    assert why(x=good.double()) == "A gives x as float64, B takes float32"
    assert why(x=good[0]) == "A gives x with rank 1, B takes 2"
    assert why(x=torch.zeros(2, 4)) == "A gives x[1] = 4, B takes 3"
    assert why(x=torch.zeros(9, 3)) == "batch is 1 to 8 in B"
    assert why(x=good, y=torch.zeros(3, 3)) == "batch has to be the same everywhere in B"


def test_a_precision_that_a_lacks_is_judged_by_what_b_allows_it() -> None:
    own = {"y": Tolerance(1e-6, 0.0, {"rms": 3.0}, {}, {"rms": 1e-7})}
    wide = {"y": Tolerance(1e-2, 0.0, {"rms": 3.0}, {"rms": 1e-3}, {"rms": 9.0})}
    old = replace(ARTIFACT, tolerances=own)
    half = replace(ARTIFACT, name="h", precision="fp16", tolerances=wide)
    manifest = replace(bundle_of(method()), artifacts=(old,))
    tolerances, by = tolerances_for(manifest, old, half)
    assert tolerances["y"].allowance == {"rms": 1e-3}
    assert tolerances["y"].own == {"rms": 1e-7}, "the unit is A's noise all the same"
    assert by == "what fp16 is allowed in B"
    assert tolerances_for(manifest, old, replace(half, precision="fp32"))[0] is own
