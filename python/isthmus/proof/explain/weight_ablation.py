"""Where a compiled package is wrong inside, found by masking: its weights are set to zero.

A package shows nothing of what is between its inputs and outputs, but its weights can be changed.
Without the weights of one submodule, what comes before it reaches the output in fewer ways: where
package and model agree then, the fault lies before that submodule, and where they still differ, it
does not pass through it. So the fault lies behind the last submodule that does not hide it and
before the first that does.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isthmus.bundle.manifest import Tolerance
from isthmus.capture.run_module import call, evaluating, seeded
from isthmus.capture.values import flat_outputs
from isthmus.goldens.compare import compare
from isthmus.goldens.noise_floor import own_error
from isthmus.goldens.precision_copy import cast_copy, cast_values, deep_copy
from isthmus.proof.explain.explanation import LayerError

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Step
    from isthmus.bundle.manifest import Artifact, Method

__all__ = ["Masked", "Package", "find_by_ablation", "open_package"]

_IDENTITIES = ("Dropout", "Identity")
"""Classes whose name begins or ends so do nothing in eval mode: the last to be suspected."""


class Package:
    """An AOTInductor package whose weights can be read and changed. Runs its native code."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.weights: dict[str, Tensor] = {
            _name(key): value.clone() for key, value in runner.extract_constants_map(False).items()
        }
        """By the model's parameter names."""
        names: Mapping[str, str] = runner.get_constant_names_to_original_fqns()
        self._keys = {_name(original): key for key, original in names.items()}
        """What the package itself calls them, by the model's names."""

    def has(self, name: str) -> bool:
        """Whether there is such a weight."""
        return name in self.weights and name in self._keys

    def set(self, values: Mapping[str, Tensor]) -> None:
        """Replaces some weights."""
        self._runner.update_constant_buffer(
            {self._keys[name]: value for name, value in values.items()}, False, False
        )

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Flat inputs to flat outputs."""
        return [one.clone() for one in self._runner.run(list(inputs))]


@contextmanager
def open_package(bundle: Bundle, name: str) -> Iterator[Package | None]:
    """The package of an artifact, for as long as the context lasts.

    None where this torch cannot open it so.
    """
    content = bundle.read(bundle.artifact(name).files[0])
    with tempfile.TemporaryDirectory(prefix="isthmus-explain-") as folder:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # By its own name, not by the archive's: nothing is written outside of the folder.
            member = next((one for one in archive.namelist() if one.endswith(".so")), None)
            if member is None:
                yield None
                return
            library = Path(folder, "package.so")
            library.write_bytes(archive.read(member))
        try:
            kind: Any = torch._C._aoti.AOTIModelContainerRunnerCpu
            package: Package | None = Package(kind(str(library), 1))
        except (AttributeError, RuntimeError):
            package = None
        yield package


@dataclass(frozen=True)
class Masked:
    """Between which submodules a fault lies."""

    culprit: LayerError
    after: str
    """The last that does not hide the fault; empty where every one does."""
    before: str
    """The first that hides it."""

    @property
    def sentence(self) -> str:
        """What was found, without the engine's name."""
        behind = f"behind {self.after} and " if self.after else ""
        return (
            f"{self.culprit.name} is where the package is wrong: the fault lies {behind}before "
            f"{self.before or 'the output'}, whose weights hide it when they are set to zero in "
            "package and model alike"
        )


