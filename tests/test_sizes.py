"""Tests of sizes that follow from other sizes, of sets of sizes, and of sizes made by data."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.manifest import DimRange, Method, Tree, ValueRange, ValueSpec
from isthmus.bundle.manifest_json import from_json, to_json
from isthmus.bundle.size_expression import SizeExpression, bind_sizes, parse_size
from isthmus.bundle_diff.cross_check import refusal
from isthmus.bundle_diff.findings import Findings
from isthmus.bundle_diff.signature import compare_signatures
from isthmus.capture.capture import capture
from isthmus.capture.data_sizes import computed_axes
from isthmus.capture.dynamic import resolve
from isthmus.capture.load_model import parse_axes, parse_dims
from isthmus.capture.program_sizes import ProgramSizes
from isthmus.capture.resize import choose_sizes, resize
from isthmus.capture.run_module import ModuleRunner
from isthmus.capture.size_inference import infer_expressions
from isthmus.errors import BundleError, InvalidInput
from isthmus.goldens.make import make_goldens
from isthmus.goldens.shape_grid import shape_grid
from rewrite_manifest import rewrite_manifest

ENGINES = ("torchscript", "exported", "onnxruntime", "openvino", "aoti")

# --- the texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("past + sequence", "past + sequence"),
        ("sequence+past", "past + sequence"),
        ("samples // 160 + 1", "samples // 160 + 1"),
        ("(n - 1) // 2 + 1", "(n + 1) // 2"),
        ("(n // 2 + 1) // 2", "(n + 2) // 4"),
        ("16*h", "16 * h"),
        ("2 * (n // 2)", "2 * (n // 2)"),
        ("(2 * n + 4) // 2", "n + 2"),
        ("4 - n", "4 - n"),
        ("a - b - 3", "a - b - 3"),
        ("n", "n"),
    ],
)
def test_a_text_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_size(text)) == canonical
    assert parse_size(canonical) == parse_size(text)


def test_the_canonical_form_keeps_the_value_that_python_gives() -> None:
    generator = random.Random(0)

    def expression(depth: int) -> str:
        kind = generator.randrange(6) if depth else 5
        if kind == 0:
            return f"({expression(depth - 1)} + {expression(depth - 1)})"
        if kind == 1:
            return f"({expression(depth - 1)} - {expression(depth - 1)})"
        if kind == 2:
            return f"{generator.randrange(5)} * ({expression(depth - 1)})"
        if kind == 3:
            return f"({expression(depth - 1)}) // {generator.randrange(1, 9)}"
        return generator.choice(["a", "b", "c", str(generator.randrange(20))])

    for _ in range(300):
        text = expression(4)
        size = parse_size(text)
        for _ in range(5):
            sizes = {name: generator.randrange(100) for name in "abc"}
            assert size.evaluate(sizes) == eval(text, {}, sizes), text
            assert parse_size(str(size)).evaluate(sizes) == size.evaluate(sizes), text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "ends too early"),
        ("a b", '"b" is not expected'),
        ("a % 2", "'%' is not expected"),
        ("a * b", "no constant factor"),
        ("a // b", "positive constant"),
        ("a // 0", "positive constant"),
        ("(a", '")" is missing'),
        ("a + b + c + d + e + f + g + h + i", "more than 8 names"),
        ("99999999999 * a", "larger than"),
        ("(" * 40 + "a" + ")" * 40, "deep"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_size(text)


def test_names_are_bound_by_plain_axes_and_solved_from_linear_expressions() -> None:
    axes = [("past + seq", 8), ("seq", 3), ("16 * h", 48), (7, 7), (None, 1)]
    assert bind_sizes(axes) == {"seq": 3, "past": 5, "h": 3}
    assert bind_sizes([("n // 2", 4)]) == {}
    assert bind_sizes([("16 * h", 50)]) == {}
    assert parse_size("past + seq").explain({"past": 5, "seq": 3}) == "8 (past = 5, seq = 3)"
    assert parse_size("a - b // 2 + 1").bounds({"a": DimRange(1, 4), "b": DimRange(0, 9)}) == (
        1 - 4 + 1,
        4 - 0 + 1,
    )


# --- what the user says ---------------------------------------------------------------------------

EXAMPLE = {"forward": {"mask": torch.ones(2, 8), "x": torch.ones(2, 3), "past": torch.ones(2, 5)}}
AXES = {"mask": {0: "b", 1: "seq + past"}, "x": {0: "b", 1: "seq"}, "past": {0: "b", 1: "past"}}


def test_an_expression_is_checked_against_the_example_and_resized_to() -> None:
    spec = resolve(AXES, {"b": (1, 4), "seq": (1, 8), "past": (0, 8)}, EXAMPLE)
    assert spec.axes["mask"] == {0: "b", 1: "past + seq"}
    assert spec.sizes == {"b": 2, "past": 5, "seq": 3}
    values = resize(EXAMPLE["forward"], spec.axes, {"b": 1, "past": 0, "seq": 4})
    assert [tuple(value.shape) for value in values.values()] == [(1, 4), (1, 4), (1, 0)]
    sizes = choose_sizes(spec.dims, {"b": 2, "past": 2, "seq": 2}, (), ["past + seq"])
    assert len({*sizes.values(), sizes["past"] + sizes["seq"]}) == 4


@pytest.mark.parametrize(
    ("dynamic", "dims", "words"),
    [
        ({**AXES, "mask": {1: "seq + past + 1"}}, None, ["axis 1", "8", "9 (past = 5, seq = 3)"]),
        ({"mask": {1: "past + 2"}, "past": {1: "past"}}, None, ["past + 2", "7 (past = 5)"]),
        ({"mask": {1: "16 * h"}}, None, ["no whole number", '"16 * h"']),
        ({"mask": {1: "n // 2"}}, None, ["cannot be told", '"n"']),
        ({"mask": {1: "3 * 2"}}, None, ["no name", "fixed"]),
        ({"mask": {1: "n ** 2"}}, None, ["expected a name", "past + sequence"]),
        ({"x": {1: "n - 1"}}, {"n": (0, 9)}, ["may be -1", "negative"]),
        ({"x": {1: "n"}}, {"n": [4, 8]}, ["size 3", "4 or 8"]),
        ({"x": {1: "n"}}, {"n": [3, 8.5]}, ["a list of the only sizes"]),
        ({"x": {1: "n"}}, {"n": (3, 4, 5)}, ["(min, max)"]),
    ],
)
def test_what_does_not_fit_the_example_is_refused(
    dynamic: Any, dims: Any, words: list[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve(dynamic, dims, EXAMPLE)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_list_is_a_set_of_sizes() -> None:
    spec = resolve({"x": {1: "n"}}, {"n": [9, 3, 5]}, EXAMPLE)
    assert spec.dims == {"n": DimRange(3, 9, (3, 5, 9))}
    assert {shape["n"] for shape in shape_grid(spec.dims, spec.sizes)} == {3, 5, 9}
    assert choose_sizes(spec.dims, {"n": 3}, {3}) == {"n": 5}
    assert parse_dims(["n=3,5,9", "m=0:4"]) == {"n": [3, 5, 9], "m": (0, 4)}
    assert parse_axes(["mask:0=b,1=past + seq"]) == {"mask": {0: "b", 1: "past + seq"}}


class Tied(nn.Module):
    """Fails unless the mask has as many columns as the past and the new tokens together."""

    def forward(self, x: Tensor, past: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([past, x], 1) * mask


@pytest.mark.parametrize("columns", [8, 3])
def test_a_size_that_is_not_free_is_proposed(columns: int) -> None:
    batch = 2 if columns == 8 else 1
    args = (torch.ones(batch, 3), torch.ones(batch, columns - 3), torch.ones(batch, columns))
    with pytest.raises(InvalidInput, match='say "past \\+ seq" in place of "total"'):
        make_goldens(
            capture(
                Tied(),
                args,
                dynamic={"x": {1: "seq"}, "past": {1: "past"}, "mask": {1: "total"}},
                dims={"seq": (1, 16), "past": (0, 16), "total": (1, 32)},
            )
        )


# --- what is inferred -----------------------------------------------------------------------------

N = [7, 100, 160, 500, 801]
M = [2, 3, 11, 5, 7]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *((text, True) for text in ("n", "n + 1", "n - 3", "2 * n", "3 * n + 2", "m + n", "n - m")),
        *((text, True) for text in ("n // 3", "n // 2 + 1", "m + n + 4", "(n + 1) // 2")),
        ("5 + 0 * n", False),
    ],
)
def test_the_simplest_expression_is_found(text: str, found: bool) -> None:
    size = parse_size(text)
    sizes = [size.evaluate({"n": n, "m": m}) for n, m in zip(N, M, strict=True)]
    expected = {"axis": size} if found else {}
    assert infer_expressions({"axis": sizes}, {"n": N, "m": M}) == expected


def test_what_the_calls_do_not_decide_is_not_guessed() -> None:
    assert infer_expressions({"a": [1, 1, 2]}, {"n": [160, 200, 330]}) == {}
    assert infer_expressions({"a": [3, 7]}, {"n": [1, 3]}) == {}  # 2 * n + 1, and many others
    assert infer_expressions({"a": [4, 9]}, {"n": [2, 3]}) == {}
    assert infer_expressions({"a": [4, 9, 16]}, {"n": [2, 3, 4]}) == {}


class Shapes(nn.Module):
    """Gives what `how` makes of an input of n rows."""

    def __init__(self, how: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.how = how
        self.frames = nn.Conv1d(3, 5, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.how(x)


SHAPES: dict[str, tuple[Callable[[Tensor], Any], tuple[Any, ...]]] = {
    "shifted": (lambda x: torch.cat([x, x[:1]]), ("n + 1", 3)),
    "doubled": (lambda x: torch.cat([x, x]), ("2 * n", 3)),
    "halved": (lambda x: x[::2], ("(n + 1) // 2", 3)),
    "limited": (lambda x: x[:70], (None, 3)),  # n up to 64, and 70 beyond
    "limited at the end": (lambda x: x[:95], (None, 3)),
    "of values": (lambda x: x[x[:, 0] > -1e9], (None, 3)),
    "of no value": (lambda x: x[x[:, 0] > 1e9], (None, 3)),
    "one of the largest": (lambda x: (x >= x.max()).nonzero(), (None, 2)),
    "places": (lambda x: (x >= x.max()).nonzero().squeeze(-1)[:, 0] + 1, (None,)),
    "repeated": (lambda x: torch.repeat_interleave(x, (x[:, 0] > 9).long() + 1, 0), (None, 3)),
    "selected": (lambda x: torch.masked_select(x, x > 1e9), (None,)),
    "unique": (lambda x: torch.unique((x > 1e9).long(), dim=0), (None, 3)),
    "counted": (lambda x: torch.bincount((x[:, 0] > -9).long()), (None,)),
    "made by a number": (lambda x: torch.zeros(int((x > -1e9).sum() // x.shape[0]) + 2), (None,)),
    "then computed": (lambda x: (x[x[:, 0] > 1e9] * 2 + 1).mean(1, keepdim=True), (None, 1)),
    "joined": (lambda x: torch.cat([x[x[:, 0] > 1e9], x]), (None, 3)),
    "fixed": (lambda x: x.t() @ x, (3, 3)),
    "fixed, after a selection": (lambda x: x[x[:, 0] > -1e9].sum(0), (3,)),
}


@pytest.mark.parametrize("how", SHAPES)
def test_an_output_has_the_size_that_its_program_says(how: str) -> None:
    forward, expected = SHAPES[how]
    captured = capture(
        Shapes(forward), (torch.rand(6, 3),), dynamic={"x": {0: "n"}}, dims={"n": (1, 96)}
    )
    _, _, complete = make_goldens(captured)
    assert complete.methods[0].outputs[0].shape == expected


@pytest.mark.parametrize("how", [how for how in SHAPES if "limited" not in how])
def test_the_watched_operators_tell_which_sizes_come_from_data(how: str) -> None:
    forward, expected = SHAPES[how]
    module = Shapes(forward)
    captured = capture(module, (torch.rand(6, 3),), dynamic={"x": {0: "n"}}, dims={"n": (1, 96)})
    with ModuleRunner(module) as runner:
        axes = computed_axes(runner, captured.methods[0], [captured.example])
    computed = {axis for axis, size in enumerate(expected) if size is None}
    assert axes.get("output", frozenset()) == computed


class Scripted(nn.Module):
    """Has sizes from data, after which its TorchScript goes on with numbers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept = x[x[:, 0] > 1e9]
        number = int((x > -1e9).sum()) // x.shape[0] + 5
        return kept * 2.0, torch.zeros(number), torch.cat([x, x])


