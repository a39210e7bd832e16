"""Loads Hugging Face models, by id or from a local folder, with an example call."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.capture.hub import only_from_cache, why_offline
from isthmus.capture.lora import Adapter, merge_adapter, read_adapter, read_weights
from isthmus.capture.sentence_pipeline import (
    ReadFile,
    SentencePipeline,
    sentence_modules,
    transformer_path,
)
from isthmus.errors import InvalidInput, first_line

__all__ = ["TASKS", "Loaded", "load_hf"]

TASKS: Mapping[str, str] = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-generation": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
}
"""Maps each task to the class of transformers that makes the model."""

_HEADS: Mapping[str, str] = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForImageClassification": "image-classification",
}
SENTENCES = ("Who was Jim Henson ?", "Jim Henson was a puppeteer")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "preprocessor_config.json",
)
_MAX_BATCH = 64
_MAX_SEQUENCE = 512
"""The longest sequence of a model whose configuration names none."""


@dataclass(frozen=True)
class Loaded:
    """A module with the arguments of `isthmus.export`."""

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)
    dims: dict[str, tuple[int, int]] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    extra_files: dict[str, Path | bytes] = field(default_factory=dict)
    """The tokenizer's files, by path in the bundle."""
    name: str = ""
    methods: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    constants: tuple[str, ...] = ()


def load_hf(reference: str, task: str = "", attention: str = "", *, offline: str = "") -> Loaded:
    """Loads a model in float32 with `use_cache=False`, and makes an example call for it.

    The example of a text model is the sentence pair "Who was Jim Henson ?", "Jim Henson was a
    puppeteer" through the model's own tokenizer, int64[1, tokens], with the dimensions batch and
    sequence; that of an image model is a random picture, float32[1, channels, height, width].

    Args:
        reference: A local folder, or an id on the hub.
        task: One of `TASKS`; empty for the task of the configuration's architecture.
        attention: "sdpa" or "eager"; empty for the model's own choice. The manifest records it.
        offline: Why every file is taken from the cache; empty to ask the hub.

    Raises:
        InvalidInput: The model cannot be loaded, the task is unknown, or the folder lacks weights
            that the task needs, which would be random.
    """
    try:
        import transformers
    except ImportError as error:
        raise InvalidInput(
            "loading a Hugging Face model needs the package transformers: pip install "
            "'transformers>=4.56'; a module of your own is exported as package.module:factory"
        ) from error
    if attention not in ("", "sdpa", "eager"):
        raise InvalidInput(f'attention: expected "sdpa" or "eager", got "{attention}"')
    with _quiet(transformers), ExitStack() as cache:
        if offline:
            cache.enter_context(only_from_cache())
        files_of = partial(_cached_file, reference, {"local_files_only": bool(offline)})
        adapter = read_adapter(files_of("adapter_config.json"))
        base, base_offline = _base(reference, adapter, files_of, offline)
        if base_offline and not offline:
            cache.enter_context(only_from_cache())
        hub = {"local_files_only": bool(base_offline)}
        config = _load(base, "config", transformers.AutoConfig.from_pretrained, base, **hub)
        pipeline = sentence_modules(reference, files_of)
        if pipeline and task not in ("", "feature-extraction"):
            warnings.warn(
                f"{reference}: its modules.json ({', '.join(type(m).__name__ for m in pipeline)}) "
                f'makes sentence embeddings, and is left out for the task "{task}"',
                RuntimeWarning,
                stacklevel=2,
            )
            pipeline = []
        task = task or ("feature-extraction" if pipeline else _task_of(config))
        if task not in TASKS:
            raise InvalidInput(f'task: expected one of {", ".join(TASKS)}, got "{task}"')
        config.use_cache = False
        weights: dict[str, Tensor] = {}
        if adapter is not None:
            weights = read_weights(files_of("adapter_model.safetensors"), reference)
        module = _model(transformers, base, config, task, attention, hub, brought=weights)
        if adapter is not None:
            merge_adapter(module, adapter, weights, reference)
        tokenizer = reference if files_of("tokenizer_config.json") else base
        inputs, dims = _example(transformers, tokenizer, config, module, hub)
        files = _tokenizer_files(tokenizer, hub)
        # A model without a loss warns once when this is read: here the warning is not shown.
        getattr(module, "loss_function", None)
    folder = Path(reference)
    name = folder.resolve().name if folder.is_dir() else reference.rpartition("/")[2]
    chosen = str(getattr(module.config, "_attn_implementation", "") or "")
    origin = {}
    if adapter is not None:
        origin["adapter_of"] = Path(base).resolve().name if Path(base).is_dir() else base
    return Loaded(
        module=SentencePipeline(module, pipeline).eval() if pipeline else module,
        kwargs=inputs,
        dynamic={name: _axes(value) for name, value in inputs.items()},
        dims=dims,
        source={
            "kind": "huggingface",
            # Bundles are copied to other machines: the folder's name is kept, and not its path.
            "id": name if folder.is_dir() else reference,
            "task": task,
            "attention": chosen,
            **origin,
        },
        extra_files=files,
        name=name,
    )


