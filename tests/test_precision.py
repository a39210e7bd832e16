"""Reduced precision: int8 of ONNX, several precisions in a bundle, and how they are judged."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from typer.testing import CliRunner

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.bundle.manifest import ValueSpec
from isthmus.capture.capture import capture
from isthmus.cli import app
from isthmus.exporters.onnx.smooth_outliers import input_peaks, products, smooth_outliers
from isthmus.exporters.sample_cosine import Cosines, sample_cosines
from isthmus.goldens.sample_texts import SENTENCES, encode, kept_as_goldens, sentence_goldens
from isthmus.runtime import install_paths
from isthmus.timing.tune import Candidate, TuneReport
from models import case

INT8 = "onnx-cpu-int8"


class Outliers(nn.Module):
    """Weights that eight bits cannot hold: each row has a large one, which only meets zero."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8, bias=False)
        with torch.no_grad():
            self.linear.weight[:, 0] = 1e4

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.cat([x[:, :1] * 0, x[:, 1:]], dim=1))


class Cancels(nn.Module):
    """A module that loses most of its input in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.far = nn.Parameter(torch.tensor(300.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.far) - self.far


class Convolution(nn.Module):
    """A module without a matrix product with constant weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def tokenizer(vocabulary: int = 100) -> bytes:
    """A tokenizer of single characters, with ids below the given number."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = sorted({letter for sentence in SENTENCES for letter in sentence})[: vocabulary - 1]
    result = Tokenizer(models.WordLevel({"?": 0} | {c: i + 1 for i, c in enumerate(letters)}, "?"))
    result.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    result.enable_padding(length=64)  # as the files of many sentence encoders do
    return str(result.to_str()).encode()


def export_bert(path: Path, **options: Any) -> Bundle:
    bert_case = case("bert")
    args, kwargs = bert_case.inputs()
    return isthmus.export(
        bert_case.module(), args, kwargs, path=path, **bert_case.options(), **options
    )


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small BERT in ONNX, fp32 and int8, with a tokenizer."""
    return export_bert(
        tmp_path_factory.mktemp("precision") / "bert",
        formats=("onnx",),
        precision=("fp32", "int8"),
        extra_files={"tokenizer/tokenizer.json": tokenizer()},
    )


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(install_paths.binary()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


# --- int8 -----------------------------------------------------------------------------------------


def test_int8_lies_beside_fp32_in_one_bundle(bert: Bundle) -> None:
    full, small = bert.manifest.artifacts
    assert (full.name, full.precision) == ("onnx-cpu-fp32", "fp32")
    assert (small.name, small.precision, small.trust) == (INT8, "int8", "graph")
    assert [result.label for result in bert.results] == ["onnx", "onnx int8"]
    assert all(result.ok for result in bert.results)
    assert small.devices == ("cpu",)
    assert small.operators["MatMulInteger"] == 13  # six in each layer, and the pooler's
    # All operators are ONNX's own, which every engine knows.
    assert not any("::" in name for name in small.operators)
    decision = small.decisions[-1]
    assert decision.strategy == "quantize_dynamic" and decision.accepted
    assert "per channel" in decision.reason and "the worst of" in decision.reason
    assert {hazard.kind for hazard in small.hazards} >= {"batch_dependent"}
    assert small.tolerances["last_hidden_state"].allowance == {"cosine": pytest.approx(0.01)}


def test_the_weights_have_seven_bits_so_that_no_processor_overflows(bert: Bundle) -> None:
    file = bert.path / bert.artifact(INT8).files[0].path
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(file).graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert len(weights) > 10
    assert max(int(np.abs(weight.astype(np.int32)).max()) for weight in weights) <= 64
    scales = [
        tensor
        for tensor in onnx.load(file).graph.initializer
        if tensor.name.endswith("_scale") and tensor.data_type == TensorProto.FLOAT
    ]
    assert any(scale.dims and scale.dims[0] > 1 for scale in scales), "not per channel"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_cpp_proves_int8_on_every_golden(bert: Bundle, engine: str) -> None:
    done = run("verify", bert.path, "--artifact", INT8, "--engine", engine, "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_load_takes_fp32_until_int8_is_asked_for(bert: Bundle) -> None:
    assert isthmus.load(bert.path).load_report.artifact == "onnx-cpu-fp32"
    args, kwargs = case("bert").inputs()
    full = isthmus.load(bert.path)(*args, **kwargs)["last_hidden_state"]
    model = isthmus.load(bert.path, artifact=INT8, engine="onnxruntime")
    assert model.load_report.artifact == INT8
    small = model(*args, **kwargs)["last_hidden_state"]
    assert not torch.equal(full, small)
    assert float(torch.cosine_similarity(full.flatten(), small.flatten(), dim=0)) > 0.99


def test_tune_does_not_trade_precision_for_speed() -> None:
    candidates = (
        Candidate(INT8, "onnxruntime", 1, {"g": 1.0}, precision="int8"),
        Candidate("onnx-cpu-fp32", "onnxruntime", 2, {"g": 2.0}),
        Candidate("onnx-cpu-fp32", "onnxruntime", 1, {"g": 3.0}),
    )
    report = TuneReport("net", "cpu", "machine", candidates, ("g",), {})
    assert report.best is candidates[1]
    verdict = report.document().verdict
    assert "the fastest in fp32" in verdict and f"{INT8} on onnxruntime" in verdict

    assert [candidate.artifact for candidate in report.ranking] == ["onnx-cpu-fp32", INT8]
    only = dataclasses.replace(report, candidates=candidates[:1])
    assert only.best is candidates[0]


def test_what_int8_breaks_is_refused_with_the_numbers(tmp_path: Path) -> None:
    x = torch.randn(4, 8)
    options: dict[str, Any] = {"dynamic": {"x": {0: "batch"}}, "dims": {"batch": (1, 8)}}
    with pytest.raises(isthmus.ExportError, match=r"the cosine to fp32 is .* 0\.99 is the least"):
        isthmus.export(
            Outliers(), (x,), path=tmp_path / "b", formats=["onnx"], precision="int8", **options
        )
    assert not (tmp_path / "b").exists()
    with pytest.warns(RuntimeWarning, match="onnx int8 is not in the bundle: quantize_dynamic"):
        kept = isthmus.export(
            Outliers(),
            (x,),
            path=tmp_path / "b",
            formats=["onnx"],
            precision=["int8", "fp32"],
            **options,
        )
    assert [artifact.name for artifact in kept.manifest.artifacts] == ["onnx-cpu-fp32"]
    lost = kept.results[0]
    assert (lost.label, lost.ok) == ("onnx int8", False)
    assert [decision.strategy for decision in lost.decisions] == [
        "quantize_dynamic",
        "quantize_dynamic, thorough",
    ]
    assert "serve fp32" in lost.advice


def test_what_has_no_int8_says_why(tmp_path: Path) -> None:
    linear = nn.Linear(4, 4)
    x = torch.randn(2, 4)
    for formats, words in (("torchscript", "7 bits"), ("aoti", "torchao")):
        with pytest.raises(isthmus.ExportError, match=words):
            isthmus.export(linear, (x,), path=tmp_path / "b", formats=formats, precision="int8")
    with pytest.raises(isthmus.ExportError, match="nothing to quantise"):
        isthmus.export(
            Convolution(),
            (torch.randn(2, 2, 9),),
            path=tmp_path / "b",
            formats="onnx",
            precision="int8",
        )
    with pytest.raises(isthmus.InvalidInput, match="fp32, fp16, bf16, int8, got 'int4'"):
        isthmus.export(linear, (x,), path=tmp_path / "b", precision="int4")
    with pytest.raises(isthmus.InvalidInput, match=r"precision: expected some of .* got none"):
        isthmus.export(linear, (x,), path=tmp_path / "b", precision=())
    assert not list(tmp_path.iterdir())


# --- convert, inspect, the command line -----------------------------------------------------------


def test_convert_adds_int8_without_the_source(tmp_path: Path) -> None:
    files = {"tokenizer/tokenizer.json": tokenizer()}
    exported = export_bert(tmp_path / "b", formats=("onnx",), extra_files=files)
    assert not any(golden.name.startswith("text-") for golden in exported.manifest.goldens)
    bundle = isthmus.convert(exported, "onnx", precision="int8")
    assert [artifact.name for artifact in bundle.manifest.artifacts] == ["onnx-cpu-fp32", INT8]
    # The sentences that fit the model count beside the goldens.
    reason = bundle.artifact(INT8).decisions[-1].reason
    assert f"; {len(exported.manifest.goldens) + fitting(64)} goldens" in reason
    assert run("verify", bundle.path, "--artifact", INT8).returncode == 0
    shown = CliRunner().invoke(app, ["inspect", str(bundle.path), "--artifact", INT8])
    assert ", in int8" in " ".join(shown.output.split())
    as_json = CliRunner().invoke(app, ["inspect", str(bundle.path), "--json"])
    assert json.loads(as_json.output)["precision"] == "fp32"
    assert "int8" in run("info", bundle.path).stdout


def fitting(longest: int) -> int:
    return sum(len(sentence) <= longest for sentence in SENTENCES)


def test_convert_refuses_what_it_cannot_make(linear_bundle: Bundle) -> None:
    for to, options, error, words in (
        ("onnx", {"precision": "bf16"}, isthmus.InvalidInput, "cannot be cast"),
        ("aoti", {"precision": "int8"}, isthmus.InvalidInput, 'is for to="onnx"'),
        ("onnx", {"precision": "int8"}, isthmus.BundleError, "lacks an fp32 ONNX artifact"),
        (
            "onnx",
            {"precision": "int8", "artifact": "torchscript-cpu-fp32"},
            isthmus.InvalidInput,
            "expected an fp32 ONNX one",
        ),
    ):
        with pytest.raises(error, match=words):
            isthmus.convert(linear_bundle, to, **options)  # type: ignore[arg-type]


def test_the_command_line_makes_and_tells(tmp_path: Path) -> None:
    (tmp_path / "own_models.py").write_text(
        "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Linear(16, 16), (torch.randn(2, 16),)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        words = ["export", "own_models:make", "-o", str(tmp_path / "b"), "--formats", "onnx"]
        result = CliRunner().invoke(app, [*words, "--precision", "fp32,int8", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [(row["format"], row["precision"], row["ok"]) for row in document["formats"]] == [
        ("onnx", "fp32", True),
        ("onnx", "int8", True),
    ]


# --- the judgement --------------------------------------------------------------------------------


def test_bf16_is_judged_by_its_worst_sample(tmp_path: Path) -> None:
    x = torch.randn(4, 8)
    options: dict[str, Any] = {"dynamic": {"x": {0: "batch"}}, "dims": {"batch": (1, 8)}}
    with pytest.raises(isthmus.ExportError, match=r"0\.999 is the least allowed"):
        isthmus.export(Cancels(), (x,), path=tmp_path / "b", precision="bf16", **options)
    assert not (tmp_path / "b").exists()
    good = isthmus.export(nn.Linear(8, 8), (x,), path=tmp_path / "b", precision="bf16")
    assert "the worst of" in good.manifest.artifacts[0].decisions[-1].reason
    with pytest.raises(isthmus.ExportError, match="no bf16 operators on the CPU"):
        isthmus.export(nn.Linear(8, 8), (x,), path=tmp_path / "c", formats="onnx", precision="bf16")


def test_a_bad_sample_does_not_hide_in_the_batch() -> None:
    spec = ValueSpec("y", "tensor", "float32", ("batch", 4))
    reference = torch.ones(16, 4)
    reference[:15] *= 10
    actual = reference.clone()
    actual[15] = -1
    values = sample_cosines(spec, reference, actual)
    torch.testing.assert_close(values[:15], torch.ones(15, dtype=torch.float64))
    assert float(values[15]) == pytest.approx(-1)
    cosines = Cosines(0.99)
    assert "sample 15" in cosines.add("g", spec, reference, actual)
    assert cosines.where == "golden g, output y, sample 15"
    assert cosines.count == 16
    whole = ValueSpec("y", "tensor", "float32", (16, 4))
    assert Cosines(0.99).add("g", whole, reference, actual) == ""
    assert Cosines(0.0).add("g", spec, reference, actual) == ""


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cosines_at_the_ends_of_the_range(scale: float) -> None:
    spec = ValueSpec("y", "tensor", "float64", (None, "batch"))
    reference = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]], dtype=torch.float64) * scale
    actual = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 1.0]], dtype=torch.float64) * scale
    # Samples lie along the named axis: the same direction, two zero vectors, a right angle.
    expected = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(sample_cosines(spec, reference, actual), expected)


