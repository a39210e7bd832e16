"""Tests of goldens: shapes, values, sequences, the noise floor and the tolerances."""

from __future__ import annotations

import copy
import itertools
import math
import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import DimRange, NoiseFloor, Tree, ValueSpec, written_name
from isthmus.bundle.size_expression import parse_size
from isthmus.capture.capture import Captured, FlatModule, capture
from isthmus.capture.output_specs import Observed, infer_outputs
from isthmus.errors import InvalidInput
from isthmus.goldens.make import make_goldens
from isthmus.goldens.noise_floor import reduced_errors
from isthmus.goldens.precision_copy import PrecisionCopy, cast_by_parts
from isthmus.goldens.probes import variations
from isthmus.goldens.shape_grid import Cost, shape_grid
from isthmus.goldens.stored import stored_goldens
from isthmus.goldens.tolerance import tolerances, ulp
from models import CASES, Case, case


def capture_case(name: str) -> Captured:
    known = case(name)
    args, kwargs = known.inputs()
    return capture(known.module(), args, kwargs, **known.options())


def goldens_of(name: str, **options: Any) -> tuple[list[Golden], dict[str, NoiseFloor], Captured]:
    return make_goldens(capture_case(name), **options)


def notes(captured: Captured, kind: str) -> list[str]:
    return [note.message for note in captured.notes if note.kind == kind]


# --- every module of the registry -----------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_goldens_of_every_case(case: Case) -> None:
    module = case.module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    args, kwargs = case.inputs()
    goldens, floor, complete = make_goldens(capture(module, args, kwargs, **case.options()))

    assert all(torch.equal(value, module.state_dict()[key]) for key, value in before.items())
    assert sum(golden.nbytes for golden in goldens) < 16 << 20
    assert len({golden.name for golden in goldens}) == len(goldens)
    for dim, size in case.dims.items():
        seen = {golden.dims[dim] for golden in goldens if dim in golden.dims}
        assert size[0] in seen
        assert any(value % 2 == 1 and value > 1 for value in seen)
        assert max(seen) > 2 * min(seen)
    names = {spec.name for method in complete.methods for spec in method.outputs}
    names |= {written_name(name) for method in complete.methods for name in method.writes}
    assert set(floor) == names
    for name, limit in floor.items():
        values = [s.outputs[name] for g in goldens for s in g.steps if name in s.outputs]
        # An output in float64 has no wider type that could judge it.
        own = {"ulp"} if all(value.dtype == torch.float64 for value in values) else set()
        assert limit.method in {"float64", "exact"} | own
    for golden in goldens:
        assert len(golden.steps) >= 3 if case.stateful else len(golden.steps) == 1
        for step in golden.steps:
            check_step(complete, golden, step)


def check_step(complete: Captured, golden: Golden, step: Step) -> None:
    """Checks that every tensor has the type of the signature and the sizes of this golden."""
    method = complete.method(step.method)
    for specs, values in ((method.inputs, step.inputs), (method.outputs, step.outputs)):
        written = {written_name(name) for name in method.writes if specs is method.outputs}
        assert set(values) <= {spec.name for spec in specs} | written
        for spec in specs:
            if spec.name not in values:
                assert spec.optional
                continue
            value = values[spec.name]
            assert str(value.dtype) == f"torch.{spec.dtype}"
            assert value.is_contiguous()
            assert not value.requires_grad
            if spec.shape is not None:
                assert value.dim() == len(spec.shape)
                for size, expected in zip(value.shape, spec.shape, strict=True):
                    if expected is not None:
                        assert size == parse_size(str(expected)).evaluate(golden.dims)


@pytest.mark.parametrize("name", ["resnet18", "dict_output", "lstm", "scalars", "mask_branch"])
def test_the_outputs_are_the_modules_own(name: str) -> None:
    goldens, _, complete = goldens_of(name)
    flat = FlatModule(case(name).module(), complete.methods[0])
    specs = complete.methods[0].inputs
    for golden in goldens:
        step = golden.steps[0]
        given = [
            step.inputs[s.name] if s.kind == "tensor" else step.inputs[s.name].item() for s in specs
        ]
        with torch.no_grad():
            outputs = flat(*given)
        for spec, value in zip(complete.methods[0].outputs, outputs, strict=True):
            assert torch.equal(step.outputs[spec.name], value)


