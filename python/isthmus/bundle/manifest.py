"""The manifest: the contract between export and run, as frozen dataclasses.

`docs/format.md` describes the format. The annotations are what `manifest_json` checks and what
`scripts/make_schemas.py` writes to `manifest.schema.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from isthmus.bundle.manifest_rules import (
    Count,
    DimName,
    Dtype,
    Int64,
    Keys,
    Name,
    Number,
    Path,
    Sha256,
    at_least_one,
    pair,
)
from isthmus.errors import Decision

FORMAT = "isthmus-bundle"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
CHUNK_BYTES = 4 << 20
"""A larger file has a digest for each chunk of this size."""

ValueKind = Literal["tensor", "int", "float", "bool"]
NodeKind = Literal[
    "leaf", "none", "const", "list", "tuple", "dict", "namedtuple", "dataclass", "model_output"
]
Severity = Literal["error", "warning", "info"]
Size = Count | Name | None
"""A fixed size, the name of a dimension, or None where no rule explains it (outputs only)."""
Statistics = Mapping[str, Number]
"""A number for each statistic of an error: "max", "rms", "p99", "median", "bias", "cosine"."""


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle."""

    path: Path
    """The path from the bundle's root, with forward slashes."""
    size: Count
    """The size in bytes."""
    sha256: Sha256
    """The digest in lower-case hexadecimal digits."""
    chunks: tuple[Sha256, ...] = ()
    """The digests of each 4 MiB of a larger file, which can be checked in parallel."""


@dataclass(frozen=True)
class DimRange:
    """The inclusive range of a named dimension."""

    min: Count
    max: Count


@dataclass(frozen=True)
class ValueRange:
    """The inclusive range of the values of an integer input."""

    min: Int64
    max: Int64


@dataclass(frozen=True)
class ValueSpec:
    """An input or output."""

    name: Name
    kind: ValueKind
    dtype: Dtype
    """The name in PyTorch without its prefix; scalars are int64, float64 or bool."""
    shape: tuple[Size, ...] | None
    """The size of each axis; None for any rank."""
    optional: bool = False
    values: ValueRange | None = None
    """The range of an integer tensor that indexes a table of the model, such as token ids."""


@dataclass(frozen=True)
class Tree:
    """A node of the nesting of arguments or results; `NODE_FIELDS` says which fields it has."""

    node: NodeKind
    name: Name = ""
    """The name of the input or output that a leaf stands for."""
    value: Any = None
    """The JSON value of a const."""
    type: Name = ""
    """The class of a named tuple, dataclass or model output: "module:QualName"."""
    keys: Keys = ()
    """The key of each item."""
    items: tuple[Tree, ...] = ()

    def leaves(self) -> tuple[str, ...]:
        """Returns the names of the leaves, depth first."""
        if self.node == "leaf":
            return (self.name,)
        return tuple(name for item in self.items for name in item.leaves())


NODE_FIELDS: Mapping[NodeKind, tuple[str, ...]] = {
    "leaf": ("name",),
    "none": (),
    "const": ("value",),
    "list": ("items",),
    "tuple": ("items",),
    "dict": ("keys", "items"),
    "namedtuple": ("type", "keys", "items"),
    "dataclass": ("type", "keys", "items"),
    "model_output": ("type", "keys", "items"),
}
"""The fields of each kind of node, besides `node` itself."""


@dataclass(frozen=True)
class Method:
    """The signature of a method, flat and in its nesting; `isthmus::Signature` in C++."""

    name: Name
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    args: tuple[Tree, ...]
    kwargs: tuple[Annotated[tuple[Name, Tree], pair("[name, tree]")], ...]
    returns: Tree


@dataclass(frozen=True)
class Tolerance:
    """The rule for an output: its error to float64 where the golden knows that, else `atol`.

    Without float64 it passes when |actual - golden| <= atol + rtol * |golden|.
    """

    atol: Number
    rtol: Number
    multiples: Statistics = field(default_factory=dict)
    """The allowed multiple of eager's own error; a statistic that is missing is not judged."""
    allowance: Statistics = field(default_factory=dict)
    """The error that is allowed on top, in the output's unit."""
    own: Statistics = field(default_factory=dict)
    """The largest error of eager itself on any golden; it counts where an output has too few
    elements to tell its own."""


@dataclass(frozen=True)
class NoiseFloor:
    """The error of eager to eager in float64 on the goldens, for one output."""

    max_abs: Number
    rms: Number
    method: Literal["float64", "ulp", "exact"]
    worst: Statistics = field(default_factory=dict)
    """The largest error of any golden."""


@dataclass(frozen=True)
class OpLibrary:
    """A namespace of custom operators and the library that registered it."""

    namespace: Name
    library: str
    """The file name as seen at export; empty when it could not be told."""


@dataclass(frozen=True)
class Hazard:
    """A property of the model or its graph that may cause trouble later."""

    kind: str
    """A word for programs: "tracer_warning", "device_literal", "random_operator", ..."""
    severity: Severity
    message: str
    where: str = ""
    remedy: str = ""
    """The advice to the user."""


@dataclass(frozen=True)
class EngineProof:
    """The verdict of one engine on an artifact, from a run of all goldens at export."""

    engine: Name
    """The engine of the C++ library: "onnxruntime"."""
    device: Name
    """The device type on which it ran: "cpu" or "cuda"."""
    runtime: str
    """The runtime with its version: "ONNX Runtime 1.32.0"; empty where it did not open."""
    passed: bool
    reason: str = ""
    """Why it failed; empty when it passed."""
    values: Mapping[Name, ValueRange] = field(default_factory=dict)
    """The range on which the engine is proven, for each integer input where that is narrower than
    the signature's."""
    unproven: Mapping[Name, tuple[Name, ...]] = field(default_factory=dict)
    """The special values with which the engine differs, for each input: "nan", "inf", "zero" (the
    sign of a zero), "denormal", "large"."""


@dataclass(frozen=True)
class Artifact:
    """One executable form of the model."""

    name: Name
    format: Name
    device: Name
    devices: tuple[Name, ...]
    precision: Name
    trust: Literal["data", "graph", "native"]
    convention: Literal["flat", "structured"]
    strategy: str
    files: Annotated[tuple[FileEntry, ...], at_least_one("file")]
    requires: Mapping[str, str]
    op_libraries: tuple[OpLibrary, ...] = ()
    operators: Mapping[str, Count] = field(default_factory=dict)
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    state: tuple[Name, ...] = ()
    decisions: tuple[Decision, ...] = ()
    hazards: tuple[Hazard, ...] = ()
    proofs: tuple[EngineProof, ...] = ()
    """The verdict of each engine that was tried at export, by engine and device."""


@dataclass(frozen=True)
class GoldenStep:
    """One call of a golden's sequence."""

    method: Name


@dataclass(frozen=True)
class GoldenEntry:
    """A stored probe, as the manifest lists it."""

    name: Name
    file: FileEntry
    dims: Mapping[str, Count]
    steps: Annotated[tuple[GoldenStep, ...], at_least_one("step")]


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    name: str
    created: str
    producer: Mapping[str, str]
    source: Mapping[str, str]
    stateful: bool
    dims: Mapping[DimName, DimRange]
    methods: tuple[Method, ...]
    artifacts: tuple[Artifact, ...]
    goldens: tuple[GoldenEntry, ...]
    noise_floor: Mapping[str, NoiseFloor]
    warmup: tuple[str, ...] = ()
    files: tuple[FileEntry, ...] = ()
    format_version: int = FORMAT_VERSION
