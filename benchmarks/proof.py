"""Does the verdict tell right from wrong? Good computations must pass, and bad ones must fail.

Good: every engine on the goldens of 20 seeds; sums in another order; fused kernels; one unit in
the last place of noise. Bad: the faults of `faults.py`, planted into the artifacts past every
check. The verdicts are those of `isthmus-run verify`, a process without Python.

The traps of `misleading.py` are faults that stored goldens do not show: they are planted into the
exporters, and must be refused at export, at load or at the call.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from faults import MODELS, faults_of, planted
from hf_models import Example
from misleading import misleading
from planting import export, one_ulp, plant, reseed, verify
from shared import Result, engine_pairs, run
from torch import Tensor, nn

from isthmus.bundle.bundle import Bundle
from isthmus.capture.capture import capture
from isthmus.capture.run_module import function_of
from isthmus.capture.values import arguments, flat_outputs
from isthmus.exporters.options import FORMATS
from isthmus.goldens.compare import compare

SEEDS = 20
TRAPS = "traps"
"""The name of the traps among the models."""

Row = dict[str, Any]


class Reordered(nn.Linear):
    """A linear layer that adds backwards and in pieces."""

    def forward(self, x: Tensor) -> Tensor:
        pieces = zip(
            x.flip(-1).split(24, dim=-1), self.weight.flip(-1).split(24, dim=-1), strict=True
        )
        total = sum(left @ right.T for left, right in pieces)
        assert isinstance(total, Tensor)
        return total if self.bias is None else total + self.bias


def reordered(module: nn.Module) -> nn.Module:
    """Returns a copy whose linear layers add in another order."""
    reordered_copy = copy.deepcopy(module)
    for submodule in reordered_copy.modules():
        if type(submodule) is nn.Linear:
            submodule.__class__ = Reordered
    return reordered_copy


def variants(example: Example) -> dict[str, nn.Module | None]:
    """Returns other ways to compute the same; None adds a unit of noise to eager's answers."""
    fused = torch.compile(copy.deepcopy(example.module), dynamic=True)
    assert isinstance(fused, nn.Module)
    return {
        "eager, sums reordered": reordered(example.module),
        "eager, fused kernels (torch.compile)": fused,
        "eager, one ulp of noise": None,
    }


def judge_variant(bundle: Bundle, module: nn.Module | None, seed: int) -> tuple[bool, float, float]:
    """Returns (passed, largest distance to float64, largest share of what is allowed)."""
    generator = torch.Generator().manual_seed(seed)
    method = bundle.manifest.methods[0]
    tolerances = bundle.manifest.artifacts[0].tolerances
    passed, distance, strain = True, 0.0, 0.0
    for golden in bundle.goldens():
        step = golden.steps[0]
        if module is None:
            outputs = {
                name: one_ulp(value, generator) if value.is_floating_point() else value
                for name, value in step.outputs.items()
            }
        else:
            # Not by `call` of capture, in which torch.compile runs eagerly.
            args, kwargs = arguments(method, step.inputs)
            with torch.no_grad():
                outputs = flat_outputs(method, function_of(module, method)(*args, **kwargs))
        for name, value in step.outputs.items():
            parity = compare(
                name, value, outputs[name], tolerances[name], None, step.errors.get(name)
            )
            passed = passed and bool(parity)
            distance, strain = max(distance, parity.noise_units), max(strain, parity.strain)
    return passed, distance, strain


def good(
    name: str, example: Example, bundle: Bundle, formats: Sequence[str], seeds: int, folder: Path
) -> Iterator[Row]:
    """Yields a row for each engine and each variant, over all seeds."""
    taken = capture(example.module, **example.call)
    modules = variants(example)
    engines = [engine for _, engine in engine_pairs(formats)]
    names = engines + list(modules)
    passes = dict.fromkeys(names, 0)
    distance, strain = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    reasons: dict[str, str] = {}
    for seed in range(seeds):
        print(f"{name}: seed {seed + 1} of {seeds}", file=sys.stderr)
        probe = reseed(bundle, taken, folder / "seed", seed + 1)
        for engine in engines:
            verdict = verify(probe.path, engine)
            passes[engine] += verdict.passed
            distance[engine] = max(distance[engine], verdict.distance)
            strain[engine] = max(strain[engine], verdict.strain)
            if not verdict.passed:
                reasons[engine] = verdict.reason
        for variant, module in modules.items():
            passed, most, share = judge_variant(probe, module, seed)
            passes[variant] += passed
            distance[variant] = max(distance[variant], most)
            strain[variant] = max(strain[variant], share)
    for computation in names:
        yield {
            "kind": "good",
            "model": name,
            "what": computation,
            "engine": computation if computation in engines else "eager",
            "verdict": f"passed {passes[computation]} of {seeds}",
            "right": passes[computation] == seeds,
            "x eager's own": distance[computation],
            "of allowed": strain[computation],
            "by": "",
            "reason": reasons.get(computation, ""),
        }


