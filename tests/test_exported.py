"""The exported format: programs of `torch.export`, interpreted by C++ on LibTorch's dispatcher."""

from __future__ import annotations

import json
import shutil
import warnings
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
from test_mapped_weights import Tied, mappings

MODEL = "models/model.json"

Edit = Callable[[dict[str, Any]], None]
"""Changes the graph of a program's JSON document in place."""


def exported(module: nn.Module, args: tuple[Any, ...], path: Path, **options: Any) -> Bundle:
    return isthmus.export(module.eval(), args, path=path, formats=("exported",), **options)


def program_file(bundle: Bundle) -> Path:
    return bundle.path / bundle.manifest.artifacts[0].files[0].path


def replace_record(file: Path, ending: str, content: bytes) -> None:
    """Writes a program anew with another record."""
    with zipfile.ZipFile(file) as archive:
        records = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, old in records:
            archive.writestr(name, content if name.endswith(ending) else old)


def replace_document(file: Path, ending: str, document: object) -> None:
    """Writes a program anew with another JSON document."""
    replace_record(file, ending, json.dumps(document).encode())


def read_document(file: Path, ending: str) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith(ending))
        document: dict[str, Any] = json.loads(archive.read(name))
    return document


def edited(bundle: Bundle, folder: Path, edit: Edit) -> Path:
    """Copies a bundle to a folder and changes its program, and the manifest with it."""
    shutil.copytree(bundle.path, folder)
    file = folder / bundle.manifest.artifacts[0].files[0].path
    document = read_document(file, MODEL)
    edit(document["graph_module"]["graph"])
    replace_document(file, MODEL, document)
    with rewrite_manifest(folder) as manifest:
        manifest["artifacts"][0]["proofs"] = []
    return folder


def loaded(path: Path) -> isthmus.Model:
    return isthmus.load(path, engine="exported", unproven="allow", warmup=False)


class Add(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, 1.0)


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(Add(), (torch.zeros(3),), tmp_path_factory.mktemp("adding") / "b")


