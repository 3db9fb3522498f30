"""Edges that come and go: the graph before, what is done, and the graph then.

What edges that go gave is 0.
"""

import keras
import numpy as np
import pytest
from keras import layers

from tests.surgery.graphs import (
    EQUAL,
    SIDE_BY_SIDE,
    THREE,
    assert_equal,
    by_hand,
    check,
    dense_layers,
    edited,
    example,
    expected_wiring,
    graph,
    kept,
    outputs,
    summary,
    wiring,
)
from tfprune import surgery
from tfprune.surgery import by, inputs_of, multiple_of

GONE = [
    (
        SIDE_BY_SIDE + "v3=cat(v1,v2) v4=3(v3) v5=2(v2)",
        "v3 1",
        SIDE_BY_SIDE + "v3=cat(v1) v4=3(v3) v5=2(v2)",
    ),
    (SIDE_BY_SIDE + "v3=cat(v1,v2) v4=3(v3)", "v3 0", "v2=4(in) v3=cat(v2) v4=3(v3)"),
    (SIDE_BY_SIDE + "v3=cat(v1,v2,v1) v4=3(v3)", "v3 0", SIDE_BY_SIDE + "v3=cat(v2,v1) v4=3(v3)"),
    (SIDE_BY_SIDE + "v3=cat(v1,v2,v1) v4=3(v3)", "v3 2", SIDE_BY_SIDE + "v3=cat(v1,v2) v4=3(v3)"),
    (SIDE_BY_SIDE + "v3=cat(v1,v2,v1) v4=3(v3)", "v3 0 2", "v2=4(in) v3=cat(v2) v4=3(v3)"),
    (SIDE_BY_SIDE + "v3=cat(in,v1,v2) v4=3(v3)", "v3 1", "v2=4(in) v3=cat(in,v2) v4=3(v3)"),
    (
        SIDE_BY_SIDE + "v3=cat(in,v1) v4=3(v3) v5=2(v2)",
        "v3 1",
        "v2=4(in) v3=cat(in) v4=3(v3) v5=2(v2)",
    ),
    (SIDE_BY_SIDE + "v3=cat(in,v1,v2,v1)", "v3 1", SIDE_BY_SIDE + "v3=cat(in,v2,v1)"),
    (SIDE_BY_SIDE + "v3=cat(in,v1,v2,v1)", "v3 3", SIDE_BY_SIDE + "v3=cat(in,v1,v2)"),
    (THREE + "v4=cat(v1,v2,v3) v5=3(v4)", "v4 1", "v1=4(in) v3=6(in) v4=cat(v1,v3) v5=3(v4)"),
    (THREE + "v4=cat(v1,v2,v3) v5=3(v4)", "v4 0 1", "v3=6(in) v4=cat(v3) v5=3(v4)"),
    (THREE + "v4=cat(v1,v2) v5=cat(v4,v3)", "v4 1", "v1=4(in) v3=6(in) v4=cat(v1) v5=cat(v4,v3)"),
    (THREE + "v4=cat(v1,v2) v5=cat(v4,v3,v4)", "v5 2", THREE + "v4=cat(v1,v2) v5=cat(v4,v3)"),
    (
        THREE + "v4=cat(v1,v2) v5=3(v4) v6=cat(v5,v3)",
        "v4 0",
        THREE[9:] + "v4=cat(v2) v5=3(v4) v6=cat(v5,v3)",
    ),
    (EQUAL, "s 2", "v1=5(in) v2=5(in) s=add(v1,v2) v5=4(s)"),
    (EQUAL, "s 0 1", "v3=5(in) v5=4(v3)"),
    ("v1=8(in) v2=8(in) v3=add(v1,v2) v5=2(v2)", "v3 1", "v1=8(in) v2=8(in) v5=2(v2) of_v3=2(v1)"),
    ("v1=4(in) v2=4(in) v3=add(v1,v2,v1)", "v3 0", "v1=4(in) v2=4(in) v3=add(v2,v1)"),
    ("v1=4(in) v2=4(in) v3=add(v1,v2,v1)", "v3 2", "v1=4(in) v2=4(in) v3=add(v1,v2)"),
    ("v1=3(in) v2=3(v1) v3=add(v2,in,v1)", "v3 1", "v1=3(in) v2=3(v1) v3=add(v2,v1)"),
]


