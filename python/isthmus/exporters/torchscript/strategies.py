"""The strategies: each makes a TorchScript module, and the goldens say whether it may be kept."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import torch
from torch import nn

from isthmus.bundle.golden import Golden
from isthmus.bundle.manifest import Hazard, OpLibrary, Tolerance
from isthmus.capture.capture import Captured
from isthmus.errors import BundleError, Decision, ExportError
from isthmus.exporters.check import Convention, Verdict, check, load_bytes
from isthmus.exporters.export_request import Scripted
from isthmus.exporters.source_lines import summarize
from isthmus.exporters.torchscript.compare_traces import (
    Baked,
    baked_hazards,
    captured_weights,
    differences,
    other_inputs,
)
from isthmus.exporters.torchscript.hazards import find_hazards, pinned_devices
from isthmus.exporters.torchscript.operators import (
    count_operators,
    custom_operators,
    find_libraries,
    python_only,
    python_operators,
)
from isthmus.exporters.torchscript.script import (
    ScriptingFailed,
    Target,
    describe,
    private_copy,
    resolve,
    script_module,
    scripted_parts,
    traced_parts,
)
from isthmus.exporters.torchscript.trace import Site, diagnose, trace
from isthmus.goldens.precision_copy import cast_copy, deep_copy
from isthmus.goldens.tolerance import SAMPLE_COSINES

STRATEGIES = ("auto", "trace", "script", "mixed")
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_MOST_PARTS = 16
"""Parts that the search for a mixed export scripts before it gives up."""


@dataclass(frozen=True)
class Exported:
    """A TorchScript archive that gives the module's answers on every golden."""

    archive: bytes
    convention: Convention
    strategy: str
    trust: Literal["graph", "native"]
    devices: tuple[str, ...]
    operators: Mapping[str, int]
    op_libraries: tuple[OpLibrary, ...]
    decisions: tuple[Decision, ...]
    hazards: tuple[Hazard, ...]

    @property
    def scripted(self) -> Scripted:
        """As a starting point for other formats."""
        return Scripted(self.archive, self.convention, self.strategy)


@dataclass(frozen=True)
class _Candidate:
    """An archive that verified."""

    archive: bytes
    convention: Convention
    strategy: str
    sites: tuple[Site, ...] = ()
    """Where the trace keeps the answer of the traced call."""
    findings: tuple[Hazard, ...] = ()
    """What traces of other inputs showed."""

    @property
    def unproven(self) -> tuple[Site, ...]:
        """Sites that depend on values, of which the goldens are only some."""
        return tuple(site for site in self.sites if site.depends == "data")


class _Refused(Exception):
    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where