def test_scripted_code_is_watched() -> None:
    module = torch.jit.script(Scripted())
    captured = capture(module, (torch.rand(6, 3),), dynamic={"x": {0: "n"}}, dims={"n": (1, 64)})
    assert captured.program["forward"].stated == {}
    _, _, complete = make_goldens(captured)
    shapes = [spec.shape for spec in complete.methods[0].outputs]
    assert shapes == [(None, 3), (None,), ("2 * n", 3)]
    kinds = [note.message for note in complete.notes if note.kind == "output_without_example"]
    assert len(kinds) == 1
    assert '"output.0"' in kinds[0]


def test_a_number_is_no_constant_of_the_program() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor, count: int) -> Tensor:
            return torch.zeros(count) + x.sum()

    _, _, complete = make_goldens(capture(Cut(), (torch.rand(4), 3)))
    assert complete.methods[0].outputs[0].shape == (None,)


# --- what the manifest says -----------------------------------------------------------------------


def test_a_manifest_keeps_expressions_and_refuses_damaged_ones(model: isthmus.Bundle) -> None:
    assert from_json(to_json(model.manifest)) == model.manifest
    text: Any = to_json(model.manifest)
    assert text["dims"]["w"] == {"min": 4, "max": 8, "sizes": [4, 8]}
    assert text["dims"]["past"] == {"min": 0, "max": 12}
    for place, value, words in (
        ("shape", ["past + other"], "the name of one of dims"),
        ("shape", ["past * seq"], "no constant factor"),
        ("values", {"min": 0, "max": "other - 1"}, "the name of one of dims"),
    ):
        changed: Any = to_json(model.manifest)
        changed["methods"][0]["inputs"][3].update(dtype="int64", **{place: value})
        with pytest.raises(BundleError, match=words):
            from_json(changed)
    changed = to_json(model.manifest)
    changed["dims"]["w"]["sizes"] = [8, 4]
    with pytest.raises(BundleError, match="increasing sizes from min to max"):
        from_json(changed)


