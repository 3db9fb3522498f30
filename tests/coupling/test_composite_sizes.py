"""Composite layers that compute with sizes, of which some are not known."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.composites import Composite, model_with

layers, ops = keras.layers, keras.ops


class Attention(layers.Layer):
    """Attention as it is written by hand, with `split` and `join` in place of the sizes."""

    def __init__(self, split, join, **kwargs):
        super().__init__(**kwargs)
        self.to_query = layers.Dense(8, name="q")
        self.to_key = layers.Dense(8, name="k")
        self.to_value = layers.Dense(8, name="v")
        self.to_output = layers.Dense(8, name="o")
        self.sizes = split, join

    def build(self, shape):
        for part in (self.to_query, self.to_key, self.to_value, self.to_output):
            part.build(shape)

    def call(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]

        def heads(x):
            return ops.transpose(ops.reshape(x, self.sizes[0](batch, length)), (0, 2, 1, 3))

        query, key, value = (
            heads(part(inputs)) for part in (self.to_query, self.to_key, self.to_value)
        )
        scores = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / 2.0)
        x = ops.transpose(ops.matmul(scores, value), (0, 2, 1, 3))
        return self.to_output(ops.reshape(x, self.sizes[1](batch, length)))


class FoldsTime(Composite):
    """Reads the product of two sizes."""

    def call(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]
        x = self.narrow(self.wide(ops.reshape(inputs, (batch * length, 4))))
        return ops.reshape(x, (batch, length, 4))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class Windows(Composite):
    """Cuts images into windows, and puts them together."""

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        x = ops.reshape(images, (batch, height // 4, 4, width // 4, 4, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, channels))
        x = self.narrow(self.wide(x))
        x = ops.reshape(x, (batch, height // 4, width // 4, 4, 4, 4))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (batch, height, width, 4))


class WindowsByTheirNumber(Composite):
    """Puts windows together whose number alone is known, and not how large an image was."""

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        x = ops.reshape(images, (batch, height // 4, 4, width // 4, 4, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, channels))
        x = self.narrow(self.wide(x))
        batch = ops.shape(x)[0] // ((height // 4) * (width // 4))
        x = ops.reshape(x, (batch, height // 4, width // 4, 4, 4, -1))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (batch, height, width, -1))


class Causal(Composite):
    """Adds what depends on the length."""

    def call(self, inputs):
        places = ops.reshape(ops.arange(0.0, ops.shape(inputs)[1]), (1, -1, 1))
        return self.narrow(self.wide(inputs)) + places  # by length

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def attention(split, join):
    return lambda: Attention(split, join, name="attention")


SIZED = {
    "batch and length": attention(lambda b, t: (b, t, 2, 4), lambda b, t: (b, t, 8)),
    "batch": attention(lambda b, t: (b, -1, 2, 4), lambda b, t: (b, -1, 8)),
    "length": attention(lambda b, t: (-1, t, 2, 4), lambda b, t: (-1, t, 8)),
    "mixed": attention(lambda b, t: (b, -1, 2, 4), lambda b, t: (-1, t, 8)),
    "product": lambda: FoldsTime(name="folds"),
}


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("length", [6, None])
@pytest.mark.parametrize("name", SIZED)
def test_sizes_that_are_read_are_left_open(name, length, dtype):
    if length is None and name == "product":
        pytest.skip("the result has two sizes that are not known, and neither is the batch")
    keras.config.set_dtype_policy(dtype)
    inputs = keras.Input((length, 4))
    x = layers.Dense(8 if name != "product" else 4, name="first")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="last")(SIZED[name]()(x)))
    model = tfprune.prunable(model)
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert {type(layer).__module__.partition(".")[0] for layer in small.layers} == {"keras"}
    assert small.count_params() < 0.6 * model.count_params()
    for batch in (1, 7):
        x = np.random.default_rng(0).normal(size=(batch, length or 9, 4)).astype("float32")
        tolerance = 1e-5 if dtype == "float32" else 2e-2
        np.testing.assert_allclose(small(x), model(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cls", [Windows, WindowsByTheirNumber])
def test_windows_of_images(cls):
    inputs = keras.Input((8, 12, 3))
    block = cls(name="windows")
    block.wide.build((None, 16, 3))
    block.narrow.build((None, 16, 8))
    block.built = True
    model = tfprune.prunable(keras.Model(inputs, block(inputs)))
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert small.get_layer("windows_wide").units == 4
    x = np.random.default_rng(0).normal(size=(5, 8, 12, 3))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


def test_what_else_depends_on_a_size_is_kept_as_it_is():
    model = model_with(Causal(name="causal"), (None, 4))
    kept = tfprune.strip(model)
    assert isinstance(kept.get_layer("causal"), Causal)
    x = np.random.default_rng(0).normal(size=(5, 7, 4))
    np.testing.assert_allclose(kept(x), model(x), rtol=1e-5, atol=1e-6)
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    small = tfprune.strip(masked)
    assert small.get_layer("causal").wide.units == model.get_layer("causal").wide.units // 2
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)


class AddsWhereItCan(Composite):
    """Adds its input if the sizes are the same and known, as they are on data."""

    def call(self, inputs):
        x = self.narrow(self.wide(inputs))
        return inputs + x if x.shape[1:] == inputs.shape[1:] and None not in x.shape else x


def test_a_branch_by_what_is_known_of_a_size_is_the_one_taken_on_data():
    model = model_with(AddsWhereItCan(name="block"), (None, 4))
    small = tfprune.strip(model)
    x = np.random.default_rng(0).normal(size=(5, 7, 4))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)
