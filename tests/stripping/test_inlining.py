import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import randomised
from tfprune.layers import Masked
from tfprune.stripping.inlining import inlined

layers = keras.layers


class Block(layers.Layer):
    """A pre-norm feed-forward block with a residual, as users write it."""

    def __init__(self, wide=8, **kwargs):
        super().__init__(**kwargs)
        self.wide = wide
        self.norm = layers.LayerNormalization(name="norm")
        self.up = layers.Dense(wide, activation="relu", name="up")
        self.drop = layers.Dropout(0.5, name="drop")

    def build(self, shape):
        self.down = layers.Dense(shape[-1], name="down")
        self.norm.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], self.wide))

    def call(self, inputs, training=None):
        x = self.drop(self.up(self.norm(inputs)), training=training)
        return inputs + self.down(x)

    def get_config(self):
        return {**super().get_config(), "wide": self.wide}


class Outer(layers.Layer):
    """A block in a block."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(name="inner")

    def build(self, shape):
        self.block.build(shape)

    def call(self, inputs):
        return self.block(inputs) * 2.0


class Scale(layers.Layer):
    """Has a weight of its own beside a layer, so its graph cannot hold it."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")
        self.dense = layers.Dense(shape[-1])
        self.dense.build(shape)

    def call(self, inputs):
        return self.dense(inputs) * self.factor


class ReadsTheBatch(layers.Layer):
    """Fails on symbolic tensors of unknown batch size, and computes with the places in a batch."""

    def build(self, shape):
        self.dense = layers.Dense(shape[-1])
        self.dense.build(shape)

    def call(self, inputs):
        return self.dense(inputs) + keras.ops.arange(inputs.shape[0] + 0.0)[:, None]

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def model_of(*blocks, shape=(4,), **compile_arguments):
    inputs = keras.Input(shape)
    x = layers.Dense(4, name="first")(inputs)
    for block in blocks:
        x = block(x)
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    if compile_arguments:
        model.compile(**compile_arguments)
    return model


def data():
    return np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


def test_a_block_becomes_its_layers_and_operations():
    model = model_of(Block(name="a"), Block(name="b"))
    flat = inlined(model)
    names = [layer.name for layer in flat.layers]
    assert {"a_norm", "a_up", "a_down", "b_norm", "b_up", "b_down"} <= set(names)
    assert not any(isinstance(layer, Block) for layer in flat.layers)
    np.testing.assert_array_equal(flat(data()), model(data()))


def test_the_model_is_not_touched_and_shares_nothing():
    model = model_of(Block(name="a"))
    before, names = [np.array(w) for w in model.weights], [w.path for w in model.weights]
    flat = inlined(model)
    flat.get_layer("a_up").kernel.assign(np.zeros((4, 8)))
    assert [w.path for w in model.weights] == names
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.get_layer("a").up.name == "up"


def test_blocks_in_blocks_and_in_nested_models_are_opened():
    inner = keras.Sequential([keras.Input((4,)), Outer(name="o")], name="seq")
    model = model_of(inner, Outer(name="p"))
    flat = inlined(model)
    assert not any(isinstance(layer, (Outer, Block)) for layer in flat.layers)
    np.testing.assert_array_equal(flat(data()), model(data()))


def test_a_block_called_twice_shares_its_layers():
    block = Block(name="a")
    model = model_of(block, block)
    flat = inlined(model)
    assert len(flat.weights) == len(model.weights)
    np.testing.assert_array_equal(flat(data()), model(data()))


def test_dropout_inside_still_drops_in_training():
    flat = inlined(model_of(Block(name="a")))
    assert np.abs(np.array(flat(data(), training=True)) - flat(data(), training=False)).max() > 0


