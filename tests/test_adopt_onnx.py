"""ONNX files that somebody else made become bundles, with ONNX Runtime's answers as the truth."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.bundle.manifest import ValueRange
from isthmus.errors import BundleError, InvalidInput
from isthmus.exporters.onnx.adopt_onnx import open_onnx
from isthmus.runtime import install_paths
from tiny_onnx import FLOAT, INT64, node, value, write_linear, write_onnx

Array = np.ndarray[Any, Any]


def floats(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def adopt(path: Path, inputs: dict[str, Array], **options: Any) -> Bundle:
    """Adopts a file into the folder "bundle" beside it."""
    return isthmus.adopt(path, inputs, output=path.with_name("bundle"), **options)


def run_in(bundle: Bundle, engine: str, **inputs: Array) -> list[Array]:
    return list(isthmus.load(bundle.path, engine=engine)(**inputs).values())


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = write_linear(tmp_path_factory.mktemp("adopt") / "linear.onnx")
    return adopt(path, {"x": floats(2, 4)}, dims={"batch": (1, 16)})


# --- what a bundle of it says and does ------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_adopted_file_runs_in_cpp_on_both_engines(linear: Bundle, engine: str) -> None:
    model = onnx.load(linear.path / "artifacts" / "onnx-cpu-fp32.onnx")
    w, b = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    for rows in (1, 5, 16):
        (answer,) = run_in(linear, engine, x=floats(rows, 4))
        np.testing.assert_allclose(answer, floats(rows, 4) @ w + b, rtol=0, atol=1e-5)
    with pytest.raises(InvalidInput, match="1 to 16"):
        run_in(linear, engine, x=floats(17, 4))


def test_the_file_is_kept_as_it_is_with_its_signature(linear: Bundle) -> None:
    original = linear.path.with_name("linear.onnx").read_bytes()
    (artifact,) = linear.manifest.artifacts
    assert (linear.path / artifact.files[0].path).read_bytes() == original
    assert artifact.strategy == "adopted" and artifact.operators == {"MatMul": 1, "Add": 1}
    assert artifact.requires == {"onnx_opset": "17", "onnx_ir": "8"}
    assert {proof.engine for proof in artifact.proofs if proof.passed} == {
        "onnxruntime",
        "openvino",
    }
    (method,) = linear.manifest.methods
    assert [(v.name, v.dtype, v.shape) for v in (*method.inputs, *method.outputs)] == [
        ("x", "float32", ("batch", 4)),
        ("y", "float32", ("batch", 3)),
    ]


def test_the_origin_of_the_goldens_is_told_everywhere(linear: Bundle) -> None:
    source = linear.manifest.source
    assert source["kind"] == "onnx" and source["file"] == "linear.onnx"
    assert source["reference"].startswith("ONNX Runtime ") and "class" not in source
    (artifact,) = linear.manifest.artifacts
    assert "no eager module" in artifact.hazards[0].message
    assert source["reference"] in artifact.decisions[0].reason
    report = isthmus.verify(linear.path, devices=["cpu"])
    assert report, report
    assert "there is no eager module" in report.context["reference"]
    assert source["reference"] in str(report)
    shown = subprocess.run(
        [install_paths.binary(), "verify", linear.path], text=True, capture_output=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "no eager module" in shown.stdout and source["reference"] in shown.stdout


def test_an_adopted_file_is_quantised_like_an_exported_one(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "linear.onnx", data="weights.bin")
    bundle = adopt(path, {"x": floats(8, 4)}, dims={"batch": (1, 16)})
    converted = isthmus.convert(bundle, to=("onnx",), precision="int8")
    assert [artifact.precision for artifact in converted.manifest.artifacts] == ["fp32", "int8"]


# --- weights beside the file ----------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_beside_the_file_come_along(tmp_path: Path, engine: str) -> None:
    plain = adopt(write_linear(tmp_path / "one.onnx"), {"x": floats(2, 4)})
    (tmp_path / "two").mkdir()
    path = write_linear(tmp_path / "two" / "two.onnx", data="weights.bin")
    bundle = adopt(path, {"x": floats(2, 4)})
    names = [file.path for file in bundle.manifest.artifacts[0].files]
    assert names == ["artifacts/onnx-cpu-fp32.onnx", "artifacts/weights.bin"]
    path.with_name("weights.bin").unlink()
    expected = run_in(plain, engine, x=floats(3, 4))
    np.testing.assert_array_equal(run_in(bundle, engine, x=floats(3, 4)), expected)


def relocate(path: Path, location: str) -> Path:
    """Changes where a file says that its weights are."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "sub/secret", ".."])
