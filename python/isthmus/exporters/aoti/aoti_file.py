"""AOTInductor packages that somebody else made: their arguments, and their answers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from isthmus.capture.file_module import FileModule
from isthmus.capture.tree import build_tree
from isthmus.errors import BundleError, InvalidInput, first_line

__all__ = ["AotiFile"]

_CHECK_INPUTS = "AOTI_RUNTIME_CHECK_INPUTS"
"""The variable that has a package refuse dtypes and sizes for which it was not compiled."""


class AotiFile(FileModule):
    """An AOTInductor package on torch's own loader, which checks the inputs of every call.

    It is called with the arguments of the module that was compiled, in their nesting.
    """

    def __init__(self, file: Path, label: str) -> None:
        """Opens the package, which runs its code, and reads the nesting of its arguments.

        Args:
            file: The package.
            label: The path that the user gave, for messages.

        Raises:
            BundleError: Torch cannot open the package, or it is for another device.
        """
        super().__init__(partial(torch._inductor.aoti_load_package, str(file)))
        try:
            package: Any = self.opened
            spec = _pytree.treespec_loads(package.loader.get_call_spec()[0])
        except Exception as error:  # whatever torch says of a package that it cannot open
            raise BundleError(
                f"{label}: torch {torch.__version__} cannot open the package "
                f"({first_line(error)}); compile it again with the torch that is used here"
            ) from error
        self.file = file
        self.metadata: Mapping[str, str] = dict(package.loader.get_metadata())
        self.reference = f"AOTInductor of PyTorch {torch.__version__}"
        self.computed_sizes = {}
        device = self.metadata.get("AOTI_DEVICE_KEY", "cpu")
        if device != "cpu":
            raise BundleError(
                f"{label}: the package is compiled for {device}, and packages for the CPU are "
                "adopted; make a bundle of the model it was compiled from: isthmus.export(..., "
                f'device="{device}")'
            )
        positions = list(range(spec.num_leaves))
        self._args, self._kwargs = _pytree.tree_unflatten(positions, spec)
        named = {f"arg.{at}": value for at, value in enumerate(self._args)} | self._kwargs
        names: dict[str, int] = {}
        for name, value in named.items():
            names.update(build_tree(value, name)[1])
        self.names = tuple(sorted(names, key=lambda name: names[name]))
        """The inputs in the order in which the package takes them."""

    def arguments(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments of a call from its inputs by name.

        Raises:
            InvalidInput: A name is unknown or missing.
        """
        unknown = [name for name in values if name not in self.names]
        missing = [name for name in self.names if name not in values]
        if unknown or missing:
            wrong = f"{unknown[0]} is unknown" if unknown else f"{missing[0]} is missing"
            raise InvalidInput(
                f"inputs: {wrong}; the package takes {', '.join(self.names) or 'nothing'}"
            )
        flat = [_tensor(name, values[name]) for name in self.names]
        args, kwargs = _pytree.tree_map(lambda at: flat[at], (self._args, self._kwargs))
        return tuple(args), dict(kwargs)

    def forward(self, *arg: Any, **kwargs: Any) -> Any:
        """Returns the package's outputs in their nesting."""
        with _checked_inputs():
            return self.opened(*arg, **kwargs)

    def checks_inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Returns True when the package refuses an input of another dtype than the example's."""
        other = _pytree.tree_map(_wider, (tuple(args), dict(kwargs)))
        try:
            with torch.no_grad():
                self(*other[0], **other[1])
        except RuntimeError:
            return True
        return not self.names


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(
            f'inputs: "{name}" is no tensor ({first_line(error)}); give a tensor or an array'
        ) from error


def _wider(value: Tensor) -> Tensor:
    """Returns a tensor of a type whose elements are at least as large, so that no read is wild."""
    return value.to(torch.float64 if value.is_complex() else torch.complex128)


@contextlib.contextmanager
def _checked_inputs() -> Iterator[None]:
    """Sets the variable for one call; a package reads it in its first call."""
    before = os.environ.get(_CHECK_INPUTS)
    os.environ[_CHECK_INPUTS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CHECK_INPUTS]
        else:
            os.environ[_CHECK_INPUTS] = before
