"""Statistics of batch normalisations against NumPy over all the data at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import layers

DRAW = np.random.default_rng(0)
X = (DRAW.normal(size=(22, 5, 5, 3)) * [1, 5, 0.1] + [100, 0, -3]).astype("float32")


def one_norm(**kwargs):
    return keras.Sequential(
        [keras.Input((5, 5, 3)), keras.layers.BatchNormalization(name="norm", **kwargs)]
    )


def two_norms():
    return keras.Sequential(
        [
            keras.Input((5, 5, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="first"),
            layers.Dropout(0.5, seed=3),
            layers.Dense(6, activation="relu", name="dense"),
            layers.BatchNormalization(name="second"),
            layers.Dense(2, name="last"),
        ]
    )


def statistics(model, name):
    layer = model.get_layer(name)
    return np.array(layer.moving_mean), np.array(layer.moving_variance)


def moments(x):
    x = x.astype("float64")
    return x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))


@pytest.mark.parametrize("batch_size", [22, 4, 1])
def test_mean_and_variance_are_those_of_all_data_whatever_the_batches(batch_size):
    new = tfprune.recalibrate(one_norm(), (X, None), batch_size=batch_size)
    for found, expected in zip(statistics(new, "norm"), moments(X), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-7)


@pytest.mark.parametrize("kind", ["array", "tuple", "dataset"])
def test_all_kinds_of_data(kind):
    data = {"array": X, "tuple": (X,), "dataset": tf.data.Dataset.from_tensor_slices(X).batch(5)}
    new = tfprune.recalibrate(one_norm(), data[kind], batch_size=4)
    np.testing.assert_allclose(statistics(new, "norm")[0], moments(X)[0], rtol=2e-7)


def test_later_layers_see_what_earlier_ones_make_with_their_new_statistics():
    new = tfprune.recalibrate(two_norms(), X)
    graph = keras.Model(new.inputs, [new.get_layer(n).input for n in ("first", "second")])
    for name, x in zip(("first", "second"), graph(X, training=False), strict=True):
        for found, expected in zip(statistics(new, name), moments(np.array(x)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_nothing_else_changes():
    model = two_norms()
    model.compile("adam", "mse")
    model.fit(X, np.zeros((22, 3, 3, 2)), verbose=0)
    tfprune.prune_units(model, 0.5)
    before = [np.array(w) for w in model.variables]
    new = tfprune.recalibrate(model, X)
    for weight, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), value)
    for ours, theirs in zip(model.variables, new.variables, strict=True):
        if "moving" not in ours.name:
            np.testing.assert_array_equal(np.array(ours), np.array(theirs))
    for ours, theirs in zip(model.optimizer.variables, new.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))
    for ours, theirs in zip(
        tfprune.masks.masked_layers(model), tfprune.masks.masked_layers(new), strict=True
    ):
        for name, mask in ours.trainable_masks.items():
            np.testing.assert_array_equal(np.array(mask), np.array(theirs.trainable_masks[name]))
    assert "call" not in vars(new.get_layer("first"))


def test_pruned_channels_stay_silent_and_the_model_can_be_stripped():
    model = two_norms()
    tfprune.prune_units(model, 0.5)
    new = tfprune.recalibrate(model, X)
    gone = ~np.array(new.get_layer("first").trainable_masks["gamma"])
    mean, variance = statistics(new, "first")
    assert gone.sum() == 2
    assert not mean[gone].any()
    assert not variance[gone].any()
    assert variance[~gone].all()
    small = tfprune.strip(new)
    assert small.get_layer("conv").filters == 2
    np.testing.assert_allclose(small(X), new(X), atol=1e-4)


def test_masked_time_steps_do_not_count():
    inputs = keras.Input((4, 2))
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Masking()(inputs))
    data = DRAW.normal(size=(6, 4, 2)).astype("float32")
    data[:, 2:] = 0
    new = tfprune.recalibrate(keras.Model(inputs, x), data, batch_size=4)
    kept = data[:, :2].reshape(-1, 2).astype("float64")
    np.testing.assert_allclose(statistics(new, "norm")[0], kept.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics(new, "norm")[1], kept.var(axis=0), rtol=1e-6)


def test_channels_first_and_renorm():
    new = tfprune.recalibrate(one_norm(axis=1, renorm=True), X)
    x = X.astype("float64")
    np.testing.assert_allclose(statistics(new, "norm")[1], x.var(axis=(0, 2, 3)), rtol=1e-6)
    stddev = np.array(new.get_layer("norm").moving_stddev)
    np.testing.assert_allclose(stddev, np.sqrt(x.var(axis=(0, 2, 3)) + 1e-3), rtol=1e-6)


def test_excluded_layers_keep_their_statistics():
    new = tfprune.recalibrate(two_norms(), X, exclude=["first"])
    np.testing.assert_array_equal(statistics(new, "first")[0], np.zeros(4))
    assert statistics(new, "second")[0].any()


def test_a_layer_shared_by_branches_counts_both_and_one_in_a_row_is_refused():
    norm = keras.layers.BatchNormalization(name="norm")
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([a, b], [norm(a), norm(b)])
    x, y = X.reshape(-1, 3)[:20], X.reshape(-1, 3)[20:40]
    new = tfprune.recalibrate(model, ([x, y],))
    both = np.concatenate([x, y]).astype("float64")
    np.testing.assert_allclose(statistics(new, "norm")[1], both.var(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="'norm'.*exclude"):
        tfprune.recalibrate(keras.Model(a, norm(norm(a))), x)


def test_models_without_statistics_and_bad_data_are_refused():
    with pytest.raises(ValueError, match="no batch normalisation"):
        tfprune.recalibrate(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), X)
    with pytest.raises(ValueError, match="finite numbers. Received: nan"):
        tfprune.recalibrate(one_norm(), X * np.nan)
