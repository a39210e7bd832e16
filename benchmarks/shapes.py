"""Every format, engine and language on batches 1, 2, 7 and sequences 1, 14, 33, 128 of one export.

all-MiniLM-L6-v2 and BERT-base (random weights) in Python and C++, by the bundle's own tolerance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from shared import Result, kept_bundle, minilm_weights, run
from torch import nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.exporters.options import FORMATS
from isthmus.proof.verify import verify
from isthmus.proof.verify_report import VerifyRow

BATCHES = (1, 2, 7)
SEQUENCES = (1, 14, 33, 128)
SHAPES = tuple((batch, sequence) for batch in BATCHES for sequence in SEQUENCES)
MAX_BATCH, MAX_SEQUENCE = 64, 512


def bert_base() -> nn.Module:
    """Returns BERT-base with random weights; workers import it as "shapes:bert_base"."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig(attn_implementation="sdpa")).eval()


def minilm() -> nn.Module:
    """Returns all-MiniLM-L6-v2; workers import it as "shapes:minilm"."""
    from transformers import BertModel

    return BertModel.from_pretrained(minilm_weights(), attn_implementation="sdpa").eval()


MODELS = {"all-MiniLM-L6-v2": minilm, "BERT-base": bert_base}


def inputs_of(batch: int, sequence: int) -> dict[str, Any]:
    """Returns int64[batch, sequence] of token ids, where all rows but the first end in padding."""
    random = torch.Generator().manual_seed(1000 * batch + sequence)
    ids = torch.randint(1000, 30000, (batch, sequence), generator=random)
    mask = torch.ones_like(ids)
    mask[1:, 1 + sequence // 2 :] = 0
    types = torch.zeros_like(ids)
    types[:, sequence // 2 :] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def export(
    name: str, path: Path, probes: Sequence[Mapping[str, Any]], isa: str = "portable"
) -> Bundle:
    """Exports a model of `MODELS` in every format."""
    example = inputs_of(2, 14)  # with padding, so that no trace takes the mask for all ones
    return isthmus.export(
        MODELS[name](),
        kwargs=example,
        path=path,
        name=name,
        formats=FORMATS,
        dynamic={key: {0: "batch", 1: "sequence"} for key in example},
        dims={"batch": (1, MAX_BATCH), "sequence": (1, MAX_SEQUENCE)},
        probes=probes,
        isa=isa,
        overwrite=True,
    )


def prepare(name: str, folder: Path) -> Bundle:
    """Returns the bundle in `folder`, exported by this torch with a probe of every shape."""
    path = folder / f"shapes-{name}"
    return kept_bundle(path) or export(name, path, [inputs_of(*shape) for shape in SHAPES])


def row_of(model: str, bundle: Bundle, row: VerifyRow) -> dict[str, Any]:
    """Returns the row with its largest error on the twelve shapes."""
    wanted = {
        golden.name: (golden.dims["batch"], golden.dims["sequence"])
        for golden in bundle.manifest.goldens
        if (golden.dims.get("batch"), golden.dims.get("sequence")) in SHAPES
    }
    by_shape: dict[str, float] = {}
    for result in row.results:
        if result.golden in wanted:
            shape = "{} x {}".format(*wanted[result.golden])
            by_shape[shape] = max(by_shape.get(shape, 0.0), result.noise_units or 0.0)
    return {
        "model": model,
        "row": f"{row.engine} ({row.language})",
        "artifact": row.artifact or "-",
        "shapes": f"{len(by_shape)} of {len(SHAPES)}",
        "worst noise floors": max(by_shape.values(), default=float("nan")),
        "verdict": row.status if not row.reason else f"{row.status}: {row.reason}",
        "runtime": row.runtime,
        "noise_units_by_shape": by_shape,
        "passed": bool(row) and len(by_shape) == len(SHAPES),
    }


def measure(options: argparse.Namespace) -> Result:
    """Verifies both bundles on every engine in both languages."""
    rows: list[dict[str, Any]] = []
    for name, factory in MODELS.items():
        bundle = prepare(name, options.folder)
        report = verify(
            bundle, f"shapes:{factory.__name__}", devices=["cpu"], trust="native",
            progress=lambda line: print(f"  {line}", file=sys.stderr),
        )  # fmt: skip
        rows += [row_of(name, bundle, row) for row in report.rows]
    passed = sum(row["passed"] for row in rows)
    return Result(
        name="shapes",
        columns=("model", "row", "artifact", "shapes", "worst noise floors", "verdict"),
        rows=tuple(rows),
        claim=f"{passed} of {len(rows)} rows give the model's answers on all {len(SHAPES)} shapes",
        passed=passed == len(rows) and bool(rows),
        facts={"shapes": f"batch {BATCHES} x sequence {SEQUENCES}", "export": "one for each model"},
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", measure))
