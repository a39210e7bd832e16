"""Checks an artifact against the goldens before it may be written.

What is checked is what is shipped: the artifact's bytes, loaded again.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import Method, Tolerance
from isthmus.exporters.sample_cosine import Cosines
from isthmus.exporters.source_lines import summarize
from isthmus.goldens.compare import compare
from isthmus.goldens.stored import BUDGET_BYTES
from isthmus.goldens.sweep import wrong_sizes
from isthmus.runtime.call_torchscript import call_torchscript
from isthmus.runtime.python_engine import PythonEngine

__all__ = ["Failure", "FileEngine", "GoldenCheck", "Verdict", "load_bytes"]

Call = Callable[[Method, Mapping[str, Tensor]], "dict[str, Tensor]"]
"""Calls a loaded artifact: inputs by name in, outputs by name out."""
FileEngine = Callable[[Sequence[Path], Sequence[Method]], PythonEngine]
"""Loads the files of the methods, in order."""

# The profiling executor optimizes after the first call of a shape: the second and third call run
# code that the first did not.
_TORCHSCRIPT_REPEATS = 3
_REPEATS = 2


@dataclass(frozen=True)
class Failure:
    """The first difference that was seen with one golden."""

    golden: str
    output: str
    """The output's name; empty when the call itself failed."""
    reason: str
    call: int = 1
    """The number of the repeated call that failed, from 1."""
    where: str = ""
    """file:line of the cause in the user's source, where it is known."""

    def __str__(self) -> str:
        when = f" on call {self.call}" if self.call > 1 else ""
        what = f"output {self.output}" if self.output else "the call"
        return f"golden {self.golden}: {what}{when}: {self.reason}"


@dataclass(frozen=True)
class Verdict:
    """The result of a check; true when every golden passed."""

    goldens: int
    """The number of goldens."""
    calls: int
    """The number of calls that were made."""
    failures: tuple[Failure, ...] = ()
    cosines: Cosines = field(default_factory=Cosines)
    """The cosines of all samples, where they were asked for."""
    swept: int = 0
    """The number of further shapes, beside the goldens', at which it was called once."""
    wrong_sizes: str = ""
    """The sizes among these at which it fails, in words; `failures` has the first of them."""
    right: tuple[Mapping[str, int], ...] = ()
    """The sizes of the calls that passed: those of goldens, and after them further ones."""
    wrong: tuple[Mapping[str, int], ...] = ()
    """The sizes of the calls that failed."""

    def __bool__(self) -> bool:
        return not self.failures

    def refusal(self) -> str:
        """Returns the reason of the decision that refuses an artifact with failures."""
        if self.wrong_sizes:
            return (
                f"it equals eager on all {self.goldens} goldens, and is {self.wrong_sizes}; "
                f"{self.failures[0]}"
            )
        return f"{len(self.failures)} of {self.goldens} goldens fail; {self.failures[0]}"

    @property
    def _sweep_note(self) -> str:
        return f", and at {self.swept} further sizes" if self.swept else ""

    def acceptance(self, description: str, origin: str) -> str:
        """Returns the reason of the decision that keeps an artifact.

        Args:
            description: The way in which the artifact was made.
            origin: "its bytes" or "its files", from which it was loaded.
        """
        return (
            f"{description}; loaded again from {origin}, it equals eager on all {self.goldens} "
            f"goldens, {self.calls} calls{self._sweep_note}{self.cosines.note}"
        )


