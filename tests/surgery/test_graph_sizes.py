"""Sizes through chains, sums, concatenations and what is made of them, by hand."""

import numpy as np
import pytest

from tests.surgery.graphs import (
    dense_layers,
    graph,
    kept,
    numbered,
    resized,
    scores,
    vertices,
    width,
)
from tfprune import surgery
from tfprune.surgery import at_least, by, inputs_of, multiple_of, to, total_of

CHAIN = "v1=5(in) v2=4(v1) v3=2(v1)"
JOINED = "v1=2(in) v2=3(in) v3=cat(v1,v2) v4=5(v3) v5=2(v3)"
ADDED = "v1=3(in) v2=3(in) v3=add(v1,v2) v4=5(v3) v5=4(v3)"
FORK = "start=9(in) a1=3(start) a=4(a1) b1=4(start) b=5(b1) m=cat(a,b) s=add(start,m) out=2(s)"
HALF_FORK = (
    "start=8(in) split=4(start) a=same(split) b1=3(split) b=4(b1) m=cat(a,b) s=add(start,m) "
    "out=3(s)"
)
SAME_FORK = "start=4(in) a=same(start) b=relu(start) m=cat(a,b) out=3(m)"
SAME_RESIDUAL = (
    "start=8(in) split=4(start) a=same(split) b=relu(split) m=cat(a,b) s=add(start,m) out=3(s)"
)
ONE_OWN_BRANCH = (
    "start=8(in) split=3(start) a=same(split) b=same(split) c=2(split) m=cat(a,b,c) "
    "s=add(start,m) out=3(s)"
)
TWO_JOINS = "v1=6(in) v2=8(in) v3=8(in) m1=cat(v1,v2) m2=cat(v3,v2,v1,v2)"
JOINS_OF_JOINS = (
    "v1=10(in) v2=10(in) v3=10(in) v4=10(in) m1=cat(v2,v3) m2=cat(m1,v1) m3=cat(m2,v4,v2) out=2(m3)"
)
SUMS_OF_JOINS = (
    "v1=7(in) v2=13(in) m1=cat(v1,v2) m2=cat(v1,v2) s1=add(m1,m2) s2=add(m1,m2) s3=add(s1,s2)"
)
SUMS_OF_SUMS = (
    "v1=10(in) v2=10(in) v3=10(in) v4=10(in) s1=add(v2,v3) s2=add(s1,v1) s3=add(s2,v4,v2) out=2(s3)"
)
JOIN_IN_SUM = "v1=2(in) v2=3(in) v3=cat(v1,v2,v1) v4=7(in) v5=add(v4,v3) v6=2(v5)"
SUM_IN_SUM = "v1=4(in) v2=4(in) v3=add(v1,v2) v4=4(in) v5=add(v4,v3) v6=2(v5)"
TWICE_THROUGH = "v1=2(in) v2=same(v1) v3=twice(v1) v4=cat(v2,v3) v5=same(v4) v6=cat(v5,v2)"
ZIGZAG = (
    "v1=2(in) v2=3(in) v3=cat(v1,v2) n1=5(in) o1=same(n1) c1=add(o1,v3) n2=5(in) o2=same(n2) "
    "c2=add(o2,o1) v6=3(o2)"
)
SMALL_ZIGZAG = (
    "v1=2(in) v2=2(in) v3=same(v1) v4=add(v3,v2) v5=3(v3) v6=cat(v4,v4) v7=add(v6,v6) v8=4(v7)"
)
DEEP_JOIN = (
    "v1=8(in) v2=4(in) v3=cat(v1,v2) a=same(v3) b=same(v3) c=same(v3) d=5(v3) aa=same(a) "
    "ab=same(a) a2=cat(aa,ab) v4=cat(a2,b,c,d)"
)
WITH_INPUT = "v1=5(in) v2=cat(in,v1)"
JOIN_TWICE = "v1=7(in) v2=4(in) v3=cat(v2,v1) v4=cat(v3,v2)"
SUM_OF_TWO_JOINS = "v1=7(in) v2=4(in) v3=3(in) v4=cat(v1,v2) v5=cat(v2,v3,v2) v6=add(v4,v5)"
CROSSED = "v1=10(in) v2=5(in) v3=10(in) v4=5(in) v5=cat(v1,v2,v3) v6=cat(v2,v1,v2,v4) v7=add(v5,v6)"
SHIFTED = "v1=3(in) v2=4(in) v3=4(in) v4=5(in) v5=cat(v1,v2,v4) v6=cat(v3,v4,v1) v7=add(v5,v6)"
THREE_TIMES = "v1=4(in) a=same(v1) b=same(v1) c=same(v1) v3=cat(a,b,c)"
SHORTCUT = "v1=4(in) v2=4(v1) v3=add(v1,v2)"
REMOTE = (
    "v0=10(in) v1=cat(v0,v0) v2=10(in) v3=add(v2,v0) v4a=3(in) v4b=5(in) v5=cat(v4a,v3,v4b) "
    "v6=4(in) v7=14(in) v8=cat(v6,v7) v9=add(v8,v5) v10=5(v9)"
)
OPERATORS = "a=4(in) b=4(in) c=4(in) d=4(in) s=sub(a,b) p=mul(s,c) m=max(p,a) e=mean(m,d)"
INPUTS_JOINED = "in=2() in2=5() m=cat(in,in2) v=3(m)"
INPUTS_ADDED = "in=3() in2=3() v1=add(in,in2) v2=cat(in,in2) v3=cat(v1,v1) v4=add(v2,v3) v=2(v4)"
README = "in=6() start=6(in) split=2(start) m=cat(x2,x3,x5) out=add(start,m)".replace(
    "m=", "x2=twice(split) x3=relu(split) x5=same(split) m="
)

# A graph, then one change after the other: the sizes that it gives, or why it is refused.
CASES = [
    (CHAIN, {"v1": by(-2)}, "v1=3", {inputs_of("v2"): by(+4)}, "v1=7 v2=4 v3=2"),
    (CHAIN, {"v1": by(+3), "v2": by(+2)}, "v1=8 v2=6", {inputs_of("v3"): 2}, "v1=2 v2=6"),
    (CHAIN, {"v1": 0}, "never below 1", {"v1": by(-9)}, "never below 1"),
    (CHAIN, {"v1": by(0)}, "v1=5 v2=4 v3=2"),
    (CHAIN, {"v1": [by(+2), multiple_of(3)]}, "nearest"),
    ("v1=2(in) v2=cat(v1) v3=2(v2)", {"v1": by(+3)}, "v2=5", {"v2": by(-1)}, "v1=4"),
    ("v1=2(in) v2=relu(v1) v3=2(v2)", {"v1": by(+3)}, "v2=5", {inputs_of("v3"): 3}, "v1=3"),
    (JOINED, {"v2": by(-2)}, "v1=2 v2=1 v3=3", {inputs_of("v4"): by(+3)}, "v3=6"),
    (JOINED, {"v3": 2}, "v1=1 v2=1", {"v1": by(+3)}, "v1=4 v2=1 v3=5"),
    (JOINED, {"v3": 1}, "'v3': 2", {inputs_of("v3", 1): by(+2)}, "v1=2 v2=5 v3=7"),
    (JOINED, {inputs_of("v3", 0): by(-1)}, "v1=1 v2=3", {inputs_of("v5"): by(-2)}, "v1=1 v2=1"),
    (ADDED, {"v2": by(-2)}, "v1=1 v2=1", {inputs_of("v4"): by(+3)}, "v1=4 v2=4 v3=4"),
    (ADDED, {inputs_of("v3"): by(+2)}, "v1=5 v2=5", {"v1": by(-3)}, "v1=2 v2=2 v4=5"),
    (FORK, {"b": by(-2)}, "a=4 b=3 start=7 s=7", {inputs_of("out"): by(+2)}, "m=9 start=9"),
    (FORK, {"s": by(-3), "a": by(0)}, "a=4 b=2 start=6", {"start": by(+1), "a": 5}, "b=2 m=7"),
    (HALF_FORK, {"split": by(-1)}, "split=3 b=4 start=7", {inputs_of("out"): by(+1)}, "s=8"),
    (SAME_FORK, {"start": by(-1)}, "m=6", {inputs_of("out"): by(+2)}, "start=4 m=8"),
    (SAME_FORK, {"m": by(+1)}, "'m': 10", {"m": by(-3)}, "nearest", {"a": 5}, "b=5 m=10"),
    (SAME_RESIDUAL, {"split": by(-1)}, "start=6 m=6", {inputs_of("out"): by(+2)}, "split=4"),
    (SAME_RESIDUAL, {"start": by(-2)}, "split=3 start=6 s=6", {"split": 5}, "start=10"),
    (ONE_OWN_BRANCH, {"split": by(-1)}, "c=2 start=6", {inputs_of("out"): 8}, "split=3 c=2"),
    (ONE_OWN_BRANCH, {"start": by(-2)}, "split=2 c=2", {"c": by(+3)}, "split=2 c=5 s=9"),
    (
        TWO_JOINS,
        {"m1": by(-3), "v1": multiple_of(3), "v2": multiple_of(2)},
        "v1=3 v2=8 v3=8 m2=27",
        {"m2": by(-6), "v1": multiple_of(3), "v2": multiple_of(2), "v3": multiple_of(2)},
        "v1=3 v2=6 v3=6 m1=9",
        {"m2": by(+9), "v1": multiple_of(3), "v2": multiple_of(2), "v3": multiple_of(2)},
        "v1=6 v2=8 v3=8 m1=14 m2=30",
    ),
    (
        JOINS_OF_JOINS,
        {"m3": by(-6)},
        "v1=10 v2=7 v3=10 v4=10 m1=17 m2=27 m3=44",
        {"v1": by(+3)},
        "v1=13 m1=17 m2=30 m3=47",
        {"v2": by(-2)},
        "v2=5 m1=15 m2=28 m3=43",
    ),
    (JOINS_OF_JOINS, {"v2": by(-3), "m2": by(0), "v1": 10}, "v2=7 v3=13 m1=20 m3=47"),
    ("v1=10(in) s1=relu(v1) s2=add(s1,v1)", {"s2": by(-2)}, "v1=8 s1=8"),
    (SUMS_OF_JOINS, {"s3": by(-4)}, "m1=16 m2=16 s1=16", {"v2": by(-2)}, "s3=14"),
    (SUMS_OF_JOINS, {"m1": by(+2), "v1": by(-1)}, "v1=6 v2=16 m2=22"),
    (
        SUMS_OF_SUMS,
        {"s3": by(-3)},
        "v1=7 v2=7 v3=7 v4=7 s1=7",
        {"v1": by(+6)},
        "v1=13 v2=13 v3=13 v4=13 s2=13",
        {"v2": by(-3)},
        "v1=10 v2=10 v3=10 v4=10",
    ),
    (JOIN_IN_SUM, {"v5": by(+4)}, "v1=4 v2=3 v4=11", {"v5": by(+5)}, "v1=6 v2=4 v3=16"),
    (SUM_IN_SUM, {"v5": by(+3)}, "v1=7 v2=7 v4=7", {"v2": by(-4)}, "v1=3 v4=3 v5=3"),
    (TWICE_THROUGH, {"v6": by(+6)}, "v1=4 v4=8 v6=12", {"v6": by(-3)}, "v1=3 v5=6"),
    (TWICE_THROUGH, {"v6": by(+4)}, "'v6': 9", {"v4": by(+2)}, "v1=3 v6=9"),
    (ZIGZAG, {"v2": by(+7)}, "v2=10 v3=12 n1=12 n2=12", {"n2": by(-9)}, "v3=3 n1=3"),
    (SMALL_ZIGZAG, {"v6": by(+6)}, "v1=5 v2=5 v6=10 v7=10", {"v8": 1, "v2": 1}, "v1=1 v6=2 v5=3"),
    (SMALL_ZIGZAG, {"v6": by(+3)}, "nearest that can: 'v6': [68]"),
    (DEEP_JOIN, {"v4": by(+8)}, "v3=14 d=5 a2=28 v4=61", {"v4": by(-8), "d": 5}, "v3=12 v4=53"),
    (WITH_INPUT, {"v1": by(-3)}, "v1=2 v2=5", {"v2": 3}, "'v2': 4", {"v2": 4}, "v1=1"),
    (JOIN_TWICE, {"v4": by(-4)}, "v1=7 v2=2 v3=9", {"v4": by(+6)}, "v1=7 v2=5 v4=17"),
    (
        JOIN_TWICE,
        {"v4": by(+2), inputs_of("v4", 1): by(+1)},
        "v1=7 v2=5 v3=12 v4=17",
        {inputs_of("v4", 0): by(-2, relaxed=True), inputs_of("v4", 1): by(+3)},
        "v1=2 v2=8 v3=10",
        {inputs_of("v4", 0): by(+4)},
        "v3=14",
    ),
    (SUM_OF_TWO_JOINS, {"v6": by(-4)}, "v1=5 v2=2 v3=3", {"v6": by(+6)}, "v4=13 v5=13"),
    (SUM_OF_TWO_JOINS, {"v3": by(+2)}, "v1=9 v2=4 v6=13", {inputs_of("v6", 0): by(-3)}, "v5=10"),
    (CROSSED, {"v7": by(-7)}, "v5=18 v6=18", {"v7": by(+4)}, "v5=22 v6=22"),
    (SHIFTED, {"v7": by(+6)}, "v5=18 v6=18", {"v7": by(+1)}, "v5=19 v6=19"),
    (THREE_TIMES, {"v3": by(+2)}, "'v3': 15", {"v3": 3}, "v1=1"),
    (SHORTCUT, {"v1": by(-1), "v2": by(0)}, "nearest", {"v1": 3, "v2": 3}, "v3=3"),
    (SHORTCUT, {inputs_of("v3", 0): by(-1), inputs_of("v3", 1): by(0)}, "nearest"),
    (SHORTCUT, {"v1": by(-1, relaxed=True), "v2": by(0)}, "v1=4 v2=4 v3=4"),
    (REMOTE, {"v2": by(+5)}, "v0=15 v1=30 v2=15 v4a=3 v4b=5 v5=23 v8=23"),
    (REMOTE, {"v2": by(-3)}, "v0=7 v1=14 v4a=3 v4b=5 v5=15 v8=15"),
    ("v1=4(in) v2=5(v1) v3=3(v2) v4=5(v2)", {"v1": by(+2)}, "v1=6 v2=5 v3=3 v4=5"),
    (OPERATORS, {"e": by(+2)}, "a=6 b=6 c=6 d=6", {"s": by(-5)}, "a=1 d=1 m=1"),
    (INPUTS_JOINED, {"v": by(+2)}, "v=5 m=7", {"m": 8}, "'m': 7"),
    (INPUTS_ADDED, {"v": by(-1)}, "v=1 v4=6", {"v4": by(+1)}, "'v4': 6"),
    ("v1=same(in) v2=3(in) v3=add(v2,v1)", {"v3": by(+1)}, "'v3': 3", {"v2": 2}, "'v2': 3"),
    (README, {"out": by(+2, relaxed=True)}, "start=9 split=3 m=9", {"out": by(-2)}, "nearest"),
    (README, {"split": by(-2, relaxed=True), "out": by(+3)}, "split=3 start=9"),
    (
        README,
        {inputs_of("m", 0): by(+3), inputs_of("m", 1): by(+2, relaxed=True)},
        "x2=5 x3=5 x5=5 start=15",
    ),
    (
        "v1=8(in) v2=6(in) v3=cat(v1,v2) v4=2(v3)",
        {"v3": [multiple_of(5), multiple_of(7)], "v1": multiple_of(2), "v2": multiple_of(3)},
        "v3=35",
        {"v3": multiple_of(4), total_of({"v1": 1, "v2": -2}): at_least(0), "v2": to(8)},
        "v2=8",
    ),
]


def named(case):
    line, *steps = case
    changes = "; ".join(", ".join(f"{k}: {v}" for k, v in each.items()) for each in steps[::2])
    return f"{line.split(' ')[0]}-{len(vertices(line))}-{changes}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_sizes_follow_each_other(case):
    line, *steps = case
    model = graph(line)
    for changes, expected in zip(steps[::2], steps[1::2], strict=True):
        if "=" in expected:
            model = numbered(resized(line, model, changes))
            sizes = dict(each.split("=") for each in expected.split())
            assert {n: width(model, n) for n in sizes} == {n: int(s) for n, s in sizes.items()}
        else:
            with pytest.raises(ValueError, match=expected):
                resized(line, model, changes)


# Which units stay ---------------------------------------------------------------------------------

UP, DOWN = (lambda n: np.arange(1, n + 1)), (lambda n: np.arange(n, 0, -1))

KEPT = [
    ("v1=5(in) v2=4(v1)", {"v1": by(-2)}, {"v1": UP(5)}, {"v1": [2, 3, 4]}),
    ("v1=5(in) v2=4(v1)", {inputs_of("v2"): by(-2)}, {"v1": DOWN(5)}, {"v1": [0, 1, 2]}),
    ("v1=5(in) v2=4(v1)", {"v1": by(+3)}, {"v1": UP(5)}, {"v1": [0, 1, 2, 3, 4, -1, -1, -1]}),
    (
        "v1=3(in) v2=3(in) m=cat(v1,v2,v1)",  # a unit of v1 counts twice
        {"m": by(-2)},
        {"v1": [5, 1, 5], "v2": [1, 2, 3]},
        {"v1": [0, 2], "v2": [0, 1, 2]},
    ),
    (
        "v1=3(in) v2=3(in) m=cat(v1,v2,v1)",
        {"m": by(-2)},
        {"v1": [50, 51, 52], "v2": [2, 1, 3]},
        {"v1": [0, 1, 2], "v2": [2]},
    ),
    (WITH_INPUT, {"v1": by(-3)}, {"v1": UP(5)}, {"v1": [3, 4]}),
    (
        "v1=3(in) v2=3(in) s=add(v1,v2)",  # the sum of both counts
        {"s": 2},
        {"v1": [3, 1, 4], "v2": [3, 9, 3]},
        {"v1": [1, 2], "v2": [1, 2]},
    ),
    (
        "v1=3(in) v2=10(in) m=cat(v1,v2) v4=4(m)",
        {"m": by(-2), "v1": by(+2)},
        {"v2": UP(10)},
        {"v1": [0, 1, 2, -1, -1], "v2": [4, 5, 6, 7, 8, 9]},
    ),
    (
        SUM_OF_TWO_JOINS,  # v2 stands beside the first units of v1 and beside itself
        {"v6": by(-4)},
        {"v1": [9, 1, 9, 1, 9, 9, 9], "v2": [9, 1, 9, 1]},
        {"v1": [0, 2, 4, 5, 6], "v2": [0, 2], "v3": [0, 1, 2]},
    ),
    (
        REMOTE,  # v6 is worth much, so what goes stands beside v7
        {"v2": by(-1)},
        {"v6": [50] * 4, "v7": [1, 0.5] + [1] * 12},
        {"v6": [0, 1, 2, 3], "v2": [0, 1, *range(3, 10)], "v0": [0, 1, *range(3, 10)]},
    ),
    (README, {"out": by(-3)}, {"split": UP(2)}, {"start": [1, 3, 5], "split": [1]}),
    (README, {"out": by(-3)}, {"split": DOWN(2)}, {"start": [0, 2, 4]}),
    (
        "v1=4(in) v2=3(in) m=cat(v1,v2) v3=7(in) s=add(v3,m) v4=2(m)",
        {"v2": by(-1), "m": by(0)},
        {"v2": [10, 1, 10]},
        {"v1": [0, 1, 2, 3, -1], "v2": [0, 2], "v3": [0, 1, 2, 3, -1, 4, 6]},
    ),
    (CHAIN, {"v1": by(-1), "v2": by(-1)}, {"v1": DOWN(5), "v2": UP(4)}, {"v2": [1, 2, 3]}),
]


@pytest.mark.parametrize(("line", "changes", "utility", "expected"), KEPT)
def test_units_of_the_highest_utility_stay(line, changes, utility, expected):
    new = resized(line, graph(line), changes, utility)
    assert {name: kept(new, name) for name in expected} == expected


def test_columns_and_rows_stand_where_their_units_do():
    """The example of NaiveNASlib's tutorial about weights."""
    line = "in=3() in2=4() v1=4(in) v2=3(in2) m=cat(v1,v2) v3=7(in) s=add(v3,m) v4=2(m)"
    model = graph(line)
    new = resized(line, model, {"v2": by(-1), "m": by(0)}, {"v2": [10, 1, 10]})
    kernels = {layer.name: np.array(layer.kernel) for layer in dense_layers(model)}
    ours = {layer.name: np.array(layer.kernel) for layer in dense_layers(new)}
    np.testing.assert_array_equal(ours["v1"][:, :4], kernels["v1"])
    np.testing.assert_array_equal(ours["v2"], kernels["v2"][:, [0, 2]])
    np.testing.assert_array_equal(
        ours["v3"][:, [0, 1, 2, 3, 5, 6]], kernels["v3"][:, [0, 1, 2, 3, 4, 6]]
    )
    np.testing.assert_array_equal(ours["v4"][[0, 1, 2, 3, 5, 6]], kernels["v4"][[0, 1, 2, 3, 4, 6]])
    np.testing.assert_array_equal(ours["v4"][4], 0)
    assert ours["v1"][:, 4].any()
    assert ours["v3"][:, 4].any()


@pytest.mark.parametrize(
    ("line", "utility", "expected"),
    [
        ("v1=4(in) v2=5(v1)", {"v1": [-1] * 4, "v2": [-1] * 5}, {"v1": 1, "v2": 1}),
        ("v1=6(in) v2=8(v1)", {"v1": [1, -1] * 3, "v2": [1, -1] * 4}, {"v1": 3, "v2": 4}),
        ("v1=6(in) v2=8(v1)", {}, {"v1": 6, "v2": 8}),
        (README, {"split": [-3, 1], "start": [-1, -1]}, {"split": 1, "start": 3, "out": 3}),
        ("v1=3(in) v2=2(in) m=cat(v1,v2,v1)", {"v1": [-1, 1, -1]}, {"v1": 1, "v2": 2, "m": 4}),
    ],
)
def test_units_of_negative_utility_go(line, utility, expected):
    model = graph(line)
    utility = {**{f"of_{name}": [1, 1] for name in utility}, **utility}
    new = surgery.shrink(model, scores(utility))
    assert {name: width(new, name) for name in expected} == expected


@pytest.mark.parametrize(
    "changes",
    [
        lambda model: {"v1": by(+3), "v2": 6},
        lambda model: {model.get_layer("v1"): 8, model.get_layer("v2"): by(+2, relaxed=True)},
        lambda model: {"v1": to(8, relaxed=True), "v2": [at_least(6)]},
        lambda model: {inputs_of("v2"): by(+3), inputs_of("of_v2"): by(+2)},
        lambda model: {inputs_of(model.get_layer("v2"), 0): 8, "v2": to(6)},
    ],
)
def test_sizes_can_be_asked_for_in_many_ways(changes):
    line = "v0=3(in) v1=5(v0) v2=4(v1)"
    model = graph(line)
    new = resized(line, model, changes(model))
    assert [width(new, name) for name in ("v0", "v1", "v2")] == [3, 8, 6]


def test_what_takes_too_long_is_refused():
    model = graph("v0=600(in) w=500(in) u=400(in) v1=cat(v0,w,v0,u) v2=cat(v1,v0,w) s=max(v2,v2)")
    before = model.get_weights()
    with pytest.raises(RuntimeError, match="not solved in time.*time_limit=1e-09"):
        surgery.resize(model, {"v1": by(-331), "w": multiple_of(7)}, time_limit=1e-9)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
