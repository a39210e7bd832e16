#!/usr/bin/env python3
"""Write the JSON Schemas of the manifest and of the reports from their dataclasses.

    python scripts/make_schemas.py [--check]     --check fails when a file is not up to date

Annotations give the types, `Rule`s the restrictions, and the docstrings below the fields the
descriptions.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from isthmus.bundle.json_cursor import Rule, without_none
from isthmus.bundle.manifest import (
    FORMAT,
    FORMAT_VERSION,
    NODE_FIELDS,
    Artifact,
    DimRange,
    FileEntry,
    Manifest,
    Method,
    Tree,
)
from isthmus.bundle.manifest_json import LEFT_OUT
from isthmus.bundle.manifest_rules import Name
from isthmus.bundle_diff import report as diff_report
from isthmus.bundle_diff.accuracy import Accuracy
from isthmus.bundle_diff.cross_check import CrossCheck
from isthmus.bundle_diff.findings import Change, Compared, NotCompared, Severity
from isthmus.bundle_diff.graph import GraphDiff
from isthmus.bundle_diff.speed import Speed
from isthmus.bundle_diff.weights import WeightsDiff
from isthmus.goldens.compare import OutputParity
from isthmus.proof.explain.explanation import Explanation
from isthmus.proof.verify_report import VerifyRow
from isthmus.reports import bundle_document
from isthmus.reports.bundle_report import Command
from isthmus.reports.matrix import Cell
from isthmus.timing.bench_report import BenchRow, Comparison, Verdict
from isthmus.timing.statistics import Summary

PACKAGE = Path(__file__).resolve().parent.parent / "python" / "isthmus"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALARS: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    None: {"type": "null"},
    NoneType: {"type": "null"},
    Any: {},
}
REPORTED: Mapping[Any, dict[str, Any]] = {
    int: {"type": "integer", "minimum": 0},
    float: {"$ref": "#/$defs/number"},
}
"""Numbers in reports: counts, and floats that may be NaN or infinite."""
NUMBER = {
    "description": "NaN and infinity are no JSON numbers, and are written as strings.",
    "anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}],
}


class SchemaWriter:
    """Writes types as JSON Schema and collects the dataclasses that they refer to.

    A type is what `isthmus.bundle.json_cursor.read` takes; further, a dictionary of types is an
    object with these keys, a list of one type is an array, and a tuple of types is a union.
    """

    def __init__(self, *, reported: bool = False) -> None:
        """Starts without definitions.

        Args:
            reported: True for a report, which writes every field; else fields with a default are
                optional, as when a manifest is read.
        """
        self._scalars = {**SCALARS, **(REPORTED if reported else {})}
        self._reported = reported
        self.definitions: dict[str, Any] = {"number": NUMBER} if reported else {}

    def write(self, kind: Any) -> dict[str, Any]:
        """Returns the schema of a type."""
        origin, args = get_origin(kind), get_args(kind)
        if isinstance(kind, dict):
            return self.object(kind, list(kind))
        if isinstance(kind, list):
            return {"type": "array", "items": self.write(kind[0])}
        if isinstance(kind, tuple):
            return {"anyOf": [self.write(member) for member in kind]}
        if origin is Annotated:
            schema = self.write(args[0])
            for note in args[1:]:
                schema |= note.schema if isinstance(note, Rule) else {"description": note}
            return schema
        if origin in (Union, UnionType):
            return {"anyOf": [self.write(arg) for arg in args]}
        if origin is Literal:
            return {"enum": list(args)}
        if origin is tuple and args[-1] is ...:
            return {"type": "array", "items": self.write(args[0])}
        if origin is tuple:
            count = {"minItems": len(args), "maxItems": len(args)}
            return {"type": "array", "prefixItems": [self.write(arg) for arg in args], **count}
        if origin is Mapping:
            names = {} if args[0] is str else {"propertyNames": self.write(args[0])}
            return {"type": "object", "additionalProperties": self.write(args[1]), **names}
        if is_dataclass(kind):
            self._define(kind)
            return {"$ref": f"#/$defs/{kind.__name__}"}
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"enum": [member.value for member in kind]}
        return dict(self._scalars[kind])

    def fields_of(self, cls: Any) -> tuple[dict[str, Any], list[str]]:
        """Returns the types of a dataclass's fields, and the names of the required ones."""
        kinds, required = members(cls), []
        for field in fields(cls):
            if self._reported:
                left_out = field.name in LEFT_OUT
            else:
                left_out = field.default is not MISSING or field.default_factory is not MISSING
            if not left_out:
                required.append(field.name)
            elif field.default is None:
                kinds[field.name] = without_none(kinds[field.name])
        return kinds, required

    def object(self, kinds: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
        """Returns the schema of an object with keys of these types."""
        properties = {name: self.write(kind) for name, kind in kinds.items()}
        return {"type": "object", "required": required, "properties": properties}

    def _define(self, cls: Any) -> None:
        if cls.__name__ not in self.definitions:
            self.definitions[cls.__name__] = {}  # a field may refer to its own class
            summary = str(inspect.getdoc(cls)).partition("\n\n")[0].replace("\n", " ")
            schema = self._tree() if cls is Tree else self.object(*self.fields_of(cls))
            self.definitions[cls.__name__] = {"description": summary, **schema}

    def _tree(self) -> dict[str, Any]:
        """Returns an alternative for each set of fields that a node may have."""
        kinds = members(Tree)
        nodes: dict[tuple[str, ...], list[str]] = {}
        for node, names in NODE_FIELDS.items():
            nodes.setdefault(names, []).append(node)
        return {
            "anyOf": [
                self.write({"node": Literal[tuple(group)], **{name: kinds[name] for name in names}})
                for names, group in nodes.items()
            ]
        }


def members(cls: Any, *names: str, **changes: Any) -> dict[str, Any]:
    """Returns the types of a dataclass's fields, annotated with their docstrings.

    Args:
        cls: The dataclass.
        names: The fields to take; all of them when there is none.
        changes: Further keys, and the types of keys that are written as something else.
    """
    docs = _field_docs(cls)
    kinds = {
        name: Annotated[kind, docs[name]] if name in docs else kind
        for name, kind in get_type_hints(cls, include_extras=True).items()
        if not names or name in names
    }
    return {**kinds, **changes}


def _field_docs(cls: Any) -> dict[str, str]:
    """Returns the docstrings that stand below the fields of a dataclass."""
    body = cast(ast.ClassDef, ast.parse(inspect.getsource(cls)).body[0]).body
    return {
        cast(ast.Name, field.target).id: inspect.cleandoc(doc.value.value).replace("\n", " ")
        for field, doc in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
    }


def document(
    writer: SchemaWriter, title: str, description: str, schema: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a schema as a document of its own."""
    about = {"$schema": DIALECT, "title": title, "description": description}
    return {**about, **schema, "$defs": writer.definitions}


def report_document(name: str, version: int, description: str, **parts: Any) -> dict[str, Any]:
    """Returns the schema of what `isthmus.document.to_json` writes, with these further parts."""
    writer = SchemaWriter(reported=True)
    kinds = {"context": Mapping[str, str], **parts, "notes": [str], "passed": bool, "verdict": Name}
    schema = writer.write({"schema": str, "schema_version": int, **kinds})
    schema["properties"]["schema"] = {"const": f"isthmus-{name}"}
    schema["properties"]["schema_version"] = {"const": version}
    return document(writer, f"isthmus {name}, version {version}", description, schema)


def manifest_schema() -> dict[str, Any]:
    """Returns the schema of manifest.json."""
    writer = SchemaWriter()
    kinds, required = writer.fields_of(Manifest)
    schema = writer.object({"format": str, **kinds}, ["format", "format_version", *required])
    schema["properties"]["format"] = {"const": FORMAT}
    schema["properties"]["format_version"] = {"const": FORMAT_VERSION}
    return document(
        writer,
        f"isthmus bundle manifest, version {FORMAT_VERSION}",
        "manifest.json of a bundle; docs/format.md says what each part means. Unknown keys are "
        "allowed: later versions add facts.",
        schema,
    )


def bundle_report_schema() -> dict[str, Any]:
    """Returns the schema of `isthmus report --json`."""
    row = members(
        VerifyRow,
        reference=Literal["goldens", "model"],
        passed=bool,
        goldens=int,
        distance=float | None,
        worst=OutputParity | None,
    )
    cell = members(
        Cell, "golden", "status", "reason", share=float | None, output=str, statistic=str
    )
    matrix = members(VerifyRow, "engine", "language", "device", "artifact", name=str)
    matrix |= {"status": Literal["passed", "failed", "error"], "cells": [cell]}
    explanation = members(Explanation)
    for left_out in ("bundle", "context"):
        del explanation[left_out]
    speed = {
        "context": Mapping[str, str],
        "rows": [_timing()],
        "comparisons": [members(Comparison, verdict=Verdict)],
        "notes": [str],
        "verdict": str,
    }
    artifact_keys = ("name", "format", "device", "devices", "precision", "trust", "strategy")
    artifact_keys += ("requires", "decisions", "hazards", "proofs")
    return report_document(
        "report",
        bundle_document.SCHEMA_VERSION,
        "The document of `isthmus report --json`; docs/report.md says what each part means. "
        "Unknown keys are allowed: later versions add facts.",
        rows=[row],
        created=str,
        bundle={"path": str, **members(Manifest, "name", "created", "source", "stateful")},
        matrix=[matrix],
        ranking=[{"name": str, "distance": float, "passed": bool}],
        explanations=[explanation],
        speed=(speed, None),
        sizes={"total": int, "files": [{"part": str, **members(FileEntry, "path", "size")}]},
        versions={"made_with": Mapping[str, str], "runtimes": [str], "machine": Mapping[str, str]},
        artifacts=[members(Artifact, *artifact_keys)],
        signature={
            "dims": Mapping[str, DimRange],
            "methods": [members(Method, "name", "inputs", "outputs")],
        },
        next=Command,
        commands=[Command],
    )


def _timing() -> dict[str, Any]:
    return members(BenchRow, available=bool, summary=Summary | None)


def diff_schema() -> dict[str, Any]:
    """Returns the schema of `isthmus diff --json`."""
    texts = {"what": Name, "before": Name, "after": Name}
    timing = _timing()
    return report_document(
        "diff",
        diff_report.SCHEMA_VERSION,
        "The document of `isthmus diff --json`; docs/diff.md says what each part means. Unknown "
        "keys are allowed: later versions add facts.",
        rows=[members(Change, **texts, fails=bool)],
        a=diff_report.Side,
        b=diff_report.Side,
        fail_on=Literal["breaking", "worse", "changed"],
        counts=dict.fromkeys(get_args(Severity), int),
        same_model=bool | None,
        compared=[members(Compared, result=Name)],
        not_compared=[members(NotCompared, reason=Name)],
        accuracy=[members(Accuracy, ratio=float | None, verdict=_returned(Accuracy.verdict))],
        cross_checks=[members(CrossCheck, passed=bool)],
        speeds=[members(Speed, before=timing, after=timing, verdict=_returned(Speed.verdict))],
        graphs=[members(GraphDiff, equal=bool)],
        weights=[members(WeightsDiff, all_equal=bool)],
    )


def _returned(value: Any) -> Any:
    """Returns the type of a property."""
    return get_type_hints(value.fget)["return"]


SCHEMAS = {
    "bundle/manifest.schema.json": manifest_schema,
    "reports/report.schema.json": bundle_report_schema,
    "bundle_diff/diff.schema.json": diff_schema,
}


def main() -> None:
    """Writes the three files, or compares them."""
    outdated = []
    for name, make in SCHEMAS.items():
        path, text = PACKAGE / name, json.dumps(make(), indent=2, ensure_ascii=False) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif path.read_text("utf-8") != text:
            outdated.append(name)
    if outdated:
        sys.exit(f"{', '.join(outdated)}: out of date; run scripts/make_schemas.py")


if __name__ == "__main__":
    main()
