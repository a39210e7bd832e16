"""Runs one bundle's engine on the inputs of another's goldens.

Started as `python -m isthmus.bundle_diff.worker REQUEST`.

A process of its own, for two runtimes with live thread pools slow each other down. The outputs are
written as `isthmus.proof.verify_worker` writes them, in the order of the goldens that are named,
under the names of the bundle that the goldens are of.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.proof.verify_worker import Outputs, golden_file, run_all
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.load_engine import load_engine
from isthmus.runtime.python_engine import PythonEngine, Values

if TYPE_CHECKING:
    from torch import Tensor

Names = Mapping[str, Mapping[str, str]]
"""By method: A's name to B's."""


class Renaming:
    """A runner that is called by A's names."""

    def __init__(self, runner: PythonEngine, inputs: Names, outputs: Names) -> None:
        self._runner = runner
        self._inputs = inputs
        self._outputs = {
            method: {new: old for old, new in names.items()} for method, names in outputs.items()
        }
        self.runtime = runner.runtime

    def reset(self) -> None:
        """See `PythonEngine.reset`."""
        self._runner.reset()

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """See `PythonEngine.bind`."""
        names = self._inputs.get(method, {})
        return self._runner.bind(
            method, {names.get(key, key): input_spec for key, input_spec in inputs.items()}
        )

    def run(self, method: str, inputs: Values) -> dict[str, Tensor]:
        """See `PythonEngine.run`; outputs that A does not have are left out."""
        names = self._inputs.get(method, {})
        given = {names.get(key, key): input_spec for key, input_spec in inputs.items()}
        known = self._outputs.get(method, {})
        found = self._runner.run(method, given)
        return {known[name]: value for name, value in found.items() if name in known}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from safetensors.torch import save_file

    from isthmus.bundle.bundle import open_bundle

    spec = EngineSpec.from_json(request["spec"])
    source = open_bundle(Path(request["goldens_of"]))
    goldens = [source.golden(name) for name in request["goldens"]]
    folder = Path(request["folder"])
    try:
        runner, _ = load_engine(spec, open_bundle(Path(spec.bundle)))
    except Exception as error:  # becomes the reason
        return {"error": f"{type(error).__name__}: {error}"}

    def save(index: int, outputs: Outputs) -> None:
        save_file(outputs, golden_file(folder, index))

    crossed = Renaming(runner, request["inputs"], request["outputs"])
    errors, drift = run_all(crossed, goldens, save, repeat=True)
    return {"runtime": runner.runtime, "errors": errors, "drift": str(drift)}


def main() -> None:
    """Reads the request that the command line names, and writes its answer."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer = Path(request["answer"])
    answer.write_text(json.dumps(_answer(request)), encoding="utf-8")


if __name__ == "__main__":
    main()
