"""Writes a folder that reproduces an error: a submodule, its inputs, both outputs and a script."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from isthmus.proof.explain.layers import Values

__all__ = ["Repro", "write_repro"]

_SCRIPT = '''"""{sentence}

Runs the submodule in eager mode on its recorded inputs and compares with the output of {engine}.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

folder = Path(__file__).resolve().parent
sys.path[:0] = {paths!r}
inputs = load_file(folder / "inputs.safetensors")
eager = load_file(folder / "eager.safetensors")
engine = load_file(folder / "engine.safetensors")
truth = load_file(folder / "float64.safetensors")


def show(name, value, reference):
    error = (value.double() - reference.double()).abs()
    print(f"  {{name}}: max {{error.max():.3g}}, rms {{error.square().mean().sqrt():.3g}}")


for name in engine:
    if name in eager and engine[name].shape == eager[name].shape:
        print(f"output {{name}} of {path}, shape {{list(eager[name].shape)}}")
        show("{engine} against eager", engine[name], eager[name])
        if name in truth:
            show("{engine} against float64", engine[name], truth[name])
            show("eager against float64 (the noise floor)", eager[name], truth[name])

if (folder / "module.pt").exists():
    # The module is a pickle: loading it runs code, so trust the folder first.
    module = torch.load(folder / "module.pt", weights_only=False).eval()
    print(module)
    call = torch.load(folder / "call.pt", weights_only=False)
    with torch.no_grad():
        again = module(*call["args"], **call["kwargs"])
    first = again if isinstance(again, torch.Tensor) else next(iter(again))
    print("eager, run again on the same inputs:")
    show("against the recorded output", first, eager["0"])
'''


@dataclass(frozen=True)
class Repro:
    """A submodule in one call, with everything that reproduces its error."""

    sentence: str
    """The finding, for the head of the script."""
    engine: str
    path: str
    """The dotted path of the submodule; the model itself is ""."""
    module: nn.Module
    """The submodule in eager mode."""
    call: dict[str, object]
    """Its arguments in eager mode, "args" and "kwargs"."""
    eager: Values
    observed: Values
    """The values in the engine."""
    truth: Values | None
    """The values in float64; None if the model does not run in it."""
    import_paths: list[str]
    """The folders that the source of the submodule was imported from."""


def write_repro(folder: Path, repro: Repro) -> Path:
    """Writes the folder as a whole, replaces an older one, and returns its path."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, values in (
            ("inputs", repro.eager.inputs),
            ("eager", repro.eager.outputs),
            ("engine", repro.observed.outputs),
            ("float64", repro.truth.outputs if repro.truth else ()),
        ):
            tensors = {str(at): value.contiguous().clone() for at, value in enumerate(values)}
            save_file(tensors, target / f"{name}.safetensors")
        try:
            torch.save(repro.module, target / "module.pt")
            torch.save(repro.call, target / "call.pt")
        except Exception:  # not everything can be pickled; the tensors are there without it
            (target / "module.pt").unlink(missing_ok=True)
        script = _SCRIPT.format(
            sentence=repro.sentence,
            engine=repro.engine,
            path=repro.path or "the model",
            paths=repro.import_paths,
        )
        (target / "repro.py").write_text(script, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        target.rename(folder)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return folder
