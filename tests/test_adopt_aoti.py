"""AOTInductor packages that somebody else made become bundles; exported programs are told apart."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.errors import BundleError, InvalidInput
from isthmus.exporters.aoti.aoti_file import AotiFile

ROWS = torch.export.Dim("rows", min=1, max=32)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, *, scale: Tensor, state: list[Tensor]) -> dict[str, Any]:
        return {"y": self.linear(x) * scale, "state": (state[0] + x.sum(), state[1] * 2)}


def example() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"arg.0": (3, 4), "scale": (3, 1), "state.0": (2,), "state.1": (5,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def program(module: nn.Module) -> torch.export.ExportedProgram:
    values = list(example().values())
    return torch.export.export(
        module,
        (values[0],),
        {"scale": values[1], "state": values[2:]},
        dynamic_shapes={"x": {0: ROWS}, "scale": {0: ROWS}, "state": [None, None]},
    )


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return Scaled().eval()


@pytest.fixture(scope="module")
def package(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("aoti") / "scaled.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on its own code
        torch._inductor.aoti_compile_and_package(program(module), package_path=str(path))
    return path


def adopt(package: Path, **options: Any) -> Bundle:
    axes = {"arg.0": {0: "rows"}, "scale": {0: "rows"}}
    defaults = {"trust": "native", "dynamic": axes, "dims": {"rows": (2, 32)}}
    target = {"output": package.with_name("bundle")}
    return isthmus.adopt(package, example(), **{**target, **defaults, **options})


@pytest.fixture(scope="module")
def bundle(package: Path) -> Bundle:
    return adopt(package)


def test_a_package_runs_in_cpp_with_its_nesting(module: nn.Module, bundle: Bundle) -> None:
    model = isthmus.load(bundle.path, engine="aoti", trust="native")
    x, scale, state = torch.randn(7, 4), torch.randn(7, 1), [torch.randn(2), torch.randn(5)]
    expected = module(x, scale=scale, state=state)
    actual = model(x, scale=scale, state=state)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    names = [spec.name for spec in bundle.manifest.methods[0].outputs]
    assert names == ["y", "state.0", "state.1"]


def test_a_package_is_proven_and_its_reference_is_told(bundle: Bundle, package: Path) -> None:
    (artifact,) = bundle.manifest.artifacts
    assert artifact.trust == "native" and [proof.passed for proof in artifact.proofs] == [True]
    assert (bundle.path / artifact.files[0].path).read_bytes() == package.read_bytes()
    assert bundle.manifest.source["reference"].startswith("AOTInductor of PyTorch ")
    report = isthmus.verify(bundle.path, devices=["cpu"], trust="native")
    assert {(row.language, row.status) for row in report.rows} == {
        ("Python", "passed"),
        ("C++", "passed"),
    }
    assert "no eager module" in report.context["reference"]


def test_sizes_that_the_package_was_not_compiled_for_are_refused(package: Path) -> None:
    with pytest.raises(InvalidInput, match=r"rows=33.*too large.*narrow the range") as refused:
        adopt(package, dims={"rows": (2, 33)}, output=package.with_name("refused"))
    assert "eager" not in str(refused.value)
    assert not package.with_name("refused").exists()


def test_a_package_that_checks_nothing_gets_no_dynamic_dimension(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AotiFile, "checks_inputs", lambda *_: False)
    with pytest.raises(InvalidInput, match="does not check the sizes"):
        adopt(package, output=package.with_name("refused"))


def test_a_package_is_not_opened_without_trust(package: Path) -> None:
    with pytest.raises(BundleError, match=r"native code.*--trust native"):
        adopt(package, trust="graph", output=package.with_name("refused"))


def test_arguments_are_named_where_they_do_not_fit(package: Path) -> None:
    with pytest.raises(InvalidInput, match=r"x is unknown; .* arg\.0, scale, state\.0, state\.1"):
        isthmus.adopt(
            package, {"x": torch.ones(3, 4)}, output=package.with_name("refused"), trust="native"
        )