def test_goldens_are_the_same_each_time() -> None:
    first, floor, _ = goldens_of("mask_branch")
    second, again, _ = goldens_of("mask_branch")
    assert [golden.name for golden in first] == [golden.name for golden in second]
    assert floor == again
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.steps[0].inputs["x"], b.steps[0].inputs["x"])
    other, _, _ = goldens_of("mask_branch", seed=5)
    assert not torch.equal(first[3].steps[0].inputs["x"], other[3].steps[0].inputs["x"])


def test_the_users_own_example_comes_first_and_untouched() -> None:
    goldens, _, complete = goldens_of("bert")
    assert goldens[0].name == "batch1-sequence14"
    assert goldens[0].dims == {"batch": 1, "sequence": 14}
    given = case("bert").inputs()[1]["input_ids"]
    assert torch.equal(goldens[0].steps[0].inputs["input_ids"], given)
    assert complete.methods[0].outputs[0] == ValueSpec(
        "last_hidden_state", "tensor", "float32", ("batch", "sequence", 32)
    )


# --- branches -------------------------------------------------------------------------------------


def test_the_probes_take_both_branches() -> None:
    goldens, _, _ = goldens_of("sum_branch")
    signs = {bool(golden.steps[0].inputs["input"].sum() > 0) for golden in goldens}
    assert signs == {True, False}
    for dims in ({"batch": 2}, {"batch": 5}):
        at = [bool(g.steps[0].inputs["input"].sum() > 0) for g in goldens if g.dims == dims]
        assert len(at) >= 2
    masks = [golden.steps[0].inputs["mask"] for golden in goldens_of("mask_branch")[0]]
    assert {bool(mask.all()) for mask in masks} == {True, False}


def test_scalars_are_varied() -> None:
    goldens, _, _ = goldens_of("scalars")
    steps = [golden.steps[0].inputs for golden in goldens]
    assert {bool(step["flip"]) for step in steps} == {True, False}
    assert len({int(step["times"]) for step in steps}) >= 3
    assert len({float(step["scale"]) for step in steps}) >= 3
    assert all(step["times"].dtype == torch.int64 for step in steps)
    assert all(step["scale"].dtype == torch.float64 for step in steps)


def test_variations_of_values() -> None:
    values = {
        "x": torch.tensor([1.0, -2.0]),
        "zeros": torch.zeros(3),
        "ids": torch.tensor([[7, 8, 9]]),
        "mask": torch.ones(1, 4, dtype=torch.int64),
        "padded": torch.tensor([[1, 1, 0, 0]]),
        "a": True,
        "b": False,
        "n": 2,
        "f": 0.5,
    }
    sets = variations(values)
    of_scalars = ["changed", "lowered"]
    names = [f"{name}-{kind}" for kind in of_scalars for name in ("scalars", "a", "b", "n", "f")]
    unchanged = {"a-lowered", "b-lowered"}  # a flag has no less
    assert list(sets) == [
        "negated",
        "masked",
        "zeroed",
        *(name for name in names if name not in unchanged),
    ]
    negated, masked, zeroed = sets["negated"], sets["masked"], sets["zeroed"]
    assert negated["x"].tolist() == [-1.0, 2.0]
    assert len(set(negated["zeros"].tolist())) == 3
    assert negated["ids"].tolist() == [[9, 8, 7]]
    assert torch.equal(negated["mask"], values["mask"])
    changed, lowered = sets["scalars-changed"], sets["scalars-lowered"]
    assert (changed["a"], changed["b"], changed["n"], changed["f"]) == (False, True, 3, -0.5)
    for key in ("a", "b", "n", "f"):
        assert negated[key] == zeroed[key] == values[key], "tensors are varied by themselves"
    assert masked["mask"].tolist() == [[1, 1, 0, 0]]
    assert masked["padded"].tolist() == [[1, 1, 1, 1]]
    assert torch.equal(masked["x"], values["x"])
    assert zeroed["x"].tolist() == [0.0, 0.0]
    assert zeroed["ids"].tolist() == [[7, 7, 7]]
    assert (lowered["a"], lowered["n"], lowered["f"]) == (True, 1, 0.0)
    assert (sets["a-changed"]["a"], sets["a-changed"]["b"]) == (False, False)
    assert torch.equal(changed["x"], values["x"])
    assert values["x"].tolist() == [1.0, -2.0]


def test_variations_that_change_nothing_are_left_out() -> None:
    assert variations({}) == {}
    assert list(variations({"x": torch.zeros(0)})) == []
    assert list(variations({"mask": torch.tensor([True])})) == []


