"""Batches of independent examples, which the theory of SGD assumes."""

import keras
import numpy as np
import tensorflow as tf

from tfprune.optimizers.preconditioned import check_integer


def independent_batches(data, batch_size, *, steps=None, seed=None):
    """Returns a dataset of batches whose examples are drawn independently, with replacement.

    Use it to sample from a posterior by SGD. `fit` on arrays shuffles them instead, so that each
    example occurs once an epoch and the noise of the batches of an epoch nearly cancels. With the
    steps of theorem 1 to corollary 3 (N / (2 S) steps of memory, half an epoch), that leaves only
    about 0.45 of the variance on average, and 0.25 at the ends of epochs.

    Args:
        data: Arrays of N examples each, in any nesting of tuples and dicts: `(x, y)`, say.
        batch_size: Integer S.
        steps: Integer, the number of batches of an epoch; by default N // S, at least 1.
        seed: Integer; a dataset with the same seed draws the same. Epochs differ from each other.

    Returns:
        A `tf.data.Dataset` of `steps` batches of S examples.

    Raises:
        ValueError: If there is no array or they differ in length, or an argument is out of range.

    Example:

    >>> x, y = np.arange(4.0), np.arange(4.0) ** 2
    >>> for a, b in independent_batches((x, y), 3, steps=2, seed=0):
    ...     print(a.shape, bool(np.all(a**2 == b)))
    (3,) True
    (3,) True
    """
    data = tuple(data) if isinstance(data, list) else data
    lengths = {len(array) for array in keras.tree.flatten(data)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "Argument `data` must hold arrays of one and the same number of examples, at least 1. "
            f"Received: {sorted(lengths)} examples."
        )
    check_integer("batch_size", batch_size)
    size = lengths.pop()
    steps = max(size // batch_size, 1) if steps is None else steps
    check_integer("steps", steps)
    data = keras.tree.map_structure(lambda array: tf.convert_to_tensor(np.asarray(array)), data)
    draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)  # below 2^32

    def gathered(numbers):
        places = numbers * size // 2**32
        return keras.tree.map_structure(lambda array: tf.gather(array, places), data)

    return draws.batch(batch_size, drop_remainder=True).take(steps).map(gathered).prefetch(2)
