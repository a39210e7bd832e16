"""Weights are mapped from the bundle's files: they are not copied, and processes share them.

The answers have the same bits as those of `torch.jit`, also when the files are replaced.
"""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from tests.models import StreamingInPlace
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.runtime import install_paths
from rewrite_manifest import rewrite_manifest

WIDTH = 512
TABLE_BYTES = 24576 * WIDTH * 4


class Tied(nn.Module):
    """Uses one table of 50 MB twice, a layer, and a constant tensor."""

    def __init__(self, rows: int = TABLE_BYTES // (4 * WIDTH)) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, rows, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.layer(self.table(ids)) + torch.linspace(-1.0, 1.0, WIDTH)
        return self.head(hidden)[:, :7]


def exported(module: nn.Module, folder: Path) -> Bundle:
    return isthmus.export(module, (torch.tensor([1, 2, 3]),), path=folder, formats=("torchscript",))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    return exported(Tied(), tmp_path_factory.mktemp("tied") / "tied")


def archive_of(bundle: Bundle) -> Path:
    return bundle.path / bundle.manifest.artifacts[0].files[0].path


def mappings(file: Path) -> int:
    """Returns the number of mappings of the file in this process."""
    return Path("/proc/self/maps").read_text().count(str(file.resolve()))


def expected(archive: Path, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        answer: Tensor = torch.jit.load(str(archive))(ids)[0]
    return answer


def peak_bytes(bundle: Bundle, *options: str) -> int:
    """Returns the peak resident memory of a process that loads and calls the bundle."""
    result = subprocess.run(
        [
            str(install_paths.binary()), "bench", str(bundle.path), "--engine", "torchscript",
            "--threads", "1", "--iterations", "1", "--min-seconds", "0", "--json", *options,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    peak: int = json.loads(result.stdout)["rows"][0]["peak_rss_bytes"]
    return peak


@pytest.mark.parametrize("mmap", [True, False])
def test_answers_are_those_of_torch_jit(tied: Bundle, mmap: bool) -> None:
    ids = torch.tensor([5, 0, 7])
    model = isthmus.load(tied.path, engine="torchscript", mmap=mmap)
    assert torch.equal(model(ids), expected(archive_of(tied), ids))
    assert (mappings(archive_of(tied)) > 0) == mmap
    del model
    assert mappings(archive_of(tied)) == 0


CONSTANT = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))


class SameNames(nn.Module):
    """A parameter and a constant of the same shape, each the first tensor of its folder."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + CONSTANT.sum(0)


def test_libtorch_keeps_the_contract_of_mapped_archives(tmp_path: Path) -> None:
    """Fails when LibTorch no longer reads a package in the order that mapped_archive.h relies on.

    With another order the archive is copied instead of mapped. If that went unnoticed, the
    parameter would get the constant's values.
    """
    torch.manual_seed(0)
    x = torch.randn(2, 64)
    bundle = isthmus.export(SameNames(), (x,), path=tmp_path / "bundle", formats=("torchscript",))
    archive = archive_of(bundle)
    with zipfile.ZipFile(archive) as file:
        names = {name.partition("/")[2] for name in file.namelist()}
    assert {"constants/0", "data/0"} <= names
    model = isthmus.load(bundle.path, engine="torchscript")
    assert mappings(archive) > 0, f"torch {torch.__version__} reads packages in another order"
    assert torch.equal(model(x), expected(archive, x))


def test_a_load_needs_the_weights_once(tied: Bundle, tmp_path: Path) -> None:
    small = peak_bytes(exported(Tied(rows=8), tmp_path / "small"))
    for option in ("--mmap", "--no-mmap"):
        # torch::jit::load would hold the table three times: in the file's bytes and for each use.
        assert peak_bytes(tied, option) - small < 1.3 * TABLE_BYTES


def test_a_bundle_may_be_replaced_while_it_is_in_use(tmp_path: Path) -> None:
    bundle = exported(Tied(rows=4096), tmp_path / "bundle")
    ids = torch.tensor([5, 0, 7])
    model = isthmus.load(bundle.path, engine="torchscript")
    before = model(ids)
    file = archive_of(bundle)
    (tmp_path / "new").write_bytes(bytes(file.stat().st_size))
    (tmp_path / "new").rename(file)
    assert torch.equal(model(ids), before)
    with pytest.raises(isthmus.BundleError, match="content has changed"):
        isthmus.load(bundle.path, engine="torchscript")


def test_state_is_written_to_pages_of_the_process_alone(tmp_path: Path) -> None:
    bundle = isthmus.export(
        StreamingInPlace(), (torch.randn(2, 4),), path=tmp_path / "bundle", formats=("torchscript",)
    )
    content = archive_of(bundle).read_bytes()
    model = isthmus.load(bundle.path, engine="torchscript")
    step = torch.randn(2, 4)
    first, second = model(step), model(step)
    assert not torch.equal(first, second)
    assert archive_of(bundle).read_bytes() == content
    assert torch.equal(isthmus.load(bundle.path, engine="torchscript")(step), first)


def repacked(bundle: Bundle) -> None:
    """Rewrites the archive without alignment, as a zip tool would."""
    file = archive_of(bundle)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(file.with_suffix(".new"), "w") as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), old.read(name))
    file.with_suffix(".new").rename(file)
    with rewrite_manifest(bundle.path):
        pass  # the size and the digest of the new file are written


def test_an_archive_of_another_layout_is_copied(tmp_path: Path) -> None:
    bundle = exported(Tied(rows=4096), tmp_path / "bundle")
    ids = torch.tensor([5, 0, 7])
    before = expected(archive_of(bundle), ids)
    repacked(bundle)
    model = isthmus.load(bundle.path, engine="torchscript")
    assert torch.equal(model(ids), before)
    assert mappings(archive_of(bundle)) == 0


class Inverse(nn.Module):
    def forward(self, matrix: Tensor) -> Tensor:
        return torch.linalg.inv(matrix)


def test_errors_name_code_as_the_archive_does(tmp_path: Path) -> None:
    bundle = isthmus.export(Inverse(), (2 * torch.eye(2),), path=tmp_path / "bundle")
    model = isthmus.load(bundle.path, engine="torchscript")
    with pytest.raises(isthmus.ExecutionError) as caught:
        model(torch.zeros(2, 2))
    assert "code/__torch__/" in str(caught.value)
    assert ".data/" not in str(caught.value)
