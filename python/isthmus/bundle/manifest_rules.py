"""The restricted types of the manifest's values: names, paths, digests, counts."""

from __future__ import annotations

import re
from typing import Annotated, Any

from isthmus.bundle.json_cursor import Rule
from isthmus.bundle.size_expression import parse_size

DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)


def path_fault(path: str) -> str:
    """Returns why a path is not one that a bundle may have; empty when it is."""
    if not path or "\0" in path or "\\" in path:
        return "is empty or holds a backslash or a null"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is absolute"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return 'has an empty, "." or ".." part'
    return ""


def _name(value: Any) -> str:
    return "" if isinstance(value, str) and value else "a name"


def _path(value: Any) -> str:
    fault = "" if _name(value) else path_fault(value)
    return _name(value) or (
        fault and f"a path beneath the bundle, with forward slashes (this one {fault})"
    )


def _size_text(value: Any) -> str:
    try:
        parse_size(value if isinstance(value, str) else "")
    except ValueError as error:
        return f'the name of a dimension, or sizes such as "past + sequence" ({error})'
    return ""


def _number(value: Any) -> str:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "" if numeric and 0 <= value < float("inf") else "a finite number of at least 0"


def _finite(value: Any) -> str:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "" if numeric and abs(value) < float("inf") else "a finite number"


def _key(value: Any) -> str:
    known = isinstance(value, (str, int)) and not isinstance(value, bool)
    return "" if known else "text or an integer"


def _distinct(value: Any) -> str:
    repeated = isinstance(value, list) and any(key in value[:at] for at, key in enumerate(value))
    return "different keys, one for each item" if repeated else ""


def _dtype(value: Any) -> str:
    return "" if value in DTYPES else "one of " + ", ".join(f'"{dtype}"' for dtype in DTYPES)


def _at_least(least: int) -> Rule:
    def check(value: Any) -> str:
        valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return "" if valid else f"an integer of at least {least}"

    return Rule(check, {"minimum": least})


def _matching(pattern: str, expected: str) -> Rule:
    def check(value: Any) -> str:
        return "" if isinstance(value, str) and re.fullmatch(pattern, value) else expected

    return Rule(check, {"pattern": f"^{pattern}$"})


def at_least_one(item: str) -> Rule:
    """Returns the rule that a list is not empty."""
    return Rule(lambda value: f"at least one {item}" if value == [] else "", {"minItems": 1})


def pair(expected: str) -> Rule:
    """Returns the rule that a list has two items."""
    return Rule(lambda value: "" if isinstance(value, list) and len(value) == 2 else expected, {})


Name = Annotated[str, Rule(_name, {"minLength": 1})]
"""Text that is not empty."""
Path = Annotated[
    str,
    Rule(_path, {"minLength": 1, "not": {"pattern": r"^/|^[A-Za-z]:|\\|(^|/)\.{0,2}(/|$)"}}),
]
"""A path beneath the bundle's root, with forward slashes."""
Sha256 = Annotated[str, _matching("[0-9a-f]{64}", "64 lower-case hexadecimal digits")]
DimName = Annotated[
    str,
    _matching("[A-Za-z_][A-Za-z0-9_]*", "a dimension's name of letters, digits and underscores"),
]
SizeText = Annotated[str, Rule(_size_text, {"minLength": 1})]
"""The name of a dimension, or an expression over names; `size_expression` reads it."""
Count = Annotated[int, _at_least(0)]
Int64 = Annotated[int, _at_least(-(2**63))]
Number = Annotated[float, Rule(_number, {"minimum": 0})]
Finite = Annotated[float, Rule(_finite, {})]
Key = Annotated[str | int, Rule(_key, {})]
"""The key of an item of a dictionary or of an object with named parts."""
Keys = Annotated[tuple[Key, ...], Rule(_distinct, {"uniqueItems": True})]
Dtype = Annotated[str, Rule(_dtype, {"enum": list(DTYPES)})]
