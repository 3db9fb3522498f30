"""The check of `strip`: in double precision where single precision cannot tell."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.coupling.trace import trace
from tfprune.rebuild.copying import in_double_precision
from tfprune.stripping.check import TOLERANCE, check_equal, relative_error

layers, ops = keras.layers, keras.ops
X = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")


class Large(layers.Layer):
    """Has no config, and adds so much that single precision loses what it is added to."""

    def __init__(self, function):
        super().__init__(name="large")
        self.function = function

    def build(self, shape):
        self.by = self.add_weight(shape=(shape[-1],), name="by", initializer="ones")

    def call(self, x):
        return self.function(x + 3e4 * self.by)


class Cancelling(keras.Model):
    def __init__(self, function):
        super().__init__(name="cancelling")
        self.wide = layers.Dense(64, activation="relu", name="wide")
        self.large, self.narrow = Large(function), layers.Dense(3, name="narrow")

    def call(self, x):
        x = self.wide(x)
        return self.narrow(self.large(x)) - self.narrow(self.large(-x))


def subclassed(function):
    model = Cancelling(function)
    model(X)
    return model


def functional(function):
    inputs = keras.Input((5,))
    return keras.Model(inputs, Cancelling(function).call(inputs), name="graph")


def pair(make, function, change=1.0):
    """A model, and one that computes the same with its units in another order."""
    one, other = make(function), make(function)
    order = np.random.default_rng(1).permutation(64)
    draw = np.random.default_rng(2)
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        value = np.ones(ours.shape) if ours.name == "by" else draw.normal(size=ours.shape)
        ours.assign(value)
        axis = value.shape.index(64) if 64 in value.shape else None
        theirs.assign(value if axis is None else np.take(value, order, axis))
    kernel = other.get_layer("narrow").kernel
    kernel.assign(kernel * change)
    return one, other


@pytest.mark.parametrize("make", [subclassed, functional])
def test_models_without_configs_are_compared_in_double_precision(make):
    one, other = pair(make, lambda x: x * 1.0)
    assert relative_error(one, other, [X]) > TOLERANCE["float32"]
    assert check_equal(one, other, trace(one)) < 1e-9
    one, other = pair(make, lambda x: x * 1.0, change=1.001)
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_equal(one, other, trace(one))


@pytest.mark.parametrize("make", [subclassed, functional])
def test_what_cannot_be_run_in_float64_is_judged_by_float32(make):
    one, other = pair(make, lambda x: x * tf.constant(1.0))
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_equal(one, other, trace(one))


@pytest.mark.parametrize("make", [subclassed, functional])
def test_a_copy_in_double_precision_computes_in_it_with_the_same_weights(make):
    model = tfprune.prunable(make(ops.tanh))
    before = model(X)
    copy = in_double_precision(model)
    assert copy.model(X).dtype == "float64"
    for old, new in copy.variables:
        assert new.dtype == ("float64" if "float" in old.dtype else old.dtype)
        np.testing.assert_array_equal(np.asarray(old), np.asarray(new))
    np.testing.assert_allclose(copy.model(X), before, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model(X), before)
