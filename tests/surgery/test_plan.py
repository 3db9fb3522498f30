"""Several edits as one plan."""

import json

import keras
import numpy as np
import pytest

from tfprune import surgery
from tfprune.surgery import Plan, Split, by

layers = keras.layers


def network():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    y = layers.Conv2D(4, 3, padding="same", name="other")(x)
    x = layers.Add(name="total")([x, y])
    x = layers.BatchNormalization(name="norm")(x)
    side = layers.Conv2D(3, 1, name="side")(inputs)
    x = layers.Concatenate(name="joined")([x, side])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(5, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    draw = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(np.abs(draw.normal(size=weight.shape)) + 0.1)
    return model


def example():
    return np.random.default_rng(1).normal(size=(2, 6, 6, 2)).astype("float32")


def sizes(model):
    return {
        layer.name: layer.output.shape[-1]
        for layer in model.layers
        if not isinstance(layer, layers.InputLayer)
    }


def growing(plan):
    plan.insert("hidden", layers.Dense(5, activation="relu", name="deeper"))
    plan.resize({"total": by(+2), "deeper": 8, ("hidden", None): 6})
    plan.connect("conv", "joined")
    plan.resize_kernel("other", 5)


def test_edits_are_solved_together_and_made_at_once():
    model = network()
    with surgery.edit(model) as plan:
        growing(plan)
    assert plan.effects == ()
    np.testing.assert_allclose(plan.model(example()), model(example()), rtol=1e-4, atol=1e-5)
    found = sizes(plan.model)
    assert (found["conv"], found["other"], found["total"], found["norm"]) == (6, 6, 6, 6)
    assert (found["joined"], found["hidden"], found["deeper"]) == (6 + 3 + 6, 6, 8)
    assert plan.model.get_layer("other").kernel.shape == (5, 5, 6, 6)


def test_what_is_asked_for_counts_the_inputs_that_come_and_go():
    plan = surgery.edit(network())
    plan.connect("conv", "joined")
    plan.disconnect("side", "joined")
    plan.resize({"joined": 6})
    found = sizes(plan.model)
    assert (found["joined"], found["conv"]) == (6, 3)
    assert "side" not in found


def test_a_layer_is_removed_and_another_resized():
    plan = surgery.edit(network())
    plan.remove("hidden")
    plan.resize({"side": 2})
    assert sizes(plan.model)["joined"] == 6
    assert plan.model.get_layer("last").kernel.shape == (6, 2)


def test_printed_it_says_what_it_will_do_and_does_nothing():
    model = network()
    before = model.get_weights()
    plan = surgery.edit(model)
    growing(plan)
    plan.remove("norm")
    text = str(plan)
    for part in ("insert", "deeper (Dense)", "by(+2)", "connect", "conv -> joined", "to 5"):
        assert part in text
    row = next(line.split() for line in text.splitlines() if line.startswith("conv "))
    assert row == ["conv", "4", "6", "0", "2"]
    assert "'norm' is removed" in text
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_plan_is_written_and_read_with_the_units_it_chose():
    model = network()
    plan = surgery.edit(model, criterion=lambda weights: -np.arange(len(weights["kernel"])))
    plan.resize({"total": np.int64(3), "hidden": by(-1)})
    plan.insert("hidden", [layers.Dense(5, name="deeper")])
    plan.resize_kernel("other", (np.int32(1), 1))
    content = json.loads(json.dumps(plan.to_dict()))
    same = keras.models.clone_model(model)
    same.set_weights(model.get_weights())
    again = Plan.from_dict(same, content)
    assert str(again) == str(plan).replace(repr(model.name), repr(same.name))
    for ours, theirs in zip(plan.model.weights, again.model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kernel = np.array(model.get_layer("hidden").kernel)
    np.testing.assert_array_equal(again.model.get_layer("hidden").kernel[0], kernel[0, :4])


@pytest.mark.parametrize("split", [None, Split(noise=0.1, seed=1)])
def test_new_units_stand_where_they_stood_when_a_plan_is_read(split):
    model = network()
    plan = surgery.edit(model, split=split)
    plan.resize({"total": 6})
    again = Plan.from_dict(model, json.loads(json.dumps(plan.to_dict())))
    assert [str(s) for s in again.sizes] == [str(s) for s in plan.sizes]
    ours, theirs = (np.array(each.model.get_layer("norm").gamma) for each in (plan, again))
    np.testing.assert_array_equal(ours, theirs)
    if split:
        kernels = [np.array(each.model.get_layer("conv").kernel) for each in (plan, again)]
        np.testing.assert_array_equal(*kernels)


def test_a_plan_for_another_model_is_refused():
    plan = surgery.edit(network())
    plan.resize({"hidden": 3})
    content = plan.to_dict()
    other = surgery.resize(network(), {"hidden": 7})
    with pytest.raises(ValueError, match="'hidden' with 7 units, where there were 5"):
        Plan.from_dict(other, content).model  # noqa: B018
    with pytest.raises(ValueError, match="'hidden'"):
        Plan.from_dict(keras.Sequential([keras.Input((2,)), layers.Dense(2)]), content)
    with pytest.raises(ValueError, match="'Paint'"):
        Plan.from_dict(other, {**content, "edits": [{"edit": "Paint"}]})


def test_where_one_edit_fails_none_is_made():
    model = network()
    before, config = model.get_weights(), json.dumps(model.get_config())
    with pytest.raises(ValueError, match="'total' of size 4"), surgery.edit(model) as plan:
        plan.resize({"hidden": 3})
        plan.resize({"total": 0})
    with pytest.raises(ValueError, match="'total' of size 4"):
        plan.model  # noqa: B018
    with pytest.raises(ZeroDivisionError), surgery.edit(model) as plan:
        plan.resize({"hidden": 3})
        1 / 0  # noqa: B018
    assert plan._new is None
    assert json.dumps(model.get_config()) == config
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_after_it_was_carried_out_a_plan_is_closed():
    plan = surgery.edit(network())
    plan.resize({"hidden": 3})
    assert plan.model is plan.model
    with pytest.raises(RuntimeError, match="carried out"):
        plan.remove("norm")


def test_layers_are_put_behind_inserted_ones_and_these_are_edited():
    model = network()
    with surgery.edit(model) as plan:
        plan.insert("conv", layers.Conv2D(4, 3, padding="same", name="first"))
        plan.insert("first", [layers.Conv2D(4, 1, name="second"), layers.ReLU(name="third")])
        plan.insert("conv", layers.DepthwiseConv2D(3, padding="same", name="before"))
        plan.resize_kernel("first", 5)
        plan.resize({"first": by(+3)})
    order = [layer.name for layer in plan.model.layers]
    assert order[1:6] == ["conv", "before", "first", "second", "third"]
    assert plan.effects == ()
    np.testing.assert_allclose(plan.model(example()), model(example()), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'nowhere'"), surgery.edit(model) as plan:
        plan.insert("nowhere", layers.ReLU())


def test_without_edits_the_model_is_copied():
    model = network()
    new = surgery.edit(model).model
    assert new is not model
    np.testing.assert_array_equal(new(example()), model(example()))


def test_wrong_plans_are_refused():
    with pytest.raises(ValueError, match="time_limit"):
        surgery.edit(network(), time_limit=0)
    with pytest.raises(ValueError, match="no graph|not built"):
        surgery.edit(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="`layers` must be a Keras layer"):
        surgery.insert(network(), "conv", ["relu"])
    plan = surgery.edit(network(), criterion=lambda weights: weights["kernel"])
    plan.resize({"hidden": 3})
    with pytest.raises(ValueError, match="one score for each of the 5 units"):
        plan.sizes  # noqa: B018
    plan.shrink()
    with pytest.raises(ValueError, match="names no sizes"):
        plan.sizes  # noqa: B018


def test_large_problems_tell_what_is_solved(capsys):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(6000, name="wide")(inputs)))
    new = surgery.resize(model, {"wide": 100}, verbose=1)
    assert new.get_layer("wide").units == 100
    assert "6,000 units in 1 equivalence classes" in capsys.readouterr().out
    surgery.resize(model, {"wide": 100})
    assert capsys.readouterr().out == ""


class OwnWeight(keras.Model):
    """Has no graph of layers: it multiplies by a weight of its own."""

    def __init__(self):
        super().__init__(name="own_weight")
        self.dense = layers.Dense(4, name="inner")

    def build(self, shape):
        self.gain = self.add_weight(name="gain", initializer="ones")

    def call(self, inputs):
        return self.dense(inputs) * self.gain


def test_a_model_without_a_graph_is_refused_by_name():
    model = OwnWeight()
    model(np.zeros((2, 3), "float32"))
    with pytest.raises(ValueError, match="no graph that can be edited: .*OwnWeight.*'own_weight'"):
        surgery.resize(model, {"inner": 3})
