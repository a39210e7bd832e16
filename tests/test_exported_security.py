"""Malicious and damaged programs are refused before anything of them runs.

Each file is a good program with one change. Some are refused by the scan, which needs no LibTorch;
what only LibTorch can judge is refused at load, or ends the call with an error.
"""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus import _core
from isthmus.bundle.bundle import Bundle
from rewrite_manifest import rewrite_manifest
from test_exported import MODEL, exported, program_file

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
TOP = "exported-cpu-fp32/"

Documents = dict[str, Any]
Change = Callable[[Documents], None]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (self.layer(x).reshape(-1, 3),))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "b"
    return exported(Small(), (torch.randn(2, 4),), path)


def records_of(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def archive_of(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as opened:
        for name, content in records.items():
            opened.writestr(name, content)
    return stream.getvalue()


def changed(archive: bytes, document: str, change: Change) -> bytes:
    records = records_of(archive)
    content = json.loads(records[TOP + document])
    change(content)
    records[TOP + document] = json.dumps(content).encode()
    return archive_of(records)


def graph_of(document: Documents) -> dict[str, Any]:
    graph: dict[str, Any] = document["graph_module"]["graph"]
    return graph


def node_of(document: Documents, operator: str) -> dict[str, Any]:
    nodes = graph_of(document)["nodes"]
    return next(node for node in nodes if operator in node["target"])


def argument(document: Documents, operator: str, name: str) -> dict[str, Any]:
    inputs = node_of(document, operator)["inputs"]
    return next(given for given in inputs if given["name"] == name)


def signature_of(document: Documents) -> dict[str, Any]:
    signature: dict[str, Any] = document["graph_module"]["signature"]
    return signature


def weight(document: Documents) -> dict[str, Any]:
    meta: dict[str, Any] = document["config"]["holder.module.layer.weight"]["tensor_meta"]
    return meta


def payload(document: Documents) -> dict[str, Any]:
    entry: dict[str, Any] = document["config"]["holder.module.layer.weight"]
    return entry


def retarget(name: str) -> Change:
    return lambda document: node_of(document, "linear").update(target=name)


def nested(document: Documents) -> None:
    node = node_of(document, "cond")
    for _ in range(40):
        [place] = [i for i, given in enumerate(node["inputs"]) if "as_graph" in given["arg"]][:1]
        inner = node["inputs"][place]["arg"]["as_graph"]["graph"]
        copied = json.loads(json.dumps(node))
        copied["inputs"][0]["arg"] = {"as_bool": True}
        copied["inputs"][3]["arg"] = {"as_tensors": []}
        copied["outputs"] = []
        inner["nodes"].append(copied)
        node = copied


MODEL_CHANGES: dict[str, tuple[Change, str]] = {
    "a name that is not defined": (
        lambda d: argument(d, "linear", "input").update(arg={"as_tensor": {"name": "ghost"}}),
        "the name of a value that was defined before",
    ),
    "a name that is defined later": (
        lambda d: graph_of(d)["nodes"].reverse(), "defined before",
    ),
    "a name that is defined twice": (
        lambda d: graph_of(d)["nodes"].append(graph_of(d)["nodes"][0]),
        "a name that no other value of the graph has",
    ),
    "an operator that writes files": (retarget("torch.ops.aten.save.default"), "writes a file"),
    "an operator that maps files": (retarget("torch.ops.aten.from_file.default"), "maps a file"),
    "an operator over other memory": (
        retarget("torch.ops.aten.set_.source_Storage"), "lays a tensor over other memory",
    ),
    "an internal kernel": (
        retarget("torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default"),
        "trusts its arguments",
    ),
    "an operator of other processes": (
        retarget("torch.ops._c10d_functional.all_reduce.default"), "talks to other processes",
    ),
    "an unknown operator of torch": (
        retarget("torch.ops.aten.unheard.default"), "not on the list of pure ones",
    ),
    "an operator of a library": (
        retarget("torch.ops.evil.run.default"), "comes from a library that is not loaded",
    ),
    "a function of Python": (retarget("os.system"), r"is no operator that C\+\+ has"),
    "a builtin of Python": (retarget("builtins.eval"), r"is no operator that C\+\+ has"),
    "a target with too many parts": (
        retarget("torch.ops.aten.linear.default.more"), r"is no operator that C\+\+ has",
    ),
    "a target without parts": (retarget("torch.ops.aten"), r"is no operator that C\+\+ has"),
    "an empty target": (retarget(""), "a printable string of 1 to 1024 bytes"),
    "a Triton kernel": (
        retarget("torch.ops.higher_order.triton_kernel_wrapper_functional"),
        "not one that the engine runs",
    ),
    "a custom object": (
        lambda d: argument(d, "linear", "input").update(
            arg={"as_custom_obj": {"name": "o", "class_fqn": "c"}}
        ),
        r"a value that C\+\+ can hold",
    ),
    "an operator as argument": (
        lambda d: argument(d, "linear", "input").update(arg={"as_operator": "torch.ops.aten.save"}),
        r"a value that C\+\+ can hold",
    ),
    "a union of two kinds": (
        lambda d: argument(d, "linear", "input")["arg"].update(as_int=1),
        "an object with one member",
    ),
    "a union of none": (
        lambda d: argument(d, "linear", "input").update(arg={}), "an object with one member",
    ),
    "an integer beyond 64 bits": (
        lambda d: argument(d, "linear", "input").update(arg={"as_int": 2**70}), "an integer from",
    ),
    "a text in the place of an integer": (
        lambda d: argument(d, "linear", "input").update(arg={"as_int": "1"}), "an integer from",
    ),
    "graphs nested 40 deep": (nested, "nested"),
    "no nodes": (lambda d: graph_of(d).pop("nodes"), "nodes: it is missing"),
    "an input without a spec": (
        lambda d: signature_of(d)["input_specs"].pop(), "one entry for each input",
    ),
    "an output without a spec": (
        lambda d: signature_of(d)["output_specs"].pop(), "one entry for each output",
    ),
    "a weight at another input's place": (
        lambda d: signature_of(d)["input_specs"].reverse(), "the graph's input at the same place",
    ),
    "a weight that is not stored": (
        lambda d: signature_of(d)["input_specs"][0]["parameter"].update(parameter_name="ghost"),
        "the name of a stored tensor",
    ),
    "an input that is a custom object": (
        lambda d: signature_of(d)["input_specs"].__setitem__(0, {"custom_obj": {}}),
        "a user input, a parameter",
    ),
    "an output that is a gradient": (
        lambda d: signature_of(d)["output_specs"].__setitem__(
            0, {"gradient_to_parameter": {"arg": {"name": "x"}, "parameter_name": "w"}}
        ),
        "a user output",
    ),
    "the new value of a buffer that is not stored": (
        lambda d: signature_of(d)["output_specs"].__setitem__(
            0, {"buffer_mutation": {"arg": {"name": "x"}, "buffer_name": "ghost"}}
        ),
        "the name of a stored buffer",
    ),
    "another major version": (
        lambda d: d["schema_version"].update(major=7), "version 7",
    ),
    "a version that is no number": (
        lambda d: d["schema_version"].update(major="8"), "an integer from",
    ),
}  # fmt: skip

WEIGHT_CHANGES: dict[str, tuple[Change, str]] = {
    "a negative size": (lambda d: weight(d)["sizes"][0].update(as_int=-3), "an integer from 0"),
    "a negative stride": (lambda d: weight(d)["strides"][0].update(as_int=-4), "an integer from 0"),
    "a size beyond the record": (
        lambda d: weight(d)["sizes"][0].update(as_int=4), "lies within its record",
    ),
    "an offset beyond the record": (
        lambda d: weight(d)["storage_offset"].update(as_int=1), "lies within its record",
    ),
    "an offset that overflows": (
        lambda d: weight(d)["storage_offset"].update(as_int=2**63 - 1), "lies within its record",
    ),
    "sizes whose product overflows": (
        lambda d: [size.update(as_int=2**62) for size in weight(d)["sizes"]],
        "lies within its record",
    ),
    "a stride that overflows": (
        lambda d: weight(d)["strides"][0].update(as_int=2**63 - 1), "lies within its record",
    ),
    "a larger dtype": (lambda d: weight(d).update(dtype=8), "lies within its record"),
    "an unknown dtype": (lambda d: weight(d).update(dtype=99), "lies within its record"),
    "a sparse layout": (lambda d: weight(d).update(layout=1), r"7 \(strided\)"),
    "a symbolic size": (
        lambda d: weight(d)["sizes"].__setitem__(0, {"as_expr": {"expr_str": "s0"}}),
        "as_int: it is missing",
    ),
    "fewer strides than sizes": (lambda d: weight(d)["strides"].pop(), "a stride for each"),
    "65 dimensions": (
        lambda d: weight(d).update(sizes=[{"as_int": 1}] * 65, strides=[{"as_int": 1}] * 65),
        "a stride for each of at most 64 sizes",
    ),
    "a record that is not there": (
        lambda d: payload(d).update(path_name="weight_9"), "the name of a record",
    ),
    "a record outside its folder": (
        lambda d: payload(d).update(path_name="../../models/model.json"),
        "the name of a record",
    ),
    "a pickled weight": (lambda d: payload(d).update(use_pickle=True), "stored as a pickle"),
    "a list in the place of the config": (
        lambda d: d.__setitem__("config", []), "expected an object",
    ),
}  # fmt: skip


def refused(archive: bytes) -> str:
    scan = _core.scan_exported_program(archive)
    assert scan.refused
    text: str = scan.describe()
    return text


@pytest.mark.parametrize("name", MODEL_CHANGES)
def test_a_changed_graph_is_refused(good: Bundle, name: str) -> None:
    change, message = MODEL_CHANGES[name]
    text = refused(changed(program_file(good).read_bytes(), MODEL, change))
    assert re.search(message, text), text


@pytest.mark.parametrize("name", WEIGHT_CHANGES)
def test_a_changed_weight_is_refused(good: Bundle, name: str) -> None:
    change, message = WEIGHT_CHANGES[name]
    text = refused(changed(program_file(good).read_bytes(), WEIGHTS, change))
    assert re.search(message, text), text


def without(records: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: content for key, content in records.items() if key != TOP + name}


def with_duplicate(records: dict[str, bytes]) -> bytes:
    stream = io.BytesIO(archive_of(records))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(stream, "a") as opened:
        opened.writestr(TOP + MODEL, b"{}")
    return stream.getvalue()


ARCHIVES: dict[str, tuple[Callable[[bytes, dict[str, bytes]], bytes], str]] = {
    "an empty file": (lambda _, __: b"", "zip"),
    "half of the file": (lambda archive, _: archive[: len(archive) // 2], "zip"),
    "no archive": (lambda _, __: b"PK" + bytes(100), "zip"),
    "something after the archive": (lambda archive, _: archive + bytes(64), ""),
    "something before the archive": (lambda archive, _: bytes(64) + archive, ""),
    "deflated records": (
        lambda _, records: archive_of(records, zipfile.ZIP_DEFLATED), "compress|method|deflat",
    ),
    "two records of one name": (lambda _, records: with_duplicate(records), "name"),
    "a record outside the folder": (
        lambda _, records: archive_of({**records, "evil.txt": b""}), "outside the archive's folder",
    ),
    "a second folder": (
        lambda _, records: archive_of({**records, "other/x": b""}), "a second folder",
    ),
    "a name that leads out": (
        lambda _, records: archive_of({**records, TOP + "../../etc/passwd": b""}), "",
    ),
    "two programs": (
        lambda _, records: archive_of({**records, TOP + "models/b.json": b"{}"}),
        "more than one program",
    ),
    "no program": (lambda _, records: archive_of(without(records, MODEL)), "no program"),
    "native code": (
        lambda _, records: archive_of({**records, TOP + "data/aotinductor/m/m.so": b""}),
        "native code",
    ),
    "no list of weights": (lambda _, records: archive_of(without(records, WEIGHTS)), "missing"),
    "no list of constants": (
        lambda _, records: archive_of(without(records, CONSTANTS)), "missing",
    ),
    "a graph that is no JSON": (
        lambda _, records: archive_of({**records, TOP + MODEL: b"{" * 10}), "not valid JSON",
    ),
    "a graph that is nested 100,000 deep": (
        lambda _, records: archive_of({**records, TOP + MODEL: b"[" * 100_000}), "nested deeper",
    ),
    "a key that stands twice": (
        lambda _, records: archive_of({**records, TOP + MODEL: b'{"a": 1, "a": 2}'}),
        "stands twice",
    ),
    "a graph that is a list": (
        lambda _, records: archive_of({**records, TOP + MODEL: b"[]"}), "expected an object",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_changed_archive_is_refused(good: Bundle, name: str) -> None:
    make, message = ARCHIVES[name]
    archive = program_file(good).read_bytes()
    text = refused(make(archive, records_of(archive)))
    assert re.search(message, text), text


def test_a_wrong_checksum_is_refused(good: Bundle) -> None:
    archive = bytearray(program_file(good).read_bytes())
    at = archive.find(b'"aten.linear') if b'"aten.linear' in archive else archive.find(b"linear")
    archive[at : at + 6] = b"linier"
    assert "checksum" in refused(bytes(archive))


LOAD_CHANGES: dict[str, tuple[Change, str]] = {
    "an argument of another type": (
        lambda d: argument(d, "reshape", "shape").update(arg={"as_string": "-1, 3"}),
        "another kind of value",
    ),
    "an argument that is not there": (
        lambda d: argument(d, "linear", "bias").update(name="biases"), "has no argument",
    ),
    "no argument": (
        lambda d: node_of(d, "linear")["inputs"].pop(0), "lacks the argument",
    ),
    "an argument twice": (
        lambda d: node_of(d, "linear")["inputs"].append(node_of(d, "linear")["inputs"][0]),
        "twice",
    ),
    "more results": (
        lambda d: node_of(d, "linear")["outputs"].append({"as_tensor": {"name": "more"}}),
        "gives 1 values here, and the program expects 2",
    ),
    "a dtype that is not there": (
        lambda d: graph_of(d)["nodes"].append(
            {
                "target": "torch.ops.aten.to.dtype",
                "inputs": [
                    {"name": "self", "arg": {"as_tensor": {"name": "x"}}},
                    {"name": "dtype", "arg": {"as_scalar_type": 99}},
                ],
                "outputs": [{"as_tensor": {"name": "other"}}],
                "metadata": {},
            }
        ),
        "does not know",
    ),
    "a cond without its second graph": (
        lambda d: node_of(d, "cond")["inputs"].pop(2), "has other arguments than expected",
    ),
}  # fmt: skip

CALL_CHANGES: dict[str, tuple[Change, str]] = {
    "a number where a tensor belongs": (
        lambda d: argument(d, "reshape", "self").update(arg={"as_sym_int": {"as_int": 3}}),
        "reshape",
    ),
    "a shape that does not fit": (
        lambda d: argument(d, "reshape", "shape").update(arg={"as_ints": [-1, 7]}), "reshape",
    ),
    "a condition that is a matrix": (
        lambda d: node_of(d, "cond")["inputs"][0].update(
            arg={"as_tensor": {"name": "x"}}
        ),
        "cond",
    ),
}  # fmt: skip


def folder_with(good: Bundle, folder: Path, archive: bytes) -> Path:
    """Returns a copy of the bundle whose program is the archive, with a fitting manifest."""
    copied = shutil.copytree(good.path, folder / "b")
    (copied / good.manifest.artifacts[0].files[0].path).write_bytes(archive)
    with rewrite_manifest(copied) as manifest:
        manifest["artifacts"][0]["proofs"] = []
    return copied


@pytest.mark.parametrize("name", LOAD_CHANGES)
def test_what_libtorch_does_not_have_is_refused_at_load(
    good: Bundle, tmp_path: Path, name: str
) -> None:
    change, message = LOAD_CHANGES[name]
    archive = changed(program_file(good).read_bytes(), MODEL, change)
    with pytest.raises(isthmus.BundleError, match=message):
        isthmus.load(folder_with(good, tmp_path, archive), unproven="allow", warmup=False)


@pytest.mark.parametrize("name", CALL_CHANGES)
def test_what_only_the_call_shows_is_an_error_of_the_call(
    good: Bundle, tmp_path: Path, name: str
) -> None:
    change, message = CALL_CHANGES[name]
    archive = changed(program_file(good).read_bytes(), MODEL, change)
    model = isthmus.load(folder_with(good, tmp_path, archive), unproven="allow", warmup=False)
    for _ in range(2):
        with pytest.raises(isthmus.ExecutionError, match=message):
            model(torch.randn(2, 4))


def test_no_mutant_of_a_file_gives_wrong_numbers(good: Bundle, tmp_path: Path) -> None:
    """A file that is damaged anywhere has another digest, which is compared before it is used."""
    archive = program_file(good).read_bytes()
    folder = folder_with(good, tmp_path, archive)
    file = folder / good.manifest.artifacts[0].files[0].path
    generator = random.Random(0)
    for _ in range(1000):
        mutant = bytearray(archive)
        for _ in range(generator.randint(1, 4)):
            mutant[generator.randrange(len(mutant))] ^= 1 << generator.randrange(8)
        if bytes(mutant) == archive:
            continue
        file.write_bytes(mutant)
        with pytest.raises(isthmus.BundleError):
            isthmus.load(folder, unproven="allow", warmup=False)


def test_mutants_with_good_checksums_end_the_scan_or_a_call_and_never_the_process(
    good: Bundle, tmp_path: Path
) -> None:
    """The documents are changed at random, and the checksums with them, past every digest."""
    records = records_of(program_file(good).read_bytes())
    generator = random.Random(1)
    scanned = 0
    for _ in range(2000):
        name = generator.choice([TOP + MODEL, TOP + WEIGHTS])
        text = bytearray(records[name])
        for _ in range(generator.randint(1, 3)):
            at = generator.randrange(len(text))
            text[at : at + 1] = generator.choice([b"0", b"9", b'"', b"-", b"a", b"", b"}", b"1e9"])
        archive = archive_of({**records, name: bytes(text)})
        scan = _core.scan_exported_program(archive)
        if scan.refused:
            continue
        scanned += 1
        if scanned > 60:
            continue
        path = tmp_path / str(scanned)
        path.mkdir()
        try:
            isthmus.load(folder_with(good, path, archive), unproven="allow", warmup=False)(
                torch.randn(2, 4)
            )
        except isthmus.Error:
            continue
    assert scanned > 20
