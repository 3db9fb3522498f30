"""Passes over data, and the sums of replicas that share them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.measuring.accumulators import Accumulator
from tfprune.measuring.data_pass import DataPass
from tfprune.measuring.replicas import Replicas, outside_scope
from tfprune.measuring.shares import Share

X = np.arange(20.0, dtype="float32").reshape(10, 2)


class Counting(DataPass):
    """Adds up what no batch says."""

    def __init__(self, model):
        super().__init__(model, needs_loss=False)
        self.added = Accumulator(())

    def add_batch(self, x, y, sample_weight, size):
        self.added.assign_add(1.0)


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_the_end_of_a_dataset_of_unknown_length_is_no_batch(drop_remainder):
    data = tf.data.Dataset.from_tensor_slices(X).batch(3, drop_remainder=drop_remainder)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for each in (data, data.filter(lambda _: True)):
        counting = Counting(model)
        counting.run(each)
        expected = (3, 9) if drop_remainder else (4, 10)
        assert (counting.batches_read, counting.examples_read) == expected
        assert counting.replicas.total(counting.added) == expected[0]


def two_replicas():
    return Replicas(None, (None, None), 0, 2)


def test_replicas_add_to_sums_of_their_own():
    replicas, total = two_replicas(), Accumulator((2,), "float64")
    for place in (0, 1, 1):
        with replicas.on(place):
            total.assign_add([1.0, 10.0 * place])
            assert total.value.numpy()[1] == 10.0 * place * (1 if place == 0 else total.value[0])
    assert [part.tolist() for part in total.parts()] == [[1, 0], [2, 20]]
    assert replicas.total(total).tolist() == [3, 20]
    total.reset()
    assert replicas.total(total).tolist() == [0, 0]


def test_moments_of_replicas_are_those_of_all_examples():
    rng = np.random.default_rng(0)
    shares = [rng.normal(5, 2, (7, 3)), np.zeros((0, 3)), rng.normal(-1, 1, (2, 3))]
    replicas = Replicas(None, (None,) * 3, 0, 3)
    sums = [Accumulator(shape, "float64") for shape in ((), (3,), (3,))]
    for place, share in enumerate(shares):
        mean = share.mean(0) if len(share) else np.zeros(3)
        values = len(share), mean, np.square(share - mean).sum(0)
        with replicas.on(place):
            for total, value in zip(sums, values, strict=True):
                total.assign(value)
    ((count, mean, squares),) = replicas.moments([sums])
    whole = np.concatenate(shares)
    assert count == 9
    np.testing.assert_allclose(mean, whole.mean(0))
    np.testing.assert_allclose(squares / count, whole.var(0))


def test_a_sum_that_nothing_was_added_to_is_zero():
    assert Replicas().total(Accumulator((2,))).tolist() == [0, 0]


def test_batches_go_to_replicas_in_turn():
    share = Share(Replicas(None, (None, None), 1, 3))
    iterator = iter(tf.data.Dataset.from_tensor_slices(X).batch(2))
    rounds = []
    while (read := share.read(iterator))[0]:
        batches, numbers, befores = map(share.ours, read)
        found = zip(map(int, numbers), map(int, befores), map(len, batches), strict=True)
        rounds.append(list(found))
    assert rounds == [[(1, 2, 2), (2, 4, 2)], [(4, 8, 2)]]


def test_variables_are_of_no_strategy_outside_of_its_scope():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        found = outside_scope(lambda: (tf.distribute.has_strategy(), tf.Variable(1.0)))
        with pytest.raises(ZeroDivisionError):
            outside_scope(lambda: 1 / 0)
    assert not found[0] and not isinstance(found[1], tf.distribute.DistributedValues)
