"""The ways to run a bundle's model from Python, behind one small interface.

Eager, `torch.jit` and the native library take the same named tensors and give the same named
tensors, so that verify and bench treat them alike. Each is meant for a process of its own.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import io
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from isthmus.errors import BundleError, InvalidInput
from isthmus.manifest import Artifact, Manifest, Method, Tree, ValueSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from isthmus.bundle import Bundle

Values = Mapping[str, "Tensor | None"]


@dataclass(frozen=True)
class RunnerSpec:
    """Which runner to make: what a worker process is asked for."""

    kind: str
    """"eager", "torch.jit" or "isthmus"."""
    bundle: str
    artifact: str = ""
    engine: str = "auto"
    device: str = "cpu"
    threads: int = 0
    """Intra-operator threads; 0 leaves them as they are."""
    optimize: str = "none"
    """What is done to the graph at load: "none", "freeze", "inference"; "auto" for isthmus only."""
    warmup: bool = True
    """Only isthmus warms up at load."""
    trust: str = "graph"
    op_libraries: tuple[str, ...] = ()
    model: str = ""
    """Where the eager module comes from; empty: where the manifest says."""

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RunnerSpec:
        """The inverse of `to_json`."""
        return RunnerSpec(**{**data, "op_libraries": tuple(data["op_libraries"])})


class Runner(Protocol):
    """A loaded model."""

    runtime: str
    """What ran it, with its version: "PyTorch 2.13.0+cpu"."""

    def run(self, method: str, inputs: Values) -> dict[str, Tensor | None]:
        """One call: inputs by name in, outputs by name out, on the CPU."""
        ...

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """A call without arguments, everything that is not the model's own work done before."""
        ...

    def reset(self) -> None:
        """State as it was after load."""
        ...


def make_runner(spec: RunnerSpec, bundle: Bundle) -> tuple[Runner, float]:
    """Loads what the spec says; the second value is the time of the load, milliseconds.

    Raises:
        InvalidInput: An unknown kind or a model that cannot be found.
        BundleError: The artifact's file is damaged.
    """
    import torch

    if spec.threads > 0:
        torch.set_num_threads(spec.threads)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for library in spec.op_libraries if spec.kind != "isthmus" else ():
        torch.ops.load_library(library)
    start = time.perf_counter()
    runner: Runner
    if spec.kind == "eager":
        module = resolve_model(spec.model, bundle.manifest)
        start = time.perf_counter()
        runner = EagerRunner(module, bundle.manifest, spec.device)
    elif spec.kind == "torch.jit":
        runner = JitRunner(bundle, find_artifact(bundle.manifest, spec.artifact), spec)
    elif spec.kind == "isthmus":
        runner = NativeRunner(spec)
    else:
        raise InvalidInput(
            f"runner is {spec.kind!r}, expected 'eager', 'torch.jit' or 'isthmus'; use one of them"
        )
    return runner, (time.perf_counter() - start) * 1e3


def find_artifact(manifest: Manifest, name: str) -> Artifact:
    """The artifact of this name.

    Raises:
        InvalidInput: There is none; names those there are.
    """
    for artifact in manifest.artifacts:
        if artifact.name == name:
            return artifact
    names = ", ".join(artifact.name for artifact in manifest.artifacts) or "none"
    raise InvalidInput(f"artifact {name!r} is not in the bundle, which has {names}; use one of them")


def find_method(manifest: Manifest, name: str) -> Method:
    """The method of this name.

    Raises:
        InvalidInput: There is none; names those there are.
    """
    for method in manifest.methods:
        if method.name == name:
            return method
    names = ", ".join(method.name for method in manifest.methods)
    raise InvalidInput(f"method {name!r} is not in the bundle, which has {names}; use one of them")


def resolve_model(model: str, manifest: Manifest | None = None) -> torch.nn.Module:
    """The eager module from "package.module:factory", or from a Hugging Face id or folder.

    An empty `model` stands for the manifest's own source. The factory may give the module alone or
    a tuple that starts with it.

    Raises:
        InvalidInput: It cannot be found, or it is not a module.
    """
    source = manifest.source if manifest is not None else {}
    task, attention = source.get("task", ""), source.get("attention", "")
    if not model:
        model = source.get("factory") or source.get("id", "")
        if not model:
            raise InvalidInput(
                "the bundle does not say where its eager module comes from, expected a source in"
                " the manifest; pass model='package.module:factory' or a Hugging Face folder"
            )
    if ":" in model and not Path(model).exists():
        return _module_from_factory(model)
    from isthmus.hub import load_hf

    options = {
        name: value for name, value in (("task", task), ("attention", attention)) if value
    }
    return load_hf(model, **options).module


class EagerRunner:
    """The module itself."""

    def __init__(self, module: torch.nn.Module, manifest: Manifest, device: str) -> None:
        import torch

        self.runtime = f"PyTorch {torch.__version__}"
        self._manifest = manifest
        self._device = torch.device(device)
        # A copy: moving and running the caller's own module would change it.
        self._origin = copy.deepcopy(module).to(self._device).eval()
        self._module = self._origin
        self.reset()

    def reset(self) -> None:
        """State as it was handed in."""
        if self._manifest.stateful:
            self._module = copy.deepcopy(self._origin)

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """See `Runner.bind`."""
        import torch

        from isthmus.capture import FlatModule

        signature = find_method(self._manifest, method)
        flat = FlatModule(self._module, signature).eval()
        arguments = [
            _python_value(spec, _on(inputs.get(spec.name), self._device))
            for spec in signature.inputs
        ]

        def call() -> object:
            with torch.inference_mode():
                return flat(*arguments)

        return call

    def run(self, method: str, inputs: Values) -> dict[str, Tensor | None]:
        """See `Runner.run`."""
        outputs = self.bind(method, inputs)()
        return _named(find_method(self._manifest, method), outputs)


