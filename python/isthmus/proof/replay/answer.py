"""The recorded answer of one call, judged."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from isthmus.goldens.compare import OutputParity

__all__ = ["Answer", "Status"]

Status = Literal["right", "wrong", "refused", "failed", "model fails", "unknown"]
"""The values mean: wrong: the answer is not the reference's; refused: the input did not fit the
signature; failed: the engine threw; model fails: the model itself does not run on the input;
unknown: there is no reference."""


@dataclass(frozen=True)
class Answer:
    """The recorded answer of one call, judged; truthy when it is right."""

    call: str
    engine: str
    device: str
    status: Status
    reason: str = ""
    golden: str = ""
    """The name of the golden that gave the engines here the same input."""
    results: tuple[OutputParity, ...] = ()

    def __bool__(self) -> bool:
        """Returns True if the answer is right."""
        return self.status == "right"

    def to_json(self) -> dict[str, Any]:
        """Returns the answer as JSON data."""
        return {**asdict(self), "results": [asdict(result) for result in self.results]}
