"""Embeds three sentences with isthmus-run (C++) and with transformers (Python).

python examples/embed_sentences.py BUNDLE MODEL_FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import combinations
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from isthmus.runtime import install_paths

SENTENCES = (
    "A bridge joins two lands.",
    "An isthmus is a narrow strip of land between two seas.",
    "The cat sleeps on the warm stove.",
)


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Averages token vectors [batch, sequence, width] where the mask is 1, then normalises."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    pooled = (hidden * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.normalize(pooled, dim=-1)


def main(bundle: str, model_folder: str) -> None:
    """Prints the cosine similarities of all pairs in both, and the largest difference."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    inputs = dict(tokenizer(list(SENTENCES), padding=True, return_tensors="pt"))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "inputs.safetensors", Path(folder) / "outputs.safetensors"
        save_file(inputs, source)
        subprocess.run(
            [install_paths.binary(), "predict", bundle, "--inputs", source, "-o", target],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        in_cpp = mean_pool(load_file(target)["last_hidden_state"], inputs["attention_mask"])
    logging.disable_progress_bar()
    model = AutoModel.from_pretrained(model_folder).eval()
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    in_python = mean_pool(hidden, inputs["attention_mask"])

    table = Table("pair", "C++", "Python", title="cosine similarity")
    for a, b in combinations(range(len(SENTENCES)), 2):
        table.add_row(
            f"{SENTENCES[a]}  /  {SENTENCES[b]}",
            f"{float(in_cpp[a] @ in_cpp[b]):.6f}",
            f"{float(in_python[a] @ in_python[b]):.6f}",
        )
    console = Console()
    console.print(table)
    console.print(f"largest difference of an embedding: {(in_cpp - in_python).abs().max():.1e}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
