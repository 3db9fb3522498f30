"""Inputs and outputs of a model, which change size where they are named, and never by accident."""

import json

import keras
import numpy as np
import pytest

from tests.surgery.models import drawn, example
from tfprune import surgery
from tfprune.surgery import Plan, at_least, by, inputs_of

layers = keras.layers


def classifier(activation=None):
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    return drawn(keras.Model(inputs, layers.Dense(5, activation=activation, name="logits")(x)))


def sequential():
    kinds = [layers.Dense(4, name="hidden"), layers.Dense(5, name="logits")]
    return drawn(keras.Sequential([keras.Input((3,)), *kinds]))


def readme():
    """The graph of NaiveNASflux's README; its sum is the output."""
    inputs = keras.Input((7, 7, 3), name="in")
    conv = layers.Conv2D(5, 3, padding="same", name="conv")(inputs)
    norm = layers.BatchNormalization(name="norm")(conv)
    named = layers.Conv2D(7, 5, padding="same", name="namedconv")(inputs)
    joined = layers.Concatenate(name="conc")([named, norm])
    residual = layers.Conv2D(12, 3, padding="same", name="residualconv")(joined)
    return drawn(keras.Model(inputs, layers.Add(name="add")([joined, residual])))


@pytest.mark.parametrize("make", [classifier, sequential])
def test_an_output_that_is_named_gets_more_units_beside_those_it_has(make):
    model = make()
    plan = surgery.edit(model)
    plan.resize({"logits": 7})
    assert plan.effects == ("'logits', an end of the model, has 7 units in place of 5",)
    x = example(model)
    np.testing.assert_allclose(np.array(plan.model(x))[:, :5], model(x), rtol=1e-5, atol=1e-5)
    assert plan.model.output_shape == (None, 7)


def test_behind_a_softmax_too():
    model = classifier("softmax")
    new = surgery.resize(model, {"logits": 4}, criterion=lambda layer, weights: [1, 2, 0, 3, 4])
    x = example(model)
    old = np.array(model(x))[:, [0, 1, 3, 4]]
    np.testing.assert_allclose(new(x), old / old.sum(1, keepdims=True), rtol=1e-4)


def test_the_graph_of_a_readme_as_it_is_there():
    model = readme()
    width = {layer.name: layer.output.shape[-1] for layer in model.layers}
    assert width["add"] == width["residualconv"] == width["conv"] + width["namedconv"] == 12
    with surgery.edit(model) as plan:
        plan.resize({"add": by(-3)})
        plan.remove("norm")
        plan.insert("residualconv", layers.BatchNormalization(name="added"))
        plan.resize_kernel("namedconv", by(-2))
    new = plan.model
    width = {layer.name: layer.output.shape[-1] for layer in new.layers}
    assert width["add"] == width["residualconv"] == width["conv"] + width["namedconv"] == 9
    assert len(new.layers) == len(model.layers)
    assert tuple(new.get_layer("namedconv").kernel.shape[:3]) == (3, 3, 3)
    assert new(np.ones((2, 7, 7, 3), "float32")).shape == (2, 7, 7, 9)
    assert model(np.ones((2, 7, 7, 3), "float32")).shape == (2, 7, 7, 12)


@pytest.mark.parametrize("changes", [{"residualconv": by(-3)}, {"conv": by(+1)}])
def test_what_is_coupled_with_an_output_does_not_change_it(changes):
    with pytest.raises(ValueError, match="An output changes its size where the layer that gives"):
        surgery.resize(readme(), changes)


def test_one_of_two_outputs_changes():
    inputs = keras.Input((3,))
    a, b = layers.Dense(4, name="a")(inputs), layers.Dense(4, name="b")(inputs)
    model = drawn(keras.Model(inputs, [layers.Add(name="sum")([a, b]), a]))
    with pytest.raises(ValueError, match="an output of the model"):
        surgery.resize(model, {"sum": 6})
    new = surgery.resize(model, {"sum": 6, "a": at_least(1)})
    assert [shape[-1] for shape in new.output_shape] == [6, 6]


@pytest.mark.parametrize("make", [classifier, sequential])
def test_an_input_that_is_named_keeps_the_channels_of_the_largest_weights(make):
    model = make()
    first = next(layer for layer in model.layers if layer.weights)
    first.kernel.assign(np.array(first.kernel) * [[0.1], [3.0], [0.2]])
    new = surgery.resize(model, {inputs_of(model): 1})
    assert new.input_shape == (*model.input_shape[:-1], 1)
    x = example(model)
    only = x * np.array([0.0, 1.0, 0.0], "float32")
    np.testing.assert_allclose(new(x[..., 1:2]), model(only), rtol=1e-4, atol=1e-5)


def test_a_channel_is_added_to_an_input_without_effect():
    model = classifier()
    plan = surgery.edit(model)
    plan.resize({"image": by(+1)})
    assert plan.effects == ("'image', an end of the model, has 4 units in place of 3",)
    x = example(plan.model)
    np.testing.assert_allclose(plan.model(x), model(x[..., :3]), rtol=1e-5, atol=1e-5)
    again = Plan.from_dict(model, json.loads(json.dumps(plan.to_dict())))
    assert again.model.input_shape == (None, 6, 6, 4)


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_an_input_that_is_joined_with_another_gets_a_channel_without_effect(order):
    inputs = {"first": keras.Input((3,), name="first"), "second": keras.Input((4,), name="second")}
    made = {"second": inputs["second"], "first": layers.Dense(2, name="of_first")(inputs["first"])}
    made["first"] = layers.Concatenate()([made["first"], inputs["first"]])
    x = layers.Concatenate()([made[name] for name in order])
    model = drawn(keras.Model(inputs, layers.Dense(2, name="last")(x)))
    new = surgery.resize(model, {"second": 6})
    draw = np.random.default_rng(0)
    x = {"first": draw.normal(size=(5, 3)), "second": draw.normal(size=(5, 6))}
    old = {"first": x["first"], "second": x["second"][:, :4]}
    np.testing.assert_allclose(new(x), model(old), rtol=1e-4, atol=1e-5)


def test_what_takes_an_input_as_it_is_follows_or_holds_it():
    inputs = keras.Input((3,), name="x")
    hidden = layers.Dense(3, name="hidden")(inputs)
    model = drawn(keras.Model(inputs, layers.Dense(2)(layers.Add(name="sum")([inputs, hidden]))))
    with pytest.raises(ValueError, match="nearest that can: 'hidden': 3"):
        surgery.resize(model, {"hidden": 4})
    new = surgery.resize(model, {inputs_of(model): 4})
    assert new.get_layer("hidden").units == 4
    x = example(new)
    np.testing.assert_allclose(new(x), model(x[:, :3]), rtol=1e-4, atol=1e-5)


def test_inputs_of_a_model_with_several_are_named_by_index():
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    model = drawn(keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([a, b]))))
    assert surgery.resize(model, {inputs_of(model, 1): 2}).input_shape == [(None, 3), (None, 2)]
    for key in (inputs_of(model), inputs_of(model, 2)):
        with pytest.raises(ValueError, match="name one by its index"):
            surgery.resize(model, {key: 2})


@pytest.mark.slow
def test_a_resnet_takes_images_of_one_channel_and_tells_other_classes():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=10)
    new = surgery.resize(model, {inputs_of(model): 1, "predictions": 12})
    assert (new.input_shape, new.output_shape) == ((None, 32, 32, 1), (None, 12))
    assert new(np.ones((1, 32, 32, 1), "float32")).shape == (1, 12)
    assert new.count_params() == model.count_params() - 7 * 7 * 2 * 64 + 2 * 2049
