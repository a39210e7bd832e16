"""JSON values that know their path, and typed reads whose errors name the place.

The annotations of a dataclass say what its JSON may hold: `read` checks a value against them, and
`scripts/make_schemas.py` writes the JSON Schema from the same annotations.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from isthmus.errors import BundleError


@dataclass(frozen=True, eq=False)
class Rule:
    """A restriction of a JSON value, attached to a type as `Annotated[type, Rule(...)]`."""

    expected: Callable[[Any], str]
    """Returns what was expected in place of a JSON value; empty when the value is valid."""
    schema: Mapping[str, Any]
    """The same restriction in the words of JSON Schema."""


class JsonCursor:
    """A JSON value and its path in manifest.json."""

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.value = value

    def fail(self, expected: str) -> NoReturn:
        """Raises a BundleError that names the place, what was expected and what there is."""
        raise BundleError(
            f"manifest.json: {self.path}: expected {expected}, got {shorten(self.value)}; the "
            "manifest is damaged or was edited: fetch the bundle again or export again"
        )

    def object(self) -> dict[str, Any]:
        """Returns the value, which has to be a JSON object."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        return self.value

    def __getitem__(self, key: str) -> JsonCursor:
        """Returns the cursor of a key that has to be there."""
        if key not in self.object():
            raise BundleError(
                f'manifest.json: {self.path}: expected the key "{key}", which is missing; the '
                "manifest is damaged or was edited: fetch the bundle again or export again"
            )
        return JsonCursor(f"{self.path}.{key}", self.value[key])

    def items(self) -> list[JsonCursor]:
        """Returns the cursors of a list's items."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return [JsonCursor(f"{self.path}[{at}]", item) for at, item in enumerate(self.value)]


def shorten(value: Any) -> str:
    """Returns a JSON value in at most 80 characters, for messages."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."


Readers = Mapping[type, Callable[[JsonCursor], Any]]
"""Maps a dataclass to the function that reads it, in place of `read_object`."""

_SCALARS = {str: "text", bool: "true or false", int: "an integer", float: "a number"}


def read(at: JsonCursor, kind: Any, readers: Readers) -> Any:
    """Returns the value at a cursor, checked against a type.

    Args:
        at: The JSON value.
        kind: `str`, `bool`, `int`, `float`, `Any`, a dataclass, a `Literal`, a union of these, a
            tuple, or a `Mapping` with text as its keys; each may be annotated with a `Rule`.
        readers: The functions for dataclasses whose fields are not checked one by one.

    Raises:
        BundleError: The value is of another type or breaks a rule.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        expected = args[1].expected(at.value)
        return at.fail(expected) if expected else read(at, args[0], readers)
    if origin in (Union, UnionType):
        return read(at, _member(at.value, args), readers)
    if origin is Literal:
        if at.value not in args:
            at.fail("one of " + ", ".join(f'"{value}"' for value in args))
        return at.value
    if origin is tuple and args[-1] is ...:
        return tuple(read(item, args[0], readers) for item in at.items())
    if origin is tuple:
        items = at.items()
        if len(items) != len(args):
            at.fail(f"a list of {len(args)}")
        return tuple(read(item, arg, readers) for item, arg in zip(items, args, strict=True))
    if origin is Mapping:
        return {
            read(JsonCursor(at.path, key), args[0], readers): read(at[key], args[1], readers)
            for key in at.object()
        }
    if kind in readers:
        return readers[kind](at)
    if is_dataclass(kind):
        return read_object(at, kind, readers)
    if kind is Any:
        return at.value
    numeric = (int, float) if kind is float else kind
    if not isinstance(at.value, numeric) or (kind is not bool and isinstance(at.value, bool)):
        at.fail(_SCALARS[kind])
    return float(at.value) if kind is float else at.value


def read_object(
    at: JsonCursor,
    cls: Any,
    readers: Readers,
    members: tuple[str, ...] | None = None,
    **known: Any,
) -> Any:
    """Returns a dataclass whose fields are the keys of a JSON object; other keys are ignored.

    Args:
        at: The JSON object.
        cls: The dataclass. A field with a default is optional.
        readers: See `read`.
        members: The only fields to read, all of which are required; None for all fields.
        known: Fields that were read already.

    Raises:
        BundleError: A required key is missing, or a value does not fit its field.
    """
    present = at.object()
    for name, (kind, required) in _fields(cls).items():
        if members is not None:
            required = name in members
        if name not in known and (required or (members is None and name in present)):
            known[name] = read(at[name], kind, readers)
    return cls(**known)


@functools.cache
def _fields(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Returns the type of each field of a dataclass, and whether it is required."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        field.name: (
            without_none(hints[field.name]) if field.default is None else hints[field.name],
            field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(cls)
    }


def without_none(kind: Any) -> Any:
    """Returns the type of a field that is left out of the JSON object when it is None."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return Annotated[(without_none(args[0]), *args[1:])]
    if origin not in (Union, UnionType):
        return kind
    return Union[tuple(member for member in args if member is not NoneType)]  # noqa: UP007


def _member(value: Any, members: tuple[Any, ...]) -> Any:
    """Returns the member of a union that has the type of a JSON value; else the first one."""
    for member in members:
        plain = get_args(member)[0] if get_origin(member) is Annotated else member
        kind = get_origin(plain) or plain
        if isinstance(value, list if kind is tuple else kind):
            return member
    return members[0]
