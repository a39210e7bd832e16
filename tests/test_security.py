"""Malicious files with correct hashes have no effect.

Each file replaces the artifact of a good bundle, the manifest is adapted to it, and it is opened by
Python, `isthmus-run`, `adopt` and `inspect`. Another test proves that the attack works with plain
`torch.jit.load` or pickle.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.errors import BundleError, EngineUnavailable
from isthmus.runtime import install_paths
from rewrite_manifest import rewrite_manifest


class SaveInForward(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, input: Tensor) -> Tensor:
        torch.ops.aten.save(input, self.path)
        return input


class SaveWhenNegative(SaveInForward):
    def forward(self, input: Tensor) -> Tensor:
        if bool(input.sum() < 0):
            torch.ops.aten.save(input, self.path)
        return input


class SaveInLoop(SaveInForward):
    def forward(self, input: Tensor) -> Tensor:
        for _ in range(2):
            torch.ops.aten.save(input, self.path)
        return input


@torch.jit.script
def save_to(value: Tensor, path: str) -> Tensor:
    torch.ops.aten.save(value, path)
    return value


class SaveInFunction(SaveInForward):
    def forward(self, input: Tensor) -> Tensor:
        return save_to(input, self.path)


@torch.jit.script
class Saver:
    def __init__(self, path: str) -> None:
        self.path = path

    def keep(self, value: Tensor) -> Tensor:
        torch.ops.aten.save(value, self.path)
        return value


class SaveInClass(SaveInForward):
    def forward(self, input: Tensor) -> Tensor:
        return Saver(self.path).keep(input)


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input: Tensor) -> Tensor:
        return self.inner(input)


class SaveInOtherMethod(SaveInForward):
    def forward(self, input: Tensor) -> Tensor:
        return input

    @torch.jit.export
    def extra(self, input: Tensor) -> Tensor:
        torch.ops.aten.save(input, self.path)
        return input


class SaveInFork(SaveInForward):
    def forward(self, input: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(save_to, input, self.path))


class SaveAtLoad(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.weight = nn.Parameter(torch.ones(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, str, bool]:
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.weight = state[0]
        self.path = state[1]
        self.training = state[2]
        torch.ops.aten.save(state[0], state[1])

    def forward(self, input: Tensor) -> Tensor:
        return input


class MakeFile(SaveInForward):
    """Maps a file that does not exist, which creates it."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.from_file(self.path, True, 3).clone().sum() + input


class Tame(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return input + torch.ones(1)


def scripted(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), buffer)
    return buffer.getvalue()


