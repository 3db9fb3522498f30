"""Scores that are measured on data, against what NumPy works out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.batched import batched
from tfprune import layers
from tfprune.criteria import weights as criteria
from tfprune.criteria.measuring import MEASURES, measure
from tfprune.masks.setting import set_masks
from tfprune.weights.prunable import select_weights

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(8, 3)).astype("float32")
Y = DRAW.normal(size=(8, 2)).astype("float32")


def linear(loss="mse", use_bias=False):
    """A model of which gradient and Hessian are known: y = x W, loss = mean of squares."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, use_bias=use_bias, name="d")])
    model.compile("sgd", loss)
    return model


def kernel(model):
    return np.array(model.get_layer("d").kernel, "float64")


def gradient(x, y, w):
    """dL/dW of L = mean over examples and outputs of (x W - y)^2."""
    return 2 * x.T @ (x @ w - y) / y.size


def one(name, model, data=(X, Y), batch_size=None):
    data = data if batch_size is None else batched(data, batch_size)
    return measure([name], model, select_weights(model), data)[name]


@pytest.mark.parametrize("batch_size", [8, 3, 1])
def test_the_gradient_is_the_mean_over_examples_whatever_the_batches(batch_size):
    model = linear()
    (found,) = one("gradient", model, batch_size=batch_size)
    np.testing.assert_allclose(found, gradient(X, Y, kernel(model)), rtol=1e-4, atol=1e-6)


def test_squared_gradients_are_the_mean_over_batches():
    model = linear()
    (found,) = one("squared_gradient", model, batch_size=1)
    each = [gradient(X[i : i + 1], Y[i : i + 1], kernel(model)) for i in range(8)]
    np.testing.assert_allclose(found, np.mean(np.square(each), axis=0), rtol=1e-4)


def test_movement_is_summed_over_batches():
    model = linear()
    (found,) = one("movement", model, batch_size=4)
    total = sum(gradient(X[i : i + 4], Y[i : i + 4], kernel(model)) for i in (0, 4))
    np.testing.assert_allclose(found, -kernel(model) * total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [8, 4])
def test_the_hessian_times_the_gradient(batch_size):
    model = linear()
    (found,) = one("hessian_gradient", model, batch_size=batch_size)
    hessian = 2 * X.T @ X / Y.size  # for each column of W
    expected = hessian @ gradient(X, Y, kernel(model))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_synaptic_flow_of_two_layers_is_a_product_of_sums():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="relu", use_bias=False),
            layers.Dense(2, use_bias=False),
        ]
    )
    first, second = (np.abs(np.array(w, "float64")) for w in model.weights)
    found = one("flow_gradient", model, data=None)
    np.testing.assert_allclose(found[0], np.broadcast_to(second.sum(axis=1), (3, 4)), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.broadcast_to(first.sum(axis=0)[:, None], (4, 2)))
    scores = [criteria.synflow(w, g) for w, g in zip((first, second), found, strict=True)]
    np.testing.assert_allclose(scores[0].sum(), scores[1].sum())  # the flow is conserved


def test_input_norms_of_a_convolution():
    model = keras.Sequential([keras.Input((5, 5, 3)), layers.Conv2D(2, 3, name="c")])
    x = DRAW.normal(size=(4, 5, 5, 3)).astype("float32")
    (found,) = one("input_norm", model, data=(x, None))
    assert found.shape == (1, 1, 3, 1)
    expected = np.sqrt(np.square(x, dtype="float64").sum(axis=(0, 1, 2)))
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)


def test_input_norms_inside_attention():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 3, name="a")(inputs, inputs))
    x = DRAW.normal(size=(4, 5, 4)).astype("float32")
    weights = select_weights(model)
    found = measure(["input_norm"], model, weights, (x, None))["input_norm"]
    expected = np.sqrt(np.square(x, dtype="float64").sum(axis=(0, 1)))
    for weight, norm in zip(weights, found, strict=True):
        np.broadcast_shapes(norm.shape, weight.shape)
        if weight.name.startswith(("query", "key", "value")):
            np.testing.assert_allclose(norm.ravel(), expected, rtol=1e-5)
        else:
            assert norm.shape == (2, 3, 1)


def test_input_norms_that_cannot_be_told_are_refused():
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4, name="memory")])
    with pytest.raises(ValueError, match="'memory'.*exclude"):
        one("input_norm", model, data=(np.ones((2, 5, 3)), None))


def test_masks_do_not_hide_gradients():
    model = linear()
    before = one("gradient", model)[0]
    set_masks(model, "d", "kernel", frozen=True)
    np.testing.assert_array_equal(one("gradient", model)[0], before)
    set_masks(model, "d", "kernel", trainable=np.s_[1:], frozen=[])
    (found,) = one("gradient", model)
    np.testing.assert_allclose(found, gradient(X, Y, kernel(model)), rtol=1e-4, atol=1e-6)
    assert np.all(found[0] != 0)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        half = slice(4 * index, 4 * index + 4)
        return X[half], Y[half]


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X, Y, np.ones(8, "float32")),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),
        Batches(),
    ],
    ids=["arrays", "weighted", "tf.data", "PyDataset"],
)
def test_data_comes_as_keras_takes_it(data):
    model = linear()
    (found,) = one("gradient", model, data)
    np.testing.assert_allclose(found, gradient(X, Y, kernel(model)), rtol=1e-4, atol=1e-6)