def test_a_cross_check_knows_expressions() -> None:
    specs = (
        ValueSpec("mask", "tensor", "float32", ("past + seq",)),
        ValueSpec("x", "tensor", "float32", ("seq",)),
        ValueSpec("past", "tensor", "float32", ("past",)),
    )
    method = Method("forward", specs, (), (), (), Tree("none"))
    dims = {"seq": DimRange(1, 4), "past": DimRange(0, 4)}

    def why(mask: int, seq: int, past: int) -> str:
        sizes = {"mask": mask, "x": seq, "past": past}
        return refusal(method, dims, {name: torch.ones(size) for name, size in sizes.items()})

    assert why(5, 3, 2) == ""
    assert why(6, 3, 2) == "A gives mask[0] = 6, B takes past + seq = 5 (past = 2, seq = 3)"
    assert why(8, 3, 5) == "past is 0 to 4 in B"


JOINED = ValueSpec("mask", "tensor", "float32", ("past + seq",))
FREE = ValueSpec("mask", "tensor", "float32", ("total",))
ROWS = ValueSpec("x", "tensor", "float32", ("seq", "past"))
RENAMED = ValueSpec("x", "tensor", "float32", ("new", "past"))
SET = {"seq": DimRange(2, 8, (2, 4, 8))}


@pytest.mark.parametrize(
    ("before", "after", "dims", "expected"),
    [
        ((JOINED, ROWS), (JOINED, ROWS), {}, []),
        ((FREE, ROWS), (JOINED, ROWS), {}, ["breaking"]),
        ((JOINED, ROWS), (FREE, ROWS), {}, ["changed"]),
        ((JOINED, ROWS), (replace(JOINED, shape=("new + past",)), RENAMED), {}, ["changed"]),
        ((JOINED, ROWS), (JOINED, ROWS), SET, ["breaking"]),
    ],
)
def test_a_diff_tells_which_changes_of_sizes_break_callers(
    before: tuple[ValueSpec, ...],
    after: tuple[ValueSpec, ...],
    dims: dict[str, DimRange],
    expected: list[str],
    model: isthmus.Bundle,
) -> None:
    ranges = {name: DimRange(2, 8) for name in ("seq", "past", "new")}
    ranges["total"] = DimRange(4, 16)
    manifest = replace(model.manifest, dims=ranges)
    leaves = tuple(Tree("leaf", name=spec.name) for spec in before)
    methods = [Method("forward", specs, (), leaves, (), Tree("none")) for specs in (before, after)]
    findings = Findings()
    compare_signatures(
        replace(manifest, methods=(methods[0],)),
        replace(manifest, methods=(methods[1],), dims={**ranges, **dims}),
        findings,
    )
    assert [change.severity for change in findings.changes] == expected


