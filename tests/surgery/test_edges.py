"""Edges of concatenations whose result is added, multiplied, normalised or concatenated again."""

import json

import keras
import numpy as np
import pytest

from tests.surgery.edge_graphs import (
    FOLLOWS,
    A,
    B,
    C,
    added,
    assert_same,
    dense,
    graph,
    multiplied,
    width,
)
from tests.surgery.models import drawn, example
from tfprune import surgery
from tfprune.surgery import Plan, Split, by

layers = keras.layers

# Connect ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("follow", FOLLOWS)
@pytest.mark.parametrize(
    ("positions", "order"),
    [([None], "abc"), ([0], "cab"), ([1], "acb"), ([1, None], "acbc"), ([0, 0], "ccab")],
)
def test_a_concatenation_gets_inputs_and_what_follows_gets_their_channels(follow, positions, order):
    model = graph(follow)
    plan = surgery.edit(model)
    for position in positions:
        plan.connect("c", "joined", position=position)
    assert plan.effects == ()
    assert_same(plan.model, model)
    assert width(plan.model, "joined") == A + B + C * len(positions)
    given = plan.model.get_layer("joined").input
    assert "".join(tensor._keras_history[0].name for tensor in given) == order


def test_new_rows_and_columns_stand_where_the_new_input_does():
    model = graph(added)
    new = surgery.connect(model, "c", "joined", position=1)
    kernel, old = np.array(new.get_layer("r").kernel), np.array(model.get_layer("r").kernel)
    kept = [*range(A), *range(A + C, A + B + C)]
    np.testing.assert_array_equal(kernel[np.ix_(kept, kept)], old)
    np.testing.assert_array_equal(kernel[A : A + C][:, kept], 0)
    assert (kernel[kept, A : A + C] != 0).any()
    np.testing.assert_array_equal(new.get_layer("last").kernel[A : A + C], 0)


@pytest.mark.parametrize("split", [None, Split()])
def test_an_input_comes_and_sizes_grow_in_one_plan(split):
    model = graph(added)
    plan = surgery.edit(model, split=split)
    plan.connect("c", "joined")
    plan.resize({"a": by(+2), "c": by(+1), "sum": A + B + C + 4})
    assert plan.effects == ()
    new = plan.model
    assert (width(new, "a"), width(new, "c")) == (A + 2, C + 1)
    assert width(new, "b") == B + 1
    assert width(new, "joined") == width(new, "r") == A + B + C + 4
    assert_same(new, model)


def test_with_less_asked_for_the_best_units_of_all_inputs_stay():
    model = graph(added)

    def criterion(layer, weights):
        return {"a": 3.0, "b": 2.0, "c": 1.0}.get(layer.name, 0.0) * np.ones(
            len(next(iter(weights.values())))
        )

    plan = surgery.edit(model, criterion=criterion)
    plan.connect("c", "joined")
    plan.resize({"joined": A + B + 1})
    new = plan.model
    assert (width(new, "a"), width(new, "b"), width(new, "c")) == (A, B, 1)
    x = example(model)
    np.testing.assert_allclose(new(x)[0], model(x)[0], rtol=1e-4, atol=1e-4)
    plan = surgery.edit(model, criterion=criterion)
    plan.connect("c", "joined")
    plan.resize({"r": by(0)})
    assert width(plan.model, "joined") == A + B


