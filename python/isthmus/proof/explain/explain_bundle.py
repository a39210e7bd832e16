"""Why an engine's answers are not the model's: the first submodule that diverges.

Every submodule's output in the artifact is compared with eager and with float64, in chunks that
bound memory. TorchScript and ONNX artifacts are tapped themselves; an AOTInductor package shows
nothing inside, so an instrumented copy of the model is compiled, its weights are compared, and then
set to zero, a submodule at a time, to see where the fault hides.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from isthmus.bundle.manifest import Artifact, Method
from isthmus.capture.module_state import ModuleState
from isthmus.capture.run_module import call, evaluating, seeded
from isthmus.errors import InvalidInput, first_line
from isthmus.goldens.precision_copy import cast_by_parts, cast_copy, cast_values, fits_in_memory
from isthmus.proof.explain.explanation import Explanation, LayerError
from isthmus.proof.explain.layer_errors import blame, judge_layer
from isthmus.proof.explain.layers import Layer, Values, in_chunks, layers_of, record, source_of
from isthmus.proof.explain.observation import Observation, read
from isthmus.proof.explain.repro import write_repro
from isthmus.proof.explain.weight_ablation import find_by_ablation
from isthmus.proof.explain.weights import differing_weights, weights_of
from isthmus.runtime.machine import machine_facts
from isthmus.runtime.runners import EngineSpec
from isthmus.runtime.workers import ask_worker, available_cores

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle
    from isthmus.bundle.golden import Golden, Step


__all__ = ["explain"]

BUDGET_BYTES = 256 << 20
"""Of the values that are kept at a time."""
_COPIES = 4
"""Of each value: eager's, the engine's, and float64's, which is twice as wide."""
_KINDS = {"torchscript": "torch.jit", "onnxruntime": "onnxruntime", "openvino": "openvino"}
"""The Python runtime that runs an artifact with taps, by the engine's name."""


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
        model: The right one: a module, "package.module:factory", or a Hugging Face id or folder.
        engine: "torchscript", "onnxruntime", "openvino" or "aoti"; the first that the bundle has.
        artifact: The first that the engine runs.
        golden: Whose first call is looked into; the smallest.
        threads: Of the engine; None: the processors usable.
        trust: What the bundle may do; "native" to ask an AOTInductor package for its weights.
        op_libraries: Libraries of custom operators to open first.
        budget_bytes: Of the values that are kept at a time.
        timeout: Seconds that each process may take.
        repro: A folder to write, with the submodule, its inputs, both outputs and a script.
        progress: Called with a line at each stage.

    Raises:
        InvalidInput: The bundle has no such artifact, engine or golden, or the model fails on it.
        ExecutionError: The engine failed.
    """
    from isthmus.bundle.bundle import Bundle, open_bundle

    say = progress or (lambda _: None)
    bundle = path if isinstance(path, Bundle) else open_bundle(Path(path))
    chosen, engine = _choose(bundle, engine, artifact)
    probe = _golden(bundle, golden)
    module = _module(model, bundle)
    job = _Job(bundle, chosen, engine, probe, threads or available_cores(), trust, op_libraries)
    looking = _Looking(job, module, say, timeout, budget_bytes)
    layers = looking.layers()
    culprit = blame(layers)
    weights = differing_weights(module, weights_of(bundle, chosen.name, native=trust == "native"))
    if culprit is None:
        culprit = _by_weights(layers, weights)
    masked = None
    if culprit is None and engine == "aoti" and trust == "native":
        masked = find_by_ablation(bundle, chosen, module, job.method, job.step, layers, say)
        culprit = masked.culprit if masked is not None else None
    found = Explanation(
        bundle=bundle.manifest.name,
        engine=engine,
        artifact=chosen.name,
        golden=probe.name,
        layers=tuple(layers),
        culprit=culprit,
        context={
            "bundle": str(bundle.path),
            **machine_facts(),
            "threads": str(job.threads),
            "layers": f"{sum(layer.seen for layer in layers)} of {len(layers)} seen in the engine",
        },
    )
    hints = _hints(culprit, weights, looking.tapped)
    sentence = masked.sentence if masked is not None else _sentence(found, looking)
    found = replace(found, sentence=sentence, hints=hints)
    if repro is not None and culprit is not None and culprit.seen and masked is None:
        say("Writing the repro")
        found = replace(found, repro=str(looking.write(Path(repro), culprit, found.sentence)))
    return found


class _Job:
    """What is looked into."""

    def __init__(
        self,
        bundle: Bundle,
        artifact: Artifact,
        engine: str,
        golden: Golden,
        threads: int,
        trust: str,
        op_libraries: Sequence[str | Path],
    ) -> None:
        self.bundle = bundle
        self.artifact = artifact
        self.engine = engine
        self.golden = golden
        self.threads = threads
        self.spec = EngineSpec(
            kind=_KINDS.get(engine, ""),
            bundle=str(bundle.path.resolve()),
            device="cpu",
            threads=threads,
            trust=trust,
            op_libraries=tuple(str(op_library) for op_library in op_libraries),
            artifact=artifact.name,
        )

    @property
    def step(self) -> Step:
        """The call."""
        return self.golden.steps[0]

    @property
    def method(self) -> Method:
        """What is called."""
        name = self.step.method
        return next(method for method in self.bundle.manifest.methods if method.name == name)


class _Looking:
    """Runs the model and the engine, a chunk of layers at a time."""

    def __init__(
        self,
        job: _Job,
        module: nn.Module,
        say: Callable[[str], None],
        timeout: float,
        budget: int,
    ) -> None:
        self._job = job
        self._module = module
        self._say = say
        self._timeout = timeout
        self._budget = budget
        self._state = ModuleState(module)
        self.tapped = Observation()
        """What was seen last; lines of all chunks."""
        self.truth_missing = ""
        self.outputs: dict[str, Any] = {}

    def layers(self) -> list[LayerError]:
        """All layers, judged, in the order in which they finish."""
        with layers_of(self._module) as found:
            self._run(self._module, None)
        result: list[LayerError] = []
        chunks = list(in_chunks(found, max(1, self._budget // _COPIES)))
        for at, chunk in enumerate(chunks, start=1):
            of = f" ({at} of {len(chunks)})" if len(chunks) > 1 else ""
            self._say(f"Looking into {len(chunk)} submodules{of}")
            result += self._judged(chunk)
        return result

    def _judged(self, chunk: Sequence[Layer]) -> list[LayerError]:
        paths = [one.path for one in chunk]
        eager = self._values(paths)
        truth = self._truth(paths)
        tapped = self._tap(paths)
        self.tapped.lines.update(tapped.lines)
        self.tapped.values = tapped.values
        self.outputs = tapped.outputs
        return [
            judge_layer(
                self._named(one.path), tapped.values.get(one.path), eager[one.path],
                truth.get(one.path),
            )
            for one in chunk
            if one.path in eager
        ]  # fmt: skip

    def _named(self, path: str) -> LayerError:
        module = self._module.get_submodule(path)
        return LayerError(path, type(module).__name__, source_of(module))

    def _values(self, paths: Sequence[str]) -> dict[str, Values]:
        with record(self._module, set(paths)) as found:
            self._run(self._module, None)
        return found

    def _truth(self, paths: Sequence[str]) -> dict[str, Values]:
        if self.truth_missing:
            return {}
        try:
            with _in_float64(self._module) as module, record(module, set(paths)) as found:
                self._run(module, torch.float64)
        except Exception as error:  # an operator without float64, a literal dtype
            self.truth_missing = first_line(error)
            return {}
        return found

    def _run(self, module: nn.Module, dtype: torch.dtype | None) -> None:
        values: Mapping[str, Any] = self._job.step.inputs
        if dtype is not None:
            values = {name: cast_values(value, dtype) for name, value in values.items()}
        try:
            with evaluating(module), seeded(0):
                call(module, self._job.method, values)
        finally:
            if module is self._module:
                self._state.restore()

    def _tap(self, paths: Sequence[str]) -> Observation:
        job = self._job
        if job.engine == "aoti":
            from isthmus.proof.explain.observe_aoti import observe_aoti

            return observe_aoti(
                self._module, job.method, job.step, paths, seconds=self._timeout,
                progress=self._say,
            )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="isthmus-explain-") as folder:
            request = {
                "spec": job.spec.to_json(),
                "golden": job.golden.name,
                "paths": list(paths),
                "folder": folder,
            }
            ask_worker(
                "isthmus.proof.explain.observe", request, threads=job.threads, timeout=self._timeout
            )
            return read(Path(folder))

    def write(self, folder: Path, culprit: LayerError, sentence: str) -> Path:
        """The repro of a layer."""
        paths = [culprit.path]
        module = self._module.get_submodule(culprit.path)
        kept: dict[str, object] = {}

        def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
            kept.setdefault("args", _cloned(args))
            kept.setdefault("kwargs", _cloned(kwargs))

        handle = module.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            eager = self._values(paths)[culprit.path]
        finally:
            handle.remove()
        given = self.tapped.values.get(culprit.path) or self._tap(paths).values[culprit.path]
        return write_repro(
            folder,
            sentence=sentence,
            engine=self._job.engine,
            layer=culprit,
            module=module,
            call=kept,
            eager=eager,
            given=given,
            truth=self._truth(paths).get(culprit.path),
            paths=[str(Path(one or ".").resolve()) for one in sys.path],
        )


def _cloned(value: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda one: one.detach().clone() if isinstance(one, torch.Tensor) else one, value
    )


@contextmanager
def _in_float64(module: nn.Module) -> Iterator[nn.Module]:
    if fits_in_memory(module, torch.float64):
        yield cast_copy(module, torch.float64)
        return
    with ExitStack() as stack:
        yield stack.enter_context(cast_by_parts(module, torch.float64))


def _choose(bundle: Bundle, engine: str, artifact: str) -> tuple[Artifact, str]:
    from isthmus.runtime.python_runtimes import engines_of

    known = [*_KINDS, "aoti"]
    if engine and engine not in known:
        raise InvalidInput(f"engine: expected {', '.join(known)}, got {engine!r}")
    named = [bundle.artifact(artifact)] if artifact else bundle.manifest.artifacts
    for one in named:
        runs = [name for name in engines_of(one.format) if name in known]
        if engine in runs or (not engine and runs):
            return one, engine or runs[0]
    raise InvalidInput(
        f"{bundle.path} has no artifact that {engine or 'an engine'} runs"
        f"{f' by the name {artifact}' if artifact else ''}; it has "
        f"{', '.join(artifact.name for artifact in bundle.manifest.artifacts)}"
    )


def _golden(bundle: Bundle, name: str) -> Golden:
    if name:
        return bundle.golden(name)
    goldens = bundle.goldens()
    if not goldens:
        raise InvalidInput(f"{bundle.path} has no goldens to look into; export the model again")
    # A size of 1 hides what a size of 3 shows: not the very smallest.
    dynamic = [golden for golden in goldens if all(size > 1 for size in golden.dims.values())]
    return min(dynamic or goldens, key=lambda golden: golden.nbytes)


def _module(model: nn.Module | str, bundle: Bundle) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    from isthmus.capture.load_model import resolve_model

    return resolve_model(model, bundle.manifest)


def _by_weights(layers: Sequence[LayerError], weights: Mapping[str, str]) -> LayerError | None:
    """The first layer with a weight of its own that is not the model's."""
    owners = {name.rpartition(".")[0] for name in weights}
    return next((layer for layer in layers if layer.path in owners), None)


