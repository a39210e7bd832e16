"""What torch says of sizes that a program does not serve is read, and put into words of isthmus."""

from __future__ import annotations

import json

import pytest

from isthmus.bundle.manifest import DimRange
from isthmus.exporters.remedies import advice_on
from isthmus.exporters.size_guards import range_of, read_size_guards
from isthmus.exporters.source_lines import summarize

FIXED = "\n".join(
    [
        'Constraints violated (h, w)! For more information, run with TORCH_LOGS="+dynamic".',
        *(
            f"  - You marked {name} as dynamic but your code specialized it to be a constant "
            f"({size}). If you're using mark_dynamic, either remove it or use "
            "maybe_mark_dynamic. If you're using Dim.DYNAMIC, replace it with either Dim.STATIC "
            "or Dim.AUTO."
            for name, size in (("h", 16), ("w", 20))
        ),
    ]
)


def guard(*texts: str) -> str:
    """Returns torch's message about guards on n, which is called `size` in them."""
    source = "L['flat'][0].size()[1]"
    lines = [
        f"  - Not all values of n = {source} in the specified range n <= 32 satisfy the generated "
        f"guard {text.replace('size', source)}."
        for text in texts
    ]
    return "\n".join(["Constraints violated (n)!", *lines])


@pytest.mark.parametrize(
    ("texts", "served"),
    [
        (["6 <= size and size <= 32"], DimRange(6, 32)),
        (["((-1) + size) != 1"], DimRange(3, 32)),
        (["size != 7", "size >= 4"], DimRange(4, 32, (4, 5, 6, *range(8, 33)))),
        (["((3*size) % (2*3)) == 0"], DimRange(2, 32, tuple(range(2, 33, 2)))),
        (["not size == 32 or size < 3"], DimRange(2, 31)),
    ],
)
def test_the_sizes_that_satisfy_guards_are_known(texts: list[str], served: DimRange) -> None:
    """Each guard is tried on every size of the range."""
    guards = read_size_guards(guard(*texts), {"n": DimRange(2, 32)}, {"n": 8})
    assert guards.understood
    assert guards.served == {"n": served}


def test_guards_on_anything_else_are_not_understood() -> None:
    """A guard over another size, or with a function, is not guessed at."""
    for text in ("size == L['flat'][1].size()[0]", "Max(size, 3) == 3", "size.real == 1"):
        guards = read_size_guards(guard(text), {"n": DimRange(2, 32)}, {"n": 8})
        assert not guards.understood
        assert guards.unclear == ("n",)
        sentence = guards.sentence({"n": DimRange(2, 32)})
        assert sentence == 'torch.export does not serve every size of "n"'


def test_a_range_with_gaps_is_listed_while_it_is_short() -> None:
    """A long one is reduced to the run around the example."""
    long = [size for size in range(1, 4097) if size != 100]
    assert range_of([2, 4, 5], 4) == DimRange(2, 5, (2, 4, 5))
    assert range_of(long, 512) == DimRange(101, 4096)
    assert range_of(long, 7) == DimRange(1, 99)
    assert range_of(long, None) is None
    assert range_of([], 7) is None


def test_the_sentence_speaks_of_dims() -> None:
    """Nothing of torch's own advice is in it."""
    dims = {"h": DimRange(4, 32), "w": DimRange(4, 32)}
    guards = read_size_guards(FIXED, dims, {"h": 16, "w": 20})
    assert not guards.understood
    sentence = guards.sentence(dims)
    assert sentence == 'torch.export fixes "h" at 16, and fixes "w" at 20'
    assert "dims=" in advice_on(sentence)
    served = read_size_guards(guard("size >= 6"), {"n": DimRange(2, 32)}, {"n": 8})
    assert served.sentence({"n": DimRange(2, 32)}) == (
        'torch.export serves 6 to 32 of "n", for which dims gives 2 to 32'
    )
    tied = read_size_guards(
        "Constraints violated (m)!\n  - The values of m = L['y'].size()[0] and n = "
        "L['x'].size()[0] must always be equal.",
        {"m": DimRange(2, 32), "n": DimRange(2, 32)},
        {},
    )
    assert tied.sentence({}) == 'torch.export needs "m" and "n" to be equal'
    assert advice_on(tied.sentence({})) == "give both dimensions one name in dynamic="


def test_no_advice_of_torch_is_left_in_a_summary() -> None:
    """Users of isthmus call neither mark_dynamic nor draft_export."""
    for text in (
        FIXED,
        "Could not guard on u0. Consider using torch._check(u0 > 1), or draft_export().",
    ):
        summary, _ = summarize(RuntimeError(text))
        assert summary
        for word in ("mark_dynamic", "draft_export", "TORCH_LOGS", "Dim.", "torch._check"):
            assert word not in summary
    assert "specialized it to be a constant (16)" in summarize(RuntimeError(FIXED))[0]


def test_the_line_of_an_error_is_none_of_the_standard_library() -> None:
    """It is the user's line that called it."""
    try:
        json.loads("{")
    except ValueError as error:
        _, where = summarize(error)
    assert where.startswith("tests/test_size_guards.py:")
