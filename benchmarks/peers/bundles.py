"""The models of the comparison: tuned bundles of isthmus, and the files of the peers."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shapes import MAX_BATCH, MAX_SEQUENCE, MODELS, export, inputs_of
from shared import kept_bundle, minilm_weights

import isthmus
from isthmus.bundle.bundle import Bundle
from isthmus.bundle.golden import Golden
from isthmus.exporters.options import FORMATS
from isthmus.runtime.engines import engines_of
from isthmus.timing.tune import FILE, tune

from .kinds import OUTPUT, Shape

_TUNE_ROUNDS = 4


@dataclass(frozen=True)
class ModelFiles:
    """A model with all files that its contenders open."""

    name: str
    factory: str
    """The factory of the eager module, "module:function", that a worker imports."""
    bundle: Bundle
    files: Mapping[str, str]
    """The path of each peer's file, by its kind."""
    absent: Mapping[str, str]
    """The reason why a kind has no file."""
    engine: str
    """The engine that `isthmus tune` found the fastest, which "auto" takes."""
    ranking: str
    """The ranking of `isthmus tune` in words."""
    weights_mb: float
    """The size of all parameters in float32."""
    config: Mapping[str, int]
    """The numbers of layers, hidden and intermediate features, for the operations of a call."""

    @property
    def engines(self) -> tuple[str, ...]:
        """The installed engines that have an artifact."""
        names = [
            engine
            for artifact in self.bundle.manifest.artifacts
            for engine in engines_of(artifact.format)
        ]
        return tuple(dict.fromkeys(names))

    def golden(self, shape: Shape) -> Golden:
        """Returns the golden of this shape without padding, whose inputs are timed."""
        for golden in self.bundle.goldens():
            ids = golden.steps[0].inputs
            if tuple(ids["input_ids"].shape) == (shape.batch, shape.sequence) and bool(
                ids["attention_mask"].all()
            ):
                return golden
        raise KeyError(f"{self.bundle.path} has no golden of {shape}; delete it, to export it anew")


def unpadded(shape: Shape) -> dict[str, torch.Tensor]:
    """Returns inputs without padding, so that a peer cannot gain by skipping it."""
    values = inputs_of(shape.batch, shape.sequence)
    return {**values, "attention_mask": torch.ones_like(values["attention_mask"])}


def prepare(name: str, folder: Path, shapes: Sequence[Shape], *, retune: bool) -> ModelFiles:
    """Exports and tunes the bundle and makes the peers' files; existing ones that fit are kept.

    Args:
        name: One of `shapes.MODELS`.
        folder: The folder of all files.
        shapes: The timed shapes, which the goldens and the tuning get.
        retune: Tunes even if there is a tuning: it may come from a busier machine.
    """
    factory = MODELS[name]
    path = folder / f"peers-{name}"
    bundle = _bundle(name, path, shapes)
    module = factory()
    config = module.config
    engine, ranking = _tuned(bundle, shapes, retune=retune)
    peer_files = _PeerFiles(folder / f"peers-{name}-files", bundle, module)
    return ModelFiles(
        name=name,
        factory=f"shapes:{factory.__name__}",
        bundle=bundle,
        files=peer_files.files,
        absent=peer_files.absent,
        engine=engine,
        ranking=ranking,
        weights_mb=sum(parameter.numel() * 4 for parameter in module.parameters()) / 1e6,
        config={
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "intermediate": config.intermediate_size,
        },
    )


def _bundle(name: str, path: Path, shapes: Sequence[Shape]) -> Bundle:
    def has_goldens(bundle: Bundle) -> bool:
        sizes = [dict(golden.dims) for golden in bundle.manifest.goldens]
        return all({"batch": shape.batch, "sequence": shape.sequence} in sizes for shape in shapes)

    if bundle := kept_bundle(path, has_goldens):
        return bundle
    # As torch compiles a package by itself; what cannot be proven so is compiled for AVX2.
    for isa in ("native", "portable"):
        print(f"exporting {name}, AOTInductor for isa={isa}", file=sys.stderr)
        bundle = export(name, path, [unpadded(shape) for shape in shapes], isa)
        if len(bundle.manifest.artifacts) == len(FORMATS):
            break
    print("quantising it to int8", file=sys.stderr)
    return isthmus.convert(bundle, ["onnx"], precision="int8")


