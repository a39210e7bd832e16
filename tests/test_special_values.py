"""Special values and larger numbers: each engine is tried on them, and refused where it differs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.rewrite_manifest import rewrite_manifest
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.bundle.golden import Golden, Step
from isthmus.bundle.manifest import EngineProof, ValueRange
from isthmus.capture.capture import capture
from isthmus.exporters.special_limits import limits_of
from isthmus.goldens.make import make_goldens
from isthmus.goldens.special_values import KINDS, SpecialGolden, make_special_goldens

ENGINES = ("torchscript", "exported", "onnxruntime", "openvino", "aoti")


class Sensor(nn.Module):
    """Readings where NaN means none: engines treat NaN in clamp, amax and argmax otherwise."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps float32[batch, 4] to clamped readings, maxima, their places, and a scaled copy."""
        return x.clamp(-1.0, 1.0), x.amax(-1), x.argmax(-1), x / 3


class Clock(nn.Module):
    """Integers beyond int32, which OpenVINO does not keep."""

    def forward(self, ticks: Tensor, step: Tensor) -> Tensor:
        """Maps two int64[n] to their scaled sum."""
        return ticks * 3 + step


class Repeat(nn.Module):
    """A loop whose count OpenVINO takes for endless when it is negative."""

    def forward(self, x: Tensor, n: int) -> Tensor:
        """Halves x n times."""
        for _ in range(n):
            x = x * 0.5 + 1
        return x