class Branches(nn.Module):
    """Takes a branch by a value, loops as long as a value says, and goes through rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.cond(x.sum() > 0, torch.sin, lambda value: self.layer(value), (x,))

        def more(step: Tensor, value: Tensor) -> Tensor:
            return step < count

        def halve(step: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            return step + 1, value * 0.5

        start = torch.zeros((), dtype=torch.int64)
        _, looped = torch.while_loop(more, halve, (start, hidden))
        return hidden, looped


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    return exported(
        Branches(),
        (torch.randn(5, 4), torch.tensor(3)),
        tmp_path_factory.mktemp("branches") / "b",
        dynamic={"x": {0: "batch"}},
    )


def test_control_flow_that_a_trace_cannot_hold(branches: Bundle) -> None:
    assert branches.manifest.artifacts[0].trust == "graph"
    model = isthmus.load(branches.path)
    assert model.load_report.engine == "exported"
    torch.manual_seed(0)
    module = Branches().eval()
    for sign in (1.0, -1.0):
        for count in (0, 1, 7):
            x = sign * torch.rand(3, 4)
            with torch.no_grad():
                expected = module(x, torch.tensor(count))
            for output, wanted in zip(model(x, torch.tensor(count)), expected, strict=True):
                torch.testing.assert_close(output, wanted, rtol=0, atol=0)


def test_the_file_is_one_that_torch_reads(branches: Bundle) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(program_file(branches))
    x = torch.randn(2, 4)
    expected = program.module(check_guards=False)(x, torch.tensor(2))
    model = isthmus.load(branches.path)
    for output, wanted in zip(model(x, torch.tensor(2)), expected, strict=True):
        torch.testing.assert_close(output, wanted, rtol=0, atol=0)


def test_the_pickle_of_sample_inputs_is_empty_and_is_not_read(
    branches: Bundle, tmp_path: Path
) -> None:
    folder = shutil.copytree(branches.path, tmp_path / "b")
    file = folder / branches.manifest.artifacts[0].files[0].path
    with zipfile.ZipFile(file) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".pt")]
        assert len(archive.read(name)) < 1000
    replace_record(file, name, b"no pickle")
    with rewrite_manifest(folder):
        pass
    isthmus.load(folder)(torch.randn(2, 4), torch.tensor(2))


class Rows(nn.Module):
    """A cumulative sum by torch's scan, and a function of each row by its map."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from torch._higher_order_ops.map import map as map_rows
        from torch._higher_order_ops.scan import scan

        def add(total: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            return total + row, total * row

        last, products = scan(add, torch.zeros(3), x)
        return last, products, map_rows(lambda row: row.cos(), x)


def test_graphs_that_go_through_rows(tmp_path: Path) -> None:
    bundle = exported(Rows(), (torch.randn(4, 3),), tmp_path / "b")
    x = torch.randn(4, 3)
    for output, wanted in zip(isthmus.load(bundle.path)(x), Rows()(x), strict=True):
        torch.testing.assert_close(output, wanted, rtol=0, atol=0)


class Mixed(nn.Module):
    """Computes in bfloat16 inside an autocast block, and without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            hidden = self.layer(x)
        return hidden.float() + self.layer(x)


def test_autocast_blocks_keep_their_types(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Mixed().eval()
    bundle = exported(module, (torch.randn(2, 8),), tmp_path / "b")
    x = torch.randn(2, 8)
    with torch.no_grad():
        expected = module(x)
    torch.testing.assert_close(isthmus.load(bundle.path)(x), expected, rtol=0, atol=0)


class Counter(nn.Module):
    """Adds its inputs to a buffer in place, and counts calls in another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.total += x
        self.calls = self.calls + 1
        return self.total * 2, self.calls


def test_buffers_that_calls_change_belong_to_a_session(tmp_path: Path) -> None:
    bundle = exported(Counter(), (torch.ones(3),), tmp_path / "b")
    model = isthmus.load(bundle.path)
    first, second = model.session(), model.session()
    for call in range(1, 4):
        total, calls = first(torch.ones(3))
        assert (total.tolist(), int(calls)) == ([2.0 * call] * 3, call)
    total, calls = second(torch.ones(3))
    assert (total.tolist(), int(calls)) == ([2.0] * 3, 1)


def test_weights_are_mapped_and_tied_ones_stay_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bundle = exported(Tied(rows=4096), (torch.tensor([1, 2, 3]),), tmp_path / "b")
    file = program_file(bundle)
    table = 4096 * 512 * 4
    assert table < file.stat().st_size < 1.5 * table
    before = mappings(file)
    model = isthmus.load(bundle.path)
    assert mappings(file) > before
    model(torch.tensor([4, 5, 6]))


@pytest.mark.parametrize(
    ("operator", "arguments", "expected"),
    [
        ("_operator.floordiv", (-7, 2), -4),
        ("_operator.floordiv", (7.5, -2), -4.0),
        ("_operator.mod", (-7, 3), 2),
        ("_operator.mod", (7, -3), -2),
        ("_operator.mod", (-7.5, 2), 0.5),
        ("_operator.pow", (3, 4), 81),
        ("_operator.pow", (2, -1), 0.5),
        ("_operator.truediv", (7, 2), 3.5),
        ("_operator.sub", (3, 5), -2),
        ("_operator.neg", (3,), -3),
        ("_operator.lshift", (3, 4), 48),
        ("_operator.rshift", (-5, 1), -3),
        ("math.trunc", (-2.5,), -2),
        ("math.floor", (-2.5,), -3),
        ("math.ceil", (-2.5,), -2),
        ("torch.sym_int", (-2.9,), -2),
        ("torch.sym_float", (3,), 3.0),
        ("torch.sym_max", (3, 4.5), 4.5),
        ("torch.sym_min", (3, 4.5), 3.0),
        ("torch._sym_sqrt", (16,), 4.0),
        ("torch.sym_ite", (False, 3, 4), 4),
    ],
)
def test_numbers_are_computed_as_python_does(
    adding: Bundle, tmp_path: Path, operator: str, arguments: tuple[float, ...], expected: float
) -> None:
    folder = edited(adding, tmp_path / "b", lambda graph: compute_first(graph, operator, arguments))
    assert loaded(folder)(torch.zeros(3)).tolist() == [float(expected)] * 3


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        ("_operator.floordiv", (7, 0), "divided by zero"),
        ("_operator.mod", (7.5, 0), "divided by zero"),
        ("_operator.mul", (2**62, 4), "does not fit into 64 bits"),
        ("_operator.add", (2**63 - 1, 1), "does not fit into 64 bits"),
        ("_operator.pow", (10, 30), "does not fit into 64 bits"),
        ("_operator.lshift", (1, 70), "shifted by 70 bits"),
        ("math.floor", (1e30,), "does not fit into 64 bits"),
        ("torch._sym_sqrt", (-1,), "no square root"),
        ("_operator.add", (1,), "has 1 arguments, expected 2"),
    ],
)
def test_numbers_that_python_refuses_or_64_bits_do_not_hold(
    adding: Bundle, tmp_path: Path, operator: str, arguments: tuple[float, ...], message: str
) -> None:
    folder = edited(adding, tmp_path / "b", lambda graph: compute_first(graph, operator, arguments))
    model = loaded(folder)
    with pytest.raises(isthmus.ExecutionError, match=message):
        model(torch.zeros(3))