def _tuned(bundle: Bundle, shapes: Sequence[Shape], *, retune: bool) -> tuple[str, str]:
    """Tunes on the timed shapes; returns the fastest engine and the ranking in words."""
    file = bundle.path / FILE
    if retune or not file.exists():
        sizes = [{"batch": shape.batch, "sequence": shape.sequence} for shape in shapes]
        names = {
            tuple(sorted(golden.dims.items())): golden.name
            for golden in bundle.manifest.goldens
            if dict(golden.dims) in sizes
        }
        print(f"tuning {bundle.path}", file=sys.stderr)
        # A turn is seven calls however long they take, so a few rounds have to do for BERT-base.
        tune(bundle, goldens=list(names.values()), trust="native", rounds=_TUNE_ROUNDS)
    ranking = json.loads(file.read_text(encoding="utf-8"))["machines"][-1]["ranking"]
    words = ", ".join(f"{entry['engine']} ({entry['threads']} threads)" for entry in ranking)
    return ranking[0]["engine"], words


class _PeerFiles:
    """The peers' own artifacts, which their tools export from the eager module."""

    def __init__(self, folder: Path, bundle: Bundle, module: torch.nn.Module) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._module = module
        self._example = inputs_of(2, 14)
        self.absent: dict[str, str] = {}
        self.files = {
            kind: str(bundle.path / artifact.files[0].path)
            for artifact in bundle.manifest.artifacts
            for kind, format in (
                ("jit", "torchscript"),
                ("onnxruntime", "onnx"),
                ("openvino", "onnx"),
            )
            if artifact.format == format and artifact.precision == "fp32"
        }
        self._make("aoti", folder / "aoti.pt2", self._aoti)
        self._make("aoti-frozen", folder / "aoti-frozen.pt2", self._aoti_frozen)
        self._make("openvino-converted", folder / "openvino.xml", self._openvino)
        self._make("ctranslate2", folder / "ctranslate2", self._ctranslate2)

    def _make(self, kind: str, path: Path, make: Callable[[Path], object]) -> None:
        """Makes a file unless it exists; a failure becomes the reason in the peer's row."""
        if not path.exists():
            print(f"making {path}", file=sys.stderr)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    make(path)
            except Exception as error:  # becomes the row's reason
                first = str(error).strip().splitlines() or [""]
                self.absent[kind] = f"{type(error).__name__}: {first[0]}"
                return
        self.files[kind] = str(path)

    def _aoti(self, path: Path, **configs: Any) -> None:
        batch = torch.export.Dim("batch", max=MAX_BATCH)
        sequence = torch.export.Dim("sequence", max=MAX_SEQUENCE)
        dynamic = {name: {0: batch, 1: sequence} for name in self._example}
        with torch.no_grad():
            program = torch.export.export(
                _Hidden(self._module), (), dict(self._example), dynamic_shapes=dynamic
            )
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=configs
            )

    def _aoti_frozen(self, path: Path) -> None:
        self._aoti(path, freezing=True)

    def _openvino(self, path: Path) -> None:
        import openvino

        module = _Hidden(self._module)
        shape = openvino.PartialShape([-1, -1])
        converted = openvino.convert_model(
            module,
            example_input=dict(self._example),
            input=[(name, shape, openvino.Type.i64) for name in self._example],
        )
        openvino.save_model(converted, path, compress_to_fp16=False)

    def _ctranslate2(self, path: Path) -> None:
        """Converts a folder of weights and tokenizer files, as CTranslate2 requires."""
        import shutil
        import tempfile

        from ctranslate2.converters import TransformersConverter

        with tempfile.TemporaryDirectory() as weights:
            self._module.save_pretrained(weights)
            config = Path(weights, "config.json")
            # The converter requires a member that transformers 5 no longer writes.
            members = {"position_embedding_type": "absolute", **json.loads(config.read_text())}
            config.write_text(json.dumps(members), encoding="utf-8")
            for file in minilm_weights().glob("*token*"):
                shutil.copy(file, weights)
            shutil.copy(minilm_weights() / "vocab.txt", weights)
            TransformersConverter(weights).convert(str(path))


class _Hidden(torch.nn.Module):
    """The model with a single output, for tools that require a tuple or a tensor."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """Maps three inputs int64[batch, sequence] to float32[batch, sequence, hidden]."""
        result = self.module(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return result[OUTPUT]
