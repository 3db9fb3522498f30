"""Edges that cannot be: what is refused, and the reason."""

import keras
import pytest

from tests.surgery.edge_graphs import (
    added,
    graph,
    normalised,
    width,
)
from tests.surgery.models import drawn
from tfprune import surgery

layers = keras.layers


def test_a_new_input_with_nothing_to_stand_opposite_is_refused():
    inputs = keras.Input((3,))
    a, b, c = (layers.Dense(n, name=k)(inputs) for k, n in (("a", 4), ("b", 5), ("c", 2)))
    terms = [layers.Concatenate(name=k)(each) for k, each in (("j", [a, b]), ("k", [b, a]))]
    last = layers.Dense(2)(layers.Add()(terms))
    model = drawn(keras.Model(inputs, [last, layers.Dense(1)(c)]))
    with pytest.raises(ValueError, match="no sizes at which this fits.*'j'.*have equal sizes"):
        surgery.connect(model, "c", "j")


def test_the_nearest_size_counts_what_a_new_input_brings():
    model = graph(normalised)
    plan = surgery.edit(model)
    plan.connect("c", "joined")
    plan.resize({surgery.inputs_of("last"): 1})
    with pytest.raises(ValueError, match="nearest that can: the inputs of 'last': 3"):
        plan.sizes  # noqa: B018


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("connect", "c", "joined", 3)], "`position` must be from 0 to 2"),
        ([("connect", "c", "joined", -1)], "`position` must be an integer of at least 0"),
        ([("connect", "c", "joined", "last")], "`position` must be an integer"),
        ([("connect", "c", "joined", 1.0)], "`position` must be an integer"),
        ([("connect", "c", "joined", True)], "`position` must be an integer"),
        ([("disconnect", "a", "joined", "first")], "`position` must be an integer"),
        ([("disconnect", "a", "joined", 1)], "one of several inputs"),
        ([("disconnect", "a", "joined"), ("disconnect", "a", "joined")], "one of several inputs"),
        ([("disconnect", "a", "joined"), ("disconnect", "b", "joined")], "all are disconnected"),
        ([("connect", "sum", "joined")], "must not depend"),
    ],
)
def test_edges_that_cannot_be_are_refused(edits, message):
    model = graph(added)
    with pytest.raises(ValueError, match=message), surgery.edit(model) as plan:
        for kind, source, target, *position in edits:
            getattr(plan, kind)(source, target, position=(*position, None)[0])


def test_a_layer_that_goes_to_a_sum_from_the_concatenation_that_it_fed_takes_two_plans():
    inputs = keras.Input((3,))
    a, b, c = (layers.Dense(4, name=name)(inputs) for name in ("only", "b", "c"))
    joined = layers.Concatenate(name="joined")([a, b, c])
    total = layers.Add(name="total")([b, c])
    model = drawn(keras.Model(inputs, [layers.Dense(2)(joined), layers.Dense(2)(total)]))
    plan = surgery.edit(model)
    plan.disconnect("only", "joined")
    plan.connect("only", "total")
    with pytest.raises(ValueError, match="connect only -> total, where 'only' has lost all"):
        plan.model  # noqa: B018
    both = surgery.disconnect(surgery.connect(model, "only", "total"), "only", "joined")
    assert len(both.get_layer("total").input) == 3
    assert width(both, "joined") == 8
