"""Archives read without executing anything, and weights compared."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isthmus.bundle_diff.archive import StoredTensor, read_archive_contents
from isthmus.bundle_diff.weights import compare_weights
from isthmus.errors import BundleError


def test_reading_an_archive_executes_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Harm:
        def __reduce__(self) -> Any:
            return open, (str(trap), "w")

    file = tmp_path / "harm.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("harm/data.pkl", pickle.dumps({"x": Harm()}, protocol=2))
    assert read_archive_contents(file).tensors == {}
    assert not trap.exists()
    file.write_bytes(b"no archive")
    with pytest.raises(BundleError, match="expected a TorchScript archive"):
        read_archive_contents(file)


def stored(tensor: Tensor) -> StoredTensor:
    return StoredTensor(str(tensor.dtype), tuple(tensor.shape), lambda: tensor)


def test_weights_are_paired_by_name_then_by_content() -> None:
    first, second = torch.arange(6.0).reshape(2, 3), torch.full((2,), float("nan"))
    before = {
        "a": stored(first),
        "b": stored(second),
        "c": stored(first + 1),
        "gone": stored(first * 7),
    }
    changed = first.clone()
    changed[0, 0] = 0.5
    after = {"a": stored(changed), "b": stored(second.clone()), "d": stored(first + 1)}
    diff = compare_weights("w", before, after)
    assert not diff
    assert (diff.equal, diff.renamed) == (2, 1)
    (change,) = diff.changed
    assert (change.name, change.differing, change.max_abs) == ("a", 1, 0.5)
    assert change.share == pytest.approx(0.1)
    assert (diff.removed, diff.added) == (("gone",), ())