# --- every engine ---------------------------------------------------------------------------------


class Step(nn.Module):
    """Joins a cache with new rows under a mask, cuts an image into rows of 16, and selects."""

    def forward(
        self, x: Tensor, past: Tensor, mask: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        keys = torch.cat([past, x]) * mask[:, None]
        patches = image.reshape(-1, 16, image.shape[1]).mean(1)
        return keys, x[::2] + 1, patches, keys[keys[:, 0] > 50]


def inputs(seq: int, past: int, h: int, w: int, scale: float = 1.0) -> tuple[Tensor, ...]:
    torch.manual_seed(seq)
    shapes = ((seq, 4), (past, 4), (past + seq,), (16 * h, w))
    return tuple(torch.rand(shape) * scale for shape in shapes)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> isthmus.Bundle:
    """The step in every format; no golden selects a row."""
    return isthmus.export(
        Step().eval(),
        inputs(3, 5, 2, 8),
        path=tmp_path_factory.mktemp("sizes") / "step",
        dynamic={
            "x": {0: "seq"},
            "past": {0: "past"},
            "mask": {0: "seq + past"},
            "image": {0: "16 * h", 1: "w"},
        },
        dims={"seq": (1, 12), "past": (0, 12), "h": (1, 6), "w": [4, 8]},
        formats=("torchscript", "exported", "onnx", "aoti"),
    )


def test_the_signature_says_which_sizes_follow_from_others(model: isthmus.Bundle) -> None:
    method = model.manifest.methods[0]
    assert [spec.shape for spec in method.inputs] == [
        *(("seq", 4), ("past", 4), ("past + seq",), ("16 * h", "w")),
    ]
    assert [spec.shape for spec in method.outputs] == [
        *(("past + seq", 4), ("(seq + 1) // 2", 4), ("h", "w"), (None, 4)),
    ]
    assert model.manifest.dims["w"] == DimRange(4, 8, (4, 8))
    notes = [
        hazard.message
        for artifact in model.manifest.artifacts
        for hazard in artifact.hazards
        if hazard.kind == "output_without_example"
    ]
    assert any('"output.3"' in note for note in notes)


@pytest.fixture(scope="module", params=ENGINES)
def loaded(request: pytest.FixtureRequest, model: isthmus.Bundle) -> Iterator[isthmus.Model]:
    yield isthmus.load(model.path, engine=request.param, trust="native")


@pytest.mark.parametrize("sizes", [(1, 0, 1, 4), (7, 11, 5, 8), (12, 0, 3, 8), (2, 9, 6, 4)])
@pytest.mark.parametrize("scale", [1.0, 90.0])
def test_every_engine_serves_unseen_sizes(
    loaded: isthmus.Model, sizes: tuple[int, int, int, int], scale: float
) -> None:
    values = inputs(*sizes, scale)
    for got, expected in zip(loaded(*values), Step()(*values), strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "shape", "words"),
    [
        (2, (9,), '"mask": dimension "past + seq" (axis 0) is 9, expected 8 (past = 5, seq = 3)'),
        (3, (40, 8), '"image": axis 0 is 40, expected "16 * h" with "h" 1 to 6'),
        (3, (112, 8), '"image": axis 0 is 112, expected "16 * h" with "h" 1 to 6'),
        (3, (32, 6), 'dimension "w" (axis 1) is 6, outside its range 4 or 8'),
        (1, (13, 4), 'dimension "past" (axis 0) is 13, outside its range 0 to 12'),
    ],
)
def test_every_engine_refuses_sizes_that_do_not_fit(
    loaded: isthmus.Model, changed: int, shape: tuple[int, ...], words: str
) -> None:
    values = list(inputs(3, 5, 2, 8))
    values[changed] = torch.rand(shape)
    with pytest.raises(InvalidInput) as caught:
        loaded(*values)
    assert words in str(caught.value)