@pytest.mark.parametrize(("before", "edges", "after"), GONE)
def test_edges_go(before, edges, after):
    target, *positions = edges.split()
    positions = [int(each) for each in positions]
    of_target = wiring(graph(before))[target][1]

    def edit(plan):
        for gone, position in enumerate(positions):
            source = of_target[position]
            plan.disconnect(source, target, position=position - gone)

    model, plan, new = edited(before, edit)
    assert wiring(new) == expected_wiring(after)
    x = example(new)
    units = {layer.name: kept(new, layer.name) for layer in dense_layers(new)}
    without = [(target, position) for position in positions]
    assert_equal(outputs(new, x), by_hand(before, model, x, units, without))
    assert plan.effects


# Edges that come, with what else is asked for -----------------------------------------------------

EDGES = [
    (
        SIDE_BY_SIDE + "m=cat(v1) v5=2(v2)",
        lambda p: p.connect("v2", "m"),
        SIDE_BY_SIDE + "m=cat(v1,v2) v5=2(v2)",
    ),
    (
        SIDE_BY_SIDE + "m=cat(v1) v5=2(v2)",
        lambda p: (p.connect("v2", "m"), p.resize({"v2": by(+2)})),
        "v1=5(in) v2=6(in) m=cat(v1,v2) v5=2(v2)",
    ),
    (
        SIDE_BY_SIDE + "m=cat(v1,v1,v2) v5=2(v2)",
        lambda p: p.connect("v1", "m"),
        SIDE_BY_SIDE + "m=cat(v1,v1,v2,v1) v5=2(v2)",
    ),
    (
        SIDE_BY_SIDE + "m=cat(v1,v1) v5=2(v2)",
        lambda p: p.connect("v2", "m", position=1),
        SIDE_BY_SIDE + "m=cat(v1,v2,v1) v5=2(v2)",
    ),
    ("v1=5(in) m=cat(v1)", lambda p: p.connect("in", "m"), "v1=5(in) m=cat(v1,in)"),
    (
        SIDE_BY_SIDE + "h=5(in) m=cat(v1) v4=3(m) n=cat(v4,h) v6=2(v2)",
        lambda p: p.connect("v2", "m"),
        SIDE_BY_SIDE + "h=5(in) m=cat(v1,v2) v4=3(m) n=cat(v4,h) v6=2(v2)",
    ),
    (
        SIDE_BY_SIDE + "s=add(v1,v1) v5=2(v2)",
        lambda p: p.connect("v2", "s", fit="grow"),
        "v1=5(in) v2=5(in) s=add(v1,v1,v2) v5=2(v2)",
    ),
    (
        SIDE_BY_SIDE + "s=add(v1,v1) v5=2(v2)",
        lambda p: p.connect("v2", "s", fit="shrink"),
        "v1=4(in) v2=4(in) s=add(v1,v1,v2) v5=2(v2)",
    ),
    (
        SIDE_BY_SIDE + "s=add(v1,v1) v5=2(v2)",
        lambda p: p.connect("v1", "s", position=0),
        SIDE_BY_SIDE + "s=add(v1,v1,v1) v5=2(v2)",
    ),
    (
        SIDE_BY_SIDE + "s=add(v1,v1) v5=2(v2)",
        lambda p: (p.connect("v2", "s"), p.resize({"v2": by(0)})),
        "v1=4(in) v2=4(in) s=add(v1,v1,v2) v5=2(v2)",
    ),
    ("v1=5(in) s=add(v1,v1)", lambda p: p.connect("in", "s"), "v1=3(in) s=add(v1,v1,in)"),
    (
        "a=5(in) b=5(in) c=3(in) s=add(a,b) d=2(c)",
        lambda p: p.connect("c", "s", position=1, fit="grow"),
        "a=5(in) b=5(in) c=5(in) s=add(a,c,b) d=2(c)",
    ),
    (
        "a=4(in) b=4(in) c=5(in) s=add(a,b) d=2(c)",
        lambda p: (p.connect("c", "s"), p.resize({"s": 5})),
        "a=5(in) b=5(in) c=5(in) s=add(a,b,c) d=2(c)",
    ),
    (
        "v1=8(in) v2=6(in) m=cat(v1) v5=2(v2)",
        lambda p: (p.connect("v2", "m"), p.resize({"m": multiple_of(5), "v2": by(0)})),
        "v1=9(in) v2=6(in) m=cat(v1,v2) v5=2(v2)",
    ),
    (
        "v1=8(in) v2=6(in) m=cat(v1) v5=2(v2)",
        lambda p: (p.connect("v2", "m"), p.resize({"m": 8, "v2": by(0)})),
        "v1=2(in) v2=6(in) m=cat(v1,v2) v5=2(v2)",
    ),
    (
        SIDE_BY_SIDE + "m=cat(v1,v2) v4=3(m) v5=2(v2)",
        lambda p: (p.disconnect("v2", "m"), p.resize({"v1": by(+2)})),
        "v1=7(in) v2=4(in) m=cat(v1) v4=3(m) v5=2(v2)",
    ),
    (
        SIDE_BY_SIDE + "m=cat(v1,v2) v4=3(m) v5=2(v2)",
        lambda p: (p.disconnect("v2", "m"), p.resize({inputs_of("v4"): multiple_of(4)})),
        "v1=8(in) v2=4(in) m=cat(v1) v4=3(m) v5=2(v2)",
    ),
    (
        THREE + "m=cat(v1,v2) v5=2(v3)",
        lambda p: (p.disconnect("v1", "m"), p.connect("v3", "m", position=0)),
        "v2=5(in) v3=6(in) m=cat(v3,v2) v5=2(v3)",
    ),
    (
        EQUAL + " c=6(in) d=2(c)",
        lambda p: (p.disconnect("v2", "s"), p.connect("c", "s", fit="grow")),
        "v1=6(in) v3=6(in) c=6(in) s=add(v1,v3,c) v5=4(s) d=2(c)",
    ),
]

