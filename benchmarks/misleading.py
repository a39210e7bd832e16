"""Wrong artifacts that stored goldens do not show, and whether any part of isthmus stops them.

Each trap is a small module, another that takes its place in the exporters while the goldens stay
those of the first, and a call on which the two differ. The wrong one is stopped when the export
refuses it, or when the load or the call is refused; it is missed when its answer is served.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from shared import engine_pairs
from torch import Tensor, nn

import isthmus
from isthmus.exporters import export as exporting

Row = dict[str, Any]


@dataclass(frozen=True)
class Trap:
    """A module, a wrong one in its place, and a call that tells them apart."""

    right: nn.Module
    wrong: nn.Module
    """The module that the exporters get; the right one itself where the module is what misleads."""
    args: tuple[Any, ...]
    call: tuple[Any, ...]
    """The call on which the two differ."""
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    dims: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    least_right: int = 1
    """The number of engines that have to answer the right module's call."""


# --- stored shapes only ---------------------------------------------------------------------------


class Outer(nn.Module):
    """float32[n] -> float32[n, 15000]: the goldens of large sizes are not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.linspace(-1, 1, 15000))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None] * self.row


class OuterUpTo100(Outer):
    """Is right where there are at most 100 rows."""

    def forward(self, x: Tensor) -> Tensor:
        late = torch.arange(x.shape[0]) >= 100
        return super().forward(torch.where(late, x + 0.5, x))


# --- a frozen branch ------------------------------------------------------------------------------


class ClipGuard(nn.Module):
    """Turns loud input down."""

    def forward(self, x: Tensor) -> Tensor:
        peak = x.abs().max()
        return x / peak if float(peak) > 1 else x * 1.0


class QuietOnly(nn.Module):
    """Keeps what the quiet example decided."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


# --- off by a pixel -------------------------------------------------------------------------------


class Nearest(nn.Module):
    """float32[w] -> float32[50], the pixel at floor(i * w / 50) in whole numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x[torch.arange(50) * x.shape[0] // 50]


class NearestInFloat32(nn.Module):
    """Works the pixel out from a scale in float32, as runtimes do."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.shape[0] * torch.ones(50) * (1 / 50)
        return x[(torch.arange(50) * scale).floor().long()]


# --- values ---------------------------------------------------------------------------------------


class Limit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-3.0, 3.0) * 2


class LimitWithoutNan(nn.Module):
    """Takes a NaN for the least value."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), -3.0, x).clamp(-3.0, 3.0) * 2


class Counter(nn.Module):
    def forward(self, count: Tensor) -> Tensor:
        return count + 7


class CounterIn32Bits(nn.Module):
    """Counts in int32, which wraps at 2^31."""

    def forward(self, count: Tensor) -> Tensor:
        return (count.to(torch.int32) + 7).to(torch.int64)


# --- sizes that values decide ---------------------------------------------------------------------


class Detector(nn.Module):
    """float32[n] -> float32[?]: the scores that count."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores[scores > 0.5]


class DetectorOfThree(Detector):
    """Gives as many as the example had, whatever comes."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.sort(descending=True).values[:3]


# --- effects and constants ------------------------------------------------------------------------


class Stream(nn.Module):
    """Writes its buffer, which the caller hands over again."""

    def forward(self, x: Tensor, total: Tensor) -> Tensor:
        total += x
        return total * 2


class StreamOfOneCall(nn.Module):
    """Leaves the buffer as it is."""

    def forward(self, x: Tensor, total: Tensor) -> Tensor:
        return (total + x) * 2


class Activation(nn.Module):
    def forward(self, x: Tensor, mode: str = "tanh") -> Tensor:
        return x.tanh() if mode == "tanh" else x.relu()


def traps() -> dict[str, Trap]:
    """Returns the traps by name."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    quiet, loud = 0.1 * random(64), 5 * random(64)
    nan = random(64)
    nan[7] = torch.nan
    hits = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.1, 0.2])
    numbers = torch.arange(8)
    rows = {"dynamic": {"x": {0: "n"}}}
    return {
        "right at stored shapes only": Trap(
            Outer(), OuterUpTo100(), (random(8),), (random(250),), dims={"n": (2, 300)}, **rows
        ),
        "a branch frozen by the example": Trap(
            ClipGuard(), QuietOnly(), (quiet,), (loud,)
        ),
        "a pixel off at some sizes": Trap(
            Nearest(), NearestInFloat32(), (random(96),), (random(first_difference()),),
            dims={"n": (8, 512)}, **rows,
        ),
        "NaN taken for a number": Trap(Limit(), LimitWithoutNan(), (random(64),), (nan,)),
        "int64 computed in int32": Trap(
            Counter(), CounterIn32Bits(), (numbers,), (numbers + 2**31,)
        ),
        "a size that data decides, fixed by the example": Trap(
            Detector(), DetectorOfThree(), (hits,), (torch.ones(8),)
        ),
        "an effect on an input left out": Trap(
            Stream(), StreamOfOneCall(), (random(8), random(8)), (random(8), random(8))
        ),
        "a constant given again with another value": Trap(
            Activation(), Activation(), (random(8), "tanh"), (random(8), "relu"), least_right=0
        ),
    }  # fmt: skip


