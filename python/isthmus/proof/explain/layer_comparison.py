"""Compares every submodule of the model with an engine, a chunk of submodules at a time."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isthmus.capture.run_module import ModuleRunner
from isthmus.errors import first_line
from isthmus.goldens.precision_copy import cast_by_parts, cast_copy, fits_in_memory
from isthmus.proof.explain.explain_job import ExplainJob, run_step
from isthmus.proof.explain.explanation import LayerError
from isthmus.proof.explain.layer_errors import judge_layer
from isthmus.proof.explain.layers import Layer, Values, in_chunks, layers_of, record, source_of
from isthmus.proof.explain.observation import Observation, read
from isthmus.proof.explain.repro import Repro, write_repro
from isthmus.runtime.workers import ask_worker

__all__ = ["LayerComparison"]

_COPIES = 4
"""Each value is kept in eager mode, in the engine, and in float64, which is twice as wide."""


class LayerComparison:
    """Runs the model and the engine, and judges the submodules."""

    def __init__(self, job: ExplainJob, runner: ModuleRunner, budget_bytes: int) -> None:
        """Prepares a comparison.

        Args:
            job: The call to explain.
            runner: The right model, entered.
            budget_bytes: The size of the values that are kept at a time.
        """
        self._job = job
        self._runner = runner
        self._module = runner.module
        self._budget = budget_bytes
        self._observed: dict[str, Values] = {}
        """The engine's values of the last chunk."""
        self.lines: dict[str, str] = {}
        """Maps a path to file:line of the submodule's last operator in the artifact."""
        self.truth_missing = ""
        """The error of the float64 copy; empty when it runs."""

    def layers(self) -> list[LayerError]:
        """Returns all submodules, judged, in the order in which they finish."""
        with layers_of(self._module) as layers:
            self._run()
        result: list[LayerError] = []
        chunks = list(in_chunks(layers, max(1, self._budget // _COPIES)))
        for at, chunk in enumerate(chunks, start=1):
            of = f" ({at} of {len(chunks)})" if len(chunks) > 1 else ""
            self._job.options.say(f"Looking into {len(chunk)} submodules{of}")
            result += self._judged(chunk)
        return result

    def write_repro(self, folder: Path, culprit: LayerError, sentence: str) -> Path:
        """Writes the folder that reproduces the culprit's error, and returns its path."""
        path = culprit.path
        module = self._module.get_submodule(path)
        arguments: dict[str, object] = {}

        def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
            arguments.setdefault("args", _cloned(args))
            arguments.setdefault("kwargs", _cloned(kwargs))

        handle = module.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            eager = self._eager([path])[path]
        finally:
            handle.remove()
        repro = Repro(
            sentence=sentence,
            engine=self._job.engine,
            path=path,
            module=module,
            call=arguments,
            eager=eager,
            observed=self._observed.get(path) or self._observe([path]).values[path],
            truth=self._truth([path]).get(path),
            import_paths=[str(Path(entry or ".").resolve()) for entry in sys.path],
        )
        return write_repro(folder, repro)

    def _judged(self, chunk: Sequence[Layer]) -> list[LayerError]:
        paths = [layer.path for layer in chunk]
        eager = self._eager(paths)
        truth = self._truth(paths)
        observation = self._observe(paths)
        self.lines.update(observation.lines)
        self._observed = observation.values
        return [
            judge_layer(
                self._named(path), observation.values.get(path), eager[path], truth.get(path)
            )
            for path in paths
            if path in eager
        ]

    def _named(self, path: str) -> LayerError:
        module = self._module.get_submodule(path)
        return LayerError(path, type(module).__name__, source_of(module))

    def _eager(self, paths: Sequence[str]) -> dict[str, Values]:
        with record(self._module, set(paths)) as values:
            self._run()
        return values

    def _truth(self, paths: Sequence[str]) -> dict[str, Values]:
        """Returns the values in float64; none once the model has failed in it."""
        if self.truth_missing:
            return {}
        try:
            with self._in_float64() as runner, record(runner.module, set(paths)) as values:
                run_step(runner, self._job.method, self._job.step, torch.float64)
        except Exception as error:  # an operator without float64, a literal dtype
            self.truth_missing = first_line(error)
            return {}
        return values

    @contextmanager
    def _in_float64(self) -> Iterator[ModuleRunner]:
        if fits_in_memory(self._module, torch.float64):
            copy = cast_copy(self._module, torch.float64)
            with ModuleRunner(copy, stateful=False) as runner:
                yield runner
        else:
            with cast_by_parts(self._module, torch.float64):
                yield self._runner

    def _run(self) -> None:
        run_step(self._runner, self._job.method, self._job.step)

    def _observe(self, paths: Sequence[str]) -> Observation:
        job = self._job
        if job.engine == "aoti":
            from isthmus.proof.explain.observe_aoti import observe_aoti

            return observe_aoti(self._module, job, paths)
        with tempfile.TemporaryDirectory(prefix="isthmus-explain-") as folder:
            request = {
                "spec": job.spec.to_json(),
                "golden": job.golden.name,
                "paths": list(paths),
                "folder": folder,
            }
            ask_worker(
                "isthmus.proof.explain.observe",
                request,
                threads=job.options.thread_count,
                timeout=job.options.timeout,
            )
            return read(Path(folder))


def _cloned(value: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf, value
    )