MOVED = "a=4(in) b=4(in) c=6(in) "
EDGES += [
    (
        MOVED + "m=cat(a,b) n=cat(b,c)",
        lambda p: (p.disconnect("a", "m"), p.connect("a", "n")),
        MOVED + "m=cat(b) n=cat(b,c,a)",
    ),
    (
        MOVED + "m=cat(a,b) s=add(b,b) d=2(c)",
        lambda p: (p.connect("a", "s"), p.connect("c", "m", position=0)),
        MOVED + "m=cat(c,a,b) s=add(b,b,a) d=2(c)",
    ),
    (
        MOVED + "s=add(a,b) t=add(b,b) d=2(c)",
        lambda p: (p.disconnect("a", "s"), p.connect("a", "t", position=1)),
        MOVED + "of_s=2(b) t=add(b,a,b) d=2(c)",
    ),
    (
        MOVED + "m=cat(a,b) d=2(c)",
        lambda p: (p.disconnect("a", "m"), p.disconnect("b", "m"), p.connect("c", "m")),
        "c=6(in) m=cat(c) d=2(c)",
    ),
    (
        MOVED + "m=cat(a,b) d=2(c)",
        lambda p: (p.connect("c", "m"), p.disconnect("a", "m"), p.disconnect("b", "m")),
        "c=6(in) m=cat(c) d=2(c)",
    ),
    (
        "a=4(in) b=4(in) c=4(in) s=sub(a,b) d=2(c)",
        lambda p: (p.disconnect("a", "s"), p.connect("c", "s", position=0)),
        "b=4(in) c=4(in) s=sub(c,b) d=2(c)",
    ),
]


