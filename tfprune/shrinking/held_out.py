"""Splits data into a part to work with and a part that is held out."""

import keras
import numpy as np
import tensorflow as tf

SHARE = 5
"""Every fifth example, or batch, is held out."""

MOST = 1000
"""The most examples that are held out."""

LEAST = 16
"""The fewest: with less of them nothing is held out, and all data serves for both."""


def hold_out(data, validation_split=None):
    """Splits data into two parts: to fit and train on, and to judge on.

    A fifth is held out, at most about a thousand examples: of arrays evenly spaced ones, of
    datasets every fifth batch. A dataset that shuffles its examples anew each time it is gone
    through mixes the parts.

    Args:
        data: Arrays as `(x,)`, `(x, y)` or `(x, y, sample_weight)`, a `tf.data.Dataset` or a
            `keras.utils.PyDataset` of batches.
        validation_split: Float, the share of arrays that is held out, their end, as `fit` does it.

    Returns:
        Two data of the same kind; or `data` and None, where there is too little of it.

    Example:

    >>> rest, held_out = hold_out((np.arange(100), np.zeros(100)))
    >>> len(rest[0]), held_out[0][:4]
    (80, array([ 2,  7, 12, 17]))
    """
    if isinstance(data, (tuple, list)):
        return _of_arrays(data, validation_split)
    return _of_dataset(data) if isinstance(data, tf.data.Dataset) else _of_py_dataset(data)


def count_examples(data):
    """How many examples data holds: an integer, of datasets by the size of the first batch."""
    if isinstance(data, (tuple, list)):
        return len(keras.tree.flatten(data[0])[0])
    if isinstance(data, keras.utils.PyDataset):
        return (data.num_batches or 1) * len(keras.tree.flatten(data[0])[0])
    first = keras.tree.flatten(next(iter(data.take(1))))[0]
    return max(int(data.cardinality()), 1) * len(first)


def _of_arrays(data, validation_split):
    size = len(keras.tree.flatten(data[0])[0])
    if validation_split:
        selected = np.arange(int(size * (1 - validation_split)), size)
    else:
        count = min(size // SHARE, MOST)
        if count < LEAST:
            return data, None
        selected = np.arange(count) * size // count + size // count // 2
    others = np.delete(np.arange(size), selected)
    return tuple(_taken(data, part) for part in (others, selected))


def _taken(data, indices):
    def take(array):
        return None if array is None else np.asarray(array)[indices]

    return tuple(keras.tree.map_structure(take, part) for part in data)


def _of_dataset(data):
    batches = int(data.cardinality())
    first = next(iter(data.take(1)), None)
    if first is None or batches == tf.data.INFINITE_CARDINALITY:
        return data, None
    size = int(tf.shape(keras.tree.flatten(first)[0])[0])
    if 0 <= batches < 2 * SHARE:
        if batches * size < SHARE * LEAST:
            return data, None
        return tuple(part.batch(size) for part in _every(data.unbatch(), SHARE, None))
    known = batches if batches > 0 else None
    return _every(data, max(SHARE, -(-batches * size // MOST)), known)


def _every(data, step, cardinality):
    """All elements of a dataset but every `step`-th, and those."""

    def part(is_held_out):
        selected = data.enumerate().filter(lambda i, _: (i % step == step - 1) == is_held_out)
        selected = selected.map(lambda _, element: element)
        if cardinality is None:
            return selected
        held_out = cardinality // step
        size = held_out if is_held_out else cardinality - held_out
        return selected.apply(tf.data.experimental.assert_cardinality(size))

    return part(False), part(True)


def _of_py_dataset(data):
    batches = data.num_batches
    if batches is None or batches < SHARE:
        return data, None
    size = len(keras.tree.flatten(data[0])[0])
    step = max(SHARE, -(-batches * size // MOST))
    if batches < step or batches // step * size < LEAST:
        return data, None
    selected = set(range(step - 1, batches, step))
    return (
        _Batches(data, [index for index in range(batches) if index not in selected]),
        _Batches(data, sorted(selected)),
    )


class _Batches(keras.utils.PyDataset):
    """Some batches of a `PyDataset`."""

    def __init__(self, source, indices):
        names = ("workers", "use_multiprocessing", "max_queue_size")
        super().__init__(**{name: getattr(source, name) for name in names})
        self._source = source
        self._indices = indices

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        return self._source[self._indices[index]]

    def on_epoch_end(self):
        """Passed on."""
        self._source.on_epoch_end()
