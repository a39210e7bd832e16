"""The ways to run a bundle's model from Python, behind one small interface.

Eager, `torch.jit` and the native library take the same named tensors and give the same named
tensors, so that verify and bench treat them alike. Each is meant for a process of its own.
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from isthmus.bundle.manifest import Artifact, Manifest, Method, Tree
from isthmus.capture.load_model import resolve_model
from isthmus.errors import BundleError, ExecutionError, InvalidInput
from isthmus.goldens.precision_copy import deep_copy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from isthmus.bundle.bundle import Bundle
    from isthmus.runtime.python_calls import RuntimeCall

Values = Mapping[str, "Tensor"]
"""By name; an absent optional value has no key. Scalars are 0-dimensional tensors."""


@dataclass(frozen=True)
class EngineSpec:
    """Which runner to make: what a worker process is asked for."""

    kind: str
    """"eager", "isthmus", or the name of a Python runtime (`isthmus.runtime.python_runtimes`)."""
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
    """Where the eager module comes from, for "eager"."""

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EngineSpec:
        """The inverse of `to_json`."""
        return EngineSpec(**{**data, "op_libraries": tuple(data["op_libraries"])})


class PythonEngine(Protocol):
    """A loaded model."""

    runtime: str
    """What ran it, with its version: "PyTorch 2.13.0+cpu"."""

    def run(self, method: str, inputs: Values) -> dict[str, Tensor]:
        """One call: inputs by name in, outputs by name out, on the CPU."""
        ...

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """A call without arguments, everything that is not the model's own work done before."""
        ...

    def reset(self) -> None:
        """State as it was after load."""
        ...


def load_engine(spec: EngineSpec, bundle: Bundle) -> tuple[PythonEngine, float]:
    """Loads what the spec says; the second value is the time of the load, milliseconds.

    Raises:
        InvalidInput: An unknown kind or a model that cannot be found.
        BundleError: The artifact's file is damaged.
    """
    import torch

    if spec.threads > 0:
        torch.set_num_threads(spec.threads)
        # The C++ engine does the same: one pool of threads, as large as was asked for.
        if torch.get_num_interop_threads() != 1:  # may be set once in a process
            torch.set_num_interop_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    operators: Any = torch.ops
    for library in spec.op_libraries if spec.kind != "isthmus" else ():
        operators.load_library(library)
    start = time.perf_counter()
    runner: PythonEngine
    if spec.kind == "eager":
        module = resolve_model(spec.model, bundle.manifest)
        start = time.perf_counter()
        runner = EagerEngine(module, bundle.manifest, spec.device)
    elif spec.kind == "isthmus":
        runner = NativeEngine(spec)
    elif spec.kind in _FILE_ENGINES:
        runner = _FILE_ENGINES[spec.kind](bundle, bundle.artifact(spec.artifact), spec)
    else:
        known = ", ".join(["'eager'", "'isthmus'", *map(repr, _FILE_ENGINES)])
        raise InvalidInput(f"runner is {spec.kind!r}, expected one of {known}")
    return runner, (time.perf_counter() - start) * 1e3


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


class EagerEngine:
    """The module itself."""

    def __init__(self, module: torch.nn.Module, manifest: Manifest, device: str) -> None:
        import torch

        self.runtime = f"PyTorch {torch.__version__}"
        self._manifest = manifest
        self._device = torch.device(device)
        # A copy: moving and running the caller's own module would change it.
        self._origin = deep_copy(module).to(self._device).eval()
        self._module = self._origin
        self.reset()

    def reset(self) -> None:
        """State as it was handed in."""
        if self._manifest.stateful:
            self._module = deep_copy(self._origin)

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """See `PythonEngine.bind`."""
        import torch

        from isthmus.capture.eager import arguments

        signature = find_method(self._manifest, method)
        args, kwargs = arguments(signature, _copies(inputs, self._device))
        # The module itself for forward, so that its hooks run as they do for the user.
        function = self._module if method == "forward" else getattr(self._module, method)
        # State that is written in inference mode could not be written outside it again.
        guard = torch.no_grad if self._manifest.stateful else torch.inference_mode

        def call() -> object:
            with guard():
                return function(*args, **kwargs)

        return call

    def run(self, method: str, inputs: Values) -> dict[str, Tensor]:
        """See `PythonEngine.run`."""
        from isthmus.capture.eager import flat_outputs

        outputs = flat_outputs(find_method(self._manifest, method), self.bind(method, inputs)())
        return {name: value.cpu().clone() for name, value in outputs.items()}


