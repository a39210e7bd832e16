"""Where an engine leaves the model: the layers with their errors, and the first that diverges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from isthmus.document import Case, Document, Table, number

SCHEMA = "isthmus-explain"
SCHEMA_VERSION = 1

_AROUND = 8
"""Layers shown on either side of the first that diverges."""


@dataclass(frozen=True)
class LayerError:
    """A submodule in one call: what the engine gave, against eager in float64."""

    path: str
    """Dotted; the model itself is ""."""
    kind: str
    """Its class."""
    source: str
    """file:line of its forward; empty where it cannot be told."""
    multiple: float = 0.0
    """RMS error to float64 in units of eager's own; where that is not known, of what is allowed."""
    rms: float = 0.0
    """RMS error to float64."""
    own_rms: float = 0.0
    """The same of eager: the layer's noise floor."""
    statistic: str = ""
    """The one that is nearest to failing; "atol" where float64 is not known."""
    diverged: bool = False
    """Beyond its own noise floor."""
    inputs_diverged: bool = False
    """What it was given was wrong already."""
    seen: bool = True
    """False: the artifact does not show it."""

    @property
    def name(self) -> str:
        """ "encoder.layer.3 (BertLayer)"."""
        return f"{self.path or 'the model itself'} ({self.kind})"


@dataclass(frozen=True)
class Explanation:
    """Why an engine's answers are not the model's; truthy when a submodule was named."""

    bundle: str
    engine: str
    artifact: str
    golden: str
    layers: tuple[LayerError, ...]
    """In the order in which they finish: what is inside a submodule comes before it."""
    culprit: LayerError | None = None
    """The first submodule that diverges on inputs that are right."""
    sentence: str = ""
    """What was found."""
    hints: tuple[str, ...] = ()
    """What else is known of the cause: weights that differ, lines of the source."""
    repro: str = ""
    """Folder with the submodule, its inputs, both outputs and a script; empty without one."""
    context: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether a submodule was named."""
        return self.culprit is not None

    @property
    def lines(self) -> tuple[str, ...]:
        """What was found, a sentence a line."""
        repro = [f"run python {self.repro}/repro.py to see it"] if self.repro else []
        return (self.sentence, *self.hints, *repro)

    def to_json(self) -> dict[str, Any]:
        """The facts for machines."""
        return {
            "engine": self.engine,
            "artifact": self.artifact,
            "golden": self.golden,
            "culprit": asdict(self.culprit) if self.culprit is not None else None,
            "sentence": self.sentence,
            "hints": list(self.hints),
            "repro": self.repro,
            "layers": [asdict(layer) for layer in self.layers],
        }

    def table(self) -> Table:
        """The layers around the first that diverges."""
        seen = [layer for layer in self.layers if layer.seen]
        first = next((at for at, one in enumerate(seen) if one.diverged), 0)
        shown = seen[max(0, first - _AROUND) : first + _AROUND + 1]
        if seen and seen[-1] not in shown:
            shown.append(seen[-1])
        return Table(
            title=f"Error by layer: {self.engine}, golden {self.golden}",
            columns=("layer", "x eager's own", "by", "rms", "eager's rms", "verdict"),
            rows=tuple(
                (
                    one.name,
                    number(one.multiple),
                    one.statistic,
                    number(one.rms),
                    number(one.own_rms),
                    _verdict(one, self.culprit),
                )
                for one in shown
            ),
            marks=tuple(not one.diverged for one in shown),
            numeric=frozenset(("x eager's own", "rms", "eager's rms")),
        )

    def document(self) -> Document:
        """See `isthmus.report`."""
        return Document(
            title=f"isthmus verify --explain {self.bundle}",
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            context=self.context,
            tables=(self.table(),),
            passed=bool(self),
            verdict=self.sentence,
            rows=(self.to_json(),),
            cases=(Case(f"{self.engine} explained", failure="" if self else self.sentence),),
            notes=self.lines[1:],
        )


def _verdict(layer_error: LayerError, culprit: LayerError | None) -> str:
    if culprit is not None and layer_error.path == culprit.path:
        return "FIRST TO DIVERGE"
    if layer_error.diverged and layer_error.inputs_diverged:
        return "diverges, from wrong inputs"
    return "diverges" if layer_error.diverged else "right"
