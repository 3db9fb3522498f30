"""A dense layer, an operation on its units, and a dense layer: what is left of the units."""

import keras
import numpy as np

import tfprune
from tests.coupling.rules.comparing import randomised, stripped, zero
from tfprune import layers
from tfprune.coupling import couple

UNITS = 8


def around(function, shape=(6, 3), units=UNITS, activation="sigmoid"):
    """A model with `function` between two dense layers, the first of which is called "d"."""
    inputs = keras.Input(shape)
    x = layers.Dense(units, activation=activation, name="d")(inputs)
    outputs = [layers.Dense(2)(y) for y in keras.tree.flatten(function(x))]
    return randomised(keras.Model(inputs, outputs))


def left(small):
    """How many units of "d" there are."""
    return small.get_layer("d").units


def with_masks(model, target=0.5, seed=0):
    """How many units are left when half of them are masked, the outputs compared."""
    tfprune.prune_units(model, target, tfprune.criteria.Random(seed=seed), only=["d"])
    return left(stripped(model))


def with_constants(model, indices=(1, 2), equal=False):
    """How many units are left when some hold a constant that is not 0, the outputs compared.

    With `equal` it is the same in all of them.
    """
    zero(model.get_layer("d").kernel, 1, list(indices))
    if equal:
        zero(model.get_layer("d").bias, 0, list(indices))
    return left(stripped(model))


def beside(function):
    """A function with its argument as a further output, so that no unit is without a use."""
    return lambda x: [function(x), x]


def ignored_by_all(model, indices=(1, 2)):
    """How many units are left when every consumer multiplies some by 0."""
    for layer in model.layers:
        if isinstance(layer, layers.Dense) and layer.name != "d":
            zero(layer.kernel, 0, list(indices))
    return left(stripped(model))


def pins(model):
    """The reasons why units of "d" cannot go."""
    (unit_set,) = [s for s in couple(model).sets if "d" in [layer.name for layer in s.layers]]
    return {reason for reason in unit_set.pinned if reason is not None}


def drawn(*shape, seed=3):
    """An array that changes along all of its axes, without zeros."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype("float32")
