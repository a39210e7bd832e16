"""Tests of isthmus-run bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from tests.scripted_bundles import NUMBER, Runner, assert_lines, make_bundle, ramp

from isthmus.runtime import install_paths


def test_bench(isthmus_run: Runner, affine_bundle: Path) -> None:
    text = isthmus_run("bench", affine_bundle, "--iterations", "70", "--min-seconds", "0").stdout
    assert_lines(
        text,
        "isthmus-run bench",
        r"  warm-up batch1 +\d+ calls?, .* [mu]s to .* [mu]s(, not steady)?",
        r"  inputs +median ms +p90 ms +p99 ms +min ms +calls/s +first call ms +load ms .*",
        rf"  batch1 +{NUMBER} +{NUMBER} +-( +{NUMBER}){{5}} +\d+\.\d MB +70",
        r"p90 needs 64 samples or more, p99 662; .*",
    )


def test_bench_json(isthmus_run: Runner, affine_bundle: Path, affine_inputs: Path) -> None:
    options = ["--iterations", "5", "--min-seconds", "0", "--no-warmup"]
    document = isthmus_run.json("bench", affine_bundle, *options, "--inputs", affine_inputs)
    assert document["schema"] == "isthmus-run.bench"
    (row,) = document["rows"]
    assert row["inputs"] == str(affine_inputs)
    assert len(row["samples_ms"]) == row["samples"] == 5
    assert row["min_ms"] <= row["median_ms"]
    assert row["p90_ms"] is None
    assert row["p99_ms"] is None
    assert row["warmup_ms"] == 0
    assert row["peak_rss_bytes"] > 1e6
    for key in ("mean_ms", "calls_per_second", "first_call_ms", "load_ms", "total_load_ms"):
        assert row[key] > 0, key
    many = isthmus_run.json(
        "bench", affine_bundle, "--iterations", "662", "--min-seconds", "0", "--golden", "batch3"
    )
    assert many["rows"][0]["inputs"] == "batch3"
    assert many["rows"][0]["median_ms"] <= many["rows"][0]["p90_ms"] <= many["rows"][0]["p99_ms"]


def test_bench_measures_a_slower_engine(isthmus_run: Runner, tmp_path: Path) -> None:
    slow = make_bundle(tmp_path / "bundle", "gain 2\ndelay_us 3000")
    options = ["--iterations", "5", "--min-seconds", "0"]
    assert isthmus_run.json("bench", slow, *options)["rows"][0]["min_ms"] >= 3


def test_the_binary_has_no_hook_to_slow_it_down(isthmus_run: Runner) -> None:
    assert "slow-down" not in isthmus_run("bench", "--help").stdout
    assert b"slow-down" not in install_paths.binary().read_bytes()


def test_bench_refuses_a_sequence(isthmus_run: Runner, affine_bundle: Path) -> None:
    golden = affine_bundle / "goldens" / "batch1.safetensors"
    isthmus_run(
        "bench", affine_bundle, "--inputs", golden, "--iterations", "1", "--min-seconds", "0"
    )
    two = affine_bundle / "goldens" / "two.safetensors"
    save_file({"0/in/x": ramp(1), "1/in/x": ramp(1)}, two)
    assert "2 calls" in isthmus_run("bench", affine_bundle, "--inputs", two, code=2).stderr
    two.unlink()


def test_bench_with_many_callers(isthmus_run: Runner, affine_bundle: Path) -> None:
    options = ["--callers", "4", "--iterations", "700", "--min-seconds", "0.1"]
    text = isthmus_run("bench", affine_bundle, *options).stdout
    assert_lines(
        text,
        r"  inputs +callers +calls/s +median ms +p90 ms +p99 ms +max ms +peak memory +threads .*",
        rf"  batch1 +4( +{NUMBER}){{5}} +\d+\.\d MB +\d+ +\d+",
    )
    for batch in (False, True):
        more = ["--batch", "--workers", "2", "--max-wait-ms", "0.5"] if batch else []
        (row,) = isthmus_run.json("bench", affine_bundle, *options, *more)["rows"]
        assert row["callers"] == 4
        assert row["batch"] is batch
        assert row["samples"] == sum(row["calls_by_caller"]) == len(row["samples_ms"]) >= 700
        assert min(row["calls_by_caller"]) > 0
        assert row["median_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["calls_per_second"] == pytest.approx(row["samples"] / row["seconds"])
        assert row["seconds"] >= 0.1
        assert row["process_threads"] >= (5 + 2 if batch else 5)
        if batch:
            assert row["requests"] == row["samples"] + 4 * 10 >= row["model_calls"]


def test_bench_with_many_callers_ends_at_the_first_error(
    isthmus_run: Runner, tmp_path: Path
) -> None:
    failing = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 40")
    result = isthmus_run("bench", failing, "--callers", "4", "--no-warmup", code=5)
    assert "the script says so" in result.stderr


def test_bench_soak(isthmus_run: Runner, affine_bundle: Path, tmp_path: Path) -> None:
    text = isthmus_run("bench", affine_bundle, "--soak", "4000").stdout
    assert_lines(
        text,
        r"  calls +callers +goldens +calls/s +loaded +second quarter +last quarter +growth kB .*",
        r"memory is steady: .*, at most 4\.0 MB of it is noise",
    )
    (row,) = isthmus_run.json("bench", affine_bundle, "--soak", "4000", "--callers", "3")["rows"]
    assert row["callers"] == 3
    assert row["calls"] >= 4000
    assert row["goldens"] == 2
    assert len(row["resident_bytes"]) == 41
    assert row["growth_bytes"] == row["last_quarter_bytes"] - row["second_quarter_bytes"]

    leaking = make_bundle(tmp_path / "leaking", "gain 2\nleak 20000")
    result = isthmus_run("bench", leaking, "--soak", "4000", code=1)
    assert "memory grows" in result.stdout


def test_soak_ends_at_the_first_error(isthmus_run: Runner, tmp_path: Path) -> None:
    failing = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 40")
    result = isthmus_run("bench", failing, "--soak", "1000", "--no-warmup", code=5)
    assert "the script says so" in result.stderr


def test_bench_worker(isthmus_run: Runner, affine_bundle: Path) -> None:
    commands = "run 3\nrun 0\nfrob\nrun 2x\nrun 2\nquit\nrun 1\n"
    result = isthmus_run(
        "bench", affine_bundle, "--worker", "--golden", "batch3", "--threads", "1", stdin=commands
    )
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == [
        *("ready", "samples", "error", "error", "error", "samples", "done")
    ]
    ready = events[0]
    assert ready["inputs"] == "batch3"
    assert ready["threads"] == 1
    assert ready["engine"] == "scripted"
    assert ready["runtime"] == "Script 1.0"
    assert ready["artifact"] == "scripted-cpu-fp32"
    assert ready["device"] == "cpu"
    assert ready["first_call_ms"] > 0
    assert ready["load_ms"] > 0
    assert ready["warmup"][0]["golden"] == "batch1"
    assert [len(event["samples_ms"]) for event in events if event["event"] == "samples"] == [3, 2]
    assert "frob" in events[3]["message"]
    assert events[-1]["peak_rss_bytes"] > 1e6


def test_bench_worker_answers_each_line_at_once(isthmus_run: Runner, affine_bundle: Path) -> None:
    with isthmus_run.start("bench", affine_bundle, "--worker", "--no-warmup") as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline())["warmup"] == []
        for _ in range(3):
            print("run 1", file=worker.stdin, flush=True)
            assert json.loads(worker.stdout.readline())["event"] == "samples"
        worker.stdin.close()  # the end of the input has the same effect as "quit"
        assert json.loads(worker.stdout.readline())["event"] == "done"
        assert worker.wait(30) == 0


def test_bench_worker_reports_errors(isthmus_run: Runner, tmp_path: Path) -> None:
    result = isthmus_run("bench", tmp_path, "--worker", code=3)
    assert json.loads(result.stdout)["event"] == "error"
    failing = make_bundle(tmp_path / "bundle", "gain 2\nfail_on_call 2")
    result = isthmus_run("bench", failing, "--worker", "--no-warmup", stdin="run 1\n", code=5)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["ready", "error"]
    assert "the script says so" in events[1]["message"]
