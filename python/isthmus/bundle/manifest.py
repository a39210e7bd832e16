"""The manifest: the contract between export and run, as frozen dataclasses.

`docs/format.md` describes the format, `manifest.schema.json` is its JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from isthmus.errors import Decision

FORMAT = "isthmus-bundle"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20

ValueKind = Literal["tensor", "int", "float", "bool"]
NodeKind = Literal[
    "leaf", "none", "const", "list", "tuple", "dict", "namedtuple", "dataclass", "model_output"
]
Severity = Literal["error", "warning", "info"]
Size = int | str | None
"""A fixed size, the name of a dimension, or None where no rule explains it (outputs only)."""


CHUNK_BYTES = 4 << 20
"""Files that are larger are hashed in chunks of this size too."""


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle."""

    path: str
    """Relative to the bundle's root, with forward slashes."""
    size: int
    """Bytes."""
    sha256: str
    """Lower-case hexadecimal digest."""
    chunks: tuple[str, ...] = ()
    """SHA-256 of each `CHUNK_BYTES` of a larger file, which can be compared side by side."""


@dataclass(frozen=True)
class DimRange:
    """Inclusive range of a named dimension."""

    min: int
    max: int


@dataclass(frozen=True)
class ValueRange:
    """Inclusive range of the values of an integer input."""

    min: int
    max: int


@dataclass(frozen=True)
class ValueSpec:
    """One input or output."""

    name: str
    kind: ValueKind
    dtype: str
    """Name as in PyTorch without the prefix: "float32"; scalars are int64, float64, bool."""
    shape: tuple[Size, ...] | None
    """None: any rank."""
    optional: bool = False
    values: ValueRange | None = None
    """Of an integer tensor that indexes a table of the model, such as token ids; None: any."""


@dataclass(frozen=True)
class Tree:
    """A node of the nesting of arguments or results; see docs/format.md."""

    node: NodeKind
    name: str = ""
    """Of the input or output, for a leaf."""
    value: Any = None
    """For a const: a JSON value."""
    type: str = ""
    """module:QualName for named tuples, dataclasses and model outputs."""
    keys: tuple[str | int, ...] = ()
    items: tuple[Tree, ...] = ()

    def leaves(self) -> tuple[str, ...]:
        """Names of the leaves, depth first."""
        if self.node == "leaf":
            return (self.name,)
        return tuple(name for item in self.items for name in item.leaves())


@dataclass(frozen=True)
class Method:
    """What one method takes and gives: `isthmus::Signature` in C++."""

    name: str
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    args: tuple[Tree, ...]
    kwargs: tuple[tuple[str, Tree], ...]
    returns: Tree


@dataclass(frozen=True)
class Tolerance:
    """How an output is judged: by its error to float64 where the golden knows that, else by atol.

    Then it passes when |actual - golden| <= atol + rtol * |golden|.
    """

    atol: float
    rtol: float
    multiples: Mapping[str, float] = field(default_factory=dict)
    """By statistic of the error ("max", "rms", "p99", "median", "bias", "cosine"): the multiple of
    eager's own that is allowed. A statistic that is missing is not judged."""
    allowance: Mapping[str, float] = field(default_factory=dict)
    """By statistic: what is allowed on top, in the output's unit."""
    own: Mapping[str, float] = field(default_factory=dict)
    """By statistic: eager's own error, the largest of any golden; it counts where an output has
    too few elements to tell its own."""


@dataclass(frozen=True)
class NoiseFloor:
    """How far eager float32 is from eager float64 on the goldens, for one output."""

    max_abs: float
    rms: float
    method: Literal["float64", "ulp", "exact"]
    worst: Mapping[str, float] = field(default_factory=dict)
    """By statistic of the error: the largest of any golden."""


@dataclass(frozen=True)
class OpLibrary:
    """A namespace of custom operators and the library that registered it."""

    namespace: str
    library: str
    """File name as seen at export; empty when it could not be told."""


@dataclass(frozen=True)
class Hazard:
    """Something in the graph that may hurt later."""

    kind: str
    """"tracer_warning", "device_literal", "dtype_literal", "random_operator", ..."""
    severity: Severity
    message: str
    where: str = ""
    remedy: str = ""
    """What to do about it."""


@dataclass(frozen=True)
class Artifact:
    """One executable form of the model."""

    name: str
    format: str
    device: str
    devices: tuple[str, ...]
    precision: str
    trust: Literal["data", "graph", "native"]
    convention: Literal["flat", "structured"]
    strategy: str
    files: tuple[FileEntry, ...]
    requires: Mapping[str, str]
    op_libraries: tuple[OpLibrary, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    state: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    hazards: tuple[Hazard, ...] = ()


@dataclass(frozen=True)
class GoldenStep:
    """One call of a golden's sequence."""

    method: str


@dataclass(frozen=True)
class GoldenEntry:
    """A stored probe, as the manifest lists it."""

    name: str
    file: FileEntry
    dims: Mapping[str, int]
    steps: tuple[GoldenStep, ...]


@dataclass(frozen=True)
class Manifest:
    """manifest.json."""

    name: str
    created: str
    producer: Mapping[str, str]
    source: Mapping[str, str]
    stateful: bool
    dims: Mapping[str, DimRange]
    methods: tuple[Method, ...]
    artifacts: tuple[Artifact, ...]
    goldens: tuple[GoldenEntry, ...]
    noise_floor: Mapping[str, NoiseFloor]
    warmup: tuple[str, ...] = ()
    files: tuple[FileEntry, ...] = ()
    format_version: int = FORMAT_VERSION
