"""Finds where a compiled package is wrong by weight ablation.

A package hides its intermediate outputs, but its weights can be changed. The weights of one
submodule after another are set to zero in package and model alike. If the two then agree, the error
reaches the output only through that submodule, so it lies before it; if they still differ, it does
not pass through that submodule. So the error lies after the last submodule whose ablation does not
hide it and before the first whose ablation does.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isthmus.bundle.manifest import Tolerance
from isthmus.capture.run_module import ModuleRunner
from isthmus.capture.values import flat_outputs
from isthmus.goldens.compare import compare
from isthmus.goldens.noise_floor import own_error
from isthmus.goldens.precision_copy import cast_copy, deep_copy
from isthmus.proof.explain.explain_job import ExplainJob, run_step
from isthmus.proof.explain.explanation import LayerError

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["Ablation", "Package", "find_by_ablation", "open_package"]

_IDENTITIES = ("Dropout", "Identity")
"""Prefixes and suffixes of classes that do nothing in eval mode; they are suspected last."""


class Package:
    """An AOTInductor package whose weights can be read and changed; it runs native code."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.weights: dict[str, Tensor] = {
            _name(key): value.clone() for key, value in runner.extract_constants_map(False).items()
        }
        """The weights by the model's parameter names."""
        names: Mapping[str, str] = runner.get_constant_names_to_original_fqns()
        self._keys = {_name(original): key for key, original in names.items()}
        """Maps the model's names to the package's own."""

    def has(self, name: str) -> bool:
        """Returns True if the package has a weight of this name."""
        return name in self.weights and name in self._keys

    def set(self, values: Mapping[str, Tensor]) -> None:
        """Replaces some weights."""
        self._runner.update_constant_buffer(
            {self._keys[name]: value for name, value in values.items()}, False, False
        )

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Runs the package on flat inputs and returns its flat outputs."""
        return [output.clone() for output in self._runner.run(list(inputs))]


@contextmanager
def open_package(bundle: Bundle, name: str) -> Iterator[Package | None]:
    """Opens the package of an artifact; gives None if this torch cannot open it for changes."""
    content = bundle.read(bundle.artifact(name).files[0])
    with tempfile.TemporaryDirectory(prefix="isthmus-explain-") as folder:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # A name of our own: the archive's could point outside of the folder.
            member = next((name for name in archive.namelist() if name.endswith(".so")), None)
            if member is None:
                yield None
                return
            library = Path(folder, "package.so")
            library.write_bytes(archive.read(member))
        try:
            runner: Any = torch._C._aoti.AOTIModelContainerRunnerCpu
            package: Package | None = Package(runner(str(library), 1))
        except (AttributeError, RuntimeError):
            package = None
        yield package


@dataclass(frozen=True)
class Ablation:
    """The submodules between which an error lies."""

    culprit: LayerError
    after: str
    """The last submodule whose ablation does not hide the error; empty if all hide it."""
    before: str
    """The first submodule whose ablation hides the error; empty if none does."""

    @property
    def sentence(self) -> str:
        """The finding, without the engine's name."""
        behind = f"behind {self.after} and " if self.after else ""
        return (
            f"{self.culprit.name} is where the package is wrong: the fault lies {behind}before "
            f"{self.before or 'the output'}, whose weights hide it when they are set to zero in "
            "package and model alike"
        )


def find_by_ablation(
    job: ExplainJob, module: nn.Module, layers: Sequence[LayerError]
) -> Ablation | None:
    """Names where a package leaves the model although its weights are the model's.

    Args:
        job: The call, of an AOTInductor package; its trust allows native code.
        module: The right model; is left as it came.
        layers: All submodules, in the order in which they finish.

    Returns:
        None if the package is right on this call or cannot be opened.
    """
    with open_package(job.bundle, job.artifact.name) as package:
        if package is None:
            return None
        probe = _Probe(package, job, module)
        if not probe.differs():
            return None
        paths = [layer.path for layer in layers if package.has(_weight(layer.path))]
        job.options.say(
            f"Setting the weights of {len(paths)} submodules to zero, one after the other"
        )
        hides = {path: not probe.differs(path) for path in paths}
    before = next((path for path in paths if hides[path]), "")
    earlier = paths[: paths.index(before)] if before else paths
    after = earlier[-1] if earlier else ""
    order = [layer.path for layer in layers]
    begin = order.index(after) + 1 if after else 0
    end = order.index(before) if before else len(order)
    return Ablation(_suspect(layers, layers[begin:end], after, before), after, before)


def _suspect(
    layers: Sequence[LayerError], between: Sequence[LayerError], after: str, before: str
) -> LayerError:
    """Returns the first layer between the two that computes, else their parent, else `before`."""
    inner = {layer.path.rpartition(".")[0] for layer in layers}
    between = [layer for layer in between if layer.path not in inner]
    for layer in between:
        if not layer.kind.startswith(_IDENTITIES) and not layer.kind.endswith(_IDENTITIES):
            return layer
    named = {layer.path: layer for layer in layers}
    parent = before.rpartition(".")[0]
    if not between and after.rpartition(".")[0] == parent and parent in named:
        return named[parent]
    return named.get(before, layers[-1])


class _Probe:
    """Runs the same call of package and model, with the weights of one submodule at zero."""

    def __init__(self, package: Package, job: ExplainJob, module: nn.Module) -> None:
        from isthmus.exporters.torchscript.trace import as_tensors

        self._package = package
        self._job = job
        self._inputs = as_tensors(job.method, job.step.inputs, "cpu")
        self._eager = deep_copy(module)
        self._in_float64: nn.Module | None = cast_copy(module, torch.float64)

    def differs(self, path: str = "") -> bool:
        """Returns True if the package is beyond the tolerance, with this submodule's weight at 0.

        An empty path leaves all weights as they are.
        """
        method, tolerances = self._job.method, self._job.artifact.tolerances
        with self._ablated(path):
            outputs = self._package.run(self._inputs)
            expected = self._run(self._eager)
            truth: dict[str, Tensor] = {}
            if self._in_float64 is not None:
                try:
                    truth = self._run(self._in_float64, torch.float64)
                except Exception:  # an operator without float64: the absolute tolerance judges
                    self._in_float64 = None
        return not all(
            compare(
                spec.name,
                expected[spec.name],
                actual,
                tolerances.get(spec.name, Tolerance(0.0, 0.0)),
                None,
                own_error(expected[spec.name], truth.get(spec.name)),
            )
            for spec, actual in zip(method.outputs, outputs, strict=False)
            if spec.name in expected
        )

    @contextmanager
    def _ablated(self, path: str) -> Iterator[None]:
        if not path:
            yield
            return
        name = _weight(path)
        own = self._package.weights[name]
        models = [model for model in (self._eager, self._in_float64) if model is not None]
        weights = [model.get_parameter(name) for model in models]
        kept = [weight.detach().clone() for weight in weights]
        self._package.set({name: torch.zeros_like(own)})
        with torch.no_grad():
            for weight in weights:
                weight.zero_()
        try:
            yield
        finally:
            self._package.set({name: own})
            with torch.no_grad():
                for weight, value in zip(weights, kept, strict=True):
                    weight.copy_(value)

    def _run(self, module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        method = self._job.method
        with ModuleRunner(module, stateful=False) as runner:
            return flat_outputs(method, run_step(runner, method, self._job.step, dtype))


def _weight(path: str) -> str:
    return f"{path}.weight"


def _name(key: str) -> str:
    """Returns the model's name of a package's weight."""
    return key.removeprefix("holder.module.")
