"""Artifacts of files on their runtimes' own Python interfaces, called along the signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from isthmus.bundle.manifest import Method

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AotiCall", "OnnxRuntimeCall", "OpenVinoCall", "RuntimeCall"]


class RuntimeCall(Protocol):
    """Files that were opened: one for each method, in order."""

    runtime: str
    """What runs them, with its version."""

    def bind(self, method: Method, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
        """A call without arguments, everything that is not the model's own work done before."""
        ...

    def __call__(self, method: Method, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One call: inputs by name in, outputs by name out, on the CPU."""
        ...


class OnnxRuntimeCall:
    """ONNX files on ONNX Runtime's CPU provider."""

    def __init__(self, files: Sequence[Path], methods: Sequence[Method], threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._sessions = {
            method.name: onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
            for method, file in zip(methods, files, strict=False)
        }

    def bind(self, method: Method, inputs: Mapping[str, Tensor]) -> Callable[[], list[Any]]:
        """See `RuntimeCall.bind`."""
        session = self._sessions[method.name]
        feed = {
            input_node.name: _array(inputs[input_node.name]) for input_node in session.get_inputs()
        }
        if any(not hasattr(value, "__array__") for value in feed.values()):
            names = [output_node.name for output_node in session.get_outputs()]
            values = {name: _ort_value(value) for name, value in feed.items()}
            return lambda: cast("list[Any]", session.run_with_ort_values(names, values))
        return lambda: cast("list[Any]", session.run(None, feed))

    def __call__(self, method: Method, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `RuntimeCall.__call__`."""
        return _by_name(method, [_tensor(one) for one in self.bind(method, inputs)()])


class OpenVinoCall:
    """ONNX files on OpenVINO's CPU plugin, in float32 as isthmus runs them."""

    def __init__(self, files: Sequence[Path], methods: Sequence[Method], threads: int = 0) -> None:
        import openvino

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

    def bind(self, method: Method, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        """See `RuntimeCall.bind`."""
        model = self._models[method.name]
        request = model.create_infer_request()
        feed = {name: inputs[name].numpy() for port in model.inputs if (name := port.any_name)}
        return lambda: request.infer(feed, share_inputs=True)

    def __call__(self, method: Method, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `RuntimeCall.__call__`."""
        results = self.bind(method, inputs)()
        return _by_name(method, [_tensor(results[at]) for at in range(len(method.outputs))])


class AotiCall:
    """AOTInductor packages on torch's own loader. They are native code."""

    def __init__(self, files: Sequence[Path], methods: Sequence[Method]) -> None:
        import torch

        self.runtime = f"AOTInductor of PyTorch {torch.__version__}"
        self._packages = {
            method.name: torch._inductor.aoti_load_package(str(file))
            for method, file in zip(methods, files, strict=False)
        }

    def bind(self, method: Method, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        """See `RuntimeCall.bind`."""
        import torch

        package = self._packages[method.name]
        given = [inputs[spec.name].contiguous() for spec in method.inputs]

        def call() -> Any:
            with torch.inference_mode():
                return package(*given)

        return call

    def __call__(self, method: Method, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `RuntimeCall.__call__`."""
        results = self.bind(method, inputs)()
        values = list(results) if isinstance(results, (tuple, list)) else [results]
        return _by_name(method, [value.cpu() for value in values])


def _by_name(method: Method, values: Sequence[Tensor]) -> dict[str, Tensor]:
    return {spec.name: value for spec, value in zip(method.outputs, values, strict=True)}


def _array(value: Tensor) -> Any:
    """A NumPy array, or the tensor itself where NumPy has no such type."""
    import torch

    value = value.detach().cpu().contiguous()
    return value if value.dtype is torch.bfloat16 else value.numpy()


def _ort_value(value: Any) -> Any:
    import onnxruntime
    import torch

    if hasattr(value, "__array__") and not isinstance(value, torch.Tensor):
        return onnxruntime.OrtValue.ortvalue_from_numpy(value)
    bfloat16 = 16  # TensorProto.BFLOAT16
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
        value.view(torch.uint16).numpy(), bfloat16
    )


def _tensor(value: Any) -> Tensor:
    """A copy as a tensor: a runtime may write its outputs again."""
    import numpy as np
    import torch

    if hasattr(value, "to_dlpack"):  # an OrtValue
        return torch.utils.dlpack.from_dlpack(value.to_dlpack()).clone()
    return torch.from_numpy(np.array(value))
