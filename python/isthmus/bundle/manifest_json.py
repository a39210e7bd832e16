"""manifest.json to dataclasses and back: strict about what it knows, deaf to what it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, NoReturn, get_args

from isthmus.bundle.json_reader import JsonCursor, shorten
from isthmus.bundle.manifest import (
    CHUNK_BYTES,
    FORMAT,
    FORMAT_VERSION,
    MAX_MANIFEST_BYTES,
    Artifact,
    DimRange,
    FileEntry,
    GoldenEntry,
    GoldenStep,
    Hazard,
    Manifest,
    Method,
    NodeKind,
    NoiseFloor,
    OpLibrary,
    Severity,
    Tolerance,
    Tree,
    ValueKind,
    ValueRange,
    ValueSpec,
)
from isthmus.errors import BundleError, Decision

DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)
_KEYED = ("dict", "namedtuple", "dataclass", "model_output")
_TYPED = ("namedtuple", "dataclass", "model_output")
_NESTED = ("list", "tuple", *_KEYED)
_MAX_DEPTH = 64
_INT64_MIN = -(2**63)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# --- writing --------------------------------------------------------------------------------------


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as plain JSON values, in the order of docs/format.md."""
    return {
        "format": FORMAT,
        "format_version": manifest.format_version,
        "name": manifest.name,
        "created": manifest.created,
        "producer": dict(manifest.producer),
        "source": dict(manifest.source),
        "stateful": manifest.stateful,
        "dims": {name: _plain(dim) for name, dim in manifest.dims.items()},
        "methods": [_method_to_json(method) for method in manifest.methods],
        "artifacts": [_plain(artifact) for artifact in manifest.artifacts],
        "goldens": [_plain(golden) for golden in manifest.goldens],
        "noise_floor": {name: _plain(one) for name, one in manifest.noise_floor.items()},
        "warmup": list(manifest.warmup),
        "files": [_plain(file) for file in manifest.files],
    }


def dumps(manifest: Manifest) -> str:
    """The manifest as JSON text; see `isthmus.bundle.manifest.dumps`."""
    try:
        return json.dumps(to_json(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"the manifest holds something that JSON cannot ({error}), such as NaN or infinity in "
            "a constant; make it an input, or an attribute of the module"
        ) from error


_LEFT_OUT: dict[str, tuple[Any, ...]] = {"chunks": ((),), "values": (None,)}
"""Fields that are not written where they hold nothing."""


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        every = {field.name: getattr(value, field.name) for field in fields(value)}
        return {
            name: _plain(one) for name, one in every.items() if one not in _LEFT_OUT.get(name, ())
        }
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _method_to_json(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "inputs": [_plain(input_spec) for input_spec in method.inputs],
        "outputs": [_plain(output) for output in method.outputs],
        "args": [tree_to_json(argument) for argument in method.args],
        "kwargs": [[name, tree_to_json(argument)] for name, argument in method.kwargs],
        "returns": tree_to_json(method.returns),
    }


def tree_to_json(tree: Tree) -> dict[str, Any]:
    """A node with the fields of its kind, and no others."""
    found: dict[str, Any] = {"node": tree.node}
    if tree.node == "leaf":
        found["name"] = tree.name
    if tree.node == "const":
        found["value"] = tree.value
    if tree.node in _TYPED:
        found["type"] = tree.type
    if tree.node in _KEYED:
        found["keys"] = list(tree.keys)
    if tree.node in _NESTED:
        found["items"] = [tree_to_json(item) for item in tree.items]
    return found


# --- reading --------------------------------------------------------------------------------------


def loads(text: str | bytes) -> Manifest:
    """The manifest of manifest.json's text; see `isthmus.bundle.manifest.loads`."""
    size = len(text.encode()) if isinstance(text, str) else len(text)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"manifest.json has {size} bytes, more than the {MAX_MANIFEST_BYTES} allowed; this is "
            "no manifest that isthmus wrote: export again"
        )
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"manifest.json is not valid JSON ({error}); it is damaged: fetch the bundle again or "
            "export again"
        ) from error
    return from_json(value)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers could pick different ones of a repeated key: one checks what the other ignores.
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{repeated}" is there twice')
    return found


