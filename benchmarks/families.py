"""Exports Hugging Face families to every format and proves each in C++; see scripts/families."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from hf_models import IDS, Example, make, random_pixels
from rich.console import Console
from rich.table import Table
from shared import compact, engine_pairs, native_verify, run_facts

import isthmus
from isthmus.exporters.options import FORMATS

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
TEXT = SMALL | {"vocab_size": 99, "max_position_embeddings": 64}
IMAGE = SMALL | {"image_size": 32, "patch_size": 8}


@dataclass(frozen=True)
class Row:
    """A family in a format on an engine."""

    family: str
    format: str
    engine: str
    passed: bool
    noise_units: float | None
    """The largest RMS error to float64 over all goldens and outputs, in units of eager's own."""
    shapes: str
    """The sizes of the dimensions that were proven."""
    strategy: str
    seconds: float
    reason: str = ""


def text(name: str, **more: Any) -> Callable[[], Example]:
    """Returns a builder of a text model: input_ids and attention_mask."""

    def build() -> Example:
        ids = torch.arange(3, 12).repeat(2, 1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        dims = {"batch": (1, 16), "sequence": (1, 48)}
        return Example(make(name, **{**TEXT, **more}), inputs, dict.fromkeys(inputs, IDS), dims)

    return build


def seq2seq(name: str, **config: Any) -> Callable[[], Example]:
    """Returns a builder of an encoder with a decoder."""

    def build() -> Example:
        inputs = {
            "input_ids": torch.arange(3, 12).repeat(2, 1),
            "attention_mask": torch.ones(2, 9, dtype=torch.int64),
            "decoder_input_ids": torch.arange(3, 8).repeat(2, 1),
        }
        dynamic = {**dict.fromkeys(inputs, IDS), "decoder_input_ids": {0: "batch", 1: "target"}}
        dims = {"batch": (1, 16), "sequence": (1, 48), "target": (1, 48)}
        return Example(make(name, **config), inputs, dynamic, dims)

    return build


def image(name: str, size: int = 32, **config: Any) -> Callable[[], Example]:
    """Returns a builder of a vision model: pixel_values of a fixed size."""

    def build() -> Example:
        pixels = random_pixels(2, size)
        dynamic = {"pixel_values": {0: "batch"}}
        return Example(make(name, **config), {"pixel_values": pixels}, dynamic, {"batch": (1, 16)})

    return build


def clip() -> Example:
    """Returns CLIP, which takes text and images."""
    module = make(
        "CLIPModel", text_config=TEXT | {"eos_token_id": 98}, vision_config=IMAGE, projection_dim=16
    )
    ids = torch.arange(3, 12).repeat(2, 1)
    pixels = random_pixels(3, 32)
    inputs = {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}
    dynamic = {"input_ids": IDS, "attention_mask": IDS, "pixel_values": {0: "images"}}
    return Example(
        module, inputs, dynamic, {"batch": (1, 16), "sequence": (1, 48), "images": (1, 16)}
    )


def whisper() -> Example:
    """Returns Whisper's encoder, on features of the fixed length that it requires."""
    module = make(
        "WhisperModel", d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=99,
        max_source_positions=30, max_target_positions=20, num_mel_bins=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    ).get_encoder()  # fmt: skip
    features = torch.randn(2, 16, 60, generator=torch.Generator().manual_seed(0))
    dynamic = {"input_features": {0: "batch"}}
    return Example(module, {"input_features": features}, dynamic, {"batch": (1, 16)})


def wav2vec2() -> Example:
    """Returns wav2vec 2.0, on raw audio of any length."""
    module = make(
        "Wav2Vec2Model", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2),
        num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    audio = torch.randn(2, 800, generator=torch.Generator().manual_seed(0))
    dynamic = {"input_values": {0: "batch", 1: "samples"}}
    return Example(
        module, {"input_values": audio}, dynamic, {"batch": (1, 16), "samples": (400, 4000)}
    )


BART: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 99,
    "max_position_embeddings": 64,
}  # fmt: skip

FAMILIES: dict[str, Callable[[], Example]] = {
    "bert": text("BertModel"),
    "roberta": text("RobertaModel", max_position_embeddings=66),
    "distilbert": text("DistilBertModel", dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "albert": text("AlbertModel", embedding_size=16),
    "electra": text("ElectraModel", embedding_size=16),
    "deberta-v2": text("DebertaV2Model"),
    "mpnet": text("MPNetModel", max_position_embeddings=66),
    "modernbert": text(
        "ModernBertModel", pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt2": text(
        "GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0,
        eos_token_id=0,
    ),
    "gpt_neox": text("GPTNeoXForCausalLM"),
    "llama": text("LlamaForCausalLM", num_key_value_heads=2),
    "qwen2": text("Qwen2ForCausalLM", num_key_value_heads=2),
    "opt": text("OPTForCausalLM", ffn_dim=64, word_embed_proj_dim=32),
    "t5": seq2seq(
        "T5ForConditionalGeneration", d_model=32, num_layers=2, num_heads=4, d_kv=8, d_ff=64,
        vocab_size=99,
    ),
    "bart": seq2seq("BartForConditionalGeneration", **BART),
    "vit": image("ViTModel", **IMAGE),
    "deit": image("DeiTModel", **IMAGE),
    "swin": image(
        "SwinModel", embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=2, image_size=32,
        patch_size=4,
    ),
    "convnext": image("ConvNextModel", hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1]),
    "dinov2": image("Dinov2Model", **IMAGE),
    "clip": clip,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "segformer": image(
        "SegformerForSemanticSegmentation", size=64, hidden_sizes=[8, 16, 32, 32],
        depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=16,
    ),
}  # fmt: skip


