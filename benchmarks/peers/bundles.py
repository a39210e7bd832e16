"""The models of the comparison: isthmus's bundles, tuned, and what the peers run."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from isthmus.exporters.options import FORMATS
from shapes import MODELS, inputs_of
from shared import minilm_weights

import isthmus
from isthmus.bundle.bundle import Bundle, open_bundle
from isthmus.bundle.golden import Golden
from isthmus.errors import Error
from isthmus.runtime.engines import engines_of
from isthmus.timing.tune import FILE, tune

from .kinds import OUTPUT, Shape

MAX_BATCH, MAX_SEQUENCE = 64, 512
_TUNE_ROUNDS = 4


@dataclass(frozen=True)
class Subject:
    """One model with everything that its contenders open."""

    name: str
    factory: str
    """The eager module, as "module:function" that a worker imports."""
    bundle: Bundle
    files: Mapping[str, str]
    """What a peer opens, by its kind; `absent` has the reason where there is none."""
    absent: Mapping[str, str]
    engine: str
    """The one that `isthmus tune` found the fastest: what "auto" means."""
    chosen: str
    """All that it found, in words."""
    weights_mb: float
    """Of all parameters in float32."""
    config: Mapping[str, int]
    """layers, hidden, intermediate: for the arithmetic of a call."""

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that are installed and have an artifact."""
        found = [
            engine
            for artifact in self.bundle.manifest.artifacts
            for engine in engines_of(artifact.format)
        ]
        return tuple(dict.fromkeys(found))

    def golden(self, shape: Shape) -> Golden:
        """The golden of this shape that has no padding: its inputs are what is timed."""
        for golden in self.bundle.goldens():
            ids = golden.steps[0].inputs
            if tuple(ids["input_ids"].shape) == (shape.batch, shape.sequence) and bool(
                ids["attention_mask"].all()
            ):
                return golden
        raise KeyError(f"{self.bundle.path} has no golden of {shape}; delete it, to export it anew")


def unpadded(shape: Shape) -> dict[str, torch.Tensor]:
    """Inputs of full rows: a peer that skips padding has nothing to skip."""
    values = inputs_of(shape.batch, shape.sequence)
    return {**values, "attention_mask": torch.ones_like(values["attention_mask"])}


def prepare(name: str, folder: Path, shapes: Sequence[Shape], *, retune: bool) -> Subject:
    """Exports and tunes the bundle and makes the peers' files; what is there and fits is kept.

    Args:
        name: One of `shapes.MODELS`.
        folder: Where all of it lies.
        shapes: What is timed; the goldens and the tuning have these.
        retune: Also where there is a tuning already: it may come from a busier hour.
    """
    factory = MODELS[name]
    path = folder / f"peers-{name}"
    bundle = _bundle(name, path, shapes)
    module = factory()
    config = module.config
    engine, chosen = _tuned(bundle, shapes, retune=retune)
    made = _Files(folder / f"peers-{name}-files", bundle, module)
    return Subject(
        name=name,
        factory=f"shapes:{factory.__name__}",
        bundle=bundle,
        files=made.files,
        absent=made.absent,
        engine=engine,
        chosen=chosen,
        weights_mb=sum(parameter.numel() * 4 for parameter in module.parameters()) / 1e6,
        config={
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "intermediate": config.intermediate_size,
        },
    )


def _bundle(name: str, path: Path, shapes: Sequence[Shape]) -> Bundle:
    if path.exists():
        try:
            bundle = open_bundle(path)
            sizes = {tuple(sorted(golden.dims.items())) for golden in bundle.manifest.goldens}
            wanted = {(("batch", shape.batch), ("sequence", shape.sequence)) for shape in shapes}
            if bundle.manifest.producer.get("torch") == torch.__version__ and wanted <= sizes:
                return bundle
        except Error as error:
            print(f"the old bundle is no good: {error}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    # As torch compiles a package by itself; what cannot be proven so is compiled for AVX2.
    for isa in ("native", "portable"):
        print(f"exporting {name} to {path}, AOTInductor for isa={isa}", file=sys.stderr)
        bundle = _export(name, path, shapes, isa)
        if len(bundle.manifest.artifacts) == len(FORMATS):
            break
    print("quantising it to int8", file=sys.stderr)
    return isthmus.convert(bundle, ["onnx"], precision="int8")


def _export(name: str, path: Path, shapes: Sequence[Shape], isa: str) -> Bundle:
    example = inputs_of(2, 14)  # with padding, so that no trace takes the mask for all ones
    return isthmus.export(
        MODELS[name](),
        kwargs=example,
        path=path,
        name=name,
        formats=FORMATS,
        dynamic={key: {0: "batch", 1: "sequence"} for key in example},
        dims={"batch": (1, MAX_BATCH), "sequence": (1, MAX_SEQUENCE)},
        probes=[unpadded(shape) for shape in shapes],
        isa=isa,
        overwrite=True,
    )


def _tuned(bundle: Bundle, shapes: Sequence[Shape], *, retune: bool) -> tuple[str, str]:
    """Writes tuning.json, on the shapes that are timed."""
    file = bundle.path / FILE
    if retune or not file.exists():
        sizes = [{"batch": shape.batch, "sequence": shape.sequence} for shape in shapes]
        names = {
            tuple(sorted(golden.dims.items())): golden.name
            for golden in bundle.manifest.goldens
            if dict(golden.dims) in sizes
        }
        print(f"tuning {bundle.path}", file=sys.stderr)
        # A turn is seven calls however long they take: with BERT-base few have to do.
        tune(bundle, goldens=list(names.values()), trust="native", rounds=_TUNE_ROUNDS)
    ranking = json.loads(file.read_text(encoding="utf-8"))["machines"][-1]["ranking"]
    words = ", ".join(f"{one['engine']} ({one['threads']} threads)" for one in ranking)
    return ranking[0]["engine"], words


class _Files:
    """The peers' own artifacts: made by the tool that runs them, from the eager module."""

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
        """A tool that is not there, or cannot take the model, costs its own row alone."""
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
        """Its converter reads a folder of weights with a tokenizer beside them."""
        import shutil
        import tempfile

        from ctranslate2.converters import TransformersConverter

        with tempfile.TemporaryDirectory() as weights:
            self._module.save_pretrained(weights)
            config = Path(weights, "config.json")
            # Its converter asks for what transformers 5 no longer writes.
            told = {"position_embedding_type": "absolute", **json.loads(config.read_text())}
            config.write_text(json.dumps(told), encoding="utf-8")
            for one in minilm_weights().glob("*token*"):
                shutil.copy(one, weights)
            shutil.copy(minilm_weights() / "vocab.txt", weights)
            TransformersConverter(weights).convert(str(path))


class _Hidden(torch.nn.Module):
    """The model with one output, for tools that want a tuple or a tensor."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """int64[batch, sequence] three times to float32[batch, sequence, hidden]."""
        result = self.module(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return result[OUTPUT]
