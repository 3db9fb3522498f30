"""Distillation without labels: what the loss is, what is trained, what stays."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.recovery.unlabelled import output_distance

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")


def network(is_compiled=False, **options):
    inputs = keras.Input((5,))
    x = L.Dense(12, activation="relu", name="hidden", **options)(inputs)
    classes = L.Dense(3, activation="softmax", name="classes")(x)
    chance = L.Dense(1, activation="sigmoid", name="chance")(x)
    model = keras.Model(inputs, [L.Dense(2, name="place")(x), classes, chance])
    if is_compiled:
        model.compile(keras.optimizers.SGD(0.05), ["mse", "kl_divergence", "binary_crossentropy"])
    return model


@pytest.fixture(scope="module")
def dense():
    keras.utils.set_random_seed(0)
    return network()


def test_the_distance_by_hand():
    rng = np.random.default_rng(1)
    place, other_place = rng.normal(size=(2, 4, 2))
    classes, other_classes = (np.exp(each) for each in rng.normal(size=(2, 4, 3)))
    classes, other_classes = (e / e.sum(-1, keepdims=True) for e in (classes, other_classes))
    chance, other_chance = rng.uniform(0.1, 0.9, size=(2, 4, 1))
    expected = [
        np.mean((place - other_place) ** 2) / place.var(),
        np.mean(np.sum(classes * np.log(classes / other_classes), -1)),
        np.mean(
            chance * np.log(chance / other_chance)
            + (1 - chance) * np.log((1 - chance) / (1 - other_chance))
        ),
    ]
    outputs, others = [place, classes, chance], [other_place, other_classes, other_chance]
    found = output_distance(network(), outputs, others)
    np.testing.assert_allclose(float(found), np.mean(expected), rtol=1e-5)
    assert float(output_distance(network(), outputs, outputs)) == 0


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("as_dataset", [False, True])
def test_it_comes_nearer_to_the_dense_model(dense, is_compiled, as_dataset):
    model = network(is_compiled)
    model.set_weights(dense.get_weights())
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5)
    before = [np.array(v) for v in (*dense.variables, *masked.variables)]
    data = tf.data.Dataset.from_tensor_slices(X).batch(16) if as_dataset else (X,)
    options = {} if as_dataset else {"batch_size": 16}
    trained = tfprune.distill(masked, dense, data, epochs=80, verbose=0, **options)
    for variable, value in zip((*dense.variables, *masked.variables), before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)
    was, now = (output_distance(dense, dense(X), each(X)) for each in (masked, trained))
    assert now < 0.5 * was
    assert trained.compiled == is_compiled and len(trained.history.history["loss"]) == 80
    assert tfprune.strip(trained).get_layer("hidden").units == 6
    if is_compiled:
        assert int(trained.optimizer.iterations) == 80 * 4


def test_penalties_count():
    model = network(kernel_regularizer=keras.regularizers.L2(1.0))
    kernel = np.array(model.get_layer("hidden").kernel)
    trained = tfprune.distill(model, model, (X,), batch_size=64, verbose=0)
    np.testing.assert_allclose(trained.history.history["loss"][0], np.sum(kernel**2), rtol=1e-5)


def test_what_cannot_be_is_refused(dense):
    inputs = keras.Input((5,))
    other = keras.Model(inputs, L.Dense(2)(inputs))
    with pytest.raises(ValueError, match="incompatible shapes"):
        tfprune.distill(other, dense, (X,))
    losses = keras.distillation.FeatureDistillation("mse")
    with pytest.raises(ValueError, match="with labels"):
        tfprune.distill(dense, dense, (X,), losses=losses)
    with pytest.raises(ValueError, match="type generator"):
        tfprune.distill(dense, dense, (x for x in [X]))
    with pytest.raises(ValueError, match="`epochs` must be an integer of at least 0"):
        tfprune.distill(dense, dense, (X,), epochs=1.5)


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        ((X, None, np.ones(64)), {}),
        (tf.data.Dataset.from_tensors((X, None, np.ones(64))), {}),
        ((X,), {"class_weight": {0: 2.0}}),
        ((X,), {"sample_weight": np.ones(64)}),
    ],
)
def test_weights_of_labels_are_refused(dense, data, arguments):
    with pytest.raises(ValueError, match="data without labels. Leave the weights out"):
        tfprune.distill(dense, dense, data, verbose=0, **arguments)
