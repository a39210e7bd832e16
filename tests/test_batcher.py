"""Futures and data sets through the batcher give the answers of single calls."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.errors import ExecutionError, InvalidInput
from models import Streaming, case

pytestmark = pytest.mark.alone

Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Restores LibTorch's number of threads, which holds for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bert = case("bert")
    args, kwargs = bert.inputs()
    return isthmus.export(
        bert.module(),
        args,
        kwargs,
        path=tmp_path_factory.mktemp("batcher") / "bert",
        formats=("torchscript", "onnx"),
        **bert.options(),
    )


def sentences(model: isthmus.Model, count: int) -> list[Arrays]:
    """Returns the inputs of calls with a single row of uneven length."""
    generator = np.random.default_rng(0)
    dims = model.manifest.dims
    calls = []
    for _ in range(count):
        length = int(generator.integers(dims["sequence"].min, dims["sequence"].max + 1))
        ids = generator.integers(1, 50, (1, length))
        calls.append(
            {
                spec.name: ids if "ids" in spec.name else np.ones_like(ids)
                for spec in model.signature().inputs
            }
        )
    return calls


def values(result: object) -> list[np.ndarray]:
    """Returns the arrays of a result, whatever its structure."""
    if isinstance(result, (np.ndarray, Tensor)):
        return [np.asarray(result)]
    parts = result.values() if isinstance(result, dict) else result
    return [array for part in parts for array in values(part)]  # type: ignore[attr-defined]


def close(a: object, b: object) -> bool:
    """Compares up to rounding: a batch is summed in another order."""
    return all(
        x.shape == y.shape and np.allclose(x, y, atol=2e-5, rtol=1e-4)
        for x, y in zip(values(a), values(b), strict=True)
    )


@pytest.mark.parametrize("engine", ["torchscript", "onnxruntime", "openvino"])
def test_a_data_set_gives_the_answers_of_single_calls(bundle: Bundle, engine: str) -> None:
    model = isthmus.load(bundle.path, engine=engine, threads=1)
    calls = sentences(model, 60)
    alone = [model(**call) for call in calls]
    seen: list[int] = []
    with model.batcher(workers=2, max_padding=0.3) as batcher:
        assert batcher.notes == []
        together = list(batcher.map(calls, progress=seen.append))
        stats = batcher.stats
    assert all(close(a, b) for a, b in zip(together, alone, strict=True))
    assert seen == list(range(1, 61))
    assert stats.requests == 60 and stats.calls < 40
    assert 0 < stats.padding <= 0.3 * stats.elements


def test_answers_have_the_family_and_structure_of_the_call(bundle: Bundle) -> None:
    model = isthmus.load(bundle.path, engine="torchscript")
    call = sentences(model, 1)[0]
    tensors = {name: torch.from_numpy(value) for name, value in call.items()}
    plain = model(**tensors)
    answer = model.submit(**tensors).result(timeout=30)
    assert type(answer) is type(plain)
    assert close(answer, plain)
    assert isinstance(values_of_first(answer), Tensor)
    assert list(model.map([tensors, tensors], max_padding=0.0))


def values_of_first(result: object) -> object:
    """Returns the first value of a result as it is."""
    if isinstance(result, dict):
        return next(iter(result.values()))
    return result[0] if isinstance(result, (tuple, list)) else result


def test_a_request_can_be_cancelled_while_it_waits(bundle: Bundle) -> None:
    model = isthmus.load(bundle.path, engine="torchscript")
    call = sentences(model, 1)[0]
    with model.batcher(max_wait=60.0) as batcher:
        request = batcher.submit(**call)
        assert request.cancel() and request.cancelled()
        with pytest.raises(CancelledError):
            request.result(timeout=5)
        waiting = batcher.submit(**call)
        batcher.close(cancel=True)
        with pytest.raises(CancelledError):
            waiting.result(timeout=5)
        with pytest.raises(ExecutionError, match="closed"):
            batcher.submit(**call)
    finished = model.submit(**call)
    finished.result(timeout=30)
    assert not finished.cancel()


def test_a_full_queue_refuses(bundle: Bundle) -> None:
    model = isthmus.load(bundle.path, engine="torchscript")
    call = sentences(model, 1)[0]
    with model.batcher(max_wait=60.0, max_queue=2, when_full="refuse") as batcher:
        requests = [batcher.submit(**call), batcher.submit(**call)]
        with pytest.raises(ExecutionError, match="queue is full"):
            batcher.submit(**call)
        batcher.close(cancel=True)
        assert all(request.cancelled() for request in requests)


def test_bad_requests_and_limits_are_named(bundle: Bundle, tmp_path: Path) -> None:
    model = isthmus.load(bundle.path, engine="torchscript")
    with model.batcher() as batcher, pytest.raises(InvalidInput, match="nonesuch"):
        batcher.submit(nonesuch=np.zeros((1, 3)))
    for limits, word in (
        ({"workers": 0}, "workers"),
        ({"max_padding": 1.0}, "max_padding"),
        ({"when_full": "explode"}, "when_full"),
        ({"padding": {"nonesuch": 1.0}}, "nonesuch"),
        ({"method": "nonesuch"}, "nonesuch"),
    ):
        with pytest.raises(InvalidInput, match=word):
            model.batcher(**limits)
    torch.manual_seed(0)
    stateful = isthmus.export(Streaming(), (torch.randn(2, 4),), path=tmp_path / "stream")
    with pytest.raises(InvalidInput, match="session"):
        isthmus.load(stateful.path).batcher()


def test_callers_on_many_threads_get_their_own_answers(bundle: Bundle) -> None:
    model = isthmus.load(bundle.path, engine="onnxruntime", threads=1)
    calls = sentences(model, 24)
    alone = [model(**call) for call in calls]
    wrong: list[int] = []
    with model.batcher(workers=2, max_padding=0.2, max_queue=8) as batcher:

        def work(first: int) -> None:
            for at in range(first, len(calls), 4):
                if not close(batcher.submit(**calls[at]).result(timeout=60), alone[at]):
                    wrong.append(at)

        threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def assert_a_fork_can_let_go(held: list[object]) -> None:
    """Frees the objects in a forked child, where other threads reuse the handles of lost ones."""
    child = os.fork()
    if child == 0:
        # New threads reuse the stacks, and so the handles, of threads that were not forked.
        for _ in range(4):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        held.clear()
        gc.collect()
        os._exit(7)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 7
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child waits for threads that it has not")


def test_a_forked_process_lets_go_of_a_batcher_whose_workers_it_has_not(bundle: Bundle) -> None:
    model = isthmus.load(bundle.path, engine="torchscript")
    call = sentences(model, 1)[0]
    model.submit(**call).result(timeout=30)
    time.sleep(0.5)  # the worker releases the last request a moment later
    held: list[object] = [model]
    del model
    assert_a_fork_can_let_go(held)
    (kept,) = held
    assert isinstance(kept, isthmus.Model)
    kept.submit(**call).result(timeout=30)  # the parent's workers go on


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_forked_process_lets_go_of_a_model_whose_runtime_s_threads_it_has_not(
    bundle: Bundle, engine: str
) -> None:
    model = isthmus.load(bundle.path, engine=engine, threads=2)
    call = sentences(model, 1)[0]
    model(**call)
    held: list[object] = [model]
    del model
    assert_a_fork_can_let_go(held)
    (kept,) = held
    assert isinstance(kept, isthmus.Model)
    kept(**call)


def test_neither_model_nor_queue_outlives_its_user(bundle: Bundle) -> None:
    model = isthmus.load(bundle.path, engine="torchscript")
    call = sentences(model, 1)[0]
    model.submit(**call).result(timeout=30)
    gone = weakref.ref(model)
    queue = weakref.ref(model._queue)
    del model
    gc.collect()
    for _ in range(50):  # the worker releases the last request's model a moment later
        if gone() is None and queue() is None:
            return
        time.sleep(0.1)
    pytest.fail("the model or its queue is still alive")