class TorchJitEngine:
    """The TorchScript artifact through `torch.jit` in Python, without isthmus's native code."""

    def __init__(self, bundle: Bundle, artifact: Artifact, spec: EngineSpec) -> None:
        import torch

        self.runtime = f"torch.jit of PyTorch {torch.__version__}"
        self._manifest = bundle.manifest
        self._artifact = artifact
        self._device = torch.device(spec.device)
        self._optimize = spec.optimize
        self._bytes = bundle.read(artifact.files[0])
        self._module = self._load()
        self._fresh = True

    def reset(self) -> None:
        """Loads again where calls may have changed something."""
        if self._manifest.stateful and not self._fresh:
            self._module = self._load()
            self._fresh = True

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """See `PythonEngine.bind`."""
        import torch

        signature = find_method(self._manifest, method)
        schema = self._module._c._get_method(method).schema
        values = _copies(inputs, self._device)
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

    def run(self, method: str, inputs: Values) -> dict[str, Tensor]:
        """See `PythonEngine.run`."""
        from isthmus.capture.tree import flatten

        result = self.bind(method, inputs)()
        signature = find_method(self._manifest, method)
        if self._artifact.convention == "flat":
            values = _in_order(signature, result)
        else:
            values = flatten(signature.returns, result)
        return _tensors(signature, values)

    def _load(self) -> Any:
        import torch

        jit: Any = torch.jit
        module = jit.load(io.BytesIO(self._bytes), map_location=self._device).eval()
        others = [method.name for method in self._manifest.methods if method.name != "forward"]
        if self._optimize in ("freeze", "inference"):
            module = jit.freeze(module, preserved_attrs=others)
        if self._optimize == "inference":
            module = jit.optimize_for_inference(module, other_methods=others)
        return module


class FileEngine:
    """An artifact of files without state, through its runtime's own Python interface."""

    def __init__(self, bundle: Bundle, artifact: Artifact, spec: EngineSpec) -> None:
        import torch

        for entry in artifact.files:
            bundle.read(entry)  # what a runtime opens by its path is checked before
        methods = bundle.manifest.methods
        files = [bundle.path / entry.path for entry in artifact.files]
        self._methods = {method.name: method for method in methods}
        self._device = torch.device(spec.device)
        self._call = self.open(files, methods, spec)
        self.runtime = self._call.runtime

    def open(self, files: list[Path], methods: Sequence[Method], spec: EngineSpec) -> RuntimeCall:
        """What runs the files."""
        raise NotImplementedError

    def reset(self) -> None:
        """There is no state."""

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """See `PythonEngine.bind`."""
        return self._call.bind(self._methods[method], _copies(inputs, self._device))

    def run(self, method: str, inputs: Values) -> dict[str, Tensor]:
        """See `PythonEngine.run`."""
        signature = self._methods[method]
        return _tensors(signature, self._call(signature, _copies(inputs, self._device)))


class OnnxRuntimeEngine(FileEngine):
    """The ONNX artifact through `onnxruntime` in Python."""

    def open(self, files: list[Path], methods: Sequence[Method], spec: EngineSpec) -> RuntimeCall:
        """See `FileEngine.open`."""
        from isthmus.runtime.python_calls import OnnxRuntimeCall

        return OnnxRuntimeCall(files, methods, spec.threads)


class OpenVinoEngine(FileEngine):
    """The ONNX artifact through `openvino` in Python."""

    def open(self, files: list[Path], methods: Sequence[Method], spec: EngineSpec) -> RuntimeCall:
        """See `FileEngine.open`."""
        from isthmus.runtime.python_calls import OpenVinoCall

        return OpenVinoCall(files, methods, spec.threads)