def test_real_sentences_become_goldens_of_reduced_precision(bert: Bundle) -> None:
    texts = [golden for golden in bert.manifest.goldens if golden.name.startswith("text-")]
    assert len(texts) == 8
    assert texts[1].dims == {"batch": 1, "sequence": len(SENTENCES[4])}, "the longer ones are out"
    golden = bert.golden("text-0")
    assert golden.steps[0].errors, "without an error, the truth is not known"
    grid = len(bert.manifest.goldens) - len(texts)
    reason = bert.artifact(INT8).decisions[-1].reason
    assert f"; {grid + fitting(64)} goldens" in reason


def test_a_tokenizer_that_is_not_the_models_is_no_error() -> None:
    bert_case = case("bert")
    args, kwargs = bert_case.inputs()
    captured = capture(bert_case.module(), args, kwargs, **bert_case.options())
    method = captured.methods[0]
    for files in ({}, {"tokenizer/tokenizer.json": b"{}"}, {"tokenizer/vocab.txt": b""}):
        assert encode(files, method, captured.dims) == []
    pixels = dataclasses.replace(method.inputs[0], name="pixels")
    other = dataclasses.replace(method, inputs=(*method.inputs, pixels))
    assert encode({"tokenizer/tokenizer.json": tokenizer()}, other, captured.dims) == []
    calls = encode({"tokenizer/tokenizer.json": tokenizer()}, method, captured.dims)
    assert len(calls) == fitting(64)
    too_many = [{**calls[0], "input_ids": calls[0]["input_ids"] + 1000}, calls[1]]
    goldens = sentence_goldens(captured, too_many)
    assert [golden.name for golden in goldens] == ["text-0"]
    assert kept_as_goldens([], goldens, budget_bytes=10) == []


