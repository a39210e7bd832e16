"""All engines run the same bundle with the same answers, and refuse the same calls."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.numpy import save_file
from torch import Tensor, nn

import isthmus
from isthmus import _core
from isthmus.bundle.bundle import Bundle
from isthmus.runtime import install_paths
from isthmus.runtime.engines import engines_of
from rewrite_manifest import rewrite_manifest
from test_bad_input import BAD_CALLS, BadCall, Probe, good_inputs

ENGINES = ("torchscript", "exported", "onnxruntime", "openvino", "aoti")


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of every format: scalars, a branch on one of them, two dynamic dimensions."""
    torch.manual_seed(0)
    good = {name: torch.from_numpy(np.asarray(value)) for name, value in good_inputs().items()}
    return isthmus.export(
        Probe(),
        (good["ids"], good["mask"], good["pixels"], 0.5, True),
        path=tmp_path_factory.mktemp("engines") / "probe",
        strategy="script",
        formats=("torchscript", "exported", "onnx", "aoti"),
        dynamic={
            "ids": {0: "batch", 1: "sequence"},
            "mask": {0: "batch", 1: "sequence"},
            "pixels": {0: "batch"},
        },
        dims={"batch": (1, 8), "sequence": (1, 32)},
    )


@pytest.fixture(scope="module")
def models(probe: Bundle) -> dict[str, isthmus.Model]:
    return {engine: isthmus.load(probe.path, engine=engine, trust="native") for engine in ENGINES}


