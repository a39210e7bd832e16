"""The interface of everything that runs a bundle's model from Python."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from isthmus.bundle.manifest import Method, written_name
from isthmus.capture.values import to_tensor
from isthmus.errors import InvalidInput

__all__ = ["PythonEngine", "Values", "find_method"]

Values = Mapping[str, Tensor]
"""Tensors by name; scalars are 0-d tensors, absent optional values have no key."""


class PythonEngine(ABC):
    """A loaded model: named tensors in, named tensors out."""

    runtime: str
    """The runtime with its version: "PyTorch 2.13.0+cpu"."""

    def __init__(self, methods: Sequence[Method], device: str | None = None) -> None:
        """Keeps the signature and where inputs go; None leaves them where they are."""
        self._methods = {method.name: method for method in methods}
        self._device = device

    def bind(self, method: str, inputs: Values) -> Callable[[], object]:
        """Returns a call without arguments; copying and arranging the inputs is done before it.

        Where the method writes inputs, each call first gives them the same values again.

        Raises:
            InvalidInput: There is no such method.
        """
        signature, copies = self._method(method), self._copies(inputs)
        call = self._bind(signature, copies)
        buffers = [copies[name] for name in signature.writes if name in copies]
        written = [(buffer, buffer.clone()) for buffer in buffers]
        if not written:
            return call

        def call_on_first_values() -> object:
            for buffer, values in written:
                buffer.copy_(values)
            return call()

        return call_on_first_values

    def run(self, method: str, inputs: Values) -> dict[str, Tensor]:
        """Calls a method on copies of the inputs; returns its results on the CPU.

        The results are those of `Method.results`: the outputs, and the written inputs.

        Raises:
            InvalidInput: There is no such method.
        """
        return self.call(self._method(method), self._copies(inputs))

    def call(self, method: Method, inputs: Values) -> dict[str, Tensor]:
        """Calls a method on the tensors as they are, which it may write; see `run`."""
        values = self._outputs(method, self._bind(method, inputs)())
        # An engine that does not return the values of written inputs has written them in place.
        written = {written_name(name): inputs.get(name) for name in method.writes}
        values = {**written, **values}
        # Copies: the model may write its buffers again while the caller keeps them.
        return {
            spec.name: to_tensor(spec, values[spec.name]).detach().cpu().clone()
            for spec in method.results
            if values.get(spec.name) is not None
        }

    def reset(self) -> None:
        """Puts the state back as it was after load; a stateless engine has none."""
        return

    @abstractmethod
    def _bind(self, method: Method, inputs: Values) -> Callable[[], Any]:
        """Returns a call on these very tensors."""

    @abstractmethod
    def _outputs(self, method: Method, result: Any) -> Mapping[str, Any]:
        """Returns the outputs of a bound call's result by name, and what else it returned."""

    def _method(self, name: str) -> Method:
        return find_method(tuple(self._methods.values()), name)

    def _copies(self, inputs: Values) -> dict[str, Tensor]:
        return {name: value.detach().to(self._device, copy=True) for name, value in inputs.items()}


def find_method(methods: Sequence[Method], name: str) -> Method:
    """Returns the method of this name.

    Raises:
        InvalidInput: There is none; names those that exist.
    """
    for method in methods:
        if method.name == name:
            return method
    names = ", ".join(method.name for method in methods)
    raise InvalidInput(f"method {name!r} is not in the bundle, which has {names}; use one of them")
