"""The statistics of batch normalizations follow the layers that are fitted to the dense model."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune.coupling.following_norms import following_norms
from tfprune.coupling.model_trace import trace

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(64, 3)).astype("float32")


def pruned(use_bias):
    """Ten units of three inputs and a constant each, of which three stay: they lack the constant.

    `next` then needs a bias to compute the same.
    """
    dense = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(10, name="wide"),
            keras.layers.Dense(4, use_bias=use_bias, name="next"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(2, name="last"),
        ]
    )
    for weight in dense.trainable_weights:
        weight.assign(DRAW.normal(size=weight.shape))
    dense = tfprune.recalibrate(dense, X)
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.7, only=["wide"])
    return dense, masked


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("is_small", [False, True])
def test_a_moving_mean_serves_as_bias(use_bias, is_small):
    dense, masked = pruned(use_bias)
    given = tfprune.strip(masked) if is_small else masked
    fitted, report = tfprune.reconstruct(given, dense, X, return_report=True)
    layer = {each.name: each for each in report.layers}["next"]
    assert layer.before > 0.1 > 1e-4 > layer.after
    expected = np.asarray(dense(X))
    np.testing.assert_allclose(fitted(X), expected, atol=1e-4 * expected.std())
    unseen = 3 + X
    np.testing.assert_allclose(fitted(unseen), dense(unseen), atol=1e-3 * expected.std())


@pytest.mark.parametrize("use_bias", [True, False])
def test_what_the_statistics_were_before_does_not_matter(use_bias):
    dense, masked = pruned(use_bias)
    expected = tfprune.reconstruct(masked, dense, X)(X)
    for given in (tfprune.recalibrate(masked, X), tfprune.reconstruct(masked, dense, X, ridge=0.1)):
        found = tfprune.reconstruct(given, dense, X)(X)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_norm_is_all_that_gets_the_outputs():
    def norm(x, name, **options):
        return keras.layers.BatchNormalization(name=name, **options)(x)

    inputs = keras.Input((4, 4, 2))
    conv = keras.layers.Conv2D(4, 1, name="alone")(inputs)
    x = norm(conv, "norm of alone")
    read = keras.layers.Conv2D(4, 1, name="read twice")(x)
    x = keras.layers.Add()([read, norm(read, "norm of a part")])
    x = norm(keras.layers.Conv2D(4, 1, activation="relu", name="curved")(x), "norm of curved")
    x = norm(keras.layers.Conv2D(4, 1, name="other axis")(x), "norm of rows", axis=1)
    shared = keras.layers.Conv2D(4, 1, name="shared")
    x = norm(shared(keras.layers.Activation("tanh")(shared(x))), "norm of one")
    given = keras.layers.Conv2D(4, 1, name="given")(x)
    model = keras.Model(inputs, [given, norm(given, "norm of given")])
    found = following_norms(trace(model))
    assert [each.name for each in found.values()] == ["norm of alone"]
    assert [*found] == [id(model.get_layer("alone"))]
