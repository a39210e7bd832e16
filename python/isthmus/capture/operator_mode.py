"""A dispatch mode that sees each operator of a call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["OperatorMode"]


class OperatorMode(TorchDispatchMode, ABC):  # type: ignore[no-untyped-call]
    """Calls `operate` for each operator while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.operate(func, args, kwargs or {})

    @abstractmethod
    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Runs an operator on its arguments, and returns its result."""
