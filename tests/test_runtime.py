"""Calls from Python: families of arrays, memory, threads and structure."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.errors import InvalidInput
from models import CASES


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Busy(nn.Module):
    """A module that takes a while: the trace has all of its rounds."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.rounds):
            x = torch.tanh(x @ x)
        return x


class Array:
    """An array with DLPack that is neither NumPy nor torch."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.values.__dlpack_device__()


def run_python(code: str, *arguments: object) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def linear(linear_bundle: Bundle) -> isthmus.Model:
    return isthmus.load(linear_bundle.path, threads=1)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> isthmus.Model:
    bundle = isthmus.export(
        Same(),
        (torch.zeros(2, 4),),
        path=tmp_path_factory.mktemp("same") / "same",
        dynamic={"x": {0: "rows"}},
        dims={"rows": (1, 1 << 20)},
    )
    return isthmus.load(bundle.path)


# --- what is imported ----------------------------------------------------------------------------


def test_import_brings_neither_torch_nor_numpy() -> None:
    code = "import sys, isthmus; isthmus.load; print({'torch', 'numpy'} & set(sys.modules))"
    assert run_python(code).strip() == "set()"


def test_a_call_with_numpy_needs_no_python_torch(linear_bundle: Bundle) -> None:
    out = run_python(
        "import sys, numpy, isthmus\n"
        "y = isthmus.load(sys.argv[1])(numpy.ones((5, 4), 'float32'))\n"
        "print(type(y).__module__, y.shape, 'torch' in sys.modules)",
        linear_bundle.path,
    )
    assert out.strip() == "numpy (5, 3) False"


# --- families and memory -------------------------------------------------------------------------


def test_each_family_gets_its_own_back(linear: isthmus.Model) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    from_torch = linear(torch.from_numpy(x))
    from_numpy = linear(x)
    from_dlpack = linear(Array(x))
    assert isinstance(from_torch, Tensor)
    assert isinstance(from_numpy, np.ndarray)
    assert not from_torch.requires_grad
    np.testing.assert_array_equal(from_torch.numpy(), from_numpy)
    np.testing.assert_array_equal(np.from_dlpack(from_dlpack), from_numpy)


def test_an_output_shares_no_memory_with_an_input(same: isthmus.Model) -> None:
    x = torch.randn(3, 4)
    expected = x.clone()
    answer = same(x)
    x.zero_()
    assert torch.equal(answer, expected)


def test_outputs_share_the_engines_memory_and_keep_it(linear: isthmus.Model) -> None:
    x = torch.randn(64, 4)
    answer = linear(x)
    expected = answer.clone()
    view = answer.numpy()
    del x, answer
    gc.collect()
    others = [linear(torch.randn(64, 4)) for _ in range(50)]  # would reuse freed memory
    np.testing.assert_array_equal(view, expected.numpy())
    assert len({other.data_ptr() for other in others}) == 50


def test_an_output_that_is_a_lent_input_outlives_it(same: isthmus.Model) -> None:
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    answer = same(x)
    x[:] = -1
    del x
    gc.collect()
    assert answer.shape == (1, 4)


def test_large_arrays_cross_without_growing_the_process(same: isthmus.Model) -> None:
    """Passes 16 MiB in and out 200 times; copies that stay would take 6 GiB."""
    x = torch.zeros(1 << 20, 4)
    same(x)
    before = resident_mib()
    for _ in range(200):
        same(x)
    assert resident_mib() - before < 64


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


def test_half_precision_and_integers_keep_their_types(tmp_path: Path) -> None:
    class Types(nn.Module):
        def forward(self, half: Tensor, flags: Tensor, small: Tensor) -> tuple[Tensor, ...]:
            return half * 2, ~flags, small + 1

    inputs = (
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor([1, 2], dtype=torch.uint8),
    )
    bundle = isthmus.export(Types(), inputs, path=tmp_path / "types")
    answers = isthmus.load(bundle.path)(*inputs)
    for answer, wanted in zip(answers, Types()(*inputs), strict=True):
        assert answer.dtype == wanted.dtype
        assert torch.equal(answer, wanted)


# --- structure -----------------------------------------------------------------------------------


def same_structure(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key, value in expected.items():
            same_structure(actual[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            same_structure(left, right)
    elif hasattr(expected, "__dataclass_fields__"):
        for name in expected.__dataclass_fields__:
            same_structure(getattr(actual, name), getattr(expected, name))
    else:
        assert actual == expected


@pytest.mark.parametrize(
    "name",
    ["dict_output", "tuple_output", "list_output", "none_output", "optional_output",
     "structured_io", "model_output", "scalars", "lstm"],
)  # fmt: skip
def test_the_structure_comes_back(name: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    torch.manual_seed(0)
    module = case.module()
    args, kwargs = case.example()
    bundle = isthmus.export(module, args, kwargs, path=tmp_path / "b", **case.options())
    with torch.inference_mode():
        expected = module(*args, **kwargs)
    same_structure(isthmus.load(bundle.path)(*args, **kwargs), expected)


def test_a_wrong_call_says_how_the_right_one_goes(linear: isthmus.Model) -> None:
    x = torch.ones(2, 4)
    with pytest.raises(InvalidInput, match="takes 1 arguments, got 2"):
        linear(x, x)
    with pytest.raises(InvalidInput, match="inputs"):
        linear(inputs=x)
    with pytest.raises(InvalidInput, match='no method "backward"'):
        linear.call("backward", x)
    with pytest.raises(InvalidInput, match="twice"):
        linear(x, input=x)
    assert linear(input=x).shape == (2, 3)


def test_a_model_that_failed_to_load_can_be_shown() -> None:
    model = isthmus.Model.__new__(isthmus.Model)
    assert repr(model) == "<isthmus.Model, not loaded>"


# --- threads -------------------------------------------------------------------------------------


def test_many_threads_share_one_model(linear: isthmus.Model) -> None:
    inputs = [torch.randn(1 + i % 60, 4) for i in range(400)]
    expected = [linear(x) for x in inputs]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(linear, inputs))
    assert all(torch.equal(a, b) for a, b in zip(answers, expected, strict=True))


def test_the_gil_is_released_while_the_model_runs(tmp_path: Path) -> None:
    x = torch.randn(512, 512) / 30
    bundle = isthmus.export(Busy(15), (x,), path=tmp_path / "busy")
    model = isthmus.load(bundle.path, threads=1)
    done = threading.Event()

    def call() -> None:
        for _ in range(5):
            model(x)
        done.set()

    worker = threading.Thread(target=call)
    ticks, start = 0, time.perf_counter()
    worker.start()
    while not done.is_set():
        time.sleep(0.001)
        ticks += 1
    worker.join()
    taken = time.perf_counter() - start
    # If the GIL were held, each tick would wait for a whole call: about 5 ticks.
    assert taken < 0.05 or ticks > 15, (ticks, taken)


def test_sessions_in_threads_do_not_meet(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "streaming")
    torch.manual_seed(0)
    module = case.module()
    args, kwargs = case.example()
    bundle = isthmus.export(module, args, kwargs, path=tmp_path / "b", **case.options())
    model = isthmus.load(bundle.path, threads=1)
    streams = [[torch.randn(1, 4) for _ in range(20)] for _ in range(8)]

    def play(stream: list[Tensor]) -> list[Tensor]:
        session = model.session()
        return [session(x) for x in stream]

    alone = [play(stream) for stream in streams]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(play, streams))
    for left, right in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    assert not torch.equal(alone[0][0], alone[1][0])


MANY = """
import sys, threading, numpy, isthmus
from pathlib import Path
tasks = lambda: len(list(Path("/proc/self/task").iterdir()))
model = isthmus.load(sys.argv[1], threads=1)
before, most = tasks(), 0
gate = threading.Barrier(17)
def call():
    gate.wait()
    for i in range(50):
        model(numpy.ones((1 + i, 4), "float32"))
    gate.wait()
    gate.wait()
