"""The strategies: each makes a TorchScript module, and the goldens decide whether it is kept."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import nn

from isthmus.bundle.manifest import Hazard
from isthmus.capture.private_copy import private_copy
from isthmus.capture.run_module import ModuleRunner
from isthmus.errors import Decision, ExportError
from isthmus.exporters.check import Verdict
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.frozen_branches import advice_to_accept, mark_accepted, unaccepted
from isthmus.exporters.options import Target
from isthmus.exporters.source_lines import summarize
from isthmus.exporters.torchscript.artifact import (
    ArchiveFacts,
    Candidate,
    artifact_of,
    read_facts,
)
from isthmus.exporters.torchscript.compare_traces import (
    Baked,
    baked_hazards,
    captured_weights,
    differences,
    other_inputs,
)
from isthmus.exporters.torchscript.last_member import last_member_hazards, with_answers_alone
from isthmus.exporters.torchscript.operators import python_only
from isthmus.exporters.torchscript.script import (
    ScriptingFailed,
    describe,
    resolve,
    script_module,
    scripted_parts,
    traced_parts,
)
from isthmus.exporters.torchscript.trace import Site, diagnose, trace
from isthmus.exporters.torchscript.unseen_writes import unseen_writes
from isthmus.goldens.precision_copy import cast_copy, deep_copy

__all__ = ["export_torchscript"]

_MOST_PARTS = 16
"""The number of parts that the search for a mixed export scripts before it gives up."""


def export_torchscript(request: ExportRequest) -> ExportedArtifact:
    """Exports to TorchScript by the strategy of the options; what does not verify is refused.

    Raises:
        ExportError: Nothing verified; its `decisions` say what was tried.
        InvalidInput: A part that the options name does not exist.
    """
    export = _TorchScriptExport(request)
    candidate = export.run()
    if candidate is None:
        raise _nothing_verified(type(request.module).__name__, export.decisions, export.frozen)
    artifact = artifact_of(request, candidate, export.decisions)
    file = request.folder / f"{artifact.name}.pt"
    file.write_bytes(candidate.archive)
    return ExportedArtifact(artifact, (file,))


class _Refused(Exception):
    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where


class _TorchScriptExport:
    """Makes candidates, and logs why each was kept or refused."""

    def __init__(self, request: ExportRequest) -> None:
        assert request.module is not None
        self.decisions: list[Decision] = []
        self._request = request
        self._module = request.module
        self._names = [method.name for method in request.methods]
        self.frozen: list[Hazard] = []
        """The branches on values for which traces were refused that answered right."""
        self._tracer_warnings: list[str] = []

    def run(self) -> Candidate | None:
        """Tries the strategy of the options; returns None when nothing verified."""
        options = self._request.options
        if isinstance(self._module, torch.jit.ScriptModule):
            return self._keep()
        if options.script:
            self._request.progress("Mixing scripted and traced parts")
            return self._traced_around(resolve(self._module, options.script))
        if options.trace:
            self._request.progress("Mixing scripted and traced parts")
            return self._scripted_around(resolve(self._module, options.trace))
        strategies = {
            "trace": self._trace_all,
            "script": self._script_all,
            "mixed": self._search,
            "auto": self._automatic,
        }
        return strategies[options.strategy]()

    # --- the strategies ---------------------------------------------------------------------------

    def _keep(self) -> Candidate | None:
        """Keeps a module that is TorchScript already as it is."""
        self._request.progress("Checking the scripted module")
        if self._request.precision != "fp32":
            self._refuse("script", "a scripted module keeps the types of its source")
            return None
        module = cast(torch.jit.ScriptModule, self._copy())
        return self._prove("script", module, "structured", "kept as it is")

    def _trace_all(self) -> Candidate | None:
        """Traces the whole module; parts that came scripted stay scripted."""
        self._request.progress("Tracing the module")
        return self._trace("trace", [], "traced")

    def _script_all(self) -> Candidate | None:
        """Scripts the whole module."""
        self._request.progress("Scripting the module")
        if self._request.precision != "fp32":
            self._refuse("script", "scripted code keeps the types of its source")
            return None
        return self._script("script", [], "scripted")

    def _traced_around(
        self, targets: Sequence[Target], refused: dict[str, str] | None = None
    ) -> Candidate | None:
        """Scripts these parts, and traces the rest."""
        names = ", ".join(describe(target) for target in targets)
        return self._trace("mixed", targets, f"traced around scripted {names or 'parts'}", refused)

    def _scripted_around(self, targets: Sequence[Target]) -> Candidate | None:
        """Traces these parts, and scripts the rest."""
        names = ", ".join(describe(target) for target in targets)
        return self._script("mixed", targets, f"scripted around traced {names}")

    def _search(self) -> Candidate | None:
        """Scripts the smallest parts that need it, one after the other, and traces the rest."""
        self._request.progress("Looking for the parts that need scripting")
        targets: list[Target] = []
        refused: dict[str, str] = {}
        for _ in range(_MOST_PARTS):
            part = self._next_part(targets, refused)
            if part is None:
                break
            targets.append(part)
            candidate = self._traced_around(targets, refused)
            if candidate is not None:
                return candidate
            targets = [target for target in targets if describe(target) not in refused]
        if not any(decision.strategy == "mixed" for decision in self.decisions):
            reasons = "; ".join(refused.values()) or "no part was found that holds the cause"
            self._refuse("mixed", reasons)
        return None

    def _automatic(self) -> Candidate | None:
        """Traces, and scripts where a trace does not verify or decided something by values."""
        return self._trace_all() or self._script_all() or self._search()

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
    ) -> Candidate | None:
        request = self._request
        try:
            traced, self._tracer_warnings = self._trace_on(targets, request.examples)
        except ScriptingFailed as failed:
            reason, where = summarize(failed.error)
            sentence = f"{describe(failed.target)} cannot be scripted: {reason}"
            if refused is not None:
                refused[describe(failed.target)] = sentence
            self._refuse(strategy, sentence, where)
            return None
        except Exception as error:  # whatever the user's code raises under the tracer
            reason, where = summarize(error)
            self._refuse(strategy, f"it cannot be traced: {reason}", where)
            return None
        return self._prove(strategy, traced, "flat", what, targets)

    def _trace_on(
        self, targets: Sequence[Target], examples: Mapping[str, Mapping[str, Any]]
    ) -> tuple[torch.jit.ScriptModule, list[str]]:
        request = self._request
        with scripted_parts(self._copy(), targets) as module:
            return trace(
                module, request.methods, examples, device=request.device, dtype=request.dtype
            )

    def _diagnose(self, targets: Sequence[Target]) -> tuple[Site, ...]:
        request = self._request
        try:
            with scripted_parts(self._copy(), targets) as module:
                return diagnose(
                    module,
                    request.methods,
                    request.examples,
                    device=request.device,
                    dtype=request.dtype,
                )
        except ScriptingFailed:
            return ()

    def _script(self, strategy: str, traced: Sequence[Target], what: str) -> Candidate | None:
        try:
            module = self._copy()
            if traced:
                traced_parts(module, cast(list[str], list(traced)), self._call_examples)
            scripted = script_module(module, self._names)
            scripted, beside = with_answers_alone(scripted, self._request.methods)
        except Exception as error:  # the compiler's errors are of many kinds
            reason, where = summarize(error)
            self._refuse(strategy, f"it cannot be scripted: {reason}", where)
            return None
        inside = [part for part in traced if isinstance(part, str)]
        hazards = last_member_hazards(beside)
        if hazards:
            what = f"{what}, with the last member of its answer"
        candidate = self._prove(strategy, scripted, "structured", what, traced_inside=inside)
        return candidate and replace(candidate, hazards=(*candidate.hazards, *hazards))

    def _call_examples(self, module: nn.Module) -> None:
        with ModuleRunner(module) as runner:
            for method in self._request.methods:
                runner.call(method, self._request.examples[method.name])

    def _copy(self) -> nn.Module:
        request = self._request
        if request.dtype is not None:
            module = cast_copy(self._module, request.dtype)
        else:
            elsewhere = any(
                str(parameter.device) != request.device for parameter in self._module.parameters()
            )
            if elsewhere or isinstance(self._module, torch.jit.ScriptModule):
                module = deep_copy(self._module)
            else:
                module = private_copy(self._module, request.state)
        return module.to(request.device).eval()

    # --- the proof --------------------------------------------------------------------------------

    def _prove(
        self,
        strategy: str,
        module: torch.jit.ScriptModule,
        convention: Literal["flat", "structured"],
        what: str,
        targets: Sequence[Target] = (),
        traced_inside: Sequence[str] = (),
    ) -> Candidate | None:
        """Checks the saved bytes against all goldens, and logs the decision.

        A trace that keeps a branch on values is refused, unless the caller accepts that branch.
        """
        request = self._request
        try:
            archive = _save(module)
            facts = read_facts(archive, request.precision)
            _require_no_python(facts)
        except _Refused as refused:
            self._refuse(strategy, refused.reason, refused.where)
            return None
        verdict = request.check(request.device).check_torchscript(archive, convention)
        traced = convention == "flat"
        sites: tuple[Site, ...] = ()
        if traced and (self._tracer_warnings or not verdict):
            sites = self._diagnose(targets)
        if not verdict:
            places = [] if sites or not traced else self._baked_for(verdict, module, targets)
            self._refuse(strategy, *_failure(verdict, sites, places))
            return None
        hazards: tuple[Hazard, ...] = ()
        if traced:
            hazards = (*self._tracer_hazards(sites), *self._compare_traces(module, targets, sites))
        elif traced_inside:
            self._tracer_warnings = []
            hazards = tuple(self._tracer_hazards(self._sites_inside(traced_inside)))
        frozen = unaccepted(hazards, request.options.accept)
        if frozen:
            self.frozen += frozen
            reason = (
                f"it answers right on all {len(request.goldens)} goldens, but {frozen[0].message}"
            )
            self._refuse(strategy, reason, frozen[0].where)
            return None
        self.decisions.append(Decision(strategy, True, verdict.acceptance(what, "its bytes")))
        hazards = mark_accepted(hazards)
        if not traced:
            hazards = (*hazards, *unseen_writes(module, request.methods))
        return Candidate(archive, facts, convention, strategy, hazards)

    def _baked_for(
        self, verdict: Verdict, traced: torch.jit.ScriptModule, targets: Sequence[Target]
    ) -> list[Baked]:
        """Returns where a trace of the inputs that failed differs from this one."""
        failed = verdict.failures[0].golden
        for golden in (*self._request.goldens, *self._request.sweep):
            step = golden.steps[0]
            if golden.name == failed and step.method == self._names[0]:
                examples = {**self._request.examples, step.method: step.inputs}
                try:
                    other, _ = self._trace_on(targets, examples)
                except Exception:  # inputs that cannot be traced show nothing
                    return []
                return differences(traced, other, "shape", self._names)
        return []

    def _sites_inside(self, traced_inside: Sequence[str]) -> list[Site]:
        """Returns the places in traced parts of a scripted whole."""
        return [
            site
            for site in self._diagnose(())
            if any(
                f"{owner}.".startswith(f"{part}.")
                for owner in site.owners
                for part in traced_inside
            )
        ]

    def _tracer_hazards(self, sites: Sequence[Site]) -> list[Hazard]:
        """Returns each place where the tracer warned; goldens cannot exhaust what values decide."""
        hazards = []
        for site in sites:
            severity: Literal["warning", "info"] = "warning" if site.depends == "data" else "info"
            consequence = {
                "data": "it depends on the inputs' values, and the goldens are few",
                "shape": "it depends on sizes, over which the goldens agree with eager",
                "constant": "it depends on no input",
            }[site.depends]
            message = f"the trace keeps what one call decided: {site.what}; {consequence}"
            hazards.append(Hazard("tracer_warning", severity, message, site.where))
        if not sites:
            for warning in self._tracer_warnings:
                message, _, where = warning.rpartition(" at ")
                # A conversion of which nothing is known may depend on values.
                unknown = message.startswith("Converting a tensor")
                level: Literal["warning", "info"] = "warning" if unknown else "info"
                hazards.append(Hazard("tracer_warning", level, message, where))
        return hazards

    def _compare_traces(
        self, traced: torch.jit.ScriptModule, targets: Sequence[Target], sites: Sequence[Site]
    ) -> tuple[Hazard, ...]:
        """Compares with a trace at another shape, and that with one of other values."""
        self._request.progress("Comparing traces of other inputs")
        baked: list[Baked] = []
        before = traced
        depends: Literal["shape", "data"] = "shape"
        for inputs in other_inputs(self._request):
            examples = {**self._request.examples, self._names[0]: inputs}
            try:
                other, _ = self._trace_on(targets, examples)
            except Exception:  # inputs that cannot be traced show nothing about the first trace
                break
            baked += differences(before, other, depends, self._names)
            before, depends = other, "data"
        # What values decide says more than what sizes and values decide together.
        known = {site.where for site in sites}
        by_values = {place.where for place in baked if place.depends == "data"}
        new = [
            place
            for place in baked
            if place.where not in known
            and (place.depends == "data" or place.where not in by_values)
        ]
        return (*baked_hazards(new), *captured_weights(traced, self._module))

    def _refuse(self, strategy: str, reason: str, where: str = "") -> None:
        self.decisions.append(Decision(strategy, False, reason, where))


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


def _require_no_python(facts: ArchiveFacts) -> None:
    if facts.python_operators:
        raise _Refused(
            f"it calls Python ({', '.join(facts.python_operators)}), which a C++ process does not "
            "have"
        )
    only = python_only(facts.operators)
    if only:
        raise _Refused(
            f"the operator {only[0]} is registered from Python, and a C++ process has no Python; "
            "register it with TORCH_LIBRARY in a shared library"
        )


def _failure(verdict: Verdict, sites: Sequence[Site], places: Sequence[Baked]) -> tuple[str, str]:
    """Returns the reason of a failed verdict, and file:line of its cause."""
    reason, where = verdict.refusal(), verdict.failures[0].where
    causes = [site for site in sites if site.depends != "constant"]
    if causes:
        reason += f". The trace keeps what one call decided: {causes[0].what}"
        where = where or causes[0].where
    elif places:
        reason += f". The trace keeps what one call decided: {places[0].what}"
        where = where or places[0].where
    return reason, where


def _nothing_verified(
    name: str, decisions: Sequence[Decision], frozen: Sequence[Hazard]
) -> ExportError:
    lines = [f"no export of {name} verifies, and nothing was written:"]
    for decision in decisions:
        where = f" ({decision.where})" if decision.where else ""
        lines.append(f"  {decision.strategy}: {decision.reason}{where}")
    lines.append(
        "Mend the first line named, script the part that holds it (script=[...]), or make the "
        "choice at export (constants=[...])"
    )
    if frozen:
        lines[-1] += (
            f". Or accept that other values would get this answer too: {advice_to_accept(frozen)}"
        )
    error = ExportError("\n".join(lines))
    error.decisions = tuple(decisions)
    error.where = frozen[0].where if frozen else ""
    return error
