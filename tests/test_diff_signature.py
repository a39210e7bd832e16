"""Which changes of a signature break a caller."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diff_bundles import ROWS, SCORES, bundle_of, leaf, method, severities, value
from isthmus.bundle.manifest import DimRange, Manifest, Method, ServedCase, Tree, ValueRange
from isthmus.bundle_diff.findings import Findings, Severity
from isthmus.bundle_diff.signature import compare_signatures


def signature_changes(before: Manifest, after: Manifest) -> dict[str, Severity]:
    findings = Findings()
    compare_signatures(before, after, findings)
    return severities(findings)


X, Y = ROWS
TUPLE = Tree("tuple", items=(leaf("scores"),))
CHANGES: list[tuple[str, Method, Method, dict[str, Severity]]] = [
    ("nothing", method(), method(), {}),
    ("input removed", method(), method((X,)), {"input y": "breaking"}),
    ("input added", method((X,)), method((X, value("z", 2))), {"input z": "breaking"}),
    (
        "optional input added",
        method((X,)),
        method((X, value("z", 2, optional=True))),
        {"input z": "changed"},
    ),
    (
        "optional input added in front",
        method((X,)),
        method((value("z", 2, optional=True), X)),
        {"input z": "changed", "arguments of the Python call": "breaking"},
    ),
    (
        "fewer values",
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 9)),)),
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 8)),)),
        {"values of input ids": "breaking"},
    ),
    (
        "more values",
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 9)),)),
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 10)),)),
        {"values of input ids": "changed"},
    ),
    (
        "values are known",
        method((value("ids", 2, dtype="int64"),)),
        method((value("ids", 2, dtype="int64", values=ValueRange(0, 9)),)),
        {"values of input ids": "changed"},
    ),
    ("reordered", method(), method((Y, X)), {"arguments of the Python call": "breaking"}),
    (
        "now required",
        method(),
        method((X, replace(Y, optional=False))),
        {"presence of input y": "breaking"},
    ),
    (
        "now optional",
        method(),
        method((replace(X, optional=True), Y)),
        {"presence of input x": "changed"},
    ),
    (
        "rank",
        method(),
        method((replace(X, shape=("batch",)), Y)),
        {"rank of input x": "breaking"},
    ),
    ("any rank", method(), method((replace(X, shape=None), Y)), {"rank of input x": "changed"}),
    (
        "another fixed size",
        method(),
        method((replace(X, shape=("batch", 4)), Y)),
        {"size of x[1]": "breaking"},
    ),
    (
        "no longer fixed",
        method(),
        method((replace(X, shape=("batch", "other")), Y)),
        {"size of x[1]": "changed"},
    ),
    (
        "now fixed",
        method(),
        method((replace(X, shape=(3, 3)), Y)),
        {"size of x[0]": "breaking"},
    ),
    (
        "need not be equal",
        method(),
        method((X, replace(Y, shape=("other", 3)))),
        {
            "name of the dimension of y[0]": "changed",
            "sizes of x[0], y[0]": "changed",
        },
    ),
    (
        "have to be equal",
        method((X, replace(Y, shape=("other", 3)))),
        method(),
        {
            "name of the dimension of y[0]": "changed",
            "sizes of x[0], y[0]": "breaking",
        },
    ),
    (
        "output removed",
        method(outputs=(*SCORES, value("best", "batch"))),
        method(),
        {"output best": "breaking"},
    ),
    (
        "output added",
        method(),
        method(outputs=(*SCORES, value("best", "batch"))),
        {"output best": "changed"},
    ),
    (
        "output added to a tuple",
        method(returns=TUPLE),
        method(
            outputs=(*SCORES, value("best", "batch")),
            returns=Tree("tuple", items=(leaf("scores"), leaf("best"))),
        ),
        {"output best": "changed", "nesting of the result": "breaking"},
    ),
    ("nesting", method(), method(returns=TUPLE), {"nesting of the result": "breaking"}),
    (
        "output's type",
        method(),
        method(outputs=(replace(SCORES[0], dtype="float16"),)),
        {"type of output scores": "breaking"},
    ),
    (
        "output's size",
        method(),
        method(outputs=(value("scores", "batch", 9),)),
        {"size of output scores[1]": "breaking"},
    ),
    (
        "output may be None",
        method(),
        method(outputs=(replace(SCORES[0], optional=True),)),
        {"presence of output scores": "breaking"},
    ),
]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [change[1:] for change in CHANGES],
    ids=[change[0] for change in CHANGES],
)
def test_what_breaks_a_caller(before: Method, after: Method, expected: dict[str, Severity]) -> None:
    assert signature_changes(bundle_of(before), bundle_of(after)) == expected


def test_ranges_and_methods_and_state() -> None:
    narrow = bundle_of(method(), dims={"batch": DimRange(2, 9)})
    assert signature_changes(bundle_of(method()), narrow) == {
        "range of dimension batch, which is x[0], y[0]": "breaking"
    }
    reset = replace(method(), name="reset")
    assert signature_changes(bundle_of(method(), reset), bundle_of(method())) == {
        "method": "breaking"
    }
    assert signature_changes(bundle_of(method()), bundle_of(method(), reset)) == {
        "method": "changed"
    }
    stateful = replace(bundle_of(method()), stateful=True)
    assert signature_changes(bundle_of(method()), stateful) == {"state": "breaking"}


AT_16_KHZ = ServedCase({"n": 512}, {"rate": 16000.0})
AT_8_KHZ = ServedCase({"n": 256}, {"rate": 8000.0})


@pytest.mark.parametrize(
    ("before", "after", "severity"),
    [
        ((AT_16_KHZ, AT_8_KHZ), (AT_8_KHZ, AT_16_KHZ), None),
        ((AT_16_KHZ,), (AT_16_KHZ, AT_8_KHZ), "changed"),
        ((AT_16_KHZ, AT_8_KHZ), (AT_16_KHZ,), "breaking"),
        ((AT_16_KHZ,), (ServedCase({"n": 512}),), "changed"),
        ((ServedCase({"n": 512}),), (AT_16_KHZ,), "breaking"),
        ((AT_16_KHZ,), (), "changed"),
        ((), (AT_16_KHZ,), "breaking"),
    ],
)
def test_combinations_that_are_no_longer_served_break_callers(
    before: tuple[ServedCase, ...], after: tuple[ServedCase, ...], severity: Severity | None
) -> None:
    """Others are compatible, and their order does not count."""
    sides = [bundle_of(replace(method(), served=served)) for served in (before, after)]
    assert signature_changes(*sides) == (
        {} if severity is None else {"sizes and numbers together": severity}
    )
