"""Options for CUDA devices, used on the CPU: notes and refusals."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.runtime import install_paths


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("cuda_graphs", "yes", "off, auto or on"),
        ("cuda_graph_limit", "0", "a number from 1 to 1024"),
        ("cuda_graph_limit", "many", "a number from 1 to 1024"),
        ("streams", "one", "current or caller"),
    ],
)
def test_a_bad_value_names_what_was_expected(
    linear_bundle: Bundle, name: str, value: str, expected: str
) -> None:
    with pytest.raises(isthmus.InvalidInput, match=f"{name}={value}: expected {expected}"):
        isthmus.load(linear_bundle.path, engine_options={name: value})


def test_an_unknown_option_names_those_that_there_are(linear_bundle: Bundle) -> None:
    with pytest.raises(isthmus.InvalidInput, match="cuda_graphs, cuda_graph_limit or streams"):
        isthmus.load(linear_bundle.path, engine_options={"cuda_graph": "on"})


def test_graphs_demanded_on_the_cpu_are_an_error(linear_bundle: Bundle) -> None:
    with pytest.raises(isthmus.InvalidInput, match=r"cuda_graphs=on: .* the device is cpu"):
        isthmus.load(linear_bundle.path, engine_options={"cuda_graphs": "on"})


def test_graphs_wished_for_on_the_cpu_are_a_note(linear_bundle: Bundle) -> None:
    model = isthmus.load(
        linear_bundle.path, engine_options={"cuda_graphs": "auto", "streams": "caller"}
    )
    notes = " / ".join(model.load_report.notes)
    assert "no CUDA graphs, calls run uncaptured: the device is cpu" in notes
    assert "streams=caller changes nothing: the device is cpu" in notes
    x = torch.randn(3, 4)
    assert torch.equal(model(x), isthmus.load(linear_bundle.path)(x))


def test_nothing_is_said_when_nothing_was_asked(linear_bundle: Bundle) -> None:
    assert not [
        note for note in isthmus.load(linear_bundle.path).load_report.notes if "CUDA" in note
    ]


def test_doctor_tells_whether_graphs_are_built_in() -> None:
    result = subprocess.run(
        [install_paths.binary(), "doctor", "--json"], check=False, stdout=subprocess.PIPE, text=True
    )
    rows = {row["engine"]: row for row in json.loads(result.stdout)["rows"] if "engine" in row}
    details = [row for row in rows["torchscript"]["details"] if row.startswith("CUDA graphs: ")]
    assert len(details) == 1
    if torch.version.cuda is None:
        assert details == ["CUDA graphs: not built in, this LibTorch is a CPU build"]
