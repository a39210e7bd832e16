"""Tests of the sweep: many more sizes than goldens have, checked once on each engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import isthmus
from isthmus.bundle.manifest import DimRange, Method
from isthmus.capture.capture import capture
from isthmus.errors import ExportError, InvalidInput
from isthmus.exporters.check import GoldenCheck
from isthmus.exporters.onnx import export_onnx
from isthmus.exporters.size_dependent import size_dependent_operators
from isthmus.goldens.make import make_goldens
from isthmus.goldens.sweep import Load, Price, every_size, sweep_shapes, wrong_sizes
from isthmus.goldens.tolerance import tolerances

FREE = Load(0, 0)


def shapes_of(dims: Mapping[str, tuple[int, int]], **options: Any) -> list[dict[str, int]]:
    ranges = {name: DimRange(*limits) for name, limits in dims.items()}
    least = {name: limits[0] for name, limits in dims.items()}
    price = Price(least, FREE, least, FREE)
    return sweep_shapes(ranges, price, **options)


# --- the choice of sizes --------------------------------------------------------------------------


def test_a_small_range_is_swept_whole() -> None:
    assert sorted(shape["n"] for shape in shapes_of({"n": (1, 64)})) == list(range(1, 65))
    swept = shapes_of({"n": (0, 3)}, known=[{"n": 2}])
    assert sorted(shape["n"] for shape in swept) == [0, 1, 3]
    assert shapes_of({"n": (5, 5)}) == shapes_of({}) == []


def test_a_large_range_has_its_boundaries_and_sizes_of_every_kind() -> None:
    shapes = shapes_of({"h": (32, 1000), "w": (1, 4096)})
    assert 50 <= len(shapes) <= 64
    for name, low, high in (("h", 32, 1000), ("w", 1, 4096)):
        sizes = {shape[name] for shape in shapes}
        assert {low, low + 1, high - 1, high} <= sizes
        assert all(low <= size <= high for size in sizes)
        for unit in (8, 16, 32):
            assert any(size % unit == 0 for size in sizes)
            assert any(size % unit == 1 for size in sizes)
            assert any(size % unit == unit - 1 for size in sizes)
        assert len(sizes) > 40
    assert shapes == shapes_of({"h": (32, 1000), "w": (1, 4096)})
    assert shapes != shapes_of({"h": (32, 1000), "w": (1, 4096)}, seed=1)


def test_only_allowed_sizes_are_swept() -> None:
    dims = {"n": DimRange(256, 1024, (256, 512, 1024)), "m": DimRange(1, 3)}
    least = {"n": 256, "m": 1}
    shapes = sweep_shapes(dims, Price(least, FREE, least, FREE))
    assert {shape["n"] for shape in shapes} == {256, 512, 1024}
    assert every_size(dims, shapes) == (len(shapes) == 9)
    assert every_size({"m": DimRange(1, 3)}, [{"m": 1}, {"m": 2}, {"m": 3}])
    assert not every_size({"m": DimRange(1, 3)}, [{"m": 1}, {"m": 3}])


def test_the_budget_bounds_the_sweep() -> None:
    dims = {"a": DimRange(1, 1000), "b": DimRange(1, 1000)}
    least = {"a": 1, "b": 1}
    price = Price(least, Load(10, 1), least, Load(10, 1))
    assert price.of({"a": 3, "b": 5}) == Load(150, 15)
    for budget in (Load(50_000, 1e9), Load(1e9, 20_000)):
        shapes = sweep_shapes(dims, price, budget=budget)
        total = [price.of(shape) for shape in shapes]
        assert sum(load.operations for load in total) <= budget.operations
        assert sum(load.nbytes for load in total) <= budget.nbytes
        assert len(shapes) > 20
        assert len({shape["a"] for shape in shapes}) > 10
    assert sweep_shapes(dims, price, budget=Load(5, 1)) == []
    # Outputs whose size does not depend on the input's take the same at every size.
    constant = Price({"a": 10, "b": 10}, Load(1, 100), least, Load(1, 100))
    assert len(sweep_shapes(dims, constant, budget=Load(1e9, 350))) == 3
    assert constant.of({"a": 900, "b": 900}) == Load(1, 100)


def test_the_message_names_the_dimension_that_decides() -> None:
    shapes = [{"h": h, "w": w} for h in (1, 2, 3) for w in (40, 41, 42)]
    by_width = [shape for shape in shapes if shape["w"] == 41]
    assert wrong_sizes(by_width, shapes) == "wrong at 3 of 9 sizes of w, the first is w=41"
    one = [{"h": 2, "w": 41}]
    assert wrong_sizes(one, shapes) == "wrong at 1 of 9 sizes of h and w, the first is h=2, w=41"
    assert wrong_sizes(shapes, shapes).startswith("wrong at 9 of 9 sizes of h and w")
    assert wrong_sizes([], shapes) == ""


# --- the check ------------------------------------------------------------------------------------


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_an_engine_that_is_wrong_at_some_sizes_fails() -> None:
    module = Doubles()
    goldens, noise, complete = make_goldens(
        capture(module, (torch.rand(2, 9),), dynamic={"x": {1: "w"}}, dims={"w": (1, 60)})
    )
    sizes = {golden.dims["w"] for golden in goldens}
    assert len(complete.sweep) + len(sizes) == 60, "every size of the range"

    class Engine:
        wrong: tuple[int, ...] = ()
        calls = 0

        def call(self, method: Method, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            self.calls += 1
            x = inputs["x"]
            return {"output": module(x) + (1e-3 if x.shape[1] in self.wrong else 0)}

    engine = Engine()
    check = GoldenCheck(
        methods=complete.methods,
        goldens=goldens,
        sweep=complete.sweep,
        tolerances=tolerances(noise, goldens),
    )
    make: Any = lambda files, methods: engine  # noqa: E731
    verdict = check.check_files(make, [])
    assert verdict
    assert verdict.swept == len(complete.sweep)
    assert engine.calls == 2 * len(goldens) + len(complete.sweep), "each swept size is called once"
    assert f"and at {verdict.swept} further sizes" in verdict.acceptance("made", "its files")
    engine.wrong = (37, 41, 43)
    verdict = check.check_files(make, [])
    assert not verdict
    assert f"is wrong at 3 of {len(complete.sweep)} sizes of w, the first is w=37" in (
        verdict.refusal()
    )


class OneBranch(nn.Module):
    """Decides by a size that no golden has; a trace keeps the other branch."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.shape[1] == 43 else x * 2


