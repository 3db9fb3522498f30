"""Means of removed units in biases, against NumPy and against the dense model's own means."""

import keras
import numpy as np
import pytest

import tfprune

DRAW = np.random.default_rng(0)


def with_masks(dense, names):
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5, only=names)
    return masked


def means(model, x):
    return np.asarray(model(x), "float64").reshape(-1, model.output_shape[-1]).mean(axis=0)


def removed(masked, name):
    kernel = np.asarray(masked.get_layer(name).kernel)
    return ~kernel.reshape(-1, kernel.shape[-1]).any(axis=0)


def dense_network(use_bias=True):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, use_bias=use_bias, name="last"),
        ]
    )
    return model, DRAW.normal(1, 1, size=(30, 4)).astype("float32")


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("batch_size", [30, 7])
def test_the_mean_after_a_dense_layer_is_what_it_was(use_bias, batch_size):
    dense, x = dense_network(use_bias)
    masked = with_masks(dense, ["hidden"])
    new, report = tfprune.compensate(masked, dense, x, batch_size=batch_size, return_report=True)
    assert abs(means(masked, x) - means(dense, x)).max() > 1e-2
    np.testing.assert_allclose(means(new, x), means(dense, x), rtol=1e-5, atol=1e-6)
    small = tfprune.strip(new)
    assert small.get_layer("hidden").units == 4
    np.testing.assert_allclose(means(small, x), means(dense, x), rtol=1e-5, atol=1e-6)
    assert str(report) == "last: 4 inputs in the bias"


def test_nothing_but_biases_changes():
    dense, x = dense_network()
    masked = with_masks(dense, ["hidden"])
    before = [np.array(w) for w in masked.weights]
    new = tfprune.compensate(masked, dense, x)
    for ours, value, theirs in zip(masked.weights, before, new.weights, strict=True):
        np.testing.assert_array_equal(np.array(ours), value)
        if ours.path.endswith("last/bias"):
            assert (np.array(theirs) != value).all()
        else:
            np.testing.assert_array_equal(np.array(theirs), value)
    mask = new.get_layer("hidden").trainable_masks["kernel"]
    np.testing.assert_array_equal(mask, masked.get_layer("hidden").trainable_masks["kernel"])


def convolutional(padding):
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(6, 3, activation="relu", name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm", beta_initializer="ones")(x)
    x = keras.layers.Conv2D(4, 2, padding=padding, use_bias=False, name="second")(x)
    return keras.Model(inputs, x), DRAW.normal(size=(20, 6, 6, 2)).astype("float32")


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_convolution_gets_the_mean_times_all_of_its_taps(padding):
    dense, x = convolutional(padding)
    masked = with_masks(dense, ["first"])
    new, report = tfprune.compensate(masked, dense, x, return_report=True)
    taken = keras.Model(dense.input, dense.get_layer("norm").output)(x, training=False)
    gone = removed(masked, "first")
    mean = np.asarray(taken, "float64").mean(axis=(0, 1, 2))[gone]
    kernel = np.asarray(dense.get_layer("second").kernel, "float64")
    expected = np.einsum("i,hwio->o", mean, kernel[:, :, gone])
    np.testing.assert_allclose(new.get_layer("second").bias, expected, rtol=1e-5, atol=1e-6)
    assert report.layers[0].is_padded == (padding == "same")
    assert ("border" in str(report)) == (padding == "same")


def test_each_position_has_its_own_mean_after_flatten():
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    dense = keras.Model(inputs, keras.layers.Dense(3, name="last")(keras.layers.Flatten()(x)))
    x = (DRAW.normal(size=(20, 4, 4, 2)) + np.arange(4)[:, None, None]).astype("float32")
    masked = with_masks(dense, ["conv"])
    new = tfprune.compensate(masked, dense, x)
    np.testing.assert_allclose(means(new, x), means(dense, x), rtol=1e-5, atol=1e-6)


def test_stripped_and_masked_models_get_the_same():
    dense, x = convolutional("valid")
    masked = with_masks(dense, ["first"])
    one = tfprune.strip(tfprune.compensate(masked, dense, x))
    other = tfprune.compensate(tfprune.strip(masked), dense, x)
    assert other.get_layer("first").filters == 3
    np.testing.assert_allclose(one(x), other(x), rtol=1e-5, atol=1e-5)


def test_a_new_bias_is_pruned_where_its_unit_is():
    dense, x = convolutional("valid")
    deeper = keras.Sequential([dense, keras.layers.Dense(2, name="last")])
    masked = tfprune.prunable(deeper)
    tfprune.prune_units(masked, 0.5)
    new = tfprune.compensate(masked, deeper, x)
    second = new.layers[0].get_layer("second")
    gone = ~np.asarray(second.kernel).reshape(-1, 4).any(axis=0)
    assert gone.sum() == 2
    np.testing.assert_array_equal(np.asarray(second.trainable_masks["bias"]), ~gone)
    np.testing.assert_array_equal(np.asarray(second.bias) == 0, gone)


def test_shared_layers_are_listed_and_nothing_to_do_is_refused():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    other = keras.layers.Dense(8, activation="relu", name="other")(inputs)
    shared = keras.layers.Dense(3, name="shared")
    dense = keras.Model(inputs, [shared(hidden), shared(other)])
    x = DRAW.normal(size=(10, 4)).astype("float32")
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5)
    with pytest.raises(ValueError, match="nothing to make up for.*'shared'"):
        tfprune.compensate(masked, dense, x)
    with pytest.raises(ValueError, match="nothing to make up for"):
        tfprune.compensate(tfprune.prunable(dense), dense, x)


def test_data_that_is_not_finite_is_refused():
    dense = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, name="h"), keras.layers.Dense(2, name="last")]
    )
    with pytest.raises(ValueError, match="finite numbers. Received: nan"):
        tfprune.compensate(with_masks(dense, ["h"]), dense, np.full((5, 4), np.nan))


def test_recurrent_layers_take_over_means_too():
    inputs = keras.Input((5, 4))
    x = keras.layers.Dense(6, activation="relu", name="hidden")(inputs)
    dense = keras.Model(inputs, keras.layers.Bidirectional(keras.layers.GRU(3), name="memory")(x))
    x = DRAW.normal(1, 1, size=(40, 5, 4)).astype("float32")
    masked = with_masks(dense, ["hidden"])
    new, report = tfprune.compensate(masked, dense, x, return_report=True)
    assert report.layers[0].name == "memory"
    gone = removed(masked, "hidden")
    taken = keras.Model(dense.input, dense.get_layer("hidden").output)(x)
    mean = np.asarray(taken, "float64").mean(axis=(0, 1))[gone]
    for side in ("forward_layer", "backward_layer"):
        cells = [getattr(m.get_layer("memory"), side).cell for m in (dense, new)]
        kernel = np.asarray(cells[0].kernel, "float64")
        added = np.asarray(cells[1].bias, "float64") - np.asarray(cells[0].bias)
        np.testing.assert_allclose(added[0], mean @ kernel[gone], rtol=1e-4, atol=1e-6)
