"""Bench reports: their conclusions, and the reasons of rows without numbers.

The workers here are fakes that answer with made-up durations, so conclusions are exact;
test_timing_parity.py times real ones.
"""

from __future__ import annotations

import importlib
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.bundle.bundle import Bundle
from isthmus.bundle.manifest import (
    Artifact,
    FileEntry,
    GoldenEntry,
    GoldenStep,
    Manifest,
    Method,
    Tree,
)
from isthmus.document import to_json, to_markdown, to_text
from isthmus.errors import InvalidInput
from isthmus.runtime.engines import RowKind
from isthmus.testing import assert_not_slower
from isthmus.timing import turns
from isthmus.timing.bench import bench
from isthmus.timing.bench_report import BenchReport, compare_rows
from isthmus.timing.bench_row import BenchRow, place
from isthmus.timing.bench_worker import peak_rss_bytes, time_calls
from isthmus.timing.statistics import (
    MIN_SAMPLES_P90,
    MIN_SAMPLES_P99,
    percentile,
    ratio_over_rounds,
    summarize,
)

pytestmark = pytest.mark.alone

BENCH = importlib.import_module("isthmus.timing.bench")
FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
Bench = Callable[..., BenchReport]


def toy_manifest(**changes: object) -> Manifest:
    file = FileEntry("artifacts/a.pt", 1, "0" * 64)
    values: dict[str, object] = {
        "name": "toy",
        "created": "2026-01-01T00:00:00Z",
        "producer": {},
        "source": {},
        "stateful": False,
        "dims": {},
        "methods": (Method("forward", (), (), (), (), Tree("none")),),
        "artifacts": (
            Artifact(
                "torchscript-cpu-fp32",
                "torchscript",
                "cpu",
                ("cpu",),
                "fp32",
                "graph",
                "flat",
                "trace",
                (file,),
                {},
            ),
        ),
        "goldens": (
            GoldenEntry("small", file, {}, (GoldenStep("forward"),)),
            GoldenEntry("large", file, {}, (GoldenStep("forward"),)),
        ),
        "noise_floor": {},
        "warmup": ("large",),
    }
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def fake_bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """Returns `bench` with fake workers, whose arguments are given by language."""

    def run(python: str = "", cpp: str = "", **options: object) -> BenchReport:
        def command(arguments: str, seed: int) -> list[str]:
            return [sys.executable, str(FAKE_WORKER), "--seed", str(seed), *arguments.split("|")]

        def clean(arguments: list[str]) -> list[str]:
            return [argument for argument in arguments if argument]

        monkeypatch.setattr(turns, "_python_command", lambda *_: clean(command(python, 1)))
        monkeypatch.setattr(turns, "_native_command", lambda *_: clean(command(cpp, 2)))
        settings: dict[str, object] = {
            "forms": ["TorchScript"],
            "devices": ["cpu"],
            "rounds": 20,
            **options,
        }
        return bench(Bundle(tmp_path, toy_manifest()), **settings)  # type: ignore[arg-type]

    return run


def test_the_same_program_twice_has_no_winner(fake_bench: Bench) -> None:
    report = fake_bench()
    comparison = report.comparison("TorchScript")
    assert comparison.verdict == "no significant difference"
    assert comparison.interval is not None
    assert comparison.interval.low < 1.03
    assert comparison.interval.high > 0.97
    assert "no significant difference" in to_text(report)


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, "C++ faster"), (1.25, "C++ slower")])
def test_a_real_difference_is_told(fake_bench: Bench, factor: float, verdict: str) -> None:
    report = fake_bench(cpp=f"--median-ms|{5 * factor}")
    comparison = report.comparison("TorchScript")
    assert comparison.verdict == verdict
    assert comparison.interval is not None
    assert comparison.interval.ratio == pytest.approx(factor, rel=0.03)
    assert verdict in report.verdict


def test_a_difference_within_the_margin_is_none(fake_bench: Bench) -> None:
    tiny = "--median-ms|5.1|--noise|0.0001"
    report = fake_bench(python="--noise|0.0001", cpp=tiny)
    comparison = report.comparison("TorchScript")
    assert comparison.interval is not None
    assert not comparison.interval.includes_one(), "the difference is measured well enough"
    assert comparison.verdict == "no significant difference"
    strict = fake_bench(python="--noise|0.0001", cpp=tiny, margin=0.0)
    assert strict.comparison("TorchScript").verdict == "C++ slower"


def test_the_first_calls_of_a_turn_do_not_count(fake_bench: Bench) -> None:
    report = fake_bench()
    for row in report.rows:
        # The fake's first call of each turn takes 50 times as long.
        assert max(row.samples_ms) < 10
        assert len(row.rounds_ms) == 20
        assert len({len(turn) for turn in row.rounds_ms}) == 1