def from_json(value: Any) -> Manifest:
    """The manifest of plain JSON values; see `isthmus.bundle.manifest.from_json`."""
    root = JsonCursor("$", value).object()
    if root.get("format") != FORMAT:
        raise BundleError(
            f'manifest.json: expected "format": "{FORMAT}", got {shorten(root.get("format"))}; '
            "this is not the manifest of an isthmus bundle"
        )
    version = root.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise BundleError(
            f"manifest.json: expected format_version {FORMAT_VERSION}, got {shorten(version)}; "
            + ("update isthmus to read this bundle" if newer else "export the model again")
        )
    at = JsonCursor("$", value)
    manifest = Manifest(
        name=at["name"].text(),
        created=at["created"].text(),
        producer=at["producer"].map(JsonCursor.text),
        source=at["source"].map(JsonCursor.text),
        stateful=at["stateful"].boolean(),
        dims={_dim_name(at["dims"], key): one for key, one in at["dims"].map(_dim_range).items()},
        methods=at["methods"].list(_method),
        artifacts=at["artifacts"].list(_artifact),
        goldens=at["goldens"].list(_golden),
        noise_floor=at["noise_floor"].map(_noise_floor),
        warmup=at.optional("warmup").list(JsonCursor.text),
        files=at.optional("files").list(_file),
        format_version=version,
    )
    _check_references(manifest)
    return manifest


def check_path(path: str) -> str:
    """Why a path is not one that a bundle may have; empty when it is good."""
    if not path or "\0" in path or "\\" in path:
        return "is empty or holds a backslash or a null"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is absolute"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return 'has an empty, "." or ".." part'
    return ""