def test_weights_in_another_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret", folder / "sub" / "secret"):
        secret.write_bytes(bytes(64))
    path = relocate(write_linear(folder / "m.onnx", data="weights.bin"), location)
    with pytest.raises(BundleError, match="expected a file in its own folder"):
        adopt(path, {"x": floats(2, 4)})
    assert not (folder / "bundle").exists()


def test_weights_behind_a_link_have_to_lie_where_the_model_does(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    model = write_linear(blobs / "m.onnx", data="weights.bin")
    (snapshot / "weights.bin").symlink_to(blobs / "weights.bin")
    (snapshot / "m.onnx").write_bytes(model.read_bytes())
    with pytest.raises(BundleError, match="symbolic link"):
        adopt(snapshot / "m.onnx", {"x": floats(2, 4)})
    (snapshot / "m.onnx").unlink()
    (snapshot / "m.onnx").symlink_to(model)  # as the cache of the hub has both
    assert adopt(snapshot / "m.onnx", {"x": floats(2, 4)}).verify_files() == ()


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx", data="weights.bin")
    path.with_name("weights.bin").unlink()
    with pytest.raises(BundleError, match=r'"weights.bin".*no such file'):
        adopt(path, {"x": floats(2, 4)})


# --- dimensions -----------------------------------------------------------------------------------


def test_odd_and_missing_names_of_dimensions_become_names(tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "m.onnx",
        [node("Relu", ["in.put"], ["out/put"])],
        [value("in.put", FLOAT, ["Dynamic.0", None, "?", "Dynamic_0"])],
        [value("out/put", FLOAT, [None, None, None, None])],
    )
    bundle = adopt(path, {"in.put": floats(2, 3, 4, 5)})
    (method,) = bundle.manifest.methods
    shape = ("Dynamic_0_2", "in_put_1", "in_put_2", "Dynamic_0")
    assert method.inputs[0].shape == shape and method.outputs[0].shape == shape
    for engine in ("onnxruntime", "openvino"):
        (answer,) = run_in(bundle, engine, **{"in.put": floats(1, 7, 2, 6)})
        np.testing.assert_array_equal(answer, np.maximum(floats(1, 7, 2, 6), 0))


def test_what_the_caller_names_counts_first(tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "m.onnx",
        [node("Add", ["x", "y"], ["z"])],
        [value("x", FLOAT, ["n", 3]), value("y", FLOAT, [None, 3])],
        [value("z", FLOAT, [None, 3])],
    )
    inputs = {"x": floats(2, 3), "y": floats(2, 3)}
    with pytest.raises(InvalidInput, match='give both the name "y_0"') as refused:
        adopt(path, inputs)
    assert "eager" not in str(refused.value)
    bundle = adopt(path, inputs, dynamic={"x": {0: "rows"}, "y": {-2: "rows"}})
    assert [spec.shape for spec in bundle.manifest.methods[0].inputs] == [("rows", 3)] * 2
    fixed = adopt(path, inputs, dynamic={"y": {0: "n"}}, dims={"n": [2]}, overwrite=True)
    assert fixed.manifest.dims["n"].sizes == (2,)


def test_equal_names_mean_equal_sizes_and_sums_are_kept(tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "m.onnx",
        [node("Concat", ["past", "x"], ["all"], axis=1), node("Add", ["all", "mask"], ["y"])],
        [
            value("past", FLOAT, ["batch", "past"]),
            value("x", FLOAT, ["batch", "new"]),
            value("mask", FLOAT, ["batch", "past + new"]),
        ],
        [value("y", FLOAT, ["batch", "past + new"])],
    )
    with pytest.raises(InvalidInput, match=r'"batch" is 2 .* and 3 '):
        adopt(path, {"past": floats(2, 3), "x": floats(3, 4), "mask": floats(2, 7)})
    bundle = adopt(path, {"past": floats(2, 3), "x": floats(2, 4), "mask": floats(2, 7)})
    (method,) = bundle.manifest.methods
    assert method.inputs[2].shape == ("batch", "new + past")
    assert method.outputs[0].shape == ("batch", "new + past")


def test_sizes_from_data_are_unknown(tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "m.onnx",
        [node("NonZero", ["x"], ["places"])],
        [value("x", FLOAT, ["n"])],
        [value("places", INT64, [1, "found"])],
    )
    (tmp_path / "copy").mkdir()
    assert open_onnx(path, tmp_path / "copy").computed_sizes == {"places": frozenset({1})}
    bundle = adopt(path, {"x": floats(5)})
    assert bundle.manifest.methods[0].outputs[0].shape == (1, None)
    (places,) = run_in(bundle, "onnxruntime", x=np.array([0, 1, 0, 2], np.float32))
    assert places.tolist() == [[1, 3]]


# --- kinds of values and operators ----------------------------------------------------------------


def test_ids_beyond_a_table_are_refused_on_every_engine(tmp_path: Path) -> None:
    table = floats(50, 3)
    path = write_onnx(
        tmp_path / "m.onnx",
        [node("Gather", ["table", "ids"], ["y"])],
        [value("ids", INT64, ["n"])],
        [value("y", FLOAT, ["n", 3])],
        {"table": table},
    )
    bundle = adopt(path, {"ids": np.array([3, 1, 4])})
    assert bundle.manifest.methods[0].inputs[0].values == ValueRange(-50, 49)
    for engine in ("onnxruntime", "openvino"):
        (answer,) = run_in(bundle, engine, ids=np.array([49, 0]))
        np.testing.assert_array_equal(answer, table[[49, 0]])
        with pytest.raises(InvalidInput, match="got 50"):
            run_in(bundle, engine, ids=np.array([50]))


@pytest.mark.parametrize("ir", [3, 8])
def test_an_input_with_a_default_keeps_it(tmp_path: Path, ir: int) -> None:
    path = write_onnx(
        tmp_path / "m.onnx",
        [node("Mul", ["x", "scale"], ["y"])],
        [value("x", FLOAT, ["n"]), value("scale", FLOAT, [1])],
        [value("y", FLOAT, ["n"])],
        {"scale": np.array([3], np.float32)},
        opset=9,
        ir=ir,
    )
    inputs = {"x": floats(4)}
    if ir > 3:  # before version 4 an initializer is a constant whose name is among the inputs
        with pytest.raises(InvalidInput, match='"scale" has a default'):
            adopt(path, {**inputs, "scale": floats(1)})
    bundle = adopt(path, inputs)
    assert [spec.name for spec in bundle.manifest.methods[0].inputs] == ["x"]
    for engine in ("onnxruntime", "openvino"):
        (answer,) = run_in(bundle, engine, x=floats(6))
        np.testing.assert_array_equal(answer, floats(6) * np.float32(3))


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
def test_old_operator_sets_are_served(tmp_path: Path, opset: int) -> None:
    path = write_linear(tmp_path / "m.onnx", opset=opset, ir=4)
    bundle = adopt(path, {"x": floats(2, 4)})
    assert bundle.manifest.artifacts[0].requires["onnx_opset"] == str(opset)


def test_a_quantised_file_is_adopted(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).integers(-60, 60, (4, 3)).astype(np.int8)
    path = write_onnx(
        tmp_path / "m.onnx",
        [
            node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
            node("MatMulInteger", ["xq", "w", "xz"], ["sums"]),
            node("Cast", ["sums"], ["wide"], to=FLOAT),
            node("Mul", ["wide", "xs"], ["y"]),
        ],
        [value("x", FLOAT, ["batch", 4])],
        [value("y", FLOAT, ["batch", 3])],
        {"w": weights},
    )
    bundle = adopt(path, {"x": floats(2, 4)})
    (answer,) = run_in(bundle, "onnxruntime", x=floats(5, 4))
    np.testing.assert_allclose(answer, floats(5, 4) @ weights.astype(np.float32), atol=6)


def test_values_that_are_no_dense_tensors_are_refused(tmp_path: Path) -> None:
    text = write_onnx(
        tmp_path / "text.onnx",
        [node("Identity", ["x"], ["y"])],
        [value("x", onnx.TensorProto.STRING, ["n"])],
        [value("y", onnx.TensorProto.STRING, ["n"])],
    )
    with pytest.raises(BundleError, match=r'input "x" is a tensor\(string\).*no texts'):
        adopt(text, {"x": floats(1)})
    sequence = write_onnx(
        tmp_path / "sequence.onnx",
        [node("SplitToSequence", ["x"], ["parts"])],
        [value("x", FLOAT, ["n"])],
        [onnx.helper.make_tensor_sequence_value_info("parts", FLOAT, [1])],
    )
    with pytest.raises(BundleError, match=r'output "parts" is a seq\(tensor\(float\)\).*cut'):
        adopt(sequence, {"x": floats(1)})


def test_foreign_operators_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "m.onnx",
        [node("Run", ["x"], ["y"], domain="someone.else")],
        [value("x", FLOAT, ["n"])],
        [value("y", FLOAT, ["n"])],
        domains=["someone.else"],
    )
    with pytest.raises(BundleError, match=r"someone\.else::Run"):
        adopt(path, {"x": floats(2)})
    whole = write_linear(tmp_path / "whole.onnx").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="refused"):
        adopt(path, {"x": floats(2, 4)})
    assert not (tmp_path / "bundle").exists()