def test_a_slow_call_is_not_repeated_for_long(fake_bench: Bench) -> None:
    report = fake_bench(python="--median-ms|900", cpp="--median-ms|900", rounds=2)
    assert [len(turn) for turn in report.rows[0].rounds_ms] == [2, 2]


def test_rows_hold_what_the_worker_said(fake_bench: Bench) -> None:
    report = fake_bench(rounds=2)
    row = report.row("TorchScript", "C++")
    assert row.warmup_ms == 30.0
    told = [line for line in to_text(report).splitlines() if "the governor saves power" in line]
    assert len(told) == 1, "a warning is told once, whatever the number of rows"
    assert (row.load_ms, row.first_call_ms, row.peak_rss_bytes) == (120.0, 50.0, 300_000_000)
    assert (row.runtime, row.flags["threads"], row.artifact) == (
        "fake 1.0",
        "2",
        "torchscript-cpu-fp32",
    )


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("error at start", "EngineUnavailable: no LibTorch here"),
        ("dies at start", "exit code 127: undefined symbol: frobnicate"),
        ("dies later", "failed while it was timed: exit code 9"),
        ("silent", "the worker said nothing for 2 s"),
    ],
)
def test_a_worker_that_fails_loses_its_row_only(fake_bench: Bench, fail: str, reason: str) -> None:
    report = fake_bench(cpp=f"--fail|{fail}", timeout=2.0)
    cpp, python = report.row("TorchScript", "C++"), report.row("TorchScript", "Python")
    assert not cpp
    assert cpp.unavailable == reason
    assert python
    assert python.summary is not None
    comparison = report.comparison("TorchScript")
    assert (comparison.interval, comparison.verdict) == (None, "")
    assert comparison.reason == f"C++: {reason}"
    assert report, "one row has numbers"
    with pytest.raises(AssertionError, match="cannot be compared"):
        assert_not_slower(report)


OF_TORCHSCRIPT = ("Torch", "TorchScript", "TorchScript optimised")


def test_absent_rows_say_why(fake_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"cpu": "", "cuda": "no CUDA device on this machine"}
    monkeypatch.setattr(BENCH, "devices_present", lambda: absent)
    report = fake_bench(forms=None, devices=None, rounds=2)
    assert [row.label for row in report.rows] == [
        f"{title} {device} in {language}"
        for device in ("CPU", "GPU")
        for title in OF_TORCHSCRIPT
        for language in ("Python", "C++")
    ]
    assert "no form in C++" in report.row("Torch", "C++").unavailable
    for title in OF_TORCHSCRIPT[1:]:
        for language in ("Python", "C++"):
            row = report.row(title, language, "cuda")
            assert row.unavailable == "no CUDA device on this machine"
    assert report.comparison("TorchScript", "cuda").reason == "no CUDA device on this machine"
    assert "no CUDA device on this machine" in to_text(report)


def test_a_device_without_an_artifact_says_so(
    fake_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BENCH, "devices_present", lambda: {"cpu": "", "cuda": ""})
    report = fake_bench(devices=["cuda"], rounds=2)
    assert report.rows[0].unavailable == "the bundle has no TorchScript artifact for cuda"
    assert not report
    assert "nothing could be timed" in report.verdict


