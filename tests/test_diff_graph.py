"""Graphs compared part by part."""

from __future__ import annotations

import torch

from isthmus.bundle_diff.archive import ArchiveContents, StoredTensor
from isthmus.bundle_diff.graph import Part, compare_graphs
from isthmus.bundle_diff.torchscript_code import torchscript_parts

CODE = """class Block(Module):
  __parameters__ = []
  inner : __torch__.lib.{mangle}Inner
  def forward(self: __torch__.lib.Block,
    x: Tensor) -> Tensor:
    inner = self.inner
{extra}    {a} = torch.add(x, CONSTANTS.c{c})
    {b} = __torch__.lib.{mangle}helper({a}, {a})
    return (inner).forward({b}, )
class Inner(Module):
  __parameters__ = []
  def forward(self: __torch__.lib.{mangle}Inner,
    argument_1: Tensor) -> Tensor:
    return torch.{op}(argument_1)
"""


def constant(number: float) -> StoredTensor:
    return StoredTensor("float32", (1,), lambda: torch.tensor([number]))


def parts_of(
    a: str = "_0",
    b: str = "_1",
    mangle: str = "",
    op: str = "gelu",
    c: int = 0,
    extra: str = "",
    constants: tuple[float, ...] = (1.0, 2.0),
) -> dict[str, Part]:
    block, _, inner = CODE.format(a=a, b=b, mangle=mangle, op=op, c=c, extra=extra).partition(
        "class Inner"
    )
    files = {"code/__torch__/lib.py": block}
    home = f"code/__torch__/lib/{mangle.strip('.')}.py" if mangle else "code/__torch__/lib.py"
    files[home] = files.get(home, "") + f"class Inner{inner}"
    modules = {"": "__torch__.lib.Block", "inner": f"__torch__.lib.{mangle}Inner"}
    archive = ArchiveContents(modules, {}, tuple(constant(number) for number in constants))
    return torchscript_parts(files, archive)


def test_what_is_only_renamed_is_equal() -> None:
    before = parts_of()
    assert before["inner"].title == "Inner"
    for after in (
        parts_of(a="_7", b="hidden12"),
        parts_of(mangle="___torch_mangle_12."),
        parts_of(c=1, constants=(2.0, 1.0)),
    ):
        assert compare_graphs("a", before, after), "names and places make no difference"
    assert not compare_graphs("a", before, parts_of(c=1)), "another constant is another graph"


def code_part(body: str) -> Part:
    text = f"class M(Module):\n  def forward(self: __torch__.M,\n    x: Tensor) -> Tensor:\n{body}"
    return torchscript_parts(
        {"code/__torch__.py": text}, ArchiveContents({"": "__torch__.M"}, {}, ())
    )[""]


def test_line_breaks_of_the_printer_make_no_difference() -> None:
    direct = code_part("    _0 = __torch__.lib.helper(torch.neg(x), )\n    return torch.abs(_0)\n")
    hoisted = code_part(
        "    _0 = __torch__.lib.___torch_mangle_3.helper\n"
        "    _1 = torch.neg(x)\n"
        "    return torch.abs(_0(_1, ))\n"
    )
    assert direct.exact == hoisted.exact
    # A value that is used twice or later may be from before a change in place.
    for body in (
        "    _0 = torch.neg(x)\n    x0 = torch.add_(x, 1)\n    return torch.abs(_0)\n",
        "    _0 = torch.neg(x)\n    return torch.mul(_0, _0)\n",
    ):
        assert len(code_part(body).exact) == len(code_part(body).lines)


def test_a_diff_shows_the_lines_and_no_renumbering() -> None:
    graph = compare_graphs("a", parts_of(), parts_of(op="relu", a="_3", b="_4"))
    (part,) = graph.differing
    assert part.paths == ("inner",)
    assert [line for line in part.lines if line[0] in "-+"] == [
        ("-", "    return torch.gelu(argument_1)"),
        ("+", "    return torch.relu(argument_1)"),
    ]


def test_an_added_line_does_not_renumber_those_that_follow() -> None:
    after = parts_of(a="_1", b="_2", extra="    _0 = torch.neg(x)\n")
    (part,) = compare_graphs("a", parts_of(), after).differing
    assert [line for line in part.lines if line[0] in "-+"] == [("+", "    _0 = torch.neg(x)")]


def test_values_that_go_elsewhere_differ_though_the_lines_look_alike() -> None:
    lines = ("_0 = f(x)", "_1 = g(x)", "return _0")
    other = ("_0 = f(x)", "_1 = g(x)", "return _1")
    keys = ("_ = f(x)", "_ = g(x)", "return _")
    graph = compare_graphs(
        "a", {"": Part("M", lines, keys, lines)}, {"": Part("M", other, keys, other)}
    )
    assert graph.differing[0].paths == ("the model",)
    assert ("+", "return _1") in graph.differing[0].lines


def test_submodules_that_differ_alike_are_reported_once() -> None:
    before = {f"layer.{at}": Part("L", ("a",), ("a",), ("a",)) for at in range(9)}
    after = {path: Part("L", ("b",), ("b",), ("b",)) for path in before}
    graph = compare_graphs("a", before, after | {"head": Part("H", ("c",), ("c",), ("c",))})
    assert len(graph.differing) == 1
    assert len(graph.differing[0].paths) == 9
    assert graph.added == ("head (H)",)
