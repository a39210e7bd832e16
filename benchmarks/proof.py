"""Does the verdict tell right from wrong? Known good must pass, and known bad must fail.

Good: every engine on the goldens of 20 seeds; sums in another order; fused kernels; one unit in
the last place of noise. Bad: the faults of `faults.py`, planted into the artifacts behind the back
of every check. The verdicts are those of `isthmus-run verify`, a process without Python.
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
from faults import MODELS, Subject, faults_of, planted
from planting import captured, engines, export, one_ulp, plant, reseed, verify
from shared import Result, run
from torch import Tensor, nn

from isthmus.bundle.bundle import Bundle
from isthmus.capture.eager import call, flat_outputs
from isthmus.exporters.formats import FORMATS
from isthmus.goldens.compare import compare

SEEDS = 20

Row = dict[str, Any]


class Reordered(nn.Linear):
    """The same sums, in another order: backwards, and in pieces."""

    def forward(self, x: Tensor) -> Tensor:
        pieces = zip(
            x.flip(-1).split(24, dim=-1), self.weight.flip(-1).split(24, dim=-1), strict=True
        )
        total = sum(left @ right.T for left, right in pieces)
        assert isinstance(total, Tensor)
        return total if self.bias is None else total + self.bias


def reordered(module: nn.Module) -> nn.Module:
    """A copy whose linear layers add in another order."""
    twin = copy.deepcopy(module)
    for one in twin.modules():
        if type(one) is nn.Linear:
            one.__class__ = Reordered
    return twin


def variants(subject: Subject) -> dict[str, nn.Module | None]:
    """Other ways to compute the same; None: eager's own answers with a unit of noise."""
    fused = torch.compile(copy.deepcopy(subject.module), dynamic=True)
    assert isinstance(fused, nn.Module)
    return {
        "eager, sums reordered": reordered(subject.module),
        "eager, fused kernels (torch.compile)": fused,
        "eager, one ulp of noise": None,
    }


def judge_variant(bundle: Bundle, module: nn.Module | None, seed: int) -> tuple[bool, float, float]:
    """Passed, the largest distance to float64, the largest share of what is allowed."""
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
            outputs = flat_outputs(method, call(module, method, step.inputs))
        for name, value in step.outputs.items():
            found = compare(
                name, value, outputs[name], tolerances[name], None, step.errors.get(name)
            )
            passed = passed and bool(found)
            distance, strain = max(distance, found.noise_units), max(strain, found.strain)
    return passed, distance, strain


def good(
    name: str, subject: Subject, bundle: Bundle, formats: Sequence[str], seeds: int, folder: Path
) -> Iterator[Row]:
    """A row for each way of computing the same, over all seeds."""
    taken = captured(subject, subject.module)
    ways = variants(subject)
    names = [engine for _, engine in engines(formats)] + list(ways)
    passes = dict.fromkeys(names, 0)
    distance, strain = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    reasons: dict[str, str] = {}
    for seed in range(seeds):
        print(f"{name}: seed {seed + 1} of {seeds}", file=sys.stderr)
        probe = reseed(bundle, taken, folder / "seed", seed + 1)
        for _, engine in engines(formats):
            found = verify(probe.path, engine)
            passes[engine] += found.passed
            distance[engine] = max(distance[engine], found.distance)
            strain[engine] = max(strain[engine], found.strain)
            if not found.passed:
                reasons[engine] = found.reason
        for way, module in ways.items():
            passed, most, share = judge_variant(probe, module, seed)
            passes[way] += passed
            distance[way], strain[way] = max(distance[way], most), max(strain[way], share)
    for one in names:
        yield {
            "kind": "good",
            "model": name,
            "what": one,
            "engine": one if one in dict(map(reversed, engines(formats))) else "eager",
            "verdict": f"passed {passes[one]} of {seeds}",
            "right": passes[one] == seeds,
            "x eager's own": distance[one],
            "of allowed": strain[one],
            "by": "",
            "reason": reasons.get(one, ""),
        }


def bad(
    name: str, subject: Subject, bundle: Bundle, formats: Sequence[str], folder: Path
) -> Iterator[Row]:
    """A row for each fault on each engine."""
    for fault, mistake in faults_of(name).items():
        print(f"{name}: {fault}", file=sys.stderr)
        wrong, failed = plant(
            bundle, subject, planted(subject.module, mistake), folder / "bad", folder
        )
        for form, engine in engines(formats):
            row: Row = {"kind": "bad", "model": name, "what": fault, "engine": engine}
            if form in failed:
                yield row | {
                    "verdict": "cannot be planted", "right": True, "x eager's own": 0.0,
                    "of allowed": 0.0, "by": "", "reason": failed[form],
                }  # fmt: skip
                continue
            found = verify(wrong.path, engine)
            yield row | {
                "verdict": "passed" if found.passed else "caught", "right": not found.passed,
                "x eager's own": found.distance, "of allowed": found.strain,
                "by": found.statistic, "reason": found.reason,
            }  # fmt: skip


def measure(options: argparse.Namespace) -> Result:
    """All models; see the module."""
    rows: list[Row] = []
    formats = options.formats.split(",")
    for name in options.models.split(",") if options.models else MODELS:
        subject = MODELS[name](0)
        with tempfile.TemporaryDirectory(prefix="isthmus-proof-") as text:
            folder = Path(text)
            bundle = export(subject, folder / "right", formats)
            for found in (
                good(name, subject, bundle, formats, options.seeds, folder),
                bad(name, subject, bundle, formats, folder),
            ):
                for row in found:
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
    least = min((row["of allowed"] for row in caught), default=0.0)
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
    parser.add_argument("--models", default="", help=f"with commas, of {', '.join(MODELS)}")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--seeds", type=int, default=SEEDS)


if __name__ == "__main__":
    raise SystemExit(run(__doc__ or "", measure, _options))