class JitRunner:
    """The TorchScript artifact through `torch.jit` in Python, without isthmus's native code."""

    def __init__(self, bundle: Bundle, artifact: Artifact, spec: RunnerSpec) -> None:
        import torch

        self.runtime = f"torch.jit of PyTorch {torch.__version__}"
        self._manifest = bundle.manifest
        self._artifact = artifact
        self._device = torch.device(spec.device)
        self._optimize = spec.optimize
        entry = artifact.files[0]
        self._bytes = (bundle.path / entry.path).read_bytes()
        digest = hashlib.sha256(self._bytes).hexdigest()
        if digest != entry.sha256:
            raise BundleError(
                f"{entry.path} has sha256 {digest}, expected {entry.sha256} as in the manifest;"
                " export the bundle again"
            )
        self._module = self._load()
        self._fresh = True

    def reset(self) -> None:
        """Loads again where calls may have changed something."""
        if self._manifest.stateful and not self._fresh:
            self._module = self._load()
            self._fresh = True

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """See `Runner.bind`."""
        import torch

        signature = find_method(self._manifest, method)
        schema = self._module._c._get_method(method).schema
        values = {
            spec.name: _on(inputs.get(spec.name), self._device) for spec in signature.inputs
        }
        if self._artifact.convention == "flat":
            arguments = _flat_arguments(schema, signature, values)
            keywords: dict[str, Any] = {}
        else:
            arguments = []
            keywords = _structured_arguments(schema, signature, values)
        function = self._module if method == "forward" else getattr(self._module, method)
        self._fresh = False

        def call() -> object:
            with torch.inference_mode():
                return function(*arguments, **keywords)

        return call

    def run(self, method: str, inputs: Values) -> dict[str, Tensor | None]:
        """See `Runner.run`."""
        result = self.bind(method, inputs)()
        signature = find_method(self._manifest, method)
        if self._artifact.convention == "flat":
            return _named(signature, result)
        from isthmus.tree import flatten

        found = flatten(signature.returns, result)
        return _named(signature, tuple(found.get(spec.name) for spec in signature.outputs))

    def _load(self) -> Any:
        import torch

        module = torch.jit.load(io.BytesIO(self._bytes), map_location=self._device).eval()
        others = [method.name for method in self._manifest.methods if method.name != "forward"]
        if self._optimize in ("freeze", "inference"):
            module = torch.jit.freeze(module, preserved_attrs=others)
        if self._optimize == "inference":
            module = torch.jit.optimize_for_inference(module, other_methods=others)
        return module


def _module_from_factory(text: str) -> torch.nn.Module:
    import torch

    package, _, name = text.partition(":")
    try:
        target: Any = importlib.import_module(package)
        for part in name.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(
            f"{text!r} cannot be imported ({error}), expected 'package.module:factory';"
            " check the name, and that the module's folder is on PYTHONPATH"
        ) from error
    made = target if isinstance(target, torch.nn.Module) else target()
    if isinstance(made, tuple) and made:
        made = made[0]
    if not isinstance(made, torch.nn.Module):
        raise InvalidInput(
            f"{text!r} gave {type(made).__name__}, expected a torch.nn.Module or a tuple that"
            " starts with one; return the module"
        )
    return made


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)


def _python_value(spec: ValueSpec, value: Tensor | None) -> Any:
    return value if value is None or spec.kind == "tensor" else value.item()


def _flat_arguments(schema: Any, signature: Method, values: Values) -> list[Any]:
    """In order; a number where the TorchScript type is one, else the tensor."""
    arguments = []
    for spec, argument in zip(signature.inputs, schema.arguments[1:], strict=True):
        value = values[spec.name]
        wants_tensor = "Tensor" in str(argument.type)
        arguments.append(value if value is None or wants_tensor else value.item())
    return arguments


def _structured_arguments(schema: Any, signature: Method, values: Values) -> dict[str, Any]:
    """By the schema's names; what has a default and was not given is left to it."""
    from isthmus.tree import unflatten

    specs = {spec.name: spec for spec in signature.inputs}
    leaves = {name: _python_value(specs[name], value) for name, value in values.items()}
    declared = schema.arguments[1:]
    positional = [
        (argument.name, tree)
        for argument, tree in zip(declared, signature.args, strict=False)
    ]
    defaults = {argument.name for argument in declared if argument.has_default_value()}
    return {
        name: unflatten(tree, leaves)
        for name, tree in [*positional, *signature.kwargs]
        if not (name in defaults and _not_given(tree, leaves))
    }


def _not_given(tree: Tree, leaves: Mapping[str, Any]) -> bool:
    if tree.node == "leaf":
        return leaves.get(tree.name) is None
    return tree.node in ("const", "none")


def _named(signature: Method, result: object) -> dict[str, Tensor | None]:
    import torch

    values: Sequence[Any]
    values = result if isinstance(result, (tuple, list)) else (result,)
    if len(values) != len(signature.outputs):
        raise InvalidInput(
            f"{signature.name} gave {len(values)} outputs, expected {len(signature.outputs)}:"
            f" {', '.join(spec.name for spec in signature.outputs)}; export the model again"
        )
    dtypes = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}
    named: dict[str, Tensor | None] = {}
    for spec, value in zip(signature.outputs, values, strict=True):
        if value is None or isinstance(value, torch.Tensor):
            # A clone: the caller may keep it while the model writes its buffers again.
            named[spec.name] = None if value is None else value.detach().cpu().clone()
        else:
            named[spec.name] = torch.tensor(value, dtype=dtypes[spec.kind])
    return named