def find_by_ablation(
    bundle: Bundle,
    artifact: Artifact,
    module: nn.Module,
    method: Method,
    step: Step,
    layers: Sequence[LayerError],
    progress: Callable[[str], None],
) -> Masked | None:
    """Names where a package leaves the model, though its weights are the model's.

    Args:
        bundle: Holds it; native code is allowed.
        artifact: The package.
        module: The right model; is left as it came.
        method: The one that is called.
        step: The call.
        layers: All submodules, in the order in which they finish.
        progress: Called with a line at the start.

    Returns:
        None where the package is right on this call, or cannot be opened, or nothing hides it.
    """
    with open_package(bundle, artifact.name) as package:
        if package is None:
            return None
        probe = _Probe(package, artifact, module, method, step)
        if not probe.differs():
            return None
        paths = [layer.path for layer in layers if probe.masks(layer.path)]
        progress(f"Setting the weights of {len(paths)} submodules to zero, one after the other")
        hides = {path: not probe.differs(path) for path in paths}
    first = next((path for path in paths if hides[path]), None)
    earlier = paths if first is None else paths[: paths.index(first)]
    after = earlier[-1] if earlier else ""
    order = [layer.path for layer in layers]
    begin = order.index(after) + 1 if after else 0
    end = order.index(first) if first is not None else len(order)
    culprit = _suspect(layers, layers[begin:end], after, first or "")
    return Masked(culprit, after, first or "")


def _suspect(
    layers: Sequence[LayerError], between: Sequence[LayerError], after: str, before: str
) -> LayerError:
    """The first between them that does something; else their parent; else what hides the fault."""
    inner = {layer.path.rpartition(".")[0] for layer in layers}
    between = [one for one in between if one.path not in inner]
    for one in between:
        if not one.kind.startswith(_IDENTITIES) and not one.kind.endswith(_IDENTITIES):
            return one
    named = {layer.path: layer for layer in layers}
    parent = before.rpartition(".")[0]
    if not between and after.rpartition(".")[0] == parent and parent in named:
        return named[parent]
    return named.get(before, layers[-1])


class _Probe:
    """The same call of package and model, with the weights of one submodule set to zero."""

    def __init__(
        self,
        package: Package,
        artifact: Artifact,
        module: nn.Module,
        method: Method,
        step: Step,
    ) -> None:
        from isthmus.exporters.torchscript.trace import as_tensors

        self._package = package
        self._tolerances = artifact.tolerances
        self._method = method
        self._step = step
        self._inputs = as_tensors(method, step.inputs, "cpu")
        self._eager = deep_copy(module).eval()
        self._wide: nn.Module | None = cast_copy(module, torch.float64).eval()

    def masks(self, path: str) -> bool:
        """Whether a submodule has a weight that the package has too."""
        return self._package.has(f"{path}.weight")

    def differs(self, path: str = "") -> bool:
        """Whether the package is beyond the tolerance, with this submodule's weight at zero."""
        with self._masked(path):
            got = self._package.run(self._inputs)
            expected = self._run(self._eager, None)
            truth: dict[str, Tensor] = {}
            if self._wide is not None:
                try:
                    truth = self._run(self._wide, torch.float64)
                except Exception:  # an operator without float64: the absolute tolerance judges
                    self._wide = None
        for spec, actual in zip(self._method.outputs, got, strict=False):
            reference = expected.get(spec.name)
            if reference is None:
                continue
            found = compare(
                spec.name,
                reference,
                actual,
                self._tolerances.get(spec.name, Tolerance(0.0, 0.0)),
                None,
                own_error(reference, truth.get(spec.name)),
            )
            if not found:
                return True
        return False

    @contextmanager
    def _masked(self, path: str) -> Iterator[None]:
        if not path:
            yield
            return
        name = f"{path}.weight"
        own = self._package.weights[name]
        models = [one for one in (self._eager, self._wide) if one is not None]
        weights = [model.get_parameter(name) for model in models]
        kept = [weight.detach().clone() for weight in weights]
        self._package.set({name: torch.zeros_like(own)})
        with torch.no_grad():
            for one in weights:
                one.zero_()
        try:
            yield
        finally:
            self._package.set({name: own})
            with torch.no_grad():
                for one, value in zip(weights, kept, strict=True):
                    one.copy_(value)

    def _run(self, module: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
        values: Mapping[str, Any] = self._step.inputs
        if dtype is not None:
            values = {name: cast_values(value, dtype) for name, value in values.items()}
        with evaluating(module), seeded(0):
            return flat_outputs(self._method, call(module, self._method, values))


def _name(key: str) -> str:
    """As the model calls it."""
    return key.removeprefix("holder.module.")
