"""Tests of capture: names, dynamic dimensions, state, repeatability, an unchanged module."""

from __future__ import annotations

import copy
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from isthmus.bundle.manifest import DimRange, Hazard
from isthmus.capture.capture import Captured, FlatModule, capture, evaluating, resize_example
from isthmus.capture.flat import input_specs
from isthmus.capture.module_state import ModuleState
from isthmus.capture.quantised import quantised_parts
from isthmus.capture.resize import choose_sizes, is_mask, resize
from isthmus.capture.values import arguments
from isthmus.errors import InvalidInput
from isthmus.goldens.make import make_goldens
from models import CASES, REFUSED, Case, Refusal, case


def capture_case(name: str, **options: Any) -> Captured:
    known = case(name)
    args, kwargs = known.inputs()
    return capture(known.module(), args, kwargs, **{**known.options(), **options})


def kinds(notes: tuple[Hazard, ...]) -> set[str]:
    return {note.kind for note in notes}


class Echo(nn.Module):
    """Takes any arguments and returns the sum of all tensors."""

    def forward(self, *values: Any, **named: Any) -> Tensor:
        return torch.stack([tensor.sum() for tensor in tensors((values, named))]).sum()


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.float()]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors(item)]
    return []


# --- every module of the registry -----------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_is_captured_and_left_as_it_came(case: Case) -> None:
    module = case.module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    args, kwargs = case.inputs()

    captured = capture(module, args, kwargs, **case.options())

    assert captured.stateful == case.stateful
    assert captured.module is module
    assert [part.training for part in module.modules()] == modes
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_flat_module_gives_what_the_module_gives(case: Case) -> None:
    args, kwargs = case.inputs()
    captured = capture(case.module(), args, kwargs, **case.options())
    method = captured.methods[0]
    with torch.no_grad():
        values = copy.deepcopy(captured.given["forward"])
        flat = FlatModule(case.module(), method)(*values.values())
        nested_args, nested_kwargs = arguments(method, copy.deepcopy(captured.given["forward"]))
        expected = case.module()(*nested_args, **nested_kwargs)
    leaves = tensors_and_scalars(expected)
    assert len(flat) == len(leaves) == len(method.outputs)
    for got, want in zip(flat, leaves, strict=True):
        assert isinstance(got, Tensor)
        torch.testing.assert_close(got, torch.as_tensor(want), rtol=0, atol=0, check_dtype=False)


def tensors_and_scalars(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in tensors_and_scalars(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in tensors_and_scalars(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [leaf for item in vars(value).values() for leaf in tensors_and_scalars(item)]
    return [value]


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda refusal: refusal.name)
def test_what_must_not_be_exported_is_refused_by_name(refusal: Refusal) -> None:
    module = refusal.make()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    args, kwargs = refusal.example()
    with pytest.raises(InvalidInput) as caught:
        capture(module, args, kwargs)
    assert [word for word in refusal.words if word not in str(caught.value)] == []
    assert module.training
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)


# --- names ----------------------------------------------------------------------------------------


def test_names_come_from_the_parameters_and_the_nesting() -> None:
    class Net(nn.Module):
        def forward(
            self,
            x: Tensor,
            cache: dict[str, Any],
            *more: Tensor,
            scale: float = 1.0,
            **rest: Tensor,
        ) -> Tensor:
            return x.sum() + sum(tensor.sum() for tensor in more) * scale

    ones = torch.ones(2, 3)
    captured = capture(
        Net(),
        (ones, {"b": (ones, 2), "a": [ones, None]}, ones, ones),
        {"extra": ones, "scale": 2.0},
    )
    names = [spec.name for spec in captured.methods[0].inputs]
    assert names == [
        "x",
        "cache.b.0",
        "cache.b.1",
        "cache.a.0",
        "more.0",
        "more.1",
        "extra",
        "scale",
    ]
    kinds = {spec.name: (spec.kind, spec.dtype, spec.shape) for spec in captured.methods[0].inputs}
    assert kinds["cache.b.1"] == ("int", "int64", ())
    assert kinds["scale"] == ("float", "float64", ())
    assert kinds["x"] == ("tensor", "float32", (2, 3))
    assert [name for name, _ in captured.methods[0].kwargs] == ["extra", "scale"]
    assert len(captured.methods[0].args) == 4


def test_a_result_keeps_its_names_and_the_order_of_its_keys() -> None:
    assert [spec.name for spec in capture_case("dict_output").methods[0].outputs] == [
        "logits",
        "best",
        "average",
    ]
    assert [spec.name for spec in capture_case("model_output").methods[0].outputs] == [
        "last_hidden_state",
        "hidden_states.0",
        "hidden_states.1",
    ]
    assert [spec.name for spec in capture_case("sum_branch").methods[0].outputs] == ["output"]


def test_constants_are_no_inputs() -> None:
    captured = capture_case("scalars", constants=("times", "flip"))
    assert [spec.name for spec in captured.methods[0].inputs] == ["x", "scale"]
    trees = dict(captured.methods[0].kwargs)
    assert (trees["times"].node, trees["times"].value) == ("const", 3)
    assert (trees["flip"].node, trees["flip"].value) == ("const", False)


def test_an_unknown_constant_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r'no argument "tmes".*times'):
        capture_case("scalars", constants=("tmes",))
    with pytest.raises(InvalidInput, match=r"list of names.*times"):
        capture_case("scalars", constants="times")
    with pytest.raises(InvalidInput, match=r'"x", a Tensor.*buffer'):
        capture_case("scalars", constants=("x",))


