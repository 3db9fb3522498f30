"""Joins: units that meet are coupled, units side by side are not."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import randomised, stripped, zero
from tests.coupling.rules.operating import pins
from tfprune import layers
from tfprune.coupling import couple

ops = keras.ops


def joined(join, shape=(6, 3), sizes=(8, 8)):
    """Two dense layers, "d" and "e", joined before a third."""
    inputs = keras.Input(shape)
    x, y = (
        layers.Dense(units, activation="tanh", name=name)(inputs)
        for units, name in zip(sizes, ("d", "e"), strict=True)
    )
    return randomised(keras.Model(inputs, layers.Dense(2, name="out")(join(x, y))))


def sizes(small):
    return [small.get_layer(name).units for name in ("d", "e")]


ELEMENTWISE = {
    "Add": lambda x, y: layers.Add()([x, y]),
    "Subtract": lambda x, y: layers.Subtract()([x, y]),
    "Multiply": lambda x, y: layers.Multiply()([x, y]),
    "Average": lambda x, y: layers.Average()([x, y]),
    "Maximum": lambda x, y: layers.Maximum()([x, y]),
    "Minimum": lambda x, y: layers.Minimum()([x, y]),
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / (2 + y),
    "maximum": ops.maximum,
    "arctan2": lambda x, y: ops.arctan2(x, 2 + y),
    "where": lambda x, y: ops.where(x > y, x, y),
    "stack": lambda x, y: ops.stack([x, y], axis=1),
    "of steps": lambda x, y: layers.Concatenate(axis=1)([x, y]),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_units_that_meet_go_together(name):
    model = joined(ELEMENTWISE[name])
    assert {"d", "e"} in [{layer.name for layer in s.layers} for s in couple(model).sets]
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0), only=["d"])
    assert sizes(stripped(model)) == [4, 4]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_units_that_are_constants_in_both(name):
    model = joined(ELEMENTWISE[name])
    for layer in ("d", "e"):
        zero(model.get_layer(layer).kernel, 1, [1, 4])
    differs = {"where", "stack", "of steps"}  # the constant is another in each of the two
    assert sizes(stripped(model)) == ([8, 8] if name in differs else [6, 6])


@pytest.mark.parametrize("name", ["+", "*", "Add", "Multiply", "maximum"])
def test_a_constant_in_one_of_them(name):
    model = joined(ELEMENTWISE[name])
    zero(model.get_layer("d").kernel, 1, [1, 4])
    assert sizes(stripped(model)) == [8, 8]
    zero(model.get_layer("d").bias, 0, [1, 4])
    assert sizes(stripped(model)) == ([6, 6] if name in ("*", "Multiply") else [8, 8])


@pytest.mark.parametrize(
    "join",
    [
        lambda x, y: layers.Concatenate()([x, y]),
        lambda x, y: ops.concatenate([y, x], axis=-1),
        lambda x, y: ops.concatenate([x, y, x], axis=2),
    ],
)
def test_units_side_by_side_go_alone(join):
    model = joined(join, sizes=(8, 6))
    zero(model.get_layer("d").kernel, 1, [0, 7])
    zero(model.get_layer("e").kernel, 1, [3])
    assert sizes(stripped(model)) == [6, 5]


def test_side_by_side_with_the_input_its_channels_stay():
    inputs = keras.Input((6, 3))
    x = layers.Dense(8, name="d")(inputs)
    model = randomised(
        keras.Model(inputs, layers.Dense(2, name="out")(layers.Concatenate()([inputs, x, inputs])))
    )
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    small = stripped(model)
    assert small.get_layer("out").kernel.shape == (10, 2)


def test_added_to_the_input_nothing_goes():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(2)(inputs + layers.Dense(8, name="d")(inputs)))
    (reason,) = pins(model)
    assert "joins it with fixed channels" in reason


def test_a_gate_for_each_channel_broadcasts_over_space():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(8, 3, name="d")(inputs)
    gate = ops.mean(x, axis=(1, 2), keepdims=True)
    gate = ops.sigmoid(layers.Dense(8)(layers.Dense(3, activation="relu")(gate)))
    y = layers.GlobalAveragePooling2D()(x * gate)
    model = randomised(keras.Model(inputs, layers.Dense(2)(y)))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    assert stripped(model).get_layer("d").filters == 4


def test_units_on_different_axes_that_spread_over_each_other_stay():
    model = joined(lambda x, y: layers.Permute((2, 1))(x)[..., :1] + y[:, :1], sizes=(8, 8))
    assert all("spreads it over other units" in reason for reason in pins(model))


def test_a_term_that_is_zero_goes_with_its_branch():
    model = joined(ELEMENTWISE["Add"])
    for weight in model.get_layer("e").weights:
        weight.assign(np.zeros(weight.shape))
    assert "e" not in [layer.name for layer in stripped(model).layers]
