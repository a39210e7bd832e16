"""The onnx format in int8: ONNX Runtime's own dynamic quantiser, applied to a model in fp32."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import Artifact, Hazard
from isthmus.errors import Decision, ExportError
from isthmus.exporters.check import Verdict, check_calls
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.onnx.export_onnx import require_packages
from isthmus.exporters.onnx.files import artifact_of, save_model, stems, with_data
from isthmus.exporters.onnx.smooth_outliers import input_peaks, level, products
from isthmus.exporters.remedies import with_remedies
from isthmus.runtime.python_calls import OnnxRuntimeCall

if TYPE_CHECKING:
    import onnx

    from isthmus.bundle.golden import Golden

__all__ = ["WHY_NOT", "export_int8"]

_THOROUGH = "quantize_dynamic, thorough"
_STRATEGIES = ("quantize_dynamic", _THOROUGH)
"""As decisions call them; the second is more exact and slower, for what the first does not bear."""

WHY_NOT: Mapping[str, str] = {
    "torchscript": "int8 is made of the onnx format: torch's own dynamic quantiser gives "
    "activations 7 bits, and all-MiniLM-L6-v2 comes out of it at a cosine of 0.96",
    "aoti": "int8 is made of the onnx format: for AOTInductor torchao would have to quantise the "
    "module, which isthmus does not do",
}
"""Formats without int8, and the reason."""


def export_int8(
    subject: ExportRequest, folder: Path, *, progress: Callable[[str], None] = lambda _: None
) -> ExportedArtifact:
    """Quantises the fp32 ONNX model of a subject; what is too far from fp32 is refused.

    MatMul and Gemm with constant weights compute in int8: weights per channel, activations with a
    scale of their own on every call. Everything else stays as it is. The file holds operators of
    ONNX's own (DynamicQuantizeLinear, MatMulInteger), which ONNX Runtime fuses when it loads.

    Args:
        subject: In int8; its `make_full` gives the model in fp32.
        folder: Where the files are written.
        progress: Called with a sentence at each stage.

    Raises:
        ExportError: There is nothing to quantise, or the answers are too far off; with the numbers.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    require_packages()
    if subject.make_full is None:
        raise ExportError("there is no fp32 ONNX model to quantise")
    full = subject.make_full()
    decisions: list[Decision] = []
    for strategy in _STRATEGIES:
        progress("Quantising it" if not decisions else "Quantising it again, more carefully")
        files, made = _quantise(subject, full, folder, thorough=strategy == _THOROUGH)
        if not made.quantised:
            raise ExportError(
                "there is nothing to quantise: int8 is made of matrix products with constant "
                "weights (nn.Linear), and this model has none; convolutions stay in fp32"
            )
        progress(f"Proving it on {len(subject.goldens)} goldens")
        verdict = _prove(subject, files)
        decisions.append(Decision(strategy, bool(verdict), _reason(verdict, made)))
        if verdict:
            return ExportedArtifact(_artifact(subject, full, files, decisions), with_data(files))
    error = ExportError(
        "; ".join(f"{decision.strategy}: {decision.reason}" for decision in decisions)
    )
    error.decisions = tuple(decisions)
    raise error


def _prove(subject: ExportRequest, files: Sequence[Path]) -> Verdict:
    return check_calls(
        lambda: OnnxRuntimeCall(files, subject.methods),
        subject.methods,
        subject.goldens,
        subject.tolerances,
        calls_each=2,
        least_cosine=subject.least_cosine,
    )


def _artifact(
    subject: ExportRequest,
    full: ExportedArtifact,
    files: Sequence[Path],
    decisions: Sequence[Decision],
) -> Artifact:
    artifact = artifact_of(subject, files[0].stem, files, full.artifact.decisions)
    return replace(
        artifact,
        # On CUDA these operators fall back to the CPU one by one, and nothing was proven there.
        devices=("cpu",),
        decisions=(*full.artifact.decisions, *decisions),
        hazards=with_remedies((*artifact.hazards, _BATCH)),
    )


_BATCH = Hazard(
    "batch_dependent",
    "info",
    "int8 scales activations by the whole call, so that a sample's answer depends a little on what "
    "shares its batch",
)


@dataclass(frozen=True)
class _Counts:
    """Of the matrix products of a model."""

    found: int = 0
    """With constant weights: all that could be quantised."""
    quantised: int = 0
    levelled: int = 0
    """Inputs, of which several products may share one."""

    def plus(self, other: _Counts) -> _Counts:
        """Of two models together."""
        return _Counts(
            self.found + other.found,
            self.quantised + other.quantised,
            self.levelled + other.levelled,
        )


def _reason(verdict: Verdict, made: _Counts) -> str:
    what = (
        f"ONNX Runtime's dynamic quantiser, per channel, on {made.quantised} of {made.found} "
        f"matrix products, {made.levelled} of their inputs levelled; loaded again from its files, "
    )
    judged = str(verdict.cosines) if verdict.cosines.count else "no sample could be compared"
    if verdict:
        return f"{what}{judged}; {verdict.goldens} goldens, {verdict.calls} calls"
    first = verdict.failures[0]
    return f"{what}{len(verdict.failures)} of {verdict.goldens} goldens fail: {judged}; {first}"


def _calls_of(goldens: Sequence[Golden], method: str) -> list[dict[str, Any]]:
    steps = [step for golden in goldens for step in golden.steps if step.method == method]
    return [{name: value.numpy() for name, value in step.inputs.items()} for step in steps]


def _quantise(
    subject: ExportRequest, full: ExportedArtifact, folder: Path, *, thorough: bool
) -> tuple[list[Path], _Counts]:
    """The files, and what was done."""
    files: list[Path] = []
    made = _Counts()
    named = stems(subject, f"onnx-cpu-{subject.precision}")
    for (method, stem), source in zip(named, full.files, strict=False):
        calls = _calls_of(subject.goldens, method.name)
        model, counts = _quantised(source, calls, folder, thorough=thorough)
        made = made.plus(counts)
        files.append(save_model(model, folder, stem))
    return files, made


def _quantised(
    source: Path, calls: Sequence[Mapping[str, Any]], folder: Path, *, thorough: bool
) -> tuple[onnx.ModelProto, _Counts]:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    peaks = input_peaks(source, calls)
    model = onnx.load(source)
    found = len(products(model))
    levelled = level(model, peaks, thorough=thorough)
    path = folder / "quantised.onnx"
    with _quiet_quantiser():
        quantize_dynamic(
            model,
            path,
            # Not Gather: embeddings in int8 are smaller and no faster. Not Conv: without a
            # calibration ONNX Runtime is slower on it than in fp32. Not LSTM: that becomes an
            # operator of ONNX Runtime's own, which other engines do not have.
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=list(levelled.exact),
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
    made = onnx.load(path)
    path.unlink()
    quantised = sum(1 for node in made.graph.node if node.op_type == "MatMulInteger")
    return made, _Counts(found, quantised, levelled.inputs)


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """It recommends its own preparation on every call, by way of the root logger."""
    root = logging.getLogger()
    level_before, silent = root.level, logging.NullHandler()
    root.addHandler(silent)  # else the first message installs a handler that prints
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level_before)
        root.removeHandler(silent)
