"""Tests of examples: real calls at several sizes in place of values that isthmus makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.manifest import DimRange, Hazard, ValueRange
from isthmus.capture.capture import Captured, capture
from isthmus.capture.examples import calls_of
from isthmus.errors import InvalidInput
from isthmus.exporters.edge_values import with_edges
from isthmus.goldens.make import make_goldens


class Packed(nn.Module):
    """Adds the number of its sequence to each row; the lengths have to add up to the rows."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if int(lengths.sum()) != x.shape[0]:
            raise ValueError("the lengths do not add up")
        of_row = torch.arange(lengths.shape[0]).repeat_interleave(lengths)
        return x + of_row[:, None]


AXES: dict[str, dict[int, str]] = {"x": {0: "rows"}, "lengths": {0: "sequences"}}
DIMS = {"rows": (1, 64), "sequences": (1, 8)}
CALLS = [
    (torch.rand(9, 2), torch.tensor([4, 3, 2])),
    (torch.rand(5, 2), torch.tensor([5])),
    (torch.rand(20, 2), torch.tensor([1, 9, 0, 10])),
]


def notes(captured: Captured, kind: str) -> list[Hazard]:
    return [note for note in captured.notes if note.kind == kind]


def test_calls_come_in_several_forms() -> None:
    x = torch.ones(2)
    assert calls_of([(x, 1), {"x": x}, ((x,), {"n": 2}), x]) == [
        ((x, 1), {}),
        ((), {"x": x}),
        ((x,), {"n": 2}),
        ((x,), {}),
    ]
    assert calls_of(()) == []

    class Items:
        """A data set that never says where it ends, as PyTorch's need not."""

        def __len__(self) -> int:
            return 3

        def __getitem__(self, at: int) -> dict[str, int]:
            return {"n": at}

    assert calls_of(Items()) == [((), {"n": 0}), ((), {"n": 1}), ((), {"n": 2})]

    def stream() -> Iterator[tuple[int]]:
        at = 0
        while True:
            yield (at,)
            at += 1

    assert len(calls_of(stream())) == 8
    for single in ({"x": x}, x, "x", 3):
        with pytest.raises(InvalidInput, match=r"examples: expected a list of calls"):
            calls_of(single)  # type: ignore[arg-type]


def test_no_one_is_blamed_for_values_that_were_made_up() -> None:
    with pytest.raises(InvalidInput) as raised:
        make_goldens(capture(Packed(), CALLS[0], dynamic=AXES, dims=DIMS))
    text = str(raised.value)
    assert "the lengths do not add up" in text
    assert "Tried were the example's values" in text
    assert "integers kept" in text
    assert "examples=[...]" in text


def test_examples_take_the_place_of_values_that_do_not_fit() -> None:
    captured = capture(Packed(), dynamic=AXES, dims=DIMS, examples=CALLS)
    assert captured.given_sizes == {"rows": 9, "sequences": 3}, "the first is the example"
    goldens, _, complete = make_goldens(captured)
    shapes = [tuple(golden.dims.values()) for golden in goldens]
    assert shapes[:3] == [(9, 3), (5, 1), (20, 4)]
    for golden, (x, lengths) in zip(goldens[:3], CALLS, strict=True):
        assert torch.equal(golden.steps[0].inputs["x"], x)
        assert torch.equal(golden.steps[0].inputs["lengths"], lengths)
    assert any("negated" in golden.name for golden in goldens), "floats are varied"
    (note,) = notes(complete, "unproven_sizes")
    assert "the lengths do not add up" in note.message
    assert complete.methods[0].outputs[0].shape == ("rows", 2)


