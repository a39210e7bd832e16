"""A folder that shows the fault: the submodule, its inputs, both outputs, and a script."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from isthmus.proof.explain.explanation import LayerError
from isthmus.proof.explain.layers import Values

__all__ = ["write_repro"]

_SCRIPT = '''"""{sentence}

Runs the submodule in eager mode on the inputs that it had, and compares with what {engine} gave.
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
    # The module is a pickle that isthmus wrote: load it as you would run a program.
    module = torch.load(folder / "module.pt", weights_only=False).eval()
    print(module)
    call = torch.load(folder / "call.pt", weights_only=False)
    with torch.no_grad():
        again = module(*call["args"], **call["kwargs"])
    first = again if isinstance(again, torch.Tensor) else next(iter(again))
    print("eager, run again on the same inputs:")
    show("against the recorded output", first, eager["0"])
'''


def write_repro(
    folder: Path,
    *,
    sentence: str,
    engine: str,
    layer: LayerError,
    module: nn.Module,
    call: dict[str, object],
    eager: Values,
    given: Values,
    truth: Values | None,
    paths: list[str],
) -> Path:
    """Writes the folder whole, replacing one of the same name.

    Args:
        folder: To be made.
        sentence: What was found.
        engine: Whose fault it is.
        layer: The submodule.
        module: The same, in eager mode.
        call: Its "args" and "kwargs" in eager mode.
        eager: What it took and gave in eager mode.
        given: The same in the engine.
        truth: The same in float64.
        paths: Folders that its source was imported from.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, values in (
            ("inputs", eager.inputs),
            ("eager", eager.outputs),
            ("engine", given.outputs),
            ("float64", truth.outputs if truth else ()),
        ):
            tensors = {str(at): value.contiguous().clone() for at, value in enumerate(values)}
            save_file(tensors, made / f"{name}.safetensors")
        try:
            torch.save(module, made / "module.pt")
            torch.save(call, made / "call.pt")
        except Exception:  # what cannot be pickled is left out: the tensors are there
            (made / "module.pt").unlink(missing_ok=True)
        script = _SCRIPT.format(
            sentence=sentence, engine=engine, path=layer.path or "the model", paths=paths
        )
        (made / "repro.py").write_text(script, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder
