"""Edits of edges and layers that fit nowhere, and which units stay where others fit."""

import numpy as np
import pytest

from tests.surgery.graphs import (
    CYCLE,
    EQUAL,
    SIDE_BY_SIDE,
    SMALL_CYCLE,
    THREE,
    assert_equal,
    edited,
    example,
    graph,
    kept,
    outputs,
    summary,
    wiring,
)
from tfprune import surgery
from tfprune.surgery import by

IMPOSSIBLE = [
    ("a=4(in) b=4(in) s=add(a,b)", lambda p: (p.disconnect("a", "s"), p.disconnect("b", "s"))),
    ("a=4(in) b=4(in) s=add(a,b)", lambda p: (p.disconnect("a", "s"), p.disconnect("a", "s"))),
    ("a=4(in) b=4(in) s=add(a,b)", lambda p: p.disconnect("a", "s", position=1)),
    ("a=4(in) b=4(in) s=add(a,b)", lambda p: p.connect("a", "s", position=3)),
    (CYCLE, lambda p: p.remove("p1")),  # v4 would be wider than v3, of which it must be as wide
    (CYCLE, lambda p: p.connect("p1", "v5")),
    (SMALL_CYCLE, lambda p: p.remove("v2")),
    (
        "v1=3(in) v2=5(v1) v3=same(v2) e=same(v1) m=cat(v3) s=add(m,v2)",
        lambda p: p.connect("e", "m"),
    ),
    ("m=cat(in,in) v2=3(m) s=add(v2,in)", lambda p: p.remove("v2")),
    (
        SIDE_BY_SIDE + "m=cat(v1) v4=2(v2)",
        lambda p: (p.connect("v2", "m"), p.resize({"m": by(0), "v1": by(0)})),
    ),
    (EQUAL + " c=6(in)", lambda p: (p.connect("c", "s"), p.resize({"c": 6, "v1": 5}))),
    ("v1=5(in) v2=4(v1) v3=6(v2)", lambda p: (p.remove("v2"), p.resize({"v1": 1, "v2": 3}))),
]


@pytest.mark.parametrize(("line", "edit"), IMPOSSIBLE, ids=summary)
def test_an_edit_that_fits_nowhere_is_refused_and_changes_nothing(line, edit):
    model = graph(line)
    before, wired, x = model.get_weights(), wiring(model), example(model)
    computed = outputs(model, x)
    with pytest.raises(ValueError, match="Received"), surgery.edit(model) as plan:
        edit(plan)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert wiring(model) == wired
    assert_equal(outputs(model, x), computed)


# Which units stay ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "edit", "utility", "expected"),
    [
        (
            "a=4(in) b=4(in) c=5(in) s=add(a,b) d=2(c)",
            lambda p: (p.connect("c", "s"), p.resize({"s": by(0)})),
            {"c": [1, 2, 3, 4, 5]},
            {"a": [0, 1, 2, 3], "c": [1, 2, 3, 4]},
        ),
        (
            "a=3(in) c=5(in) s=add(in,a) d=2(c)",
            lambda p: p.connect("c", "s"),
            {"c": [1, 2, 4, 8, 16]},
            {"a": [0, 1, 2], "c": [2, 3, 4]},
        ),
        (
            THREE + "m=cat(v1,v2,v3)",
            lambda p: (p.disconnect("v2", "m"), p.resize({"m": 3})),
            {"v1": [1, 2, 3, 9], "v2": [9] * 5, "v3": [1, 1, 1, 1, 9, 9]},
            {"v1": [3], "v3": [4, 5]},
        ),
        (
            "v1=5(in) v2=4(v1) v3=3(v2)",
            lambda p: (p.remove("v2"), p.resize({"v1": 4})),
            {"v1": [2, 1, 3, 4, 5]},
            {"v1": [0, 2, 3, 4], "v3": [0, 1, 2]},
        ),
        (
            "v1=2(in) v2=relu(v1) v3=4(v2) v4=3(v3)",
            lambda p: (p.remove("v3"), p.resize({"v1": 4})),
            {},
            {"v1": [0, 1, -1, -1]},
        ),
        (
            "v1=3(in) v2=4(in) v3=5(v1) m=cat(v2,v3) s=9(in) t=add(m,s)",
            lambda p: (p.remove("v3"), p.resize({"t": by(0)})),
            {},
            {"v1": [0, 1, 2, -1, -1], "v2": [0, 1, 2, 3], "s": list(range(9))},
        ),
    ],
)
def test_units_of_the_highest_utility_stay_where_the_graph_changes(line, edit, utility, expected):
    _, _, new = edited(line, edit, utility)
    assert {name: kept(new, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("utility", "rows"), [([1, 2, 3, 4], [2, 3]), ([4, 1, 3, 2], [0, 2])], ids=str
)
def test_rows_of_a_removed_layer_stay_by_its_utility(utility, rows):
    line = "v1=2(in) v2=same(v1) v3=4(v2) v4=3(v3)"
    model, _, new = edited(line, lambda p: p.remove("v3"), {"v3": utility})
    old = np.array(model.get_layer("v4").kernel)
    np.testing.assert_array_equal(new.get_layer("v4").kernel, old[rows])
