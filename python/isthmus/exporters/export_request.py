"""What every format is made of: the module or its TorchScript, the signature, and the goldens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import Artifact, DimRange, Method, Tolerance
from isthmus.exporters.check import Convention
from isthmus.goldens.tolerance import SAMPLE_COSINES

if TYPE_CHECKING:
    import torch
    from torch import nn

    from isthmus.bundle.golden import Golden

__all__ = ["PRECISIONS", "ExportRequest", "ExportedArtifact", "Scripted"]

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Scripted:
    """A TorchScript archive that verified: the way to other formats when there is no Python source,
    or when the module's own code cannot be exported."""

    archive: bytes
    convention: Convention
    strategy: str


@dataclass(frozen=True)
class ExportRequest:
    """A model to export, with everything that is known about it."""

    methods: tuple[Method, ...]
    examples: Mapping[str, Mapping[str, Any]]
    """By method and input name; no dynamic dimension is 1 and no two are equal."""
    axes: Mapping[str, Mapping[int, str]]
    """By input name and axis (from 0): the name of the dimension."""
    dims: Mapping[str, DimRange]
    goldens: Sequence[Golden]
    tolerances: Mapping[str, Tolerance]
    module: nn.Module | None = None
    """None where only TorchScript is left of the model."""
    scripted: Scripted | None = None
    make_script: Callable[[], Scripted] | None = None
    """Makes TorchScript that verifies, where there is none yet and a way needs it."""
    make_full: Callable[[], ExportedArtifact] | None = None
    """For int8: gives the ONNX artifact in fp32 that is to be quantised."""
    precision: str = "fp32"
    device: str = "cpu"
    stateful: bool = False
    op_libraries: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype | None:
        """What the artifact computes in; None for the module's own types."""
        import torch

        return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision)

    @property
    def least_cosine(self) -> float:
        """That each sample of each output has to the golden's; 0 where the precision asks none."""
        return SAMPLE_COSINES.get(self.precision, 0.0)

    @property
    def kind(self) -> str:
        """Device type: "cpu" or "cuda"."""
        return self.device.partition(":")[0]


@dataclass(frozen=True)
class ExportedArtifact:
    """An artifact that verified; its files lie in a folder that the caller owns."""

    artifact: Artifact
    files: tuple[Path, ...]
    """The methods' files in order, then data files."""