def test_two_inputs_of_one_name_are_refused() -> None:
    ones = torch.ones(1)
    with pytest.raises(InvalidInput, match=r'two inputs would be called "named\.a\.b"'):
        capture(Echo(), (), {"named": {"a.b": ones, "a": {"b": ones}}})
    with pytest.raises(InvalidInput, match=r'two inputs would be called "values\.0"'):
        capture(Echo(), (ones,), {"values.0": ones})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.ones(3), ["numpy", "from_numpy"]),
        (object(), ["object"]),
        (torch.ones(2, 2).to_sparse(), ["sparse", "to_dense"]),
        (torch.ones(2, device="meta"), ["meta"]),
        (torch.ones(2).to(torch.float8_e4m3fn), ["float8_e4m3fn", "float32"]),
    ],
    ids=["numpy", "object", "sparse", "meta", "float8"],
)
def test_values_that_cannot_be_inputs_are_refused(value: Any, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        capture(Echo(), (), {"bad": value, "good": torch.ones(1)})
    assert [word for word in ["bad", *words] if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (models.SumBranch, ["SumBranch", "call it first"]),
        (models.SumBranch().state_dict(), ["state dict", "load_state_dict"]),
        (models.traced_part, ["function", "nn.Module"]),
        ("model.pt", ["str"]),
    ],
    ids=["class", "state dict", "function", "text"],
)
def test_what_is_no_module_is_refused(module: Any, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        capture(module, (torch.ones(1, 4),))
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_example_that_does_not_fit_is_refused() -> None:
    module = models.SumBranch()
    with pytest.raises(InvalidInput, match=r"SumBranch\.forward.*'input'.*parameters"):
        capture(module)
    with pytest.raises(InvalidInput, match=r"write \(x,\)"):
        capture(module, torch.ones(1, 4))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"fails on the example itself: RuntimeError"):
        capture(module, (torch.ones(1, 5),))


def test_methods_are_captured_with_forward_first() -> None:
    captured = capture_case("two_methods")
    assert [method.name for method in captured.methods] == ["forward", "decode"]
    assert captured.method("decode").inputs[0].shape == ("batch", 2)
    with pytest.raises(InvalidInput, match=r'no method "encode".*forward, decode'):
        captured.method("encode")


