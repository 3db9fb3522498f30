"""Inputs that models are compared on: in range, of two sizes; or those that are given."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfprune
from tfprune.stripping.check import check_equal
from tfprune.stripping.examples import given_batches, random_batches

ROWS = 50


class Table(layers.Layer):
    """Looks up a table of its own."""

    def build(self, shape):
        self.table = self.add_weight(shape=(ROWS, 4), name="table")

    def call(self, ids):
        return ops.take(self.table, ids, axis=0)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.look_up, self.out = layers.Embedding(ROWS, 4), layers.Dense(2)

    def call(self, ids):
        return self.out(self.look_up(ids))


def nested():
    ids = keras.Input((3,), dtype="int32")
    inner = keras.Model(ids, layers.Embedding(ROWS, 4)(ids))
    outer = keras.Input((3, 1), dtype="int32")
    return keras.Model(outer, inner(layers.Reshape((3,))(outer)))


def of_one_input(layer, shape=(3,), dtype="int32"):
    ids = keras.Input(shape, dtype=dtype)
    return keras.Model(ids, layer(ids))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 3), "int32"))
    return model


MODELS = {
    "an embedding": lambda: of_one_input(layers.Embedding(ROWS, 4)),
    "an embedding of floats": lambda: of_one_input(layers.Embedding(ROWS, 4), dtype="float32"),
    "in a nested model, reshaped": nested,
    "a table of one's own": lambda: of_one_input(Table()),
    "a subclassed model": subclassed,
    "an encoding": lambda: of_one_input(layers.CategoryEncoding(ROWS)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_whole_numbers_are_in_range_and_use_it(kind):
    ((ids,),) = random_batches(MODELS[kind]())
    assert ids.min() >= 0
    assert 5 < ids.max() < ROWS
    np.testing.assert_array_equal(ids, np.round(ids))


def test_each_input_has_a_range_of_its_own():
    tokens, kinds = keras.Input((9,), dtype="int32"), keras.Input((9,), dtype="int32")
    both = layers.Embedding(ROWS, 4)(tokens) + layers.Embedding(3, 4)(kinds)
    ((first, second),) = random_batches(keras.Model([tokens, kinds], both))
    assert 5 < first.max() < ROWS
    assert second.max() == 2


def test_strings_are_words_that_are_looked_up():
    words = keras.Input((1,), dtype="string")
    known = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(words)
    model = keras.Model(words, layers.Dense(8)(known))
    ((drawn,),) = random_batches(model)
    assert set(drawn.reshape(-1)) <= {"a", "b", "[UNK]"}
    assert check_equal(model, tfprune.prunable(model)).error == 0


def test_whole_numbers_are_those_that_are_looked_up():
    model = of_one_input(layers.IntegerLookup(vocabulary=[5, 70], num_oov_indices=0))
    ((drawn,),) = random_batches(model)
    assert set(drawn.reshape(-1)) == {5, 70}


def sizes(model):
    return [x.shape[1:-1] for (x,) in random_batches(model)]


def test_dynamic_axes_have_two_sizes_and_differ_from_each_other():
    model = of_one_input(layers.Conv2D(2, 3), (None, None, 3), "float32")
    assert sizes(model) == [(16, 16), (11, 13)]


def test_sizes_are_those_that_a_model_takes():
    def limited(check):
        def call(x):
            assert check(*x.shape[1:-1])
            return x

        return of_one_input(layers.Lambda(call, output_shape=(None, 3)), (None, 3), "float32")

    assert sizes(limited(lambda n: n is None or n % 16 == 0)) == [(16,), (32,)]
    assert sizes(limited(lambda n: n is None or n <= 8)) == [(8,), (4,)]
    assert sizes(limited(lambda n: n is None or n > 60)) == [(64,), (128,)]


def test_a_model_that_runs_on_nothing_is_refused():
    def call(x):
        raise OverflowError("too much")

    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Lambda(call, output_shape=(3,), name="c")(inputs))
    with pytest.raises(ValueError, match=r"(?s)too much.*data=.*check=False"):
        check_equal(model, model)


def test_a_batch_of_one_is_drawn_four_times():
    x = keras.Input(batch_shape=(1, 3))
    batches = random_batches(keras.Model(x, layers.Dense(2)(x)))
    assert len({float(x.sum()) for (x,) in batches}) == 4


# Examples that are given --------------------------------------------------------------------------

X, Y = np.arange(105.0).reshape(35, 3), np.zeros(35)
GIVEN = {
    "an array": lambda: X,
    "in a tuple": lambda: (X,),
    "with targets": lambda: (X, Y),
    "a dataset": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(20),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_all_examples_are_run(kind):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    batches = [x for (x,) in given_batches(model, GIVEN[kind]())]
    np.testing.assert_array_equal(np.concatenate(batches), X.astype("float32"))
    assert max(map(len, batches)) <= 32


@pytest.mark.parametrize("data", [X[:, :2], (X, X[:, :2])[1:], X[:0], ((X, X),)])
def test_data_that_does_not_fit_is_refused(data):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="Argument `data` must hold"):
        tfprune.strip(model, data=data)


def rare(bound):
    """Differs from the identity only beyond a bound that normal numbers do not reach."""
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.ReLU(max_value=bound, negative_slope=1.0)(inputs))


def test_two_models_are_compared_on_the_examples_given():
    assert check_equal(rare(1e6), rare(50.0)).error == 0
    assert check_equal(rare(1e6), rare(50.0), X[:10]).error == 0
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_equal(rare(1e6), rare(50.0), (X, Y))
