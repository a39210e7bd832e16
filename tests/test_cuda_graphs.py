"""CUDA graphs and streams per caller keep the bits and the order. Skips without a device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import isthmus
from isthmus.bundle.bundle import Bundle, open_bundle

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("needs_cuda")]

GRAPHS = {"cuda_graphs": "on"}
SLEEP = 200_000_000
"""The number of device cycles in about 0.1 s, in which wrongly ordered work would overtake."""


class Net(nn.Module):
    """A model of matrix products, a reduction and activations on float[batch, 8]; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 64)
        self.second = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.nn.functional.gelu(self.first(x))
        return self.second(hidden), torch.softmax(hidden, dim=1)


class Waits(nn.Module):
    """A model whose output's shape depends on the values, so that the host waits in the call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nonzero(x > 0).to(x.dtype).sum(0) + x.sum()


def export(path: Path, module: nn.Module | None = None, **options: object) -> Path:
    torch.manual_seed(0)
    isthmus.export(
        module or Net(),
        (torch.randn(3, 8),),
        path=path,
        dynamic={"x": {0: "batch"}},
        dims={"batch": (1, 64)},
        **options,
    )
    return path


def load(path: Path, **engine_options: str) -> isthmus.Model:
    return isthmus.load(path, device="cuda:0", trust="native", engine_options=engine_options)


def batches(path: Path) -> list[int]:
    """Returns the batch sizes of the goldens, which are the recorded ones."""
    return sorted({golden.dims["batch"] for golden in open_bundle(path).manifest.goldens})


def equal(a: object, b: object) -> bool:
    """Compares tuples of tensors bit by bit."""
    assert isinstance(a, tuple)
    assert isinstance(b, tuple)
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("graphs") / "net")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "package"
    return export(path, formats=("aoti",), device="cuda")


def test_replays_are_the_same_bits_on_every_recorded_shape(net: Path) -> None:
    plain, graphs = load(net), load(net, **GRAPHS)
    sizes = batches(net)
    assert len(sizes) > 2
    notes = graphs.load_report.notes
    assert any(note.startswith(f"{len(sizes)} CUDA graphs") for note in notes), notes
    for size in (*sizes, 33):  # 33 has no graph
        for _ in range(3):
            x = torch.randn(size, 8, device="cuda")
            assert equal(graphs(x), plain(x)), size


def test_packages_replay_the_same_bits(package: Path) -> None:
    plain, graphs = load(package), load(package, **GRAPHS)
    for size in (*batches(package), 33):
        x = torch.randn(size, 8, device="cuda")
        assert equal(graphs(x), plain(x)), size


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_replays_the_same_bits(tmp_path: Path, precision: str) -> None:
    path = export(tmp_path / precision, device="cuda", precision=precision)
    plain, graphs = load(path), load(path, **GRAPHS)
    for size in batches(path):
        x = torch.randn(size, 8, device="cuda")
        assert equal(graphs(x), plain(x))


def test_answers_own_their_memory(net: Path) -> None:
    plain, graphs = load(net), load(net, **GRAPHS)
    x, y = torch.randn(2, 3, 8, device="cuda")
    first = graphs(x)
    second = graphs(y)
    assert equal(first, plain(x))
    assert equal(second, plain(y))
    del graphs
    torch.cuda.empty_cache()
    assert equal(first, plain(x))


def test_every_thread_gets_its_own_answers(net: Path) -> None:
    """Replays of one graph on several streams are serialized on the device."""
    plain, graphs = load(net), load(net, **GRAPHS)
    inputs = torch.randn(4, 3, 8, device="cuda")
    expected = [plain(x) for x in inputs]
    torch.cuda.synchronize()
    wrong: list[int] = []

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(300):
                answer = graphs(inputs[number])
                torch.cuda.current_stream().synchronize()
                if not equal(answer, expected[number]):
                    wrong.append(number)

    run_threads(4, work)
    assert wrong == []


def run_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_stream_for_each_caller_keeps_the_order(net: Path, graphs: str) -> None:
    """On the default stream, work before and after a call needs no synchronization."""
    model = load(net, streams="caller", cuda_graphs=graphs)
    plain = load(net)
    wrong: list[int] = []

    def work(number: int) -> None:
        x = torch.zeros(3, 8, device="cuda")
        for _ in range(3):
            torch.cuda._sleep(SLEEP // 10)
            x.fill_(float(number))  # written only after the sleep
            answer = tuple(output.clone() for output in model(x))
            x.fill_(-1.0)  # the call has read it before
            torch.cuda.synchronize()
            if not equal(answer, plain(torch.full((3, 8), float(number), device="cuda"))):
                wrong.append(number)

    run_threads(2, work)
    assert wrong == []


def test_nothing_waits_on_the_host(net: Path) -> None:
    """LibTorch raises an error when an operator or a copy would synchronize."""
    models = [load(net), load(net, **GRAPHS), load(net, streams="caller", **GRAPHS)]
    x = torch.randn(3, 8, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for model in models:
            torch.cuda._sleep(SLEEP)
            before = torch.cuda.Event()
            before.record()
            model(x)
            assert not before.query(), "the call returned only after the device was done"
            before.synchronize()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_model_that_waits_falls_back_and_says_so(tmp_path: Path, net: Path) -> None:
    path = export(tmp_path / "waits", Waits())
    model = load(path, cuda_graphs="auto")
    notes = model.load_report.notes
    assert any(
        'no CUDA graph of "forward" on x=' in note and "uncaptured" in note for note in notes
    )
    x = torch.randn(5, 8, device="cuda")
    torch.testing.assert_close(model(x), Waits()(x))
    with pytest.raises(isthmus.ExecutionError, match=r"no CUDA graph.*cuda_graphs=auto"):
        load(path, cuda_graphs="on")
    # The failure leaves stream, allocator and generators as they were.
    torch.cuda.empty_cache()
    torch.randn(8, device="cuda").sum().item()
    y = torch.randn(3, 8, device="cuda")
    assert equal(load(net, **GRAPHS)(y), load(net)(y))


def test_a_limit_leaves_the_other_shapes_uncaptured(net: Path) -> None:
    model = load(net, cuda_graphs="auto", cuda_graph_limit="1")
    notes = model.load_report.notes
    assert any(note.startswith("1 CUDA graphs") for note in notes)
    assert any("cuda_graph_limit" in note for note in notes)
    x = torch.randn(64, 8, device="cuda")
    assert equal(model(x), load(net)(x))


def test_without_warm_up_there_are_none(net: Path) -> None:
    options: dict[str, str] = {"cuda_graphs": "auto"}
    model = isthmus.load(net, device="cuda:0", warmup=False, engine_options=options)
    assert any("warm-up, which is off" in note for note in model.load_report.notes)
    with pytest.raises(isthmus.InvalidInput, match="warm-up"):
        isthmus.load(net, device="cuda:0", warmup=False, engine_options=GRAPHS)


def test_a_recorded_package_has_one_runner(package: Path) -> None:
    with pytest.raises(isthmus.InvalidInput, match=r"num_runners=2: .* one runner"):
        load(package, num_runners="2", **GRAPHS)


def test_a_caller_may_record_the_model_in_a_graph_of_its_own(net: Path) -> None:
    plain, model = load(net), load(net, **GRAPHS)
    x = torch.randn(3, 8, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = model(x)
    x.copy_(torch.randn(3, 8, device="cuda"))
    graph.replay()
    assert equal(answer, plain(x))


def test_memory_does_not_grow(net: Path) -> None:
    model = load(net, **GRAPHS)
    x = torch.randn(3, 8, device="cuda")

    def after(calls: int) -> int:
        for _ in range(calls):
            model(x)
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    before = after(10)
    assert after(1000) <= before


def test_loading_again_and_again_gives_the_memory_back(net: Path) -> None:
    def reserved() -> int:
        load(net, **GRAPHS)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    first = max(reserved() for _ in range(2))
    assert max(reserved() for _ in range(4)) <= first


def test_the_golden_of_a_shape_is_what_is_recorded(tmp_path: Path) -> None:
    """The `probes` of the export choose the recorded shapes."""
    path = export(tmp_path / "probed", probes=[{"x": torch.randn(17, 8)}])
    bundle: Bundle = open_bundle(path)
    assert 17 in {golden.dims["batch"] for golden in bundle.manifest.goldens}
    model = load(path, **GRAPHS)
    x = torch.randn(17, 8, device="cuda")
    assert equal(model(x), load(path)(x))
