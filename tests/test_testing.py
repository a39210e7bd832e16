"""The assertions and the pytest plugin, as a user's own suite uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isthmus.bundle.bundle import Bundle
from isthmus.errors import InvalidInput
from isthmus.exporters.export import export
from isthmus.testing import ParityError, assert_parity

pytest_plugins = ["pytester"]


class Scorer(nn.Module):
    """A module that returns a dict of two outputs, the second of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.linear(x)
        return {"scores": scores, "best": scores.argmax(-1)}


def make_scorer() -> Scorer:
    torch.manual_seed(0)
    return Scorer().eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(
        make_scorer(),
        (torch.randn(3, 4),),
        path=tmp_path_factory.mktemp("testing") / "scorer",
        dynamic={"x": {0: "batch"}},
        dims={"batch": (1, 8)},
    )


def test_a_bundle_against_its_module(bundle: Bundle) -> None:
    report = assert_parity(bundle.path, reference=make_scorer())
    assert [row.engine for row in report.rows] == ["eager", "torch.jit", "torchscript"]


def test_a_module_alone_is_exported_and_verified() -> None:
    report = assert_parity(make_scorer(), torch.randn(2, 4))
    assert report.row("torchscript").vs_torch_jit == 0.0


def test_one_call(bundle: Bundle) -> None:
    module, x = make_scorer(), torch.randn(5, 4)
    report = assert_parity(bundle, x, reference=module)
    assert {result.output for result in report.rows[0].results} == {"scores", "best"}
    assert assert_parity(bundle.path, x=x, reference=module)
    from isthmus.runtime.model import load

    assert assert_parity(load(bundle.path, warmup=False), x, reference=module)


def test_one_wrong_call_fails_with_the_numbers(bundle: Bundle) -> None:
    wrong = make_scorer()
    with torch.no_grad():
        wrong.linear.bias.add_(0.01)
    x = torch.randn(5, 4)
    with pytest.raises(ParityError, match=r"scores: largest difference 0\.01") as caught:
        assert_parity(bundle, x, reference=wrong)
    assert caught.value.report.rows[0].status == "failed"
    assert assert_parity(bundle, x, reference=wrong, atol=0.1), "the caller's own tolerance"


def test_a_wrong_module_fails(bundle: Bundle) -> None:
    wrong = make_scorer()
    with torch.no_grad():
        wrong.linear.weight.mul_(1.01)
    with pytest.raises(AssertionError, match="FAILED"):
        assert_parity(bundle, reference=wrong, engines=["torchscript"])


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        ((torch.ones(1, 4),), {}, "pass reference="),
        ((), {"reference": lambda x: x}, "expected the eager torch.nn.Module"),
        ((), {"atol": 1.0}, "are for one call"),
        ((), {"export_options": {}}, "is for an eager module"),
    ],
)
def test_bad_combinations(
    bundle: Bundle, args: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        assert_parity(bundle, *args, **options)


def test_a_module_is_its_own_reference() -> None:
    with pytest.raises(InvalidInput, match="its own reference"):
        assert_parity(make_scorer(), torch.ones(1, 4), reference=make_scorer())


# --- the plugin -----------------------------------------------------------------------------------

SUITE = """
import torch
from test_testing import make_scorer

def test_good(isthmus_parity):
    isthmus_parity(reference=make_scorer(), engines=["torchscript"])

def test_bad(isthmus_parity):
    wrong = make_scorer()
    with torch.no_grad():
        wrong.linear.bias.add_(0.01)
    isthmus_parity(reference=wrong, engines=["torchscript"])
"""


def run_suite(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Runs pytest in a process of its own, with the plugin by its entry point or by -p."""
    pytester.makepyfile(SUITE)
    pytester.makeconftest(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})")
    loaded = "isthmus._pytest" in sys.modules
    plugin = () if loaded else ("-p", "isthmus._pytest")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *plugin, *arguments)


@pytest.mark.slow
def test_plugin_verifies_the_bundle_of_the_option(
    pytester: pytest.Pytester, bundle: Bundle
) -> None:
    result = run_suite(pytester, "--isthmus-bundle", str(bundle.path))
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            f"isthmus: *torch {torch.__version__}",
            "E * isthmus.proof.verify_report.ParityError: FAILED: *",
            "*- isthmus parity -*",
            "*torchscript in C++*failed*",
        ]
    )


@pytest.mark.slow
def test_plugin_without_a_bundle_skips(pytester: pytest.Pytester) -> None:
    result = run_suite(pytester, "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*pytest --isthmus-bundle PATH*"])


def test_plugin_is_light() -> None:
    """Every run of pytest where isthmus is installed imports the plugin."""
    code = "import sys, isthmus._pytest; print({'torch', 'numpy', 'rich'} & sys.modules.keys())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
