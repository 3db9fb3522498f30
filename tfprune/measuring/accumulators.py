"""Sums over data that a model runs on, one on each replica that shares the data."""

import numpy as np
import tensorflow as tf

from tfprune.measuring.replicas import here


class Accumulator:
    """A sum over data: a variable on each replica, which begins with zeros.

    What adds to it on a replica adds to the variable there, and `value` is the value there. The
    total is that of `Replicas.totals`, when all data was gone through.

    Args:
        shape: The shape, as a tuple.
        dtype: String.

    Example:

    >>> total = Accumulator((2,))
    >>> total.assign_add(np.ones(2))
    >>> total.value.numpy()
    array([1., 1.], dtype=float32)
    """

    def __init__(self, shape, dtype="float32"):
        self.shape = tuple(shape)
        self.dtype = dtype
        self._variables = {}

    @property
    def variable(self):
        """The `tf.Variable` of the replica that runs now."""
        place, device = here()
        if place not in self._variables:
            with tf.init_scope(), tf.device(device):
                zeros = tf.zeros(self.shape, self.dtype)
                # Of any shape, so that it can be emptied.
                made = tf.Variable(zeros, trainable=False, shape=tf.TensorShape(None))
                self._variables[place] = made
        return self._variables[place]

    @property
    def value(self):
        """The value on the replica that runs now, as a tensor."""
        return tf.ensure_shape(self.variable, self.shape)

    def assign_add(self, value):
        """Adds to the value on the replica that runs now."""
        self.variable.assign_add(tf.cast(value, self.dtype))

    def assign(self, value):
        """Sets the value on the replica that runs now."""
        self.variable.assign(tf.cast(value, self.dtype))

    def reset(self):
        """Begins anew on all replicas."""
        for variable in self._variables.values():
            variable.assign(tf.zeros(self.shape, self.dtype))

    def parts(self):
        """The values on the replicas of this process, as arrays."""
        if not self._variables:
            return [np.zeros(self.shape, self.dtype)]
        return [variable.numpy() for _, variable in sorted(self._variables.items())]

    def free(self):
        """Frees the memory. TensorFlow may keep variables for longer, but no values then."""
        for variable in self._variables.values():
            variable.assign(tf.zeros((0,), self.dtype))


def accumulators(shapes, dtype="float32"):
    """A list of `Accumulator`s of some shapes."""
    return [Accumulator(shape, dtype) for shape in shapes]
