"""The document of a bundle's report: tables for people, JSON data, a test case for each golden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from isthmus.bundle.manifest import Artifact, DimRange, ValueSpec
from isthmus.bundle.manifest_json import to_json
from isthmus.bundle.size_expression import names_of
from isthmus.document import Case, Document, Table, number
from isthmus.reports.bundle_report import BundleReport
from isthmus.reports.matrix import MatrixRow, name_of, share_text

SCHEMA = "isthmus-report"
SCHEMA_VERSION = 2


def document_of(report: BundleReport) -> Document:
    """Returns what reporters print of the report."""
    parity = report.parity.document()
    speed = report.speed.document() if report.speed is not None else None
    # The last tables are verify's explanations; all explanations follow below.
    proof = parity.tables[: len(parity.tables) - len(report.parity.explanations)]
    return Document(
        title=f"isthmus report {report.name}",
        schema=SCHEMA,
        schema_version=SCHEMA_VERSION,
        context={**parity.context, "reported": report.created or "-"},
        tables=(
            *_after_first_folded(proof),
            _matrix_table(report.matrix),
            *(explanation.table() for explanation in report.explanations),
            *_after_first_folded(speed.tables if speed is not None else ()),
            _size_table(report),
            *_engine_table(report.bundle.manifest.artifacts),
            *_hazard_table(report.bundle.manifest.artifacts),
            *_signature_tables(report),
        ),
        passed=bool(report),
        verdict=report.verdict,
        rows=parity.rows,
        cases=_cases(report),
        notes=tuple(
            dict.fromkeys(
                (
                    *parity.notes,
                    *(line for explanation in report.explanations for line in explanation.lines),
                    *(speed.notes if speed is not None else ()),
                    *report.notes,
                    f"next: {report.next_step.does}: {report.next_step.command}",
                )
            )
        ),
        extra=_facts(report),
        lead=report.verdict,
    )


def _cases(report: BundleReport) -> tuple[Case, ...]:
    """Returns a case for each golden on each engine and device, and one for each absent row.

    A row that failed although all its goldens passed (its bits differ from `torch.jit`) has one
    more.
    """
    cases = [
        Case(name_of(row, report.parity), skipped=row.reason or "absent")
        for row in report.parity.rows
        if row.status == "absent"
    ]
    for line in report.matrix:
        seconds = line.row.seconds / max(1, len(line.cells))
        cases += [_case(line, at, seconds) for at in range(len(line.cells))]
        if line.beside or not line.cells:
            cases.append(Case(line.name, failure=line.beside or line.row.reason))
    return tuple(cases)


def _case(line: MatrixRow, at: int, seconds: float) -> Case:
    cell = line.cells[at]
    results = [result for result in line.row.results if result.golden == cell.golden]
    output = [
        f"{result.output}: max abs {number(result.max_abs)}, "
        f"{share_text(result.strain)} of what is allowed"
        for result in results
    ]
    failed = [f"{result.output}: {result.reason}" for result in results if not result]
    missing = f"no answer: {cell.reason}" if cell.status == "missing" else ""
    return Case(
        name=f"{line.name}: {cell.golden}",
        seconds=seconds,
        failure="\n".join(failed) or missing,
        output="\n".join(output),
    )


# --- tables ---------------------------------------------------------------------------------------


def _after_first_folded(tables: Sequence[Table]) -> list[Table]:
    """Folds all tables but the first, which is enough for a pull request."""
    return [replace(table, folded=at > 0) for at, table in enumerate(tables)]


def _matrix_table(lines: Sequence[MatrixRow]) -> Table:
    """Returns the table with a row for each golden, because goldens outnumber engines."""
    goldens = [cell.golden for cell in lines[0].cells] if lines else []
    columns = ("golden", *(line.name for line in lines))
    rows = tuple(
        (golden, *(_cell_text(line, at) for line in lines)) for at, golden in enumerate(goldens)
    )
    marks = tuple(
        all(line.cells[at].status == "passed" for line in lines) for at in range(len(goldens))
    )
    return Table(
        title="Goldens: the share of the tolerance that each answer used",
        columns=columns,
        rows=rows,
        marks=marks,
        numeric=frozenset(columns[1:]),
        folded=True,
    )


def _cell_text(line: MatrixRow, at: int) -> str:
    cell = line.cells[at]
    if cell.status == "missing":
        return "no answer"
    return share_text(cell.share) + ("" if cell.status == "passed" else " FAILED")


def _size_table(report: BundleReport) -> Table:
    rows = [
        (name, str(len(files)), size_text(sum(file.size for file in files)))
        for name, files in report.parts.items()
    ]
    rows.append(("the whole bundle", str(len(report.files)), size_text(report.size)))
    columns = ("part", "files", "size")
    return Table("Sizes", columns, tuple(rows), numeric=frozenset(columns[1:]))


def _engine_table(artifacts: Sequence[Artifact]) -> list[Table]:
    rows = tuple(
        (
            artifact.name,
            proof.engine,
            proof.device,
            "passed" if proof.passed else "FAILED",
            proof.runtime,
            proof.note,
        )
        for artifact in artifacts
        for proof in artifact.proofs
    )
    columns = ("artifact", "engine", "on", "goldens", "runtime", "why")
    return [Table("Engines at export", columns, rows, folded=True)] if rows else []


def _hazard_table(artifacts: Sequence[Artifact]) -> list[Table]:
    rows = tuple(
        (hazard.severity, artifact.name, hazard.message, hazard.where, hazard.remedy)
        for artifact in artifacts
        for hazard in artifact.hazards
    )
    columns = ("severity", "artifact", "what", "where", "remedy")
    return [Table("Hazards", columns, rows, folded=True)] if rows else []


def _signature_tables(report: BundleReport) -> list[Table]:
    dims = report.bundle.manifest.dims
    rows = tuple(
        (method.name, side, value.name, value.dtype, shape_text(value), range_text(value, dims))
        for method in report.bundle.manifest.methods
        for side, values in (("in", method.inputs), ("out", method.outputs))
        for value in values
    )
    columns = ("method", "", "name", "dtype", "shape", "ranges")
    return [Table("Signature", columns, rows, folded=True)] if rows else []


def shape_text(value: ValueSpec) -> str:
    """Formats a shape: "[batch, sequence, 384]", "any rank", or the kind of a scalar."""
    if value.kind != "tensor":
        return f"a Python {value.kind}"
    if value.shape is None:
        return "any rank"
    return f"[{', '.join('?' if size is None else str(size) for size in value.shape)}]"


def range_text(value: ValueSpec, dims: Any) -> str:
    """Formats the ranges of a value: "batch 1 to 64, values 0 to 30521"."""
    ranges: dict[str, DimRange] = {
        name: dims[name] for size in value.shape or () for name in names_of(size) if name in dims
    }
    texts = [f"{name} {limits}" for name, limits in ranges.items()]
    if value.values is not None:
        texts.append(f"values {value.values}")
    return ", ".join([*texts, *(["may be left out"] if value.optional else [])])


def size_text(size: int) -> str:
    """Formats a size in bytes: "91.1 MB", "466 kB", "112 B"."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