def test_a_probe_on_which_eager_fails_is_left_out() -> None:
    class Roots(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if bool((x < 0).any()):
                raise ValueError("no negative numbers")
            return x.log() if bool((x == 0).any()) else x.sqrt()

    goldens, _, complete = make_goldens(capture(Roots(), (torch.tensor([1.0, 4.0]),)))
    assert [golden.name for golden in goldens] == ["example", "example-zeroed"]
    assert notes(complete, "golden_left_out") == [
        "golden example-negated left out: eager itself fails on it "
        "(ValueError: no negative numbers)"
    ]


def test_a_probe_that_gives_nan_is_left_out() -> None:
    class Ratio(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.sum()

    goldens, _, complete = make_goldens(capture(Ratio(), (torch.tensor([1.0, 4.0]),)))
    assert [golden.name for golden in goldens] == ["example", "example-negated"]
    assert "gives NaN" in notes(complete, "golden_left_out")[0]


def test_a_probe_that_rounding_decides_is_left_out() -> None:
    class Edge(nn.Module):
        """Adds 100 at zero if 3 * 0.1 is greater than 0.3, which only rounding decides."""

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            edge = (x.abs().sum() == 0) & (torch.tensor(0.1).to(x) * 3 > 0.3)
            return x + 100 * edge, x.abs().argmax()

    goldens, floor, complete = make_goldens(capture(Edge(), (torch.tensor([1.0, 4.0]),)))
    assert [golden.name for golden in goldens] == ["example", "example-negated"]
    assert "rounding alone" in notes(complete, "golden_left_out")[0]
    assert floor["output.0"].max_abs < 1e-6


def test_a_users_probe_is_always_there() -> None:
    x = torch.full((3, 4), 7.0)
    goldens, _, _ = goldens_of("sum_branch", probes=[{"input": x}])
    mine = next(golden for golden in goldens if golden.name == "probe0")
    assert mine.dims == {"batch": 3}
    assert torch.equal(mine.steps[0].inputs["input"], x)
    with pytest.raises(InvalidInput, match=r"probes\[0\].*input.*other"):
        goldens_of("sum_branch", probes=[{"other": x}])
    with pytest.raises(InvalidInput, match=r"probes\[0\] fails in eager mode: RuntimeError"):
        goldens_of("sum_branch", probes=[{"input": torch.ones(2, 3)}])


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dims",
    [
        {"a": (1, 64)},
        {"a": (1, 64), "b": (1, 512)},
        {"a": (2, 9), "b": (1, 512), "c": (5, 5)},
        {"a": (1, 2), "b": (1, 2)},
        {"a": (0, 4)},
        {"a": (300, 900)},
    ],
)
def test_the_grid_covers_every_range(dims: dict[str, tuple[int, int]]) -> None:
    ranges = {name: DimRange(*dim) for name, dim in dims.items()}
    example = {name: min(dim[1], dim[0] + 1) for name, dim in dims.items()}
    grid = shape_grid(ranges, example)
    assert grid[0] == example
    assert len(grid) <= 7
    assert all(shape not in grid[:at] for at, shape in enumerate(grid))
    assert {name: value_range.min for name, value_range in ranges.items()} in grid
    for name, limits in ranges.items():
        sizes = {shape[name] for shape in grid}
        assert all(limits.min <= size <= limits.max for size in sizes)
        assert limits.min in sizes
        assert max(sizes) == min(limits.max, max(96, 2 * limits.min + 1))
        if limits.max - limits.min >= 8:
            assert len(sizes) >= 4
            assert any(size % 2 for size in sizes - {1})


def test_without_dimensions_there_is_one_shape() -> None:
    assert shape_grid({}) == [{}]
    assert goldens_of("no_dynamic")[0][0].name == "example"


def test_large_sizes_keep_within_the_budget() -> None:
    def large(nbytes: int = 8, flops: float = 0, seconds: float = 0) -> int:
        return Cost({"a": 1, "b": 1}, nbytes, flops, seconds, budget=16 << 20).large()

    assert large() == 96
    assert 3 <= large(nbytes=100_000) < 8
    assert 3 <= large(flops=2e9) <= 10
    assert 3 <= large(seconds=0.5) <= 10


def test_a_slower_machine_makes_the_same_goldens(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = []
    for seconds in (0.0, 0.02):  # the duration of a run of the example
        clock = itertools.count(step=seconds)
        monkeypatch.setattr(time, "process_time", clock.__next__)
        grids.append([(golden.name, golden.dims) for golden in goldens_of("bert")[0]])
    assert grids[0] == grids[1]


def test_the_declared_maximum_is_tried_where_it_is_cheap() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(128, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.embedding(torch.arange(x.shape[0]))

    def make(limit: int) -> list[Golden]:
        module = capture(
            Positions(), (torch.ones(3, 4),), dynamic={"x": {0: "n"}}, dims={"n": (1, limit)}
        )
        return make_goldens(module)[0]

    assert 128 in {golden.dims["n"] for golden in make(128)}
    with pytest.raises(InvalidInput, match=r"fails in eager mode at n=129.*IndexError.*dims"):
        make(129)


def test_stored_goldens_keep_to_the_budget() -> None:
    goldens, floor, _ = goldens_of("bert")
    stored, notes_on_it = stored_goldens(goldens, 40_000)
    assert sum(golden.nbytes for golden in stored) <= 40_000
    assert len(stored) < len(goldens), "and all of them are still proven"
    assert stored[0].name == "batch1-sequence14"
    assert [note.kind for note in notes_on_it] == ["golden_not_stored"]
    assert set(floor) == {"last_hidden_state", "pooler_output"}
    shapes = [golden.dims for golden in stored]
    assert all(shape not in shapes[:at] for at, shape in enumerate(shapes)), "values go first"
    tiny, notes_on_it = stored_goldens(goldens, 10)
    assert [golden.name for golden in tiny] == ["batch1-sequence14"]
    assert [note.kind for note in notes_on_it] == ["large_goldens", "golden_not_stored"]
    everything, notes_on_it = stored_goldens(goldens)
    assert everything == goldens
    assert not notes_on_it


def test_what_is_stored_does_not_decide_what_is_proven() -> None:
    class Tall(nn.Module):
        """Has an output of 18 MiB at every size, more than a bundle stores."""

        def forward(self, x: Tensor) -> Tensor:
            return x.mean() + torch.zeros(1536, 3072)

    captured = capture(
        Tall(),
        (torch.rand(5, 7),),
        dynamic={"x": {0: "h", 1: "w"}},
        dims={"h": (4, 9), "w": (4, 9)},
    )
    goldens, _, complete = make_goldens(captured)
    shapes = {tuple(golden.dims.values()) for golden in goldens}
    assert {(5, 7), (4, 4), (4, 9), (9, 4)} <= shapes
    assert complete.sweep, "further sizes are proven too"
    assert [golden.name for golden in stored_goldens(goldens)[0]] == ["h5-w7"]


def test_a_range_that_is_proven_at_one_size_is_refused() -> None:
    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] != 3:
                raise ValueError("three rows, please")
            return x * 2

    x = torch.rand(3, 2)
    options: Any = {"dynamic": {"x": {0: "n"}}, "dims": {"n": (2, 5)}}
    with pytest.raises(InvalidInput, match=r"eager mode at n=\d.*three rows.*Tried.*examples="):
        make_goldens(capture(Three(), (x,), **options))
    with pytest.raises(InvalidInput, match=r'dims\["n"\]: of 2 to 5 only the size 3 can be proven'):
        make_goldens(capture(Three(), (x,), examples=[(x + 1,)], **options))


def test_lengths_are_bounded_where_a_crop_made_them_illegal() -> None:
    class Lengths(nn.Module):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            if int(lengths.max()) > x.shape[1]:
                raise IndexError("a length beyond the end")
            return x * (torch.arange(x.shape[1]) < lengths.unsqueeze(1))

    axes = {"x": {0: "b", 1: "s"}, "lengths": {0: "b"}}
    goldens, _, complete = make_goldens(
        capture(
            Lengths(),
            (torch.randn(2, 6), torch.tensor([6, 4])),
            dynamic=axes,
            dims={"b": (1, 8), "s": (6, 32)},
        )
    )
    assert complete.methods[0].outputs[0].shape == ("b", "s")
    # s can be less than the lengths of the example: these are bounded, and the shape is kept.
    goldens, _, complete = make_goldens(
        capture(
            Lengths(),
            (torch.randn(2, 6), torch.tensor([6, 4])),
            dynamic=axes,
            dims={"b": (1, 8), "s": (2, 32)},
        )
    )
    assert 2 in {golden.dims["s"] for golden in goldens}


# --- outputs --------------------------------------------------------------------------------------


def test_sizes_that_follow_no_rule_are_left_open() -> None:
    _, _, complete = goldens_of("odd_shapes")
    shapes = {spec.name: spec.shape for spec in complete.methods[0].outputs}
    assert shapes == {
        "twice": ("2 * rows", "columns"),
        "flat": (None,),
        "swapped": ("columns", "rows"),
        "fixed": (5,),
    }


def test_an_output_that_is_sometimes_none_is_optional() -> None:
    goldens, _, complete = goldens_of("optional_output")
    assert [spec.optional for spec in complete.methods[0].outputs] == [False, True]
    assert {"output.1" in golden.steps[0].outputs for golden in goldens} == {True, False}
    assert complete.methods[0].outputs[1].shape == ("batch", 2)


def test_an_output_that_is_never_there_is_no_output() -> None:
    _, _, complete = goldens_of("none_output")
    assert [spec.name for spec in complete.methods[0].outputs] == ["output.0", "output.2"]
    assert [item.node for item in complete.methods[0].returns.items] == ["leaf", "none", "leaf"]


def test_a_rank_that_changes_gives_no_shape() -> None:
    class Squeezes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.squeeze(0)

    _, _, complete = make_goldens(capture(Squeezes(), (torch.ones(2, 3),), dynamic={"x": {0: "n"}}))
    assert complete.methods[0].outputs[0].shape is None


def test_a_structure_that_changes_is_refused() -> None:
    class Splits(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return list(x)

    with pytest.raises(InvalidInput, match=r"a list of 2 on golden.*a list of 1 on golden"):
        make_goldens(capture(Splits(), (torch.ones(2, 3),), dynamic={"x": {0: "n"}}))


def test_a_type_that_changes_is_refused() -> None:
    class Changes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else x.long()

    with pytest.raises(InvalidInput, match=r"a float32 tensor.*a int64 tensor"):
        make_goldens(capture(Changes(), (torch.ones(3),)))


def test_inferring_needs_a_dimension_that_moved() -> None:
    method = capture_case("no_dynamic").methods[0]
    calls = [
        Observed("a", {"n": 3}, Tree("leaf", "y"), {"y": torch.ones(3)}),
        Observed("b", {"n": 3}, Tree("leaf", "y"), {"y": torch.ones(3)}),
    ]
    assert infer_outputs(method, calls).outputs[0].shape == (3,)
    calls.append(Observed("c", {"n": 4}, Tree("leaf", "y"), {"y": torch.ones(4)}))
    assert infer_outputs(method, calls).outputs[0].shape == ("n",)


def test_outputs_that_share_memory_are_stored_apart() -> None:
    goldens, _, _ = goldens_of("returns_its_input")
    step = goldens[0].steps[0]
    pointers = [
        input_spec.data_ptr() for input_spec in (*step.inputs.values(), *step.outputs.values())
    ]
    assert len(set(pointers)) == len(pointers)


def test_inputs_are_stored_as_they_were_before_the_call() -> None:
    step = goldens_of("writes_its_input")[0][0].steps[0]
    assert torch.equal(step.outputs["output"], (step.inputs["x"] + 1) * 2)


# --- state ----------------------------------------------------------------------------------------


def test_a_stateful_model_gets_sequences_through_every_method() -> None:
    goldens, _, _ = goldens_of("streaming")
    for golden in goldens:
        methods = [step.method for step in golden.steps]
        assert methods.count("forward") >= 3
        assert "reset" in methods[1:-1]
        module = case("streaming").module()
        for step in golden.steps:  # from the state as handed in
            with torch.no_grad():
                result = getattr(module, step.method)(*step.inputs.values())
            if step.method == "forward":
                assert torch.equal(result, step.outputs["output"])
            else:
                assert step.outputs == {}
    inputs = [step.inputs["x"] for step in goldens[0].steps if step.method == "forward"]
    assert not torch.equal(inputs[0], inputs[1])


def test_state_matters_in_the_sequences() -> None:
    golden = goldens_of("streaming")[0][0]
    module = case("streaming").module()
    with torch.no_grad():
        alone = module(golden.steps[1].inputs["x"])
    assert not torch.equal(alone, golden.steps[1].outputs["output"])


def test_a_probe_that_fails_half_way_leaves_no_state_behind() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.total += x
            if bool((x < 0).any()):
                raise ValueError("no negative numbers")
            return self.total.clone()

    module = Sums()
    goldens, _, complete = make_goldens(capture(module, (torch.tensor([1.0, 4.0]),)))
    assert "example-negated" in notes(complete, "golden_left_out")[0]
    zeroed = next(golden for golden in goldens if golden.name == "example-zeroed")
    expected = torch.zeros(2)
    for step in zeroed.steps:
        expected = expected + step.inputs["x"]
        assert torch.equal(step.outputs["output"], expected)
    assert torch.equal(module.total, torch.zeros(2))


def test_a_module_that_cannot_be_copied_falls_back_to_ulps() -> None:
    class Locked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

        def forward(self, x: Tensor) -> Tensor:
            with self.lock:
                return x + 1

    _, floor, complete = make_goldens(capture(Locked(), (torch.ones(3),)))
    assert floor["output"].method == "ulp"
    assert "cannot be copied" in notes(complete, "no_float64")[0]


def test_methods_of_a_stateless_model_get_goldens_of_their_own() -> None:
    goldens, _, complete = goldens_of("two_methods")
    assert {step.method for golden in goldens for step in golden.steps} == {"forward", "decode"}
    assert all(len(golden.steps) == 1 for golden in goldens)
    assert complete.method("decode").outputs[0].shape == ("batch", 4)


# --- noise and tolerance --------------------------------------------------------------------------


def test_the_noise_floor_is_the_distance_to_float64() -> None:
    goldens, floor, _ = goldens_of("dict_output")
    double = case("dict_output").module().double()
    worst = 0.0
    for golden in goldens:
        with torch.no_grad():
            exact = double(golden.steps[0].inputs["x"].double())["logits"]
        worst = max(worst, float((exact - golden.steps[0].outputs["logits"].double()).abs().max()))
    assert worst > 0
    assert floor["logits"].max_abs == pytest.approx(worst, rel=1e-12)
    assert 0 < floor["logits"].rms < floor["logits"].max_abs
    assert floor["best"] == NoiseFloor(0.0, 0.0, "exact")


def test_a_literal_dtype_falls_back_to_ulps() -> None:
    class Literal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.to(torch.float32))  # fails with float64 weights

    goldens, floor, complete = make_goldens(capture(Literal(), (torch.ones(2, 4),)))
    largest = max(float(golden.steps[0].outputs["output"].abs().max()) for golden in goldens)
    assert floor["output"].method == "ulp"
    assert floor["output"].max_abs == 64 * ulp(largest, torch.float32)
    assert notes(complete, "no_float64")


def test_an_output_that_stays_float32_falls_back_to_ulps() -> None:
    class Casts(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.exp(), x.exp().to(torch.float32)

    _, floor, _ = make_goldens(capture(Casts(), (torch.ones(3),)))
    assert (floor["output.0"].method, floor["output.1"].method) == ("float64", "ulp")


def test_plain_tensors_of_the_module_are_doubled_too() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = [torch.randn(4, 4), {"bias": torch.randn(4)}]

        def forward(self, x: Tensor) -> Tensor:
            weight, rest = self.weights
            return torch.addmm(rest["bias"], x, weight)

    torch.manual_seed(0)
    module = Plain()
    _, floor, _ = make_goldens(capture(module, (torch.randn(2, 4),)))
    assert floor["output"].method == "float64"
    assert module.weights[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1.0, torch.float32, 2.0**-23),
        (1.99, torch.float32, 2.0**-23),
        (2.0, torch.float32, 2.0**-22),
        (-5.0, torch.float64, 2.0**-50),
        (1.0, torch.bfloat16, 2.0**-7),
        (0.0, torch.float32, torch.finfo(torch.float32).tiny),
        (math.inf, torch.float32, torch.finfo(torch.float32).tiny),
    ],
)
def test_units_in_the_last_place(value: float, dtype: torch.dtype, expected: float) -> None:
    assert ulp(value, dtype) == expected


def toy(largest: float) -> list[Golden]:
    outputs = {"y": torch.tensor([0.0, -largest]), "n": torch.tensor([1])}
    return [Golden("g", {}, (Step("forward", {}, outputs),))]


def test_tolerances_follow_the_rule() -> None:
    floor = {"y": NoiseFloor(1e-6, 1e-7, "float64"), "n": NoiseFloor(0.0, 0.0, "exact")}
    rule = tolerances(floor, toy(1.0))
    assert rule["y"].atol == pytest.approx(1e-5)
    assert rule["y"].rtol == 0.0
    assert (rule["n"].atol, rule["n"].rtol) == (0.0, 0.0)
    exact = {"y": NoiseFloor(0.0, 0.0, "float64")}
    assert tolerances(exact, toy(1.0))["y"].atol == 8 * 2.0**-23
    assert tolerances(exact, toy(1000.0))["y"].atol == 8 * 2.0**-14


def test_reduced_precision_adds_its_own_error() -> None:
    floor = {"y": NoiseFloor(1e-6, 1e-7, "float64")}
    assert tolerances(floor, toy(2.0), "fp16")["y"].atol == pytest.approx(
        1e-5 + 4 * 32 * 2.0**-10 * 2.0
    )
    measured = tolerances(floor, toy(2.0), "bf16", reduced={"y": {"max": 0.01, "rms": 0.001}})
    assert measured["y"].atol == pytest.approx(1e-5 + 0.04)
    assert measured["y"].allowance == pytest.approx({"max": 0.04, "rms": 0.004})
    int8 = tolerances(floor, toy(2.0), "int8")["y"]
    assert int8.multiples == {"cosine": 1.0}, "judged by the cosine alone"
    assert int8.allowance == pytest.approx({"cosine": 0.01})


def test_the_error_of_reduced_precision_is_measured() -> None:
    goldens, _, complete = goldens_of("dict_output")
    fp16 = reduced_errors(complete, goldens, "fp16")
    bf16 = reduced_errors(complete, goldens, "bf16")
    for statistic in ("max", "rms", "p99", "median", "cosine"):
        assert 0 < fp16["logits"][statistic] < bf16["logits"][statistic] < 1
    assert "best" not in fp16
    sequence, _, streaming = goldens_of("streaming")
    assert 0 < reduced_errors(streaming, sequence, "bf16")["output"]["max"] < 1


def test_a_dropped_bias_fails_and_one_ulp_passes() -> None:
    goldens, floor, _ = goldens_of("resnet18")
    atol = tolerances(floor, goldens)["output"].atol
    output = goldens[0].steps[0].outputs["output"]
    nudged = torch.nextafter(output, torch.full_like(output, math.inf))
    assert float((nudged - output).abs().max()) <= atol
    module = case("resnet18").module()
    assert isinstance(module, models.ResNet18)
    nn.init.zeros_(module.head.bias)
    with torch.no_grad():
        wrong = module(goldens[0].steps[0].inputs["pixels"])
    assert float((wrong - output).abs().max()) > 100 * atol


# --- the truth ------------------------------------------------------------------------------------


def test_a_golden_and_its_error_give_the_truth_back() -> None:
    goldens, _, complete = goldens_of("resnet18")
    module = copy.deepcopy(complete.module).double().eval()
    for golden in goldens:
        step = golden.steps[0]
        with torch.no_grad():
            truth = module(*(input_spec.double() for input_spec in step.inputs.values()))
        back = step.outputs["output"].double() - step.errors["output"].double()
        torch.testing.assert_close(back, truth, rtol=1e-12, atol=1e-13)
        assert step.errors["output"].abs().max() > 0


@pytest.mark.parametrize("name", ["resnet18", "dict_output"])
def test_the_truth_by_parts_is_the_truth_of_a_copy(name: str) -> None:
    goldens, _, complete = goldens_of(name)
    before = {key: value.clone() for key, value in complete.module.state_dict().items()}
    identities = [id(parameter) for parameter in complete.module.parameters()]
    whole = PrecisionCopy(complete, torch.float64, by_parts=False)
    parts = PrecisionCopy(complete, torch.float64, by_parts=True)
    for golden in goldens:
        calls = [(step.method, step.inputs) for step in golden.steps]
        for left, right in zip(whole.run(calls), parts.run(calls), strict=True):
            assert left.keys() == right.keys()
            for key in left:
                assert left[key].dtype == right[key].dtype
                assert torch.equal(left[key], right[key]), key
    assert [id(parameter) for parameter in complete.module.parameters()] == identities
    for key, value in complete.module.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_failure_by_parts_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 2))
    with pytest.raises(RuntimeError), cast_by_parts(module, torch.float64):
        module(torch.zeros(1, 2, dtype=torch.float64))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert not module[0]._forward_hooks
    assert not module[0]._forward_pre_hooks
