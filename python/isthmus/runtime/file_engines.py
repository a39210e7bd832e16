"""Artifacts of one file a method, on their runtimes' own Python interfaces."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from isthmus.bundle.manifest import Method
from isthmus.runtime.python_engine import PythonEngine, Values

__all__ = ["AotiEngine", "ExportedEngine", "OnnxRuntimeEngine", "OpenVinoEngine"]


class OnnxRuntimeEngine(PythonEngine):
    """ONNX files on ONNX Runtime's CPU provider."""

    def __init__(self, files: Sequence[Path], methods: Sequence[Method], threads: int = 0) -> None:
        """Opens one file for each method, in order; 0 threads is the runtime's default."""
        import onnxruntime

        super().__init__(methods, "cpu")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised
        options.intra_op_num_threads = threads
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._sessions = {
            method.name: onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
            for method, file in zip(methods, files, strict=False)
        }

    def session(self, method: str) -> Any:
        """Returns the `onnxruntime.InferenceSession` of a method."""
        return self._sessions[method]

    def _bind(self, method: Method, inputs: Values) -> Callable[[], list[Any]]:
        session = self._sessions[method.name]
        feed = {node.name: _array(inputs[node.name]) for node in session.get_inputs()}
        if any(isinstance(value, Tensor) for value in feed.values()):
            names = [node.name for node in session.get_outputs()]
            values = {name: _ort_value(value) for name, value in feed.items()}
            return lambda: cast("list[Any]", session.run_with_ort_values(names, values))
        return lambda: cast("list[Any]", session.run(None, feed))

    def _outputs(self, method: Method, result: Any) -> Mapping[str, Any]:
        return _by_name(method, [_tensor(value) for value in result])


class OpenVinoEngine(PythonEngine):
    """ONNX files on OpenVINO's CPU plugin, in float32 as isthmus runs them."""

    def __init__(self, files: Sequence[Path], methods: Sequence[Method], threads: int = 0) -> None:
        """Compiles one file for each method, in order; 0 threads is the runtime's default."""
        import openvino

        super().__init__(methods, "cpu")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        settings["PERFORMANCE_HINT"] = "LATENCY"
        if threads > 0:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        self.runtime = f"openvino {openvino.__version__.partition('-')[0]}"
        self._models = {
            method.name: core.compile_model(core.read_model(file), "CPU", settings)
            for method, file in zip(methods, files, strict=False)
        }

    def _bind(self, method: Method, inputs: Values) -> Callable[[], Any]:
        model = self._models[method.name]
        request = model.create_infer_request()
        feed = {name: inputs[name].numpy() for port in model.inputs if (name := port.any_name)}
        return lambda: request.infer(feed, share_inputs=True)

    def _outputs(self, method: Method, result: Any) -> Mapping[str, Any]:
        return _by_name(method, [_tensor(result[at]) for at in range(len(method.results))])


class ExportedEngine(PythonEngine):
    """Programs of `torch.export`, run by torch in Python."""

    def __init__(
        self,
        files: Sequence[Path],
        methods: Sequence[Method],
        device: str | None = None,
        *,
        stateful: bool = False,
    ) -> None:
        """Loads one program for each method, in order."""
        super().__init__(methods, device)
        self.runtime = f"torch.export of PyTorch {torch.__version__}"
        self._files = dict(zip([method.name for method in methods], files, strict=False))
        self._stateful = stateful
        self._programs = self._load()
        self._fresh = True

    def reset(self) -> None:
        """Loads the programs again where calls may have changed the state."""
        if self._stateful and not self._fresh:
            self._programs = self._load()
            self._fresh = True

    def _load(self) -> dict[str, Callable[..., Any]]:
        return {name: self._load_file(file) for name, file in self._files.items()}

    def _load_file(self, file: Path) -> Callable[..., Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(file)
            device = torch.device(self._device or "cpu")
            if device.type != "cpu":
                passes: Any = torch.export.passes  # type: ignore[attr-defined]
                program = passes.move_to_device_pass(program, device)
            module = program.module(check_guards=False)
        # The bundle's signature says which sizes the program serves. torch takes every size for 2
        # or more, and would refuse a sum of two sizes that are 1.
        module.validate_inputs = False  # type: ignore[assignment]
        return cast("Callable[..., Any]", module)

    def _bind(self, method: Method, inputs: Values) -> Callable[[], Any]:
        program = self._programs[method.name]
        arguments = [inputs[spec.name].contiguous() for spec in method.inputs]
        self._fresh = False

        def call() -> Any:
            with torch.inference_mode():
                return program(*arguments)

        return call

    def _outputs(self, method: Method, result: Any) -> Mapping[str, Any]:
        return _by_name(method, list(result) if isinstance(result, (tuple, list)) else [result])


class AotiEngine(PythonEngine):
    """AOTInductor packages on torch's own loader. They are native code."""

    def __init__(
        self, files: Sequence[Path], methods: Sequence[Method], device: str | None = None
    ) -> None:
        """Loads one package for each method, in order."""
        super().__init__(methods, device)
        self.runtime = f"AOTInductor of PyTorch {torch.__version__}"
        self._packages = {
            method.name: torch._inductor.aoti_load_package(str(file))
            for method, file in zip(methods, files, strict=False)
        }

    def _bind(self, method: Method, inputs: Values) -> Callable[[], Any]:
        package = self._packages[method.name]
        arguments = [inputs[spec.name].contiguous() for spec in method.inputs]
        flat = _takes_flat(package, len(arguments))

        def call() -> Any:
            with torch.inference_mode():
                # The loader takes the list's items away.
                return package(*arguments) if flat else package.loader.boxed_run([*arguments])

        return call

    def _outputs(self, method: Method, result: Any) -> Mapping[str, Any]:
        return _by_name(method, list(result) if isinstance(result, (tuple, list)) else [result])


def _takes_flat(package: Any, count: int) -> bool:
    """Returns True for a package that takes so many positional tensors, as isthmus makes them."""
    spec = pytree.treespec_loads(package.loader.get_call_spec()[0])
    return bool(spec == pytree.tree_structure((tuple([0] * count), {})))


def _by_name(method: Method, values: Sequence[Tensor]) -> dict[str, Tensor]:
    return {spec.name: value for spec, value in zip(method.results, values, strict=True)}


def _array(value: Tensor) -> Any:
    """Returns a NumPy array, or the tensor itself where NumPy has no such type."""
    value = value.detach().cpu().contiguous()
    return value if value.dtype is torch.bfloat16 else value.numpy()


def _ort_value(value: Any) -> Any:
    import onnxruntime

    if not isinstance(value, Tensor):
        return onnxruntime.OrtValue.ortvalue_from_numpy(value)
    bfloat16 = 16  # TensorProto.BFLOAT16
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
        value.view(torch.uint16).numpy(), bfloat16
    )


def _tensor(value: Any) -> Tensor:
    """Returns a runtime's output as a tensor; the runtime may own the memory."""
    import numpy as np

    if hasattr(value, "_ortvalue"):  # NumPy has no bfloat16, and the public OrtValue no DLPack
        return torch.utils.dlpack.from_dlpack(value._ortvalue.to_dlpack())
    return torch.from_numpy(np.array(value))
