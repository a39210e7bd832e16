"""Returns the code of a TorchScript archive by submodule, independent of names.

Class names have a number where several instances were traced, local names are numbered, and
constants are places in a list; none of it affects what is computed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch

from isthmus.bundle_diff.archive import ArchiveContents, StoredTensor
from isthmus.bundle_diff.graph import Part

__all__ = ["torchscript_parts"]

_MANGLED = re.compile(r"\.?___torch_mangle_\d+")
_CONSTANT = re.compile(r"CONSTANTS\.c(\d+)")
_BLOCK = re.compile(r"^(?:class|def) (\w+)", re.MULTILINE)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\.?[A-Za-z_]\w*')
_TARGETS = re.compile(r"^\s*((?:\w+, )*\w+,?)(?:\s*:\s*[^=]+?)?\s=\s")
_ASSIGNED = re.compile(r"^(\s+)(\w+) = (.+)$")
_FUNCTION = re.compile(r"^__torch__\.[\w.]+$")
_LOOP = re.compile(r"^\s*for (\w+) in ")
_ARGUMENT = re.compile(r"(\w+): ")
_CLASS = re.compile(r"^class \w+\((\w+)\):", re.MULTILINE)
_SELF = re.compile(r"\(self: [\w.]+")
_CHILD = re.compile(r"^(  (?:\w+ :|__annotations__\[[^\]]*\] =)) __torch__\.[\w.]+$", re.MULTILINE)
_OURS = "__torch__.isthmus."
"""The prefix of the classes that isthmus puts around the model."""
_SHOWN = 4
"""The most elements of a constant whose values are shown."""


def torchscript_parts(code: Mapping[str, str], archive: ArchiveContents) -> dict[str, Part]:
    """Returns the submodules by the model's paths, then functions and other classes by name.

    Args:
        code: The source by file name, "code/__torch__/a/b.py".
        archive: The classes and constants of the archive.
    """
    constants = [_constant(constant) for constant in archive.constants]
    blocks = {
        f"{module}.{name}": text
        for file, source in code.items()
        for module in [_module_name(file)]
        for name, text in _blocks(source)
    }
    wrapped = archive.modules.get("", "").startswith(_OURS)
    parts: dict[str, Part] = {}
    used: set[str] = set()
    for path, qualified in archive.modules.items():
        used.add(qualified)
        text = blocks.get(qualified, "")
        if wrapped and not path:
            path = "what isthmus puts around the model"
        elif wrapped:
            path = path.removeprefix("module").removeprefix(".")
        parts[path] = _part(text, _title(qualified), constants)
    rest: dict[str, list[str]] = {}
    for name, text in blocks.items():
        if name not in used:
            rest.setdefault(_MANGLED.sub("", name).removeprefix("__torch__."), []).append(text)
    for name, texts in rest.items():
        for at, text in enumerate(sorted(texts)):
            parts[name if not at else f"{name} {at + 1}"] = _part(text, "", constants)
    return parts


def _module_name(file: str) -> str:
    """Converts "code/__torch__/a/b.py" to "__torch__.a.b"."""
    path = file[file.find("__torch__") :] if "__torch__" in file else file
    return path.removesuffix(".py").replace("/", ".")


def _title(qualified: str) -> str:
    return _MANGLED.sub("", qualified).rpartition(".")[2]


def _blocks(source: str) -> Iterator[tuple[str, str]]:
    """Yields the names and texts of the classes and functions of a file."""
    starts = list(_BLOCK.finditer(source))
    ends = [start.start() for start in starts[1:]] + [len(source)]
    for start, end in zip(starts, ends, strict=True):
        yield start[1], source[start.start() : end].rstrip()


def _constant(tensor: StoredTensor) -> str:
    """Returns a constant's text: its values, or a digest if it is large."""
    values = tensor.read()
    if tensor.elements <= _SHOWN:
        return f"constant({tensor.text} {values.tolist()})"
    raw = values.contiguous().reshape(-1).view(torch.uint8)
    return f"constant({tensor.text} {hashlib.sha256(raw.numpy().tobytes()).hexdigest()[:8]})"


def _part(text: str, title: str, constants: Sequence[str]) -> Part:
    def constant(match: re.Match[str]) -> str:
        at = int(match[1])
        return constants[at] if at < len(constants) else match[0]

    clean = _CONSTANT.sub(constant, _MANGLED.sub("", text))
    # The names of a class and of its children do not matter either: each child is a part.
    clean = _CLASS.sub(r"class (\1):", _SELF.sub("(self", clean))
    clean = _CHILD.sub(r"\1 module", clean)
    exact: list[str] = []
    keys: list[str] = []
    lines = clean.splitlines()
    for scope in _scopes(lines):
        names = _locals(scope)
        counted: dict[str, str] = {}

        def numbered(name: str, counted: dict[str, str] = counted) -> str:
            return counted.setdefault(name, f"v{len(counted)}")

        exact += [_renamed(line, names, numbered) for line in _inlined(scope, names)]
        keys += [_renamed(line, names, _unnumbered) for line in scope]
    return Part(title, tuple(exact), tuple(keys), tuple(lines))


def _scopes(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yields the lines before the first method, and each method with its body."""
    scope: list[str] = []
    for line in lines:
        if line.lstrip().startswith("def ") and scope:
            yield scope
            scope = []
        scope.append(line)
    if scope:
        yield scope


def _locals(lines: Sequence[str]) -> set[str]:
    """Returns the names of arguments and assigned variables, without attributes of a class."""
    names: set[str] = set()
    if not lines[0].lstrip().startswith("def "):
        return names
    header = True
    for line in lines:
        if header:
            names |= set(_ARGUMENT.findall(line))
            header = not line.endswith(":")
            continue
        for match in (_TARGETS.match(line), _LOOP.match(line)):
            if match is not None:
                names |= {part.strip() for part in match[1].split(",") if part.strip()}
    return names - {"self"}


def _inlined(lines: Sequence[str], names: set[str]) -> list[str]:
    """Inlines each local that is used only once, in the next line.

    Whether the printer gives a value a line of its own depends on the length of the line, and so on
    names; it also assigns functions whose name has a number to a local first.
    """
    uses: Counter[str] = Counter(
        token for line in lines for token in _TOKEN.findall(line) if token in names
    )
    aliases: dict[str, str] = {}
    inlined: list[str] = []
    for line in lines:
        text = _renamed(line, aliases.keys(), aliases.__getitem__)
        while inlined:
            last = _ASSIGNED.match(inlined[-1])
            if last is None or uses[last[2]] != 2 or _indent(text) != last[1]:
                break
            name, value = last[2], last[3]
            if text.lstrip().startswith("while ") or name not in _TOKEN.findall(text):
                break
            inlined.pop()
            text = _renamed(text, {name}, {name: value}.__getitem__)
        alias = _ASSIGNED.match(text)
        if alias is not None and _FUNCTION.match(alias[3]) and alias[2] in names:
            aliases[alias[2]] = alias[3]
        else:
            inlined.append(text)
    return inlined


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _renamed(line: str, names: Collection[str], rename: Callable[[str], str]) -> str:
    def replace(match: re.Match[str]) -> str:
        token = match[0]
        return rename(token) if token in names else token

    return _TOKEN.sub(replace, line)


def _unnumbered(name: str) -> str:
    return name.rstrip("0123456789") or name
