"""Strip on models of inputs of any kind: strings, sizes that are open, other precisions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.stripping.whole_models import assert_same_outputs, kernel, pruned, stripped

layers = keras.layers


class LooksUp(keras.Model):
    """Takes strings, of which Keras does not note that they are."""

    def __init__(self, look_up):
        super().__init__()
        self.look_up = look_up
        self.table = keras.layers.Embedding(9, 8, name="table")
        self.last = keras.layers.Dense(2, name="last")

    def call(self, inputs):
        return self.last(keras.ops.mean(self.table(self.look_up(inputs)), axis=1))


class TestStrings:
    """Inputs that are looked up: the check runs on what the layers know."""

    WORDS = ("red", "green", "blue")
    LOOK_UP = {
        "string": lambda: keras.layers.StringLookup(vocabulary=TestStrings.WORDS),
        "no unknown one": lambda: keras.layers.StringLookup(
            vocabulary=TestStrings.WORDS, num_oov_indices=0
        ),
        "hashing": lambda: keras.layers.Hashing(9),
        "text": lambda: keras.layers.TextVectorization(
            vocabulary=TestStrings.WORDS, output_sequence_length=4
        ),
    }

    @pytest.mark.parametrize("is_subclassed", [False, True])
    @pytest.mark.parametrize("kind", LOOK_UP)
    def test_text(self, kind, is_subclassed):
        x = tf.constant(["red blue", "green"] if kind == "text" else [["red"] * 3, ["blue"] * 3])
        model = LooksUp(self.LOOK_UP[kind]())
        model(x)
        if not is_subclassed:
            inputs = keras.Input(x.shape[1:], dtype="string")
            model = keras.Model(inputs, model.call(inputs))
        masked = tfprune.prunable(model)
        tfprune.prune_units(masked, 0.5)
        small, report = tfprune.strip(masked, return_report=True)
        assert report.error < 1e-5
        assert small.get_layer("table").output_dim == 4
        np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)
        assert np.ptp(np.asarray(small(x)), axis=0).max() > 1e-4

    def test_text_beside_numbers(self):
        inputs = keras.Input((1,), dtype="string"), keras.Input((1,))
        look_up = keras.layers.StringLookup(vocabulary=self.WORDS, output_mode="one_hot")
        x = keras.layers.Concatenate()([look_up(inputs[0]), inputs[1]])
        x = keras.layers.Dense(8, activation="relu", name="wide")(x)
        model = keras.Model(inputs, keras.layers.Dense(2, name="last")(x))
        masked = tfprune.prunable(model)
        tfprune.prune_units(masked, 0.5)
        small, report = tfprune.strip(masked, return_report=True)
        assert report.error < 1e-5
        assert small.get_layer("wide").units == 4

    def test_whole_numbers_that_are_known(self):
        inputs = keras.Input((3,), dtype="int32")
        look_up = keras.layers.IntegerLookup(vocabulary=[10, 20, 40], num_oov_indices=0)
        x = keras.layers.Embedding(3, 8, name="table")(look_up(inputs))
        outputs = keras.layers.Dense(2, name="last")(keras.layers.Flatten(name="flat")(x))
        masked = tfprune.prunable(keras.Model(inputs, outputs))
        tfprune.prune_units(masked, 0.5)
        _, report = tfprune.strip(masked, return_report=True)
        assert report.error < 1e-5


class TestDynamicSizes:
    def test_images_of_any_size(self):
        inputs = keras.Input((None, None, 3))
        x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(inputs)
        y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
        x = layers.Concatenate()([x + y, layers.Conv2D(4, 1, name="side")(x)])
        x = layers.Conv2DTranspose(2, 2, strides=2, name="last")(layers.MaxPooling2D(2)(x))
        model = pruned(inputs, x)
        small = tfprune.strip(model)
        assert small.input_shape == (None, None, None, 3)
        assert kernel(small, "first") == (3, 3, 3, 4)
        assert kernel(small, "last") == (2, 2, 2, 6)
        for size in (8, 14):
            assert_same_outputs(model, small, dynamic=size)

    def test_series_of_any_length(self):
        tokens = keras.Input((None,), dtype="int32")
        x = layers.Embedding(5, 8, mask_zero=True, name="embedding")(tokens)
        x = layers.LSTM(6, return_sequences=True, name="lstm")(x)
        x = layers.Conv1D(4, 2, padding="causal", activation="relu", name="conv")(x)
        model = pruned(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
        small = tfprune.strip(model)
        assert small.input_shape == (None, None)
        assert small.get_layer("embedding").output_dim == 4
        assert small.get_layer("lstm").units == 3
        assert kernel(small, "conv") == (2, 3, 2)
        for length in (4, 9):
            assert_same_outputs(model, small, dynamic=length)

    def test_one_head_on_images_of_two_sizes(self):
        inputs = keras.Input((16, 16, 3))
        large = layers.Conv2D(8, 3, padding="same", name="conv")(inputs)
        parts = [layers.Conv2D(6, 3, activation="relu", name="wide"), layers.Conv2D(4, 1)]
        head = keras.Sequential([keras.Input((None, None, 8)), *parts], name="head")
        model = pruned(inputs, [head(large), head(layers.AveragePooling2D(2)(large))])
        small = stripped(model)
        assert kernel(small, "head", "wide") == (3, 3, 4, 3)
        assert small.get_layer("head").input_shape == (None, None, None, 4)

    def test_a_batch_of_one_size(self):
        inputs = keras.Input(batch_shape=(3, 4, 2))
        x = layers.GRU(6, name="gru")(inputs)
        model = pruned(inputs, layers.Dense(2)(x))
        small = stripped(model)
        assert small.input_shape == (3, 4, 2)
        assert small.get_layer("gru").units == 3


class TestPrecision:
    @pytest.mark.parametrize(
        ("policy", "tolerance"),
        [("mixed_float16", 1e-2), ("mixed_bfloat16", 6e-2), ("float64", 1e-12), ("bfloat16", 6e-2)],
    )
    def test_policies_stay_and_outputs_agree_as_well_as_they_can(self, policy, tolerance):
        keras.config.set_dtype_policy(policy)
        inputs = keras.Input((6, 6, 2))
        x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
        x = layers.BatchNormalization(name="norm")(x)
        x = layers.Flatten()(x)
        model = pruned(inputs, layers.Dense(3, dtype="float32", name="last")(x))
        small = tfprune.strip(model)
        assert kernel(small, "conv") == (3, 3, 2, 4)
        for layer in model.layers:
            assert small.get_layer(layer.name).dtype_policy == layer.dtype_policy
        assert [w.dtype for w in small.weights] == [w.dtype for w in model.weights]
        assert_same_outputs(model, small, tolerance)