# Disconnect ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gone", "kept"), [("a", slice(A, A + B)), ("b", slice(A))])
def test_of_a_sum_the_terms_of_an_input_go(gone, kept):
    model = graph(added)
    new, x = surgery.disconnect(model, gone, "joined"), example(model)
    other = {"a": "b", "b": "a"}[gone]
    assert width(new, "sum") == width(new, "r") == width(new, other)
    r, last = model.get_layer("r"), model.get_layer("last")
    given = dense(model, other, x)
    total = given + given @ np.array(r.kernel)[kept, kept] + np.array(r.bias)[kept]
    expected = total @ np.array(last.kernel)[kept] + np.array(last.bias)
    np.testing.assert_allclose(new(x)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("follow", FOLLOWS)
def test_what_came_goes_again_without_a_trace(follow):
    model = graph(follow)
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    for slot in model.optimizer.variables[2:]:
        slot.assign(np.random.default_rng(len(slot.path)).normal(size=slot.shape))
    new = surgery.connect(model, "c", "joined", position=1)
    back = surgery.disconnect(new, "c", "joined")
    pairs = [*zip(back.weights, model.weights, strict=True)]
    pairs += zip(back.optimizer.variables, model.optimizer.variables, strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_an_input_goes_and_what_is_left_grows_in_one_plan():
    plan = surgery.edit(graph(added))
    plan.disconnect("b", "joined")
    plan.resize({"sum": A + 2})
    new = plan.model
    assert width(new, "sum") == width(new, "a") == width(new, "r") == A + 2


def test_inputs_come_and_go_in_one_plan():
    model = graph(multiplied)
    plan = surgery.edit(model)
    plan.connect("c", "joined", position=0)
    plan.disconnect("b", "joined")
    new, x = plan.model, example(model)
    assert width(new, "product") == width(new, "r") == A + C
    r, last = model.get_layer("r"), model.get_layer("last")
    given = dense(model, "a", x)
    product = given * (given @ np.array(r.kernel)[:A, :A] + np.array(r.bias)[:A])
    expected = product @ np.array(last.kernel)[:A] + np.array(last.bias)
    np.testing.assert_allclose(new(x)[0], expected, rtol=1e-4, atol=1e-4)


def repeated():
    inputs = keras.Input((3,))
    v1, v2 = layers.Dense(5, name="v1")(inputs), layers.Dense(4, name="v2")(inputs)
    return drawn(keras.Model(inputs, layers.Dense(2, name="last")(_joined([v1, v2, v1]))))


def _joined(tensors):
    return layers.Concatenate(name="v3")(tensors)


@pytest.mark.parametrize(
    ("positions", "rows"),
    [
        ([None], range(9)),
        ([2], range(9)),
        ([0], range(5, 14)),
        ([None, None], range(5, 9)),
        ([0, 1], range(5, 9)),
    ],
)
def test_of_equal_inputs_the_last_goes_or_the_one_that_is_named(positions, rows):
    model = repeated()
    plan = surgery.edit(model)
    for position in positions:
        plan.disconnect("v1", "v3", position=position)
    kernel = np.array(model.get_layer("last").kernel)
    np.testing.assert_array_equal(plan.model.get_layer("last").kernel, kernel[list(rows)])


def test_of_a_sum_of_equal_terms_both_can_go():
    inputs = keras.Input((3,))
    v1, v2 = layers.Dense(4, name="v1")(inputs), layers.Dense(4, name="v2")(inputs)
    total = layers.Add(name="v3")([v1, v2, v1])
    model = drawn(keras.Model(inputs, layers.Dense(2, name="last")(total)))
    plan = surgery.edit(model)
    plan.disconnect("v1", "v3")
    plan.disconnect("v1", "v3")
    x = example(model)
    expected = dense(model, "last", dense(model, "v2", x))
    np.testing.assert_allclose(plan.model(x), expected, rtol=1e-4, atol=1e-4)
    assert "v1" not in [layer.name for layer in plan.model.layers]


def test_an_input_takes_the_place_of_the_first_or_of_all():
    for follow in FOLLOWS[:-1]:
        model = graph(follow)
        x = example(model)
        plan = surgery.edit(model)
        plan.connect("c", "joined", position=np.int64(0))
        plan.disconnect("a", "joined")
        new = plan.model
        assert width(new, "joined") == C + B
        without = surgery.disconnect(model, "a", "joined")
        for ours, theirs in zip(new(x), without(x), strict=True):  # what comes begins at 0
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        again = Plan.from_dict(model, json.loads(json.dumps(plan.to_dict()))).model
        np.testing.assert_array_equal(again(x)[0], new(x)[0])
    plan = surgery.edit(model)
    plan.connect("c", "joined")
    plan.disconnect("a", "joined")
    plan.disconnect("b", "joined")
    assert width(plan.model, "joined") == C


def overlapping():
    """The sum of v1 and v2, joined, and v2 and v4, joined: an input is common to both."""
    inputs = keras.Input((3,))
    sizes = {"v1": 4, "v2": 5, "v3": 2, "v4": 4}
    made = {name: layers.Dense(size, name=name)(inputs) for name, size in sizes.items()}
    joined = layers.Concatenate(name="joined")([made["v1"], made["v2"]])
    other = layers.Concatenate(name="other")([made["v2"], made["v4"]])
    total = layers.Add(name="sum")([joined, other])
    last = layers.Dense(2, name="last")(total)
    return drawn(keras.Model(inputs, [last, layers.Dense(1, name="of_v3")(made["v3"])]))


@pytest.mark.parametrize(
    ("edits", "left"),
    [
        ([("connect", "v3", 0)], ("v3", "v1", "v2")),
        ([("disconnect", "v2", None)], ("v1",)),
        ([("connect", "v3", 0), ("disconnect", "v1", None)], ("v3", "v2")),
    ],
)
def test_where_both_terms_of_a_sum_have_an_input_in_common_it_is_shared(edits, left):
    model = overlapping()
    plan = surgery.edit(model)
    for kind, name, position in edits:
        getattr(plan, kind)(name, "joined", position=position)
    assert "stand at other places" in " ".join(plan.effects)
    new, x = plan.model, example(model)
    ours = np.concatenate([dense(new, name, x) for name in left], 1)
    theirs = np.concatenate([dense(new, name, x) for name in ("v2", "v4")], 1)
    expected = dense(new, "last", ours + theirs)
    np.testing.assert_allclose(new(x)[0], expected, rtol=1e-4, atol=1e-4)


# Outputs that are held, nested models, files ------------------------------------------------------


def test_where_the_output_is_held_the_inputs_share_it():
    model = graph(added, is_output=True)
    plan = surgery.edit(model)
    plan.connect("c", "joined")
    assert "stand at other places" in " ".join(plan.effects)
    new, x = plan.model, example(model)
    assert width(new, "sum") == A + B == sum(width(new, name) for name in "abc")
    given = np.concatenate([dense(new, name, x) for name in "abc"], 1)
    np.testing.assert_allclose(new(x)[0], given + dense(new, "r", given), rtol=1e-4, atol=1e-4)
    alone = surgery.disconnect(model, "b", "joined")
    assert width(alone, "a") == width(alone, "sum") == A + B


def test_images_are_joined_along_their_channels():
    inputs = keras.Input((4, 4, 2))
    a, b = (layers.Conv2D(n, 3, name=k)(inputs) for k, n in (("a", 3), ("b", 2)))
    joined = layers.Concatenate(name="joined")([a, a])
    x = layers.Add()([joined, layers.Conv2D(6, 1, name="r")(joined)])
    x = layers.BatchNormalization()(x)
    model = drawn(keras.Model(inputs, [layers.Dense(2)(layers.Flatten()(x)), b]))
    plan = surgery.edit(model)
    plan.connect("b", "joined", position=1)
    assert plan.effects == ()
    assert_same(plan.model, model)


@pytest.mark.parametrize("ours", ["a", "b"])
def test_what_is_stacked_keeps_its_weights_where_its_channels_are_coupled_now(ours):
    inputs = keras.Input((4, 4, 2))
    a, b, c = (layers.Conv2D(3, 1, name=k)(inputs) for k in "abc")
    rows = layers.Flatten()(layers.Concatenate(axis=1, name="joined")([a, b]))
    used = layers.Conv2D(1, 1, name="of_c")(c)
    model = drawn(keras.Model(inputs, [layers.Dense(2, name="last")(rows), used]))
    plan = surgery.edit(model)
    plan.connect("c", "joined", position={"a": None, "b": 0}[ours])
    assert plan.effects == () and width(plan.model, "joined") == 3
    assert_same(plan.model, model)


def test_in_a_nested_model_too():
    inner_inputs = keras.Input((3,))
    a, b = (layers.Dense(n, name=k)(inner_inputs) for k, n in (("a", 3), ("b", 2)))
    joined = layers.Concatenate(name="joined")([a, b])
    total = layers.Add(name="sum")([joined, layers.Dense(5, name="r")(joined)])
    inner = keras.Model(inner_inputs, total, name="inner")
    inputs = keras.Input((3,))
    model = drawn(keras.Model(inputs, layers.Dense(2)(inner(inputs))))
    new, x = surgery.connect(model, "b", "joined", position=0), example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-4, atol=1e-4)
    assert new.get_layer("inner").get_layer("r").units == 7
    assert surgery.disconnect(model, "a", "joined").get_layer("inner").output.shape == (None, 2)


def test_a_plan_with_edges_is_written_and_read():
    model = graph(added)
    plan = surgery.edit(model)
    plan.connect("c", "joined", position=1)
    plan.connect("c", "joined")
    plan.disconnect("b", "joined")
    plan.resize({"a": by(-1)})
    again = Plan.from_dict(model, json.loads(json.dumps(plan.to_dict())))
    assert str(again) == str(plan)
    assert "at position 1" in str(plan)
    ours, theirs = again.model, plan.model
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    np.testing.assert_array_equal(ours.get_layer("last").kernel, theirs.get_layer("last").kernel)


def test_what_depends_on_new_channels_is_told():
    inputs = keras.Input((3,))
    a, b = (layers.Dense(n, name=k)(inputs) for k, n in (("a", 3), ("b", 2)))
    joined = layers.Concatenate(name="joined")([a, a])
    x = layers.LayerNormalization()(layers.Dense(6)(joined) + joined)
    model = drawn(keras.Model(inputs, [layers.Dense(2)(x), b]))
    plan = surgery.edit(model)
    plan.connect("b", "joined")
    assert any("statistics" in reason for reason in plan.effects)
    assert width(plan.model, "joined") == 8