def test_the_bound_of_a_value_follows_from_a_size(model: isthmus.Bundle, tmp_path: Path) -> None:
    class Edges(nn.Module):
        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return x[edges]

    bundle = isthmus.export(
        Edges(),
        (torch.rand(7, 2), torch.tensor([0, 3, 6])),
        path=tmp_path / "edges",
        dynamic={"x": {0: "nodes"}, "edges": {0: "e"}},
        dims={"nodes": (7, 20), "e": (1, 9)},
    )

    with rewrite_manifest(bundle.path) as manifest:
        manifest["methods"][0]["inputs"][1]["values"] = {"min": 0, "max": "nodes - 1"}
    assert isthmus.open_bundle(bundle.path).manifest.methods[0].inputs[1].values == ValueRange(
        0, "nodes - 1"
    )
    served = isthmus.load(bundle.path)
    x = torch.rand(9, 2)
    assert torch.equal(served(x, torch.tensor([8, 0])), x[[8, 0]])
    with pytest.raises(InvalidInput, match=r"expected values 0 to 8 .*nodes = 9.*got 9 at"):
        served(x, torch.tensor([0, 9]))


def test_a_program_may_state_nothing() -> None:
    assert ProgramSizes().stated == {}
    assert SizeExpression(()).evaluate({}) == 0
