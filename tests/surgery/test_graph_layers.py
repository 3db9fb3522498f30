"""Layers that come and go: the graph before, what is done, and the graph then."""

import pytest
from keras import layers

from tests.surgery.graphs import (
    EQUAL,
    LONG_CYCLE,
    RESIDUAL,
    SIDE_BY_SIDE,
    SMALL_CYCLE,
    THREE,
    check,
    dense,
    summary,
)
from tfprune.surgery import at_least, by, multiple_of

# Layers that come ---------------------------------------------------------------------------------

ADDED = [
    ("v1=5(in) v2=4(v1)", lambda p: p.insert("v1", dense(5)), "v1=5(in) new=5(v1) v2=4(new)"),
    (
        "v1=5(in) v2=4(v1)",
        lambda p: p.insert("v1", [dense(3, "x"), dense(5, "y")], init="default"),
        "v1=5(in) x=3(v1) y=5(x) v2=4(y)",
    ),
    (
        "v1=5(in) v2=4(v1)",
        lambda p: (p.insert("v1", dense(5)), p.resize({"new": 7, "v1": by(-1)})),
        "v1=4(in) new=7(v1) v2=4(new)",
    ),
    (
        THREE + "v4=cat(v1,v2,v3) v5=2(v4)",
        lambda p: p.insert("v2", dense(5)),
        THREE + "new=5(v2) v4=cat(v1,new,v3) v5=2(v4)",
    ),
    (
        THREE + "v4=cat(v1,v2,v3)",
        lambda p: p.insert("in", dense(3)),
        "new=3(in) v1=4(new) v2=5(new) v3=6(new) v4=cat(v1,v2,v3)",
    ),
    (
        THREE + "v4=cat(v1,v2,v3)",
        lambda p: p.insert("in", dense(3), before=["v1", "v3"]),
        "new=3(in) v1=4(new) v2=5(in) v3=6(new) v4=cat(v1,v2,v3)",
    ),
    (
        THREE + "v4=cat(v1,v2,v3) v5=2(v4) v6=2(v4)",
        lambda p: p.insert("v4", dense(15), before="v6"),
        THREE + "v4=cat(v1,v2,v3) v5=2(v4) new=15(v4) v6=2(new)",
    ),
    (
        "v1=5(in) v2=5(v1) s=add(v1,v2) v3=2(s)",
        lambda p: p.insert("v1", dense(5), before="s"),
        "v1=5(in) v2=5(v1) new=5(v1) s=add(new,v2) v3=2(s)",
    ),
    (
        "v1=5(in) v2=5(v1) s=add(v1,v2) v3=2(s)",
        lambda p: (p.insert("s", dense(5)), p.insert("new", layers.ReLU(name="r"), init="default")),
        "v1=5(in) v2=5(v1) s=add(v1,v2) new=5(s) r=relu(new) v3=2(r)",
    ),
    (
        "v1=5(in) v2=cat(v1,v1) v3=2(v2)",
        lambda p: p.insert("v1", dense(5)),
        "v1=5(in) new=5(v1) v2=cat(new,new) v3=2(v2)",
    ),
]

# Layers that go -----------------------------------------------------------------------------------

