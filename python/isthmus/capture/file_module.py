"""A model of which only a file is left, as a module whose calls run on the file's own runtime."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import nn

__all__ = ["FileModule"]


class FileModule(nn.Module, ABC):
    """A file of another format than TorchScript, which is called like a module.

    There is no eager module behind it: what the runtime answers is the reference. It has neither
    parameters nor state, and no copy in another precision.
    """

    reference: str
    """The runtime that answers, with its version: "ONNX Runtime 1.32.0"."""
    computed_sizes: Mapping[str, frozenset[int]]
    """The axes whose sizes are computed from data, by output name."""

    def __init__(self, open_file: Callable[[], Any]) -> None:
        """Keeps the function that opens the file; each process calls it once."""
        super().__init__()
        self._opened = _OpenedFile(open_file)
        self.eval()

    @property
    def opened(self) -> Any:
        """What `open_file` returns, in this process."""
        return self._opened.here()

    def reworded(self, text: str) -> str:
        """Returns a message about an eager module as one about this file."""
        by = f"by {self.reference}"
        return (
            text.replace("in eager mode", by)
            .replace("eager itself", "the file itself")
            .replace("eager", "the file")
        )

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the file's program."""

    def __deepcopy__(self, memo: Any) -> NoReturn:
        """Refuses to copy.

        Raises:
            TypeError: Always.
        """
        raise TypeError("the program of a file computes in the types that it was made with")


class _OpenedFile:
    """What a file was opened as, by process: the threads of a runtime do not survive a fork.

    It has slots, so that it counts as one value and not as state of the module.
    """

    __slots__ = ("_by_process", "_open")

    def __init__(self, open_file: Callable[[], Any]) -> None:
        self._open = open_file
        # What a parent opened stays here: to end it, a child would wait for threads it has not.
        self._by_process: dict[int, Any] = {}

    def here(self) -> Any:
        """Returns what this process opened."""
        process = os.getpid()
        if process not in self._by_process:
            self._by_process[process] = self._open()
        return self._by_process[process]
