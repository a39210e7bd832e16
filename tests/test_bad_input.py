"""The C++ API, the binary and Python refuse bad input with the same errors.

Each case has an error class and words that the message must contain. After each case, the good call
must return the same bytes as before.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

import isthmus
from isthmus import errors
from isthmus.runtime import install_paths

EXIT_CODES = {
    "InvalidInput": 2,
    "BundleError": 3,
    "EngineUnavailable": 4,
    "DeviceUnavailable": 4,
    "ExecutionError": 5,
}


class Probe(nn.Module):
    """Takes ids, a mask of the same sizes, pixels, and scalars."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 4)
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(
        self, ids: Tensor, mask: Tensor, pixels: Tensor, scale: float, flag: bool
    ) -> Tensor:
        hidden = self.embedding(ids) * mask.unsqueeze(-1)
        image = self.convolution(pixels).mean(dim=(2, 3))
        result = hidden.sum(1) + image * scale
        if flag:
            result = -result
        return result


def good_inputs() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(0, 16, (2, 5), dtype=np.int64),
        "mask": np.ones((2, 5), dtype=np.int64),
        "pixels": rng.standard_normal((2, 3, 8, 8), dtype=np.float32),
        "scale": np.array(0.5, dtype=np.float64),
        "flag": np.array(True),
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    good = {name: torch.from_numpy(np.asarray(value)) for name, value in good_inputs().items()}
    path = tmp_path_factory.mktemp("bad_input") / "probe"
    isthmus.export(
        Probe(),
        (good["ids"], good["mask"], good["pixels"], 0.5, True),
        path=path,
        strategy="script",
        dynamic={
            "ids": {0: "batch", 1: "sequence"},
            "mask": {0: "batch", 1: "sequence"},
            "pixels": {0: "batch"},
        },
        dims={"batch": (1, 8), "sequence": (1, 32)},
    )
    return path