def _hints(
    culprit: LayerError | None, weights: Mapping[str, str], tapped: Observation
) -> tuple[str, ...]:
    hints = []
    if culprit is not None:
        if culprit.source:
            hints.append(f"its forward is at {culprit.source}")
        line = tapped.lines.get(culprit.path, "")
        if line:
            hints.append(f"in the artifact it ends with an operator from {line}")
        own = [text for name, text in weights.items() if name.rpartition(".")[0] == culprit.path]
        hints += own
    others = len(weights) - (len(hints) and len([h for h in hints if "elements of" in h]))
    if others > 0 and weights:
        hints.append(f"{len(weights)} weights of the artifact are not the model's in all")
    return tuple(hints)


def _sentence(found: Explanation, looking: _Looking) -> str:
    where = f"in {found.engine}, golden {found.golden}"
    culprit = found.culprit
    if culprit is None:
        missing = [layer for layer in found.layers if not layer.seen]
        rest = f"; {len(missing)} submodules cannot be seen there" if missing else ""
        return f"no submodule diverges beyond its noise floor {where}{rest}"
    if not culprit.diverged:
        copy = (
            "; a copy that is exported again from the model is right"
            if found.engine == "aoti"
            else ""
        )
        return f"{culprit.name} has other weights {where} than the model{copy}"
    if not culprit.inputs_diverged and culprit.statistic == "atol":
        why = f"its error is {culprit.rms:.3g}, and float64 cannot be had"
        why += f" ({looking.truth_missing})" if looking.truth_missing else ""
    else:
        why = f"its RMS error to float64 is {culprit.multiple:.3g} x eager's own"
    return f"{culprit.name} is the first to diverge {where}: {why}"