def test_sample_weights_count():
    model = linear()
    (found,) = one("gradient", model, (X, Y, np.array([1.0] + [0.0] * 7)), batch_size=8)
    expected = gradient(X[:1], Y[:1], kernel(model)) / 8
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_generator_runs_out_and_that_is_said():
    model = linear()
    batches = (pair for pair in [(X, Y)])
    with pytest.raises(ValueError, match="only once"):
        one("hessian_gradient", model, batches)


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"flow_gradient"}))
def test_no_data_is_refused(name):
    with pytest.raises(ValueError, match="`?data=None"):
        one(name, linear(), None)


@pytest.mark.parametrize("data", ["data", 5, {"x": X}])
def test_data_of_an_unknown_kind_is_refused(data):
    with pytest.raises(ValueError, match=f"`data` must be .*of type {type(data).__name__}"):
        one("gradient", linear(), data)


def test_data_without_targets_is_refused():
    with pytest.raises(ValueError, match="needs targets.*`data`"):
        one("gradient", linear(), (X,))


def test_arrays_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="equally many examples. Received: arrays with 3, 8"):
        one("gradient", linear(), (X[:3], Y))


def test_no_loss_is_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="Compile"):
        one("gradient", model)


def test_nothing_of_the_model_changes():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    model.train_on_batch(X, Y)
    metrics = [np.array(v) for metric in model.metrics for v in metric.variables]
    weights = [np.array(w) for w in model.variables + model.optimizer.variables]
    measure(MEASURES, model, select_weights(model), (X, Y))
    after = [np.array(w) for w in model.variables + model.optimizer.variables]
    for ours, theirs in zip(weights, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    after = [np.array(v) for metric in model.metrics for v in metric.variables]
    for ours, theirs in zip(metrics, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "call" not in vars(model.layers[0])


def test_embeddings_and_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(5, 3, name="e"),
            layers.LSTM(3),
            layers.Dense(2, dtype="float32"),
        ]
    )
    model.compile("sgd", "mse")
    tokens = DRAW.integers(0, 4, (8, 4))
    found = one("gradient", model, (tokens, Y))
    shapes = [weight.shape for weight in select_weights(model)]
    assert [array.shape for array in found] == shapes
    assert not found[0][4].any()  # a token that does not occur
    assert all(array.any() for array in found)


@pytest.mark.parametrize("batch_size", [8, 3, 1])
def test_the_variance_of_gradients_is_that_of_single_examples_whatever_the_batches(batch_size):
    model = linear()
    (found,) = one("gradient_variance", model, batch_size=batch_size)
    each = [gradient(X[i : i + 1], Y[i : i + 1], kernel(model)) for i in range(8)]
    np.testing.assert_allclose(found, np.var(each, axis=0), rtol=1e-4, atol=1e-6)


def test_the_variance_is_right_where_it_is_small_beside_the_mean():
    model = linear()
    x = np.ones((8, 3), "float32")
    y = (1000 + np.arange(8)[:, None] * np.ones((1, 2))).astype("float32")
    (found,) = one("gradient_variance", model, data=(x, y), batch_size=4)
    np.testing.assert_allclose(found, np.var(np.arange(8.0)), rtol=1e-3)


def test_the_variance_with_a_recurrent_layer_a_norm_and_several_inputs():
    inputs = {"a": keras.Input((2, 3), name="a"), "b": keras.Input((2,), name="b")}
    x = layers.LSTM(3)(inputs["a"])
    x = layers.BatchNormalization()(layers.Concatenate()([x, inputs["b"]]))
    model = keras.Model(inputs, layers.Dense(2)(x))
    model.compile("sgd", "mse")
    data = {"a": DRAW.normal(size=(4, 2, 3)), "b": DRAW.normal(size=(4, 2))}
    weights = select_weights(model, only=lambda layer, name: True)
    found = measure(["gradient_variance"], model, weights, (data, Y[:4]))["gradient_variance"]
    names = ["gradient", "squared_gradient"]
    of_ones = measure(names, model, weights, batched((data, Y[:4]), 1))
    for ours, *moments in zip(found, *(of_ones[name] for name in names), strict=True):
        np.testing.assert_allclose(ours, moments[1] - moments[0] ** 2, rtol=1e-3, atol=1e-7)
        assert ours.any()


def test_the_gradient_that_is_measured_with_the_variance_is_the_gradient():
    model = linear()
    weights = select_weights(model)
    found = measure(["gradient", "gradient_variance"], model, weights, batched((X, Y), 3))
    (mean,) = found["gradient"]
    np.testing.assert_allclose(mean, gradient(X, Y, kernel(model)), rtol=1e-4, atol=1e-6)
    assert set(found) == {"gradient", "gradient_variance"}
