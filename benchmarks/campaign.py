"""Does any engine answer otherwise than eager? A module of each operator of PyTorch's own tests.

Each operator is exported to every format with its sample inputs (float32, int64 and bool), and each
engine is called with unseen values, other sizes, special values (NaN, infinities, ...) and large
integers. What isthmus refuses, at export, at load or at the call, counts as refused; an answer that
differs from eager's counts as WRONG.

Each operator runs in a process of its own, so that a crash or a time-out loses one operator.
Results go to a state file, and a run goes on where the last one stopped. For AOTInductor many
operators share a module, because its compiler takes some ten seconds for each module and little for
each operator; a module that cannot be compiled is halved until the operators at fault stand alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from operator_modules import (
    MAGNITUDES,
    RANGE,
    SIZES,
    SPECIALS,
    OperatorCall,
    OperatorGroup,
    calls_of,
    differences,
    fixed_sample,
    operators,
    shuffled,
    with_special,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from shared import Result, compact, engine_pairs
from state import Row, State
from torch import Tensor

import isthmus
from isthmus.document import print_report, to_json

GROUP = 24
"""The number of operators in a module for AOTInductor."""
SECONDS = {"export": 300.0, "aoti": 1200.0}
"""The time limit of a process: for an operator, and for a group of AOTInductor."""
SEEDS = (1, 2, 3)
"""The seeds of unseen values; the example has seed 0."""
MOST_WRONG = 6
"""The number of wrong answers that are kept of an operator on an engine."""
MOST_BYTES = 1 << 28
"""The size of the results that are compared: one count of 2^31 gives bincount 16 GiB of them."""
REASON = 110
"""The length of a reason in summaries."""

EAGER = "eager: "
"""The stage of a process that computes eager's answer, before the name of the trial."""

Tell = Callable[[str], None]


def one_line(text: object, length: int = 400) -> str:
    """Returns a text in one line, cut to a length."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 3] + "..."


# --- one module on its engines --------------------------------------------------------------------


class Tally:
    """The results of one operator on one engine."""

    def __init__(self, operator: str, engine: str) -> None:
        self.operator, self.engine = operator, engine
        self.right = 0
        self.wrong: list[str] = []
        self.refused: Counter[str] = Counter()

    def row(self) -> Row:
        """Returns the row for the state file."""
        verdict = "WRONG" if self.wrong else "right" if self.right else "refused"
        return {
            "operator": self.operator,
            "engine": self.engine,
            "verdict": verdict,
            "right": self.right,
            "wrong": self.wrong[:MOST_WRONG],
            "wrong_calls": len(self.wrong),
            "refused": dict(self.refused.most_common(6)),
        }


class Tallies(dict[tuple[str, str], Tally]):
    """The results by operator and engine."""

    def of(self, operator: str, engine: str) -> Tally:
        """Returns the tally of an operator on an engine."""
        return self.setdefault((operator, engine), Tally(operator, engine))


def export(
    group: OperatorGroup, path: Path, formats: Sequence[str], seconds: float
) -> tuple[bool, dict[str, str]]:
    """Exports a module; returns whether there is a bundle, and the reason by refused format."""
    dynamic = group.dynamic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bundle = isthmus.export(
                group.module,
                group.inputs(0),
                path=path,
                formats=formats,
                dynamic=dynamic or None,
                dims={"n": RANGE} if dynamic else None,
                time_limit=seconds,
                overwrite=True,
            )
    except isthmus.Error as error:
        return False, dict.fromkeys(formats, f"export: {one_line(error)}")
    except Exception as error:  # a fault of isthmus, but not an answer
        crash = f"export CRASHED: {type(error).__name__}: {one_line(error)}"
        return False, dict.fromkeys(formats, crash)
    lost = {
        result.format: f"export: {one_line(result.explanation)}"
        for result in bundle.results
        if not result.ok
    }
    return True, lost


def trials(group: OperatorGroup) -> Iterator[tuple[str, OperatorCall | None, list[Tensor]]]:
    """Yields what is new about a call, the call that it concerns (None: all), and the inputs."""
    for seed in SEEDS:
        yield f"values of seed {seed}", None, group.inputs(seed)
    if group.dynamic():
        for size in SIZES[1:]:
            yield f"size {size}", None, group.inputs(4, size)
    for kind in (*SPECIALS, *MAGNITUDES):
        for changed in group.calls:
            special = with_special(changed.inputs(1), kind)
            if special is None:
                continue
            inputs: list[Tensor] = []
            for call in group.calls:
                inputs += special if call is changed else call.inputs(1)
            yield kind, changed, inputs


def eager_answer(group: OperatorGroup, inputs: Sequence[Tensor]) -> list[Tensor] | None:
    """Returns eager's results, or None where eager refuses the call or the results are huge."""
    try:
        with torch.inference_mode():
            results = list(group.module(*[tensor.clone() for tensor in inputs]))
    except Exception:
        return None
    return results if sum(result.nbytes for result in results) <= MOST_BYTES else None


