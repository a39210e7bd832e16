"""Where an eager module comes from, by name: what another process can be told."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.errors import InvalidInput
from isthmus.manifest import Manifest

if TYPE_CHECKING:
    import torch


def resolve_model(model: str, manifest: Manifest | None = None) -> torch.nn.Module:
    """The eager module from "package.module:factory", or from a Hugging Face id or folder.

    An empty `model` stands for the manifest's own source. The factory may give the module alone or
    a tuple that starts with it.

    Raises:
        InvalidInput: It cannot be found, or it is not a module.
    """
    source = manifest.source if manifest is not None else {}
    task, attention = source.get("task", ""), source.get("attention", "")
    if not model:
        model = source.get("factory") or source.get("id", "")
        if not model:
            raise InvalidInput(
                "the bundle does not say where its eager module comes from, expected a source in"
                " the manifest; pass model='package.module:factory' or a Hugging Face folder"
            )
    if ":" in model and not Path(model).exists():
        return _module_from_factory(model)
    from isthmus.hub import load_hf

    options = {name: value for name, value in (("task", task), ("attention", attention)) if value}
    return load_hf(model, **options).module


def _module_from_factory(text: str) -> torch.nn.Module:
    import torch

    package, _, name = text.partition(":")
    try:
        target: Any = importlib.import_module(package)
        for part in name.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(
            f"{text!r} cannot be imported ({error}), expected 'package.module:factory';"
            " check the name, and that the module's folder is on PYTHONPATH"
        ) from error
    made = target if isinstance(target, torch.nn.Module) else target()
    if isinstance(made, tuple) and made:
        made = made[0]
    if not isinstance(made, torch.nn.Module):
        raise InvalidInput(
            f"{text!r} gave {type(made).__name__}, expected a torch.nn.Module or a tuple that"
            " starts with one; return the module"
        )
    return made