def test_a_module_without_forward_needs_methods() -> None:
    class Encoder(nn.Module):
        def encode(self, x: Tensor) -> Tensor:
            return x + 1

    captured = capture(Encoder(), methods={"encode": ((torch.ones(2),), {})})
    assert [method.name for method in captured.methods] == ["encode"]
    assert list(captured.example) == ["x"]
    with pytest.raises(InvalidInput, match="no forward"):
        capture(Encoder(), (torch.ones(2),))
    with pytest.raises(InvalidInput, match=r'no method "decode"'):
        capture(Encoder(), methods={"decode": ((), {})})
    with pytest.raises(InvalidInput, match=r"\(args, kwargs\)"):
        capture(Encoder(), methods={"encode": torch.ones(2)})  # type: ignore[dict-item]


def test_a_scripted_module_is_captured_by_its_schema() -> None:
    module = torch.jit.script(models.Streaming())
    captured = capture(module, (torch.ones(1, 4),), methods={"reset": ((), {})})
    assert [spec.name for spec in captured.methods[0].inputs] == ["x"]
    assert captured.state == ("h",)
    assert torch.equal(module.h, torch.zeros(1, 4))


def test_a_compiled_module_is_unwrapped() -> None:
    inner = models.DictOutput()
    captured = capture(torch.compile(inner), (torch.ones(2, 4),))
    assert captured.module is inner
    assert "unwrapped" in kinds(captured.notes)


# --- dynamic dimensions ---------------------------------------------------------------------------


def test_no_dynamic_dimension_is_exported_at_1_nor_two_at_one_size() -> None:
    captured = capture_case("bert")  # its example has batch 1
    assert captured.given_sizes == {"batch": 1, "sequence": 14}
    assert captured.sizes["batch"] > 1
    assert captured.sizes["batch"] != captured.sizes["sequence"]
    shape = (captured.sizes["batch"], captured.sizes["sequence"])
    assert captured.example["input_ids"].shape == shape
    assert captured.methods[0].inputs[0].shape == ("batch", "sequence")
    seen = set(captured.given["forward"]["input_ids"].flatten().tolist())
    assert set(captured.example["input_ids"].flatten().tolist()) <= seen


@pytest.mark.parametrize(
    ("dims", "given", "fixed", "expected"),
    [
        ({"a": (1, 64)}, {"a": 1}, set(), {"a": 2}),
        ({"a": (1, 64)}, {"a": 7}, set(), {"a": 7}),
        ({"a": (1, 64)}, {"a": 7}, {7}, {"a": 8}),
        ({"a": (1, 64), "b": (1, 64)}, {"a": 5, "b": 5}, set(), {"a": 5, "b": 6}),
        ({"a": (2, 3), "b": (2, 2)}, {"a": 2, "b": 2}, set(), {"a": 3, "b": 2}),
        ({"a": (1, 1)}, {"a": 1}, set(), {"a": 1}),
        ({"a": (1, 2)}, {"a": 1}, {2}, {"a": 2}),
        ({"a": (4, 8)}, {"a": 8}, {8, 7}, {"a": 6}),
    ],
)
def test_sizes_to_export_at(
    dims: dict[str, tuple[int, int]],
    given: dict[str, int],
    fixed: set[int],
    expected: dict[str, int],
) -> None:
    ranges = {name: DimRange(*dim) for name, dim in dims.items()}
    assert choose_sizes(ranges, given, fixed) == expected


def test_ranges_that_leave_no_choice_are_noted() -> None:
    captured = capture(
        Echo(),
        (torch.ones(2, 2),),
        dynamic={"values.0": {0: "a", 1: "b"}},
        dims={"a": (1, 2), "b": (1, 2)},
    )
    assert "equal_sizes" in kinds(captured.notes)


def test_a_prefix_means_all_inputs_below_it() -> None:
    captured = capture_case("lstm")
    assert captured.dynamic["state.0"] == {1: "batch"}
    assert captured.dynamic["state.1"] == {1: "batch"}


def test_negative_axes_count_from_the_end() -> None:
    captured = capture(
        Echo(),
        (torch.ones(2, 3, 4),),
        dynamic={"values.0": {-1: "last"}},
        dims={"last": (1, 9)},
    )
    assert captured.dynamic == {"values.0": {2: "last"}}


def test_default_ranges_are_noted() -> None:
    captured = capture(Echo(), (torch.ones(100),), dynamic={"values.0": {0: "n"}})
    assert captured.dims == {"n": DimRange(1, 400)}
    assert "default_range" in kinds(captured.notes)