@pytest.fixture(scope="module")
def driver(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Runs bad_input_driver.cpp, built against the installed package."""
    folder = tmp_path_factory.mktemp("driver")
    program = folder / "driver"
    library = install_paths.lib_dir()
    subprocess.run(
        [
            *("g++", "-std=c++20", "-O1", f"-I{install_paths.include_dir()}"),
            Path(__file__).parent / "bad_input_driver.cpp",
            *("-o", program, f"-L{library}", "-listhmus", f"-Wl,-rpath,{library}"),
        ],
        check=True,
    )
    save_file(good_inputs(), folder / "good.safetensors")
    with Driver(program, bundle, folder / "good.safetensors") as running:
        yield running


class Driver:
    """One process that runs all cases, so that later cases detect what an earlier one breaks."""

    def __init__(self, program: Path, bundle: Path, good: Path) -> None:
        self._process = subprocess.Popen(
            [program, bundle, good],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()

    def ask(self, verb: str, what: object) -> tuple[str, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(verb, what, file=self._process.stdin, flush=True)
        kind, _, message = self._process.stdout.readline().rstrip("\n").partition("\t")
        return kind, message


@pytest.fixture(scope="module")
def model(bundle: Path) -> isthmus.Model:
    return isthmus.load(bundle)


@pytest.fixture(scope="module")
def good_answer(model: isthmus.Model) -> np.ndarray[Any, Any]:
    return np.asarray(model(**good_inputs()))


def words_missing(message: str, words: tuple[str, ...]) -> list[str]:
    return [word for word in words if word.lower() not in message.lower()]


# --- calls ---------------------------------------------------------------------------------------


def change(**arrays: np.ndarray[Any, Any]) -> Callable[[], dict[str, np.ndarray[Any, Any]]]:
    return lambda: {**good_inputs(), **arrays}


def drop(name: str) -> Callable[[], dict[str, np.ndarray[Any, Any]]]:
    return lambda: {key: value for key, value in good_inputs().items() if key != name}


def rename(old: str, new: str) -> Callable[[], dict[str, np.ndarray[Any, Any]]]:
    return lambda: {new if key == old else key: value for key, value in good_inputs().items()}


def ids(*shape: int, dtype: Any = np.int64) -> np.ndarray[Any, Any]:
    return np.ones(shape, dtype=dtype)


@dataclass(frozen=True)
class BadCall:
    name: str
    inputs: Callable[[], dict[str, np.ndarray[Any, Any]]]
    words: tuple[str, ...]


BAD_CALLS = [
    BadCall("unknown name", change(surplus=ids(1)), ("surplus", "ids")),
    BadCall("misspelt name", rename("pixels", "pixel"), ("pixel", "pixels")),
    BadCall("name in capitals", rename("ids", "IDS"), ("IDS", "ids")),
    *(BadCall(f"{name} missing", drop(name), (name,)) for name in good_inputs()),
    *(
        BadCall(
            f"ids as {dtype}", change(ids=ids(2, 5, dtype=dtype)), ("ids", "expected int64", dtype)
        )
        for dtype in ("int32", "uint8", "float32", "float64", "bool")
    ),
    *(
        BadCall(
            f"pixels as {dtype}",
            change(pixels=np.ones((2, 3, 8, 8), dtype=dtype)),
            ("pixels", "expected float32", dtype),
        )
        for dtype in ("float64", "float16", "int64")
    ),
    BadCall("scale as int64", change(scale=np.array(1)), ("scale", "float64", "int64")),
    BadCall(
        "scale as float32",
        change(scale=np.array(1, dtype=np.float32)),
        ("scale", "float64", "float32"),
    ),
    BadCall("scale with a dimension", change(scale=np.ones(1)), ("scale", "float64[1]")),
    BadCall("flag as int64", change(flag=np.array(1)), ("flag", "bool", "int64")),
    BadCall("flag with a dimension", change(flag=np.array([True])), ("flag", "bool[1]")),
    BadCall("ids of rank 0", change(ids=np.array(1)), ("ids", "[batch, sequence]")),
    BadCall("ids of rank 1", change(ids=ids(5)), ("ids", "[batch, sequence]", "int64[5]")),
    BadCall("ids of rank 3", change(ids=ids(2, 5, 1)), ("ids", "[2, 5, 1]")),
    BadCall("pixels of rank 3", change(pixels=np.ones((3, 8, 8), np.float32)), ("pixels",)),
    BadCall("pixels of rank 5", change(pixels=np.ones((1, 2, 3, 8, 8), np.float32)), ("pixels",)),
    BadCall(
        "one channel", change(pixels=np.ones((2, 1, 8, 8), np.float32)), ("pixels", "3", "[2, 1")
    ),
    BadCall("four channels", change(pixels=np.ones((2, 4, 8, 8), np.float32)), ("pixels",)),
    BadCall("height of 7", change(pixels=np.ones((2, 3, 7, 8), np.float32)), ("pixels", "7")),
    BadCall(
        "channels last",
        change(pixels=np.ones((2, 8, 8, 3), np.float32)),
        ("pixels", "[2, 8, 8, 3]"),
    ),
    BadCall(
        "batch of 0",
        change(ids=ids(0, 5), mask=ids(0, 5), pixels=np.ones((0, 3, 8, 8), np.float32)),
        ("batch", "0", "1", "8"),
    ),
    BadCall(
        "batch of 9",
        change(ids=ids(9, 5), mask=ids(9, 5), pixels=np.ones((9, 3, 8, 8), np.float32)),
        ("batch", "9", "8"),
    ),
    BadCall("sequence of 0", change(ids=ids(2, 0), mask=ids(2, 0)), ("sequence", "0")),
    BadCall("sequence of 33", change(ids=ids(2, 33), mask=ids(2, 33)), ("sequence", "33", "32")),
    BadCall("unequal sequence", change(mask=ids(2, 6)), ("sequence", "ids", "mask", "5", "6")),
    BadCall(
        "unequal batch",
        change(pixels=np.ones((3, 3, 8, 8), np.float32)),
        ("batch", "ids", "pixels", "2", "3"),
    ),
    # The embedding has 16 rows. Some engines would return wrong values, others end the process.
    BadCall("id 16", change(ids=ids(2, 5) * 16), ("ids", "0 to 15", "16 at [0, 0]")),
    BadCall("id -1", change(ids=np.array([[1, 2], [3, -1]])), ("ids", "0 to 15", "-1 at [1, 1]")),
    BadCall("huge id", change(ids=ids(2, 5) << 40), ("ids", "0 to 15", "1099511627776")),
    BadCall("nothing at all", dict, ("ids",)),
]


@pytest.mark.parametrize("case", BAD_CALLS, ids=lambda case: case.name)
def test_bad_call(
    case: BadCall,
    bundle: Path,
    driver: Driver,
    model: isthmus.Model,
    good_answer: np.ndarray[Any, Any],
    tmp_path: Path,
) -> None:
    inputs = case.inputs()
    with pytest.raises(errors.InvalidInput) as caught:
        model(**inputs)
    assert words_missing(str(caught.value), case.words) == []
    np.testing.assert_array_equal(np.asarray(model(**good_inputs())), good_answer)

    file = tmp_path / "inputs.safetensors"
    save_file(inputs, file)
    kind, message = driver.ask("call", file)
    assert kind == "InvalidInput", message
    assert words_missing(message, case.words) == []


@pytest.mark.parametrize("case", BAD_CALLS[::4], ids=lambda case: case.name)
def test_bad_call_of_the_binary(case: BadCall, bundle: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "inputs.safetensors", tmp_path / "out.safetensors"
    save_file(case.inputs(), file)
    result = predict(bundle, "--inputs", file, "-o", output)
    assert result.returncode == 2, result.stderr
    assert words_missing(result.stderr, case.words) == []
    assert list(tmp_path.iterdir()) == [file]  # nothing half-written


def predict(bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [install_paths.binary(), "predict", bundle, "--no-warmup", *map(str, arguments)]
    return subprocess.run(command, text=True, capture_output=True, timeout=120)


# --- cases that no file can hold -----------------------------------------------------------------

BUILTIN = {
    "null_data": ("InvalidInput", ("null",)),
    "undefined": ("InvalidInput", ("ids",)),
    "doubled_name": ("InvalidInput", ("ids", "twice")),
    "wrong_device": ("InvalidInput", ("ids", "cpu", "cuda:0")),
    "negative_size": ("InvalidInput", ("-1",)),
    "huge_size": ("InvalidInput", ("1099511627776",)),
    "strides_rank": ("InvalidInput", ("strides",)),
    "value_count": ("InvalidInput", ("3", "4")),
    "wrong_type": ("InvalidInput", ("int64", "float32")),
    "unknown_method": ("InvalidInput", ("no_such_method", "forward")),
    "unknown_output": ("InvalidInput", ("no_such_output",)),
    "moved_session": ("InvalidInput", ("session",)),
    "too_few_ordered": ("InvalidInput", ("5", "1")),
    "unknown_method_index": ("InvalidInput", ("99",)),
    "good_transposed": ("ok", ()),
    "good_owner_freed": ("ok", ()),
}


@pytest.mark.parametrize("name", BUILTIN)
def test_bad_value_in_cpp(name: str, driver: Driver) -> None:
    expected, words = BUILTIN[name]
    kind, message = driver.ask("builtin", name)
    assert kind == expected, message
    assert words_missing(message, words) == []


# --- options -------------------------------------------------------------------------------------

OPTIONS = {
    "engine=nonesuch": ("EngineUnavailable", {"engine": "nonesuch"}, ("nonesuch", "torchscript")),
    "device=gpu": ("InvalidInput", {"device": "gpu"}, ("gpu", "cpu", "cuda")),
    "device=cuda:x": ("InvalidInput", {"device": "cuda:x"}, ("cuda:x",)),
    "device=cuda:99": ("DeviceUnavailable", {"device": "cuda:99"}, ("cuda",)),
    "artifact=nonesuch": ("InvalidInput", {"artifact": "nonesuch"}, ("nonesuch",)),
    "threads=-1": ("InvalidInput", {"threads": -1}, ("threads", "-1")),
    "trust=data": ("BundleError", {"trust": "data"}, ("trust", "graph")),
    "op_library=/nonexistent/libx.so": (
        "EngineUnavailable",
        {"op_libraries": ["/nonexistent/libx.so"]},
        ("libx.so",),
    ),
    "engine_option=nonesuch": (
        "InvalidInput",
        {"engine_options": {"nonesuch": "1"}},
        ("nonesuch",),
    ),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_bad_option(
    option: str, bundle: Path, driver: Driver, good_answer: np.ndarray[Any, Any]
) -> None:
    expected, keywords, words = OPTIONS[option]
    with pytest.raises(getattr(errors, expected)) as caught:
        isthmus.load(bundle, **keywords)
    assert words_missing(str(caught.value), words) == []
    kind, message = driver.ask("option", option)
    assert kind == expected, message
    assert words_missing(message, words) == []

    flag, _, value = option.partition("=")
    arguments = [f"--{flag.replace('_', '-')}", value if flag != "engine_option" else f"{value}=1"]
    result = subprocess.run(
        [install_paths.binary(), "verify", bundle, *arguments], text=True, capture_output=True
    )
    assert result.returncode == EXIT_CODES[expected], result.stderr
    assert words_missing(result.stderr, words) == []


# --- files of inputs -----------------------------------------------------------------------------


def safetensors_bytes(tmp_path: Path) -> bytes:
    save_file(good_inputs(), tmp_path / "good.safetensors")
    return (tmp_path / "good.safetensors").read_bytes()


def lying_header(content: bytes) -> bytes:
    return (2**62).to_bytes(8, "little") + content[8:]


def overlapping(content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    first, second = [key for key in header if key != "__metadata__"][:2]
    header[second]["data_offsets"] = [10**9, 10**9 + 8]
    header[first]["data_offsets"][1] += 1
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


BAD_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated header": lambda content: content[:20],
    "truncated data": lambda content: content[:-5],
    "lying header": lying_header,
    "offsets beyond the end": overlapping,
    "text": lambda _: b"these are not tensors\n" * 10,
    "broken zip": lambda _: b"PK\x03\x04" + bytes(40),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_of_inputs(name: str, bundle: Path, driver: Driver, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    content = BAD_FILES[name](safetensors_bytes(tmp_path))
    file = folder / "inputs.safetensors"
    file.write_bytes(content)
    kind, message = driver.ask("call", file)
    assert kind == "InvalidInput", message
    assert "inputs.safetensors" in message
    result = predict(bundle, "--inputs", file, "-o", folder / "out.safetensors")
    assert result.returncode == 2, result.stderr
    assert "inputs.safetensors" in result.stderr
    assert list(folder.iterdir()) == [file]


def test_npz_with_pickled_objects_is_refused(driver: Driver, tmp_path: Path) -> None:
    file = tmp_path / "objects.npz"
    np.savez(file, ids=np.array([{"a": 1}], dtype=object))
    kind, message = driver.ask("call", file)
    assert kind == "InvalidInput"
    assert "objects.npz" in message


# --- bundles -------------------------------------------------------------------------------------


def edit(change_manifest: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change_manifest(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def artifact_of(folder: Path) -> Path:
    return next((folder / "artifacts").iterdir())


def rewrite(
    choose: Callable[[Path], Path], alter: Callable[[bytes], bytes]
) -> Callable[[Path], object]:
    return lambda folder: choose(folder).write_bytes(alter(choose(folder).read_bytes()))


def flipped(content: bytes, at: float = 0.5) -> bytes:
    index = int(len(content) * at)
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


def into_link(folder: Path) -> None:
    artifact = artifact_of(folder)
    outside = folder.parent / "outside.pt"
    shutil.move(artifact, outside)
    artifact.symlink_to(outside)


def folder_link(folder: Path) -> None:
    outside = folder.parent / "outside"
    shutil.move(folder / "artifacts", outside)
    (folder / "artifacts").symlink_to(outside)


def foreign(write: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder)
        write(folder)

    return damage


def first_artifact(manifest: dict[str, Any]) -> dict[str, Any]:
    return dict.__getitem__(manifest, "artifacts")[0]  # type: ignore[no-any-return]


BAD_BUNDLES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), ("manifest.json",)),
    "empty manifest": (lambda f: (f / "manifest.json").write_text(""), ("manifest.json",)),
    "truncated manifest": (
        rewrite(lambda f: f / "manifest.json", lambda b: b[: len(b) // 2]),
        ("manifest.json",),
    ),
    "manifest of another program": (
        lambda f: (f / "manifest.json").write_text('{"a": 1}'),
        ("manifest.json",),
    ),
    "huge manifest": (
        lambda f: (f / "manifest.json").write_text(" " * (17 << 20)),
        ("manifest.json", "16"),
    ),
    "newer format": (edit(lambda m: m.update(format_version=99)), ("99", "newer")),
    "unknown dtype": (
        edit(lambda m: m["methods"][0]["inputs"][0].update(dtype="int63")),
        ("int63",),
    ),
    "unknown kind": (
        edit(lambda m: m["methods"][0]["inputs"][0].update(kind="text")),
        ("text",),
    ),
    "no methods": (edit(lambda m: m.update(methods=[])), ("methods",)),
    "undeclared dimension": (edit(lambda m: m["dims"].pop("batch")), ("batch",)),
    "path out of the bundle": (
        edit(lambda m: first_artifact(m)["files"][0].update(path="../outside.pt")),
        ("../outside.pt",),
    ),
    "absolute path": (
        edit(lambda m: first_artifact(m)["files"][0].update(path="/etc/passwd")),
        ("/etc/passwd",),
    ),
    "size changed": (edit(lambda m: first_artifact(m)["files"][0].update(size=7)), ("7",)),
    "negative size": (edit(lambda m: first_artifact(m)["files"][0].update(size=-7)), ("-7",)),
    "hash changed": (
        edit(lambda m: first_artifact(m)["files"][0].update(sha256="0" * 64)),
        ("sha256",),
    ),
    "hash cut short": (
        edit(lambda m: first_artifact(m)["files"][0].update(sha256="abc")),
        ("sha256",),
    ),
    "artifact missing": (lambda f: artifact_of(f).unlink(), (".pt",)),
    "artifact empty": (rewrite(artifact_of, lambda _: b""), (".pt",)),
    "artifact truncated": (rewrite(artifact_of, lambda b: b[:-9]), (".pt",)),
    "artifact with a byte more": (rewrite(artifact_of, lambda b: b + b"x"), (".pt",)),
    "artifact flipped at the start": (rewrite(artifact_of, lambda b: flipped(b, 0)), ("sha256",)),
    "artifact flipped in the middle": (rewrite(artifact_of, flipped), ("sha256",)),
    "artifact flipped at the end": (
        rewrite(artifact_of, lambda b: flipped(b, 0.9999)),
        ("sha256",),
    ),
    "artifact is a link": (into_link, ("symbolic link",)),
    "folder is a link": (folder_link, ("symbolic link",)),
    "artifact is a folder": (
        lambda f: (artifact_of(f).rename(f / "away"), (f / "artifacts" / "x").mkdir()),
        (".pt",),
    ),
    "golden flipped": (
        lambda f: [g.write_bytes(flipped(g.read_bytes())) for g in (f / "goldens").iterdir()],
        ("goldens/",),
    ),
    "goldens missing": (lambda f: shutil.rmtree(f / "goldens"), ("goldens/",)),
    "operator that is not there": (
        edit(lambda m: first_artifact(m)["operators"].update({"nowhere::op": 1})),
        ("nowhere::op",),
    ),
    "nothing": (lambda f: shutil.rmtree(f), ("nothing at", "isthmus export")),
    "empty folder": (foreign(Path.mkdir), ("manifest.json",)),
    "empty file": (foreign(Path.touch), ("empty",)),
    "text file": (foreign(lambda f: f.write_text("hello")), ("no bundle", "isthmus export")),
    "TorchScript file": (
        foreign(lambda f: torch.jit.save(torch.jit.script(nn.ReLU()), str(f))),
        ("TorchScript", "isthmus adopt"),
    ),
    "state dict": (
        foreign(lambda f: torch.save(nn.Linear(2, 2).state_dict(), f)),
        ("state dict", "isthmus export"),
    ),
    "old state dict": (
        foreign(
            lambda f: torch.save(
                nn.Linear(2, 2).state_dict(), f, _use_new_zipfile_serialization=False
            )
        ),
        ("old format", "isthmus export"),
    ),
    "exported program": (
        foreign(
            lambda f: (
                torch.export.save(
                    torch.export.export(nn.ReLU(), (torch.ones(2),)), f.with_suffix(".pt2")
                ),
                f.with_suffix(".pt2").rename(f),
            )
        ),
        ("torch.export.save", "isthmus adopt"),
    ),
}


@pytest.mark.parametrize("name", BAD_BUNDLES)
def test_bad_bundle(
    name: str,
    bundle: Path,
    driver: Driver,
    model: isthmus.Model,
    good_answer: np.ndarray[Any, Any],
    tmp_path: Path,
) -> None:
    damage, words = BAD_BUNDLES[name]
    bad = tmp_path / "bad"
    shutil.copytree(bundle, bad)
    damage(bad)

    with pytest.raises(errors.BundleError) as caught:
        isthmus.load(bad)
    assert words_missing(str(caught.value), words) == []
    np.testing.assert_array_equal(np.asarray(model(**good_inputs())), good_answer)

    kind, message = driver.ask("load", bad)
    assert kind == "BundleError", message
    assert words_missing(message, words) == []

    result = subprocess.run([install_paths.binary(), "verify", bad], text=True, capture_output=True)
    assert result.returncode == 3, result.stderr
    assert words_missing(result.stderr, words) == []


def test_there_are_at_least_sixty_cases() -> None:
    assert (
        len(BAD_CALLS) + len(BUILTIN) + len(OPTIONS) + len(BAD_FILES) + 1 + len(BAD_BUNDLES) >= 100
    )


# --- Python alone --------------------------------------------------------------------------------


def test_values_that_cannot_be_converted(model: isthmus.Model) -> None:
    inputs = {name: torch.from_numpy(np.asarray(value)) for name, value in good_inputs().items()}
    inputs["pixels"] = inputs["pixels"].to_sparse()
    with pytest.raises(errors.InvalidInput, match="pixels"):
        model(**inputs)
    with pytest.raises(errors.InvalidInput, match="pixels"):
        model(**{**good_inputs(), "pixels": "a string"})
    with pytest.raises(errors.InvalidInput, match="pixels"):
        model(**{**good_inputs(), "pixels": None})
    with pytest.raises(errors.InvalidInput, match="pixels"):
        model(**{**good_inputs(), "pixels": object()})


def test_non_contiguous_and_gradient_inputs_are_right(
    model: isthmus.Model, good_answer: np.ndarray[Any, Any]
) -> None:
    inputs = good_inputs()
    flipped_pixels = np.ascontiguousarray(inputs["pixels"].transpose(0, 2, 3, 1))
    view = flipped_pixels.transpose(0, 3, 1, 2)  # the same values, other strides
    assert not view.flags.c_contiguous
    np.testing.assert_array_equal(np.asarray(model(**{**inputs, "pixels": view})), good_answer)
    tensor = torch.from_numpy(inputs["pixels"]).requires_grad_()
    answer = model(**{**inputs, "pixels": tensor})
    assert isinstance(answer, torch.Tensor)
    assert not answer.requires_grad
    np.testing.assert_array_equal(answer.numpy(), good_answer)