def export_torchscript(
    captured: Captured,
    goldens: Sequence[Golden],
    tolerances: Mapping[str, Tolerance],
    *,
    strategy: str = "auto",
    script: Sequence[Target] = (),
    trace_parts: Sequence[str] = (),
    precision: str = "fp32",
    device: str = "cpu",
    op_libraries: Sequence[str | Path] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Exports along a strategy; what does not verify is refused.

    Arguments as for `isthmus.export`, `trace_parts` being its `trace`.

    Raises:
        ExportError: Nothing verified; its `decisions` say what was tried.
    """
    maker = _TorchScriptExport(captured, goldens, tolerances, precision, device, progress)
    if isinstance(captured.module, torch.jit.ScriptModule):
        found = maker.keep()
    elif script or trace_parts:
        found = maker.mixed(resolve(captured.module, script), resolve(captured.module, trace_parts))
    elif strategy == "trace":
        found = maker.trace()
    elif strategy == "script":
        found = maker.script()
    elif strategy == "mixed":
        found = maker.search()
    else:
        found = _automatic(maker)
    if found is None:
        _refuse(captured.module, maker.decisions)
    return _finish(found, maker, op_libraries)


def _automatic(maker: _TorchScriptExport) -> _Candidate | None:
    traced = maker.trace()
    if traced is not None and not traced.unproven:
        return traced
    if traced is not None:
        site = traced.unproven[0]
        maker.decisions[-1] = Decision(
            "trace",
            False,
            f"it answers right on all {len(maker.goldens)} goldens, but {site.what}, which depends "
            "on the inputs' values; a script would keep the decision",
            site.where,
        )
    for attempt in (maker.script, maker.search):
        found = attempt()
        if found is not None:
            return found
    if traced is not None:
        maker.decisions.append(
            Decision(
                "trace",
                True,
                f"nothing else can be had, and it answers right on all {len(maker.goldens)} "
                "goldens; see the warnings for the decisions that it keeps",
                traced.unproven[0].where,
            )
        )
    return traced


class _TorchScriptExport:
    """Makes candidates and keeps the log of decisions."""

    def __init__(
        self,
        captured: Captured,
        goldens: Sequence[Golden],
        tolerances: Mapping[str, Tolerance],
        precision: str,
        device: str,
        progress: Callable[[str], None],
    ) -> None:
        self.captured = captured
        self.goldens = goldens
        self.device = device
        self.precision = precision
        self.decisions: list[Decision] = []
        self.tracer_warnings: list[str] = []
        self._tolerances = tolerances
        self._dtype = _DTYPES.get(precision)
        self._progress = progress
        self._names = [method.name for method in captured.methods]

    # --- the strategies ---------------------------------------------------------------------------

    def keep(self) -> _Candidate | None:
        """A module that is TorchScript already stays as it is."""
        self._progress("Checking the scripted module")
        if self.precision != "fp32":
            self._decide("script", _Refused("a scripted module keeps the types of its source"))
            return None
        module = cast(torch.jit.ScriptModule, self._copy())
        return self._prove("script", module, "structured", "kept as it is")

    def trace(self) -> _Candidate | None:
        """All of it traced; parts that came scripted stay scripted."""
        return self._trace("trace", [], "traced")

    def script(self) -> _Candidate | None:
        """All of it scripted."""
        self._progress("Scripting the module")
        if self.precision != "fp32":
            self._decide("script", _Refused("scripted code keeps the types of its source"))
            return None
        return self._script("script", [], "scripted")

    def mixed(self, script: Sequence[Target], traced: Sequence[Target]) -> _Candidate | None:
        """The parts that the user named."""
        self._progress("Mixing scripted and traced parts")
        if traced:
            names = ", ".join(describe(one) for one in traced)
            return self._script("mixed", list(traced), f"scripted around traced {names}")
        names = ", ".join(describe(one) for one in script)
        return self._trace("mixed", list(script), f"traced around scripted {names or 'parts'}")

    def search(self) -> _Candidate | None:
        """The smallest parts that need it are scripted, one after the other, the rest traced."""
        self._progress("Looking for the parts that need scripting")
        targets: list[Target] = []
        refused: dict[str, str] = {}
        for _ in range(_MOST_PARTS):
            part = self._next_part(targets, refused)
            if part is None:
                break
            targets.append(part)
            names = ", ".join(describe(target) for target in targets)
            found = self._trace("mixed", targets, f"traced around scripted {names}", refused)
            if found is not None:
                return found
            targets = [target for target in targets if describe(target) not in refused]
        if not any(decision.strategy == "mixed" for decision in self.decisions):
            reasons = "; ".join(refused.values()) or "no part was found that holds the cause"
            self._decide("mixed", _Refused(reasons))
        return None

    # --- their parts ------------------------------------------------------------------------------

    def _next_part(self, targets: Sequence[Target], refused: Mapping[str, str]) -> Target | None:
        taken = {*map(describe, targets), *refused}
        for site in self._diagnose(targets):
            parts: list[Target] = [*([site.function] if site.function else []), *site.owners]
            if any(describe(part) in map(describe, targets) for part in parts):
                continue
            for part in parts:
                if describe(part) not in taken:
                    return part
        return None

    def _trace(
        self,
        strategy: str,
        targets: Sequence[Target],
        what: str,
        refused: dict[str, str] | None = None,
    ) -> _Candidate | None:
        if strategy == "trace":
            self._progress("Tracing the module")
        try:
            with scripted_parts(self._copy(), targets) as module:
                traced, notes = trace(
                    module,
                    self.captured.methods,
                    self.captured.examples,
                    device=self.device,
                    dtype=self._dtype,
                )
        except ScriptingFailed as failed:
            reason, where = summarize(failed.error)
            sentence = f"{describe(failed.target)} cannot be scripted: {reason}"
            if refused is not None:
                refused[describe(failed.target)] = sentence
            self._decide(strategy, _Refused(sentence, where))
            return None
        except Exception as error:  # whatever the user's code raises under the tracer
            reason, where = summarize(error)
            self._decide(strategy, _Refused(f"it cannot be traced: {reason}", where))
            return None
        self.tracer_warnings = notes
        return self._prove(strategy, traced, "flat", what, targets)

    def _script(self, strategy: str, traced: Sequence[Target], what: str) -> _Candidate | None:
        try:
            module = self._copy()
            if traced:
                traced_parts(module, cast(list[str], list(traced)), self._call_examples)
            scripted = script_module(module, self._names)
        except Exception as error:  # the compiler's errors are of many kinds
            reason, where = summarize(error)
            self._decide(strategy, _Refused(f"it cannot be scripted: {reason}", where))
            return None
        return self._prove(strategy, scripted, "structured", what)

    def _call_examples(self, module: nn.Module) -> None:
        from isthmus.capture.run_module import call

        for method in self.captured.methods:
            call(module, method, self.captured.examples[method.name])

    def _copy(self) -> nn.Module:
        captured = self.captured
        if self._dtype is not None:
            return cast_copy(captured.module, self._dtype).to(self.device).eval()
        parameters = list(captured.module.parameters())
        elsewhere = any(str(parameter.device) != self.device for parameter in parameters)
        if elsewhere or isinstance(captured.module, torch.jit.ScriptModule):
            return deep_copy(captured.module).to(self.device).eval()
        return private_copy(captured.module, captured.state).to(self.device).eval()

    def _diagnose(self, targets: Sequence[Target]) -> tuple[Site, ...]:
        try:
            with scripted_parts(self._copy(), targets) as module:
                return diagnose(
                    module,
                    self.captured.methods,
                    self.captured.examples,
                    device=self.device,
                    dtype=self._dtype,
                )
        except ScriptingFailed:
            return ()

    def _prove(
        self,
        strategy: str,
        module: torch.jit.ScriptModule,
        convention: Convention,
        what: str,
        targets: Sequence[Target] = (),
    ) -> _Candidate | None:
        """Checks the saved bytes against all goldens, and logs the decision."""
        try:
            archive = _save(module)
            self._runs_without_python(archive)
            verdict = check(
                archive,
                convention,
                self.captured.methods,
                self.goldens,
                self._tolerances,
                device=self.device,
                stateful=self.captured.stateful,
                least_cosine=SAMPLE_COSINES.get(self.precision, 0.0),
            )
        except _Refused as refused:
            self._decide(strategy, refused)
            return None
        traced = convention == "flat"
        sites = self._diagnose(targets) if traced and (self.tracer_warnings or not verdict) else ()
        if not verdict:
            self._decide(strategy, self._failed(verdict, sites))
            return None
        self.decisions.append(
            Decision(
                strategy,
                True,
                f"{what}; loaded again from its bytes, it equals eager on all {verdict.goldens} "
                f"goldens, {verdict.calls} calls{verdict.cosines.note}",
            )
        )
        findings = self._compared(module, targets, sites) if traced else ()
        return _Candidate(archive, convention, strategy, sites, findings)

    def _compared(
        self, traced: torch.jit.ScriptModule, targets: Sequence[Target], sites: Sequence[Site]
    ) -> tuple[Hazard, ...]:
        """What differs in traces at another shape, and of other values at that shape."""
        self._progress("Comparing traces of other inputs")
        names = self._names
        found: list[Baked] = []
        before, here = traced, True
        for step in other_inputs(self.captured, self.goldens):
            other = self._trace_again(targets, step)
            if other is None:
                break
            found += differences(before, other, "shape" if here else "data", names)
            before, here = other, False
        # What values decide says more than what sizes and values decide together.
        known = {site.where for site in sites}
        decided = {one.where for one in found if one.depends == "data"}
        news = [
            one
            for one in found
            if one.where not in known and (one.depends == "data" or one.where not in decided)
        ]
        return (*baked_hazards(news), *captured_weights(traced, self.captured.module))

    def _trace_again(
        self, targets: Sequence[Target], inputs: Mapping[str, Any]
    ) -> torch.jit.ScriptModule | None:
        examples = {**self.captured.examples, self._names[0]: inputs}
        try:
            with scripted_parts(self._copy(), targets) as module:
                traced, _ = trace(
                    module,
                    self.captured.methods,
                    examples,
                    device=self.device,
                    dtype=self._dtype,
                )
        except Exception:  # a golden that cannot be traced says nothing of the trace there is
            return None
        return traced

    def _runs_without_python(self, archive: bytes) -> None:
        loaded = load_bytes(archive, "cpu")
        calls = python_operators(loaded)
        if calls:
            raise _Refused(
                f"it calls Python ({', '.join(calls)}), which a C++ process does not have"
            )
        only = python_only(count_operators(loaded))
        if only:
            raise _Refused(
                f"the operator {only[0]} is registered from Python, and a C++ process has no "
                "Python; register it with TORCH_LIBRARY in a shared library"
            )

    def _failed(self, verdict: Verdict, sites: Sequence[Site]) -> _Refused:
        first = verdict.failures[0]
        reason = f"{len(verdict.failures)} of {verdict.goldens} goldens fail; {first}"
        cause = [site for site in sites if site.depends != "constant"]
        if cause:
            reason += f". The trace keeps what one call decided: {cause[0].what}"
        return _Refused(reason, first.where or (cause[0].where if cause else ""))

    def _decide(self, strategy: str, refused: _Refused) -> None:
        self.decisions.append(Decision(strategy, False, refused.reason, refused.where))


def _save(module: torch.jit.ScriptModule) -> bytes:
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(module, buffer)
    except Exception as error:
        reason, where = summarize(error)
        raise _Refused(f"it cannot be saved: {reason}", where) from error
    return buffer.getvalue()


def _finish(
    found: _Candidate, maker: _TorchScriptExport, op_libraries: Sequence[str | Path]
) -> Exported:
    """Facts about the archive for the manifest."""
    module = load_bytes(found.archive, "cpu")
    operators = count_operators(module)
    hazards = find_hazards(module, maker.precision)
    hazards += _warnings(found, maker)
    hazards += found.findings
    trust, refusals = _trust(found.archive, operators)
    pinned = pinned_devices(module)
    own = maker.device.partition(":")[0]
    return Exported(
        archive=found.archive,
        convention=found.convention,
        strategy=found.strategy,
        trust=trust,
        devices=pinned or ((own, "cuda") if own == "cpu" else (own,)),
        operators=operators,
        op_libraries=find_libraries(operators, op_libraries),
        decisions=tuple(maker.decisions),
        hazards=(*hazards, *refusals),
    )


def _warnings(found: _Candidate, maker: _TorchScriptExport) -> list[Hazard]:
    """Every place where the tracer warned; data-dependent ones the goldens cannot exhaust."""
    if found.convention != "flat":
        return []
    hazards = []
    for site in found.sites:
        if site.depends == "data":
            severity, rest = "warning", "it depends on the inputs' values, and the goldens are few"
        elif site.depends == "shape":
            severity, rest = "info", "it depends on sizes, over which the goldens agree with eager"
        else:
            severity, rest = "info", "it depends on no input"
        message = f"the trace keeps what one call decided: {site.what}; {rest}"
        hazards.append(Hazard("tracer_warning", cast(Any, severity), message, site.where))
    if not found.sites:
        for note in maker.tracer_warnings:
            message, _, where = note.rpartition(" at ")
            hazards.append(Hazard("tracer_warning", "info", message, where))
    return hazards


def _trust(
    archive: bytes, operators: Mapping[str, int]
) -> tuple[Literal["graph", "native"], list[Hazard]]:
    """The class that the archive needs, as the scanner that C++ runs before loading sees it."""
    from isthmus import _core

    namespaces = {name.partition("::")[0] for name in custom_operators(operators)}
    scan = _core.scan_torchscript(archive, namespaces)
    if not scan.refused:
        return "graph", []
    refused = [finding for finding in scan.findings if finding.refused]
    foreign = [one for one in refused if one.kind != "operator"]
    if foreign:
        raise BundleError(
            f"the archive that torch {torch.__version__} wrote is not one that isthmus reads: "
            f"{foreign[0].what} ({foreign[0].where}); report this"
        )
    hazards = [
        Hazard(
            "impure_operator",
            "warning",
            f'{one.what}: the artifact loads only with trust="native" (--allow-native)',
            one.where,
        )
        for one in refused
    ]
    return "native", hazards


def _refuse(module: nn.Module, decisions: Sequence[Decision]) -> NoReturn:
    lines = [f"no export of {type(module).__name__} verifies, and nothing was written:"]
    for decision in decisions:
        where = f" ({decision.where})" if decision.where else ""
        lines.append(f"  {decision.strategy}: {decision.reason}{where}")
    lines.append(
        "Mend the first line named, script the part that holds it (script=[...]), or make the "
        "choice at export (constants=[...])"
    )
    error = ExportError("\n".join(lines))
    error.decisions = tuple(decisions)
    raise error
