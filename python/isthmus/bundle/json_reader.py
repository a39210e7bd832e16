"""A value inside manifest.json that knows its path: typed reads whose errors name the place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

from isthmus.errors import BundleError


class JsonCursor:
    """A JSON value and its path, for errors that name it."""

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.value = value

    def fail(self, expected: str) -> NoReturn:
        """Raises a BundleError: what was expected here, and what there is."""
        raise BundleError(
            f"manifest.json: {self.path}: expected {expected}, got {shorten(self.value)}; the "
            "manifest is damaged or was edited: fetch the bundle again or export again"
        )

    def object(self) -> dict[str, Any]:
        """A JSON object."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        return self.value

    def __getitem__(self, key: str) -> JsonCursor:
        """The value of a key that has to be there."""
        if key not in self.object():
            raise BundleError(
                f'manifest.json: {self.path}: expected the key "{key}", which is missing; the '
                "manifest is damaged or was edited: fetch the bundle again or export again"
            )
        return JsonCursor(f"{self.path}.{key}", self.value[key])

    def optional(self, key: str) -> JsonCursor:
        """An empty list where the key is missing."""
        return JsonCursor(f"{self.path}.{key}", self.object().get(key, []))

    def get(self, key: str, default: Any) -> JsonCursor:
        """The default where the key is missing."""
        return JsonCursor(f"{self.path}.{key}", self.object().get(key, default))

    def text(self) -> str:
        """Any text."""
        if not isinstance(self.value, str):
            self.fail("text")
        return self.value

    def name(self) -> str:
        """Text that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            self.fail("a name")
        return self.value

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self.fail("true or false")
        return self.value

    def integer(self, least: int = 0) -> int:
        """An integer of at least `least`."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < least:
            self.fail(f"an integer of at least {least}")
        return self.value

    def number(self) -> float:
        """A finite number of at least 0."""
        good = isinstance(self.value, (int, float)) and not isinstance(self.value, bool)
        if not good or not math.isfinite(self.value) or self.value < 0:
            self.fail("a finite number of at least 0")
        return float(self.value)

    def one_of(self, known: tuple[str, ...]) -> Any:
        """One of these texts."""
        if self.value not in known:
            self.fail("one of " + ", ".join(f'"{one}"' for one in known))
        return self.value

    def list(self, item: Callable[[JsonCursor], Any]) -> tuple[Any, ...]:
        """A list, each item read by `item`."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return tuple(
            item(JsonCursor(f"{self.path}[{at}]", one)) for at, one in enumerate(self.value)
        )

    def map(self, item: Callable[[JsonCursor], Any]) -> dict[str, Any]:
        """An object of any keys, each value read by `item`."""
        return {
            key: item(JsonCursor(f"{self.path}.{key}", one)) for key, one in self.object().items()
        }


def shorten(value: Any) -> str:
    """A JSON value in at most 80 characters, for messages."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."
