"""Many callers at once: eight threads with mixed shapes get the same bits as a single caller.

Thousands of calls from short-lived threads do not grow memory: a short version of
`benchmarks/soak.py`, in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import isthmus
from isthmus import _core
from isthmus.bundle.bundle import Bundle
from models import case

pytestmark = pytest.mark.alone

ENGINES = ("torchscript", "exported", "onnxruntime", "openvino", "aoti")
THREADS, CALLS = 8, 200
SHAPES = ((1, 1), (1, 14), (2, 9), (3, 5), (5, 3), (7, 12))

SOAK = Path(__file__).parent.parent / "benchmarks" / "soak_worker.py"
SOAKED = (
    "--calls=3000",
    "--batch=4",
    "--sequence=64",
    "--step=8",
)  # all of 32 shapes
NOISE = 3e6
"""The allowed growth in bytes over the last 1,500 calls. The allocator alone moves by one or two
million; the outputs of these calls are 17 million."""

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bert = case("bert")
    args, kwargs = bert.inputs()
    return isthmus.export(
        bert.module(),
        args,
        kwargs,
        path=tmp_path_factory.mktemp("concurrency") / "bert",
        formats=("torchscript", "exported", "onnx", "aoti"),
        **bert.options(),
    )


def calls_of(model: isthmus.Model) -> list[Arrays]:
    """Returns the inputs of a call of every shape within the ranges."""
    generator = np.random.default_rng(0)
    names = [spec.name for spec in model.signature().inputs]
    calls = []
    for shape in SHAPES:
        ids = generator.integers(1, 40, shape, dtype=np.int64)
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        values["token_type_ids"] = np.zeros_like(ids)
        calls.append({name: values[name] for name in names})
    return calls


def answers(model: isthmus.Model, call: Arrays) -> list[np.ndarray]:
    return [np.array(output) for output in model(**call).values()]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_eight_threads_get_the_bits_of_one(bundle: Bundle, engine: str, threads: int) -> None:
    model = isthmus.load(bundle.path, engine=engine, trust="native", threads=threads)
    calls = calls_of(model)
    for call in calls * 3:  # a profiling runtime runs other code in the first calls of a shape
        model(**call)
    serial = [answers(model, call) for call in calls]
    wrong: list[str] = []
    start = threading.Barrier(THREADS)

    def work(seed: int) -> None:
        order = np.random.default_rng(seed).integers(0, len(calls), CALLS)
        start.wait()
        try:
            for at in order:
                outputs = answers(model, calls[at])
                same = all(map(np.array_equal, outputs, serial[at]))
                if not same or len(outputs) != len(serial[at]):
                    wrong.append(f"{SHAPES[at]} in thread {seed}")
        except Exception as error:  # a thread's error would be lost
            wrong.append(repr(error))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert torch.is_grad_enabled(), "the callers' own state is left alone"


def test_openvino_has_a_stream_for_each_call_that_fits_the_cores(bundle: Bundle) -> None:
    cores = _core.this_machine().cores

    def streams(threads: int | None, **options: str) -> str:
        model = isthmus.load(
            bundle.path, engine="openvino", threads=threads, engine_options=options
        )
        return next(note for note in model.load_report.notes if "stream" in note)

    small = "1 stream" if cores == 1 else f"1 stream, {cores} when long calls meet"
    assert streams(1) == small
    assert streams(cores) == "1 stream"
    assert streams(None) == "1 stream"
    assert streams(1, max_concurrency="1") == "1 stream"
    assert streams(1, streams="2") == "2 streams"


def own_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize(("rows", "grows"), [(1, False), (2000, True)])
def test_streams_of_a_small_model_come_when_long_calls_meet(
    tmp_path: Path, rows: int, grows: bool
) -> None:
    """Short calls would pay for switching threads; long calls gain a core each."""
    if _core.this_machine().cores == 1:
        pytest.skip("a single core has a single stream")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.Linear(512, 256)).eval()
    small = isthmus.export(
        module,
        (torch.randn(2, 256),),
        path=tmp_path / "net",
        formats=("onnx",),
        dynamic={"input": {0: "batch"}},
        dims={"batch": (1, 4096)},
    )
    model = isthmus.load(small.path, engine="openvino", threads=1)
    given = np.random.default_rng(0).normal(size=(rows, 256)).astype(np.float32)
    alone = np.array(model(given))
    for _ in range(3):  # the first call of a shape is longer than others
        model(given)
    before = own_threads()
    wrong: list[int] = []

    def work() -> None:
        for call in range(50):
            if not np.array_equal(np.array(model(given)), alone):
                wrong.append(call)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []
    assert (own_threads() > before) is grows


def memory_grown(bundle: Bundle, engine: str, *more: str) -> float:
    """Returns the growth of resident memory from the second quarter of the calls to the last."""
    spec = importlib.util.spec_from_file_location("soak_worker", SOAK)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    done = subprocess.run(
        [sys.executable, SOAK, bundle.path, engine, *SOAKED, *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(worker.growth(json.loads(done.stdout)["resident_bytes"])[2])


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_does_not_grow_with_calls(bundle: Bundle, engine: str) -> None:
    assert memory_grown(bundle, engine) <= NOISE


def test_a_leak_would_be_noticed(bundle: Bundle) -> None:
    assert memory_grown(bundle, "onnxruntime", "--leak") > 3 * NOISE
