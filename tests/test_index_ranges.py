"""Tests of index ranges: inputs that index a table have one, and other inputs have none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.manifest import ValueRange
from isthmus.capture import index_ranges
from isthmus.capture.capture import capture
from isthmus.errors import InvalidInput
from isthmus.goldens.make import make_goldens
from models import tiny_bert

ROWS = ValueRange(0, 15)
Forward = Callable[["Tables", Tensor], Tensor]


class Tables(nn.Module):
    """An embedding of 16 rows, a bag of 16 and a buffer of 9, which `how` looks up."""

    def __init__(self, how: Forward) -> None:
        super().__init__()
        self.how = how
        self.rows = nn.Embedding(16, 4)
        self.bag = nn.EmbeddingBag(16, 4)
        self.register_buffer("nine", torch.randn(9, 4))
        self.calls = 0

    def forward(self, ids: Tensor) -> Tensor:
        return self.how(self, ids)


def masked_in_place(tables: Tables, ids: Tensor) -> Tensor:
    ids = ids.clone()
    ids[ids < 0] = 0
    return tables.rows(ids.clamp_(max=15))


def small_ids_only(tables: Tables, ids: Tensor) -> Tensor:
    return tables.rows(ids if int(ids.max()) < 16 else ids % 16)


def last_id_may_be_anything(tables: Tables, ids: Tensor) -> Tensor:
    return tables.rows(ids) if int(ids[-1, -1]) < 16 else tables.rows(ids.clamp(max=15))


LOOKUPS: dict[str, tuple[Forward, ValueRange | None]] = {
    "embedding": (lambda m, ids: m.rows(ids), ROWS),
    "views": (lambda m, ids: m.rows(ids.t().reshape(-1).unsqueeze(0)), ROWS),
    "expanded": (lambda m, ids: m.rows(ids.unsqueeze(0).expand(3, -1, -1)), ROWS),
    "another dtype": (lambda m, ids: m.rows(ids.to(torch.int32)), ROWS),
    "copies": (lambda m, ids: m.rows(torch.cat([ids, ids.clone()]).repeat(2, 1)), ROWS),
    "bag": (lambda m, ids: m.bag(ids), ROWS),
    "the smaller of two": (lambda m, ids: m.rows(ids) + m.nine.index_select(0, ids.view(-1)).sum(),
                           ValueRange(0, 8)),
    "negative ones count from the end": (lambda m, ids: m.nine[ids], ValueRange(-9, 8)),
    "second axis": (lambda m, ids: m.rows.weight[:, ids % 4], None),
    "clamped": (lambda m, ids: m.rows(ids.clamp(0, 15)), None),
    "masked in place": (masked_in_place, None),
    "where": (lambda m, ids: m.rows(torch.where(ids < 16, ids.abs(), 0)), None),
    "a part": (lambda m, ids: m.rows(ids[:, :2]), None),
    "a branch for others": (small_ids_only, None),
    "a branch for the last": (last_id_may_be_anything, None),
    "a table of the call": (lambda m, ids: ids.new_zeros(9, 4)[ids].float(), ValueRange(-9, 8)),
    "a size of the values": (lambda m, ids: ids.new_zeros(int(ids.max()) + 1)[ids].float(), None),
    "slices that are all": (lambda m, ids: m.rows(ids[:, :2]).sum() + m.rows(ids[:, 2:]), ROWS),
    "no table": (lambda m, ids: ids * 2.0, None),
}  # fmt: skip


def captured_range(module: nn.Module) -> ValueRange | None:
    ids = torch.arange(9).view(3, 3)
    return capture(module, (ids,), dynamic={"ids": {0: "batch"}}).methods[0].inputs[0].values


@pytest.mark.parametrize("case", LOOKUPS)
def test_an_input_has_a_range_when_eager_has_one(case: str) -> None:
    how, expected = LOOKUPS[case]
    assert captured_range(Tables(how).eval()) == expected


@pytest.mark.parametrize("case", [name for name in LOOKUPS if "a branch" not in name])
def test_a_module_on_a_gpu_is_only_watched(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_ranges, "_eager_fails", lambda *_: True)
    how, expected = LOOKUPS[case]
    assert captured_range(Tables(how).eval()) == expected


class Graph(nn.Module):
    """Sums neighbours, as graph networks do."""

    def forward(self, x: Tensor, edges: Tensor, graph_of: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        index = graph_of[:, None].expand(-1, x.shape[1])
        pooled = torch.zeros(4, x.shape[1]).scatter_reduce(0, index, x, "amax", include_self=False)
        return sums, pooled


def test_edges_are_bounded_by_the_number_of_nodes() -> None:
    example = torch.randn(10, 6), torch.randint(0, 10, (2, 24)), torch.arange(10) // 3
    captured = capture(
        Graph(),
        example,
        dynamic={"x": {0: "nodes"}, "edges": {1: "edges"}, "graph_of": {0: "nodes"}},
        dims={"nodes": (1, 50), "edges": (1, 200)},
    )
    ranges = {spec.name: spec.values for spec in captured.methods[0].inputs}
    assert ranges["edges"] == ValueRange(0, "nodes - 1")
    assert ranges["graph_of"] == ValueRange(0, 3), "the number of graphs is fixed"
    goldens, _, complete = make_goldens(captured)
    for golden in (*goldens, *complete.sweep):
        assert int(golden.steps[0].inputs["edges"].max()) < golden.dims["nodes"]


def test_offsets_of_bags_are_bounded_by_the_number_of_indices() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(50, 8, mode="sum")

        def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
            return self.bag(ids, offsets)

    captured = capture(
        Bags(),
        (torch.randint(0, 50, (12,)), torch.tensor([0, 3, 7, 10])),
        dynamic={"ids": {0: "n"}, "offsets": {0: "bags"}},
        dims={"n": (1, 60), "bags": (1, 16)},
    )
    ranges = {spec.name: spec.values for spec in captured.methods[0].inputs}
    assert ranges == {"ids": ValueRange(0, 49), "offsets": ValueRange(0, "n")}
    goldens, _, complete = make_goldens(captured)
    assert len({golden.dims["bags"] for golden in (*goldens, *complete.sweep)}) >= 10


def test_a_scripted_module_is_watched_too() -> None:
    traced = torch.jit.trace(Tables(LOOKUPS["embedding"][0]).eval(), (torch.arange(9).view(3, 3),))
    assert captured_range(traced) == ROWS


def test_state_is_as_before() -> None:
    def counted(tables: Tables, ids: Tensor) -> Tensor:
        tables.calls += 1
        return tables.rows(ids) + tables.calls

    module = Tables(counted).eval()
    assert captured_range(module) == ROWS
    assert module.calls == 0


def test_a_transformer_says_its_vocabulary() -> None:
    ids = torch.ones(2, 7, dtype=torch.int64)
    captured = capture(
        tiny_bert().eval(),
        (),
        {"input_ids": ids, "attention_mask": ids.clone(), "token_type_ids": ids.clone()},
    )
    ranges = {input_spec.name: input_spec.values for input_spec in captured.methods[0].inputs}
    assert ranges == {
        "input_ids": ValueRange(0, 99),
        "attention_mask": None,
        "token_type_ids": ValueRange(0, 1),
    }


def test_a_batcher_refuses_one_request_and_answers_the_others(tmp_path: Path) -> None:
    bundle = isthmus.export(
        Tables(LOOKUPS["embedding"][0]),
        (torch.ones(2, 3, dtype=torch.int64),),
        path=tmp_path / "ids",
        dynamic={"ids": {0: "batch", 1: "sequence"}},
    )
    model = isthmus.load(bundle.path)
    good = torch.tensor([[1, 15]])
    with isthmus.Batcher(model) as batcher:
        futures = [batcher.submit(good), batcher.submit(good)]
        with pytest.raises(InvalidInput, match=r"expected values 0 to 15, got 16 at \[0, 1\]"):
            batcher.submit(torch.tensor([[1, 16]])).result()
        assert all(torch.equal(future.result(), model(good)) for future in futures)