GONE_LAYERS = [
    ("v1=5(in) v2=4(v1) v3=6(v2)", lambda p: p.remove("v2"), "v1=5(in) v3=6(v1)"),
    ("v1=3(in) v2=5(v1) v3=4(v2)", lambda p: p.remove("v2"), "v1=3(in) v3=4(v1)"),
    ("v1=5(in) v2=4(v1)", lambda p: p.remove("v1"), "v2=4(in)"),
    ("v1=5(in) v2=4(v1) v3=6(v2)", lambda p: (p.remove("v2"), p.remove("v1")), "v3=6(in)"),
    (
        "v1=5(in) v2=4(v1) v3=6(v2)",
        lambda p: (p.remove("v2"), p.resize({"v1": 4})),
        "v1=4(in) v3=6(v1)",
    ),
    (
        "v1=3(in) v2=5(v1) v3=6(v2)",
        lambda p: (p.remove("v2"), p.resize({"v1": at_least(5)})),
        "v1=5(in) v3=6(v1)",
    ),
    (
        "v1=10(in) v2=5(v1) v3=4(v2)",
        lambda p: (p.remove("v2"), p.resize({"v1": multiple_of(4)})),
        "v1=12(in) v3=4(v1)",
    ),
    (
        THREE + "v4=cat(v1,v2,v3) v5=7(v4)",
        lambda p: p.remove("v2"),
        "v1=4(in) v3=6(in) v4=cat(v1,in,v3) v5=7(v4)",
    ),
    (
        "in=7() " + THREE + "v4=cat(v1,v2,v3) v5=7(v4)",
        lambda p: p.remove("v2"),
        "in=7() v1=4(in) v3=6(in) v4=cat(v1,in,v3) v5=7(v4)",
    ),
    (EQUAL, lambda p: p.remove("v2"), "v1=3(in) v3=3(in) s=add(v1,in,v3) v5=4(s)"),
    (
        "in=7() " + EQUAL,
        lambda p: p.remove("v2"),
        "in=7() v1=7(in) v3=7(in) s=add(v1,in,v3) v5=4(s)",
    ),
    (
        SIDE_BY_SIDE + "v3=cat(v1,v2,v2,v1) v4=7(v3)",
        lambda p: p.remove("v1"),
        "v2=4(in) v3=cat(in,v2,v2,in) v4=7(v3)",
    ),
    (
        "v1=5(in) v2=5(in) v3=add(v1,v2,v2,v1) v4=7(v3)",
        lambda p: p.remove("v1"),
        "v2=3(in) v3=add(in,v2,v2,in) v4=7(v3)",
    ),
    (
        "v1=4(in) v2=5(v1) v3=6(v1) v4=7(v1) v5=8(v2)",
        lambda p: p.remove("v2"),
        "v1=4(in) v3=6(v1) v4=7(v1) v5=8(v1)",
    ),
    (
        "v1=4(in) v2=5(v1) v3=6(v1) v5=8(v2)",
        lambda p: (p.remove("v2"), p.resize({"v1": 5})),
        "v1=5(in) v3=6(v1) v5=8(v1)",
    ),
    ("v1=cat(in) v2=4(v1) v3=5(v2)", lambda p: p.remove("v2"), "v1=cat(in) v3=5(v1)"),
    (
        "v1=5(in) a=same(v1) b=same(v1) c=same(v1) m=cat(a,b,c) v2=16(m) v3=4(v2)",
        lambda p: p.remove("v2"),
        "v1=5(in) a=same(v1) b=same(v1) c=same(v1) m=cat(a,b,c) v3=4(m)",
    ),
    (
        RESIDUAL,
        lambda p: p.remove("v4", fit="grow"),
        "v1=10(in) v2=10(v1) v3=same(v2) v5=add(v3,v1) v6=4(v5)",
    ),
    (
        RESIDUAL,
        lambda p: p.remove("v4", fit="shrink"),
        "v1=3(in) v2=3(v1) v3=same(v2) v5=add(v3,v1) v6=4(v5)",
    ),
    (
        RESIDUAL,
        lambda p: (p.remove("v4", fit="grow"), p.remove("v3")),
        "v1=10(in) v2=10(v1) v5=add(v2,v1) v6=4(v5)",
    ),
    (
        RESIDUAL,
        lambda p: (p.remove("v4"), p.remove("v3"), p.remove("v2")),
        "v1=10(in) v5=add(v1,v1) v6=4(v5)",
    ),
    (RESIDUAL, lambda p: p.remove("v6"), RESIDUAL.replace("v6=4", "of_v6=2")),
    (
        "v1=5(in) a=same(v1) b=same(v1) v2=cat(a,b) v3=same(v2) v4=12(v3) v5=7(v4)",
        lambda p: p.remove("v4"),
        "v1=5(in) a=same(v1) b=same(v1) v2=cat(a,b) v3=same(v2) v5=7(v3)",
    ),
    (
        "v1=5(in) v2=3(v1) v3=same(v2) v4=3(v3) v5=same(v4) v6=add(v3,v5) v7=2(v6)",
        lambda p: p.remove("v5"),
        "v1=5(in) v2=3(v1) v3=same(v2) v4=3(v3) v6=add(v3,v4) v7=2(v6)",
    ),
    (
        "v1=3(in) v2=5(v1) a=same(v2) b=relu(v2) c=7(b) v3=cat(a,c) v5=4(v3)",
        lambda p: p.remove("v2"),
        "v1=3(in) a=same(v1) b=relu(v1) c=7(b) v3=cat(a,c) v5=4(v3)",
    ),
    (
        "v1=3(in) v2=5(v1) v3=same(v2) v4=5(v3) v5=same(v4) v6=add(v5,v2)",
        lambda p: p.remove("v4"),
        "v1=3(in) v2=5(v1) v3=same(v2) v5=same(v3) v6=add(v5,v2)",
    ),
    (
        LONG_CYCLE,
        lambda p: p.remove("p2", fit="grow"),
        "v1=3(in) v2=5(v1) v3=same(v2) p1=3(v3) p3=2(v3) v4=cat(p1,p3) v5=add(v4,v2)",
    ),
    (
        LONG_CYCLE,
        lambda p: p.remove("p1"),
        "v1=3(in) v2=5(v1) v3=same(v2) p2=3(v3) p3=2(v3) v4=cat(p2,p3) v5=add(v4,v2)",
    ),
    (
        SMALL_CYCLE,
        lambda p: p.remove("b", fit="grow"),
        "v1=8(in) v2=4(v1) a=same(v2) v4=cat(a,v2) v5=add(v4,v1)",
    ),
    (
        SMALL_CYCLE,
        lambda p: p.remove("b", fit="shrink"),
        "v1=4(in) v2=2(v1) a=same(v2) v4=cat(a,v2) v5=add(v4,v1)",
    ),
    (
        "v1=4(in) v2=5(v1) v3=6(v1) v5=8(v2)",
        lambda p: p.remove("v2", fit="grow"),
        "v1=5(in) v3=6(v1) v5=8(v1)",
    ),
    (
        "v1=5(in) v2=4(v1) v3=6(v2)",
        lambda p: p.remove("v2", fit="shrink"),
        "v1=4(in) v3=6(v1)",
    ),
]


@pytest.mark.parametrize(("before", "edit", "after"), ADDED + GONE_LAYERS, ids=summary)
def test_the_graph_after_layers_come_and_go(before, edit, after):
    check(before, edit, after)