def _base(
    reference: str, adapter: Adapter | None, files_of: ReadFile, offline: str
) -> tuple[str, str]:
    """Returns where the transformer lies, and why it has to come from the cache if it does.

    It is the reference, a folder in it, or an adapter's base.

    Raises:
        InvalidInput: The adapter names no base, or an id has its transformer in a folder.
    """
    if adapter is not None:
        named = str(adapter.get("base_model_name_or_path") or "")
        if not named:
            raise InvalidInput(
                f"{reference}: its adapter_config.json names no base_model_name_or_path; write the "
                "folder or id of the model there for which the adapter was trained"
            )
        beside = Path(reference, named)
        if beside.is_dir() and not Path(named).is_dir():
            return str(beside), offline
        return named, why_offline(named, offline)
    inside = transformer_path(files_of)
    if inside and not Path(reference, inside).is_dir():
        raise InvalidInput(
            f'{reference}: its transformer is in the folder "{inside}"; download it, and give the '
            "folder"
        )
    return (str(Path(reference, inside)) if inside else reference), offline


def _cached_file(reference: str, hub: Mapping[str, bool], name: str) -> Path | None:
    """Returns where a file of a folder or id lies; None where there is none."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        reference,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )
    return None if path is None else Path(path)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Turns progress bars and notes off; afterwards they are as before."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _load(reference: str, what: str, function: Any, *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InvalidInput(
            f"the {what} of {reference} cannot be loaded ({first_line(error)}). Expected a folder "
            "that save_pretrained() wrote, or an id on the hub that this machine reaches. A model "
            "with code of its own is exported as package.module:factory"
        ) from error


def _task_of(config: Any) -> str:
    for architecture in getattr(config, "architectures", None) or ():
        for suffix, task in _HEADS.items():
            if architecture.endswith(suffix):
                return task
    return "feature-extraction"


def _model(
    transformers: Any,
    reference: str,
    config: Any,
    task: str,
    attention: str,
    hub: Mapping[str, bool],
    *,
    brought: Container[str] = (),
) -> nn.Module:
    """Returns the model; weights that the checkpoint lacks have to be among those `brought`."""
    factory = getattr(transformers, TASKS[task]).from_pretrained
    options: dict[str, Any] = {"config": config, "dtype": torch.float32, **hub}
    options["output_loading_info"] = True
    if attention:
        options["attn_implementation"] = attention
    module, info = _load(reference, "model", factory, reference, **options)
    missing = sorted(info.get("missing_keys") or ())
    if missing and all(name.startswith("pooler.") for name in missing):
        # The checkpoint was made with another head and has no pooler: leave it out.
        module, info = _load(
            reference, "model", factory, reference, add_pooling_layer=False, **options
        )
        missing = sorted(info.get("missing_keys") or ())
    missing = [name for name in missing if name not in brought]
    if missing:
        raise InvalidInput(
            f'{reference} lacks {len(missing)} weights that the task "{task}" needs, such as '
            f"{missing[0]}; they would be random. Choose the task it was trained for with --task "
            f"({', '.join(TASKS)})"
        )
    assert isinstance(module, nn.Module)
    return module.eval()


def _axes(value: Tensor) -> dict[int, str]:
    return {0: "batch", 1: "sequence"} if value.dim() == 2 else {0: "batch"}


def _example(
    transformers: Any, reference: str, config: Any, module: nn.Module, hub: Mapping[str, bool]
) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
    parameters = inspect.signature(module.forward).parameters
    if "pixel_values" in parameters and "input_ids" not in parameters:
        size = getattr(config, "image_size", None) or 224
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        channels = getattr(config, "num_channels", None) or 3
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(1, channels, height, width, generator=generator)
        return {"pixel_values": pixels}, {"batch": (1, _MAX_BATCH)}
    if "input_ids" not in parameters:
        raise InvalidInput(
            f"{reference}: {type(module).__name__} takes {', '.join(parameters)}, and isthmus "
            "knows how to make examples for text and images; export it as package.module:factory, "
            "with a factory that returns (module, args, kwargs)"
        )
    longest = _longest(config)
    encoded: dict[str, Tensor] = {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(reference, **hub)
        pair = dict(tokenizer(*SENTENCES, return_tensors="pt"))
        encoded = {name: pair[name] for name in parameters if name in pair}
        own = getattr(tokenizer, "model_max_length", longest)
        longest = min(longest, own) if own and own < 1 << 20 else longest
    except Exception:  # transformers raises a plain Exception for a folder without a vocabulary
        encoded = {}
    if "input_ids" not in encoded or encoded["input_ids"].numel() < 2:
        # Without a tokenizer, any ids serve as an example.
        vocabulary = int(getattr(config, "vocab_size", 2))
        encoded = {"input_ids": torch.arange(1, 15).remainder(vocabulary).unsqueeze(0)}
        if "attention_mask" in parameters:
            encoded["attention_mask"] = torch.ones_like(encoded["input_ids"])
    return encoded, {"batch": (1, _MAX_BATCH), "sequence": (1, int(longest))}


def _longest(config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None) or _MAX_SEQUENCE
    # RoBERTa and its relatives number positions from the one after the padding token.
    offset = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"}
    if getattr(config, "model_type", "") in offset:
        positions -= int(getattr(config, "pad_token_id", 1) or 1) + 1
    return min(int(positions), 1 << 15)


def _tokenizer_files(reference: str, hub: Mapping[str, bool]) -> dict[str, Path | bytes]:
    found = {name: _cached_file(reference, hub, name) for name in _TOKENIZER_FILES}
    return {f"tokenizer/{name}": path for name, path in found.items() if path is not None}
