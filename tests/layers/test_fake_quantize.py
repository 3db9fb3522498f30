"""Fake quantisation by hand: ranges, rounding, gradients, files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.layers import FakeQuantize
from tfprune.layers.fake_quantize import WeightQuantizer

RANGES = {"both sides": (-1.3, 2.7), "from zero": (0.0, 6.1), "to zero": (-0.9, 0.0)}


def by_hand(values, low, high):
    """Rounded to 256 numbers, moved so that 0 is one of them."""
    step = np.float32(high - low) / np.float32(255)
    place_of_zero = np.round(-low / step)
    places = np.clip(np.floor(values / step + place_of_zero + 0.5), 0, 255)
    return (places - place_of_zero) * step


def with_range(low, high, **kwargs):
    layer = FakeQuantize(**kwargs)
    layer.build((None, 4))
    layer.low.assign(low)
    layer.high.assign(high)
    return layer


@pytest.mark.parametrize("name", RANGES)
def test_rounds_to_the_numbers_of_a_range_with_zero(name):
    low, high = RANGES[name]
    values = np.random.default_rng(0).uniform(-4, 8, (50, 4)).astype("float32")
    outputs = np.asarray(with_range(low, high)(values))
    expected = by_hand(values, low, high)
    step = (high - low) / 255
    # What is half-way between two numbers becomes either.
    is_between = np.abs(np.abs(outputs - expected) - step) < 1e-3 * step
    assert is_between.mean() < 0.01
    np.testing.assert_allclose(outputs[~is_between], expected[~is_between], rtol=0, atol=1e-5)
    assert len(np.unique(outputs)) <= 256
    assert np.abs(outputs - np.clip(values, low, high)).max() < 1.01 * step
    assert not np.asarray(with_range(low, high)(np.zeros((1, 4), "float32"))).any()


def test_the_range_follows_the_batches_as_a_moving_average():
    layer = FakeQuantize(0.75)
    low = high = None
    for seed in range(4):
        batch = np.random.default_rng(seed).normal(size=(8, 4)).astype("float32")
        layer(batch, training=True)
        found = min(batch.min(), 0), max(batch.max(), 0)
        low = found[0] if low is None else 0.75 * low + 0.25 * found[0]
        high = found[1] if high is None else 0.75 * high + 0.25 * found[1]
        np.testing.assert_allclose(layer.range, (low, high), rtol=1e-5)
    layer(100 * batch)
    np.testing.assert_allclose(layer.range, (low, high), rtol=1e-5)


def test_a_range_holds_zero_where_all_values_are_above_or_below():
    for sign in (1, -1):
        layer = FakeQuantize()
        layer(sign * np.array([[1.0, 3.0]], "float32"), training=True)
        assert sorted(map(abs, layer.range)) == [0.0, 3.0]


def test_without_a_range_all_passes_through():
    values = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    layer = FakeQuantize()
    np.testing.assert_array_equal(layer(values), values)
    assert layer.range is None


def test_the_gradient_is_one_in_the_range_and_zero_outside():
    values = tf.constant([[-2.0, -0.5, 1.0, 4.0]])
    layer = with_range(-1.0, 3.0)
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = tf.reduce_sum(layer(values) * [[1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(tape.gradient(total, values), [[0.0, 2.0, 3.0, 0.0]])


def test_files_keep_the_range(tmp_path):
    model = keras.Sequential([keras.Input((4,)), FakeQuantize(0.5, name="rounding")])
    model.layers[0](np.array([[-1.0, 0.2, 0.3, 2.0]], "float32"), training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[0]
    assert (loaded.range, loaded.momentum) == (model.layers[0].range, 0.5)


@pytest.mark.parametrize("momentum", [1.0, -0.1, "0.9", None])
def test_a_momentum_must_be_a_number_below_one(momentum):
    with pytest.raises(ValueError, match="`momentum` must be from 0 to below 1"):
        FakeQuantize(momentum)


# Weights -----------------------------------------------------------------------------------------


def test_weights_are_rounded_to_255_multiples_of_a_step_for_each_channel():
    weight = np.random.default_rng(0).normal(size=(30, 5)).astype("float32")
    weight *= [1, 10, 0.1, 3, 0]
    rounded = np.asarray(WeightQuantizer([0])(tf.constant(weight)))
    for channel in range(4):
        step = np.abs(weight[:, channel]).max() / 127
        multiples = np.round(weight[:, channel] / step)
        np.testing.assert_allclose(rounded[:, channel], multiples * step, rtol=1e-6)
        assert np.abs(multiples).max() == 127
    assert not rounded[:, 4].any()
    again = np.asarray(WeightQuantizer([0])(tf.constant(rounded)))
    np.testing.assert_allclose(again, rounded, rtol=1e-6)


def test_the_gradient_of_rounded_weights_is_passed_on():
    weight = tf.Variable([[0.9, -0.2], [0.4, 0.0]])
    factors = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(WeightQuantizer([0])(weight) * factors)
    np.testing.assert_array_equal(tape.gradient(total, weight), factors)
