"""Tests of scripts/campaign: the fixed sample of operators, on every engine, against eager."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SAMPLE = 40
AOTI_SAMPLE = 12
"""AOTInductor compiles these as one module, in about a minute."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def campaign() -> Iterator[Any]:
    """The module benchmarks/campaign.py."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import campaign

        yield campaign
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def entries(campaign: Any) -> Any:
    return campaign.operators()


def run(
    campaign: Any, names: list[str], entries: Any, formats: list[str], state: Any
) -> dict[tuple[str, str], Any]:
    campaign.run_campaign(names, entries, formats, state, Console(stderr=True), len(names))
    return {
        (row["operator"], row["engine"]): row
        for (name, _), rows in state.rows.items()
        if name in names
        for row in rows
    }


def test_the_fixed_sample_has_no_wrong_answer(campaign: Any, entries: Any, tmp_path: Path) -> None:
    names = campaign.fixed_sample(list(entries), SAMPLE)
    state = campaign.State(tmp_path / "state.jsonl")
    rows = run(campaign, names, entries, ["torchscript", "onnx"], state)
    assert not [row for row in rows.values() if row["wrong"]]
    right = [row for row in rows.values() if row["verdict"] == "right"]
    assert len(right) > SAMPLE, "most operators are right on several engines"
    again = campaign.State(tmp_path / "state.jsonl")
    assert again.rows == state.rows, "a run goes on where the last one stopped"


def test_aotinductor_has_no_wrong_answer(campaign: Any, entries: Any, tmp_path: Path) -> None:
    names = campaign.fixed_sample(list(entries), AOTI_SAMPLE)
    state = campaign.State(tmp_path / "state.jsonl")
    rows = run(campaign, names, entries, ["aoti"], state)
    assert not [row for row in rows.values() if row["wrong"]]
    assert [row for row in rows.values() if row["verdict"] == "right"]


def test_the_sample_does_not_depend_on_the_other_operators(campaign: Any) -> None:
    names = [f"operator{at}" for at in range(300)]
    chosen = campaign.fixed_sample(names, 40)
    assert len(set(chosen)) == 40
    kept = set(campaign.fixed_sample([*names, "another"], 40)) & set(chosen)
    assert len(kept) >= 39


def test_at_least_500_operators_are_tried(entries: Any) -> None:
    assert len(entries) >= 500


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]), "1 of 2 elements differ"),
        (torch.tensor([math.nan]), torch.tensor([0.0]), "expected nan, got 0.0"),
        (torch.tensor([math.inf]), torch.tensor([-math.inf]), "expected inf, got -inf"),
        (torch.tensor([2**40]), torch.tensor([2**31 - 1]), "got 2147483647"),
        (torch.zeros(2), torch.zeros(3), r"expected float32\[2\], got float32\[3\]"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), "got int64"),
        (torch.zeros(2), None, "got NoneType"),
    ],
)
def test_a_wrong_answer_is_seen(campaign: Any, expected: Any, got: Any, words: str) -> None:
    found = campaign.differences([expected], [got], lambda: None)
    assert list(found) == [0]
    assert re.search(words, found[0]), found[0]


def test_rounding_is_no_wrong_answer(campaign: Any) -> None:
    value = torch.tensor([1.0, math.nan, math.inf, 1e-30])
    assert not campaign.differences([value], [value.clone()], lambda: None)
    assert not campaign.differences([value], [value * (1 + 1e-6)], lambda: None)


def test_a_wrong_engine_is_found(
    campaign: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that differs from eager for NaN alone is WRONG, and one that refuses is not."""
    calls, why = campaign.calls_of("abs", entries["abs"])
    assert not why
    group = campaign.OperatorGroup(calls)

    class Engine:
        def __init__(self, refuses: bool) -> None:
            self.refuses = refuses

        def __call__(self, *tensors: torch.Tensor) -> Any:
            if any(bool(tensor.isnan().any()) for tensor in tensors):
                if self.refuses:
                    raise campaign.isthmus.InvalidInput("NaN was not proven")
                tensors = tuple(t.nan_to_num() if t.is_floating_point() else t for t in tensors)
            return group.module(*tensors)

    for refuses in (False, True):
        engine = Engine(refuses)
        monkeypatch.setattr(campaign.isthmus, "load", lambda *_, chosen=engine, **__: chosen)
        tallies = campaign.Tallies()
        campaign.judge(group, tmp_path, "torchscript", tallies, lambda stage: None)
        row = tallies.of("abs", "torchscript").row()
        assert row["right"] > 0
        assert bool(row["wrong"]) is not refuses
        assert bool(row["refused"]) is refuses
        assert all("nan" in text for text in row["wrong"])


def test_a_process_that_dies_in_an_engine_counts_as_wrong(campaign: Any) -> None:
    row = campaign.lost(["abs"], ["openvino"], "openvino", "died")[0]
    assert row["verdict"] == "WRONG"
    row = campaign.lost(["abs"], ["openvino"], "export", "took too long")[0]
    assert row["verdict"] == "refused"
