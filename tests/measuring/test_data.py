"""Data that a model does not take, or that has no end, is refused before it is run on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.measuring.data import check_ends, check_fits

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = np.arange(8) % 2
BATCHES = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


class Endless(keras.utils.PyDataset):
    """Batches without end."""

    num_batches = None

    def __getitem__(self, index):
        return X, Y


@pytest.fixture(scope="module")
def model():
    hidden = keras.layers.Dense(4, name="hidden")
    made = keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(2, name="logits")])
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:5]), "equally many examples. Received: arrays with 8, 5 examples"),
        ((X, Y, np.ones(7)), "equally many examples. Received: arrays with 8, 8, 7 examples"),
        ((X, Y.tolist()), "must hold arrays. Received: lists of numbers"),
        ((X, Y, Y, Y), "Received: 4 parts"),
        ((X[:, :2], Y), "must hold inputs of the shapes"),
        ((X, Y + 1), "must hold labels from 0 to 1"),
        ((X + 1j, Y), "must hold real numbers"),
    ],
)
@pytest.mark.parametrize("argument", ["data", "validation_data"])
def test_arrays_that_do_not_fit_are_refused_by_the_argument(model, data, argument, message):
    check_fits(model, [X, Y])
    check_fits(model, (X, None))
    with pytest.raises(ValueError, match=f"`{argument}` .*{message}"):
        check_fits(model, data, argument)


@pytest.mark.parametrize("data", [BATCHES.repeat(), Endless()], ids=["dataset", "PyDataset"])
def test_data_without_end_is_refused_where_all_of_it_is_gone_through(model, data):
    masked = tfprune.prunable(model)
    for call in (
        lambda: check_ends(data, "data"),
        lambda: tfprune.prune_units(masked, 0.5, "taylor", data=data),
        lambda: tfprune.compare(model, model, data=data),
        lambda: tfprune.distill(masked, model, data, verbose=0),
        lambda: tfprune.prune(model, 0.5, data),
        lambda: tfprune.prune(model, 0.5, (X, Y), validation_data=data),
        lambda: tfprune.prune(
            model, 0.5, data, recover=(), validation_data=(X, Y), epochs=1, criterion="l2"
        ),
    ):
        with pytest.raises(ValueError, match="must have an end"):
            call()
    check_ends(BATCHES)
    check_ends((X, Y))


def test_a_training_takes_as_many_steps_as_it_is_told_of_data_without_end(model):
    data, steps = BATCHES.repeat(), {"epochs": 1, "steps_per_epoch": 3}
    given = {"recover": (), "criterion": "l2", "validation_data": (X, Y)}
    small = tfprune.prune(model, 0.5, data, **given, **steps)
    assert int(small.optimizer.iterations) == 3
    trained = tfprune.distill(model, model, data.map(lambda x, y: x), verbose=0, **steps)
    assert int(trained.optimizer.iterations) == 3