def test_values_of_further_sizes_are_made_of_the_nearest_example() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    near, far = torch.full((4,), 1.0), torch.full((400,), 7.0)
    captured = capture(Sum(), (near,), dynamic={"x": {0: "n"}}, examples=[(far,)])
    assert captured.dims["n"] == DimRange(1, 1600), "the default range follows from the examples"
    goldens, _, complete = make_goldens(captured)
    for golden in (*goldens[:2], *complete.sweep):
        value = float(golden.steps[0].inputs["x"].mean()) if golden.dims["n"] else 1.0
        assert value == pytest.approx(1.0 if golden.dims["n"] < 40 else 7.0)


class Masked(nn.Module):
    """Adds a mask over the past and the present to what both give."""

    def forward(self, x: Tensor, past: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([past, x], 1) + mask


def masked(batch: int, past: int, sequence: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(batch, sequence), torch.rand(batch, past), torch.rand(batch, past + sequence)


MASKED_AXES = {"x": {0: "batch", 1: "sequence"}, "past": {0: "batch", 1: "past"}}


def test_sizes_that_follow_from_others_are_found_in_the_examples() -> None:
    captured = capture(
        Masked(),
        masked(2, 5, 3),
        dynamic=MASKED_AXES,
        examples=[masked(1, 9, 1), masked(4, 2, 6)],
    )
    mask = captured.methods[0].inputs[2]
    assert mask.shape == ("batch", "past + sequence")
    _, _, complete = make_goldens(captured)
    assert complete.methods[0].outputs[0].shape == ("batch", "past + sequence")
    found = [note.message for note in notes(captured, "inferred_size")]
    assert [text.partition(",")[0] for text in found] == [
        'axis 0 of "mask" is "batch" in every example',
        'axis 1 of "mask" is "past + sequence" in every example',
    ]


def test_sizes_that_two_examples_leave_open_are_not_taken() -> None:
    with pytest.raises(InvalidInput, match=r'axis 1 of "mask" is 8, and 5 .* more examples'):
        # 8 is 5 + 3, and past + 3 in both.
        capture(
            Masked(), masked(2, 2, 3), dynamic=MASKED_AXES, examples=[masked(1, 5, 3)],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ((torch.rand(3, 2),), r"examples\[1\]: Packed.forward does not take this example"),
        ((torch.rand(3, 2), torch.tensor([3]).int()), r'examples\[1\]: "lengths" is int32'),
        ((torch.rand(3, 4), torch.tensor([3])), r'examples\[1\]: axis 1 of "x" is 4, and 2'),
        ((torch.rand(3), torch.tensor([3])), r'examples\[1\]: "x" is float32\[3\]'),
        ((torch.rand(99, 2), torch.tensor([99])), r'examples\[1\]: "rows" is 99, and dims allows'),
        (([torch.rand(3, 2)], torch.tensor([3])), r"examples\[1\]: its arguments .* nested"),
    ],
)  # fmt: skip
def test_an_example_that_does_not_fit_is_refused(call: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        capture(Packed(), CALLS[0], dynamic=AXES, dims=DIMS, examples=[CALLS[1], call])


def test_an_example_on_which_the_module_fails_is_named() -> None:
    wrong = (torch.rand(3, 2), torch.tensor([1, 1]))
    captured = capture(Packed(), CALLS[0], dynamic=AXES, dims=DIMS, examples=[wrong])
    with pytest.raises(InvalidInput, match=r"examples.*fails in eager mode \(rows=3, sequences=2"):
        make_goldens(captured)


def test_tensors_are_varied_though_scalars_cannot_be() -> None:
    class Spectrum(nn.Module):
        def forward(self, audio: Tensor, rate: int) -> Tensor:
            if rate != 16000:
                raise ValueError("16 kHz, please")
            return audio.abs().cumsum(0)

    goldens, _, complete = make_goldens(
        capture(
            Spectrum(), (torch.randn(8), 16000), dynamic={"audio": {0: "n"}}, dims={"n": (1, 9)}
        )
    )
    names = {golden.name for golden in goldens}
    assert {"n8", "n8-negated", "n8-zeroed"} <= names
    assert all(int(golden.steps[0].inputs["rate"]) == 16000 for golden in goldens)
    left_out = [note.message for note in notes(complete, "golden_left_out")]
    assert any("scalars-changed left out" in message for message in left_out)


# --- the edges of integers ------------------------------------------------------------------------


class Lengths(nn.Module):
    """Refuses lengths that a packed sequence refuses, without indexing anything with them."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if int(lengths.min()) < 1 or int(lengths.max()) > x.shape[1]:
            raise ValueError("a length that is not there")
        return x * (torch.arange(x.shape[1]) < lengths[:, None])


def test_edges_that_eager_tells_are_part_of_the_signature() -> None:
    captured = with_edges(
        capture(
            Lengths(),
            (torch.rand(2, 7), torch.tensor([7, 3])),
            dynamic={"x": {0: "batch", 1: "time"}, "lengths": {0: "batch"}},
            dims={"batch": (1, 8), "time": (1, 32)},
        )
    )
    ranges = {spec.name: spec.values for spec in captured.methods[0].inputs}
    assert ranges == {"x": None, "lengths": ValueRange(1, "time")}
    assert not notes(captured, "eager_refuses")
    goldens, _, complete = make_goldens(captured)
    for golden in (*goldens, *complete.sweep):
        lengths = golden.steps[0].inputs["lengths"]
        assert 1 <= int(lengths.min()) <= int(lengths.max()) <= golden.dims["time"]


def test_what_no_range_can_say_is_said() -> None:
    captured = with_edges(capture(Packed(), CALLS[0], dynamic=AXES, dims=DIMS))
    assert all(spec.values is None for spec in captured.methods[0].inputs)
    (note,) = notes(captured, "eager_refuses")
    assert "lengths" in note.message


def test_a_range_that_eager_refuses_in_part_is_said() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(50, 8, mode="sum")

        def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
            return self.bag(ids, offsets)

    captured = with_edges(
        capture(
            Bags(),
            (torch.randint(0, 50, (12,)), torch.tensor([0, 3, 7, 10])),
            dynamic={"ids": {0: "n"}, "offsets": {0: "bags"}},
            dims={"n": (1, 60), "bags": (1, 16)},
        )
    )
    assert captured.methods[0].inputs[1].values == ValueRange(0, "n")
    (note,) = notes(captured, "eager_refuses")
    assert "eager refuses 12 in offsets" in note.message, "the first offset has to be 0"


def test_integers_that_may_be_anything_have_no_edges() -> None:
    class Adds(nn.Module):
        def forward(self, n: Tensor) -> Tensor:
            return n + 1

    before = capture(Adds(), (torch.tensor([3, 8]),), dynamic={"n": {0: "n"}})
    after = with_edges(before)
    assert after.methods == before.methods
    assert after.notes == before.notes


def test_a_module_that_ends_the_process_on_an_edge_is_survived() -> None:
    class Crashes(nn.Module):
        def forward(self, n: Tensor) -> Tensor:
            if int(n.min()) < 0:
                import os

                os.abort()
            return n + 1

    captured = with_edges(capture(Crashes(), (torch.tensor([3, 8]),), dynamic={"n": {0: "n"}}))
    (note,) = notes(captured, "eager_refuses")
    assert "ended its process" in note.message


# --- through export and adopt ---------------------------------------------------------------------


def test_adopted_files_take_examples_from_files(tmp_path: Path) -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    torch.jit.script(Rows()).save(tmp_path / "rows.pt")
    files = []
    for rows in (3, 7):
        files.append(tmp_path / f"{rows}.npz")
        np.savez(files[-1], x=np.ones((rows, 2), np.float32))
    bundle = isthmus.adopt(
        tmp_path / "rows.pt",
        files[0],
        output=tmp_path / "bundle",
        dynamic={"x": {0: "rows"}},
        dims={"rows": (1, 30)},
        examples=files[1:],
    )
    assert [golden.name for golden in bundle.manifest.goldens][:2] == ["rows3", "rows7"]