class AotiEngine(FileEngine):
    """The AOTInductor package through torch's own loader in Python."""

    def open(self, files: list[Path], methods: Sequence[Method], spec: EngineSpec) -> RuntimeCall:
        """See `FileEngine.open`."""
        from isthmus.runtime.python_calls import AotiCall

        if spec.trust != "native":
            raise BundleError(f"{spec.artifact} is native code; trust is {spec.trust!r}")
        return AotiCall(files, methods)


class NativeEngine:
    """The native library, through the same calls as a user's Python makes."""

    def __init__(self, spec: EngineSpec) -> None:
        import torch

        from isthmus.runtime.model import load

        self._model = load(
            spec.bundle,
            engine=spec.engine,
            device=spec.device,
            threads=spec.threads or None,
            warmup=spec.warmup,
            trust=spec.trust,
            op_libraries=spec.op_libraries,
            optimize=spec.optimize,
            artifact=spec.artifact,
        )
        self.runtime = self._model.load_report.runtime
        self._device = torch.device(spec.device)
        self._session = self._model.session()

    def reset(self) -> None:
        """A new session: state as it was after load."""
        self._session = self._model.session()

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """See `PythonEngine.bind`."""
        values = _copies(inputs, self._device)
        session = self._session

        def call() -> object:
            return session.call(method, **values)

        return call

    def run(self, method: str, inputs: Values) -> dict[str, Tensor]:
        """See `PythonEngine.run`."""
        from isthmus.capture.tree import flatten

        result = self.bind(method, inputs)()
        signature = self._model.signature(method)
        return _tensors(signature, flatten(signature.returns, result))


_FILE_ENGINES: dict[str, Callable[[Bundle, Artifact, EngineSpec], PythonEngine]] = {
    "torch.jit": TorchJitEngine,
    "onnxruntime": OnnxRuntimeEngine,
    "openvino": OpenVinoEngine,
    "aoti": AotiEngine,
}
"""By the name of the Python runtime (`isthmus.runtime.python_runtimes.ENGINES_IN_PYTHON`)."""


def _copies(inputs: Values, device: torch.device) -> dict[str, Tensor]:
    """On the device, and nobody else's: a call may write its inputs."""
    return {name: value.detach().to(device, copy=True) for name, value in inputs.items()}


def _flat_arguments(schema: Any, signature: Method, values: Values) -> list[Any]:
    """In order; a number where the TorchScript type is one, else the tensor."""
    arguments: list[Any] = []
    for spec, argument in zip(signature.inputs, schema.arguments[1:], strict=True):
        value = values.get(spec.name)
        wants_tensor = "Tensor" in str(argument.type)
        arguments.append(value if value is None or wants_tensor else value.item())
    return arguments


def _structured_arguments(schema: Any, signature: Method, values: Values) -> dict[str, Any]:
    """By the schema's names; what has a default and was not given is left to it."""
    from isthmus.capture.eager import to_python
    from isthmus.capture.tree import unflatten

    leaves = {spec.name: to_python(spec, values.get(spec.name)) for spec in signature.inputs}
    declared = schema.arguments[1:]
    positional = [
        (argument.name, tree) for argument, tree in zip(declared, signature.args, strict=False)
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


def _in_order(signature: Method, result: object) -> dict[str, Any]:
    values = list(result) if isinstance(result, (tuple, list)) else [result]
    if not signature.outputs and result is None:
        values = []
    if len(values) != len(signature.outputs):
        raise ExecutionError(
            f"{signature.name} gave {len(values)} outputs, expected {len(signature.outputs)}:"
            f" {', '.join(spec.name for spec in signature.outputs)}; export the model again"
        )
    return {spec.name: value for spec, value in zip(signature.outputs, values, strict=True)}


def _tensors(signature: Method, values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies on the CPU: the model may write its buffers again while the caller keeps them."""
    from isthmus.capture.eager import to_tensor

    return {
        spec.name: to_tensor(spec, values[spec.name]).detach().cpu().clone()
        for spec in signature.outputs
        if values.get(spec.name) is not None
    }
