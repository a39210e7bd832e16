"""Made-up reports: one that passed, one that failed, and one with hostile names and numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from isthmus.bundle.bundle import Bundle
from isthmus.bundle.manifest import (
    Artifact,
    DimRange,
    FileEntry,
    GoldenEntry,
    GoldenStep,
    Hazard,
    Manifest,
    Method,
    NoiseFloor,
    Tree,
    ValueSpec,
)
from isthmus.errors import Decision
from isthmus.goldens.compare import OutputParity
from isthmus.proof.explain import Explanation, LayerError
from isthmus.proof.verify_report import VerifyReport, VerifyRow
from isthmus.reports.bundle_report import BundleReport
from isthmus.runtime.engines import RowKind
from isthmus.timing.bench_report import BenchReport, compare_rows
from isthmus.timing.bench_row import BenchRow

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
LONG = "a_name_without_any_place_to_break_it_" * 4
CPP, PYTHON = "C++", "Python"


def parity(golden: str, strain: float, output: str = "y", reason: str = "") -> OutputParity:
    return OutputParity(
        output, golden, passed=not reason, reason=reason, max_abs=1e-6, noise_units=3 * strain,
        strain=strain, statistic="rms", multiple=3 * strain, to_truth=True,
        errors={"rms": 1e-7, "max": 1e-6}, elements=12,
    )  # fmt: skip


def made_up_bundle(name: str = "toy", goldens: tuple[str, ...] = ("batch2", "batch1")) -> Bundle:
    def file(path: str, size: int) -> FileEntry:
        return FileEntry(path, size, "0" * 64)

    artifact = Artifact(
        name="torchscript-cpu-fp32", format="torchscript", device="cpu", devices=("cpu", "cuda"),
        precision="fp32", trust="graph", convention="flat", strategy="trace",
        files=(file("artifacts/a.pt", 2_500_000),), requires={"torch": "2.13.0"},
        decisions=(
            Decision("trace", False, "a branch", "net.py:3"),
            Decision("script", True, "it equals eager"),
        ),
        hazards=(
            Hazard("tracer_warning", "warning", "a value became a bool", "net.py:7", "script it"),
            Hazard("device_literal", "info", "moved at load"),
        ),
    )  # fmt: skip
    forward = Method(
        "forward",
        (ValueSpec("x", "tensor", "float32", ("batch", 4)), ValueSpec("n", "int", "int64", ())),
        (
            ValueSpec("y", "tensor", "float32", ("batch", None)),
            ValueSpec("z", "tensor", "bool", None),
        ),
        (Tree("leaf", "x"),), (), Tree("leaf", "y"),
    )  # fmt: skip
    manifest = Manifest(
        name=name, created="2026-01-01T00:00:00Z", producer={"isthmus": "0.1.0"},
        source={"kind": "module"}, stateful=True, dims={"batch": DimRange(1, 64)},
        methods=(forward,), artifacts=(artifact,),
        goldens=tuple(
            GoldenEntry(golden, file(f"goldens/{at}.safetensors", 100), {"batch": 2 - at},
                        (GoldenStep("forward"),))
            for at, golden in enumerate(goldens)
        ),
        noise_floor={"y": NoiseFloor(1e-6, 1e-7, "float64")},
        files=(file("tokenizer/t.json", 70),),
    )  # fmt: skip
    return Bundle(Path("bundles/toy"), manifest)


def row(engine: str, language: Any, status: Any = "passed", **values: Any) -> VerifyRow:
    known = {"artifact": "torchscript-cpu-fp32", "runtime": "LibTorch 2.13.0", "seconds": 2.0}
    return VerifyRow(engine, language, values.pop("device", "cpu"), status, **{**known, **values})


def passing() -> VerifyRow:
    return row("torch.jit", PYTHON, results=(parity("batch2", 0.2), parity("batch1", 0.0)))


def failing() -> VerifyRow:
    results = (
        parity("batch2", 0.4), parity("batch2", 1.004, "z", "too far"), parity("batch1", 0.03),
    )  # fmt: skip
    reason = "z of golden batch2: too far"
    return row("torchscript", CPP, "failed", results=results, reason=reason)


def absent() -> VerifyRow:
    return row("torchscript", CPP, "absent", device="cuda", reason="no CUDA device here")


def broken() -> VerifyRow:
    return row("onnxruntime", CPP, "error", reason="killed by SIGSEGV")


def speed(rounds: int = 10) -> BenchReport:
    rows = [
        BenchRow(
            "torchscript", RowKind.EXPORTED, language, "cpu", runtime="LibTorch 2.13.0",
            peak_rss_bytes=88_000_000,
            rounds_ms=tuple(
                tuple(base + 0.01 * (at + call) for call in range(8)) for at in range(rounds)
            ),
        )
        for language, base in ((PYTHON, 4.0), (CPP, 2.0))
    ]  # fmt: skip
    missing = BenchRow(
        "eager", RowKind.EAGER, CPP, "cpu", unavailable="an eager module has no form in C++"
    )
    compared = compare_rows(rows[0], rows[1], confidence=0.99, margin=0.03)
    return BenchReport("toy", (*rows, missing), (compared,), {"inputs": "golden batch2"}, ("busy",))


def layers(count: int = 6, wrong: int | None = 3) -> Explanation:
    found = tuple(
        LayerError(
            f"net.{at}.linear", "Linear", f"/opt/lib/python3.11/site-packages/torch/nn/l.py:{at}",
            multiple=1.0 if wrong is None or at < wrong else 900.0 + at, rms=1e-7, own_rms=1e-7,
            statistic="rms", diverged=wrong is not None and at >= wrong,
            inputs_diverged=wrong is not None and at > wrong,
        )
        for at in range(count)
    )  # fmt: skip
    culprit = found[wrong] if wrong is not None else None
    sentence = f"{culprit.name} is the first to diverge" if culprit else "no submodule diverges"
    return Explanation(
        "toy", "torchscript", "torchscript-cpu-fp32", "batch2", found, culprit, sentence
    )


def made_up(*rows: VerifyRow, **values: Any) -> BundleReport:
    context = {"machine": "Linux", "cpu": "a CPU", "isthmus": "0.1.0", "reference": "the goldens"}
    bundle = values.pop("bundle", made_up_bundle())
    return BundleReport(
        bundle,
        VerifyReport("toy", rows, context, ranked=True),
        created="2026-01-31T12:00:00Z",
        **values,
    )


def good() -> BundleReport:
    return made_up(passing(), absent(), speed=speed(), layers=(layers(wrong=None),), model="m:make")


def bad() -> BundleReport:
    return made_up(passing(), failing(), absent(), broken(), speed=speed(), layers=(layers(),))


def odd() -> BundleReport:
    """Returns a report with hostile names and extreme numbers."""
    bundle = made_up_bundle(EVIL + LONG, (EVIL, LONG))
    results = (parity(EVIL, math.nan, EVIL, EVIL), parity(LONG, math.inf, LONG, "infinitely off"))
    rows = (
        row(EVIL, PYTHON, "failed", results=results, reason=LONG, vs_torch_jit=math.inf),
        row(LONG, CPP, "error", reason=EVIL),
        row("openvino", CPP, "absent", reason=EVIL),
    )
    found = layers()
    strange = tuple(
        replace(
            layer, path=LONG if at else EVIL, multiple=value, rms=value, own_rms=0.0, seen=at != 4
        )
        for at, (layer, value) in enumerate(
            zip(found.layers, (0.0, 1.0, math.inf, math.nan, 1.0, 1e-30), strict=True)
        )
    )
    explained = replace(found, layers=strange, culprit=strange[2], hints=(EVIL,), sentence=EVIL)
    empty = BenchReport("toy", (), (), {EVIL: EVIL}, (EVIL,))
    return made_up(*rows, bundle=bundle, layers=(explained,), speed=empty, notes=(EVIL,))
