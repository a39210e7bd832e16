"""Runs all goldens of a bundle in a process of its own.

Started as `python -m isthmus.proof.verify_worker REQUEST`. The request names engines and a folder
for each. The outputs are written there as safetensors, numbered in the order of the goldens, with
the keys STEP/out/NAME of docs/format.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from isthmus.goldens.compare import difference
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.load_engine import load_engine
from isthmus.runtime.worker_main import run_worker

if TYPE_CHECKING:
    from torch import Tensor

    from isthmus.bundle.golden import Golden
    from isthmus.runtime.python_engine import Values

Outputs = dict[str, "Tensor"]
"""Maps STEP/out/NAME to the output; absent values have no key."""


class Runnable(Protocol):
    """The part of `PythonEngine` that goldens need."""

    def reset(self) -> None:
        """Puts the state back as it was after load."""

    def run(self, method: str, inputs: Values) -> dict[str, Tensor]:
        """Calls a method; returns its outputs by name, on the CPU."""
        ...


def run_golden(engine: Runnable, golden: Golden) -> Outputs:
    """Returns the outputs of a golden's calls, from the state after load."""
    engine.reset()
    outputs: Outputs = {}
    for index, step in enumerate(golden.steps):
        for name, value in engine.run(step.method, step.inputs).items():
            outputs[f"{index}/out/{name}"] = value.contiguous()
    return outputs


def golden_file(folder: Path, index: int) -> Path:
    """Returns the file that holds the outputs of the golden with this index."""
    return folder / f"{index:04}.safetensors"


def run_all(
    engine: Runnable,
    goldens: Sequence[Golden],
    save: Callable[[int, Outputs], None],
    *,
    repeat: bool,
    served: Sequence[bool] = (),
) -> tuple[dict[str, str], float]:
    """Runs every golden; returns the errors by golden, and the largest difference of a second run.

    A second run also shows failures that come late: the fuser of TorchScript starts on the second
    or third call.

    Args:
        engine: The engine.
        goldens: All goldens of the bundle.
        save: Receives the index of a golden and its outputs.
        repeat: True to run each golden twice.
        served: Whether the artifact serves the sizes of each golden; all where it is empty.
    """
    errors: dict[str, str] = {}
    drift = 0.0
    for index, golden in enumerate(goldens):
        if served and not served[index]:
            continue
        try:
            first = run_golden(engine, golden)
            if repeat:
                second = run_golden(engine, golden)
                for key in first.keys() | second.keys():
                    drift = max(drift, difference(first.get(key), second.get(key)))
        except Exception as error:  # one golden's failure is that golden's reason
            errors[golden.name] = f"{type(error).__name__}: {error}"
        else:
            save(index, first)
    return errors, drift


def _run(spec: EngineSpec, folder: Path, *, repeat: bool) -> dict[str, Any]:
    from safetensors.torch import save_file

    from isthmus.bundle.bundle import open_bundle

    try:
        bundle = open_bundle(Path(spec.bundle))
        artifact = bundle.artifact(spec.artifact) if spec.artifact else None
        goldens = bundle.goldens()
        served = [artifact is None or artifact.serves(golden.dims) for golden in goldens]
        engine, _ = load_engine(spec, bundle)
    except Exception as error:  # becomes the row's reason
        return {"error": f"{type(error).__name__}: {error}"}

    def save(index: int, outputs: Outputs) -> None:
        save_file(outputs, golden_file(folder, index))

    errors, drift = run_all(engine, goldens, save, repeat=repeat, served=served)
    return {"runtime": engine.runtime, "errors": errors, "drift": str(drift)}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "runs": [
            _run(EngineSpec.from_json(run["spec"]), Path(run["folder"]), repeat=run["repeat"])
            for run in request["runs"]
        ]
    }


if __name__ == "__main__":
    run_worker(_answer)
