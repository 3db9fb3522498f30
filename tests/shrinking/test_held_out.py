"""The part of the data on which `prune` judges its stages."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.measuring.data import has_labels
from tfprune.shrinking.held_out import count_examples, hold_out


def numbers(data):
    """The examples of a dataset of numbers, in order."""
    batches = range(len(data)) if isinstance(data, keras.utils.PyDataset) else data
    if isinstance(data, keras.utils.PyDataset):
        batches = [data[index] for index in batches]
    return np.concatenate([np.ravel(x) for x, _ in batches]).astype(int).tolist()


class Batches(keras.utils.PyDataset):
    """Batches of ten numbers."""

    def __init__(self, batches):
        super().__init__()
        self._batches = batches

    def __len__(self):
        return self._batches

    def __getitem__(self, index):
        x = np.arange(10 * index, 10 * index + 10)
        return x, x


@pytest.mark.parametrize("size", [80, 101, 20_000])
def test_arrays_are_split_without_loss_and_evenly(size):
    x, y = np.arange(size), np.arange(size) * 2
    rest, held_out = hold_out(({"a": x}, y, None))
    assert sorted([*rest[0]["a"], *held_out[0]["a"]]) == list(range(size))
    np.testing.assert_array_equal(held_out[1], 2 * held_out[0]["a"])
    assert rest[2] is None
    assert len(held_out[1]) == min(size // 5, 1000)
    steps = np.diff(held_out[0]["a"])
    assert steps.max() - steps.min() <= 1


def test_little_data_is_not_split():
    data = (np.arange(79), np.arange(79))
    assert hold_out(data) == (data, None)
    dataset = tf.data.Dataset.from_tensor_slices(np.arange(70)).batch(10)
    assert hold_out(dataset)[1] is None
    assert hold_out(Batches(4))[1] is None


def test_a_validation_split_is_the_end_as_in_fit():
    rest, held_out = hold_out((np.arange(50), np.arange(50)), validation_split=0.3)
    assert rest[0].tolist() == list(range(35)) and held_out[1].tolist() == list(range(35, 50))


@pytest.mark.parametrize("batches", [8, 40])
def test_batches_are_split_without_loss(batches):
    x = np.arange(10 * batches)
    dataset = tf.data.Dataset.from_tensor_slices((x, x)).batch(10)
    for data in (dataset, *([Batches(batches)] if batches > 8 else [])):
        rest, held_out = hold_out(data)
        assert sorted(numbers(rest) + numbers(held_out)) == x.tolist()
        assert len(numbers(held_out)) == 2 * batches
        assert batches == 8 or len(rest) == 0.8 * batches  # `fit` knows the number of steps
        assert count_examples(data) == len(x)


def test_a_large_dataset_holds_out_a_thousand_examples():
    x = np.arange(40_000)
    rest, held_out = hold_out(tf.data.Dataset.from_tensor_slices((x, x)).batch(50))
    assert len(numbers(held_out)) == 1000 and len(numbers(rest)) == 39_000


def test_labels_are_known_from_the_kind_of_data():
    x = np.ones((4, 2))
    datasets = tf.data.Dataset.from_tensors((x, x)), tf.data.Dataset.from_tensors(x)
    given = [(x, x), (x,), (x, None), *datasets, Batches(1)]
    assert [has_labels(data) for data in given] == [True, False, False, True, False, True]