# --- facts ----------------------------------------------------------------------------------------


def _facts(report: BundleReport) -> dict[str, Any]:
    manifest = to_json(report.bundle.manifest)
    return {
        "created": report.created,
        "bundle": {
            "path": str(report.bundle.path),
            **{key: manifest[key] for key in ("name", "created", "source", "stateful")},
        },
        "matrix": [line.to_json() for line in report.matrix],
        "ranking": [
            {"name": name_of(row, report.parity), "distance": row.distance, "passed": bool(row)}
            for row in report.parity.ranking
        ],
        "explanations": [explanation.to_json() for explanation in report.explanations],
        "speed": _speed(report),
        "sizes": {
            "total": report.size,
            "files": [
                {"part": name, "path": file.path, "size": file.size} for name, file in report.files
            ],
        },
        "versions": {
            "made_with": dict(report.bundle.manifest.producer),
            "runtimes": list(report.runtimes),
            "machine": dict(report.machine),
        },
        "artifacts": [
            {
                key: artifact[key]
                for key in (
                    "name", "format", "device", "devices", "precision", "trust", "strategy",
                    "requires", "decisions", "hazards",
                )
            }
            | {"proofs": artifact.get("proofs", [])}
            for artifact in manifest["artifacts"]
        ],
        "signature": {
            "dims": manifest["dims"],
            "methods": [
                {key: method[key] for key in ("name", "inputs", "outputs")}
                for method in manifest["methods"]
            ],
        },
        "next": asdict(report.next_step),
        "commands": [asdict(command) for command in report.commands],
    }  # fmt: skip


def _speed(report: BundleReport) -> dict[str, Any] | None:
    if report.speed is None:
        return None
    document = report.speed.document()
    return {
        "context": dict(document.context),
        "rows": list(document.rows),
        "comparisons": document.extra["comparisons"],
        "notes": list(document.notes),
        "verdict": document.verdict,
    }
