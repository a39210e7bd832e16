"""The request that an exporter takes, and the artifact that it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from isthmus.bundle.manifest import Artifact, DimRange, Hazard, Method, Tolerance
from isthmus.exporters.check import GoldenCheck
from isthmus.exporters.options import ExportOptions, Progress, ignore_progress
from isthmus.goldens.tolerance import SAMPLE_COSINES

if TYPE_CHECKING:
    from isthmus.bundle.golden import Golden
    from isthmus.goldens.special_values import SpecialGolden

__all__ = ["ExportRequest", "ExportedArtifact"]

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ExportedArtifact:
    """An artifact that verified; its files lie in a folder that the caller owns."""

    artifact: Artifact
    files: tuple[Path, ...]
    """The methods' files in order, then data files."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """A model to export in one precision, with everything that an exporter needs to know of it."""

    methods: tuple[Method, ...]
    """The signature."""
    examples: Mapping[str, Mapping[str, Any]]
    """Inputs by method and input name; no dynamic dimension is 1 and no two are equal."""
    axes: Mapping[str, Mapping[int, str]]
    """The name of each dynamic dimension, by input name and axis (from 0)."""
    dims: Mapping[str, DimRange]
    """The range of each dynamic dimension."""
    goldens: Sequence[Golden]
    """The goldens that the artifact must reproduce."""
    sweep: Sequence[Golden] = ()
    """Calls at many more sizes, which each engine must answer once."""
    specials: Sequence[SpecialGolden] = ()
    """Goldens of special values, on which an engine may differ."""
    tolerances: Mapping[str, Tolerance]
    """The tolerance of each output, by name."""
    folder: Path
    """The folder into which files are written."""
    precision: str = "fp32"
    device: str = "cpu"
    """The device on which the artifact is made: "cpu", "cuda" or "cuda:N"."""
    stateful: bool = False
    """True when calls change the model's attributes."""
    module: nn.Module | None = None
    """The eager or scripted module; None where only an artifact is left of the model."""
    state: tuple[str, ...] = ()
    """Dotted names of the attributes that calls change."""
    notes: tuple[Hazard, ...] = ()
    """Hazards that capture and goldens noted about the module."""
    torchscript: ExportedArtifact | None = None
    """TorchScript of the same precision that verified, for exporters that start from it."""
    fp32_onnx: ExportedArtifact | ExportRequest | None = None
    """The fp32 ONNX artifact that int8 quantises, or the request that exports it."""
    options: ExportOptions = field(default_factory=ExportOptions)
    """The options of the whole export."""
    progress: Progress = ignore_progress
    """Receives a sentence at each stage of this artifact."""

    @property
    def dtype(self) -> torch.dtype | None:
        """The type the artifact computes in; None for the module's own types."""
        return _DTYPES.get(self.precision)

    @property
    def device_type(self) -> str:
        """The type of the device: "cpu" or "cuda"."""
        return self.device.partition(":")[0]

    @property
    def has_source(self) -> bool:
        """True when there is Python source to export: a module that is not TorchScript."""
        return self.module is not None and not isinstance(self.module, torch.jit.ScriptModule)

    def within(self, sizes: Mapping[str, DimRange]) -> ExportRequest:
        """Returns the request for fewer sizes of some dimensions."""
        if not sizes:
            return self

        def served(goldens: Iterable[Golden]) -> list[Golden]:
            return [
                golden
                for golden in goldens
                if all(
                    sizes[name].allows(size) for name, size in golden.dims.items() if name in sizes
                )
            ]

        specials = [new for new in self.specials if served([new.golden])]
        return replace(
            self,
            dims={**self.dims, **sizes},
            goldens=served(self.goldens),
            sweep=served(self.sweep),
            specials=specials,
        )

    def check(self, device: str) -> GoldenCheck:
        """Returns the check that the artifact has to pass on a device."""
        return GoldenCheck(
            methods=self.methods,
            goldens=self.goldens,
            sweep=self.sweep,
            tolerances=self.tolerances,
            device=device,
            stateful=self.stateful,
            least_cosine=SAMPLE_COSINES.get(self.precision, 0.0),
        )

    def method_files(self, name: str, suffix: str) -> list[tuple[Method, Path]]:
        """Returns each method with the path of its file; the first has the artifact's own name."""
        return [
            (method, self.folder / f"{name}{f'.{method.name}' if index else ''}{suffix}")
            for index, method in enumerate(self.methods)
        ]
