"""The result of explain: the layers with their errors, and the first that diverges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from isthmus.document import Case, Document, Table, number

SCHEMA = "isthmus-explain"
SCHEMA_VERSION = 1

_AROUND = 8
"""The number of layers shown on either side of the first that diverges."""


@dataclass(frozen=True)
class LayerError:
    """A submodule in one call: the engine's error to float64, beside eager's own."""

    path: str
    """The dotted path; the model itself is ""."""
    kind: str
    """The name of its class."""
    source: str
    """file:line of its forward; empty if Python has no source of it."""
    multiple: float = 0.0
    """The RMS error in units of eager's own; without float64, the share of the tolerance used."""
    rms: float = 0.0
    """The RMS error to float64; without float64, the largest difference from eager."""
    own_rms: float = 0.0
    """Eager's own RMS error, the layer's noise floor; without float64, the absolute tolerance."""
    statistic: str = ""
    """The statistic that is nearest to failing; "atol" without float64."""
    diverged: bool = False
    """True when the error is beyond the layer's own noise floor."""
    inputs_diverged: bool = False
    """True when the layer's inputs were wrong already."""
    seen: bool = True
    """False when the artifact does not show the layer."""

    @property
    def name(self) -> str:
        """The path and the class: "encoder.layer.3 (BertLayer)"."""
        return f"{self.path or 'the model itself'} ({self.kind})"


@dataclass(frozen=True)
class Explanation:
    """The reason why an engine's answers are not the model's; truthy when a submodule was named."""

    bundle: str
    engine: str
    artifact: str
    golden: str
    layers: tuple[LayerError, ...]
    """The layers in the order in which they finish: children come before their parent."""
    culprit: LayerError | None = None
    """The first submodule that diverges on right inputs."""
    sentence: str = ""
    """The finding."""
    hints: tuple[str, ...] = ()
    """Further facts about the cause: weights that differ, lines of the source."""
    repro: str = ""
    """The folder with the submodule, its inputs, both outputs and a script; empty without one."""
    context: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Returns True when a submodule was named."""
        return self.culprit is not None

    @property
    def lines(self) -> tuple[str, ...]:
        """The finding and the hints, a sentence a line."""
        repro = [f"run python {self.repro}/repro.py to see it"] if self.repro else []
        return (self.sentence, *self.hints, *repro)

    def to_json(self) -> dict[str, Any]:
        """Returns the explanation as JSON data."""
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
        """Returns a table of the layers around the first that diverges."""
        seen = [layer for layer in self.layers if layer.seen]
        first = next((at for at, layer in enumerate(seen) if layer.diverged), 0)
        shown = seen[max(0, first - _AROUND) : first + _AROUND + 1]
        if seen and seen[-1] not in shown:
            shown.append(seen[-1])
        return Table(
            title=f"Error by layer: {self.engine}, golden {self.golden}",
            columns=("layer", "x eager's own", "by", "rms", "eager's rms", "verdict"),
            rows=tuple(
                (
                    layer.name,
                    number(layer.multiple),
                    layer.statistic,
                    number(layer.rms),
                    number(layer.own_rms),
                    _verdict(layer, self.culprit),
                )
                for layer in shown
            ),
            marks=tuple(not layer.diverged for layer in shown),
            numeric=frozenset(("x eager's own", "rms", "eager's rms")),
        )

    def document(self) -> Document:
        """Returns what reporters print; see `isthmus.document`."""
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


def _verdict(layer: LayerError, culprit: LayerError | None) -> str:
    if culprit is not None and layer.path == culprit.path:
        return "FIRST TO DIVERGE"
    if layer.diverged and layer.inputs_diverged:
        return "diverges, from wrong inputs"
    return "diverges" if layer.diverged else "right"
