"""Tests of the manifest: JSON and back, the schema, and errors that name the place."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.bundle import manifest as manifests
from isthmus.bundle.manifest import (
    CHUNK_BYTES,
    MAX_MANIFEST_BYTES,
    Artifact,
    DimRange,
    EngineProof,
    FileEntry,
    GoldenEntry,
    GoldenStep,
    Hazard,
    Manifest,
    Method,
    NoiseFloor,
    OpLibrary,
    ServedCase,
    Tolerance,
    Tree,
    ValueRange,
    ValueSpec,
)
from isthmus.bundle.manifest_json import dumps, from_json, loads, to_json
from isthmus.errors import BundleError, Decision

SCHEMA = json.loads(Path(manifests.__file__).with_name("manifest.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
ENTRY = FileEntry("artifacts/a.pt", 3, "0" * 64)


def leaf(name: str) -> Tree:
    return Tree("leaf", name)


def full() -> Manifest:
    """Returns a manifest with every kind of value."""
    forward = Method(
        name="forward",
        inputs=(
            ValueSpec("x", "tensor", "float32", ("batch", 3)),
            ValueSpec("opt.a", "int", "int64", ()),
            ValueSpec("ids", "tensor", "int64", ("batch",), values=ValueRange(-1, 30521)),
            ValueSpec("opt.0", "tensor", "bfloat16", None, True),
        ),
        outputs=(
            ValueSpec("output.0", "tensor", "bool", ("batch", None)),
            ValueSpec("output.1", "float", "float64", ()),
        ),
        args=(leaf("x"), Tree("none"), Tree("const", value={"mode": ["fast", 1.5, None]})),
        kwargs=(
            ("ids", leaf("ids")),
            ("opt", Tree("dict", keys=("a", 0), items=(leaf("opt.a"), leaf("opt.0")))),
            ("empty", Tree("list")),
            (
                "box",
                Tree(
                    "pytree",
                    value={"tuple": [4, None]},
                    type="package:Box",
                    keys=(0, "low"),
                    items=(Tree("none"), Tree("list")),
                ),
            ),
        ),
        returns=Tree(
            "model_output",
            type="package.module:Output",
            keys=("first", "second"),
            items=(Tree("tuple", items=(leaf("output.0"),)), leaf("output.1")),
        ),
        served=(ServedCase({"batch": 2}, {"opt.a": 3.0}), ServedCase({}, {"opt.a": -1.5})),
    )
    reset = Method("reset", (), (), (), (), Tree("none"))
    artifact = Artifact(
        name="torchscript-cpu-fp32",
        format="torchscript",
        device="cpu",
        devices=("cpu", "cuda"),
        precision="fp32",
        trust="graph",
        convention="flat",
        strategy="trace",
        files=(ENTRY,),
        requires={"torch": "2.13.0"},
        op_libraries=(OpLibrary("mine", "libmine.so"),),
        operators={"aten::linear": 3},
        tolerances={"output.0": Tolerance(1e-5, 0.0)},
        state=("h",),
        decisions=(Decision("trace", True, "all goldens pass", "a.py:1"),),
        hazards=(Hazard("device_literal", "warning", "moved", "a.py:2"),),
        proofs=(
            EngineProof(
                "torchscript", "cpu", "LibTorch 2.13.0", True, "", {"ids": ValueRange(0, 9)}
            ),
            EngineProof("other", "cuda", "", False, "it crashed", unproven={"x": ("nan", "inf")}),
        ),
    )
    return Manifest(
        name="näme ü",
        created="2026-01-31T12:00:00Z",
        producer={"isthmus": "0.1.0"},
        source={"kind": "module"},
        stateful=True,
        dims={"batch": DimRange(1, 64)},
        methods=(forward, reset),
        artifacts=(artifact,),
        goldens=(
            GoldenEntry(
                "g",
                FileEntry("goldens/g.safetensors", 9, "a" * 64),
                {"batch": 2},
                (GoldenStep("forward"), GoldenStep("reset")),
            ),
        ),
        noise_floor={"output.0": NoiseFloor(1e-6, 1e-7, "float64")},
        warmup=("g",),
        files=(
            FileEntry("tokenizer/t.json", 1, "b" * 64),
            FileEntry("large.bin", CHUNK_BYTES + 1, "c" * 64, ("d" * 64, "e" * 64)),
        ),
    )


def test_a_manifest_survives_json() -> None:
    assert loads(dumps(full())) == full()
    assert from_json(to_json(full())) == full()


def test_the_schemas_are_those_of_the_dataclasses() -> None:
    script = Path(__file__).parents[1] / "scripts" / "make_schemas.py"
    check = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


def test_the_schema_accepts_what_is_written() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    VALIDATOR.validate(json.loads(dumps(full())))


@pytest.mark.parametrize("chunks", [["d" * 64], ["d" * 64] * 3, ["d" * 64, "E" * 64]])
def test_a_large_file_has_a_digest_for_each_chunk(chunks: list[str]) -> None:
    value = to_json(full())
    value["files"][1]["chunks"] = chunks
    with pytest.raises(BundleError, match=r"chunks.*expected"):
        from_json(value)


def test_unknown_keys_are_ignored() -> None:
    value = to_json(full())
    value["later"] = 1
    value["artifacts"][0]["later"] = {"a": 1}
    assert from_json(value) == full()
    VALIDATOR.validate(value)


def test_optional_parts_have_defaults() -> None:
    value = to_json(full())
    for key in ("warmup", "files"):
        del value[key]
    optional = (
        "op_libraries",
        "operators",
        "tolerances",
        "state",
        "decisions",
        "hazards",
        "proofs",
    )
    for key in optional:
        del value["artifacts"][0][key]
    del value["methods"][0]["inputs"][0]["optional"]
    manifest = from_json(value)
    assert manifest.artifacts[0].tolerances == {}
    assert not manifest.methods[0].inputs[0].optional
    VALIDATOR.validate(value)


def at(*path: str | int) -> Callable[[Any], Any]:
    def value_at(value: Any) -> Any:
        for part in path:
            value = value[part]
        return value

    return value_at


# The place, the key, its new value (GONE removes the key), a part of the error, and True when the
# schema rejects it too.
GONE = object()
A, M, G = ("artifacts", 0), ("methods", 0), ("goldens", 0)
DAMAGE: list[tuple[tuple[str | int, ...], str | int, Any, str, bool]] = [
    ((), "format", "other", '"other"', True),
    ((), "format", GONE, "isthmus-bundle", True),
    ((), "format_version", 2, "update isthmus", True),
    ((), "format_version", 0, "format_version 1", True),
    ((), "format_version", True, "format_version 1", True),
    ((), "format_version", "1", "format_version 1", True),
    ((), "name", 3, "$.name", True),
    ((), "name", GONE, '"name"', True),
    ((), "stateful", "yes", "$.stateful", True),
    ((), "producer", {"torch": 2}, "$.producer.torch", True),
    ((), "dims", [], "$.dims", True),
    ((), "dims", {"batch": {"min": 2, "max": 1}}, "$.dims.batch", False),
    ((), "dims", {"batch": {"min": 1}}, "$.dims.batch", True),
    ((), "dims", {"batch": {"min": -1, "max": 1}}, "$.dims.batch.min", True),
    ((), "dims", {"a b": {"min": 1, "max": 1}, "batch": {"min": 1, "max": 1}}, "a b", True),
    ((), "methods", {}, "$.methods", True),
    ((), "warmup", ["h"], "$.warmup[0]", False),
    ((), "noise_floor", {"y": {"max_abs": 1, "rms": 1, "method": "guess"}}, "float64", True),
    ((), "noise_floor", {"y": {"max_abs": -1, "rms": 1, "method": "ulp"}}, "max_abs", True),
    ((), "files", [{"path": "a", "size": 1}], "$.files[0]", True),
    (M, "name", "", "$.methods[0].name", True),
    (M, "name", "reset", "$.methods[1].name", False),
    (M, "inputs", [], "$.methods[0].inputs", False),
    (M, "outputs", [], "$.methods[0].outputs", False),
    (M, "kwargs", [["a"]], "$.methods[0].kwargs[0]", True),
    (M, "returns", {"node": "leaf"}, "$.methods[0].returns", True),
    (M, "returns", {"node": "set", "items": []}, "$.methods[0].returns.node", True),
    (M, "returns", {"node": "dict", "keys": ["a"], "items": []}, "keys", False),
    (M, "returns", {"node": "dict", "keys": [1.5], "items": [{"node": "none"}]}, "keys[0]", True),
    ((*M, "inputs", 0), "kind", "str", "$.methods[0].inputs[0].kind", True),
    ((*M, "inputs", 0), "dtype", "float8", "$.methods[0].inputs[0].dtype", True),
    ((*M, "inputs", 0), "shape", ["rows", 3], "$.methods[0].inputs[0].shape[0]", False),
    ((*M, "inputs", 0), "shape", [None, 3], "$.methods[0].inputs[0].shape[0]", False),
    ((*M, "inputs", 0), "shape", [-1], "$.methods[0].inputs[0].shape[0]", True),
    ((*M, "inputs", 0), "shape", [1.5], "$.methods[0].inputs[0].shape[0]", True),
    ((*M, "inputs", 0), "optional", 1, "$.methods[0].inputs[0].optional", True),
    ((*M, "inputs", 2), "values", {"min": 1}, "$.methods[0].inputs[2].values", True),
    ((*M, "inputs", 2), "values", {"min": 1, "max": 0}, "min <= max", False),
    ((*M, "inputs", 2), "values", {"min": 0, "max": 1.5}, "inputs[2].values.max", True),
    ((*M, "inputs", 0), "values", {"min": 0, "max": 1}, "a tensor of integers", False),
    ((*M, "inputs", 1), "values", {"min": 0, "max": 1}, "a tensor of integers", False),
    (A, "convention", "curly", "$.artifacts[0].convention", True),
    (A, "trust", "full", "$.artifacts[0].trust", True),
    (A, "files", [], "$.artifacts[0].files", True),
    (A, "operators", {"aten::add": -1}, "$.artifacts[0].operators", True),
    (A, "tolerances", {"y": {"atol": "0", "rtol": 0}}, "tolerances.y.atol", True),
    (A, "proofs", [{"engine": "e", "device": "cpu", "runtime": ""}], "passed", True),
    ((*A, "proofs", 0), "values", {"z": {"min": 0, "max": 1}}, "proofs[0].values", False),
    ((*A, "proofs", 1), "unproven", {"z": ["nan"]}, "proofs[1].unproven", False),
    (A, "hazards", [{"kind": "k", "severity": "bad", "message": ""}], "severity", True),
    ((*A, "files", 0), "path", "/etc/passwd", "$.artifacts[0].files[0].path", True),
    ((*A, "files", 0), "path", "../up", '".."', True),
    ((*A, "files", 0), "path", "a/../../up", '".."', True),
    ((*A, "files", 0), "path", "a//b", '".."', True),
    ((*A, "files", 0), "path", "./a", '".."', True),
    ((*A, "files", 0), "path", "a\\b", "backslash", True),
    ((*A, "files", 0), "path", "C:/a", "absolute", True),
    ((*A, "files", 0), "size", -1, "$.artifacts[0].files[0].size", True),
    ((*A, "files", 0), "size", True, "$.artifacts[0].files[0].size", True),
    ((*A, "files", 0), "sha256", "0" * 63, "$.artifacts[0].files[0].sha256", True),
    ((*A, "files", 0), "sha256", "A" * 64, "$.artifacts[0].files[0].sha256", True),
    (G, "steps", [], "$.goldens[0].steps", True),
    (G, "steps", [{"method": "nope"}], "$.goldens[0].steps[0].method", False),
    (G, "dims", {"batch": "2"}, "$.goldens[0].dims.batch", True),
]


@pytest.mark.parametrize(
    ("path", "key", "new", "word", "in_schema"),
    DAMAGE,
    ids=lambda value: "gone" if value is GONE else None if callable(value) else str(value)[:40],
)
def test_damage_is_named_with_its_place(
    path: tuple[str | int, ...], key: str | int, new: Any, word: str, in_schema: bool
) -> None:
    value = to_json(full())
    parent = at(*path)(value)
    if new is GONE:
        del parent[key]
    else:
        parent[key] = new
    with pytest.raises(BundleError) as caught:
        from_json(value)
    assert word in str(caught.value)
    assert VALIDATOR.is_valid(value) is not in_schema


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "an object"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ('{"format": "isthmus-bundle", "format": "isthmus-bundle"}', "twice"),
        ('{"format": NaN}', "NaN"),
        (" " * (MAX_MANIFEST_BYTES + 1), "more than"),
    ],
)
def test_text_that_is_no_manifest_is_refused(text: str | bytes, word: str) -> None:
    with pytest.raises(BundleError) as caught:
        loads(text)
    assert word in str(caught.value)


def test_a_tree_of_endless_depth_is_refused() -> None:
    value = to_json(full())
    tree: dict[str, Any] = {"node": "none"}
    for _ in range(100):
        tree = {"node": "list", "items": [tree]}
    value["methods"][1]["returns"] = tree
    with pytest.raises(BundleError, match="deep"):
        from_json(value)


def test_what_json_cannot_hold_is_not_written() -> None:
    manifest = full()
    bad = Method("m", (), (), (Tree("const", value=float("nan")),), (), Tree("none"))
    with pytest.raises(BundleError, match="NaN"):
        dumps(Manifest(**{**vars(manifest), "methods": (bad,)}))


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield (*path, index)
            yield from places(item, (*path, index))


PLACES = list(places(to_json(full())))
JUNK = st.sampled_from([None, True, -1, 0, 1.5, "", "x", [], {}, [[]], {"a": 1}])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), JUNK)
def test_any_damage_gives_a_manifest_or_a_bundle_error(
    path: tuple[str | int, ...], junk: Any
) -> None:
    value = copy.deepcopy(to_json(full()))
    at(*path[:-1])(value)[path[-1]] = junk
    try:
        manifest = from_json(value)
    except BundleError:
        return
    assert loads(dumps(manifest)) == manifest