def repacked(
    archive: bytes,
    change: Callable[[str, bytes], bytes] = lambda _, content: content,
    *,
    add: dict[str, bytes] | None = None,
    rename: Callable[[str], str] = lambda name: name,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """Returns the archive with changed content; `add` has entries to add beneath its root."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for info in old.infolist():
            content = change(info.filename, old.read(info))
            new.writestr(rename(info.filename), content, compress_type=compression)
        for name, content in (add or {}).items():
            new.writestr(name if name.startswith(".") else f"{root}/{name}", content)
    return buffer.getvalue()


class Spawn:
    """A pickle that creates a folder in the process that unpickles it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (self.path,)


def with_pickle(record: str) -> Callable[[str], bytes]:
    def make(marker: str) -> bytes:
        payload = pickle.dumps(Spawn(marker), protocol=2)
        return repacked(
            scripted(Tame()), lambda name, old: payload if name.endswith("/" + record) else old
        )

    return make


def with_line(line: str) -> Callable[[str], bytes]:
    """Returns a function that adds a statement to the code of a good archive."""

    def make(marker: str) -> bytes:
        def change(name: str, old: bytes) -> bytes:
            if name.endswith(".py"):
                statement = f"    {line.replace('MARKER', marker)}\n    return "
                return old.decode().replace("    return ", statement, 1).encode()
            return old

        return repacked(scripted(Tame()), change)

    return make


def duplicated(marker: str) -> bytes:
    """Returns an archive with two entries of one name, of which readers choose different ones."""
    good, bad = scripted(Tame()), scripted(SaveInForward(marker))
    with zipfile.ZipFile(io.BytesIO(bad)) as archive:
        evil = {
            name.partition("/")[2]: archive.read(name)
            for name in archive.namelist()
            if name.endswith((".py", "data.pkl"))
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return repacked(good, add=evil)


def in_front(marker: str) -> bytes:
    """Returns two archives in a row: zip readers from the front and from the back disagree."""
    return scripted(SaveInForward(marker)) + scripted(Tame())


def bomb(_: str) -> bytes:
    """Returns an archive of deflated zeros, a thousand times larger in memory than on disk."""
    zeros = bytes(64 << 20)
    archive = scripted(Tame())
    return repacked(archive, add={"data/0": zeros}, compression=zipfile.ZIP_DEFLATED)


def claims_to_be_huge(_: str) -> bytes:
    """Returns an archive whose central directory claims an entry of 4 GB."""
    archive = bytearray(scripted(Tame()))
    at = archive.find(b"PK\x01\x02")
    struct.pack_into("<II", archive, at + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    return bytes(archive)


def outside_storage(_: str) -> bytes:
    """Returns an archive with a tensor larger than its storage, which would read the heap."""

    class Leaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("leak", torch.zeros(200))

        def forward(self, input: Tensor) -> Tensor:
            return input + self.leak.sum()

    def change(name: str, old: bytes) -> bytes:
        return old[: len(old) // 8] if name.endswith("/data/0") else old

    return repacked(scripted(Leaking()), change)


def flatbuffer(_: str) -> bytes:
    return struct.pack("<I", 16) + b"PTMF" + bytes(64)


@dataclass(frozen=True)
class Attack:
    name: str
    make: Callable[[str], bytes]
    words: tuple[str, ...]
    """The words in the message of the refusal."""
    fires: str = ""
    """The step in which plain tools create the marker: "load", "run", "run negative", "extra" or
    "unpickle"."""


ATTACKS = (
    Attack("save in forward", lambda m: scripted(SaveInForward(m)), ("aten::save",), "run"),
    Attack(
        "save in a branch no golden takes",
        lambda m: scripted(SaveWhenNegative(m)),
        ("aten::save",),
        "run negative",
    ),
    Attack("save in a loop", lambda m: scripted(SaveInLoop(m)), ("aten::save",), "run"),
    Attack("save in a function", lambda m: scripted(SaveInFunction(m)), ("aten::save",), "run"),
    Attack("save in a class", lambda m: scripted(SaveInClass(m)), ("aten::save",), "run"),
    Attack(
        "save in a submodule", lambda m: scripted(Holder(SaveInForward(m))), ("aten::save",), "run"
    ),
    Attack("save in a fork", lambda m: scripted(SaveInFork(m)), ("aten::save",), "run"),
    Attack(
        "save in another method",
        lambda m: scripted(SaveInOtherMethod(m)),
        ("aten::save",),
        "extra",
    ),
    Attack("save during the load", lambda m: scripted(SaveAtLoad(m)), ("aten::save",), "load"),
    Attack(
        "save during the load of a submodule",
        lambda m: scripted(Holder(SaveAtLoad(m))),
        ("aten::save",),
        "load",
    ),
    Attack("a file is mapped", lambda m: scripted(MakeFile(m)), ("aten::from_file",), "run"),
    Attack("save by edited code", with_line('ops.aten.save(input, "MARKER")'), ("save",), "run"),
    Attack("save as torch's own", with_line('torch.save(input, "MARKER")'), ("save",), "run"),
    Attack(
        "save behind a semicolon",
        with_line('x = 1; ops.aten.save(input, "MARKER")'),
        ("aten::save",),
    ),
    Attack(
        "save split over lines",
        with_line('ops.aten.\\\n    save(input, "MARKER")'),
        ("backslash",),
    ),
    Attack("unknown operator", with_line("x = ops.nowhere.run(input)"), ("nowhere::run",)),
    Attack("class from a library", with_line("x = torch.classes.evil.Run()"), ("evil",)),
    Attack("pickle runs a function (data)", with_pickle("data.pkl"), ("data.pkl",), "unpickle"),
    Attack(
        "pickle runs a function (constants)",
        with_pickle("constants.pkl"),
        ("constants.pkl",),
        "unpickle",
    ),
    Attack("two entries of one name", duplicated, ("same name",)),
    Attack("one archive before another", in_front, ()),
    Attack("an entry outside", lambda _: repacked(scripted(Tame()), add={"../evil": b"x"}), ()),
    Attack("a zip bomb", bomb, ("deflate",)),
    Attack(
        "deflated entries",
        lambda _: repacked(scripted(Tame()), compression=zipfile.ZIP_DEFLATED),
        ("deflate",),
    ),
    Attack("a size of four gigabytes", claims_to_be_huge, ()),
    Attack("a tensor beyond its storage", outside_storage, ("storage",)),
    Attack("a flatbuffer", flatbuffer, ("flatbuffer",)),
    Attack("half an archive", lambda _: scripted(Tame())[:-200], ()),
    Attack("no archive at all", lambda _: b"\x00" * 4096, ()),
)


@pytest.fixture(scope="module")
def tame(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("security") / "tame"
    return isthmus.export(Tame().eval(), (torch.ones(3),), path=path)


def put_in(bundle: Path, content: bytes) -> None:
    """Replaces the artifact, with its size and hash in the manifest."""
    with rewrite_manifest(bundle) as manifest:
        (bundle / manifest["artifacts"][0]["files"][0]["path"]).write_bytes(content)


PLAIN = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
module = torch.jit.load(sys.argv[1])
how = sys.argv[2]
if how == "load":
    sys.exit()
value = torch.ones(3)
if how == "extra":
    module.extra(value)
else:
    module(-value if how == "run negative" else value)
"""

UNPICKLE = """
import pickle, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    for name in archive.namelist():
        if name.endswith(sys.argv[2]):
            pickle.loads(archive.read(name))
"""


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.fires], ids=lambda a: a.name)
def test_the_attack_is_real(attack: Attack, tmp_path: Path) -> None:
    marker, file = tmp_path / "marker", tmp_path / "model.pt"
    file.write_bytes(attack.make(str(marker)))
    assert not marker.exists()
    if attack.fires == "unpickle":
        record = "data.pkl" if "(data)" in attack.name else "constants.pkl"
        subprocess.run([sys.executable, "-c", UNPICKLE, file, record], check=True)
    else:
        subprocess.run([sys.executable, "-c", PLAIN, file, attack.fires])
    assert marker.exists()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_nothing_happens(attack: Attack, tame: Bundle, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    bundle, file = tmp_path / "bundle", tmp_path / "model.pt"
    content = attack.make(str(marker))
    shutil.copytree(tame.path, bundle)
    put_in(bundle, content)
    file.write_bytes(content)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    with pytest.raises(BundleError) as caught:
        isthmus.load(bundle)
    for word in attack.words:
        assert word in str(caught.value)

    for command in ("verify", "bench"):
        run = subprocess.run(
            [install_paths.binary(), command, bundle], capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 3, run.stdout + run.stderr

    with pytest.raises(BundleError):
        isthmus.adopt(file, {"input": torch.ones(3)}, output=tmp_path / "adopted")
    with contextlib.suppress(BundleError):  # a damaged file has nothing to show
        isthmus.inspect(file)
    with pytest.raises(BundleError):
        isthmus.inspect(file, graph=True)
    if attack.fires in ("load", "unpickle"):
        assert not isthmus.verify(bundle)

    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_only_trust_of_a_program_lets_it_run(tame: Bundle, tmp_path: Path) -> None:
    bundle, marker = tmp_path / "bundle", tmp_path / "marker"
    shutil.copytree(tame.path, bundle)
    put_in(bundle, scripted(SaveInForward(str(marker))))
    for trust in ("data", "graph"):
        with pytest.raises(BundleError):
            isthmus.load(bundle, trust=trust)
    assert not marker.exists()
    isthmus.load(bundle, trust="native")(torch.ones(3))
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_quantised_module_prepacks_at_load_and_passes(tmp_path: Path) -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.ao.quantization.quantize_dynamic(
                nn.Sequential(nn.Linear(8, 8)), {nn.Linear}, dtype=torch.qint8
            )

        def forward(self, input: Tensor) -> Tensor:
            return self.linear(input)

    torch.manual_seed(0)
    bundle = isthmus.export(Quantised().eval(), (torch.randn(2, 8),), path=tmp_path / "q")
    assert "code/__torch__/torch/classes/quantized.py" in isthmus.inspect(bundle.path).code
    assert isthmus.verify(bundle)


def test_a_pure_state_of_its_own_passes(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((3,), 2.0))

        @torch.jit.export
        def __getstate__(self) -> tuple[Tensor, bool]:
            return self.weight / 2, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[Tensor, bool]) -> None:
            self.weight = state[0] * 2
            self.training = state[1]

        def forward(self, input: Tensor) -> Tensor:
            return input * self.weight

    file = tmp_path / "doubled.pt"
    file.write_bytes(scripted(Doubled()))
    bundle = isthmus.adopt(file, {"input": torch.ones(3)}, output=tmp_path / "b")
    assert "__setstate__" in "".join(isthmus.inspect(bundle.path).code.values())
    assert torch.equal(isthmus.load(bundle.path)(torch.ones(3)), torch.full((3,), 2.0))


def test_a_library_beside_the_model_is_never_opened(tame: Bundle, tmp_path: Path) -> None:
    """A library that the manifest names is opened only when the caller names it too."""
    marker = tmp_path / "marker"
    source = tmp_path / "evil.c"
    source.write_text(
        "#include <stdio.h>\n"
        "__attribute__((constructor)) static void run(void) "
        f'{{ fclose(fopen("{marker}", "w")); }}\n'
    )
    bundle = tmp_path / "bundle"
    shutil.copytree(tame.path, bundle)
    library = bundle / "artifacts" / "libevil.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    put_in(bundle, with_line("x = ops.evil.run(input)")(""))
    with rewrite_manifest(bundle) as manifest:
        artifact = manifest["artifacts"][0]
        artifact["files"].append({"path": "artifacts/libevil.so"})
        artifact["op_libraries"] = ["libevil.so"]
        artifact["operators"]["evil::run"] = 1
    with pytest.raises((BundleError, EngineUnavailable)):
        isthmus.load(bundle)
    run = subprocess.run(
        [install_paths.binary(), "verify", bundle], cwd=bundle, capture_output=True
    )
    assert run.returncode != 0
    assert not marker.exists()


def test_the_bundle_cannot_name_code_to_import(tame: Bundle, tmp_path: Path) -> None:
    bundle, marker = tmp_path / "bundle", tmp_path / "marker"
    shutil.copytree(tame.path, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["source"] = {"kind": "factory", "factory": "evil_factory:make"}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "evil_factory.py").write_text(f'open({str(marker)!r}, "w").close()\n')
    for command in (["verify"], ["bench", "--json", "--rounds", "2"]):
        run = subprocess.run(
            [sys.executable, "-m", "isthmus", *command, bundle],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert run.returncode == 0, run.stdout + run.stderr
    assert "evil_factory:make" in run.stdout
    assert not marker.exists()


def test_a_huge_header_is_not_believed(tame: Bundle, tmp_path: Path) -> None:
    """A golden that claims terabytes is refused before memory is allocated."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tame.path, bundle)
    header = json.dumps(
        {"steps.0.inputs.input": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    ).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(16)
    with rewrite_manifest(bundle) as manifest:
        (bundle / manifest["goldens"][0]["file"]["path"]).write_bytes(content)
    tracemalloc.start()
    with pytest.raises(BundleError):
        isthmus.load(bundle)
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()
    run = subprocess.run([install_paths.binary(), "verify", bundle], capture_output=True)
    assert run.returncode == 3
