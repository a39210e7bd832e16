"""Names the first submodule whose output in an engine is not the model's.

Every submodule's output in the artifact is compared with eager and with float64, in chunks that
bound memory. TorchScript and ONNX artifacts are observed themselves. An AOTInductor package hides
its intermediate outputs, so an instrumented copy of the model is compiled instead; then the
package's weights are compared, and ablated submodule by submodule (`weight_ablation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from isthmus.bundle.manifest import Artifact
from isthmus.capture.fast_path import as_exported
from isthmus.capture.run_module import ModuleRunner
from isthmus.errors import InvalidInput
from isthmus.proof.explain.explain_job import ENGINES, ExplainJob
from isthmus.proof.explain.explanation import Explanation, LayerError
from isthmus.proof.explain.layer_comparison import LayerComparison
from isthmus.proof.explain.layer_errors import blame
from isthmus.proof.explain.weight_ablation import find_by_ablation
from isthmus.proof.explain.weights import differing_weights, weights_of
from isthmus.runtime.machine import machine_facts
from isthmus.runtime.run_options import RunOptions

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden

__all__ = ["explain", "explain_engine"]

BUDGET_BYTES = 256 << 20
"""The default size of the values that are kept at a time."""


def explain(
    path: str | Path | Bundle,
    model: nn.Module | str,
    *,
    engine: str = "",
    artifact: str = "",
    golden: str = "",
    threads: int | None = None,
    trust: str = "graph",
    op_libraries: Sequence[str | Path] = (),
    budget_bytes: int = BUDGET_BYTES,
    timeout: float = 600.0,
    repro: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Explanation:
    """Names the first submodule whose output in an engine is beyond its own noise floor.

    Args:
        path: The bundle.
        model: The right model: a module, "package.module:factory", or a Hugging Face id or folder.
        engine: "torchscript", "onnxruntime", "openvino" or "aoti"; by default the first engine
            that runs an artifact of the bundle.
        artifact: The name of an artifact; by default the first that the engine runs.
        golden: The name of the golden whose first call is explained; by default the smallest.
        threads: The intra-operator threads of the engine; None: the processors usable.
        trust: What the bundle may do: "data", "graph" or "native". Only "native" compares the
            weights of an AOTInductor package.
        op_libraries: Libraries of custom operators to open first.
        budget_bytes: The size of the values that are kept at a time.
        timeout: The seconds that each process may take.
        repro: A folder to write, with the submodule, its inputs, both outputs and a script.
        progress: Called with a line at each stage.

    Raises:
        InvalidInput: The bundle has no such artifact, engine or golden, or the model fails on it.
        ExecutionError: The engine failed.
    """
    options = RunOptions(
        artifact=artifact or None,
        threads=threads,
        trust=trust,
        op_libraries=op_libraries,
        timeout=timeout,
        progress=progress,
    )
    return explain_engine(
        path, model, options, engine=engine, golden=golden, budget_bytes=budget_bytes, repro=repro
    )


def explain_engine(
    path: str | Path | Bundle,
    model: nn.Module | str,
    options: RunOptions,
    *,
    engine: str = "",
    golden: str = "",
    budget_bytes: int = BUDGET_BYTES,
    repro: str | Path | None = None,
) -> Explanation:
    """Explains an engine under options that several steps share; see `explain`."""
    from isthmus.bundle.bundle import open_bundle

    bundle = open_bundle(path)
    artifact, engine = _choose(bundle, engine, options.artifact or "")
    job = ExplainJob(bundle, artifact, engine, _golden(bundle, golden, artifact), options)
    with as_exported(bundle.manifest), ModuleRunner(_module(model, bundle)) as runner:
        comparison = LayerComparison(job, runner, budget_bytes)
        return _explain(job, runner.module, comparison, repro)


def _explain(
    job: ExplainJob, module: nn.Module, comparison: LayerComparison, repro: str | Path | None
) -> Explanation:
    layers = comparison.layers()
    native = job.options.trust == "native"
    weights = differing_weights(module, weights_of(job.bundle, job.artifact.name, native=native))
    culprit = blame(layers) or _by_weights(layers, weights)
    ablation = None
    if culprit is None and job.engine == "aoti" and native:
        ablation = find_by_ablation(job, module, layers)
        culprit = ablation.culprit if ablation is not None else None
    explanation = Explanation(
        bundle=job.bundle.manifest.name,
        engine=job.engine,
        artifact=job.artifact.name,
        golden=job.golden.name,
        layers=tuple(layers),
        culprit=culprit,
        hints=_hints(culprit, weights, comparison.lines),
        context={
            "bundle": str(job.bundle.path),
            **machine_facts(),
            "threads": str(job.options.thread_count),
            "layers": f"{sum(layer.seen for layer in layers)} of {len(layers)} seen in the engine",
        },
    )
    if ablation is not None:
        return replace(explanation, sentence=ablation.sentence)
    sentence = _sentence(explanation, comparison.truth_missing)
    explanation = replace(explanation, sentence=sentence)
    if repro is None or culprit is None or not culprit.seen:
        return explanation
    job.options.say("Writing the repro")
    folder = comparison.write_repro(Path(repro), culprit, sentence)
    return replace(explanation, repro=str(folder))


def _choose(bundle: Bundle, engine: str, artifact: str) -> tuple[Artifact, str]:
    from isthmus.runtime.engines import engines_of

    known = [*ENGINES, "aoti"]
    if engine and engine not in known:
        raise InvalidInput(f"engine: expected {', '.join(known)}, got {engine!r}")
    named = [bundle.artifact(artifact)] if artifact else bundle.manifest.artifacts
    for candidate in named:
        runs = [name for name in engines_of(candidate.format) if name in known]
        if engine in runs or (not engine and runs):
            return candidate, engine or runs[0]
    raise InvalidInput(
        f"{bundle.path} has no artifact that {engine or 'an engine'} runs"
        f"{f' by the name {artifact}' if artifact else ''}; it has "
        f"{', '.join(artifact.name for artifact in bundle.manifest.artifacts)}"
    )


def _golden(bundle: Bundle, name: str, artifact: Artifact) -> Golden:
    if name:
        return bundle.golden(name)
    goldens = [golden for golden in bundle.goldens() if artifact.serves(golden.dims)]
    if not goldens:
        raise InvalidInput(f"{bundle.path} has no goldens to look into; export the model again")
    # Broadcasting hides errors along a dimension of size 1.
    dynamic = [golden for golden in goldens if all(size > 1 for size in golden.dims.values())]
    return min(dynamic or goldens, key=lambda golden: golden.nbytes)


def _module(model: nn.Module | str, bundle: Bundle) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    from isthmus.capture.load_model import resolve_model

    return resolve_model(model, bundle.manifest)


def _by_weights(layers: Sequence[LayerError], weights: Mapping[str, str]) -> LayerError | None:
    """Returns the first layer with a weight of its own that is not the model's."""
    owners = {name.rpartition(".")[0] for name in weights}
    return next((layer for layer in layers if layer.path in owners), None)