def bad(
    name: str, example: Example, bundle: Bundle, formats: Sequence[str], folder: Path
) -> Iterator[Row]:
    """Yields a row for each fault on each engine."""
    for fault, mistake in faults_of(name).items():
        print(f"{name}: {fault}", file=sys.stderr)
        wrong, failed = plant(
            bundle, example, planted(example.module, mistake), folder / "bad", folder
        )
        for format, engine in engine_pairs(formats):
            row: Row = {"kind": "bad", "model": name, "what": fault, "engine": engine}
            if format in failed:
                yield row | {
                    "verdict": "cannot be planted", "right": True, "x eager's own": 0.0,
                    "of allowed": 0.0, "by": "", "reason": failed[format],
                }  # fmt: skip
                continue
            verdict = verify(wrong.path, engine)
            yield row | {
                "verdict": "passed" if verdict.passed else "caught",
                "right": not verdict.passed,
                "x eager's own": verdict.distance,
                "of allowed": verdict.strain,
                "by": verdict.statistic,
                "reason": verdict.reason,
            }


def judged(name: str, formats: Sequence[str], seeds: int, folder: Path) -> Iterator[Row]:
    """Yields the rows of a model, or those of the traps."""
    if name == TRAPS:
        yield from misleading(formats, folder)
        return
    example = MODELS[name](0)
    bundle = export(example, folder / "right", formats)
    yield from good(name, example, bundle, formats, seeds, folder)
    yield from bad(name, example, bundle, formats, folder)


def measure(options: argparse.Namespace) -> Result:
    """Verifies the good computations and the faults of all models."""
    rows: list[Row] = []
    formats = options.formats.split(",")
    for name in options.models.split(",") if options.models else (*MODELS, TRAPS):
        with tempfile.TemporaryDirectory(prefix="isthmus-proof-") as text:
            for row in judged(name, formats, options.seeds, Path(text)):
                rows.append(row)
                mark = "" if row["right"] else "  <-- WRONG VERDICT"
                print(
                    f"  {row['what']} | {row['engine']} | {row['verdict']} | "
                    f"{row['of allowed']:.3g}{mark} {row['reason'] if mark else ''}",
                    file=sys.stderr,
                )
    alarms = [row for row in rows if row["kind"] == "good" and not row["right"]]
    planted_rows = [row for row in rows if row["kind"] == "bad"]
    tried = [row for row in planted_rows if row["verdict"] != "cannot be planted"]
    caught = [row for row in tried if row["right"]]
    least = min((row["of allowed"] for row in caught if row["of allowed"]), default=0.0)
    most = max((row["of allowed"] for row in rows if row["kind"] == "good"), default=0.0)
    return Result(
        name="proof",
        columns=("what", "model", "engine", "verdict", "x eager's own", "of allowed", "by"),
        rows=tuple(rows),
        claim=(
            f"{len(alarms)} false alarms among the good, which use at most {most:.0%} of what is "
            f"allowed; {len(caught)} of {len(tried)} planted faults caught, which use at least "
            f"{least:.0%}"
        ),
        passed=not alarms and len(caught) == len(tried),
        facts={"seeds": str(options.seeds), "formats": ", ".join(formats)},
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", default="", help=f"comma-separated, of {', '.join([*MODELS, TRAPS])}"
    )
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--seeds", type=int, default=SEEDS)


if __name__ == "__main__":
    raise SystemExit(run(__doc__ or "", measure, _options))
