"""The result of verify: a row for each engine on each device, and one verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from isthmus.document import Case, Document, Table, number, to_text
from isthmus.goldens.compare import OutputParity, worst

if TYPE_CHECKING:
    from isthmus.proof.explain import Explanation

SCHEMA = "isthmus-verify"
SCHEMA_VERSION = 3

_SHOWN = 12
"""The number of lines of a `ParityError`; a model with many outputs fails in many places."""

Status = Literal["passed", "failed", "error", "absent"]
"""failed: the numbers are wrong; error: it could not run; absent: neither here nor asked for."""


class ParityError(AssertionError):
    """A bundle does not give the model's answers; `report` holds every number."""

    def __init__(self, report: VerifyReport) -> None:
        lines = [report.verdict]
        for row in report.failures:
            failed = [
                f"{result.output} of golden {result.golden}: {result.reason}"
                for result in row.results
                if not result
            ]
            lines += [f"  {row.label} on {row.device}: {text}" for text in failed or [row.reason]]
        shown = lines[:_SHOWN]
        if len(lines) > len(shown):
            shown.append(f"  and {len(lines) - len(shown)} more; print the report to see all")
        super().__init__("\n".join(shown))
        self.report = report


@dataclass(frozen=True)
class VerifyRow:
    """One engine on one device; truthy when it passed."""

    engine: str
    """"eager", "torch.jit", or the name of an engine of the C++ library."""
    language: Literal["Python", "C++"]
    device: str
    status: Status
    reason: str = ""
    """The reason for a failure, or for a missing number."""
    artifact: str = ""
    runtime: str = ""
    reference: str = "goldens"
    """The source of the expected outputs: "goldens" or "model"."""
    results: tuple[OutputParity, ...] = ()
    """One entry for every output of every golden."""
    vs_torch_jit: float | None = None
    """The largest difference to torch.jit in Python on the same artifact; None: not run."""
    seconds: float = 0.0

    def __bool__(self) -> bool:
        """True when the row passed."""
        return self.status == "passed"

    @property
    def label(self) -> str:
        """The name for people: "torch.jit in Python", "torchscript in C++"."""
        return f"{self.engine} in {self.language}"

    @property
    def worst(self) -> OutputParity | None:
        """The output and golden nearest to failing."""
        return worst(self.results)

    @property
    def outputs(self) -> dict[str, OutputParity]:
        """Maps each output to its worst golden."""
        names = dict.fromkeys(result.output for result in self.results)
        results = {
            name: worst(result for result in self.results if result.output == name)
            for name in names
        }
        return {name: result for name, result in results.items() if result is not None}

    @property
    def distance(self) -> float | None:
        """The worst RMS error to float64 of any output, in units of eager's own error.

        None where no float64 value was known.
        """
        known = [result.noise_units for result in self.results if result.to_truth]
        return max(known) if known else None

    @property
    def nans(self) -> int:
        """The number of NaN elements in all outputs."""
        return sum(result.nans for result in self.results)

    @property
    def infs(self) -> int:
        """The number of infinite elements in all outputs."""
        return sum(result.infs for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values; `worst` and `results` hold the fields of `OutputParity`."""
        return {
            "engine": self.engine,
            "language": self.language,
            "device": self.device,
            "artifact": self.artifact,
            "runtime": self.runtime,
            "reference": self.reference,
            "status": self.status,
            "passed": bool(self),
            "reason": self.reason,
            "goldens": len({result.golden for result in self.results}),
            "vs_torch_jit": self.vs_torch_jit,
            "distance": self.distance,
            "seconds": self.seconds,
            "worst": asdict(self.worst) if self.worst is not None else None,
            "results": [asdict(result) for result in self.results],
        }


@dataclass(frozen=True)
class VerifyReport:
    """All rows of a verification; truthy when the bundle is proven on this machine."""

    bundle: str
    rows: tuple[VerifyRow, ...]
    context: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ranked: bool = False
    """True when the document also ranks the rows by their distance to float64."""
    explanations: tuple[Explanation, ...] = ()
    """The first diverging submodule of each engine that was explained."""

    @property
    def ranking(self) -> tuple[VerifyRow, ...]:
        """The rows whose distance to float64 is known, the nearest first."""
        known = [row for row in self.rows if row.distance is not None]
        return tuple(sorted(known, key=lambda row: row.distance or 0.0))

    @property
    def ok(self) -> bool:
        """True when something ran and nothing that ran, or was asked for, failed."""
        judged = [row for row in self.rows if row.status != "absent"]
        return bool(judged) and all(judged)

    def __bool__(self) -> bool:
        """The same as `ok`."""
        return self.ok

    @property
    def failures(self) -> tuple[VerifyRow, ...]:
        """Rows that failed or could not run."""
        return tuple(row for row in self.rows if row.status in ("failed", "error"))

    @property
    def verdict(self) -> str:
        """The verdict in one sentence."""
        ran = sum(row.status != "absent" for row in self.rows)
        if self.ok:
            return f"PASSED: {ran} of {ran} ways of running {self.bundle} give the model's answers"
        if not ran:
            return f"FAILED: nothing could run {self.bundle}"
        first = self.failures[0]
        return (
            f"FAILED: {len(self.failures)} of {ran} ways of running {self.bundle};"
            f" first {first.label} on {first.device}: {first.reason}"
        )

    def raise_for_failure(self) -> None:
        """Raises `ParityError` (an AssertionError) with the whole table when `ok` is False."""
        if not self.ok:
            raise ParityError(self)

    def row(self, engine: str, device: str = "cpu") -> VerifyRow:
        """Returns the first row of an engine on a device.

        Raises:
            KeyError: There is none; names those that exist.
        """
        for row in self.rows:
            if row.engine == engine and row.device == device:
                return row
        names = ", ".join(f"{row.engine} on {row.device}" for row in self.rows)
        raise KeyError(f"no row {engine!r} on {device!r}; there are: {names}")

    def __str__(self) -> str:
        """Returns the tables as printed on the console."""
        return to_text(self)

    def document(self) -> Document:
        """Returns the report as a document to print; see `isthmus.document`."""
        return Document(
            title=f"isthmus verify {self.bundle}",
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            context=self.context,
            tables=(
                *self._tables(),
                *([_rank_table(self.ranking)] if self.ranked else []),
                *(explanation.table() for explanation in self.explanations),
            ),
            extra={"explanations": [explanation.to_json() for explanation in self.explanations]},
            passed=self.ok,
            verdict=self.verdict,
            rows=tuple(row.to_json() for row in self.rows),
            cases=tuple(_case(row) for row in self.rows),
            notes=(
                *[f"{row.label} on {row.device}: {row.reason}" for row in self.failures],
                *(line for explanation in self.explanations for line in explanation.lines),
                *self.notes,
            ),
        )

    def _tables(self) -> list[Table]:
        columns = ("engine", "device", "verdict", *_NUMBERS, "vs torch.jit", "worst at")
        ran = [row for row in self.rows if row.status != "absent"]
        tables = [
            Table(
                title="Parity: the worst output of the worst golden",
                columns=columns,
                rows=tuple(
                    (
                        row.label,
                        row.device,
                        row.status,
                        *_cells(row.worst, row.nans, row.infs),
                        number(row.vs_torch_jit),
                        _place(row.worst),
                    )
                    for row in ran
                ),
                marks=tuple(row.status == "passed" for row in ran),
                numeric=frozenset((*_NUMBERS, "vs torch.jit")),
            )
        ]
        absent = tuple(
            (row.label, row.device, row.reason) for row in self.rows if row.status == "absent"
        )
        if absent:
            tables.append(Table(title="Not run", columns=("engine", "device", "why"), rows=absent))
        several = [row for row in self.rows if len(row.outputs) > 1]
        if several:
            lines = [(row, name, result) for row in several for name, result in row.outputs.items()]
            tables.append(
                Table(
                    title="Each output",
                    columns=("engine", "device", "output", *_NUMBERS, "worst golden"),
                    rows=tuple(
                        (
                            row.label,
                            row.device,
                            name,
                            *_cells(result, result.nans, result.infs),
                            result.golden,
                        )
                        for row, name, result in lines
                    ),
                    marks=tuple(bool(result) for _, _, result in lines),
                    numeric=frozenset(_NUMBERS),
                )
            )
        return tables


_NUMBERS = (
    "max abs",
    "max rel",
    "x eager's own",
    "cosine",
    "NaN/Inf",
    "top 1/5",
    "of allowed",
    "would pass",
)


def _cells(result: OutputParity | None, nans: int, infs: int) -> tuple[str, ...]:
    if result is None:
        return ("-",) * len(_NUMBERS)
    return (
        number(result.max_abs),
        number(result.max_rel),
        number(result.noise_units),
        f"{result.cosine:.8f}",
        f"{nans}/{infs}",
        f"{result.argmax_agreement:.1%}/{result.topk_agreement:.1%}",
        f"{result.strain:.1%}",
        needed_of(result),
    )


def needed_of(result: OutputParity) -> str:
    """Returns the tolerance that would pass: "2.3 x rms" of eager's own error, or "atol 1e-06"."""
    if result.to_truth:
        return f"{number(result.multiple)} x {result.statistic}"
    return f"atol {number(result.passing_atol)}"


def _rank_table(rows: Sequence[VerifyRow]) -> Table:
    """Returns the rows by their distance to float64; eager's own is 1 by definition."""
    columns = ("rank", "engine", "device", "x eager's own RMS", "rms", "max", "worst at", "verdict")
    cells = []
    for at, row in enumerate(rows, start=1):
        worst = max(
            (result for result in row.results if result.to_truth),
            key=lambda result: result.noise_units,
        )
        cells.append(
            (
                str(at),
                row.label,
                row.device,
                number(worst.noise_units),
                number(worst.errors["rms"]),
                number(worst.errors["max"]),
                _place(worst),
                row.status,
            )
        )
    return Table(
        title="Rank: the distance to eager in float64",
        columns=columns,
        rows=tuple(cells),
        marks=tuple(bool(row) for row in rows),
        numeric=frozenset(("rank", "x eager's own RMS", "rms", "max")),
    )


def _place(result: OutputParity | None) -> str:
    return f"{result.output} of {result.golden}" if result is not None else "-"


def _case(row: VerifyRow) -> Case:
    lines = [
        f"{result.output} of {result.golden}: max abs {number(result.max_abs)},"
        f" {result.strain:.1%} of what is allowed, would pass with {needed_of(result)}"
        for result in row.results
    ]
    return Case(
        name=f"{row.label} on {row.device}",
        seconds=row.seconds,
        failure=row.reason if row.status in ("failed", "error") else "",
        skipped=row.reason if row.status == "absent" else "",
        output="\n".join(lines),
    )
