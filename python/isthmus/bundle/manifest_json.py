"""Writes manifests as JSON text and reads them back, with every value checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

from isthmus.bundle.json_cursor import JsonCursor, Readers, read, read_object, shorten
from isthmus.bundle.manifest import (
    CHUNK_BYTES,
    FORMAT,
    FORMAT_VERSION,
    MAX_MANIFEST_BYTES,
    NODE_FIELDS,
    DimRange,
    EngineProof,
    FileEntry,
    Manifest,
    Method,
    NodeKind,
    Tree,
    ValueRange,
    ValueSpec,
)
from isthmus.bundle.size_expression import names_of
from isthmus.errors import BundleError

_MAX_DEPTH = 64


# --- writing --------------------------------------------------------------------------------------


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Returns the manifest as plain JSON values, in the order of docs/format.md."""
    version = {"format": FORMAT, "format_version": manifest.format_version}
    return {
        **version,
        **{key: value for key, value in _plain(manifest).items() if key not in version},
    }


def dumps(manifest: Manifest) -> str:
    """Returns the manifest as JSON text.

    Raises:
        BundleError: It holds a value that JSON cannot, such as NaN.
    """
    try:
        return json.dumps(to_json(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"the manifest holds something that JSON cannot ({error}), such as NaN or infinity in "
            "a constant; make it an input, or an attribute of the module"
        ) from error


LEFT_OUT: dict[str, tuple[Any, ...]] = {
    "chunks": ((),),
    "proofs": ((),),
    "served": ((),),
    "sizes": ((), {}),
    "special": ({},),
    "specials": ((),),
    "unproven": ({},),
    "values": (None, {}),
    "writes": ((),),
}
"""Fields that are not written where they hold nothing."""


def _plain(value: Any) -> Any:
    if isinstance(value, Tree):
        named_const = value.node == "const" and value.name
        names = ("node", *(("name",) if named_const else ()), *NODE_FIELDS[value.node])
        # The value of a const is JSON already.
        return {
            name: value.value if name == "value" else _plain(getattr(value, name)) for name in names
        }
    if is_dataclass(value) and not isinstance(value, type):
        members = {field.name: getattr(value, field.name) for field in fields(value)}
        return {
            name: _plain(member)
            for name, member in members.items()
            if member not in LEFT_OUT.get(name, ())
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


# --- reading --------------------------------------------------------------------------------------


def loads(text: str | bytes) -> Manifest:
    """Returns the manifest that manifest.json's text holds.

    Raises:
        BundleError: The text is too long or no JSON, or see `from_json`.
    """
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
    # Two readers could take different values of a repeated key, and check only one of them.
    members = dict(pairs)
    if len(members) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{repeated}" is there twice')
    return members


def from_json(value: Any) -> Manifest:
    """Returns the manifest of plain JSON values; unknown keys are ignored.

    Raises:
        BundleError: A value is missing or not what the format says; names the place.
    """
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
    manifest: Manifest = read_object(JsonCursor("$", value), Manifest, _READERS)
    _check_references(manifest)
    return manifest


def _file(at: JsonCursor) -> FileEntry:
    file: FileEntry = read_object(at, FileEntry, _READERS)
    count = -(-file.size // CHUNK_BYTES)
    if file.chunks and len(file.chunks) != count:
        at["chunks"].fail(f"{count} digests, one for each 4 MiB of the file")
    return file


def _range(at: JsonCursor, cls: type[DimRange] | type[ValueRange]) -> Any:
    bounds = read_object(at, cls, _READERS)
    ends = (bounds.min, bounds.max)
    if all(isinstance(end, int) for end in ends) and bounds.max < bounds.min:
        at.fail("min <= max")
    sizes = getattr(bounds, "sizes", ())
    if sizes and (sorted(set(sizes)) != list(sizes) or (sizes[0], sizes[-1]) != ends):
        at["sizes"].fail("increasing sizes from min to max")
    return bounds


def _input(at: JsonCursor) -> ValueSpec:
    spec: ValueSpec = read_object(at, ValueSpec, _READERS)
    if spec.values is not None and (spec.kind != "tensor" or "int" not in spec.dtype):
        at["values"].fail('no "values" but of a tensor of integers')
    return spec


def _output(at: JsonCursor) -> ValueSpec:
    # "values" is a key of inputs only: elsewhere it is unknown, and ignored.
    spec: ValueSpec = read_object(at, ValueSpec, _READERS, values=None)
    return spec


def _tree(at: JsonCursor, depth: int = 0) -> Tree:
    if depth > _MAX_DEPTH:
        at.fail(f"a tree at most {_MAX_DEPTH} deep")
    node: NodeKind = read(at["node"], NodeKind, _READERS)
    members = NODE_FIELDS[node]
    if node == "const" and "name" in at.object():
        members = ("name", *members)
    nested = [_tree(item, depth + 1) for item in at["items"].items()] if "items" in members else []
    tree: Tree = read_object(at, Tree, _READERS, members, node=node, items=tuple(nested))
    if "keys" in members and len(nested) != len(tree.keys):
        at["keys"].fail(f"{len(nested)} different keys, one for each item")
    return tree


def _method(at: JsonCursor) -> Method:
    outputs = tuple(_output(item) for item in at["outputs"].items())
    method: Method = read_object(at, Method, _READERS, outputs=outputs)
    leaves = [name for tree in method.arguments for name in tree.leaves()]
    for key, specs, names in (
        ("inputs", method.inputs, leaves),
        ("outputs", method.outputs, list(method.returns.leaves())),
    ):
        listed = [spec.name for spec in specs]
        if sorted(listed) != sorted(names) or len(set(listed)) != len(listed):
            at[key].fail(f"the names {', '.join(names) or 'none'}, as in the trees, each once")
    tensors = [spec.name for spec in method.inputs if spec.kind == "tensor"]
    if list(method.writes) != [name for name in tensors if name in method.writes]:
        at["writes"].fail("names of inputs that are tensors, in the order of the inputs")
    scalars = {spec.name for spec in method.inputs if spec.kind != "tensor"}
    for case in method.served:
        if not scalars.issuperset(case.numbers):
            at["served"].fail("the names of scalar inputs in numbers")
    return method


_READERS: Readers = {
    FileEntry: _file,
    DimRange: lambda at: _range(at, DimRange),
    ValueRange: lambda at: _range(at, ValueRange),
    ValueSpec: _input,
    Tree: _tree,
    Method: _method,
}


def read_proof(path: str, value: Any) -> EngineProof:
    """Returns the verdict in plain JSON values; `path` names their place in errors.

    Raises:
        BundleError: A value is missing or not what the format says.
    """
    proof: EngineProof = read_object(JsonCursor(path, value), EngineProof, _READERS)
    return proof


def _check_references(manifest: Manifest) -> None:
    """Checks that every name that points elsewhere in the manifest is there."""
    methods = [method.name for method in manifest.methods]
    goldens = [golden.name for golden in manifest.goldens]
    _unique("$.methods", methods)
    _unique("$.goldens", goldens)
    _unique("$.specials", [golden.name for golden in manifest.specials])
    _unique("$.artifacts", [artifact.name for artifact in manifest.artifacts])
    for key, entries in (("goldens", manifest.goldens), ("specials", manifest.specials)):
        for number, golden in enumerate(entries):
            for at, step in enumerate(golden.steps):
                if step.method not in methods:
                    place = f"$.{key}[{number}].steps[{at}].method"
                    known = ", ".join(methods)
                    JsonCursor(place, step.method).fail(f"one of the methods ({known})")
    inputs = {spec.name for method in manifest.methods for spec in method.inputs}
    for number, artifact in enumerate(manifest.artifacts):
        for name in artifact.sizes:
            if name not in manifest.dims:
                JsonCursor(f"$.artifacts[{number}].sizes", name).fail("names of dims as keys")
        for at, proof in enumerate(artifact.proofs):
            place = f"$.artifacts[{number}].proofs[{at}]"
            for key, names in (("values", proof.values), ("unproven", proof.unproven)):
                for name in names:
                    if name not in inputs:
                        JsonCursor(f"{place}.{key}", name).fail("the names of inputs as keys")
    for at, name in enumerate(manifest.warmup):
        if name not in goldens:
            JsonCursor(f"$.warmup[{at}]", name).fail("the name of a golden")
    for number, method in enumerate(manifest.methods):
        for key, specs in (("inputs", method.inputs), ("outputs", method.outputs)):
            for at, spec in enumerate(specs):
                _check_shape(f"$.methods[{number}].{key}[{at}].shape", key, spec, manifest)


def _check_shape(path: str, key: str, spec: ValueSpec, manifest: Manifest) -> None:
    for at, size in enumerate(spec.shape or ()):
        _check_names(JsonCursor(f"{path}[{at}]", size), manifest)
        if size is None and key == "inputs":
            JsonCursor(f"{path}[{at}]", size).fail("a size or a name; only outputs may have null")
    if spec.values is not None:
        for bound in (spec.values.min, spec.values.max):
            _check_names(JsonCursor(path.replace(".shape", ".values"), bound), manifest)


def _check_names(at: JsonCursor, manifest: Manifest) -> None:
    if any(name not in manifest.dims for name in names_of(at.value)):
        at.fail(f"the name of one of dims ({', '.join(manifest.dims) or 'none'})")


def _unique(path: str, names: list[str]) -> None:
    for at, name in enumerate(names):
        if name in names[:at]:
            JsonCursor(f"{path}[{at}].name", name).fail("a name of its own")