# --- smoothing ------------------------------------------------------------------------------------


def outlier_model(folder: Path, *, wide: bool, gemm: bool) -> tuple[Path, np.ndarray[Any, Any]]:
    """Writes a product of x and weights, where channel 3 of x is forty times the others."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(32, 64 if wide else 16)).astype(np.float32)
    x = rng.normal(size=(50, 32)).astype(np.float32)
    x[:, 3] *= 40
    kept = weights.T.copy() if gemm else weights
    node = (
        helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product", transB=1)
        if gemm
        else helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    )
    bias = rng.normal(size=weights.shape[1]).astype(np.float32)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(kept, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx", x


@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize(("wide", "thorough"), [(True, False), (True, True), (False, False)])
def test_smoothing_is_exact_and_makes_int8_good(
    tmp_path: Path, wide: bool, thorough: bool, gemm: bool
) -> None:
    from onnxruntime.quantization import quantize_dynamic

    file, x = outlier_model(tmp_path, wide=wide, gemm=gemm)
    plain = onnx.load(file)
    model = onnx.load(file)
    done = smooth_outliers(model, input_peaks(file, [{"x": x}]), thorough=thorough)
    assert done.inputs == 1
    assert len(done.exact) == (0 if wide and not thorough else 1)
    onnx.checker.check_model(model)
    if done.exact:  # otherwise their size would still decide the scale of the weights
        kept = numpy_helper.to_array(model.graph.initializer[0])
        assert not (kept[:, 3] if gemm else kept[3]).any()
    assert not list(tmp_path.glob("*observed*"))

    def answers(given: onnx.ModelProto) -> np.ndarray[Any, Any]:
        session = onnxruntime.InferenceSession(
            given.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(None, {"x": x})[0])

    def in_int8(given: onnx.ModelProto) -> np.ndarray[Any, Any]:
        path = tmp_path / "int8.onnx"
        quantize_dynamic(
            given,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            nodes_to_exclude=list(done.exact),
        )
        quantised = onnx.load(path)
        assert [node.op_type for node in quantised.graph.node].count("MatMulInteger") == 1
        return answers(quantised)

    truth = answers(plain)
    np.testing.assert_allclose(answers(model), truth, rtol=1e-4, atol=1e-4 * np.abs(truth).max())
    before = np.abs(in_int8(plain) - truth).mean()
    assert np.abs(in_int8(model) - truth).mean() < before / 1.5


def test_weights_that_something_else_reads_are_left_alone(tmp_path: Path) -> None:
    file, x = outlier_model(tmp_path, wide=True, gemm=False)
    model = onnx.load(file)
    model.graph.node.append(helper.make_node("Identity", ["w"], ["again"], name="reads"))
    assert [product.sole_reader for product in products(model)] == [False]
    before = model.SerializeToString()
    assert smooth_outliers(model, input_peaks(file, [{"x": x}])).inputs == 0
    assert model.SerializeToString() == before
