"""A program that somebody else saved with `torch.export.save` becomes a bundle as it is."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.errors import BundleError, InvalidInput

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, as it loads


class Gated(nn.Module):
    """Takes nested arguments, and a branch by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, *, scale: Tensor, state: list[Tensor]) -> dict[str, Tensor]:
        hidden = self.layer(x) * scale + state[0] - state[1]
        return {"y": torch.cond(x.sum() > 0, torch.sin, torch.cos, (hidden,)), "x": x + 1}


def values(rows: int = 3) -> tuple[Tensor, Tensor, list[Tensor]]:
    return torch.randn(rows, 4), torch.randn(rows, 1), [torch.ones(4), torch.zeros(4)]


def example() -> dict[str, Tensor]:
    x, scale, state = values()
    return {"x": x, "scale": scale, "state.0": state[0], "state.1": state[1]}


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return Gated().eval()


@pytest.fixture(scope="module")
def saved(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = torch.export.Dim("rows", min=1, max=20)
    x, scale, state = values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.export.export(
            module,
            (x,),
            {"scale": scale, "state": state},
            dynamic_shapes={"x": {0: rows}, "scale": {0: rows}, "state": [None, None]},
        )
    path = tmp_path_factory.mktemp("saved") / "gated.pt2"
    torch.export.save(program, path)
    return path


def test_the_file_is_kept_and_brings_its_ranges(
    module: nn.Module, saved: Path, tmp_path: Path
) -> None:
    bundle = isthmus.adopt(saved, example(), output=tmp_path / "b")
    [artifact] = bundle.manifest.artifacts
    assert (artifact.format, artifact.trust, artifact.strategy) == ("exported", "graph", "adopted")
    assert (bundle.path / artifact.files[0].path).read_bytes() == saved.read_bytes()
    [limits] = bundle.manifest.dims.values()
    assert (limits.min, limits.max) == (1, 20)
    model = isthmus.load(bundle.path)
    for rows in (1, 7, 20):
        x, scale, state = values(rows)
        with torch.no_grad():
            expected = module(x, scale=scale, state=state)
        output = model(x, scale=scale, state=state)
        torch.testing.assert_close(output["y"], expected["y"], rtol=0, atol=0)
        torch.testing.assert_close(output["x"], expected["x"], rtol=0, atol=0)
    x, scale, state = values(21)
    with pytest.raises(InvalidInput, match="20"):
        model(x, scale=scale, state=state)


def test_a_name_for_the_size_may_be_given(saved: Path, tmp_path: Path) -> None:
    bundle = isthmus.adopt(
        saved,
        example(),
        output=tmp_path / "b",
        dynamic={"x": {0: "rows"}, "scale": {0: "rows"}},
        dims={"rows": (2, 9)},
    )
    assert {name: (size.min, size.max) for name, size in bundle.manifest.dims.items()} == {
        "rows": (2, 9)
    }


def test_inputs_are_named_where_they_do_not_fit(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"y is unknown; the program takes x, scale, state\.0"):
        isthmus.adopt(saved, {"y": torch.ones(3, 4)}, output=tmp_path / "b")


def rewritten(saved: Path, path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(path, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, change(name, archive.read(name)))
    return path


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_the_file_runs_in_python(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    def poison(name: str, content: bytes) -> bytes:
        if "/sample_inputs/" in name:
            return pickle.dumps(Touch(mark))
        if not name.endswith("models/model.json"):
            return content
        document = json.loads(content)
        document["guards_code"] = [code]
        return json.dumps(document).encode()

    path = rewritten(saved, tmp_path / "poisoned.pt2", poison)
    isthmus.adopt(path, example(), output=tmp_path / "b")
    assert not mark.exists()

    def expression(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        text = content.decode()
        start = text.index("Symbol('")
        return (text[:start] + code.replace('"', "") + text[text.index(")", start) + 1 :]).encode()

    path = rewritten(saved, tmp_path / "expression.pt2", expression)
    with pytest.raises(BundleError, match="is no expression of sizes"):
        isthmus.adopt(path, example(), output=tmp_path / "c")
    assert not mark.exists()


def test_a_pickled_tensor_is_refused(saved: Path, tmp_path: Path) -> None:
    def pickled(name: str, content: bytes) -> bytes:
        return content.replace(b'"use_pickle": false', b'"use_pickle": true')

    path = rewritten(saved, tmp_path / "pickled.pt2", pickled)
    with pytest.raises(BundleError, match="stored as a pickle"):
        isthmus.adopt(path, example(), output=tmp_path / "b")


def test_a_program_that_changes_a_buffer_is_refused_with_a_remedy(tmp_path: Path) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x + self.calls

    program = torch.export.export(Counter(), (torch.ones(2),)).run_decompositions({})
    path = tmp_path / "counter.pt2"
    torch.export.save(program, path)
    with pytest.raises(BundleError, match='calls change the buffer "calls"; load it in Python'):
        isthmus.adopt(path, {"x": torch.ones(2)}, output=tmp_path / "b")
