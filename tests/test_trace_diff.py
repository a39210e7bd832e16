"""Comparing traces shows what one call decided, and reports nothing for a clean model."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.manifest import Hazard
from isthmus.capture.capture import capture
from isthmus.errors import ExportError
from isthmus.exporters.remedies import REMEDIES, with_remedies
from isthmus.exporters.torchscript.compare_traces import differences
from isthmus.exporters.torchscript.trace import trace
from models import CASES, Case

BAKED = {"baked_constant", "frozen_branch", "captured_parameter"}


class CountsInPython(nn.Module):
    """A module that counts positive values in NumPy, where the tracer does not see it."""

    def forward(self, x: Tensor) -> Tensor:
        count = int((x.detach().numpy() > 0).sum())
        return x * count / max(count, 1) + 0 * count


class ChoosesByValue(nn.Module):
    """A module that takes another operator for large inputs."""

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() > 1e6:
            return x.tanh()
        return x.sin()


class TableOfWeights(nn.Module):
    """A module that uses a plain tensor which is a copy of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.table = self.linear.weight.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.table


def traced(module: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    captured = capture(module, (torch.randn(3, 4),), dynamic={"x": {0: "batch"}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script_module, _ = trace(module.eval(), captured.methods, {"forward": {"x": x}})
    return script_module


def test_a_number_from_python_is_a_baked_constant() -> None:
    positive, negative = torch.ones(3, 4), -torch.ones(3, 4)
    places = differences(
        traced(CountsInPython(), positive), traced(CountsInPython(), negative), "data", ["forward"]
    )
    assert places
    assert "is 12 for one input and 0 for another" in places[0].what
    assert places[0].where.endswith(f"test_trace_diff.py:{line_of('return x * count')}")


def test_a_branch_shows_as_other_operators() -> None:
    small, large = torch.ones(3, 4), torch.full((3, 4), 1e7)
    places = differences(
        traced(ChoosesByValue(), small), traced(ChoosesByValue(), large), "data", ["forward"]
    )
    assert len(places) == 1
    assert "aten::sin where another runs aten::tanh" in places[0].what


def test_a_loop_shows_as_more_operators() -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.sum(0)
            for _ in range(x.shape[0]):
                total = total * 2
            return total

    places = differences(
        traced(Rows(), torch.ones(3, 4)), traced(Rows(), torch.ones(5, 4)), "shape", ["forward"]
    )
    assert len(places) == 1
    assert "a branch or a loop was frozen" in places[0].what


def hazards_of(module: nn.Module, path: Path, **options: Any) -> dict[str, Hazard]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle = isthmus.export(
            module.eval(),
            (torch.randn(3, 4),),
            path=path,
            strategy="trace",
            dynamic={"x": {0: "batch"}},
            **options,
        )
    return {hazard.kind: hazard for hazard in bundle.manifest.artifacts[0].hazards}


def test_a_weight_that_became_a_constant_is_told(tmp_path: Path) -> None:
    hazards = hazards_of(TableOfWeights(), tmp_path / "b")
    assert hazards["captured_parameter"].severity == "warning"
    assert hazards["captured_parameter"].message.startswith("linear.weight is held as a constant")
    assert hazards["captured_parameter"].remedy


def test_a_value_that_python_decided_is_told_with_its_line_and_remedy(tmp_path: Path) -> None:
    """The count cancels out on every golden, but not on every input."""
    with pytest.raises(ExportError) as caught:
        hazards_of(CountsInPython(), tmp_path / "b")
    lines = re.findall(r"--accept ([^ )]+)", str(caught.value))
    hazards = hazards_of(CountsInPython(), tmp_path / "b", accept=lines)
    hazard = hazards["accepted_branch"]
    assert hazard.severity == "warning"
    assert "test_trace_diff.py" in hazard.where
    assert hazard.remedy


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.stateful], ids=lambda case: case.name
)
def test_no_clean_model_is_accused(case: Case, tmp_path: Path) -> None:
    args, kwargs = case.inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle = isthmus.export(case.module(), args, kwargs, path=tmp_path / "b", **case.options())
    for hazard in bundle.manifest.artifacts[0].hazards:
        assert hazard.kind not in BAKED, hazard


def test_every_remedy_reaches_its_hazard() -> None:
    for kind, remedy in REMEDIES.items():
        assert with_remedies([Hazard(kind, "warning", "m")])[0].remedy == remedy
    assert with_remedies([Hazard("x", "info", "m", "", "own")])[0].remedy == "own"


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(at for at, line in enumerate(lines, start=1) if text in line)
