"""The check of `strip`: in double precision where single precision cannot tell."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import _keras
from tfprune.rebuild.copying import in_double_precision
from tfprune.stripping.check import TOLERANCE, check_equal, error

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
    assert error(np.asarray(one(X)), np.asarray(other(X))) > TOLERANCE["float32"]
    assert check_equal(one, other).error < 1e-9
    one, other = pair(make, lambda x: x * 1.0, change=1.001)
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_equal(one, other)


@pytest.mark.parametrize("make", [subclassed, functional])
def test_what_cannot_be_run_in_float64_is_judged_by_float32(make):
    one, other = pair(make, lambda x: x * tf.constant(1.0))
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_equal(one, other)


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


# The yardstick ------------------------------------------------------------------------------------


def line(slope, offset):
    """slope * x + offset."""
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(1, name="line")(inputs))
    model.get_layer("line").kernel.assign(np.full((5, 1), slope))
    model.get_layer("line").bias.assign([offset])
    return model


def test_outputs_that_hardly_vary_are_compared_by_how_much_they_vary():
    assert check_equal(line(1e-3, 1e3), line(1e-3, 1e3)).error == 0
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_equal(line(1e-3, 1e3), line(0.0, 1e3))


def test_rounding_is_no_difference_though_outputs_hardly_vary():
    after = np.nextafter(np.float32(1e3), np.float32(2e3))
    assert check_equal(line(1e-3, 1e3), line(1e-3, after)).error < 1e-5
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_equal(line(1e-3, 1e3), line(1e-3, 1e3 + 10 * (after - 1e3)))


def test_a_constant_is_compared_by_its_size():
    assert check_equal(line(0.0, 1.0), line(0.0, 1.0 + 1e-6)).error < 2e-6
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_equal(line(0.0, 1.0), line(0.0, 1.0 + 1e-4))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_must_be_so_in_both(value):
    ours = np.array([[1.0, 2.0], [3.0, 4.0]])
    theirs = np.where(ours == 3.0, value, ours)
    for one, other in [(ours, theirs), (theirs, ours), (theirs, np.where(ours == 3, 3e9, ours))]:
        assert error(one, other) == np.inf
    assert error(theirs, theirs.copy()) == 0
    assert np.isnan(value) or error(theirs, -theirs) == np.inf


# Random numbers -----------------------------------------------------------------------------------


class Noise(layers.Layer):
    """Adds random numbers, also in inference."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.source, self.seed = source, keras.random.SeedGenerator(3)

    def call(self, x):
        if self.source == "numpy":
            return x + np.random.normal(size=(1, *x.shape[1:])).astype("float32")
        if self.source == "keras":
            return x + keras.random.normal(ops.shape(x), seed=self.seed)
        return x + tf.random.normal(tf.shape(x))

    def compute_output_shape(self, shape):
        return shape


def sampling(source):
    """A mean, and a sample around it."""
    inputs = keras.Input((5,))
    x = layers.Dense(8, activation="relu", name="wide")(inputs)
    mean = layers.Dense(2, name="mean")(x)
    return keras.Model(inputs, [mean, layers.Dense(3, name="out")(Noise(source, name="z")(mean))])


@pytest.mark.parametrize("source", ["keras", "tensorflow"])
def test_random_outputs_are_compared_where_both_draw_the_same_numbers(source):
    model = tfprune.prunable(sampling(source))
    tfprune.prune_units(model, 0.5)
    seed = np.array(model.get_layer("z").seed.state)
    small, report = tfprune.strip(model, return_report=True)
    assert small.get_layer("wide").units == 4
    assert report.error < 1e-5
    assert report.not_compared == ()
    np.testing.assert_array_equal(model.get_layer("z").seed.state, seed)
    np.testing.assert_array_equal(small.get_layer("z").seed.state, seed)
    small.get_layer("out").bias.assign([0.1, 0.0, 0.0])
    assert check_equal(model, small).not_compared == ("out",)