threads = [threading.Thread(target=call) for _ in range(16)]
for thread in threads: thread.start()
gate.wait()
gate.wait()
most = tasks()
gate.wait()
for thread in threads: thread.join()
print(most - before)
"""


def test_callers_do_not_multiply_threads(linear_bundle: Bundle) -> None:
    """Runs 16 callers with a budget of a thread each: 16 threads, without a pool for each."""
    assert int(run_python(MANY, linear_bundle.path)) == 16


def test_short_lived_threads_and_many_shapes_leave_no_memory(linear: isthmus.Model) -> None:
    """The growth over the last two thirds of 3000 calls is that of an allocator, not a leak."""

    def calls(count: int) -> None:
        for i in range(count):
            thread = threading.Thread(target=linear, args=(torch.randn(1 + i % 64, 4),))
            thread.start()
            thread.join()

    calls(1000)
    gc.collect()
    before = resident_mib()
    calls(2000)
    gc.collect()
    assert resident_mib() - before < 16


# --- loading -------------------------------------------------------------------------------------


def test_the_load_is_reported(linear_bundle: Bundle) -> None:
    warm = isthmus.load(linear_bundle.path).load_report
    assert warm.engine == "torchscript" and warm.device == "cpu"
    assert [entry.golden for entry in warm.warmup] == list(linear_bundle.manifest.warmup)
    # A busy machine may never have three calls in a row of the same duration.
    assert all(entry.calls >= 3 and (entry.steady or entry.calls >= 25) for entry in warm.warmup)
    assert all(entry.first_ms > 0 and entry.steady_ms > 0 for entry in warm.warmup)
    assert warm.total_ms >= warm.warmup_ms > 0
    cold = isthmus.load(linear_bundle.path, warmup=False).load_report
    assert list(cold.warmup) == [] and cold.warmup_ms == 0


def test_a_warm_up_in_the_background_is_asked_after(linear_bundle: Bundle) -> None:
    assert isthmus.load(linear_bundle.path).ready()
    model = isthmus.load(linear_bundle.path, warmup="background")
    model.wait_until_ready()
    assert model.ready()
    assert model.load_report.warmup[0].calls >= 2
    with pytest.raises(InvalidInput, match="expected True, False or"):
        isthmus.load(linear_bundle.path, warmup="later")  # type: ignore[arg-type]


def test_a_process_may_let_go_of_a_model_that_is_not_warm_yet(linear_bundle: Bundle) -> None:
    run_python(
        "import isthmus, os, sys\n"
        "model = isthmus.load(sys.argv[1], warmup='background')\n"
        "child = os.fork()\n"
        "del model\n"
        "if child == 0: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0",
        linear_bundle.path,
    )


def test_rewriting_at_load_keeps_the_answers(linear_bundle: Bundle) -> None:
    x = torch.randn(7, 4)
    plain = isthmus.load(linear_bundle.path, optimize="none")(x)
    for optimize in ("freeze", "inference"):
        answer = isthmus.load(linear_bundle.path, optimize=optimize)(x)
        torch.testing.assert_close(answer, plain, rtol=0, atol=1e-6)


Options = dict[str, Any]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"engine_options": {"executor": "fast"}}, "executor"),
        ({"engine_options": {"colour": "red"}}, "colour"),
        ({"engine_options": {"max_concurrency": "-3"}}, "max_concurrency"),
        ({"optimize": "more"}, "optimize"),
        ({"trust": "all"}, "trust"),
        ({"threads": -1}, "threads"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_are_checked(linear_bundle: Bundle, options: Options, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        isthmus.load(linear_bundle.path, **options)


@pytest.mark.parametrize("executor", ["none", "profiling", "simple", "legacy"])
def test_executors_give_the_same_answers(executor: str, linear_bundle: Bundle) -> None:
    """Runs in a process of its own, because LibTorch has one setting for the whole process."""
    code = (
        "import sys, numpy, isthmus\n"
        "m = isthmus.load(sys.argv[1], engine_options={'executor': sys.argv[2]})\n"
        "print(m(numpy.ones((2, 4), 'float32')).tolist())"
    )
    expected = isthmus.load(linear_bundle.path)(np.ones((2, 4), np.float32)).tolist()
    assert run_python(code, linear_bundle.path, executor).strip() == str(expected)


class Repeats(nn.Module):
    """A module with a number and a text that become part of the export."""

    def forward(self, x: Tensor, steps: int = 3, mode: str = "relu", flag: bool = False) -> Tensor:
        for _ in range(steps):
            x = x * 0.5 + 1
        x = x.relu() if mode == "relu" else x.tanh()
        return x + 1 if flag else x


def test_constants_may_be_repeated_in_a_call_and_not_changed(tmp_path: Path) -> None:
    arguments = (torch.randn(3), 3, "tanh", True)
    isthmus.export(Repeats().eval(), arguments, path=tmp_path / "b", constants=["steps", "flag"])
    model = isthmus.load(tmp_path / "b", warmup=False)
    expected = Repeats()(*arguments)
    x = arguments[0]
    for args, kwargs in (
        (arguments, {}),
        ((x,), {"mode": "tanh", "flag": True}),
        ((x, np.int64(3)), {}),
    ):
        assert torch.allclose(model(*args, **kwargs), expected)
    for args, kwargs, name in (
        ((x, 7), {}, "steps"),
        ((x,), {"steps": 7}, "steps"),
        ((x, 3, "relu"), {}, "mode"),
        ((x, 3, None), {}, "mode"),
        ((x, torch.zeros(4)), {}, "steps"),
        ((x,), {"flag": 1}, "flag"),
    ):
        with pytest.raises(InvalidInput, match=f'"{name}" became a part of the model'):
            model(*args, **kwargs)


class TooLoud(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 1000):
            raise ValueError("too loud")
        return x


@pytest.mark.filterwarnings("ignore")
def test_an_error_inside_a_script_begins_with_its_cause(tmp_path: Path) -> None:
    isthmus.export(torch.jit.script(TooLoud()), (torch.ones(3),), path=tmp_path / "b")
    model = isthmus.load(tmp_path / "b", warmup=False, specials="allow")
    with pytest.raises(isthmus.ExecutionError) as caught:
        model(torch.full((3,), 1e6))
    assert "too loud" in str(caught.value).splitlines()[0]
