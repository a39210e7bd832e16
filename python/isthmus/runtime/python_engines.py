"""Engines that run a bundle's model from Python: eager, `torch.jit` and the native library.

`file_engines` has those whose artifacts are files for a runtime of their own. Each engine is meant
for a process of its own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isthmus.bundle.manifest import Artifact, Manifest, Method, written_name
from isthmus.capture.fast_path import as_exported
from isthmus.capture.run_module import function_of
from isthmus.capture.tree import flatten
from isthmus.capture.values import arguments, arguments_after
from isthmus.goldens.precision_copy import deep_copy
from isthmus.runtime.call_torchscript import bind_torchscript, torchscript_outputs
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.python_engine import PythonEngine, Values

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["EagerEngine", "NativeEngine", "TorchJitEngine"]


class EagerEngine(PythonEngine):
    """The eager module itself."""

    def __init__(self, module: torch.nn.Module, manifest: Manifest, device: str) -> None:
        """Copies the module: moving and running the caller's own would change it."""
        super().__init__(manifest.methods, device)
        self.runtime = f"PyTorch {torch.__version__}"
        self._stateful = manifest.stateful
        self._manifest = manifest
        self._origin = deep_copy(module).to(torch.device(device)).eval()
        self._module = self._origin
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self._inputs: Values = {}
        self.reset()

    def reset(self) -> None:
        """Puts the state back as it was handed in."""
        if self._stateful:
            self._module = deep_copy(self._origin)

    def call(self, method: Method, inputs: Values) -> dict[str, Tensor]:
        """Calls a method as it was when the goldens were made; `bind` is for timing."""
        with as_exported(self._manifest):
            return super().call(method, inputs)

    def _bind(self, method: Method, inputs: Values) -> Callable[[], Any]:
        function = function_of(self._module, method)
        self._inputs = inputs
        self._arguments = arguments(method, inputs)
        # A call may change an object in its arguments, such as a cache that grows.
        nodes = [node for tree in method.arguments for node in tree.nodes()]
        renewed = any(node.node == "pytree" for node in nodes)
        # State that is written in inference mode could not be written outside it again.
        guard = torch.no_grad if self._stateful else torch.inference_mode

        def call() -> object:
            if renewed:
                self._arguments = arguments(method, inputs)
            args, kwargs = self._arguments
            with guard():
                return function(*args, **kwargs)

        return call

    def _outputs(self, method: Method, result: Any) -> Mapping[str, Any]:
        after, _ = arguments_after(method, *self._arguments, self._inputs)
        written = {written_name(name): after.get(name) for name in method.writes}
        return {**flatten(method.returns, result), **written}


class TorchJitEngine(PythonEngine):
    """The TorchScript artifact through `torch.jit` in Python, without isthmus's native code."""

    def __init__(self, bundle: Bundle, artifact: Artifact, spec: EngineSpec) -> None:
        """Reads, checks and loads the archive."""
        super().__init__(bundle.manifest.methods, spec.device)
        self.runtime = f"torch.jit of PyTorch {torch.__version__}"
        self._stateful = bundle.manifest.stateful
        self._convention = artifact.convention
        self._optimize = spec.optimize
        self._bytes = bundle.read(artifact.files[0])
        self._module = self._load()
        self._fresh = True

    def reset(self) -> None:
        """Loads the archive again where calls may have changed the state."""
        if self._stateful and not self._fresh:
            self._module = self._load()
            self._fresh = True

    def _bind(self, method: Method, inputs: Values) -> Callable[[], Any]:
        function = bind_torchscript(self._module, method, self._convention, inputs)
        self._fresh = False

        def call() -> object:
            with torch.inference_mode():
                return function()

        return call

    def _outputs(self, method: Method, result: Any) -> Mapping[str, Any]:
        return torchscript_outputs(method, self._convention, result)

    def _load(self) -> Any:
        jit: Any = torch.jit
        module = jit.load(io.BytesIO(self._bytes), map_location=self._device).eval()
        others = [name for name in self._methods if name != "forward"]
        if self._optimize in ("freeze", "inference"):
            module = jit.freeze(module, preserved_attrs=others)
        if self._optimize == "inference":
            module = jit.optimize_for_inference(module, other_methods=others)
        return module


class NativeEngine(PythonEngine):
    """The native library, through the calls that a user's Python makes."""

    def __init__(self, spec: EngineSpec) -> None:
        """Loads the bundle as `isthmus.load` does."""
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
            unproven="allow",  # the caller compares its answers
            specials="allow",  # what is compared here is the engine's own answer
            artifact=spec.artifact,
        )
        super().__init__(self._model.manifest.methods, spec.device)
        self.runtime = self._model.load_report.runtime
        self._session = self._model.session()

    def reset(self) -> None:
        """Starts a new session, whose state is that after load."""
        self._session = self._model.session()

    def _bind(self, method: Method, inputs: Values) -> Callable[[], Any]:
        session = self._session
        return lambda: session.call(method.name, **inputs)

    def _outputs(self, method: Method, result: Any) -> Mapping[str, Any]:
        return flatten(method.returns, result)
