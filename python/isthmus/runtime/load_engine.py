"""Loads the engine that an `EngineSpec` asks for."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from isthmus.bundle.manifest import Artifact
from isthmus.capture.load_model import resolve_model
from isthmus.errors import BundleError, InvalidInput
from isthmus.runtime.engine_spec import EngineSpec
from isthmus.runtime.engines import EAGER, ENGINES_IN_PYTHON
from isthmus.runtime.file_engines import (
    AotiEngine,
    ExportedEngine,
    OnnxRuntimeEngine,
    OpenVinoEngine,
)
from isthmus.runtime.op_libraries import libraries_to_open
from isthmus.runtime.python_engine import PythonEngine
from isthmus.runtime.python_engines import EagerEngine, NativeEngine, TorchJitEngine

if TYPE_CHECKING:
    from isthmus.bundle.bundle import Bundle

__all__ = ["load_engine"]


def load_engine(spec: EngineSpec, bundle: Bundle) -> tuple[PythonEngine, float]:
    """Loads an engine; the second value is the time of the load in milliseconds.

    Raises:
        InvalidInput: An unknown kind or a model that cannot be found.
        BundleError: The artifact's file is damaged, or is native code that is not trusted.
    """
    if spec.threads > 0:
        torch.set_num_threads(spec.threads)
        # The C++ engine does the same: one pool of threads, as large as was asked for.
        if torch.get_num_interop_threads() != 1:  # may be set once in a process
            torch.set_num_interop_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
    operators: Any = torch.ops
    if spec.kind not in ("isthmus", EAGER):
        needed = bundle.artifact(spec.artifact).op_libraries
        for library in libraries_to_open(needed, spec.op_libraries):
            operators.load_library(library)
    # Finding and importing the eager module is not part of its load.
    module = resolve_model(spec.model, bundle.manifest) if spec.kind == EAGER else None
    start = time.perf_counter()
    engine = _load(spec, bundle, module)
    return engine, (time.perf_counter() - start) * 1e3


def _load(spec: EngineSpec, bundle: Bundle, module: torch.nn.Module | None) -> PythonEngine:
    if module is not None:
        return EagerEngine(module, bundle.manifest, spec.device)
    if spec.kind == "isthmus":
        return NativeEngine(spec)
    if spec.kind not in [runtime.name for runtime in ENGINES_IN_PYTHON]:
        known = [EAGER, "isthmus", *(runtime.name for runtime in ENGINES_IN_PYTHON)]
        names = ", ".join(map(repr, known))
        raise InvalidInput(f"the engine is {spec.kind!r}, expected one of {names}")
    artifact = bundle.artifact(spec.artifact)
    if spec.kind == "torch.jit":
        return TorchJitEngine(bundle, artifact, spec)
    return _load_files(spec, bundle, artifact)


def _load_files(spec: EngineSpec, bundle: Bundle, artifact: Artifact) -> PythonEngine:
    for entry in artifact.files:
        bundle.read(entry)  # a runtime opens the file by its path, so it is checked before
    files: list[Path] = [bundle.path / entry.path for entry in artifact.files]
    methods = bundle.manifest.methods
    if spec.kind == "onnxruntime":
        return OnnxRuntimeEngine(files, methods, spec.threads)
    if spec.kind == "openvino":
        return OpenVinoEngine(files, methods, spec.threads)
    if spec.kind == "torch.export":
        return ExportedEngine(files, methods, spec.device, stateful=bundle.manifest.stateful)
    if spec.trust != "native":
        raise BundleError(f"{spec.artifact} is native code; trust is {spec.trust!r}")
    return AotiEngine(files, methods, spec.device)