@pytest.fixture(scope="module")
def sensor(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    return isthmus.export(
        Sensor().eval(),
        (torch.randn(3, 4),),
        path=tmp_path_factory.mktemp("sensor") / "sensor",
        dynamic={"x": {0: "batch"}},
        dims={"batch": (1, 8)},
        formats=("torchscript", "exported", "onnx", "aoti"),
    )


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    ticks = torch.arange(5)
    return isthmus.export(
        Clock().eval(),
        (ticks, ticks.flip(0)),
        path=tmp_path_factory.mktemp("clock") / "clock",
        formats=("torchscript", "onnx"),
    )


def proofs(bundle: Bundle) -> dict[str, EngineProof]:
    """Returns the verdict of each engine."""
    found = {p.engine: p for artifact in bundle.manifest.artifacts for p in artifact.proofs}
    assert all(proof.passed for proof in found.values()), found
    return found


def calls_right(bundle: Bundle, engine: str, module: nn.Module, *args: object) -> bool:
    """Returns True when the engine answers as eager, and False when it refuses."""
    model = isthmus.load(bundle.path, engine=engine, trust="native")
    want = module(*args)
    try:
        got = model(*args)
    except isthmus.InvalidInput as error:
        assert f"{engine} gave other answers than the model" in str(error)
        assert "specials=allow" in str(error)
        return False
    pairs = zip(want, got, strict=True) if isinstance(want, tuple) else [(want, got)]
    for a, b in pairs:
        torch.testing.assert_close(b, a, equal_nan=True)
    return True


def test_every_engine_is_tried_on_every_kind(sensor: Bundle) -> None:
    verdicts = proofs(sensor)
    assert set(verdicts) == set(ENGINES)
    assert verdicts["torchscript"].limits == ()
    assert "nan" in verdicts["openvino"].unproven["x"]
    assert all(set(kinds) <= set(KINDS) for p in verdicts.values() for kinds in p.unproven.values())
    stored = {golden.special["x"] for golden in sensor.manifest.specials}
    assert set(KINDS) <= stored
    assert not sensor.verify_files()


@pytest.mark.parametrize("engine", ENGINES)
def test_no_engine_answers_special_values_otherwise_than_eager(sensor: Bundle, engine: str) -> None:
    unproven = proofs(sensor)[engine].unproven.get("x", ())
    values = {
        "nan": math.nan,
        "inf": math.inf,
        "zero": 0.0,
        "negative_zero": -0.0,
        "denormal": 1e-40,
        "large": 1e30,
    }
    for kind, value in values.items():
        for place in range(20):
            x = torch.randn(5, 4)
            x.view(-1)[place] = value
            assert calls_right(sensor, engine, Sensor(), x) == (kind not in unproven), (kind, place)
    assert calls_right(sensor, engine, Sensor(), torch.randn(8, 4))


def test_the_message_and_allow(sensor: Bundle) -> None:
    x = torch.ones(3, 4)
    x[1, 2] = math.nan
    with pytest.raises(
        isthmus.InvalidInput,
        match=r'input "x": NaN at \[1, 2\] .*openvino gave other answers than the model for NaN at '
        r"export; use torchscript",
    ):
        isthmus.load(sensor.path, engine="openvino")(x)
    allowed = isthmus.load(sensor.path, engine="openvino", specials="allow")
    assert allowed(x)[0].shape == (3, 4)
    assert any("not proven for NaN" in note for note in allowed.load_report.notes)
    with pytest.raises(isthmus.InvalidInput, match="expected refuse or allow"):
        isthmus.load(sensor.path, specials="maybe")


@pytest.mark.parametrize("engine", ("torchscript", "onnxruntime", "openvino"))
@pytest.mark.parametrize("number", (0, -1, 255, 2**24 + 1, 2**31 - 1, 2**31, -(2**40), 2**62))
def test_integers_are_right_or_refused(clock: Bundle, engine: str, number: int) -> None:
    ticks = torch.tensor([1, number, 2, 3, 4])
    calls_right(clock, engine, Clock(), ticks, torch.arange(5))
    calls_right(clock, engine, Clock(), ticks, ticks)


def test_the_range_of_integers_is_that_of_the_engine(clock: Bundle) -> None:
    verdicts = proofs(clock)
    assert verdicts["torchscript"].values == verdicts["onnxruntime"].values == {}
    proven = verdicts["openvino"].values["ticks"]
    assert -(2**31) < proven.min < 0
    assert 255 <= proven.max < 2**31
    with pytest.raises(isthmus.InvalidInput, match=r"expected values -\d+ to \d+, got 4294967296"):
        isthmus.load(clock.path, engine="openvino")(torch.full((5,), 2**32), torch.arange(5))


def test_a_negative_count_is_refused_where_it_would_hang(tmp_path: Path) -> None:
    bundle = isthmus.export(
        torch.jit.script(Repeat().eval()),
        (torch.ones(3), 3),
        path=tmp_path / "repeat",
        formats=("torchscript", "onnx"),
    )
    verdicts = proofs(bundle)
    assert verdicts["openvino"].values["n"].min == 0
    with pytest.raises(isthmus.InvalidInput, match=r'input "n": expected values 0 to .*, got -1; '):
        isthmus.load(bundle.path, engine="openvino")(torch.ones(3), -1)
    for engine in ("torchscript", "onnxruntime"):
        assert calls_right(bundle, engine, Repeat(), torch.ones(3), -1)
    assert calls_right(bundle, "openvino", Repeat(), torch.ones(3), 7)


def test_what_eager_refuses_or_cannot_end_is_left_out(tmp_path: Path) -> None:
    class Grid(nn.Module):
        def forward(self, x: Tensor, sizes: Tensor) -> Tensor:
            n = int(sizes.max())
            if n < 0:
                raise ValueError("a negative size")
            return x.sum() + torch.arange(n).sum() * 0

    bundle = isthmus.export(
        torch.jit.script(Grid().eval()),
        (torch.ones(2), torch.tensor([3, 2])),
        path=tmp_path / "grid",
        formats=("torchscript",),
    )
    assert proofs(bundle)["torchscript"].limits == ()


def test_an_engine_of_another_version_is_tried_on_the_stored_values(sensor: Bundle) -> None:
    with rewrite_manifest(sensor.path) as manifest:
        for artifact in manifest["artifacts"]:
            artifact["proofs"] = []
    x = torch.ones(3, 4)
    x[0, 0] = math.nan
    with pytest.raises(isthmus.InvalidInput, match="for NaN on this machine"):
        isthmus.load(sensor.path, engine="openvino")(x)


class Meeting(nn.Module):
    """Functions of two inputs that engines mistake only where special values of both meet."""

    def forward(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps two float32[n] to angles and to whether either is anything but zero."""
        return torch.atan2(y, x), torch.logical_or(y, x)


class Largest(nn.Module):
    """The place of the largest number, which is still the largest when 2^32 - 1 becomes -1."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps int64[n] to the index of its largest number."""
        return x.argmax(-1)


def test_numbers_just_beyond_the_end_of_a_type_are_tried(tmp_path: Path) -> None:
    bundle = isthmus.export(
        Largest().eval(), (torch.tensor([-8, 6, -8]),), path=tmp_path / "b", formats=("onnx",)
    )
    limits = {proof.engine: proof.values for proof in bundle.manifest.artifacts[0].proofs}
    assert limits["openvino"]["x"].max == 2**31 - 1
    assert "x" not in limits["onnxruntime"]


def test_special_values_of_several_inputs_are_tried_where_they_meet(tmp_path: Path) -> None:
    bundle = isthmus.export(
        Meeting().eval(),
        (torch.rand(6) + 1, torch.rand(6) + 1),
        path=tmp_path / "meeting",
        formats=("onnx",),
    )
    kinds = {proof.engine: proof.unproven for proof in bundle.manifest.artifacts[0].proofs}
    # The angle of two infinities is a number; engines that divide give NaN.
    assert all("inf" in kinds["onnxruntime"][name] for name in ("y", "x"))
    # NaN is not zero; beside anything else than zero it does not matter.
    assert all("nan" in kinds["openvino"][name] for name in ("y", "x"))
    infinite = torch.full((6,), math.inf)
    with pytest.raises(isthmus.InvalidInput, match="for infinities"):
        isthmus.load(bundle.path, engine="onnxruntime")(infinite, infinite)


class Compass(Meeting):
    """A module with a second method, whose inputs meet too."""

    def turned(self, north: Tensor, east: Tensor) -> Tensor:
        """Maps two float32[n] to angles."""
        return torch.atan2(east, north)


def test_special_values_meet_in_every_method() -> None:
    pair = (torch.rand(6) + 1, torch.rand(6) + 1)
    captured = capture(Compass(), pair, methods={"turned": (pair, {})})
    goldens, _, complete = make_goldens(captured)
    specials = make_special_goldens(complete, goldens)
    together = {tuple(special.special) for special in specials if len(special.special) > 1}
    assert together == {("y", "x"), ("north", "east")}
    names = [special.golden.name for special in specials]
    assert len(set(names)) == len(names)


# --- the rule -------------------------------------------------------------------------------------


def golden(**inputs: Tensor) -> Golden:
    return Golden("own", {}, (Step("forward", dict(inputs), {}),))


def special(limits: dict[str, int]) -> SpecialGolden:
    return SpecialGolden(golden(), dict.fromkeys(limits, "magnitude"), limits)


def test_a_range_ends_before_the_first_number_that_fails() -> None:
    own = golden(n=torch.tensor([3, 9]))
    limits = [1, 0, -1, -128, 127, 255, 2047]
    trials = [special({"n": limit}) for limit in limits]
    assert limits_of(trials, [False] * 7, [own]).values == {}
    wrong = [limit in (-1, 255) for limit in limits]
    assert limits_of(trials, wrong, [own]).values == {"n": ValueRange(0, 127)}
    wrong = [limit == 1 for limit in limits]
    assert limits_of(trials, wrong, [own]).values == {"n": ValueRange(3, 2**63 - 1)}


def test_inputs_that_fail_only_together_are_all_narrowed() -> None:
    own = golden(a=torch.tensor([3]), b=torch.tensor([5]))
    alone = [special({"a": 127}), special({"b": 127}), special({"a": 255}), special({"b": 255})]
    joint = special({"a": 255, "b": 255})
    found = limits_of([*alone, joint], [False] * 4 + [True], [own])
    assert {name: int(values.max) for name, values in found.values.items()} == {"a": 127, "b": 127}
    # When one fails alone, the other is not to blame.
    found = limits_of([*alone, joint], [False, False, True, False, True], [own])
    assert set(found.values) == {"a"}


def test_floats_have_one_limit_for_both_signs() -> None:
    own = golden(x=torch.tensor([-2.5, 1.0]))
    trials = [special({"x": 256}), special({"x": 4096})]
    assert limits_of(trials, [False, True], [own]).values == {"x": ValueRange(-256, 256)}
    assert limits_of(trials, [True, True], [own]).values == {"x": ValueRange(-3, 3)}


def test_kinds_that_fail_only_together_are_those_of_all_inputs() -> None:
    def of(*names: str) -> SpecialGolden:
        return SpecialGolden(golden(), dict.fromkeys(names, "inf"), {})

    trials = [of("a"), of("b"), of("a", "b")]
    found = limits_of(trials, [False, False, True], [golden()])
    assert found.unproven == {"a": ("inf",), "b": ("inf",)}
    found = limits_of(trials, [True, False, True], [golden()])
    assert found.unproven == {"a": ("inf",)}