def test_assert_not_slower(fake_bench: Bench) -> None:
    fast = assert_not_slower(fake_bench(cpp="--median-ms|5.5"), bound=1.25)
    assert fast.interval is not None
    with pytest.raises(AssertionError, match=r"expected at most 1\.25 times"):
        assert_not_slower(fake_bench(cpp="--median-ms|8"), bound=1.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"forms": ["ONNX"]}, "form 'ONNX' is unknown"),
        ({"devices": ["tpu"]}, "device 'tpu' is unknown"),
        ({"languages": ["Rust"]}, "language 'Rust' is unknown"),
        ({"rounds": 1}, "at least 2"),
        ({"golden": "huge"}, "which has small, large"),
        ({"artifact": "other"}, "torchscript-cpu-fp32"),
    ],
)
def test_bad_options(fake_bench: Bench, options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        fake_bench(**options)


def test_few_rounds_give_no_verdict(fake_bench: Bench) -> None:
    comparison = fake_bench(cpp="--median-ms|9", rounds=7).comparison("TorchScript")
    assert (comparison.verdict, comparison.interval) == ("", None)
    assert comparison.reason == "7 rounds are too few for a 99% interval; take 8"
    assert comparison.cpp_ms is not None
    assert fake_bench(cpp="--median-ms|9", rounds=8).comparison("TorchScript").verdict


def test_json_puts_the_context_before_the_numbers(fake_bench: Bench) -> None:
    data = json.loads(to_json(fake_bench(rounds=8)))
    assert (data["schema"], data["schema_version"]) == ("isthmus-bench", 2)
    assert list(data).index("context") < list(data).index("rows")
    assert {"cpu", "torch", "threads", "clock governor", "method", "flags"} <= set(data["context"])
    assert data["context"]["inputs"] == "golden large", "the first for warm-up"
    row = data["rows"][0]
    assert len(row["rounds_ms"]) == 8
    assert row["summary"]["count"] == sum(map(len, row["rounds_ms"]))
    assert data["comparisons"][0]["interval"]["confidence"] == 0.99
    assert "| engine | Python | C++ |" in to_markdown(fake_bench(rounds=3))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot(fake_bench: Bench, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"plot.{ending}"
    fake_bench(rounds=3).plot(target)
    head = target.read_bytes()[:400]
    assert head.startswith(b"\x89PNG") if ending == "png" else b"<svg" in target.read_bytes()


def test_plot_refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    row = BenchRow("eager", RowKind.EAGER, "C++", "cpu", unavailable="no")
    empty = BenchReport("toy", (row,), ())
    with pytest.raises(InvalidInput, match="nothing to draw"):
        empty.plot(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match=r"\.png or \.svg"):
        empty.plot(tmp_path / "a.bmp")


def test_percentiles_need_samples() -> None:
    rng = random.Random(0)
    samples = [rng.random() for _ in range(MIN_SAMPLES_P99)]
    few = summarize(samples[: MIN_SAMPLES_P90 - 1])
    assert (few.p90_ms, few.p99_ms) == (None, None)
    some = summarize(samples[: MIN_SAMPLES_P99 - 1])
    assert some.p90_ms is not None
    assert some.p99_ms is None
    many = summarize(samples)
    assert many.p99_ms is not None
    assert many.min_ms <= many.median_ms <= many.p90_ms <= many.p99_ms  # type: ignore[operator]


def test_percentile() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([0.0, 10.0], 0.25) == 2.5
    for bad in (lambda: percentile([], 0.5), lambda: percentile([1.0], 1.5)):
        with pytest.raises(ValueError, match="needs"):
            bad()
    for bad_sample in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            summarize([1.0, bad_sample])


def test_ratio_is_free_of_drift_that_both_sides_share() -> None:
    rng = random.Random(1)
    drift = [1.0 + 0.5 * math.sin(index / 3) for index in range(30)]
    python = [5 * slowdown * (1 + rng.gauss(0, 0.01)) for slowdown in drift]
    cpp = [4 * slowdown * (1 + rng.gauss(0, 0.01)) for slowdown in drift]
    interval = ratio_over_rounds(cpp, python)
    assert interval.low < 0.8 < interval.high
    assert interval.high - interval.low < 0.03


def test_ratio_interval_covers_the_truth() -> None:
    """About 95 of 100 intervals at 95 % confidence hold the true ratio."""
    rng = random.Random(2)
    covered = 0
    for trial in range(100):
        a = [1.2 * math.exp(rng.gauss(0, 0.05)) for _ in range(30)]
        b = [math.exp(rng.gauss(0, 0.05)) for _ in range(30)]
        interval = ratio_over_rounds(a, b, confidence=0.95, resamples=1000, seed=trial)
        covered += interval.low <= 1.2 <= interval.high
    assert 88 <= covered <= 100


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, 0.0], [1.0, 1.0])]
)
def test_ratio_refuses_bad_rounds(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="rounds"):
        ratio_over_rounds(a, b)


def test_comparison_of_rows_without_numbers() -> None:
    rows = [
        BenchRow("eager", RowKind.EAGER, language, "cuda:1", unavailable=language)
        for language in ("Python", "C++")
    ]  # type: ignore[arg-type]
    comparison = compare_rows(*rows, confidence=0.99, margin=0.03)
    assert comparison.reason == "Python: Python; C++: C++"
    assert place("cuda:1") == "GPU 1"
    assert place("cuda:0") == place("cuda") == "GPU"


def test_time_calls_waits_before_and_after_each_call() -> None:
    order: list[str] = []
    samples = time_calls(lambda: order.append("call"), 2, lambda: order.append("wait"))
    assert order == ["wait", "call", "wait"] * 2
    assert all(sample >= 0 for sample in samples)


def test_peak_memory_is_that_of_the_process_itself() -> None:
    """The peak of a large parent must not count, as it would with getrusage after exec."""
    code = "from isthmus.timing.bench_worker import peak_rss_bytes; print(peak_rss_bytes())"
    ballast = bytearray(400 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(ballast) > int(out.stdout)
    assert peak_rss_bytes() > len(ballast)
