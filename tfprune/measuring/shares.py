"""The share of the batches of data that the replicas of this process measure.

All processes are given the same data and read it, so batches have the same numbers in all. That it
is the same is checked: what is read is compared when all of it was gone through.
"""

import itertools
import zlib

import keras
import numpy as np
import tensorflow as tf


class Share:
    """Reads batches, a round for all replicas at a time, and tells which are to be measured here.

    Args:
        replicas: The `Replicas`.
    """

    def __init__(self, replicas):
        self.replicas = replicas
        self._batches = self._examples = self._seen = 0

    def read(self, iterator):
        """Reads a batch for each replica of all processes, or what there is.

        Returns:
            A list of batches; the number of each, and how many examples there are before it, as
            tensors.
        """
        batches, numbers, befores = [], [], []
        for batch in itertools.islice(iterator, self.replicas.count):
            batch = keras.tree.map_structure(without_optionals, batch)
            numbers.append(tf.constant(self._batches, "int64"))
            befores.append(tf.constant(self._examples, "int64"))
            batches.append(batch)
            leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
            self._batches += 1
            self._examples += int(leaves[0].shape[0])
            if self.replicas.has_others:
                self._see(leaves)
        return batches, numbers, befores

    def ours(self, items):
        """Those items of a round that belong to replicas of this process."""
        first = self.replicas.first
        return items[first : first + len(self.replicas.devices)]

    def _see(self, leaves):
        """Takes the size and the first example of a batch into the checksum of the data."""
        for leaf in leaves:
            for part in tf.nest.flatten(leaf, expand_composites=True):  # of a ragged tensor
                first = np.asarray(part[:1])
                text = first.tolist() if first.dtype == object else first.tobytes()
                self._seen = zlib.crc32(f"{part.shape} {text}".encode(), self._seen)

    def check_others(self, error=None):
        """Raises an error where one was raised in any process, or they got different data.

        Args:
            error: What was raised in this process, or None. It is raised.
        """
        if not self.replicas.has_others:
            return
        found = self.replicas.gathered(
            [error is not None, self._batches, self._examples, self._seen]
        )
        if error is not None:
            raise error
        if found[:, 0].any():
            raise RuntimeError(
                "A measurement on data failed in another process, and that one says why. "
                f"Received: an error in {int(found[:, 0].sum())} of {len(found)} processes."
            )
        if (found != found[0]).any():
            raise ValueError(
                "Argument `data` must be the same in all processes, in the same order: each reads "
                "all of it, and measures its share of the batches. Received: data that differs, "
                f"with {', '.join(str(int(n)) for n in found[:, 2])} examples. Let a dataset "
                "shuffle and augment with a `seed`, or not at all, and do not shard it."
            )


def without_optionals(leaf):
    """A part of a batch, or its spec; None for what stands for None in a dataset."""
    is_none = isinstance(leaf, (tf.experimental.Optional, tf.OptionalSpec))
    return None if is_none else leaf
