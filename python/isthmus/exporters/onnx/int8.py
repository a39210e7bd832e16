"""The onnx format in int8: ONNX Runtime's own dynamic quantiser, applied to a model in fp32."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isthmus.bundle.manifest import Hazard
from isthmus.errors import Decision, ExportError
from isthmus.exporters.attempts import Verified
from isthmus.exporters.check import Verdict
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.onnx.export_onnx import export_onnx, require_packages
from isthmus.exporters.onnx.files import artifact_of, save_model, with_data
from isthmus.exporters.onnx.smooth_outliers import input_peaks, products, smooth_outliers
from isthmus.exporters.remedies import with_remedies
from isthmus.runtime.file_engines import OnnxRuntimeEngine

__all__ = ["WHY_NOT", "export_int8"]

_THOROUGH = "quantize_dynamic, thorough"
_STRATEGIES = ("quantize_dynamic", _THOROUGH)
"""The names in decisions; the second is slower and more exact, for models that need it."""

WHY_NOT: Mapping[str, str] = {
    "torchscript": "int8 is made of the onnx format: torch's own dynamic quantiser gives "
    "activations 7 bits, and all-MiniLM-L6-v2 comes out of it at a cosine of 0.96",
    "exported": "int8 is made of the onnx format: for a program of torch.export torchao would have "
    "to quantise the module, which isthmus does not do",
    "aoti": "int8 is made of the onnx format: for AOTInductor torchao would have to quantise the "
    "module, which isthmus does not do",
}
"""Maps a format without int8 to the reason."""


def export_int8(request: ExportRequest) -> ExportedArtifact:
    """Quantises the model's fp32 ONNX artifact; what is too far from fp32 is refused.

    MatMul and Gemm with constant weights compute in int8: weights per channel, activations with a
    scale of their own on every call. Everything else stays as it is. The file holds operators of
    ONNX's own (DynamicQuantizeLinear, MatMulInteger), which ONNX Runtime fuses when it loads.

    Raises:
        ExportError: There is nothing to quantise, or the answers are too far off; with the numbers.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    require_packages()
    fp32 = request.fp32_onnx
    if fp32 is None:
        raise ExportError("there is no fp32 ONNX model to quantise")
    if isinstance(fp32, ExportRequest):
        fp32 = export_onnx(fp32)
    request = request.within(fp32.artifact.sizes)
    decisions: list[Decision] = []
    for strategy in _STRATEGIES:
        request.progress("Quantising it again, more carefully" if decisions else "Quantising it")
        files, counts = _quantise(request, fp32, thorough=strategy == _THOROUGH)
        if not counts.quantised:
            raise ExportError(
                "there is nothing to quantise: int8 is made of matrix products with constant "
                "weights (nn.Linear), and this model has none; convolutions stay in fp32"
            )
        request.progress(f"Proving it on {len(request.goldens)} goldens")
        verdict = request.check("cpu").check_files(OnnxRuntimeEngine, files)
        decisions.append(Decision(strategy, bool(verdict), _reason(verdict, counts)))
        if verdict:
            known = Verified(fp32.artifact.decisions, sizes=fp32.artifact.sizes)
            artifact = artifact_of(request, files[0].stem, files, known)
            artifact = replace(
                artifact,
                # On CUDA these operators fall back to the CPU one by one, and nothing was proven
                # there.
                devices=("cpu",),
                decisions=(*artifact.decisions, *decisions),
                hazards=with_remedies((*fp32.artifact.hazards, _BATCH)),
            )
            return ExportedArtifact(artifact, with_data(files))
    error = ExportError(
        "; ".join(f"{decision.strategy}: {decision.reason}" for decision in decisions)
    )
    error.decisions = tuple(decisions)
    raise error


_BATCH = Hazard(
    "batch_dependent",
    "info",
    "int8 scales activations by the whole call, so that a sample's answer depends a little on what "
    "shares its batch",
)


@dataclass(frozen=True)
class _Counts:
    """Counts of the matrix products of a model."""

    products: int = 0
    """The products with constant weights, which are all that could be quantised."""
    quantised: int = 0
    smoothed: int = 0
    """The smoothed inputs, of which several products may share one."""

    def __add__(self, other: _Counts) -> _Counts:
        return _Counts(
            self.products + other.products,
            self.quantised + other.quantised,
            self.smoothed + other.smoothed,
        )


def _reason(verdict: Verdict, counts: _Counts) -> str:
    what = (
        f"ONNX Runtime's dynamic quantiser, per channel, on {counts.quantised} of "
        f"{counts.products} matrix products, {counts.smoothed} of their inputs smoothed; loaded "
        "again from its files, "
    )
    cosines = str(verdict.cosines) if verdict.cosines.count else "no sample could be compared"
    if verdict:
        return f"{what}{cosines}; {verdict.goldens} goldens, {verdict.calls} calls"
    failed = f"{len(verdict.failures)} of {verdict.goldens} goldens fail"
    return f"{what}{failed}: {cosines}; {verdict.failures[0]}"


def _quantise(
    request: ExportRequest, fp32: ExportedArtifact, *, thorough: bool
) -> tuple[list[Path], _Counts]:
    """Quantises the file of each method; returns the new files and counts of what was done."""
    counts = _Counts()
    files = request.method_files("onnx-cpu-int8", ".onnx")
    for (method, path), source in zip(files, fp32.files, strict=False):
        steps = [step for golden in request.goldens for step in golden.steps]
        calls = [
            {name: value.numpy() for name, value in step.inputs.items()}
            for step in steps
            if step.method == method.name
        ]
        counts += _quantise_file(source, calls, path, thorough=thorough)
    return [path for _, path in files], counts


def _quantise_file(
    source: Path, calls: Sequence[Mapping[str, Any]], path: Path, *, thorough: bool
) -> _Counts:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    candidates = len(products(model))
    smoothed = smooth_outliers(model, input_peaks(source, calls), thorough=thorough)
    quantisers_own = path.with_name("quantised.onnx")
    with _quiet_quantiser():
        quantize_dynamic(
            model,
            quantisers_own,
            # Not Gather: embeddings in int8 are smaller and no faster. Not Conv: without a
            # calibration ONNX Runtime is slower on it than in fp32. Not LSTM: that becomes an
            # operator of ONNX Runtime's own, which other engines do not have.
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=list(smoothed.exact),
            per_channel=True,
            # Signed weights, for which ONNX Runtime has its fastest kernels (unsigned ones gain
            # about half as much).
            weight_type=QuantType.QInt8,
            # Weights of 7 bits. Without VNNI, that is on AVX2 and the first AVX-512, these kernels
            # add two products of 8 bits in 16, which overflow: of all-MiniLM-L6-v2 one layer loses
            # 4 % of its cosine there. With VNNI they would fit, and 7 bits cost 0.001. A bundle
            # does not know where it will run, so it is made right for either.
            reduce_range=True,
        )
    quantised = onnx.load(quantisers_own)
    quantisers_own.unlink()
    save_model(quantised, path)
    count = sum(node.op_type == "MatMulInteger" for node in quantised.graph.node)
    return _Counts(candidates, count, smoothed.inputs)


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Silences the quantiser, which recommends its own preparation by way of the root logger."""
    root = logging.getLogger()
    previous, silent = root.level, logging.NullHandler()
    root.addHandler(silent)  # else the first message installs a handler that prints
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(previous)
        root.removeHandler(silent)
