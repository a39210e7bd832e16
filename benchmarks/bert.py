"""The reference experiment: BERT-base on one sentence pair, in Python and in C++.

    benchmarks/bert.py [--folder FOLDER] [--model FOLDER] [--json FILE] [--plot FILE.png]

"Who was Jim Henson ? / Jim Henson was a puppeteer" with a masked token: 14 tokens, batch 1. The
weights are random unless --model names a local folder; the time is the same. Exports a bundle (kept
in --folder), verifies it against the eager module, times it and prints both tables.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from rich.console import Console
from shared import kept_bundle, store
from torch import nn

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.document import print_report
from isthmus.proof.verify import verify
from isthmus.timing.bench import bench

SENTENCES = ("Who was Jim Henson ?", "Jim Henson was a puppeteer")
MASKED = 8
"""The place of the masked token, the second "henson"."""
MASK_TOKEN = 103
# Tokens of the bert-base-uncased vocabulary, with the mask.
INPUT_IDS = [101, 2040, 2001, 3958, 27227, 1029, 102, 3958, 103, 2001, 1037, 13997, 11510, 102]
TOKEN_TYPES = [0] * 7 + [1] * 7
MODEL_VARIABLE = "ISTHMUS_BERT_MODEL"


def make_model() -> nn.Module:
    """Returns BERT-base from the folder in `ISTHMUS_BERT_MODEL`, or with random weights.

    Worker processes import it as "bert:make_model".
    """
    from transformers import BertConfig, BertModel

    folder = os.environ.get(MODEL_VARIABLE)
    if folder:
        return BertModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    torch.manual_seed(0)
    return BertModel(BertConfig(attn_implementation="sdpa")).eval()


def make_inputs(model_folder: str | None) -> dict[str, torch.Tensor]:
    """Returns the sentence pair as int64[1, 14], by the folder's tokenizer when there is one."""
    ids, types = INPUT_IDS, TOKEN_TYPES
    if model_folder and (Path(model_folder) / "tokenizer_config.json").exists():
        from transformers import AutoTokenizer

        encoded = AutoTokenizer.from_pretrained(model_folder)(*SENTENCES)
        ids, types = list(encoded["input_ids"]), list(encoded["token_type_ids"])
        ids[MASKED] = MASK_TOKEN
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        "token_type_ids": torch.tensor([types]),
    }


def prepare(folder: Path, model_folder: str | None) -> Bundle:
    """Returns the bundle in the folder when this torch made it, and exports it otherwise."""
    path = folder / ("bert-base" if model_folder is None else f"bert-{Path(model_folder).name}")
    return kept_bundle(path) or isthmus.export(
        make_model(),
        kwargs=make_inputs(model_folder),
        path=path,
        name=path.name,
        overwrite=True,
    )


def main() -> int:
    """Runs the experiment; returns 0 when the bundle is proven and timed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/bert"), help="keeps the bundle")
    parser.add_argument("--model", help="local folder of a BERT model; default: random weights")
    parser.add_argument("--threads", type=int, help="default: the processors usable")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--json", type=Path, metavar="FILE.json", help="writes FILE_verify.json, FILE_bench.json"
    )
    parser.add_argument("--plot", type=Path, help="draws the distributions: .png or .svg")
    options = parser.parse_args()
    if options.model:
        os.environ[MODEL_VARIABLE] = str(Path(options.model).resolve())

    console = Console()

    def say(line: str) -> None:
        print(f"  {line}", file=sys.stderr)

    bundle = prepare(options.folder, options.model)
    parity = verify(bundle, "bert:make_model", threads=options.threads, progress=say)
    print_report(parity, console)
    console.print()
    timing = bench(
        bundle,
        "bert:make_model",
        threads=options.threads,
        rounds=options.rounds,
        progress=say,
    )
    print_report(timing, console)
    if options.json:
        store(parity, options.json.with_stem(f"{options.json.stem}_verify"))
        store(timing, options.json.with_stem(f"{options.json.stem}_bench"))
    if options.plot:
        timing.plot(options.plot)
    return 0 if parity and timing else 1


if __name__ == "__main__":
    sys.exit(main())
