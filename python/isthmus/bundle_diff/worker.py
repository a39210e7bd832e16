"""Runs a bundle's engine on the inputs of another bundle's goldens.

Started as `python -m isthmus.bundle_diff.worker REQUEST`.

It has a process of its own, because two runtimes with live thread pools slow each other down. The
outputs are written as `isthmus.proof.verify_worker` writes them, in the order of the named goldens,
under the names of the goldens' bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.proof.verify_worker import Outputs, golden_file, run_all
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.load_engine import load_engine
from isthmus.runtime.python_engine import PythonEngine, Values
from isthmus.runtime.worker_main import run_worker

if TYPE_CHECKING:
    from torch import Tensor

Names = Mapping[str, Mapping[str, str]]
"""Maps a method to B's name of each of A's values."""


class RenamedEngine:
    """An engine of B that is called by A's names."""

    def __init__(self, engine: PythonEngine, inputs: Names, outputs: Names) -> None:
        self._engine = engine
        self._inputs = inputs
        self._outputs = {
            method: {new: old for old, new in names.items()} for method, names in outputs.items()
        }

    def reset(self) -> None:
        """Puts the state back as it was after load."""
        self._engine.reset()

    def run(self, method: str, inputs: Values) -> dict[str, Tensor]:
        """Calls a method; outputs that A does not have are left out."""
        names = self._inputs.get(method, {})
        known = self._outputs.get(method, {})
        outputs = self._engine.run(
            method, {names.get(name, name): value for name, value in inputs.items()}
        )
        return {known[name]: value for name, value in outputs.items() if name in known}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from safetensors.torch import save_file

    from isthmus.bundle.bundle import open_bundle

    spec = EngineSpec.from_json(request["spec"])
    source = open_bundle(Path(request["goldens_of"]))
    goldens = [source.golden(name) for name in request["goldens"]]
    folder = Path(request["folder"])
    engine, _ = load_engine(spec, open_bundle(Path(spec.bundle)))

    def save(index: int, outputs: Outputs) -> None:
        save_file(outputs, golden_file(folder, index))

    renamed = RenamedEngine(engine, request["inputs"], request["outputs"])
    errors, drift = run_all(renamed, goldens, save, repeat=True)
    return {"runtime": engine.runtime, "errors": errors, "drift": str(drift)}


if __name__ == "__main__":
    run_worker(_answer)
