"""Tests of bundles on disk: they are written atomically, and every byte is checked."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from isthmus.bundle import bundle_files
from isthmus.bundle.bundle import Bundle, add_artifact, check_destination, open_bundle, write_bundle
from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import (
    CHUNK_BYTES,
    Artifact,
    DimRange,
    Manifest,
    Method,
    NoiseFloor,
    Tolerance,
    Tree,
    ValueSpec,
)
from isthmus.errors import BundleError, InvalidInput
from rewrite_manifest import rewrite_manifest

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
]
FORWARD = Method(
    "forward",
    (ValueSpec("x", "tensor", "float32", ("batch",)),),
    (ValueSpec("y/z", "tensor", "float32", ("batch",), True),),
    (Tree("leaf", "x"),),
    (),
    Tree("leaf", "y/z"),
)
ARTIFACT = Artifact(
    name="torchscript-cpu-fp32",
    format="torchscript",
    device="cpu",
    devices=("cpu",),
    precision="fp32",
    trust="graph",
    convention="flat",
    strategy="trace",
    files=(),
    requires={"torch": "2.13.0"},
    tolerances={"y/z": Tolerance(1e-6, 0.0)},
)
MANIFEST = Manifest(
    name="toy",
    created="2026-01-31T12:00:00Z",
    producer={},
    source={"kind": "module"},
    stateful=False,
    dims={"batch": DimRange(1, 8)},
    methods=(FORWARD,),
    artifacts=(ARTIFACT,),
    goldens=(),
    noise_floor={"y/z": NoiseFloor(1e-7, 1e-8, "float64")},
    warmup=("batch2",),
)
GOLDENS = [
    Golden(
        "batch2",
        {"batch": 2},
        (Step("forward", {"x": torch.ones(2)}, {"y/z": torch.tensor([1.0, 2.0])}),),
    ),
    Golden("batch1", {"batch": 1}, (Step("forward", {"x": torch.ones(1)}, {}),)),
]
EXTRA = {"tokenizer/vocab.txt": b"a\nb\n"}


def write(path: Path, content: bytes = b"archive", **options: Any) -> Bundle:
    return write_bundle(
        path,
        options.pop("manifest", MANIFEST),
        artifact_files={ARTIFACT.name: content},
        goldens=options.pop("goldens", GOLDENS),
        extra_files=options.pop("extra_files", EXTRA),
        **options,
    )


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = write(tmp_path / "new" / "toy")
    opened = open_bundle(str(tmp_path / "new" / "toy"))
    assert opened.manifest == written.manifest
    assert opened.verify_files() == ()
    assert sorted(tree(opened.path)) == [
        "artifacts/torchscript-cpu-fp32.pt",
        "goldens/batch1.safetensors",
        "goldens/batch2.safetensors",
        "manifest.json",
        "tokenizer/vocab.txt",
    ]
    entry = opened.artifact(ARTIFACT.name).files[0]
    assert opened.read(entry) == b"archive"
    assert opened.read(opened.manifest.files[0]) == EXTRA["tokenizer/vocab.txt"]
    assert [golden.name for golden in opened.goldens()] == ["batch2", "batch1"]
    golden = opened.golden("batch2")
    assert golden.dims == {"batch": 2}
    assert torch.equal(golden.steps[0].inputs["x"], torch.ones(2))
    assert golden.steps[0].outputs["y/z"].tolist() == [1.0, 2.0]
    assert opened.golden("batch1").steps[0].outputs == {}
    assert names(tmp_path / "new") == ["toy"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(opened.path.stat().st_mode) == 0o777 & ~umask


def test_goldens_keep_every_dtype_shape_and_step(tmp_path: Path) -> None:
    values = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES}
    values |= {"scalar": torch.tensor(1.5, dtype=torch.float64), "empty": torch.zeros(0, 3)}
    values["transposed"] = torch.arange(6.0).reshape(2, 3).t()
    steps = (Step("forward", values, {}), Step("forward", {}, dict(reversed(values.items()))))
    write(tmp_path / "b", goldens=[*GOLDENS, Golden("all", {}, steps)])
    stored = open_bundle(tmp_path / "b").golden("all").steps
    assert len(stored) == 2
    for name, value in values.items():
        for got in (stored[0].inputs[name], stored[1].outputs[name]):
            assert got.dtype == value.dtype
            assert torch.equal(got, value)


def test_files_can_come_from_disk_and_be_several(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "weights").write_bytes(b"w" * 3_000_000)
    bundle = write_bundle(
        tmp_path / "b",
        replace(MANIFEST, warmup=()),
        artifact_files={
            ARTIFACT.name: {"m.onnx": tmp_path / "model.onnx", "m.data": tmp_path / "weights"}
        },
    )
    files = bundle.manifest.artifacts[0].files
    assert [file.path for file in files] == ["artifacts/m.onnx", "artifacts/m.data"]
    assert files[1].size == 3_000_000
    assert bundle.verify_files() == ()
    single = write_bundle(
        tmp_path / "c",
        replace(MANIFEST, warmup=()),
        artifact_files={ARTIFACT.name: tmp_path / "model.onnx"},
    )
    assert single.manifest.artifacts[0].files[0].path == "artifacts/torchscript-cpu-fp32.onnx"


# --- destinations ---------------------------------------------------------------------------------


def test_an_empty_directory_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    assert write(tmp_path / "b").verify_files() == ()


def test_a_bundle_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "b")
    before = tree(tmp_path / "b")
    with pytest.raises(BundleError, match=r"exists already.*overwrite"):
        write(tmp_path / "b", b"other")
    assert tree(tmp_path / "b") == before
    write(tmp_path / "b", b"other", extra_files={}, overwrite=True)
    after = tree(tmp_path / "b")
    assert after["artifacts/torchscript-cpu-fp32.pt"] == b"other"
    assert "tokenizer/vocab.txt" not in after
    assert names(tmp_path) == ["b"]


def test_a_damaged_or_newer_bundle_can_be_replaced(tmp_path: Path) -> None:
    write(tmp_path / "b")
    manifest = tmp_path / "b" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 9'))
    write(tmp_path / "b", overwrite=True)
    manifest.write_text(manifest.read_text()[:200])
    write(tmp_path / "b", overwrite=True)
    assert open_bundle(tmp_path / "b").verify_files() == ()


@pytest.mark.parametrize("content", ["notes.txt", "manifest.json"])
def test_nothing_but_a_bundle_is_ever_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / content).write_text('{"name": "something else"}')
    for overwrite, words in ((False, "exists already"), (True, "no isthmus bundle")):
        with pytest.raises(BundleError, match=words):
            write(tmp_path / "b", overwrite=overwrite)
    assert (tmp_path / "b" / content).exists()


def test_files_and_links_are_refused_as_destinations(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(BundleError, match="is a file"):
        check_destination(tmp_path / "file", overwrite=True)
    with pytest.raises(BundleError, match="symbolic link"):
        check_destination(tmp_path / "link", overwrite=True)
    check_destination(tmp_path / "new", overwrite=False)


# --- atomic writes --------------------------------------------------------------------------------

STAGES = ["write:artifacts", "write:tokenizer", "write:goldens", "write:manifest.json", "rename"]


class Interrupted(BaseException):
    """Interrupts a write as a KeyboardInterrupt would."""


def break_at(monkeypatch: pytest.MonkeyPatch, stage: str, target: Path) -> None:
    if stage == "rename":
        real: Callable[..., Any] = Path.rename

        def rename(self: Path, other: Path) -> Path:
            # Only the last rename: the old bundle has been moved away by then.
            if Path(other) == target and ".old." not in self.name:
                raise Interrupted
            return real(self, other)

        monkeypatch.setattr(Path, "rename", rename)
        return
    write_file = bundle_files.Directory.write

    def write(self: bundle_files.Directory, path: str, source: bundle_files.Source) -> Any:
        if path.startswith(stage.removeprefix("write:")):
            write_file(self, path, source)
            raise Interrupted
        return write_file(self, path, source)

    monkeypatch.setattr(bundle_files.Directory, "write", write)


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    break_at(monkeypatch, stage, tmp_path / "deep" / "er" / "b")
    with pytest.raises(Interrupted):
        write(tmp_path / "deep" / "er" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    write(tmp_path / "b")
    before = tree(tmp_path)
    break_at(monkeypatch, stage, tmp_path / "b")
    with pytest.raises(Interrupted):
        write(tmp_path / "b", b"other", overwrite=True)
    assert tree(tmp_path) == before
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extra_files": {"../outside": b""}}, '".."'),
        ({"extra_files": {"/outside": b""}}, "absolute"),
        ({"extra_files": {"manifest.json": b""}}, "manifest.json"),
        ({"extra_files": {"goldens/batch1.safetensors": b""}}, "batch1"),
        ({"manifest": replace(MANIFEST, warmup=("nope",))}, "nope"),
        ({"manifest": replace(MANIFEST, artifacts=())}, "torchscript-cpu-fp32"),
        ({"manifest": replace(MANIFEST, dims={})}, "batch"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BundleError) as caught:
        write(tmp_path / "b", **options)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_source_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "b", extra_files={"a": tmp_path / "missing"})
    assert list(tmp_path.iterdir()) == []


# --- reading --------------------------------------------------------------------------------------


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="no such directory"):
        open_bundle(tmp_path / "missing")
    with pytest.raises(BundleError, match=r"got a file.*adopt"):
        open_bundle(tmp_path / "file.pt")
    with pytest.raises(BundleError, match=r"without manifest\.json"):
        open_bundle(tmp_path / "empty")


def test_a_damaged_manifest_names_the_bundle_and_the_place(tmp_path: Path) -> None:
    write(tmp_path / "b")
    with rewrite_manifest(tmp_path / "b") as manifest:
        manifest["methods"][0]["inputs"][0]["dtype"] = "float8"
    with pytest.raises(BundleError) as caught:
        open_bundle(tmp_path / "b")
    assert str(tmp_path / "b") in str(caught.value)
    assert "$.methods[0].inputs[0].dtype" in str(caught.value)


def paths() -> list[str]:
    return [
        "artifacts/torchscript-cpu-fp32.pt",
        "goldens/batch1.safetensors",
        "goldens/batch2.safetensors",
        "tokenizer/vocab.txt",
    ]


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("damage", ["flip", "truncate", "grow", "remove", "link", "folder link"])
def test_every_damaged_file_is_found(tmp_path: Path, path: str, damage: str) -> None:
    bundle = write(tmp_path / "b")
    file = bundle.path / path
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        file.write_bytes(content[:-1])
    elif damage == "grow":
        file.write_bytes(content + b"x")
    elif damage == "remove":
        file.unlink()
    elif damage == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.parent.rename(tmp_path / "elsewhere")
        file.parent.symlink_to(tmp_path / "elsewhere")
    opened = open_bundle(bundle.path)
    faults = opened.verify_files()
    assert any(path in fault for fault in faults)
    entry = next(file for file in opened.files() if file.path == path)
    with pytest.raises(BundleError, match=path.rpartition("/")[2]):
        opened.read(entry)


def test_a_manifest_behind_a_link_is_refused(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    (bundle.path / "manifest.json").rename(tmp_path / "m.json")
    (bundle.path / "manifest.json").symlink_to(tmp_path / "m.json")
    with pytest.raises(BundleError, match="symbolic link"):
        open_bundle(bundle.path)


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    with pytest.raises(InvalidInput, match=r'no golden "x".*batch2, batch1'):
        bundle.golden("x")
    with pytest.raises(InvalidInput, match=r'no artifact "x".*torchscript-cpu-fp32'):
        bundle.artifact("x")


@pytest.mark.parametrize(
    "tensors", [None, {"0/side/x": torch.ones(1)}, {"1/in/x": torch.ones(1)}, {"x": torch.ones(1)}]
)
def test_a_golden_of_other_content_is_refused(tmp_path: Path, tensors: Any) -> None:
    import safetensors.torch

    content = b"no tensors" if tensors is None else safetensors.torch.save(tensors)
    bundle = write(tmp_path / "b", extra_files={"goldens/fake.safetensors": content})
    golden = replace(bundle.manifest.goldens[0], name="fake", file=bundle.manifest.files[0])
    manifest = replace(bundle.manifest, goldens=(golden,))
    with pytest.raises(BundleError, match=r"goldens/fake\.safetensors"):
        Bundle(bundle.path, manifest).golden("fake")


# --- further artifacts ----------------------------------------------------------------------------


def test_an_artifact_is_added_and_replaced(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    other = replace(ARTIFACT, name="onnx-cpu-fp32", format="onnx", trust="data")
    bundle = add_artifact(bundle, other, {"onnx-cpu-fp32.onnx": b"graph"})
    assert [artifact.name for artifact in bundle.manifest.artifacts] == [ARTIFACT.name, other.name]
    assert open_bundle(bundle.path).manifest == bundle.manifest
    bundle = add_artifact(bundle, replace(ARTIFACT, strategy="script"), b"better")
    assert [artifact.name for artifact in bundle.manifest.artifacts] == [ARTIFACT.name, other.name]
    assert bundle.read(bundle.artifact(ARTIFACT.name).files[0]) == b"better"
    assert bundle.artifact(ARTIFACT.name).strategy == "script"
    assert open_bundle(bundle.path).verify_files() == ()
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize("stage", ["write:artifacts", "write:manifest.json", "rename"])
def test_adding_is_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    bundle = write(tmp_path / "b")
    before = tree(tmp_path)
    break_at(monkeypatch, stage, tmp_path / "b")
    with pytest.raises(Interrupted):
        add_artifact(bundle, replace(ARTIFACT, name="other"), b"x")
    assert tree(tmp_path) == before
    assert names(tmp_path) == ["b"]


def test_nothing_is_added_to_a_damaged_bundle(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    (bundle.path / "goldens" / "batch1.safetensors").unlink()
    with pytest.raises(BundleError, match="batch1"):
        add_artifact(bundle, replace(ARTIFACT, name="other"), b"x")


@pytest.mark.parametrize("from_file", [True, False])
def test_large_files_are_hashed_in_chunks_too(tmp_path: Path, from_file: bool) -> None:
    content = bytes(range(256)) * (CHUNK_BYTES // 256 * 2) + b"end"
    (tmp_path / "source").write_bytes(content)
    directory = bundle_files.Directory(tmp_path)
    entry = directory.write("large", tmp_path / "source" if from_file else content)
    pieces = (content[:CHUNK_BYTES], content[CHUNK_BYTES : 2 * CHUNK_BYTES], b"end")
    assert (tmp_path / "large").read_bytes() == content
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert entry.chunks == tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)
    assert directory.write("small", content[:CHUNK_BYTES]).chunks == ()
