"""Layers inside ones that stay what they are keep a unit where no output needs any of theirs."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune import _keras

X = np.random.default_rng(0).normal(size=(3, 5, 6)).astype("float32")


class Block(keras.layers.Layer):
    """Attention and an MLP, with sizes in its config."""

    def __init__(self, heads=2, hidden=8, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.hidden = heads, hidden
        self.attention = keras.layers.MultiHeadAttention(heads, 4, name="attention")
        self.up = keras.layers.Dense(hidden, activation="relu", name="up")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.up.build(shape)
        self.down = keras.layers.Dense(shape[-1], name="down")
        self.down.build((*shape[:-1], self.hidden))

    def call(self, inputs):
        x = inputs + self.attention(inputs, inputs)
        return x + self.down(self.up(x))

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "hidden": self.hidden}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 6))
    x = Block(name="block")(keras.layers.Dense(8, name="in")(inputs))
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(x))


def all_masked(model, part):
    masked = tfprune.prunable(model)
    for layer in _keras.all_layers(getattr(masked.get_layer("block"), part)):
        for mask in (getattr(layer, "masks_by_name", None) or {}).values():
            mask.set(np.zeros(mask.weight.shape, bool), np.zeros(mask.weight.shape, bool))
    return masked


@pytest.mark.filterwarnings("ignore:Units that are masked in a layer stay")
@pytest.mark.parametrize("part", ["up", "attention"])
def test_a_layer_that_is_kept_keeps_a_unit_of_what_no_output_needs(model, part):
    masked = all_masked(model, part)
    kept = tfprune.strip(masked, custom_layers="keep")
    inlined = tfprune.strip(masked)
    block = kept.get_layer("block")
    assert type(block) is Block
    assert (block.up.units, block.attention.num_heads) == ((1, 2) if part == "up" else (8, 1))
    for small in (kept, inlined):
        np.testing.assert_allclose(small(X), masked(X), atol=1e-6)
    assert inlined.count_params() < kept.count_params() < model.count_params()


@pytest.mark.filterwarnings("ignore:Units that are masked in a layer stay")
def test_the_same_class_keeps_a_unit_of_what_no_output_needs(model):
    masked = all_masked(model, "up")
    small = tfprune.strip(masked, same_class=True)
    assert small.get_layer("block").get_config()["hidden"] == 1
    np.testing.assert_allclose(small(X), masked(X), atol=1e-6)
    with pytest.raises(ValueError, match="no numbers in its config make these shapes"):
        tfprune.strip(all_masked(model, "attention"), same_class=True)