def test_random_answers_are_refused(tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "m.onnx",
        [node("RandomNormalLike", ["x"], ["noise"]), node("Add", ["x", "noise"], ["y"])],
        [value("x", FLOAT, ["n"])],
        [value("y", FLOAT, ["n"])],
    )
    with pytest.raises(InvalidInput, match="other outputs"):
        adopt(path, {"x": floats(3)})


# --- the example ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "x is missing; the file takes x: float32.batch, 4."),
        ({"x": floats(2, 4), "z": floats(1)}, "z is unknown"),
        ({"x": floats(2, 4).astype(np.float64)}, '"x" is float64.2, 4., expected float32'),
        ({"x": floats(2, 5)}, r'"x" is float32.2, 5., expected float32.batch, 4.'),
        ({"x": floats(8)}, r'"x" is float32.8., expected'),
    ],
)
def test_an_example_that_does_not_fit_is_told_what_does(
    tmp_path: Path, inputs: dict[str, Array], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        adopt(write_linear(tmp_path / "m.onnx"), inputs)


def test_options_for_torchscript_are_refused(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx")
    with pytest.raises(InvalidInput, match=r"methods: .*one method"):
        adopt(path, {"x": floats(2, 4)}, methods={"reset": {}})
    with pytest.raises(InvalidInput, match="op_libraries: "):
        adopt(path, {"x": floats(2, 4)}, op_libraries=["/nowhere.so"])


def test_scalars_and_further_examples_are_taken(tmp_path: Path) -> None:
    path = write_onnx(
        tmp_path / "m.onnx",
        [node("Mul", ["x", "scale"], ["y"])],
        [value("x", FLOAT, ["n"]), value("scale", FLOAT, [])],
        [value("y", FLOAT, ["n"])],
    )
    inputs: dict[str, Any] = {"x": torch.from_numpy(floats(4)), "scale": 2.0}
    bundle = adopt(path, inputs, examples=[{"x": floats(9), "scale": np.float32(3)}])
    assert {"n": 9} in [dict(golden.dims) for golden in bundle.manifest.goldens]
    (answer,) = run_in(bundle, "onnxruntime", x=floats(3), scale=np.array(5, np.float32))
    np.testing.assert_array_equal(answer, floats(3) * np.float32(5))