@dataclass(frozen=True, kw_only=True)
class GoldenCheck:
    """The goldens that an artifact must reproduce, and how closely."""

    methods: Sequence[Method]
    """The signature."""
    goldens: Sequence[Golden]
    """Sequences of calls with their answers."""
    sweep: Sequence[Golden] = ()
    """Sequences at further sizes, each of which is run once when all goldens passed."""
    tolerances: Mapping[str, Tolerance]
    """The tolerance of each output, by name."""
    device: str = "cpu"
    """The device on which the inputs are handed over."""
    stateful: bool = False
    """True when calls change the artifact: it is then loaded again for each sequence."""
    least_cosine: float = 0.0
    """The least cosine of each sample of each output to the golden's; 0 asks nothing."""

    def check_torchscript(self, archive: bytes, convention: str) -> Verdict:
        """Checks the bytes of a TorchScript archive."""

        def load() -> Call:
            module = load_bytes(archive, self.device)
            return lambda method, inputs: call_torchscript(module, method, convention, inputs)

        return self._check(load, _TORCHSCRIPT_REPEATS)

    def check_files(self, engine: FileEngine, files: Sequence[Path]) -> Verdict:
        """Checks the methods' files on an engine."""
        return self._check(lambda: engine(files, self.methods).call, _REPEATS)

    def _check(self, load: Callable[[], Call], repeats: int) -> Verdict:
        """Runs every golden several times; a golden stops at its first failure."""
        run = load()
        failures: list[Failure] = []
        right: list[Mapping[str, int]] = []
        wrong: list[Mapping[str, int]] = []
        cosines = Cosines(self.least_cosine)
        calls = 0
        for at, golden in enumerate(self.goldens):
            # Large outputs take long to compare; calls after the first golden run optimized code.
            large = at > 0 and golden.nbytes > BUDGET_BYTES
            failure = None
            for call in range(1, 2 if large else repeats + 1):
                if self.stateful and calls:
                    run = load()
                calls += 1
                failure = self._failure(run, golden, call, cosines)
                if failure is not None:
                    failures.append(failure)
                    break
            (right if failure is None else wrong).append(golden.dims)
        swept = () if failures else self.sweep
        for golden in swept:
            if self.stateful:
                run = load()
            failure = self._failure(run, golden, 1, Cosines(), swept=True)
            if failure is not None:
                failures.append(failure)
            (right if failure is None else wrong).append(golden.dims)
        text = wrong_sizes(wrong, [golden.dims for golden in swept]) if swept else ""
        return Verdict(
            goldens=len(self.goldens),
            calls=calls,
            failures=tuple(failures),
            cosines=cosines,
            swept=len(swept),
            wrong_sizes=text,
            right=tuple(right),
            wrong=tuple(wrong),
        )

    def _failure(
        self, run: Call, golden: Golden, call: int, cosines: Cosines, *, swept: bool = False
    ) -> Failure | None:
        """Runs a golden once, and returns what was wrong first; counts cosines on call 1.

        The calls of a sweep look for sizes that an engine treats otherwise, and there are many: an
        output fails only where it is beyond both eager's own error in that call and the worst of
        all goldens.
        """
        methods = {method.name: method for method in self.methods}
        for step in golden.steps:
            method = methods[step.method]
            # Copies: a call may write its inputs.
            inputs = {name: value.clone().to(self.device) for name, value in step.inputs.items()}
            try:
                with torch.inference_mode():
                    actual = run(method, inputs)
            except Exception as error:  # whatever a runtime raises is that golden's reason
                reason, where = summarize(error)
                return Failure(golden.name, "", f"{type(error).__name__}: {reason}", call, where)
            for spec in method.results:
                expected, output = step.outputs.get(spec.name), actual.get(spec.name)
                # The cosine comes first because its reason says more: one sample, in plain numbers.
                reason = cosines.add(golden.name, spec, expected, output) if call == 1 else ""
                if reason:
                    return Failure(golden.name, spec.name, reason, call)
                tolerance = self.tolerances.get(spec.name, Tolerance(0.0, 0.0))
                own_error = step.errors.get(spec.name)
                parity = compare(spec.name, expected, output, tolerance, own_error=own_error)
                if not parity and swept and own_error is not None:
                    parity = compare(spec.name, expected, output, tolerance)
                if not parity:
                    return Failure(golden.name, spec.name, parity.reason, call)
        return None


def load_bytes(archive: bytes, device: str) -> torch.jit.ScriptModule:
    """Loads a TorchScript archive on a device, as a consumer would."""
    with warnings.catch_warnings():
        # torch 2.14 warns at each load that TorchScript is deprecated.
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(  # type: ignore[no-untyped-call]
            io.BytesIO(archive), map_location=device
        )
    assert isinstance(loaded, torch.jit.ScriptModule)
    return loaded