def test_outputs_without_dimensions(tmp_path: Path) -> None:
    class Sums(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.sum(), (x > 0).sum()

    x = torch.tensor([[1.0, -2.0, 4.0]])
    isthmus.export(Sums(), (x,), path=tmp_path / "sums", formats=("torchscript", "onnx"))
    for engine in ("torchscript", "onnxruntime", "openvino"):
        total, count = isthmus.load(tmp_path / "sums", engine=engine)(x)
        assert (total.shape, float(total), int(count)) == ((), 3.0, 2), engine


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(install_paths.binary()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_engine_is_built_and_ready() -> None:
    assert set(ENGINES) <= set(_core.engine_names())
    for engine in ENGINES:
        assert _core.engine_info(engine).unavailable == ""


def test_the_registry_says_which_engines_run_a_format() -> None:
    assert engines_of("onnx") == ("onnxruntime", "openvino")
    assert engines_of("aoti") == ("aoti",)
    assert engines_of("unheard-of") == ()


def test_an_engine_of_ones_own_takes_few_lines() -> None:
    source = Path(__file__).parent.parent / "cpp" / "tests" / "fake_engine.cpp"
    # It also implements the optional `prepare` and `notes`, and a call that writes its input.
    assert len(source.read_text().splitlines()) < 110


@pytest.mark.parametrize("engine", ENGINES)
def test_a_process_without_python_proves_each_engine(probe: Bundle, engine: str) -> None:
    result = run("verify", probe.path, "--engine", engine, "--allow-native", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads(result.stdout)
    assert {row["golden"] for row in document["rows"]} == {
        golden.name for golden in probe.manifest.goldens
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_a_branch_that_the_trace_would_bake_in_goes_both_ways(
    models: dict[str, isthmus.Model], engine: str
) -> None:
    given = good_inputs()
    plus = np.asarray(models[engine](**{**given, "flag": np.array(False)}))
    minus = np.asarray(models[engine](**{**given, "flag": np.array(True)}))
    np.testing.assert_array_equal(plus, -minus)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (1, 14), (2, 32), (7, 3)])
def test_one_export_serves_every_shape(
    models: dict[str, isthmus.Model], engine: str, batch: int, sequence: int
) -> None:
    rng = np.random.default_rng(batch)
    inputs = {
        **good_inputs(),
        "ids": rng.integers(0, 16, (batch, sequence), dtype=np.int64),
        "mask": np.ones((batch, sequence), dtype=np.int64),
        "pixels": rng.standard_normal((batch, 3, 8, 8), dtype=np.float32),
    }
    expected = np.asarray(models["torchscript"](**inputs))
    np.testing.assert_allclose(np.asarray(models[engine](**inputs)), expected, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", BAD_CALLS, ids=lambda case: case.name)
def test_bad_calls_are_refused_by_every_engine(
    models: dict[str, isthmus.Model], engine: str, case: BadCall
) -> None:
    model = models[engine]
    before = np.asarray(model(**good_inputs()))
    with pytest.raises(isthmus.InvalidInput) as caught:
        model(**case.inputs())
    for word in case.words:
        assert word.lower() in str(caught.value).lower()
    np.testing.assert_array_equal(np.asarray(model(**good_inputs())), before)


@pytest.mark.parametrize("engine", ENGINES)
def test_many_threads_get_the_answers_of_one(models: dict[str, isthmus.Model], engine: str) -> None:
    model = models[engine]
    rng = np.random.default_rng(0)
    inputs = [
        {**good_inputs(), "ids": rng.integers(0, 16, (2, 5), dtype=np.int64)} for _ in range(4)
    ]
    expected = [np.asarray(model(**input_spec)) for input_spec in inputs]
    wrong: list[int] = []

    def call(index: int) -> None:
        for _ in range(25):
            if not np.array_equal(np.asarray(model(**inputs[index])), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unknown_engine_option_is_refused(probe: Bundle, engine: str) -> None:
    with pytest.raises(isthmus.InvalidInput, match="surplus"):
        isthmus.load(probe.path, engine=engine, trust="native", engine_options={"surplus": "1"})


@pytest.mark.parametrize(
    ("engine", "key", "value"),
    [
        ("onnxruntime", "graph_optimization", "most"),
        ("onnxruntime", "inter_op_threads", "0"),
        ("onnxruntime", "execution_mode", "sideways"),
        ("onnxruntime", "memory_arena", "maybe"),
        ("onnxruntime", "provider", "abacus"),
        ("openvino", "precision", "f8"),
        ("openvino", "hint", "hurry"),
        ("openvino", "streams", "-1"),
        ("openvino", "max_concurrency", "-1"),
        ("onnxruntime", "max_concurrency", "few"),
        ("aoti", "num_runners", "0"),
    ],
)
def test_a_bad_engine_option_names_what_was_expected(
    probe: Bundle, engine: str, key: str, value: str
) -> None:
    with pytest.raises(isthmus.InvalidInput, match=f"{key}={value}: expected"):
        isthmus.load(probe.path, engine=engine, trust="native", engine_options={key: value})


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        (
            "onnxruntime",
            {
                "graph_optimization": "basic",
                "execution_mode": "parallel",
                "inter_op_threads": "2",
                "memory_arena": "off",
                "max_concurrency": "3",
                "config.session.intra_op.allow_spinning": "0",
            },
        ),
        (
            "openvino",
            {"hint": "throughput", "streams": "1", "config.CPU_RUNTIME_CACHE_CAPACITY": "0"},
        ),
        ("openvino", {"max_concurrency": "3"}),
        ("aoti", {"num_runners": "3", "max_concurrency": "2"}),
    ],
)
def test_engine_options_leave_the_answers(
    probe: Bundle, models: dict[str, isthmus.Model], engine: str, options: dict[str, str]
) -> None:
    model = isthmus.load(probe.path, engine=engine, trust="native", engine_options=options)
    expected = np.asarray(models[engine](**good_inputs()))
    np.testing.assert_allclose(np.asarray(model(**good_inputs())), expected, atol=1e-5)


def test_an_entry_that_predict_sets_itself_may_be_given(probe: Bundle, tmp_path: Path) -> None:
    save_file(good_inputs(), tmp_path / "in.safetensors")
    result = run(
        "predict", probe.path, "--engine", "onnxruntime", "--inputs", tmp_path / "in.safetensors",
        "--engine-option", "config.session.disable_prepacking=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


# --- native code ----------------------------------------------------------------------------------


def test_native_code_needs_the_callers_word(probe: Bundle) -> None:
    with pytest.raises(isthmus.BundleError, match='needs trust "native"'):
        isthmus.load(probe.path, engine="aoti")
    result = run("verify", probe.path, "--artifact", "aoti-cpu-fp32")
    assert result.returncode == 3
    assert "native" in result.stderr


def test_auto_passes_over_native_code(probe: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(probe.path, tmp_path / "bundle")
    with rewrite_manifest(folder) as manifest:
        manifest["artifacts"].reverse()
    assert isthmus.load(folder).load_report.engine == "onnxruntime"
    assert isthmus.load(folder, trust="native").load_report.engine == "aoti"


def test_a_package_says_that_it_is_native(models: dict[str, isthmus.Model]) -> None:
    notes = models["aoti"].load_report.notes
    assert any("native code" in note for note in notes)


def test_an_argument_that_the_artifact_lacks_is_refused(probe: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(probe.path, tmp_path / "named")
    with rewrite_manifest(folder) as manifest:
        manifest["methods"][0]["kwargs"].append(["steps", {"node": "const", "value": 3}])
    with pytest.raises(isthmus.BundleError, match=r'the argument "steps".*does not take'):
        isthmus.load(folder, engine="torchscript")

    folder = shutil.copytree(probe.path, tmp_path / "positional")
    with rewrite_manifest(folder) as manifest:
        manifest["methods"][0]["args"].append({"node": "const", "value": 3})
    with pytest.raises(isthmus.BundleError, match="takes 5 arguments, the manifest lists 6"):
        isthmus.load(folder, engine="torchscript")


def test_openvino_says_that_optimize_changes_nothing(probe: Bundle) -> None:
    model = isthmus.load(probe.path, engine="openvino", optimize="freeze")
    assert any("optimize=freeze changes nothing" in note for note in model.load_report.notes)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("isa", "avx2 avx512f", ("avx512f", "lacks", "--isa")),
        ("machine", "riscv64", ("riscv64", "this machine is")),
        ("torch", "1.13.0", ("1.13.0", "this is torch")),
    ],
)
def test_a_package_for_another_machine_is_a_sentence_and_no_signal(
    probe: Bundle, tmp_path: Path, key: str, value: str, words: tuple[str, ...]
) -> None:
    if value.endswith("avx512f") and "avx512f" in _core.this_machine().isa:
        value, words = "avx2 avx10", ("avx10", "lacks", "--isa")
    folder = shutil.copytree(probe.path, tmp_path / "bundle")
    with rewrite_manifest(folder) as manifest:
        artifact(manifest, "aoti")["requires"][key] = value
    result = run("verify", folder, "--engine", "aoti", "--allow-native")
    assert result.returncode == 4, result.stderr
    for word in words:
        assert word in result.stderr


class Fixed(nn.Module):
    """A model of fixed sizes, whose package returns wrong values for other shapes."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).sum(1)


def test_a_fixed_shape_is_guarded_by_the_signature(tmp_path: Path) -> None:
    bundle = isthmus.export(Fixed(), (torch.randn(16, 64),), path=tmp_path / "b", formats="aoti")
    model = isthmus.load(bundle.path, trust="native")
    x = torch.randn(16, 64)
    for bad in (torch.randn(1), torch.randn(64, 16), x.double(), torch.randn(16, 64, 1)):
        with pytest.raises(isthmus.InvalidInput, match="float32\\[16, 64\\]"):
            model(bad)
    torch.testing.assert_close(
        model(torch.randn(64, 16).T), model(torch.randn(64, 16).T) * 0 + 1, rtol=1e9, atol=1e9
    )  # a transposed input is accepted, and read by its strides
    strided = torch.randn(64, 16).T
    torch.testing.assert_close(model(strided), Fixed()(strided))
    torch.testing.assert_close(model(x), Fixed()(x))


# --- finding ONNX Runtime -------------------------------------------------------------------------

OLD_LIBRARY = """
struct Base { const void* (*get)(unsigned); const char* (*version)(); };
static const void* get(unsigned) { return nullptr; }
static const char* version() { return "1.17.3"; }
static const Base base{get, version};
extern "C" const Base* OrtGetApiBase() { return &base; }
"""


def test_an_older_onnx_runtime_is_refused_with_both_versions(
    probe: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "old.cpp"
    source.write_text(OLD_LIBRARY)
    library = tmp_path / "libonnxruntime.so.1.17.3"
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", library], check=True)
    monkeypatch.setenv("ISTHMUS_ONNXRUNTIME", str(tmp_path))
    result = run("verify", probe.path, "--engine", "onnxruntime")
    assert result.returncode == 4
    assert "1.17.3" in result.stderr
    assert "1.21 or newer" in result.stderr


@pytest.mark.parametrize("variable", ["ISTHMUS_ONNXRUNTIME", "ISTHMUS_OPENVINO"])
def test_a_named_runtime_that_is_absent_is_no_reason_to_take_another(
    probe: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    engine = variable.removeprefix("ISTHMUS_").lower()
    result = run("verify", probe.path, "--engine", engine)
    assert result.returncode == 4
    assert f"{variable}={tmp_path / 'nowhere'}" in result.stderr


def test_a_provider_that_is_not_there_is_an_error(probe: Bundle) -> None:
    result = run("verify", probe.path, "--engine", "onnxruntime", "--device", "cuda")
    if "cuda" in " ".join(_core.engine_info("onnxruntime").details):
        pytest.skip("this ONNX Runtime has the CUDA provider")
    assert result.returncode == 4
    assert "execution provider cuda is not part of ONNX Runtime" in result.stderr
    for provider in ("tensorrt", "openvino"):
        with pytest.raises((isthmus.DeviceUnavailable, isthmus.InvalidInput), match=provider):
            isthmus.load(probe.path, engine="onnxruntime", engine_options={"provider": provider})


# --- ONNX files -----------------------------------------------------------------------------------


class Unused(nn.Module):
    """Takes an input that its output does not depend on."""

    def forward(self, x: Tensor, unused: Tensor) -> Tensor:
        return x + 1


def test_an_input_that_the_graph_dropped_is_still_taken(tmp_path: Path) -> None:
    x, unused = torch.randn(2, 3), torch.randn(4)
    traced = torch.jit.trace(Unused(), (x, unused))
    bundle = isthmus.export(
        traced, (x, unused), path=tmp_path / "b", dynamic={"x": {0: "batch"}}, formats="onnx"
    )
    graph = onnx.load(bundle.path / bundle.manifest.artifacts[0].files[0].path).graph
    assert bundle.manifest.artifacts[0].strategy == "torchscript"
    assert [value.name for value in graph.input] == ["x"]
    for engine in ("onnxruntime", "openvino"):
        model = isthmus.load(bundle.path, engine=engine)
        torch.testing.assert_close(model(x=x, unused=unused), x + 1)


def test_the_exporter_and_the_opset_stand_in_the_manifest(tmp_path: Path) -> None:
    for opset in (18, 20):
        bundle = isthmus.export(
            nn.Linear(4, 3),
            (torch.randn(2, 4),),
            path=tmp_path / str(opset),
            formats="onnx",
            opset=opset,
        )
        artifact = bundle.manifest.artifacts[0]
        assert artifact.strategy == "dynamo"
        assert artifact.requires["onnx_opset"] == str(opset)
        assert artifact.trust == "graph"
        assert artifact.operators


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose weights, 17 MB, are in a data file beside the model."""
    torch.manual_seed(0)
    return isthmus.export(
        nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 64)),
        (torch.randn(2, 1024),),
        path=tmp_path_factory.mktemp("external") / "bundle",
        dynamic={"input": {0: "batch"}},
        formats="onnx",
    )


def test_large_weights_have_a_file_of_their_own(external: Bundle) -> None:
    artifact = external.manifest.artifacts[0]
    assert [file.path.rpartition(".")[2] for file in artifact.files] == ["onnx", "data"]
    for engine in ("onnxruntime", "openvino"):
        result = run("verify", external.path, "--engine", engine)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_changed_weights_are_refused(external: Bundle, tmp_path: Path, engine: str) -> None:
    folder = shutil.copytree(external.path, tmp_path / "bundle")
    data = folder / external.manifest.artifacts[0].files[1].path
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(isthmus.BundleError, match="sha256"):
        isthmus.load(folder, engine=engine)
    data.unlink()
    with pytest.raises(isthmus.BundleError, match=r"onnx\.data"):
        isthmus.load(folder, engine=engine)


def hostile(*, location: str = "", domain: str = "", operator: str = "Identity") -> onnx.ModelProto:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    if location:
        weight = TensorProto(
            name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL
        )
        weight.external_data.add(key="location", value=location)
    nodes = [
        helper.make_node(operator, ["input"], ["hidden"], domain=domain),
        helper.make_node("Add", ["hidden", "w"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (hostile(location="../../outside").SerializeToString(), ("../../outside", "outside")),
        (hostile(location="/etc/passwd").SerializeToString(), ("/etc/passwd",)),
        (hostile(domain="evil", operator="Run").SerializeToString(), ("evil::Run",)),
        (
            hostile(domain="com.microsoft", operator="EPContext").SerializeToString(),
            ("EPContext", "program of its own"),
        ),
        (b"", ("no ONNX file",)),
        (b"\x08\x0a" + b"\xff" * 64, ("no ONNX file",)),
        (b"PK\x03\x04 not a model", ("no ONNX file",)),
    ],
)
def test_a_file_that_reaches_out_is_refused_before_a_runtime_sees_it(
    linear_onnx: Path, tmp_path: Path, content: bytes, words: tuple[str, ...]
) -> None:
    folder = shutil.copytree(linear_onnx, tmp_path / "bundle")
    replace_artifact(folder, content)
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(isthmus.BundleError) as caught:
            isthmus.load(folder, engine=engine)
        for word in words:
            assert word in str(caught.value)


@pytest.fixture(scope="module")
def linear_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return isthmus.export(
        nn.Linear(4, 3),
        (torch.randn(2, 4),),
        path=tmp_path_factory.mktemp("linear_onnx") / "bundle",
        dynamic={"input": {0: "batch"}},
        formats="onnx",
    ).path


def test_every_truncation_of_a_model_is_refused_and_the_process_lives(
    linear_onnx: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(linear_onnx, tmp_path / "bundle")
    whole = next((folder / "artifacts").glob("*.onnx")).read_bytes()
    for size in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        replace_artifact(folder, whole[:size])
        with pytest.raises(isthmus.BundleError):
            isthmus.load(folder, engine="onnxruntime")
    replace_artifact(folder, whole)
    assert isthmus.load(folder, engine="onnxruntime")(torch.randn(2, 4)).shape == (2, 3)


def test_a_stateful_model_has_no_onnx(tmp_path: Path) -> None:
    class Counter(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x + self.calls

    with pytest.raises(isthmus.ExportError, match="the model has state"):
        isthmus.export(Counter(), (torch.randn(2),), path=tmp_path / "b", formats="onnx")


# --- helpers --------------------------------------------------------------------------------------


def artifact(manifest: dict[str, Any], format: str) -> dict[str, Any]:
    return next(entry for entry in manifest["artifacts"] if entry["format"] == format)


def replace_artifact(folder: Path, content: bytes) -> None:
    with rewrite_manifest(folder) as manifest:
        (folder / manifest["artifacts"][0]["files"][0]["path"]).write_bytes(content)