def test_a_size_that_no_golden_has_refuses_the_artifact(tmp_path: Path) -> None:
    options: Any = {"dynamic": {"x": {1: "w"}}, "dims": {"w": (32, 64)}}
    with pytest.raises(ExportError, match=r"is wrong at 1 of \d+ sizes of w, the first is w=43"):
        isthmus.export(
            OneBranch(), (torch.rand(1, 40),), path=tmp_path / "trace", strategy="trace", **options
        )
    assert not (tmp_path / "trace").exists()
    bundle = isthmus.export(OneBranch(), (torch.rand(1, 40),), path=tmp_path / "auto", **options)
    (artifact,) = bundle.manifest.artifacts
    assert artifact.strategy == "script"
    assert "further sizes" in artifact.decisions[-1].reason
    stored = {golden.dims["w"] for golden in bundle.manifest.goldens}
    assert 43 not in stored
    assert len(stored) < 10


def test_a_size_that_eager_cannot_serve_is_refused() -> None:
    class Even(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] == 37:
                raise ValueError("not 37")
            return x * 2

    captured = capture(Even(), (torch.rand(4),), dynamic={"x": {0: "n"}}, dims={"n": (1, 60)})
    with pytest.raises(InvalidInput, match=r"fails in eager mode at n=37.*not 37.*narrow"):
        make_goldens(captured)


class Mask(nn.Module):
    """What detection transformers do with a padding mask."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(24, 24), mode="nearest")


def test_the_sweep_finds_pixels_of_nearest_resizing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inexact = [attempt for attempt in export_onnx._ATTEMPTS if attempt.name == "torchscript"]
    monkeypatch.setattr(export_onnx, "_ATTEMPTS", inexact)
    with pytest.raises(ExportError, match=r"wrong at \d+ of \d+ sizes of"):
        isthmus.export(
            Mask(),
            (torch.randn(1, 1, 96, 128),),
            path=tmp_path / "mask",
            dynamic={"x": {2: "h", 3: "w"}},
            dims={"h": (32, 256), "w": (32, 256)},
            formats=("onnx",),
        )


@pytest.fixture(scope="module")
def mask_bundle(tmp_path_factory: pytest.TempPathFactory) -> isthmus.Bundle:
    return isthmus.export(
        Mask(),
        (torch.randn(1, 1, 96, 128),),
        path=tmp_path_factory.mktemp("sweep") / "mask",
        dynamic={"x": {3: "w"}},
        dims={"w": (32, 256)},
    )


def test_a_conversion_sweeps_with_the_answers_of_torchscript(
    mask_bundle: isthmus.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    inexact = [attempt for attempt in export_onnx._ATTEMPTS if attempt.name == "torchscript"]
    monkeypatch.setattr(export_onnx, "_ATTEMPTS", inexact)
    with pytest.raises(ExportError, match=r"wrong at \d+ of \d+ sizes of w"):
        isthmus.convert(mask_bundle, ["onnx"])


def test_operators_that_depend_on_sizes_are_named(mask_bundle: isthmus.Bundle) -> None:
    (artifact,) = mask_bundle.manifest.artifacts
    (hazard,) = [hazard for hazard in artifact.hazards if hazard.kind == "size_dependent"]
    assert hazard.message.startswith("upsample_nearest2d computes places from sizes")
    assert "sizes of w" in hazard.message
    assert "test_sweep.py:" in hazard.where


def operators_of(module: nn.Module, *args: Tensor) -> list[str]:
    captured = capture(module, args, dynamic={"x": {0: "n"}}, dims={"n": (2, 200)})
    found = size_dependent_operators(make_goldens(captured)[2])
    return [operator.operator for operator in found]


def test_only_operators_whose_sizes_vary_are_named() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            table = F.interpolate(torch.ones(1, 1, 8), size=16)
            return x + table.sum() + torch.arange(x.shape[0])

    class Ramp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.linspace(0, 1, x.shape[0]) + F.adaptive_avg_pool1d(x[None], 3).sum()

    assert operators_of(Fixed(), torch.rand(5)) == []
    assert operators_of(Ramp(), torch.rand(5)) == ["linspace", "adaptive_avg_pool2d"]


def test_sizes_that_were_too_costly_to_try_are_named() -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, None].expand(-1, 40_000) * 2

    captured = capture(Wide(), (torch.rand(4),), dynamic={"x": {0: "n"}}, dims={"n": (2, 300)})
    goldens, _, complete = make_goldens(captured)
    largest = max(golden.dims["n"] for golden in (*goldens, *complete.sweep))
    untried = [note for note in complete.notes if note.kind == "untried_sizes"]
    assert largest < 300
    assert f'no size of "n" above {largest} was tried, of up to 300' in untried[0].message
    _, _, small = make_goldens(
        capture(Wide(), (torch.rand(4),), dynamic={"x": {0: "n"}}, dims={"n": (2, 9)})
    )
    assert not [note for note in small.notes if note.kind == "untried_sizes"]