def float64_answer(group: OperatorGroup, inputs: Sequence[Tensor]) -> list[Tensor] | None:
    """Returns eager's results in float64, or None where there are none."""
    wide = [tensor.double() if tensor.dtype == torch.float32 else tensor for tensor in inputs]
    return eager_answer(group, wide)


def judge(
    group: OperatorGroup,
    path: Path,
    engine: str,
    tallies: Tallies,
    tell: Tell,
    skipped: Collection[str] = (),
) -> str:
    """Calls an engine with everything that is new but `skipped`, and counts its answers.

    Returns:
        The reason where the engine refuses the whole module, else "".
    """
    everybody = list(dict.fromkeys(call.operator for call in group.calls))
    tell(engine)
    try:
        model = isthmus.load(path, engine=engine, trust="native", warmup=False, threads=1)
    except isthmus.Error as error:
        return f"load: {one_line(error)}"
    results_of = group.owners()
    for what, about, inputs in trials(group):
        if what in skipped:
            continue
        tell(f"{EAGER}{what}")
        expected = eager_answer(group, inputs)
        tell(engine)
        if expected is None or len(expected) != len(results_of):
            continue
        concerned = [about.operator] if about else everybody
        try:
            answer = model(*[tensor.clone() for tensor in inputs])
        except isthmus.Error as error:
            for operator in concerned:
                tallies.of(operator, engine).refused[f"{what}: {one_line(error)}"] += 1
            continue
        except Exception as error:
            for operator in concerned:
                crash = f"{what}: {type(error).__name__}: {one_line(error)}"
                tallies.of(operator, engine).wrong.append(crash)
            continue
        got = list(answer) if isinstance(answer, (tuple, list)) else [answer]
        found = differences(expected, got, lambda inputs=inputs: float64_answer(group, inputs))
        guilty = set()
        for at, text in found.items():
            owner = results_of[at]
            guilty.add(owner.operator)
            tallies.of(owner.operator, engine).wrong.append(f"{owner.label}, {what}: {text}")
        for operator in set(concerned) - guilty:
            tallies.of(operator, engine).right += 1
    return ""


def examine(
    calls: Sequence[OperatorCall],
    pairs: Sequence[tuple[str, str]],
    folder: Path,
    tallies: Tallies,
    tell: Tell,
    seconds: float,
    skipped: Collection[str] = (),
) -> None:
    """Exports the calls as one module and judges the engines of these (format, engine) pairs.

    Where a format or an engine refuses the module, it is halved, so that one call does not speak
    for others.
    """
    if not calls or not pairs:
        return
    path = folder / f"bundle{len(list(folder.iterdir()))}"
    tell("export")
    group = OperatorGroup(calls)
    formats = list(dict.fromkeys(format for format, _ in pairs))
    exists, lost_formats = export(group, path, formats, seconds)
    refused: dict[tuple[str, str], str] = {}
    for format, engine in pairs:
        why = lost_formats.get(format, "")
        if exists and not why:
            why = judge(group, path, engine, tallies, tell, skipped)
        if why:
            refused[format, engine] = why
    if len(calls) > 1 and refused:
        half = len(calls) // 2
        for part in (calls[:half], calls[half:]):
            examine(part, list(refused), folder, tallies, tell, seconds, skipped)
        return
    for (_, engine), why in refused.items():
        kind = str(calls[0].dtype).removeprefix("torch.")
        tallies.of(calls[0].operator, engine).refused[f"{kind}: {why}"] += 1