def test_what_is_not_deterministic_is_named_and_the_rest_compared():
    model = tfprune.prunable(sampling("numpy"))
    tfprune.prune_units(model, 0.5)
    with pytest.warns(UserWarning, match=r"not deterministic.*'out'"):
        small, report = tfprune.strip(model, return_report=True)
    assert report.not_compared == ("out",)
    assert "output 'out' is not deterministic" in str(report)
    assert report.error < 1e-5
    small.get_layer("mean").bias.assign([0.1, 0.0])
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_equal(model, small)


def test_a_fixed_seed_leaves_none_where_none_was_set():
    program = """
        import numpy as np, tensorflow as tf, tfprune
        with tfprune._keras.fixed_seed(1):
            first = tf.random.normal((2,)).numpy()
        others = [tf.random.normal((2,)).numpy() for _ in range(2)]
        with tfprune._keras.fixed_seed(1):
            np.testing.assert_array_equal(tf.random.normal((2,)).numpy(), first)
        assert (others[0] != others[1]).all() and (others[0] != first).all()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_a_fixed_seed_leaves_that_of_the_user():
    tf.random.set_seed(7)
    expected = [tf.random.normal((2,)).numpy() for _ in range(2)]
    tf.random.set_seed(7)
    found = [tf.random.normal((2,)).numpy()]
    with _keras.fixed_seed(1):
        drawn = tf.random.normal((2,)).numpy()
    found.append(tf.random.normal((2,)).numpy())
    with _keras.fixed_seed(1):
        np.testing.assert_array_equal(tf.random.normal((2,)).numpy(), drawn)
    np.testing.assert_array_equal(found, expected)


# What the model holds -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [5, 8])
def test_a_normalization_computes_with_what_it_was_finalized_with(width):
    inputs = keras.Input((5,))
    x = inputs if width == 5 else layers.Dense(8, activation="relu", name="wide")(inputs)
    norm = layers.Normalization(name="norm")
    model = keras.Model(inputs, layers.Dense(2, name="out")(norm(x)))
    norm.adapt_mean.assign(np.arange(width))  # and not `finalize_state`
    norm.adapt_variance.assign(np.full(width, 4.0))
    expected = model(X)
    masked = tfprune.prunable(model)
    if width == 8:
        tfprune.prune_units(masked, 0.5)
        expected = masked(X)
    small, report = tfprune.strip(masked, return_report=True)
    assert report.error < 1e-5
    np.testing.assert_allclose(small(X), expected, rtol=1e-5, atol=1e-5)
    small.get_layer("norm").finalize_state()  # as loading it from a file does
    np.testing.assert_allclose(small(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named_and_refused(value):
    inputs = keras.Input((5,))
    x = layers.BatchNormalization(name="norm")(layers.Dense(4, name="wide")(inputs))
    x = layers.Dense(2, name="out")(ops.maximum(x, 0.0))
    model = tfprune.prunable(keras.Model(inputs, x))
    tfprune.set_masks(model, "wide", "kernel", trainable=np.ones((5, 1)) * [1, 0, 1, 1] == 1)
    model.get_layer("norm").moving_variance.assign([1.0, value, 1.0, 1.0])
    for check in (True, False):
        with pytest.raises(ValueError, match=r"NaN or infinite.*norm/moving_variance"):
            tfprune.strip(model, check=check)


@pytest.mark.parametrize("size", [10, 10**6])
def test_large_sums_are_no_infinite_weights(size):
    variable = keras.Variable(np.full(size, 3e38, "float32"))
    assert _keras.is_finite(variable)
    variable.assign(np.where(np.arange(size) == 5, np.nan, 1.0))
    assert not _keras.is_finite(variable)


@keras.saving.register_keras_serializable("tests")
class Counting(layers.Layer):
    """Counts how often a model is run, by its name."""

    runs = {}  # noqa: RUF012

    def call(self, x):
        if tf.executing_eagerly():
            self.runs[self.name] = self.runs.get(self.name, 0) + 1
        return x


def test_a_model_is_run_once_for_each_batch():
    inputs = keras.Input((None, 3))
    kernel = keras.layers.Dense(2)
    models = [
        keras.Model(inputs, kernel(Counting(name=name)(inputs))) for name in ("before", "after")
    ]
    Counting.runs.clear()
    check_equal(*models)
    assert Counting.runs == {"before": 2, "after": 2}  # at two lengths
