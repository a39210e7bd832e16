"""The inputs and outputs that `inspect` shows, from a manifest or from TorchScript's code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from isthmus.bundle.manifest import Manifest, ValueSpec
from isthmus.proof.inspection import Value

__all__ = ["method_values"]

ByMethod = dict[str, tuple[Value, ...]]


def method_values(manifest: Manifest | None, code: Mapping[str, str]) -> tuple[ByMethod, ByMethod]:
    """Returns the inputs and the outputs by method: of the manifest, else of the code."""
    if manifest is None:
        return _values_in_code(code)
    inputs = {method.name: _values(method.inputs) for method in manifest.methods}
    outputs = {method.name: _values(method.outputs) for method in manifest.methods}
    return inputs, outputs


def _values(specs: Sequence[ValueSpec]) -> tuple[Value, ...]:
    return tuple(Value(spec.name, _type_text(spec)) for spec in specs)


def _type_text(spec: ValueSpec) -> str:
    shape = "any rank"
    if spec.shape is not None:
        shape = ", ".join("?" if size is None else str(size) for size in spec.shape)
    return f"{spec.dtype}[{shape}]" + (" or None" if spec.optional else "")


_METHOD = re.compile(
    r"^  def (?P<name>\w+)\(self: [\w.]+(?P<inputs>[^)]*)\) -> (?P<output>[^\n]+):\s*$",
    re.MULTILINE,
)
_ROOT = re.compile(r"^class (?P<name>\w+)\(Module\):", re.MULTILINE)


def _values_in_code(code: Mapping[str, str]) -> tuple[ByMethod, ByMethod]:
    """Reads the methods of the last class of the archive's module, where torch writes the root."""
    inputs: ByMethod = {}
    outputs: ByMethod = {}
    text = next((body for name, body in code.items() if name.endswith("code/__torch__.py")), "")
    if not text and code:
        text = max(code.values(), key=len)
    roots = list(_ROOT.finditer(text))
    for method in _METHOD.finditer(text[roots[-1].start() :] if roots else ""):
        parts = [
            part.strip() for part in method["inputs"].lstrip(",\n ").split(",\n") if part.strip()
        ]
        inputs[method["name"]] = tuple(
            Value(*(piece.strip() for piece in part.partition(":")[::2])) for part in parts
        )
        outputs[method["name"]] = (Value("output", method["output"].strip()),)
    return inputs, outputs