def argument_of(value: float) -> dict[str, Any]:
    kind = {bool: "as_bool", int: "as_int", float: "as_float"}[type(value)]
    return {kind: value}


def compute_first(graph: dict[str, Any], operator: str, arguments: tuple[float, ...]) -> None:
    """Has the program add a number that another operator computes."""
    [node] = [node for node in graph["nodes"] if node["target"] == "torch.ops.aten.add.Tensor"]
    inputs = [{"name": "a", "arg": argument_of(value), "kind": 1} for value in arguments]
    number = {"as_sym_float": {"as_name": "number"}}
    graph["nodes"].insert(
        0, {"target": operator, "inputs": inputs, "outputs": [number], "metadata": {}}
    )
    other = next(given for given in node["inputs"] if given["name"] == "other")
    other["arg"] = number


def test_a_number_in_the_place_of_a_tensor_does_not_decide_the_dtype(tmp_path: Path) -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.shape[0] + 0.5

    x = torch.ones(3, 2, dtype=torch.float16)
    bundle = exported(Half(), (x,), tmp_path / "b", dynamic={"x": {0: "n"}})
    output = isthmus.load(bundle.path)(torch.ones(5, 2, dtype=torch.float16))
    assert output.dtype == torch.float16
    assert output.unique().tolist() == [5.5]


def test_an_operator_that_is_not_here_is_named(adding: Bundle, tmp_path: Path) -> None:
    def rename(graph: dict[str, Any]) -> None:
        [node] = [node for node in graph["nodes"] if "aten.add" in node["target"]]
        node["target"] = "torch.ops.aten.add.Unheard"

    with pytest.raises(isthmus.BundleError, match=r"aten::add\.Unheard, which torch"):
        loaded(edited(adding, tmp_path / "b", rename))


def test_another_major_version_of_the_schema_is_refused_by_name(
    adding: Bundle, tmp_path: Path
) -> None:
    folder = shutil.copytree(adding.path, tmp_path / "b")
    file = folder / adding.manifest.artifacts[0].files[0].path
    document = read_document(file, MODEL)
    document["schema_version"]["major"] = 9
    replace_document(file, MODEL, document)
    with rewrite_manifest(folder):
        pass
    with pytest.raises(isthmus.BundleError, match=r"version 9\.20 of torch's export schema"):
        loaded(folder)


def test_an_operator_with_an_effect_needs_trust(adding: Bundle, tmp_path: Path) -> None:
    def save(graph: dict[str, Any]) -> None:
        [node] = [node for node in graph["nodes"] if "aten.add" in node["target"]]
        node["target"] = "torch.ops.aten.save.default"

    folder = edited(adding, tmp_path / "b", save)
    with pytest.raises(isthmus.BundleError, match="aten::save writes a file"):
        loaded(folder)


def test_a_program_does_not_write_its_weights(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.add(self.scale, x)

    bundle = exported(Scaled(), (torch.zeros(3),), tmp_path / "b")

    def in_place(graph: dict[str, Any]) -> None:
        [node] = [node for node in graph["nodes"] if "aten.add" in node["target"]]
        node["target"] = "torch.ops.aten.add_.Tensor"

    model = loaded(edited(bundle, tmp_path / "edited", in_place))
    with pytest.raises(isthmus.ExecutionError, match="writes a weight"):
        model(torch.ones(3))


def test_errors_name_the_operator_and_the_line(tmp_path: Path) -> None:
    class Gather(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x[index]

    bundle = exported(Gather(), (torch.randn(4), torch.tensor([0, 3])), tmp_path / "b")
    with rewrite_manifest(bundle.path) as manifest:
        manifest["methods"][0]["inputs"][1].pop("values", None)
    model = loaded(bundle.path)
    with pytest.raises(isthmus.ExecutionError, match=r"aten::index \(test_exported\.py:\d+\)"):
        model(torch.randn(4), torch.tensor([0, 9]))


def test_the_scan_lists_the_operators(branches: Bundle) -> None:
    scan = _core.scan_exported_program(program_file(branches).read_bytes())
    assert not scan.refused
    assert scan.operators["aten::linear"] == 1
    assert scan.torch_version == torch.__version__
    assert scan.schema_version[0] == 8
