"""The reference of recorded answers: the model on the same inputs, else the answers themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from isthmus.proof.replay.records import RecordedCall, RecordedRun

if TYPE_CHECKING:
    import torch

    from isthmus.bundle.golden import Golden, Step
    from isthmus.bundle.manifest import Manifest, Method


@dataclass(frozen=True)
class CallSequence:
    """Calls on one state, in order; for a stateless model a single call."""

    name: str
    run: RecordedRun
    calls: tuple[RecordedCall, ...]


def call_sequences(manifest: Manifest, runs: Iterable[RecordedRun]) -> list[CallSequence]:
    """Groups the calls that reached the engine by the state that they used."""
    sequences = []
    for run in runs:
        reached = [call for call in run.calls if not call.refused]
        if not manifest.stateful:
            sequences += [CallSequence(call.name, run, (call,)) for call in reached]
            continue
        for session in dict.fromkeys(call.session for call in reached):
            calls = tuple(call for call in reached if call.session == session)
            sequences.append(CallSequence(f"{run.name}-session-{session}", run, calls))
    return sequences


@dataclass(frozen=True)
class _Callee:
    """A model with its manifest, for `NoiseMeter`."""

    module: torch.nn.Module
    manifest: Manifest

    @property
    def stateful(self) -> bool:
        return self.manifest.stateful

    def method(self, name: str = "forward") -> Method:
        from isthmus.runtime.python_engine import find_method

        return find_method(self.manifest.methods, name)


class Reference:
    """Gives the right answers: the model's, else the recorded ones."""

    def __init__(self, manifest: Manifest, model: torch.nn.Module | str | None) -> None:
        self._manifest = manifest
        self._failures: dict[str, str] = {}
        self._module: torch.nn.Module | None = None
        self.notes: tuple[str, ...] = ()
        if model is None:
            return
        from isthmus.capture.load_model import resolve_model
        from isthmus.goldens.noise_floor import NoiseMeter

        self._module = resolve_model(model, manifest) if isinstance(model, str) else model
        self._meter = NoiseMeter(_Callee(self._module, manifest))
        self._measured = 0

    @property
    def known(self) -> bool:
        """True when there is a model."""
        return self._module is not None

    def failure(self, sequence: str) -> str:
        """Returns the error of the model on a sequence's inputs; empty when it runs."""
        return self._failures.get(sequence, "")

    def golden(self, sequence: CallSequence) -> Golden | None:
        """Returns the sequence with the right answers; None if they are not known."""
        from isthmus.bundle.golden import Golden, Step, named_sizes
        from isthmus.runtime.python_engine import find_method

        steps = [
            Step(call.method, dict(call.inputs), dict(call.outputs)) for call in sequence.calls
        ]
        if not self.known:
            # A failed call has no answer, and the state of the calls after it is unknown.
            failed = [at for at, call in enumerate(sequence.calls) if call.error]
            steps = steps[: failed[0]] if failed else steps
        else:
            answered = self._answered(sequence.name, steps)
            if answered is None:
                return None
            steps = answered
        if not steps:
            return None
        method = find_method(self._manifest.methods, steps[0].method)
        return Golden(sequence.name, named_sizes(method, steps[0]), tuple(steps))

    def _answered(self, name: str, steps: Sequence[Step]) -> list[Step] | None:
        from isthmus.runtime.python_engines import EagerEngine

        assert self._module is not None
        engine = EagerEngine(self._module, self._manifest, "cpu")
        try:
            outputs = [engine.run(step.method, step.inputs) for step in steps]
        except Exception as error:  # the user's code may raise anything
            self._failures[name] = f"{type(error).__name__}: {error}"
            return None
        self._meter.add([(step.method, step.inputs) for step in steps], outputs)
        errors = self._meter.errors_of(self._measured)
        self._measured += 1
        self.notes = tuple(note.message for note in self._meter.notes)
        return [
            replace(step, outputs=values, errors=own)
            for step, values, own in zip(steps, outputs, errors, strict=True)
        ]
