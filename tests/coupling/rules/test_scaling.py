import keras
import numpy as np
import pytest

import tfprune

layers = keras.layers


def model_with(step):
    inputs = keras.Input((3,))
    x = layers.Dense(6, activation="sigmoid", name="first")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="last")(step(x)))
    draw = np.random.default_rng(0)
    for name in ("first", "last"):
        for weight in model.get_layer(name).weights:
            weight.assign(draw.normal(size=weight.shape))
    first, last = model.get_layer("first"), model.get_layer("last")
    kernel = np.array(first.kernel)
    kernel[:, [0, 3]] = 0  # constants, which are folded as the layer in between scales them
    first.kernel.assign(kernel)
    kernel = np.array(last.kernel)
    kernel[1] = 0
    last.kernel.assign(kernel)
    return model


def learned(**options):
    layer = layers.Normalization(**options)
    layer.adapt(np.random.default_rng(1).normal(3.0, 2.0, size=(40, 6)) * np.arange(1, 7))
    return layer


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Rescaling(0.5),
        lambda: layers.Rescaling(0.5, offset=-2.0),
        learned,
        lambda: learned(invert=True),
        lambda: learned(axis=None),
        lambda: layers.Rescaling([0.5, 1.0, 2.0, 3.0, 4.0, 5.0]),
        lambda: layers.Rescaling(2.0, offset=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        lambda: layers.Normalization(mean=1.0, variance=2.0),
    ],
)
def test_units_and_constants_go_through(make):
    model = model_with(make())
    small = tfprune.strip(model)
    assert small.get_layer("first").units == 3
    x = np.random.default_rng(2).normal(size=(5, 3))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-5)


def test_through_positions():
    inputs = keras.Input((5, 3))
    x = layers.Rescaling(2.0)(layers.Conv1D(4, 2, activation="relu", name="first")(inputs))
    scaled = layers.Normalization()
    scaled.adapt(np.random.default_rng(1).normal(size=(8, 4, 4)))
    x = layers.Flatten()(scaled(x))
    model = tfprune.prunable(keras.Model(inputs, layers.Dense(2)(x)))
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert small.get_layer("first").filters == 2
    x = np.random.default_rng(2).normal(size=(5, 5, 3))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-5)
