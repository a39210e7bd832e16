"""Loads the eager module that a name refers to, so that another process can load it too."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.bundle.manifest import Manifest
from isthmus.capture.hub import why_offline
from isthmus.errors import InvalidInput

if TYPE_CHECKING:
    import torch

    from isthmus.capture.huggingface import Loaded

__all__ = ["load_model", "no_model", "resolve_model"]

_OPTIONS = ("dynamic", "dims", "methods", "constants")


def load_model(reference: str, task: str = "", attention: str = "") -> Loaded:
    """Returns a module with its example call.

    Args:
        reference: "package.module:factory", or a Hugging Face id or folder. The factory returns the
            module, (module, args), (module, args, kwargs), or (module, args, kwargs, options);
            options may hold dynamic, dims, methods and constants of `isthmus.export`.
        task: The task of a Hugging Face model; see `isthmus.capture.huggingface.TASKS`.
        attention: The attention of a Hugging Face model: "sdpa" or "eager".

    Raises:
        InvalidInput: The module cannot be found or loaded, or the factory returns something else.
    """
    if is_factory(reference):
        return _from_factory(reference)
    offline = why_offline(reference)
    from isthmus.capture.huggingface import load_hf

    return load_hf(reference, task, attention, offline=offline)


def is_factory(reference: str) -> bool:
    """Returns True for a reference such as "package.module:factory"."""
    return ":" in reference and not Path(reference).exists()


def resolve_model(model: str, manifest: Manifest | None = None) -> torch.nn.Module:
    """Returns the eager module of a bundle.

    Args:
        model: "package.module:factory", or a Hugging Face id or folder.
        manifest: The manifest that names task and attention; the model is never taken from it.

    Raises:
        InvalidInput: `model` is empty, or see `load_model`.
    """
    source = manifest.source if manifest is not None else {}
    if not model:
        raise InvalidInput(no_model(source))
    return load_model(model, source.get("task", ""), source.get("attention", "")).module


def no_model(source: Mapping[str, str]) -> str:
    """Returns the message that says why there is no eager module, and what to pass.

    A bundle may come from anywhere, so the model that it names is loaded only when the caller
    passes it.
    """
    named = source.get("factory") or source.get("id", "")
    if named:
        return f"the bundle names {named!r}; if you trust that, pass it as the model (--model)"
    return "needs the model (--model package.module:factory, or a Hugging Face folder)"


def _from_factory(text: str) -> Loaded:
    import torch

    from isthmus.capture.huggingface import Loaded

    result = _call(text)
    parts = result if isinstance(result, tuple) else (result,)
    module = parts[0] if parts else None
    if not isinstance(module, torch.nn.Module):
        raise InvalidInput(
            f"{text!r} gave {type(result).__name__}, expected a torch.nn.Module or a tuple that"
            " starts with one; return the module"
        )
    args = parts[1] if len(parts) > 1 else ()
    kwargs = parts[2] if len(parts) > 2 else {}
    options = parts[3] if len(parts) > 3 else {}
    if (
        not isinstance(args, (tuple, list))
        or not isinstance(kwargs, Mapping)
        or not isinstance(options, Mapping)
    ):
        raise InvalidInput(
            f"{text!r} gave a tuple of {', '.join(type(part).__name__ for part in parts)}; "
            "expected (module, args, kwargs, options): a module, a tuple, a dict and a dict"
        )
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise InvalidInput(
            f"{text!r} gave the option {unknown[0]!r}; expected some of {', '.join(_OPTIONS)}"
        )
    loaded = Loaded(
        module,
        tuple(args),
        dict(kwargs),
        source={"kind": "factory", "factory": text},
        name=type(module).__name__,
    )
    return replace(loaded, **options)


def _call(text: str) -> Any:
    import torch

    package, _, name = text.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        # As with `python -m`, the user's module may lie in the current directory.
        sys.path.insert(0, folder)
    try:
        target: Any = importlib.import_module(package)
        for part in name.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(
            f"{text!r} cannot be imported ({error}), expected 'package.module:factory';"
            " check the name, and that the module's folder is on PYTHONPATH"
        ) from error
    if isinstance(target, torch.nn.Module) or not callable(target):
        return target
    return target()


def parse_axes(entries: Sequence[str]) -> dict[str, dict[int, str]]:
    """Returns `dynamic` of `isthmus.export` from entries like `input_ids:0=batch,1=sequence`.

    Raises:
        InvalidInput: An entry has another form.
    """
    axes: dict[str, dict[int, str]] = {}
    for entry in entries:
        name, _, rest = entry.rpartition(":")
        for pair in rest.split(","):
            axis, equals, dim = pair.partition("=")
            if not name or not equals or not axis.strip().lstrip("-").isdecimal() or not dim:
                raise InvalidInput(
                    f"--dynamic {entry}: expected NAME:AXIS=DIMENSION,..., such as "
                    "input_ids:0=batch,1=sequence"
                )
            axes.setdefault(name, {})[int(axis)] = dim.strip()
    return axes


def parse_dims(entries: Sequence[str]) -> dict[str, tuple[int, int] | list[int]]:
    """Returns `dims` of `isthmus.export` from entries like `batch=1:64` or `width=256,512`.

    Raises:
        InvalidInput: An entry has another form.
    """
    dims: dict[str, tuple[int, int] | list[int]] = {}
    for entry in entries:
        name, _, bounds = entry.partition("=")
        low, colon, high = bounds.partition(":")
        sizes = bounds.split(",")
        if name and colon and low.isdecimal() and high.isdecimal():
            dims[name] = (int(low), int(high))
        elif name and all(size.strip().isdecimal() for size in sizes):
            dims[name] = [int(size) for size in sizes]
        else:
            raise InvalidInput(
                f"--dim {entry}: expected NAME=MIN:MAX, such as batch=1:64, or NAME=SIZE,SIZE,..., "
                "such as width=256,512"
            )
    return dims