def _hints(
    culprit: LayerError | None, weights: Mapping[str, str], lines: Mapping[str, str]
) -> tuple[str, ...]:
    hints = []
    own = []
    if culprit is not None:
        if culprit.source:
            hints.append(f"its forward is at {culprit.source}")
        line = lines.get(culprit.path, "")
        if line:
            hints.append(f"in the artifact it ends with an operator from {line}")
        own = [text for name, text in weights.items() if name.rpartition(".")[0] == culprit.path]
    if len(weights) > len(own):
        own.append(f"{len(weights)} weights of the artifact are not the model's in all")
    return (*hints, *own)


def _sentence(explanation: Explanation, truth_missing: str) -> str:
    where = f"in {explanation.engine}, golden {explanation.golden}"
    culprit = explanation.culprit
    if culprit is None:
        missing = [layer for layer in explanation.layers if not layer.seen]
        rest = f"; {len(missing)} submodules cannot be seen there" if missing else ""
        return f"no submodule diverges beyond its noise floor {where}{rest}"
    if not culprit.diverged:
        copy = (
            "; a copy that is exported again from the model is right"
            if explanation.engine == "aoti"
            else ""
        )
        return f"{culprit.name} has other weights {where} than the model{copy}"
    if not culprit.inputs_diverged and culprit.statistic == "atol":
        why = f"its error is {culprit.rms:.3g}, and float64 cannot be had"
        why += f" ({truth_missing})" if truth_missing else ""
    else:
        why = f"its RMS error to float64 is {culprit.multiple:.3g} x eager's own"
    return f"{culprit.name} is the first to diverge {where}: {why}"
