"""Passes over few batches run eagerly, those over many are traced: both measure the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.measuring import data_pass

X = np.random.default_rng(0).normal(size=(70, 6, 6, 2)).astype("float32")


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(8, 3, use_bias=False, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5)
    return masked, dense


@pytest.fixture
def how(monkeypatch):
    """Whether each pass ran eagerly, in a list."""
    found = []
    test_step = data_pass.DataPass.test_step

    def seen(self, data):
        found.append(self.run_eagerly)
        return test_step(self, data)

    monkeypatch.setattr(data_pass.DataPass, "test_step", seen)
    return found


@pytest.mark.parametrize(
    "recovered",
    [
        lambda masked, dense, data: tfprune.recalibrate(masked, data),
        lambda masked, dense, data: tfprune.reconstruct(masked, dense, data),
    ],
)
def test_eager_and_traced_passes_measure_the_same(models, recovered, how, monkeypatch):
    eager = recovered(*models, (X,))
    assert how
    assert all(how)
    monkeypatch.setattr(data_pass, "EAGER_BATCHES", 2)  # of the three there are
    how.clear()
    traced = recovered(*models, (X,))
    assert how
    assert not any(how)
    for a, b in zip(eager.get_weights(), traced.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def batches():
    yield from np.split(X, [32, 64])


class Batches(keras.utils.PyDataset):
    """Says how many batches it has, and has no `__len__`."""

    num_batches = 3

    def __getitem__(self, index):
        return (np.split(X, [32, 64])[index],)


@pytest.mark.parametrize(
    ("data", "is_eager"),
    [
        (
            tf.data.Dataset.from_generator(
                batches, output_signature=tf.TensorSpec((None, 6, 6, 2), "float32")
            ),
            False,  # it does not say how many batches it has
        ),
        (tf.data.Dataset.from_tensor_slices(X).batch(32), True),
        (Batches(), True),
    ],
)
def test_datasets_of_known_and_unknown_length(models, how, data, is_eager):
    masked, dense = models
    means = tfprune.recalibrate(masked, data).get_layer("norm").moving_mean
    assert how[0] == is_eager
    inputs = np.asarray(masked.get_layer("conv")(X), "float64")
    np.testing.assert_allclose(means, inputs.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    tfprune.reconstruct(masked, dense, data)