# --- processes ------------------------------------------------------------------------------------


def examine_operators(
    names: Sequence[str],
    entries: Mapping[str, Any],
    formats: Sequence[str],
    tell: Tell,
    skipped: Collection[str] = (),
) -> list[Row]:
    """Returns the rows of operators that share a module."""
    torch.set_num_threads(1)
    tallies = Tallies()
    engines = [engine for _, engine in engine_pairs(formats)]
    rows: list[Row] = []
    calls: list[OperatorCall] = []
    for name in names:
        own, why = calls_of(name, entries[name])
        calls += own
        if not own:
            rows += [left_out(name, engine, why) for engine in engines]
    with tempfile.TemporaryDirectory(prefix="isthmus-campaign-") as folder:
        seconds = 240.0 if len(names) == 1 else 900.0
        examine(calls, engine_pairs(formats), Path(folder), tallies, tell, seconds, skipped)
    return rows + [tally.row() for tally in tallies.values()]


def left_out(operator: str, engine: str, reason: str) -> Row:
    """Returns the row of an operator that is not tried."""
    return {
        "operator": operator, "engine": engine, "verdict": "left out", "right": 0, "wrong": [],
        "wrong_calls": 0, "refused": {reason: 1},
    }  # fmt: skip


def lost(names: Sequence[str], engines: Sequence[str], stage: str, how: str) -> list[Row]:
    """Returns the rows of a process that died or took too long at a stage.

    A death inside an engine is worse than a wrong answer, and counts as one.
    """
    rows = []
    for name in names:
        for engine in engines:
            tally = Tally(name, engine)
            if stage == engine:
                tally.wrong.append(f"the process {how} in a call of {engine}")
            else:
                tally.refused[f"the process {how} at the stage {stage}"] += 1
            rows.append(tally.row())
    return rows


def in_process(
    names: Sequence[str],
    entries: Mapping[str, Any],
    formats: Sequence[str],
    seconds: float,
    skipped: Collection[str] = (),
) -> list[Row]:
    """Examines operators in a forked process, which has the entries of op_db already.

    Eager itself dies of some values; they are then left out.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        os.setsid()
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        rows = examine_operators(names, entries, formats, theirs.send, skipped)
        theirs.send(rows)

    process = context.Process(target=work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    stage, deadline = "start", time.monotonic() + seconds
    rows: list[Row] | None = None
    try:
        while rows is None and time.monotonic() < deadline:
            if ours.poll(0.2):
                message = ours.recv()
                stage, rows = (stage, message) if isinstance(message, list) else (message, None)
    except EOFError:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            assert process.pid is not None
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    killed_eager = stage.startswith(EAGER) and time.monotonic() < deadline
    if rows is None and not killed_eager:
        how = "took too long" if time.monotonic() >= deadline else "died"
        rows = lost(names, [engine for _, engine in engine_pairs(formats)], stage, how)
    if rows is None:
        more = {*skipped, stage.removeprefix(EAGER)}
        return in_process(names, entries, formats, seconds, more)
    return rows


def kinds_of_work(formats: Sequence[str]) -> list[str]:
    """Returns the formats, comma-separated, that are made of an operator at once."""
    plain = ",".join(name for name in formats if name != "aoti")
    return [work for work in (plain, "aoti") if set(work.split(",")) <= set(formats)]


def run_campaign(
    names: Sequence[str],
    entries: Mapping[str, Any],
    formats: Sequence[str],
    state: State,
    console: Console,
    group: int = GROUP,
) -> None:
    """Examines the operators that the state does not have, one group after the other."""
    for work in kinds_of_work(formats):
        size, seconds = (group, SECONDS["aoti"]) if work == "aoti" else (1, SECONDS["export"])
        waiting = state.waiting(names, work)
        for at in range(0, len(waiting), size):
            together = waiting[at : at + size]
            rows = in_process(together, entries, work.split(","), seconds)
            state.add(work, together, rows)
            report(console, rows)


def run_in_parallel(
    names: Sequence[str],
    entries: Mapping[str, Any],
    formats: Sequence[str],
    state: State,
    group: int,
    jobs: int,
) -> None:
    """Divides the operators among processes, and shows how far they are.

    Raises:
        RuntimeError: A process failed.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(
            target=run_campaign, args=(names[job::jobs], entries, formats, state, console, group)
        )
        for job in range(jobs)
    ]
    known = state.count()
    for process in processes:
        process.start()
    try:
        with Progress(*columns, console=console) as progress:
            total = sum(len(state.waiting(names, work)) for work in kinds_of_work(formats))
            task = progress.add_task("operators", total=total)
            while any(process.is_alive() for process in processes):
                time.sleep(1)
                progress.update(task, completed=state.count() - known)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process of the campaign failed; run it again to go on")
    state.read()


