"""Loads each contender and calls it from Python as its documentation says.

A process loads one contender and imports nothing else, so that its start time and its memory are
those of the contender. All take NumPy arrays and return one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .kinds import INPUTS, OUTPUT, Request, Values

Call = Callable[[], object]


@dataclass(frozen=True)
class Loaded:
    """A loaded contender."""

    runtime: str
    """The runtime with its version."""
    bind: Callable[[Values], Call]
    """Returns a call without arguments, with the inputs converted beforehand."""
    array: Callable[[Any], np.ndarray]
    """Converts the result of a call to float32[batch, sequence, hidden]."""


def load(request: Request) -> Loaded:
    """Loads the contender that the request names."""
    return CALLS[request.contender.kind](request)


def _torch(request: Request) -> Any:
    """Imports PyTorch with the threads of the request, as isthmus sets them."""
    import torch

    torch.set_num_threads(request.threads)
    torch.set_num_interop_threads(1)
    return torch


def _tensors(values: Values) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(value) for name, value in values.items()}


def _hidden(result: Any) -> np.ndarray:
    """Converts a tensor, a tuple that begins with it, or a Hugging Face output."""
    if hasattr(result, "last_hidden_state"):
        result = result.last_hidden_state
    elif isinstance(result, dict):
        result = result[OUTPUT]
    elif isinstance(result, (tuple, list)):
        result = result[0]
    return result.numpy()


def _module(request: Request) -> Any:
    home, _, name = request.factory.partition(":")
    return getattr(importlib.import_module(home), name)()


def _binder(model: Any, mode: Any, *, positional: bool = False) -> Callable[[Values], Call]:
    """Returns the function that makes a call of a PyTorch model in this gradient mode.

    Positional inputs are in the order of forward's parameters.
    """

    def bind(values: Values) -> Call:
        inputs = _tensors(values)
        args = [inputs[name] for name in INPUTS] if positional else []
        kwargs = {} if positional else inputs

        def call() -> object:
            with mode():
                return model(*args, **kwargs)

        return call

    return bind


def _eager(request: Request) -> Loaded:
    torch = _torch(request)
    module = _module(request)

    bind = _binder(module, torch.inference_mode)
    return Loaded(f"PyTorch {torch.__version__}", bind, _hidden)


def _compile(request: Request) -> Loaded:
    torch = _torch(request)
    if request.contender.option == "frozen":
        import torch._inductor.config as inductor

        inductor.freezing = True
    module = torch.compile(_module(request))

    bind = _binder(module, torch.no_grad)  # freezing requires no_grad; both are equally fast
    return Loaded(f"torch.compile of PyTorch {torch.__version__}", bind, _hidden)


def _jit(request: Request) -> Loaded:
    torch = _torch(request)
    module = torch.jit.load(request.file).eval()
    if request.contender.option:
        module = torch.jit.freeze(module)
    if request.contender.option == "inference":
        module = torch.jit.optimize_for_inference(module)

    bind = _binder(module, torch.inference_mode, positional=True)
    return Loaded(f"torch.jit of PyTorch {torch.__version__}", bind, _hidden)


def _aoti(request: Request) -> Loaded:
    torch = _torch(request)
    package = torch._inductor.aoti_load_package(request.file)

    bind = _binder(package, torch.inference_mode)
    return Loaded(f"AOTInductor of PyTorch {torch.__version__}", bind, _hidden)


def _onnxruntime(request: Request) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        request.file, options, providers=["CPUExecutionProvider"]
    )
    names = [input_node.name for input_node in session.get_inputs()]

    def bind(values: Values) -> Call:
        feed = {name: values[name] for name in names}
        return lambda: session.run([OUTPUT], feed)

    return Loaded(f"onnxruntime {onnxruntime.__version__}", bind, lambda result: result[0])


def _openvino(request: Request) -> Loaded:
    import openvino

    settings = {
        # OpenVINO defaults to bfloat16 where the processor has it, which is another precision.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": request.threads,
    }
    model = openvino.Core().compile_model(request.file, "CPU", settings)
    runner = model.create_infer_request()
    names = [name for port in model.inputs if (name := port.any_name)]

    def bind(values: Values) -> Call:
        feed = {name: values[name] for name in names}
        return lambda: runner.infer(feed, share_inputs=True, share_outputs=True)

    version = openvino.__version__.partition("-")[0]
    return Loaded(f"openvino {version}", bind, lambda result: np.array(result[0]))


def _ctranslate2(request: Request) -> Loaded:
    import ctranslate2

    encoder = ctranslate2.Encoder(
        request.file,
        device="cpu",
        compute_type=request.contender.option,
        intra_threads=request.threads,
        inter_threads=1,
    )

    def bind(values: Values) -> Call:
        view = ctranslate2.StorageView.from_array
        ids = view(np.ascontiguousarray(values["input_ids"], np.int32))
        lengths = view(values["attention_mask"].sum(axis=1).astype(np.int32))
        types = values["token_type_ids"].tolist()  # takes no array here
        return lambda: encoder.forward_batch(ids, lengths, token_type_ids=types)

    return Loaded(
        f"ctranslate2 {ctranslate2.__version__}",
        bind,
        lambda result: np.array(result.last_hidden_state),
    )


def _isthmus(request: Request) -> Loaded:
    import isthmus

    model = isthmus.load(
        request.bundle,
        engine=request.contender.engine,
        artifact=request.contender.option,
        threads=request.threads,
        warmup=request.warmup,
        trust="native",
    )
    return Loaded(
        f"{model.load_report.artifact} on {model.load_report.runtime}",
        lambda values: lambda: model(**values),
        hidden_array,
    )


def hidden_array(result: Any) -> np.ndarray:
    """Takes the array out of the structure that the module returns."""
    return np.asarray(result[OUTPUT] if isinstance(result, dict) else result.last_hidden_state)


CALLS: dict[str, Callable[[Request], Loaded]] = {
    "eager": _eager,
    "compile": _compile,
    "jit": _jit,
    "aoti": _aoti,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ctranslate2": _ctranslate2,
    "isthmus": _isthmus,
}