def test_training_goes_on_with_the_same_slots():
    model = model_of(Block(name="a"), optimizer="adam", loss="mse")
    y = np.ones((8, 2))
    model.get_layer("a").drop.rate = 0.0
    model.train_on_batch(data(), y)
    flat = inlined(model)
    flat.get_layer("a_drop").rate = 0.0
    for each in (model, flat):
        each.train_on_batch(data(), y)
    for a, b in zip(model.weights, flat.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_mixed_precision_is_that_of_the_block():
    keras.config.set_dtype_policy("mixed_float16")
    model = model_of(Block(name="a"))
    np.testing.assert_allclose(inlined(model)(data()), model(data()), rtol=1e-2, atol=1e-2)


def test_a_model_without_composite_layers_comes_back_itself():
    model = model_of()
    assert inlined(model) is model


@pytest.mark.parametrize("make", [Scale, ReadsTheBatch])
def test_what_cannot_be_inlined_stays_and_is_resized(make):
    model = model_of(make(name="mine"))
    assert inlined(model) is model
    (unit_set,) = [s for s in tfprune.coupling.couple(model).sets if s.name == "first"]
    assert unit_set.removable
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    assert type(small.get_layer("mine")) is make
    assert small.get_layer("first").units == 2
    np.testing.assert_allclose(small(data()), masked(data()), rtol=1e-4, atol=1e-5)


def test_prunable_prunes_inside_and_strip_gives_stock_layers(tmp_path):
    model = model_of(Block(name="a"), Block(name="b"))
    masked = tfprune.prunable(model)
    assert isinstance(masked.get_layer("a").up, Masked)
    counts = tfprune.prune_units(masked, 0.5)
    assert [count.name for count in counts if "up" in count.name] == ["a_up", "b_up"]
    small = tfprune.strip(masked, custom_layers="inline")
    assert small.get_layer("a_up").units == 4
    np.testing.assert_allclose(small(data()), masked(data()), rtol=1e-4, atol=1e-5)
    small.save(tmp_path / "small.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "small.keras")(data()), small(data())
    )


def test_strip_opens_a_stock_model_with_zeros_in_it():
    model = model_of(Block(name="a"))
    kernel = np.array(model.get_layer("a").down.kernel)
    kernel[:3] = 0
    model.get_layer("a").down.kernel.assign(kernel)
    small = tfprune.strip(model, custom_layers="inline")
    assert small.get_layer("a_up").units == 5


class TrainsOtherwise(layers.Layer):
    """Does something else in training, in one of several ways, or only what its layers do."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.dense = layers.Dense(8, activation="relu", name="dense_inside")
        self.drop = layers.Dropout(0.5, name="drop_inside")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs, training=False):
        x = self.drop(self.dense(inputs), training=training)
        if self.kind == "adds" and training:
            return x + 100.0
        if self.kind == "scales":
            return x * (2.0 if training else 3.0)
        if self.kind == "axis":
            return x + keras.ops.sum(inputs, axis=0 if training else -1, keepdims=True)
        return x


@pytest.mark.parametrize("kind", ["adds", "scales", "axis", "alike"])
def test_what_a_layer_does_in_training_is_kept(kind):
    model = keras.Sequential(
        [keras.Input((5,)), TrainsOtherwise(kind, name="odd"), layers.Dense(3, name="logits")]
    )
    masked = tfprune.prunable(randomised(model))
    tfprune.prune_units(masked, units={"odd_dense_inside": [0, 3, 5]})
    small = tfprune.strip(masked)
    names = [layer.name for layer in small.layers if not isinstance(layer, layers.InputLayer)]
    assert names[0] == ("odd_dense_inside" if kind == "alike" else "odd")
    assert small.weights[0].shape == (5, 5)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)
    if kind == "adds":
        for part in (masked, small):
            part.layers[0].drop.rate = 0.0
        np.testing.assert_allclose(small(x, training=True), masked(x, training=True), rtol=1e-5)
    if kind != "alike":
        with pytest.raises(ValueError, match="does something else in training.*layer='odd'"):
            tfprune.strip(masked, custom_layers="inline")