@pytest.mark.parametrize(
    ("dynamic", "dims", "words"),
    [
        ({"y": {0: "n"}}, {"n": (1, 4)}, ['"y"', "values.0"]),
        ({"values.0": {2: "n"}}, {"n": (1, 4)}, ["axis 2", "[2, 3]"]),
        ({"values.0": {-3: "n"}}, {"n": (1, 4)}, ["axis -3"]),
        ({"values.0": {0: "n"}}, {}, ["no range", '"n"']),
        ({"values.0": {0: "n"}}, {"n": (1, 4), "m": (1, 2)}, ['"m"', "not used"]),
        ({"values.0": {0: "n"}}, {"n": (4, 1)}, ["min <= max", "(4, 1)"]),
        ({"values.0": {0: "n"}}, {"n": (-1, 4)}, ["(-1, 4)"]),
        ({"values.0": {0: "n"}}, {"n": (0, 0)}, ["(0, 0)"]),
        ({"values.0": {0: "n"}}, {"n": 4}, ["two integers", "4"]),
        ({"values.0": {0: "n"}}, {"n": (1, 2.5)}, ["two integers"]),
        ({"values.0": {0: "n"}}, {"n": (3, 9)}, ["size 2", "3 to 9"]),
        ({"values.0": {0: "n", 1: "n"}}, {"n": (1, 9)}, ["2", "3", "equal names"]),
        ({"values.0": {0: "n", -2: "m"}}, {"n": (1, 9), "m": (1, 9)}, ["already", '"n"', '"m"']),
        ({"values.0": {0: "a b"}}, None, ["'a b'"]),
        ({"values.0": ["n"]}, None, ["dict of axis"]),
        ({"flag": {0: "n"}}, None, ["flag", "bool"]),
        (["values.0"], None, ["dict", "list"]),
    ],
)
def test_bad_dynamic_dimensions_are_refused(dynamic: Any, dims: Any, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        capture(Echo(), (torch.ones(2, 3),), {"flag": True}, dynamic=dynamic, dims=dims)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_dimension_that_the_module_cannot_change_is_refused() -> None:
    class Pinned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(3, 1)

    with pytest.raises(InvalidInput, match=r"runs on the example \(n=3\) and fails at n=4.*dims"):
        # 3 is taken by the fixed dimension, so n is exported at 4.
        capture(Pinned(), (torch.ones(3, 3),), dynamic={"x": {1: "n"}})


def test_resize_keeps_real_values() -> None:
    values = {
        "ids": torch.tensor([[11, 13, 12]]),
        "offsets": torch.tensor([0, 3, 7]),
        "mask": torch.tensor([[1, 1, 0]]),
        "pixels": torch.tensor([[0.0, 0.5, 1.0]]),
        "scale": 2.0,
    }
    axes = {name: {0: "b", 1: "s"} for name in ("ids", "mask", "pixels")} | {"offsets": {0: "s"}}
    plain = resize(values, axes, {"b": 2, "s": 5})
    assert plain["ids"].tolist() == [[11, 13, 12, 11, 13]] * 2
    assert plain["mask"].tolist() == [[1, 1, 0, 1, 1]] * 2
    assert resize(values, axes, {"b": 1, "s": 2})["ids"].tolist() == [[11, 13]]
    varied = resize(values, axes, {"b": 2, "s": 5}, seed=3)
    assert set(varied["ids"].flatten().tolist()) == {11, 12, 13}
    assert torch.equal(varied["mask"], plain["mask"])
    assert not torch.equal(varied["pixels"], plain["pixels"])
    assert 0 <= float(varied["pixels"].min()) <= float(varied["pixels"].max()) <= 1
    assert varied["scale"] == 2.0
    for made in (plain, varied):
        assert made["offsets"].tolist() == [0, 0, 3, 3, 7], "what rises still rises"
    again = resize(values, axes, {"b": 2, "s": 5}, seed=3)
    assert torch.equal(varied["pixels"], again["pixels"])
    assert values["ids"].tolist() == [[11, 13, 12]]


@pytest.mark.parametrize(
    ("tensor", "mask"),
    [
        (torch.tensor([True, True]), True),
        (torch.tensor([1, 1, 1]), True),
        (torch.tensor([0, 1]), True),
        (torch.tensor([5, 9]), False),
        (torch.tensor([0.0, 1.0]), True),
        (torch.tensor([0.0, 0.0]), False),
        (torch.tensor([0.0, -torch.inf]), True),
        (torch.tensor([0.0, torch.finfo(torch.float32).min]), True),
        (torch.tensor([0.5, 1.5]), False),
    ],
)
def test_what_looks_like_a_mask(tensor: Tensor, mask: bool) -> None:
    assert is_mask(tensor) is mask


def test_resize_example_by_name() -> None:
    captured = capture_case("bert")
    values = resize_example(captured, {"batch": 3, "sequence": 4}, 1)
    assert values["input_ids"].shape == values["attention_mask"].shape == (3, 4)
    assert resize_example(capture_case("two_methods"), {"batch": 3}, method="decode")[
        "code"
    ].shape == (
        3,
        2,
    )


# --- modes ----------------------------------------------------------------------------------------


def test_evaluating_gives_each_submodule_its_mode_back() -> None:
    module = models.DropoutLeftOn().eval()
    module.dropout.train()
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    assert [part.training for part in module.modules()] == [False, False, True]
    with pytest.raises(RuntimeError, match="boom"):
        with evaluating(module):
            raise RuntimeError("boom")
    assert module.dropout.training


def test_a_submodule_left_in_train_mode_is_noted_by_name() -> None:
    module = models.DropoutLeftOn().eval()
    module.dropout.train()
    captured = capture(module, (torch.ones(2, 8),))
    notes = [note for note in captured.notes if note.kind == "train_mode"]
    assert len(notes) == 1
    assert notes[0].severity == "warning"
    assert '"dropout" (Dropout)' in notes[0].message
    assert module.dropout.training


def test_a_module_in_train_mode_is_noted_once() -> None:
    captured = capture(models.DropoutLeftOn().train(), (torch.ones(2, 8),))
    notes = [note for note in captured.notes if note.kind == "train_mode"]
    assert [note.severity for note in notes] == ["info"]


def test_random_numbers_that_change_nothing_are_noted() -> None:
    class Draws(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            return x + 1

    assert "random_operator" in kinds(capture(Draws(), (torch.ones(2),)).notes)


def test_the_callers_random_state_is_untouched() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with pytest.raises(InvalidInput):
        capture(models.DrawsInForward(), (torch.ones(2),))
    assert torch.equal(torch.rand(3), expected)


def test_differences_that_are_not_torchs_are_found_too() -> None:
    class Counts(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counts.calls += 1
            return x * Counts.calls

    with pytest.raises(InvalidInput, match=r'"0" \(Counts\)'):
        capture(nn.Sequential(Counts(), nn.Identity()), (torch.ones(2),))


def test_an_input_written_in_place_is_noted_and_left_alone() -> None:
    x = torch.ones(2, 4)
    captured = capture(models.WritesItsInput(), (x,))
    assert torch.equal(x, torch.ones(2, 4))
    assert any(note.kind == "writes_input" and '"x"' in note.message for note in captured.notes)


# --- state ----------------------------------------------------------------------------------------


def test_state_is_found_wherever_it_is() -> None:
    class Everywhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("untouched", torch.zeros(2))
            self.register_buffer("buffer", torch.zeros(2))
            self.register_buffer("absent", None)
            self.plain: Tensor | None = None
            self.history: list[Tensor] = []
            self.table = {"a": torch.zeros(2)}
            self.queue: deque[int] = deque([1, 2])
            self.seen: set[int] = set()
            self.count = 0
            self.same = torch.ones(2)
            self.options = SimpleNamespace(step=0)
            self.inner = models.Ring()

        def forward(self, x: Tensor) -> Tensor:
            self.buffer += x.sum()
            self.absent = x
            self.plain = x
            self.history.append(x)
            self.table["a"] += 1
            self.queue.popleft()
            self.seen.add(self.count)
            self.count += 1
            self.same = torch.ones(2)
            self.options.step += 1
            self.late = 3
            return self.inner(x) + self.untouched.sum()

    module = Everywhere()
    objects = {name: getattr(module, name) for name in ("history", "table", "queue", "options")}
    table, buffer = module.table["a"], module.buffer
    captured = capture(module, (torch.ones(2, 4),))

    assert set(captured.state) == {
        *("buffer", "absent", "plain", "history", "table", "queue", "seen", "count"),
        *("options", "late", "inner.ring"),
    }
    assert captured.stateful
    assert "state" in kinds(captured.notes)
    assert all(getattr(module, name) is value for name, value in objects.items())
    assert module.table["a"] is table and torch.equal(table, torch.zeros(2))
    assert module.buffer is buffer and torch.equal(buffer, torch.zeros(2))
    assert module.absent is None and "absent" in module._buffers
    assert module.plain is None and "plain" not in module._buffers
    assert (module.history, list(module.queue), module.seen, module.count) == ([], [1, 2], set(), 0)
    assert module.options.step == 0
    assert not hasattr(module, "late")
    assert torch.equal(module.inner.ring, torch.zeros(3, 4))


def test_state_is_restored_when_the_module_raises() -> None:
    class Raises(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.n += 1
            raise ValueError("no")

    module = Raises().train()
    with pytest.raises(InvalidInput, match="ValueError: no"):
        capture(module, (torch.ones(1),))
    assert torch.equal(module.n, torch.zeros(1))
    assert module.training


def test_a_snapshot_restores_shapes_cycles_and_shared_objects() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tensor = torch.zeros(2)
            self.loop: list[Any] = [1]
            self.loop.append(self.loop)
            self.alias = self.loop
            self.me = [self]

    module = Holder()
    state = ModuleState(module)
    assert state.changed() == ()
    tensor, loop = module.tensor, module.loop
    module.tensor.resize_(5).fill_(1)
    module.loop.insert(0, "x")
    assert set(state.changed()) == {"tensor", "loop", "alias"}
    state.restore()
    assert state.changed() == ()
    assert module.tensor is tensor and tensor.tolist() == [0, 0]
    assert module.loop is loop and loop[0] == 1 and loop[1] is loop and module.alias is loop


def test_nan_in_the_state_is_no_change() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nan = torch.tensor([float("nan")])

        def forward(self, x: Tensor) -> Tensor:
            self.nan = self.nan.clone()
            return x + 1

    assert capture(Holder(), (torch.ones(1),)).state == ()


def test_scalars_and_bool_are_told_apart() -> None:
    specs = input_specs({"a": True, "b": 1, "c": 1.0}, {})
    assert [(spec.kind, spec.dtype) for spec in specs] == [
        ("bool", "bool"),
        ("int", "int64"),
        ("float", "float64"),
    ]


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.filterwarnings("ignore")
def test_submodules_that_quantisation_leaves_in_train_mode_are_not_noted() -> None:
    module = torch.ao.quantization.quantize_dynamic(Quantised().eval(), {nn.Linear})
    assert any(submodule.training for submodule in module.modules())
    captured = capture(module, (torch.randn(2, 4),))
    assert not [note for note in captured.notes if note.kind == "train_mode"]
    assert quantised_parts(module) == ["layers.0", "layers.1"]


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        # torch has no types for it yet.
        return torch.cond(x.sum() > 0, lambda x: self.linear(x), lambda x: x - 1, (x,))  # type: ignore[no-any-return]


def test_structured_control_flow_is_captured() -> None:
    captured = capture(Conditional().eval(), (torch.randn(3, 4),), dynamic={"x": {0: "batch"}})
    goldens, _, _ = make_goldens(captured)
    assert goldens


class TooLoud(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 10):
            raise ValueError("too loud")
        return x


@pytest.mark.filterwarnings("ignore")
def test_an_error_of_a_scripted_module_is_told_by_its_last_line() -> None:
    with pytest.raises(InvalidInput, match="on the example itself: ValueError: too loud"):
        capture(torch.jit.script(TooLoud()), (torch.ones(20),))
