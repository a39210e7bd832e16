"""Refuses models that a format cannot hold, before anything is exported."""

from __future__ import annotations

from isthmus.capture.quantised import quantised_parts
from isthmus.errors import ExportError
from isthmus.exporters.export_request import ExportRequest

__all__ = ["refuse_quantised", "refuse_state"]


def refuse_state(request: ExportRequest, format_name: str) -> None:
    """Refuses a stateful model for a format that keeps no state.

    Raises:
        ExportError: The model has state.
    """
    if request.stateful:
        raise ExportError(
            f"the model has state, which {format_name} does not keep; take the state as inputs "
            "and give it back as outputs, or stay with TorchScript"
        )


def refuse_quantised(request: ExportRequest, format_name: str) -> None:
    """Refuses a model that PyTorch has quantised, for a format that has no such operators.

    Raises:
        ExportError: The model has quantised submodules or operators; names one.
    """
    parts = quantised_parts(request.module) if request.module is not None else []
    if not parts and request.torchscript is not None:
        operators = request.torchscript.artifact.operators
        parts = [name for name in operators if name.startswith("quantized::")]
    if parts:
        raise ExportError(
            f"the model is quantised ({parts[0] or 'the module itself'}), and PyTorch's quantised "
            f"operators have no form in {format_name}: export the float model with "
            'formats=["onnx"] and precision="int8", or stay with TorchScript'
        )