@pytest.mark.parametrize(("before", "edit", "after"), EDGES, ids=summary)
def test_the_graph_after_edges_come_and_go(before, edit, after):
    check(before, edit, after)


# Positions are those among the inputs that are there when an edge comes or goes.
IN_ORDER = {
    "-a +d@0": "dbc",
    "-a +d@2": "bcd",
    "-b +d@1": "adc",
    "+d@0 -a": "dbc",
    "+d@0 -b@2": "dac",
    "+d@1 +d@1": "addbc",
    "+d@3 +a@0": "aabcd",
    "+d -d": "abc",
    "+a@0 -a@1": "abc",
    "-a +a": "bca",
    "-a@0 -b@0 +d": "cd",
    "-a -b -c +d +a": "da",
}


@pytest.mark.parametrize("kind", ["add", "max", "cat"])
@pytest.mark.parametrize("edges", IN_ORDER)
def test_edges_come_and_go_in_order(kind, edges):
    ends = "a=4(in) b=4(in) c=4(in) d=4(in) e=2(d) f=2(a) g=2(b) h=2(c) "
    before = ends + f"s={kind}(a,b,c) out=2(s)"
    after = ends + f"s={kind}({','.join(IN_ORDER[edges])}) out=2(s)"
    stay = [0, 1, 2]  # the old positions of the inputs

    def edit(plan):
        for edge in edges.split():
            source, position = (*edge[1:].split("@"), None)[:2]
            position = None if position is None else int(position)
            of_now = ["abc"[old] if old in (0, 1, 2) else old for old in stay]
            if edge[0] == "+":
                plan.connect(source, "s", position=position)
                stay.insert(len(stay) if position is None else position, source)
            else:
                plan.disconnect(source, "s", position=position)
                last = max(n for n, name in enumerate(of_now) if name == source)
                del stay[last if position is None else position]

    model, _, new = edited(before, edit)
    assert wiring(new) == expected_wiring(after)
    x = example(new)
    if kind == "cat":
        without = [("s", place) for place in {0, 1, 2} - set(stay)]
        expected = by_hand(before, model, x, without=without)
    else:
        expected = by_hand(after, model, x)
    assert_equal(outputs(new, x), expected)


def test_columns_of_a_joined_input_move_with_it():
    line = SIDE_BY_SIDE + "m=cat(v1,v1,v2) v4=3(m)"
    model, _, new = check(
        line,
        lambda p: p.connect("in", "m", position=1),
        line.replace("cat(v1,v1,v2)", "cat(v1,in,v1,v2)"),
    )
    old, kernel = np.array(model.get_layer("v4").kernel), np.array(new.get_layer("v4").kernel)
    np.testing.assert_array_equal(kernel[[*range(5), *range(8, 17)]], old)
    np.testing.assert_array_equal(kernel[5:8], 0)


@pytest.mark.parametrize("axis", [0, 1])
def test_along_an_axis_without_units_edges_come_and_go(axis):
    inputs = keras.Input((None, 3))
    a, b, c = (layers.Dense(4, name=name)(inputs) for name in "abc")
    joined = layers.Concatenate(axis, name="m")([a, b])
    model = keras.Model(inputs, [layers.Dense(2, name="last")(joined), layers.Dense(2)(c)])
    plan, x = surgery.edit(model), np.random.default_rng(0).normal(size=(2, 5, 3))
    plan.disconnect("a", "m")
    plan.connect("c", "m", position=0)
    assert plan.effects == ("'m' loses an input", "'m' gets another input")
    given = np.concatenate([np.array(model.get_layer(name)(x)) for name in "cb"], axis)
    np.testing.assert_allclose(plan.model(x)[0], model.get_layer("last")(given), rtol=1e-5)
    alone = surgery.disconnect(model, "a", "m")
    assert wiring(alone)["m"] == (None, ["b"])
    given = model.get_layer("b")(x)
    np.testing.assert_allclose(alone(x)[0], model.get_layer("last")(given), rtol=1e-5)