def first_difference() -> int:
    """Returns a width at which `NearestInFloat32` is a pixel off."""
    for width in range(8, 512):
        x = torch.arange(width)
        if not torch.equal(Nearest()(x), NearestInFloat32()(x)):
            return width
    raise AssertionError("NearestInFloat32 is right at every width")


# --- judging --------------------------------------------------------------------------------------


def export(trap: Trap, module: nn.Module, path: Path, formats: Sequence[str]) -> dict[str, str]:
    """Exports the trap's signature and goldens with a module in its place.

    Returns:
        The reason by format that was refused.
    """
    shutil.rmtree(path, ignore_errors=True)
    request = exporting.ExportRequest

    def planted(**members: Any) -> Any:
        return replace(request(**members), module=module.eval())

    try:
        with warnings.catch_warnings(), mock.patch.object(exporting, "ExportRequest", planted):
            warnings.simplefilter("ignore")
            bundle = isthmus.export(
                trap.right.eval(),
                trap.args,
                path=path,
                formats=formats,
                dynamic=trap.dynamic or None,
                dims=trap.dims or None,
            )
    except isthmus.Error as error:
        return dict.fromkeys(formats, str(error))
    return {result.format: result.explanation for result in bundle.results if not result.ok}


def serve(trap: Trap, path: Path, engine: str) -> tuple[str, str]:
    """Returns ("right", "refused" or "wrong", why) for the trap's call on an engine."""
    theirs, ours = _copies(trap.call), _copies(trap.call)
    with torch.inference_mode():
        expected = trap.right(*theirs)
    try:
        model = isthmus.load(path, engine=engine, trust="native")
        answer = model(*ours)
    except isthmus.Error as error:
        return "refused", str(error)
    same = answer.shape == expected.shape and bool(
        torch.isclose(answer.double(), expected.double(), rtol=1e-5, equal_nan=True).all()
    )
    same = same and all(
        torch.equal(a, b) or bool(a.isnan().any())
        for a, b in zip(theirs, ours, strict=True)
        if isinstance(a, Tensor)
    )
    return ("right", "") if same else ("wrong", "the answer is not eager's")


def _copies(values: Sequence[Any]) -> list[Any]:
    return [value.clone() if isinstance(value, Tensor) else value for value in values]


def misleading(formats: Sequence[str], folder: Path) -> Iterator[Row]:
    """Yields a row for each trap on each engine, and one for the right module of each trap."""
    pairs = engine_pairs(formats)
    for name, trap in traps().items():
        if trap.wrong is not trap.right and type(trap.wrong) is not type(trap.right):
            lost = export(trap, trap.right, folder / "right", formats)
            verdicts = {
                engine: serve(trap, folder / "right", engine)[0]
                for format, engine in pairs
                if format not in lost
            }
            right = list(verdicts.values()).count("right")
            yield {
                **_row("good", name, "all"),
                "verdict": f"right on {right}, refused by {len(pairs) - right} of {len(pairs)}",
                "right": right >= trap.least_right and "wrong" not in verdicts.values(),
                "reason": "; ".join(lost.values()),
            }
        lost = export(trap, trap.wrong, folder / "wrong", formats)
        for format, engine in pairs:
            verdict, why = "refused", lost.get(format, "")
            stage = "at export"
            if format not in lost:
                verdict, why = serve(trap, folder / "wrong", engine)
                stage = "at load or call"
            caught = {"refused": f"caught {stage}", "right": "caught: answered as eager does"}
            yield {
                **_row("bad", name, engine),
                "verdict": caught.get(verdict, "passed"),
                "right": verdict != "wrong",
                "reason": why,
            }


def _row(kind: str, name: str, engine: str) -> Row:
    return {
        "kind": kind, "model": "a small module", "what": name, "engine": engine,
        "x eager's own": 0.0, "of allowed": 0.0, "by": "",
    }  # fmt: skip
