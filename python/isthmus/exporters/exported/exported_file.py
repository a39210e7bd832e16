"""Exported programs that somebody else made: their inputs, and their answers."""

from __future__ import annotations

import ast
import inspect
import json
import math
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus.bundle.manifest import Artifact
from isthmus.bundle.size_expression import is_plain
from isthmus.capture.dynamic import DimsSpec, DynamicSpec
from isthmus.capture.file_module import FileModule
from isthmus.capture.tree import build_tree
from isthmus.errors import BundleError, Decision, InvalidInput, first_line
from isthmus.exporters.export_request import ExportedArtifact, ExportRequest
from isthmus.exporters.exported.scan_program import scan_program
from isthmus.exporters.file_notes import notes_of_file
from isthmus.exporters.remedies import with_remedies
from isthmus.exporters.torchscript.operators import custom_operators, find_libraries

__all__ = ["ExportedFile", "adopted_program", "open_program"]

_LARGEST = 64
"""The largest size that is tried where the file sets a higher bound or none."""
_EXPRESSIONS = frozenset(
    {"Add", "CeilToInt", "CleanDiv", "Eq", "FloatPow", "FloatTrueDiv", "FloorDiv", "FloorToInt",
     "Ge", "Gt", "Integer", "IntTrueDiv", "Le", "Lt", "Max", "Min", "Mod", "ModularIndexing", "Mul",
     "Ne", "Not", "And", "Or", "Pow", "PowByNatural", "PythonMod", "Rational", "Symbol", "ToFloat",
     "TruncToFloat", "TruncToInt", "Float", "false", "true"}
)  # fmt: skip
"""The functions in which torch writes sizes."""


@dataclass(frozen=True)
class _Input:
    """An input of a program."""

    name: str
    shape: tuple[int | str, ...]
    """A size, or the name of the symbol or the expression of a size that varies."""


def open_program(path: Path, folder: Path) -> ExportedFile:
    """Scans a program and opens a copy of it.

    Args:
        path: A file that `torch.export.save` wrote.
        folder: An empty folder for the copies, which the module keeps using.

    Raises:
        BundleError: The scan refuses it, torch cannot open it, or an input is no tensor.
    """
    scan = scan_program(path.read_bytes())
    if scan.refused:
        raise BundleError(f"{path} is refused: {scan.describe()}")
    file = folder / "exported-cpu-fp32.pt2"
    shutil.copyfile(path, file)
    plain = folder / "plain.pt2"
    _write_plain(path, plain)
    return _with_signature(ExportedFile(file, plain, str(path), dict(scan.operators)))


def _with_signature(model: ExportedFile) -> ExportedFile:
    """Gives `forward` the parameters of the module that was exported; inputs are named by them."""
    kinds = inspect.Parameter
    parameters = [kinds("self", kinds.POSITIONAL_OR_KEYWORD)]
    parameters += [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in model.positional]
    parameters += [kinds(name, kinds.KEYWORD_ONLY) for name in model.keywords]

    def forward(self: ExportedFile, *args: Any, **kwargs: Any) -> Any:
        return self.opened(*args, **kwargs)

    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    model.__class__ = type("ExportedFile", (ExportedFile,), {"forward": forward})
    return model


def _write_plain(path: Path, target: Path) -> None:
    """Writes a copy in which nothing can make Python run code: no pickle, no source of guards.

    Raises:
        BundleError: A tensor is stored as a pickle, or a size is no expression of sizes.
    """
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as plain,
    ):
        for name in archive.namelist():
            content = archive.read(name)
            inner = name.partition("/")[2]
            if inner.startswith("data/sample_inputs/"):
                content = b""
            elif inner.startswith("models/") and inner.endswith(".json"):
                document = json.loads(content)
                document["guards_code"] = []
                for text in _expressions(document):
                    _check_expression(path, text)
                content = json.dumps(document).encode()
            elif inner.endswith("_config.json"):
                config = json.loads(content)["config"]
                pickled = [key for key, entry in config.items() if entry["use_pickle"]]
                if pickled:
                    raise BundleError(
                        f'{path} is refused: "{pickled[0]}" is stored as a pickle, which would run '
                        "code when it is loaded; save the program with plain tensors"
                    )
            plain.writestr(name, content)


def _expressions(value: Any) -> Iterator[str]:
    """Yields the sizes in a document, which torch reads with `sympy.sympify`."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "expr_str":
                yield item
            elif key != "metadata":
                yield from _expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from _expressions(item)


def _check_expression(path: Path, text: str) -> None:
    """Refuses everything that is no call of the functions in which torch writes sizes."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = ast.Expression(ast.Name("unreadable", ast.Load()))
    for node in ast.walk(tree):
        known = isinstance(
            node, (ast.Expression, ast.Call, ast.Constant, ast.Load, ast.keyword, ast.UnaryOp,
                   ast.USub)
        )  # fmt: skip
        if known or (isinstance(node, ast.Name) and node.id in _EXPRESSIONS):
            continue
        raise BundleError(f"{path} is refused: the size {text[:80]!r} is no expression of sizes")


