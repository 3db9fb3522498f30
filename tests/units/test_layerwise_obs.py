"""Layer-wise optimal brain surgeon for units, against NumPy by hand and the masked model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.criteria import LayerwiseOBS
from tfprune.criteria.consumer_moments import measure_consumers
from tfprune.criteria.second_moments import weight_uses

L = keras.layers
DRAW = np.random.default_rng(0)
X = (DRAW.normal(size=(400, 5)) @ DRAW.normal(size=(5, 5))).astype("float32")
IMAGES = DRAW.normal(size=(60, 8, 8, 3)).astype("float32")
TOKENS = DRAW.integers(0, 30, size=(60, 6))


def mlp(seed=0, hidden=6, outputs=4):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((5,)), L.Dense(hidden, "relu", name="wide"), L.Dense(outputs, name="last")]
    )
    for weight in model.weights:
        weight.assign(np.random.default_rng(seed).normal(size=weight.shape))
    return model


def hidden_of(model, x=X):
    kernel, bias = map(np.array, model.get_layer("wide").weights)
    return np.maximum(x @ kernel + bias, 0).astype("float64")


def fitted(model, kept, damping):
    """The weights of ridge regression on the kept units, and the bias for the means."""
    kernel, bias = (np.array(w, "float64") for w in model.get_layer("last").weights)
    h = hidden_of(model)
    away = h - h.mean(0)
    gram = away.T @ away
    gram += damping * np.diag(gram).mean() * np.eye(len(gram))
    found = np.zeros_like(kernel)
    found[kept] = np.linalg.solve(gram[np.ix_(kept, kept)], gram[kept] @ kernel)
    return found, bias + h.mean(0) @ (kernel - found)


def error_of(model, kept, damping):
    kernel, bias = fitted(model, kept, damping)
    return np.sum((hidden_of(model) @ kernel + bias - model.predict(X, verbose=0)) ** 2)


@pytest.mark.parametrize("seed", range(3))
def test_one_unit_goes_as_least_squares_says_and_the_rest_is_fitted(seed):
    dense = mlp(seed)
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 1 / 6, LayerwiseOBS(damping=1e-9), data=(X,))
    pruned = ~np.asarray(masked.get_layer("wide").trainable_masks["bias"])
    errors = [error_of(dense, [k for k in range(6) if k != unit], 1e-9) for unit in range(6)]
    assert np.flatnonzero(pruned).tolist() == [int(np.argmin(errors))]
    kernel, bias = fitted(dense, np.flatnonzero(~pruned), 1e-9)
    last = masked.get_layer("last")
    np.testing.assert_allclose(np.array(last.kernel), kernel, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.array(last.bias), bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_never_worse_than_magnitude_with_as_many_units(seed):
    dense = mlp(seed, hidden=16)
    kept = {}
    for name in ("layerwise_obs", "magnitude"):
        masked = tfprune.prunable(dense)
        tfprune.prune_units(masked, 0.5, name, data=(X,))
        kept[name] = np.flatnonzero(np.asarray(masked.get_layer("wide").trainable_masks["bias"]))
    ours, theirs = (error_of(dense, units, 0.01) for units in kept.values())
    assert len(kept["layerwise_obs"]) == len(kept["magnitude"]) == 8
    assert ours <= theirs


def test_without_update_weights_stay():
    masked = tfprune.prunable(mlp())
    before = np.array(masked.get_layer("last").kernel)
    tfprune.prune_units(masked, 0.5, LayerwiseOBS(update=False), data=(X,))
    mask = np.asarray(masked.get_layer("last").trainable_masks["kernel"])
    np.testing.assert_array_equal(np.array(masked.get_layer("last").kernel), before * mask)


def test_masked_and_frozen_elements_and_layers_that_are_not_trainable_stay():
    dense = mlp()
    masked = tfprune.prunable(dense)
    last = masked.get_layer("last")
    trainable = np.ones((6, 4), bool)
    trainable[1, 1] = False
    tfprune.set_masks(masked, last, "kernel", trainable=trainable)
    tfprune.freeze(masked, last, "kernel", (0, 2))  # so unit 0 stays
    tfprune.prune_units(masked, 2 / 6, "layerwise_obs", data=(X,))
    kept = np.asarray(masked.get_layer("wide").trainable_masks["bias"])
    ours, theirs = (np.array(model.get_layer("last").kernel) for model in (masked, dense))
    assert kept[0]
    assert ours[1, 1] == 0
    assert ours[0, 2] == theirs[0, 2]
    assert (ours[0, [0, 1, 3]] != theirs[0, [0, 1, 3]]).all()
    masked = tfprune.prunable(dense)
    masked.get_layer("last").trainable = False
    tfprune.prune_units(masked, 2 / 6, "layerwise_obs", data=(X,))
    kept = np.asarray(masked.get_layer("wide").trainable_masks["bias"])
    kernel = np.array(dense.get_layer("last").kernel) * kept[:, None]
    np.testing.assert_array_equal(np.array(masked.get_layer("last").kernel), kernel)


def test_errors_of_layers_count_by_what_they_do_to_the_outputs():
    dense = keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(4, name="first"),
            L.Dense(3, use_bias=False, name="second"),
            L.Dense(2, name="third"),
        ]
    )
    masked = tfprune.prunable(dense)
    layers = [masked.get_layer(name) for name in ("first", "second")]
    variables = [layer.kernel for layer in layers]
    x = DRAW.normal(size=(3000, 5)).astype("float32")
    uses = weight_uses(masked, variables, (x,))
    consumers, _ = measure_consumers(masked, variables, uses, [], (x,))
    scale = dense.predict(x, verbose=0).std()  # about: it is that of each batch
    after = np.array(dense.get_layer("third").kernel)
    expected = after @ after.T / (scale**2 * x.shape[0] * 2)
    found = consumers[1][0].effect[0]
    np.testing.assert_allclose(found, expected, rtol=0.3, atol=expected.max() / 5)
    assert np.trace(found) == pytest.approx(np.trace(expected), rel=0.25)
    after = np.array(dense.get_layer("second").kernel) @ after
    expected = after @ after.T / (scale**2 * x.shape[0] * 2)
    found = consumers[0][0].effect[0]
    np.testing.assert_allclose(found, expected, rtol=0.3, atol=expected.max() / 5)
    assert np.trace(found) == pytest.approx(np.trace(expected), rel=0.25)
    np.testing.assert_allclose(consumers[0][0].total[0], x.sum(0), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(consumers[0][0].gram[0], x.T @ x, rtol=1e-3, atol=1e-1)


def test_a_layer_whose_errors_matter_less_loses_more_units():
    inputs = keras.Input((5,))
    branches = [L.Dense(12, "relu", name=name)(inputs) for name in ("loud", "quiet")]
    outputs = [L.Dense(3, name=f"{n}_out")(b) for n, b in zip("ab", branches, strict=True)]
    dense = keras.Model(inputs, L.Add()([outputs[0], L.Rescaling(0.01)(outputs[1])]))
    masked = tfprune.prunable(dense)
    counts = tfprune.prune_units(masked, 0.4, "layerwise_obs", selection="global", data=(X,))
    pruned = {count.name: count.pruned for count in counts}
    assert pruned["quiet"] > 2 * pruned["loud"]


def convolutional():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = skip = L.ReLU()(L.BatchNormalization(name="stem_norm")(x))
    x = L.Conv2D(12, 3, padding="same", activation="relu", name="inner")(x)
    x = L.Add()([skip, L.Conv2D(8, 3, padding="same", name="outer")(x)])
    x = L.DepthwiseConv2D(3, name="depthwise")(x)
    x = L.Conv2D(10, 1, activation="relu", use_bias=False, name="pointwise")(x)
    x = L.Conv2D(6, 2, groups=2, use_bias=False, name="grouped")(x)
    x = L.Flatten()(L.BatchNormalization(name="grouped_norm")(x))
    x = L.Dense(8, "relu", name="flat")(x)
    return keras.Model(inputs, L.Dense(4, "softmax", name="last")(x)), IMAGES


def attention():
    inputs = keras.Input((6,))
    x = L.Embedding(30, 8, name="embedding")(inputs)
    y = L.LayerNormalization(name="norm")(x)
    x = L.Add()([x, L.MultiHeadAttention(4, 3, name="heads")(y, y)])
    x = L.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de", activation="relu", name="to")(
        x
    )
    x = L.EinsumDense("abde,def->abf", (None, 7), bias_axes="f", name="fro")(x)
    return keras.Model(inputs, L.Dense(3, name="last")(L.GlobalAveragePooling1D()(x))), TOKENS


def recurrent():
    inputs = keras.Input((8, 3))
    x = L.GRU(8, return_sequences=True, name="gru")(L.Dense(6, "relu", name="before")(inputs))
    x = L.Conv1D(6, 2, dilation_rate=2, activation="relu", name="dilated")(x)
    return keras.Model(inputs, L.Dense(3, name="last")(L.LSTM(6, name="lstm")(x))), IMAGES[:, 0]


@pytest.mark.parametrize("make", [convolutional, attention, recurrent])
def test_masked_and_stripped_agree_and_errors_are_below_those_of_magnitude(make):
    keras.utils.set_random_seed(1)
    dense, x = make()
    expected = dense.predict(x, verbose=0)
    errors, counts = {}, {}
    for name in ("layerwise_obs", "magnitude"):
        masked = tfprune.prunable(dense)
        counts[name] = tfprune.prune_units(masked, 0.5, name, data=(x,))
        outputs = masked.predict(x, verbose=0)
        small = tfprune.strip(masked)
        np.testing.assert_allclose(small.predict(x, verbose=0), outputs, rtol=1e-4, atol=1e-5)
        errors[name] = np.sum((outputs - expected) ** 2)
    assert counts["layerwise_obs"] == counts["magnitude"]
    assert errors["layerwise_obs"] < errors["magnitude"]


def test_the_mean_of_a_norm_serves_as_bias():
    inputs = keras.Input((5,))
    x = L.Dense(8, name="wide", bias_initializer=keras.initializers.RandomNormal(5.0))(inputs)
    x = L.BatchNormalization(name="norm")(L.Dense(4, use_bias=False, name="last")(x))
    dense = keras.Model(inputs, x)
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5, "layerwise_obs", data=(X,))
    ours, theirs = masked.predict(X, verbose=0), dense.predict(X, verbose=0)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), rtol=1e-4, atol=1e-3)


def test_units_by_index_are_made_up_for_as_well():
    dense = mlp()
    masked = tfprune.prunable(dense)
    units = {"wide": [1, 4]}
    tfprune.prune_units(masked, criterion=LayerwiseOBS(damping=1e-3), units=units, data=(X,))
    kernel, bias = fitted(dense, [0, 2, 3, 5], 1e-3)
    np.testing.assert_allclose(np.array(masked.get_layer("last").kernel), kernel, atol=1e-3)
    np.testing.assert_allclose(np.array(masked.get_layer("last").bias), bias, atol=1e-2)


def test_it_needs_data_but_no_labels_and_takes_datasets():
    masked = tfprune.prunable(mlp())
    with pytest.raises(ValueError, match=r"layerwise_obs.*data=None"):
        tfprune.prune_units(masked, 0.5, "layerwise_obs")
    batches = tf.data.Dataset.from_tensor_slices(X).batch(50)
    counts = tfprune.prune_units(masked, 0.5, "layerwise_obs", data=batches)
    assert counts[0].pruned == 3
    nones = batches.map(lambda x: (x, None))
    for data in (X, [X], (X, None), nones):
        other = tfprune.prunable(mlp())
        tfprune.prune_units(other, 0.5, "layerwise_obs", data=data)
        for ours, theirs in zip(other.get_weights(), masked.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_outputs_without_a_gradient_are_refused():
    inputs = keras.Input((5,))
    x = L.Dense(3, name="last")(L.Dense(8, "relu", name="wide")(inputs))
    masked = tfprune.prunable(keras.Model(inputs, keras.ops.argmax(x, axis=-1)))
    before = [np.array(w) for w in masked.weights]
    with pytest.raises(ValueError, match="found none.*wide"):
        tfprune.prune_units(masked, 0.5, "layerwise_obs", data=(X,))
    for old, new in zip(before, masked.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_callback_makes_up_for_units_while_it_prunes():
    dense = mlp(hidden=12)
    masked = tfprune.prunable(dense)
    masked.compile(keras.optimizers.SGD(0.0), "mse")
    callback = tfprune.callbacks.PruneUnits(
        tfprune.schedules.Constant(0.5), criterion="layerwise_obs", data=(X,)
    )
    y = dense.predict(X, verbose=0)
    masked.fit(X, y, epochs=1, verbose=0, callbacks=[callback])
    kept = np.flatnonzero(np.asarray(masked.get_layer("wide").trainable_masks["bias"]))
    kernel, _ = fitted(dense, kept, 0.01)
    np.testing.assert_allclose(np.array(masked.get_layer("last").kernel), kernel, atol=1e-3)
    assert callback.get_config()["criterion"] == "layerwise_obs"


@pytest.mark.parametrize("damping", [0, -1.0, np.inf, "small"])
def test_damping_is_above_zero(damping):
    with pytest.raises(ValueError, match="damping"):
        LayerwiseOBS(damping=damping)
