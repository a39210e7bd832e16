"""The manifest: the contract between export and run, as frozen dataclasses.

`docs/format.md` describes the format. The annotations are what `manifest_json` checks and what
`scripts/make_schemas.py` writes to `manifest.schema.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from isthmus.bundle.manifest_rules import (
    Count,
    DimName,
    Dtype,
    Finite,
    Int64,
    Keys,
    Name,
    Number,
    Path,
    Sha256,
    SizeText,
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
    "leaf", "none", "const", "list", "tuple", "dict", "namedtuple", "dataclass", "model_output",
    "pytree",
]  # fmt: skip
Severity = Literal["error", "warning", "info"]
Size = Count | SizeText | None
"""A fixed size, the name of a dimension, an expression over names such as "past + sequence", or
None where no rule explains it (outputs only)."""
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
    sizes: tuple[Count, ...] = ()
    """The only sizes allowed, in increasing order; none where every size of the range is."""

    def allows(self, size: int) -> bool:
        """Returns True for a size that the dimension may have."""
        return size in self.sizes if self.sizes else self.min <= size <= self.max

    def __str__(self) -> str:
        """Returns "1 to 64", or the sizes of a list, "2 or 4 to 9"."""
        if not self.sizes:
            return f"{self.min} to {self.max}"
        runs: list[list[int]] = []
        for size in self.sizes:
            if runs and size == runs[-1][-1] + 1:
                runs[-1].append(size)
            else:
                runs.append([size])
        texts = (
            [f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run)  # two are named
            for run in runs
        )
        return " or ".join(text for run in texts for text in run)


def sizes_text(sizes: Mapping[str, DimRange]) -> str:
    """Returns sizes of dimensions in words, such as '33 to 128 of "t"'."""
    return ", ".join(f'{limits} of "{name}"' for name, limits in sizes.items())


@dataclass(frozen=True)
class ValueRange:
    """The inclusive range of the values of an integer input.

    A bound may be an expression over the names of dimensions, such as "nodes - 1".
    """

    min: Int64 | SizeText
    max: Int64 | SizeText

    def __str__(self) -> str:
        """Returns "0 to 30521"."""
        return f"{self.min} to {self.max}"


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
    """The name of the input or output that a leaf stands for; a const that is a positional argument
    has its parameter's name."""
    value: Any = None
    """The JSON value of a const, or of what the class of a pytree node keeps beside its parts."""
    type: Name = ""
    """The class of a named tuple, dataclass, model output or pytree node: "module:QualName"."""
    keys: Keys = ()
    """The key of each item."""
    items: tuple[Tree, ...] = ()

    def leaves(self) -> tuple[str, ...]:
        """Returns the names of the leaves, depth first."""
        if self.node == "leaf":
            return (self.name,)
        return tuple(name for item in self.items for name in item.leaves())

    def nodes(self) -> Iterator[Tree]:
        """Yields this node and those below it, depth first."""
        yield self
        for item in self.items:
            yield from item.nodes()


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
    "pytree": ("type", "value", "keys", "items"),
}
"""The fields of each kind of node, besides `node` itself."""


@dataclass(frozen=True)
class ServedCase:
    """Sizes of dimensions and values of scalar inputs that a method serves together."""

    sizes: Mapping[DimName, Count] = field(default_factory=dict)
    """The size of each dimension that goes with the numbers."""
    numbers: Mapping[Name, Finite] = field(default_factory=dict)
    """The value of each scalar input; a bool is 0 or 1."""

    def __str__(self) -> str:
        """Returns "samples=512, rate=16000"."""
        numbers = {name: f"{number:.17g}" for name, number in self.numbers.items()}
        return ", ".join(f"{name}={value}" for name, value in {**self.sizes, **numbers}.items())


@dataclass(frozen=True)
class Method:
    """The signature of a method, flat and in its nesting; `isthmus::Signature` in C++."""

    name: Name
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    args: tuple[Tree, ...]
    kwargs: tuple[Annotated[tuple[Name, Tree], pair("[name, tree]")], ...]
    returns: Tree
    writes: tuple[Name, ...] = ()
    """The inputs that the call changes in place, in the order of `inputs`."""
    served: tuple[ServedCase, ...] = ()
    """The combinations of sizes and numbers that are served; none where every one is."""

    @property
    def arguments(self) -> tuple[Tree, ...]:
        """The nesting of each argument, the positional ones first."""
        return (*self.args, *(tree for _, tree in self.kwargs))

    @property
    def results(self) -> tuple[ValueSpec, ...]:
        """What a call is compared by: the outputs, and the written inputs as `written_name`s."""
        written = [
            replace(spec, name=written_name(spec.name), values=None)
            for spec in self.inputs
            if spec.name in self.writes
        ]
        return (*self.outputs, *written)


def written_name(name: str) -> str:
    """Returns the name, among the results of a call, of an input's value after the call."""
    return f"written/{name}"


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
    package: str = ""
    """The Python package that the library came with; empty when it came with none."""
    version: str = ""
    """The version of the package."""


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
    """The numbers on which the engine is proven, by input, where these are fewer than the
    signature's. Beyond them it gave other answers than the model."""
    unproven: Mapping[Name, tuple[Name, ...]] = field(default_factory=dict)
    """The special values with which the engine differs, by input: "nan", "inf", "zero" (of either
    sign), "negative_zero", "denormal", "large" (beyond 2^62)."""

    @property
    def note(self) -> str:
        """The reason why it failed, or the values on which it is not proven; may be empty."""
        return self.reason or "; ".join(self.limits)

    @property
    def limits(self) -> tuple[str, ...]:
        """`values` and `unproven` in words, such as 'not proven for NaN in "x"'."""
        kinds = [
            f'not proven for {", ".join(_KINDS.get(kind, kind) for kind in names)} in "{name}"'
            for name, names in self.unproven.items()
        ]
        return (
            *kinds,
            *(f'proven for {values} in "{name}" only' for name, values in self.values.items()),
        )


_KINDS = {
    "nan": "NaN",
    "inf": "infinities",
    "zero": "zeros",
    "negative_zero": "negative zeros",
    "denormal": "denormal numbers",
    "large": "numbers beyond 2^62",
}
"""The special values of `EngineProof.unproven` in words."""


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
    sizes: Mapping[DimName, DimRange] = field(default_factory=dict)
    """The sizes that it serves, by dimension, where these are fewer than the manifest's `dims`."""

    def serves(self, dims: Mapping[str, int]) -> bool:
        """Returns True when the artifact serves these sizes of named dimensions."""
        return all(
            self.sizes[name].allows(size) for name, size in dims.items() if name in self.sizes
        )

    @property
    def sizes_text(self) -> str:
        """`sizes` in words, such as '33 to 128 of "t"'; empty where there are none."""
        return sizes_text(self.sizes)


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
    special: Mapping[Name, Name] = field(default_factory=dict)
    """The kind of special values of an input, by name: those of `EngineProof.unproven`, and
    "magnitude" for larger numbers than in the ordinary goldens."""


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
    specials: tuple[GoldenEntry, ...] = ()
    """Goldens of special values, on which an engine may differ."""
    warmup: tuple[str, ...] = ()
    files: tuple[FileEntry, ...] = ()
    format_version: int = FORMAT_VERSION