class ExportedFile(FileModule):
    """A program on torch's own interpreter, which checks the sizes of every call.

    It is called with the arguments of the module that was exported, in their nesting.
    """

    def __init__(self, file: Path, plain: Path, label: str, operators: Mapping[str, int]) -> None:
        """Opens the program and reads its inputs.

        Args:
            file: The program.
            plain: The copy of it that Python opens.
            label: The path that the user gave, for messages.
            operators: The number of calls of each operator.

        Raises:
            BundleError: Torch cannot open the program, an input is no tensor, or calls change it.
        """
        super().__init__(partial(_open, plain))
        try:
            program = torch.export.load(plain)
            spec = program.call_spec.in_spec
            args, kwargs = torch.utils._pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
        except Exception as error:  # whatever torch says of a program that it cannot open
            raise BundleError(
                f"{label}: torch {torch.__version__} cannot open the program "
                f"({first_line(error)}); export it again with the torch that is used here"
            ) from error
        self.file = file
        self.operators = operators
        self.reference = f"torch.export of PyTorch {torch.__version__}"
        self.computed_sizes = {}
        self._args, self._kwargs = args, kwargs
        self.positional = _parameters_of(program, args)
        self.keywords = tuple(kwargs)
        self.inputs = _inputs_of(program, self.positional, args, kwargs, label)
        self._limits = {
            str(symbol): (int(limits.lower), float(limits.upper))
            for symbol, limits in program.range_constraints.items()
        }
        if program.graph_signature.buffers_to_mutate:
            buffer = next(iter(program.graph_signature.buffers_to_mutate.values()))
            raise BundleError(
                f'{label}: calls change the buffer "{buffer}"; load it in Python with '
                "torch.export.load(...).module(), and write a bundle with isthmus.export(module, "
                'args, path=..., formats=["exported"])'
            )

    def arguments(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments of a call from its inputs by name.

        Raises:
            InvalidInput: A name is unknown or missing.
        """
        names = [value.name for value in self.inputs]
        unknown = [name for name in values if name not in names]
        missing = [name for name in names if name not in values]
        if unknown or missing:
            wrong = f"{unknown[0]} is unknown" if unknown else f"{missing[0]} is missing"
            raise InvalidInput(f"inputs: {wrong}; the program takes {', '.join(names)}")
        flat = [torch.as_tensor(values[name]) for name in names]
        args, kwargs = torch.utils._pytree.tree_map(lambda at: flat[at], (self._args, self._kwargs))
        return tuple(args), dict(kwargs)

    def limits(self, dynamic: DynamicSpec, given: DimsSpec | None) -> DimsSpec:
        """Returns the range of each dimension: what the caller gives, else what the file says.

        Args:
            dynamic: The name of each axis that varies.
            given: The caller's ranges, which count first.
        """
        ranges: dict[str, Any] = dict(given or {})
        for value in self.inputs:
            for axis, name in dynamic.get(value.name, {}).items():
                low, high = self._limits.get(str(value.shape[axis]), (1, math.inf))
                low = max(low, 1)
                if is_plain(name):
                    ranges.setdefault(name, (low, int(min(high, max(low + 1, _LARGEST)))))
        return ranges

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the program's outputs in their nesting."""
        return self.opened(*args, **kwargs)


def _open(plain: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(plain).module()


def _parameters_of(program: torch.export.ExportedProgram, args: Sequence[Any]) -> list[str]:
    """Returns the names of the positional parameters."""
    signature = program.module_call_graph[0].signature
    names = list(getattr(signature, "forward_arg_names", None) or [])[: len(args)]
    plain = len(names) == len(args) and all(name.isidentifier() for name in names)
    return names if plain else [f"arg_{at}" for at, _ in enumerate(args)]


def _inputs_of(
    program: torch.export.ExportedProgram,
    parameters: Sequence[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    label: str,
) -> tuple[_Input, ...]:
    """Returns the inputs in the order in which the program takes them."""
    named = dict(zip(parameters, args, strict=False)) | dict(kwargs)
    order: dict[str, int] = {}
    for name, value in named.items():
        order.update(build_tree(value, name)[1])
    names = sorted(order, key=lambda name: order[name])
    given = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    inputs = []
    for name, user_input in zip(names, program.graph_signature.user_inputs, strict=True):
        value = given[user_input].meta["val"] if user_input in given else user_input
        if not isinstance(value, Tensor):
            raise BundleError(
                f'{label}: the input "{name}" is a {type(value).__name__} and no tensor; load it '
                "in Python with torch.export.load(...).module(), and write a bundle with "
                'isthmus.export(module, args, path=..., formats=["exported"])'
            )
        sizes = (size if isinstance(size, int) else str(size) for size in value.shape)
        inputs.append(_Input(name, tuple(sizes)))
    return tuple(inputs)


def adopted_program(model: ExportedFile, request: ExportRequest) -> ExportedArtifact:
    """Returns the program as an artifact, with what the manifest says of it."""
    reason = f"the program as it is; its own answers, by {model.reference}, are the reference"
    artifact = Artifact(
        name=model.file.stem,
        format="exported",
        device="cpu",
        devices=("cpu", "cuda"),
        precision=request.precision,
        trust="graph",
        convention="flat",
        strategy="adopted",
        files=(),
        requires={"torch": str(torch.__version__)},
        op_libraries=find_libraries(
            custom_operators(model.operators), request.options.op_libraries
        ),
        operators=dict(sorted(model.operators.items())),
        tolerances=dict(request.tolerances),
        decisions=(Decision("adopted", True, reason),),
        hazards=with_remedies(notes_of_file(model, request.notes)),
    )
    return ExportedArtifact(artifact, (model.file,))
