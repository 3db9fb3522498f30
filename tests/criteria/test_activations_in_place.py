"""What units hold inside layers that were traced for one size, against NumPy by hand."""

import keras
import numpy as np
import pytest

import tfprune
from tests.stripping.test_kept_classes import Block
from tfprune.criteria.activations import activation_statistics
from tfprune.units.prunable import PrunableUnits

layers = keras.layers


def model_of(blocks):
    inputs = keras.Input((None, 8))
    x = inputs
    for block in blocks:
        x = block(x)
    outputs = layers.Dense(2, name="head")(x)
    model = keras.Model(inputs, outputs)
    draw = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(draw.normal(size=weight.shape) / 2)
    model.compile("sgd", "mse")
    return tfprune.prunable(model)


def batches(count, length):
    draw = np.random.default_rng(1)
    x = draw.normal(size=(count, length, 8)).astype("float32")
    return x, np.zeros((count, length, 2), "float32")


@pytest.mark.parametrize(("count", "length"), [(5, 7), (33, 3)])
def test_hidden_units_are_seen_at_any_size(count, length):
    model = model_of([Block(8, 2, 6, name="block")])
    units = PrunableUnits(model)
    block = model.get_layer("block")
    x, _ = batches(count, length)
    found = activation_statistics(units, (x, None))
    (hidden,) = [s for s in units.sets if any(layer is block.mlp["up"] for layer in s.layers)]
    attended = x + block.scales[0] * block.attention(block.norms[0](x))
    held = np.asarray(block.mlp["up"](block.norms[1](attended)), "float64").reshape(-1, 6)
    np.testing.assert_allclose(found.mean[hidden.units], held.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.variance[hidden.units], held.var(0), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_whole_model():
    model = model_of([Block(8, 2, 6, name="block"), Block(8, 2, 6, name="other")])
    x, y = batches(6, 5)
    dead = model.get_layer("block").mlp["down"].kernel
    dead.assign(dead * (np.arange(6) != 2)[:, None])  # nothing uses hidden unit 2
    tfprune.prune_units(
        model, 1 / 6, tfprune.criteria.TaylorActivation(), data=(x, y), only="block"
    )
    pruned = ~np.asarray(model.get_layer("block").mlp["up"].trainable_masks["bias"])
    np.testing.assert_array_equal(np.flatnonzero(pruned), [2])


def test_a_layer_that_is_called_twice_is_refused_by_name():
    block = Block(8, 2, 6, name="block")
    model = model_of([block, block])
    with pytest.raises(ValueError, match=r"called several times.*block"):
        tfprune.prune_units(model, 0.5, "apoz", data=batches(4, 5))