def prove(path: Path, artifact: str, engine: str) -> tuple[bool, float | None, str]:
    """Returns (passed, largest error in units of eager's own, reason) of `isthmus-run verify`."""
    code, document, errors = native_verify(path, "--artifact", artifact, "--engine", engine)
    if document is None:
        return False, None, errors.strip() or f"exit code {code}"
    if "error" in document:
        return False, None, str(document["error"]["message"])
    rows = document.get("rows", [])
    units = [float(row["noise_units"]) for row in rows if row.get("noise_units") is not None]
    reasons = [str(row["reason"]) for row in rows if row.get("reason")]
    return code == 0, max(units, default=None), "; ".join(reasons[:1])


def run_family(family: str, formats: Sequence[str], folder: Path) -> list[Row]:
    """Exports a family and returns a row for each format and engine."""
    start = time.perf_counter()
    example = FAMILIES[family]()
    path = folder / family
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            bundle = isthmus.export(
                example.module, **example.call, path=path, formats=formats, name=family
            )
        except isthmus.Error as error:
            seconds = time.perf_counter() - start
            return [
                Row(family, format_name, "", False, None, "", "", seconds, str(error))
                for format_name in formats
            ]
    grid = [entry.dims for entry in bundle.manifest.goldens]
    shapes = sorted({"x".join(str(size) for size in dims.values()) for dims in grid})
    rows = []
    for result in bundle.results:
        names = [
            artifact.name
            for artifact in bundle.manifest.artifacts
            if artifact.format == result.format
        ]
        if not names:
            row = Row(family, result.format, "", False, None, "", "", result.seconds)
            rows.append(Row(**{**asdict(row), "reason": result.explanation}))
            continue
        for _, engine in engine_pairs([result.format]):
            passed, units, reason = prove(path, names[0], engine)
            rows.append(
                Row(
                    family, result.format, engine, passed, units, " ".join(shapes),
                    result.strategy, result.seconds, reason,
                )
            )  # fmt: skip
    return rows


def cell(row: Row) -> str:
    """Returns a row's verdict for a table."""
    if not row.passed:
        return "FAILED"
    return "pass" if row.noise_units is None else f"{row.noise_units:.2g}"


def markdown(rows: Sequence[Row], context: dict[str, str]) -> str:
    """Returns the table as Markdown with the reasons below it."""
    columns = list(dict.fromkeys((row.format, row.engine) for row in rows if row.engine))
    lines = ["# Families of Hugging Face models, from tiny random configurations to C++", ""]
    lines += [f"{key}: {value}  " for key, value in context.items()]
    lines += ["", "Largest RMS error to float64 over all goldens and outputs, in units of eager's"]
    lines += [
        "own; every golden passed the manifest's tolerance.",
        "",
    ]
    lines.append("| family | " + " | ".join(f"{f} ({e})" for f, e in columns) + " | made by |")
    lines.append("| --- |" + " ---: |" * len(columns) + " --- |")
    for family in dict.fromkeys(row.family for row in rows):
        own = {(row.format, row.engine): row for row in rows if row.family == family}
        failed = {row.format for row in own.values() if not row.engine}
        cells = [
            cell(own[column]) if column in own else ("refused" if column[0] in failed else "-")
            for column in columns
        ]
        strategies = ", ".join(
            dict.fromkeys(f"{row.format}: {row.strategy}" for row in own.values() if row.strategy)
        )
        lines.append(f"| {family} | " + " | ".join(cells) + f" | {strategies} |")
    reasons = [row for row in rows if not row.passed]
    if reasons:
        lines += ["", "## Reasons", ""]
        lines += [
            f"- {row.family}, {row.format}{' on ' + row.engine if row.engine else ''}: {row.reason}"
            for row in reasons
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs the named families, prints the table and writes it; returns 0 when all pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="default: all")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    unknown = [family for family in options.families if family not in FAMILIES]
    if unknown:
        parser.error(f"unknown family {unknown[0]}; there are {', '.join(FAMILIES)}")
    context = {
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "isthmus": isthmus.__version__,
        "python": sys.version.split()[0],
        **run_facts(),
    }
    rows: list[Row] = []
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="isthmus-families-") as folder:
        for family in options.families or FAMILIES:
            with console.status(f"{family} ({len({row.family for row in rows}) + 1})"):
                rows += run_family(family, options.formats.split(","), Path(folder))
            for row in (row for row in rows if row.family == family):
                verdict = f"{row.format} {row.engine}: {cell(row)} {row.strategy} {row.reason}"
                console.print(f"{family}: {verdict}", markup=False, highlight=False)
    document = {"json_schema_version": 1, "context": context, "rows": [asdict(row) for row in rows]}
    if options.json:
        options.json.write_text(compact(document), encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(rows, context), encoding="utf-8")
    table = Table("family", "format", "engine", "verdict", "made by", "seconds")
    for row in rows:
        table.add_row(
            row.family, row.format, row.engine, cell(row), row.strategy, f"{row.seconds:.1f}"
        )
    Console().print(table)
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