def _file(at: JsonCursor) -> FileEntry:
    fault = check_path(at["path"].name())
    if fault:
        at["path"].fail(f"a path beneath the bundle, with forward slashes (this one {fault})")
    size, chunks = at["size"].integer(), at.optional("chunks")
    digests = chunks.list(_digest)
    count = -(-size // CHUNK_BYTES)
    if digests and len(digests) != count:
        chunks.fail(f"{count} digests, one for each 4 MiB of the file")
    return FileEntry(at["path"].text(), size, _digest(at["sha256"]), digests)


def _digest(at: JsonCursor) -> str:
    if not _SHA256.fullmatch(at.text()):
        at.fail("64 lower-case hexadecimal digits")
    return at.text()


def _dim_name(at: JsonCursor, key: str) -> str:
    if not _NAME.fullmatch(key):
        JsonCursor(at.path, key).fail("a dimension's name of letters, digits and underscores")
    return key


def _dim_range(at: JsonCursor) -> DimRange:
    return DimRange(*_bounds(at, 0))


def _bounds(at: JsonCursor, least: int) -> tuple[int, int]:
    low, high = at["min"].integer(least), at["max"].integer(least)
    if high < low:
        at.fail("min <= max")
    return low, high


def _size(at: JsonCursor) -> Any:
    if at.value is None or (isinstance(at.value, str) and at.value):
        return at.value
    return at.integer()


def _spec(at: JsonCursor) -> ValueSpec:
    shape = at["shape"]
    return ValueSpec(
        name=at["name"].name(),
        kind=at["kind"].one_of(get_args(ValueKind)),
        dtype=at["dtype"].one_of(DTYPES),
        shape=None if shape.value is None else shape.list(_size),
        optional=at.get("optional", False).boolean(),
    )


def _input(at: JsonCursor) -> ValueSpec:
    spec = _spec(at)
    return replace(spec, values=_value_range(at["values"], spec)) if "values" in at.value else spec


def _value_range(at: JsonCursor, spec: ValueSpec) -> ValueRange:
    if spec.kind != "tensor" or "int" not in spec.dtype:
        at.fail('no "values" but of a tensor of integers')
    return ValueRange(*_bounds(at, _INT64_MIN))


def _tree(at: JsonCursor, depth: int = 0) -> Tree:
    if depth > _MAX_DEPTH:
        at.fail(f"a tree at most {_MAX_DEPTH} deep")
    node = at["node"].one_of(get_args(NodeKind))
    items = at["items"].list(lambda one: _tree(one, depth + 1)) if node in _NESTED else ()
    keys = at["keys"].list(_key) if node in _KEYED else ()
    if node in _KEYED and (len(keys) != len(items) or len(set(keys)) != len(keys)):
        at["keys"].fail(f"{len(items)} different keys, one for each item")
    return Tree(
        node=node,
        name=at["name"].name() if node == "leaf" else "",
        value=at["value"].value if node == "const" else None,
        type=at["type"].name() if node in _TYPED else "",
        keys=keys,
        items=items,
    )


def _key(at: JsonCursor) -> str | int:
    if isinstance(at.value, bool) or not isinstance(at.value, (str, int)):
        at.fail("text or an integer")
    return at.value


def _keyword(at: JsonCursor) -> tuple[str, Tree]:
    if not isinstance(at.value, list) or len(at.value) != 2:
        at.fail("[name, tree]")
    return JsonCursor(f"{at.path}[0]", at.value[0]).name(), _tree(
        JsonCursor(f"{at.path}[1]", at.value[1])
    )


def _method(at: JsonCursor) -> Method:
    method = Method(
        name=at["name"].name(),
        inputs=at["inputs"].list(_input),
        outputs=at["outputs"].list(_spec),
        args=at["args"].list(_tree),
        kwargs=at["kwargs"].list(_keyword),
        returns=_tree(at["returns"]),
    )
    given = [*method.args, *(tree for _, tree in method.kwargs)]
    leaves = [name for tree in given for name in tree.leaves()]
    for key, specs, names in (
        ("inputs", method.inputs, leaves),
        ("outputs", method.outputs, list(method.returns.leaves())),
    ):
        listed = [spec.name for spec in specs]
        if sorted(listed) != sorted(names) or len(set(listed)) != len(listed):
            at[key].fail(f"the names {', '.join(names) or 'none'}, as in the trees, each once")
    return method


def _tolerance(at: JsonCursor) -> Tolerance:
    return Tolerance(
        at["atol"].number(),
        at["rtol"].number(),
        at.get("multiples", {}).map(JsonCursor.number),
        at.get("allowance", {}).map(JsonCursor.number),
        at.get("own", {}).map(JsonCursor.number),
    )


def _noise_floor(at: JsonCursor) -> NoiseFloor:
    method = at["method"].one_of(("float64", "ulp", "exact"))
    worst = at.get("worst", {}).map(JsonCursor.number)
    return NoiseFloor(at["max_abs"].number(), at["rms"].number(), method, worst)


def _artifact(at: JsonCursor) -> Artifact:
    files = at["files"].list(_file)
    if not files:
        at["files"].fail("at least one file")
    return Artifact(
        name=at["name"].name(),
        format=at["format"].name(),
        device=at["device"].name(),
        devices=at["devices"].list(JsonCursor.name),
        precision=at["precision"].name(),
        trust=at["trust"].one_of(("data", "graph", "native")),
        convention=at["convention"].one_of(("flat", "structured")),
        strategy=at["strategy"].text(),
        files=files,
        requires=at["requires"].map(JsonCursor.text),
        op_libraries=at.optional("op_libraries").list(
            lambda one: OpLibrary(one["namespace"].name(), one["library"].text())
        ),
        operators=at.get("operators", {}).map(JsonCursor.integer),
        tolerances=at.get("tolerances", {}).map(_tolerance),
        state=at.optional("state").list(JsonCursor.name),
        decisions=at.optional("decisions").list(_decision),
        hazards=at.optional("hazards").list(_hazard),
    )


def _decision(at: JsonCursor) -> Decision:
    return Decision(
        at["strategy"].text(),
        at["accepted"].boolean(),
        at["reason"].text(),
        at.get("where", "").text(),
    )


def _hazard(at: JsonCursor) -> Hazard:
    return Hazard(
        at["kind"].text(),
        at["severity"].one_of(get_args(Severity)),
        at["message"].text(),
        at.get("where", "").text(),
        at.get("remedy", "").text(),
    )


def _golden(at: JsonCursor) -> GoldenEntry:
    steps = at["steps"].list(lambda one: GoldenStep(one["method"].name()))
    if not steps:
        at["steps"].fail("at least one step")
    return GoldenEntry(
        at["name"].name(), _file(at["file"]), at["dims"].map(JsonCursor.integer), steps
    )


def _check_references(manifest: Manifest) -> None:
    """Names that point elsewhere in the manifest have to arrive."""
    methods = [method.name for method in manifest.methods]
    goldens = [golden.name for golden in manifest.goldens]
    _unique("$.methods", methods)
    _unique("$.goldens", goldens)
    _unique("$.artifacts", [artifact.name for artifact in manifest.artifacts])
    for number, golden in enumerate(manifest.goldens):
        for at, step in enumerate(golden.steps):
            if step.method not in methods:
                place = f"$.goldens[{number}].steps[{at}].method"
                JsonCursor(place, step.method).fail(f"one of the methods ({', '.join(methods)})")
    for at, name in enumerate(manifest.warmup):
        if name not in goldens:
            JsonCursor(f"$.warmup[{at}]", name).fail("the name of a golden")
    for number, method in enumerate(manifest.methods):
        for key, specs in (("inputs", method.inputs), ("outputs", method.outputs)):
            for at, spec in enumerate(specs):
                _check_shape(f"$.methods[{number}].{key}[{at}].shape", key, spec, manifest)


def _check_shape(path: str, key: str, spec: ValueSpec, manifest: Manifest) -> None:
    for at, size in enumerate(spec.shape or ()):
        if isinstance(size, str) and size not in manifest.dims:
            known = ", ".join(manifest.dims) or "none"
            JsonCursor(f"{path}[{at}]", size).fail(f"the name of one of dims ({known})")
        if size is None and key == "inputs":
            JsonCursor(f"{path}[{at}]", size).fail("a size or a name; only outputs may have null")


def _unique(path: str, names: list[str]) -> None:
    for at, name in enumerate(names):
        if name in names[:at]:
            JsonCursor(f"{path}[{at}].name", name).fail("a name of its own")