def report(console: Console, rows: Sequence[Row]) -> None:
    """Prints what is wrong."""
    for row in rows:
        for text in row["wrong"][:2]:
            line = f"WRONG {row['operator']} on {row['engine']}: {text}"
            console.print(line, markup=False, highlight=False)


# --- the table ------------------------------------------------------------------------------------


def summary(names: Sequence[str], formats: Sequence[str], state: State) -> Result:
    """Returns a row for each operator with the verdict of each engine."""
    engines = [engine for _, engine in engine_pairs(formats)]
    verdicts: dict[str, Counter[str]] = {engine: Counter() for engine in engines}
    rows: list[Row] = []
    for name in names:
        found = {
            row["engine"]: row
            for (operator, _), own in state.rows.items()
            if operator == name
            for row in own
        }
        cells = {engine: cell(found.get(engine)) for engine in engines}
        for engine in engines:
            verdicts[engine][cells[engine].partition(":")[0].partition(",")[0]] += 1
        rows.append({"operator": name, **cells})
    wrong = sum(count["WRONG"] for count in verdicts.values())
    counts = "; ".join(
        f"{engine}: " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(of.items()))
        for engine, of in verdicts.items()
    )
    return Result(
        name="campaign",
        columns=("operator", *engines),
        rows=tuple(rows),
        claim=f"{wrong} wrong verdicts over {len(names)} operators ({counts})",
        passed=not wrong,
        facts={"torch": str(torch.__version__), "formats": ", ".join(formats)},
    )


def cell(row: Row | None) -> str:
    """Returns the verdict for the table: "right", "refused: why", "WRONG: what", ..."""
    if row is None:
        return "not run"
    reasons = [*row["wrong"], *row["refused"]]
    if row["verdict"] == "right":
        return "right, some calls refused" if row["refused"] else "right"
    return f"{row['verdict']}: {one_line(reasons[0], REASON)}" if reasons else row["verdict"]


def main() -> int:
    """Runs the campaign, prints and stores the table; returns 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these operators only")
    parser.add_argument("--sample", type=int, metavar="N", help="a fixed sample of N operators")
    parser.add_argument("--formats", default="torchscript,onnx,aoti")
    parser.add_argument("--group", type=int, default=GROUP, help="operators in an AOTI module")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--state", type=Path, default=Path("build/campaign/state.jsonl"))
    parser.add_argument("--fresh", action="store_true", help="forget the results so far")
    parser.add_argument("--json", type=Path, metavar="FILE", help="stores the table")
    options = parser.parse_args()
    # An end by a signal, too, has to end the process of the operator.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    entries = operators()
    names = list(entries)
    if options.only:
        unknown = [name for name in options.only if name not in entries]
        if unknown:
            parser.error(f"op_db has no operator {unknown[0]}")
        names = options.only
    if options.sample:
        names = fixed_sample(names, options.sample)
    if options.fresh:
        options.state.unlink(missing_ok=True)
    state = State(options.state)
    # A run that is ended early has then tried a fair sample.
    order = names if options.only else shuffled(names)
    formats = options.formats.split(",")
    run_in_parallel(order, entries, formats, state, options.group, options.jobs)
    result = summary(names, formats, state)
    print_report(result)
    if options.json:
        document = json.loads(to_json(result, indent=None))
        options.json.write_text(compact(document), encoding="utf-8")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
