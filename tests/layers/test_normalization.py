"""Statistics are of the kept units: a stock layer of these units alone is the truth."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import layers

RNG = np.random.default_rng(0)


def keep_only(layer, kept):
    """Prunes every weight of the units (an array of the weights' shape) that are not kept."""
    for name in layer.trainable_masks:
        tfprune.set_masks(layer, layer, name, trainable=kept)


def with_values(layer, values):
    for weight, value in zip(layer.weights, values, strict=True):
        weight.assign(value)


def arbitrary(shape, kept, axis):
    """Inputs which are wild where they are not kept."""
    x = RNG.normal(2, 3, shape).astype("float32")
    dropped = np.moveaxis(x, axis, -1)
    dropped[..., ~kept] = RNG.normal(0, 1e4, dropped[..., ~kept].shape)
    return np.moveaxis(dropped, -1, axis)


CASES = [
    ("LayerNormalization", {}, (3, 7), -1),
    ("LayerNormalization", {"epsilon": 0.5}, (3, 4, 7), -1),
    ("LayerNormalization", {"center": False}, (3, 7), -1),
    ("LayerNormalization", {"scale": False}, (3, 7), -1),
    ("LayerNormalization", {"axis": 1}, (3, 7, 4), 1),
    ("LayerNormalization", {"rms_scaling": True}, (3, 7), -1),
    ("RMSNormalization", {}, (3, 7), -1),
    ("RMSNormalization", {"epsilon": 0.5}, (3, 4, 7), -1),
    ("BatchNormalization", {}, (5, 7), -1),
    ("BatchNormalization", {"axis": 1}, (5, 7, 4), 1),
    ("GroupNormalization", {"groups": 1}, (3, 5, 7), -1),
    ("GroupNormalization", {"groups": 1, "axis": 1, "epsilon": 0.5}, (3, 7, 5), 1),
    ("GroupNormalization", {"groups": 1, "scale": False}, (3, 5, 5, 7), -1),
    ("GroupNormalization", {"groups": 1, "center": False}, (3, 7), -1),
]
by_case = pytest.mark.parametrize(
    ("name", "options", "shape", "axis"), CASES, ids=lambda value: str(value).replace(" ", "")
)
KEPT = np.array([True, False, True, True, False, True, True])


def masked_and_small(name, options, shape, axis):
    masked, small = getattr(layers, name)(**options), getattr(keras.layers, name)(**options)
    masked.build(shape)
    small.build(tuple(np.take(np.empty(shape), np.flatnonzero(KEPT), axis).shape))
    values = [RNG.uniform(0.5, 2, weight.shape).astype("float32") for weight in masked.weights]
    with_values(masked, values)
    with_values(small, [value[KEPT] for value in values])
    keep_only(masked, KEPT)
    return masked, small


@by_case
@pytest.mark.parametrize("training", [False, True])
def test_kept_units_are_normalised_as_by_a_layer_without_the_others(
    name, options, shape, axis, training
):
    masked, small = masked_and_small(name, options, shape, axis)
    x = arbitrary(shape, KEPT, axis)
    outputs = np.asarray(masked(x, training=training) if "Batch" in name else masked(x))
    truth_inputs = np.compress(KEPT, x, axis)
    truth = small(truth_inputs, training=training) if "Batch" in name else small(truth_inputs)
    kept_outputs = np.compress(KEPT, outputs, axis)
    np.testing.assert_allclose(kept_outputs, np.asarray(truth), rtol=1e-4, atol=1e-5)
    if masked.trainable_masks and name != "BatchNormalization":
        assert not np.compress(~KEPT, outputs, axis).any()


@by_case
def test_gradients_are_those_of_a_layer_without_the_others(name, options, shape, axis):
    masked, small = masked_and_small(name, options, shape, axis)
    x = arbitrary(shape, KEPT, axis)
    upstream = RNG.normal(size=shape).astype("float32")
    found = []
    for layer, inputs, weights in (
        (masked, x, upstream),
        (small, np.compress(KEPT, x, axis), np.compress(KEPT, upstream, axis)),
    ):
        inputs = tf.constant(inputs)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(layer(inputs) * weights)
        found.append(tape.gradient(loss, [inputs, *(v.value for v in layer.trainable_variables)]))
    (masked_input, *masked_weights), (small_input, *small_weights) = found
    np.testing.assert_allclose(
        np.compress(KEPT, masked_input, axis), small_input, rtol=2e-3, atol=1e-4
    )
    for ours, theirs in zip(masked_weights, small_weights, strict=True):
        np.testing.assert_allclose(np.asarray(ours)[KEPT], theirs, rtol=1e-3, atol=1e-3)
        assert not np.asarray(ours)[~KEPT].any()


def test_each_group_counts_its_own_kept_units():
    kept = np.array([True, False, True, True, True, True, False, False, True])  # groups of 3
    layer = layers.GroupNormalization(groups=3)
    layer.build((None, 5, 9))
    keep_only(layer, kept)
    x = arbitrary((2, 5, 9), kept, -1)
    outputs = np.asarray(layer(x))
    for group in range(3):
        units = [unit for unit in range(3 * group, 3 * group + 3) if kept[unit]]
        mean = x[..., units].mean(axis=(1, 2), keepdims=True)
        variance = x[..., units].var(axis=(1, 2), keepdims=True)
        truth = (x[..., units] - mean) / np.sqrt(variance + 1e-3)
        np.testing.assert_allclose(outputs[..., units], truth, rtol=1e-4, atol=1e-4)


def test_a_group_without_kept_units_is_zero_and_has_finite_gradients():
    layer = layers.GroupNormalization(groups=2)
    layer.build((None, 5, 6))
    keep_only(layer, np.arange(6) < 3)
    x = tf.constant(RNG.normal(size=(2, 5, 6)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
        loss = tf.reduce_sum(outputs**2)
    assert not np.asarray(outputs)[..., 3:].any()
    assert np.isfinite(tape.gradient(loss, x)).all()


@pytest.mark.parametrize("name", ["LayerNormalization", "RMSNormalization"])
def test_a_layer_without_kept_units_gives_zeros(name):
    layer = getattr(layers, name)()
    layer.build((None, 4))
    keep_only(layer, np.zeros(4, bool))
    outputs = np.asarray(layer(RNG.normal(size=(3, 4)).astype("float32")))
    np.testing.assert_array_equal(outputs, np.zeros((3, 4)))


def test_layer_normalization_over_two_axes_counts_kept_elements():
    kept = RNG.uniform(size=(4, 3)) > 0.4
    layer = layers.LayerNormalization(axis=(1, 2))
    layer.build((None, 4, 3))
    keep_only(layer, kept)
    x = RNG.normal(size=(2, 4, 3)).astype("float32")
    x[:, ~kept] = 1e4
    mean = x[:, kept].mean(axis=1, keepdims=True)
    truth = (x[:, kept] - mean) / np.sqrt(x[:, kept].var(axis=1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(np.asarray(layer(x))[:, kept], truth, rtol=1e-4, atol=1e-5)


def test_infinite_inputs_of_dropped_units_do_no_harm():
    layer = layers.LayerNormalization()
    layer.build((None, 4))
    keep_only(layer, np.array([True, True, True, False]))
    outputs = layer(np.array([[1.0, 2.0, 3.0, np.inf], [1.0, 2.0, 3.0, np.nan]], "float32"))
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
@pytest.mark.parametrize("name", ["LayerNormalization", "RMSNormalization", "GroupNormalization"])
def test_kept_units_in_other_precisions(name, policy):
    options = {"groups": 1} if name == "GroupNormalization" else {}
    masked, small = masked_and_small(name, {**options, "dtype": policy}, (3, 5, 7), -1)
    x = RNG.normal(size=(3, 5, 7)).astype("float32")
    tolerance = 1e-2 if policy == "mixed_float16" else 1e-6
    ours, theirs = masked(x), small(x[..., KEPT])
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(np.asarray(ours)[..., KEPT], theirs, rtol=tolerance, atol=tolerance)


def test_a_unit_with_a_live_beta_is_still_counted():
    """Its output is its beta, but its input has not been dropped."""
    layer, stock = layers.LayerNormalization(), keras.layers.LayerNormalization()
    for each in (layer, stock):
        each.build((None, 4))
    tfprune.set_masks(layer, layer, "gamma", trainable=[0, 1, 2])
    with_values(stock, layer.get_weights())
    x = RNG.normal(size=(3, 4)).astype("float32")
    np.testing.assert_array_equal(layer(x), stock(x))
