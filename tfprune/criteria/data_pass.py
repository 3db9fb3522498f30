"""One pass of a model over data, to measure gradients or activations."""

import math
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools import progress
from tfprune._tools.checks import check_integer
from tfprune._tools.finite import NotFiniteError, check_finite_data, check_finite_weights
from tfprune.measuring.data import check_ends, check_fits, check_kind, running
from tfprune.measuring.metrics import fit_arguments

EAGER_BATCHES = 16
"""The most batches for which a pass runs eagerly: tracing a model takes as long as several."""


class DataPass(keras.Model):
    """Runs a model over data by Keras's `evaluate`; a subclass measures in `add_batch`.

    Attributes:
        traces_always: Whether it is traced for few batches too.
    """

    traces_always = True

    def __init__(self, model, variables=(), *, needs_loss=True):
        super().__init__(name=f"measuring_{model.name}")
        self.measured = model
        self.variables_read = Untracked(variables)
        self.batches = _counter("batches")
        self.examples = _counter("examples")
        self.bad_batches = _counter("bad_batches")
        self.first_bad = _counter("first_bad")
        arguments = _keras.compile_arguments(model) if needs_loss else {}
        self.compile(
            loss=arguments.get("loss"),
            loss_weights=arguments.get("loss_weights"),
            run_eagerly=arguments.get("run_eagerly", False),
            jit_compile=False,
        )

    def call(self, inputs, training=False):
        """The outputs of the model."""
        return self.measured(inputs, training=training)

    def run(self, data, verbose=0, batch_size=None):
        """Runs the model over the data once.

        Raises:
            NotFiniteError: If the data or a weight of the model hold NaN or infinity.
            ValueError: If there is no data, or no end of it, or the batch size is no integer.
        """
        if batch_size is not None:
            check_integer("batch_size", batch_size)
        check_finite_weights(self.measured)
        check_finite_data("data", data)
        check_ends(data)
        states = [(s, np.array(s)) for s in _keras.recurrent_states(self.measured)]
        is_arrays = isinstance(data, (tuple, list))
        sizes = {"batch_size": batch_size} if is_arrays else {}
        # Keras makes up a batch where there is none, so empty data is refused before or after.
        leaves = keras.tree.flatten(data[0]) if is_arrays else []
        if any(np.shape(leaf)[:1] == (0,) for leaf in leaves):
            raise ValueError(_no_batches(data))
        check_fits(self.measured, data)
        batches = count_batches(data, batch_size)
        if not self.traces_always and batches <= EAGER_BATCHES:
            self.run_eagerly = True
        shown = {"verbose": verbose, "callbacks": progress.of_pass(batches)}
        try:
            with running(self.measured):
                self.evaluate(**fit_arguments(data), **sizes, **shown)
        except ValueError as error:
            if is_arrays or float(self.examples):
                raise
            if not isinstance(data, Iterator):  # what else Keras takes, it has taken
                check_kind(data)
            raise ValueError(f"{_no_batches(data)} ({error})") from error
        finally:
            for state, value in states:
                state.assign(value)
        if not float(self.examples):
            raise ValueError(_no_batches(data))
        if float(self.bad_batches):
            raise NotFiniteError(
                "Argument `data` must hold finite numbers. Received: NaN or infinity in "
                f"{int(self.bad_batches)} batches, the first in batch {int(self.first_bad)}."
            )

    def test_step(self, data):
        """Measures one batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        size = tf.cast(tf.shape(keras.tree.flatten(x)[0])[0], "float32")
        with _keras.strides_outside():
            self.add_batch(x, y, sample_weight, size)
        is_bad = _is_bad(data)
        is_first = tf.logical_and(is_bad, tf.equal(self.bad_batches, 0.0))
        self.first_bad.assign(tf.where(is_first, self.batches, self.first_bad))
        self.bad_batches.assign_add(tf.cast(is_bad, "float32"))
        self.batches.assign_add(1.0)
        self.examples.assign_add(size)
        return {"batches": self.batches}

    def add_batch(self, x, y, sample_weight, size):
        """Measures one batch; by default only runs the model, for captured activations."""
        self(x, training=False)

    def loss_through(self, tensors, x, y, sample_weight):
        """The loss as a function of tensors in place of the weights."""
        if y is None:
            raise ValueError(
                "The criterion is measured on the gradient of the loss, which needs targets. "
                "Argument `data` must be `(x, y)`, or a dataset of such batches."
            )
        reads = {
            id(v): tensor for v, tensor in zip(self.variables_read.items, tensors, strict=True)
        }
        with _keras.reading(reads):
            outputs = self(x, training=False)
        return self.compute_loss(x, y, outputs, sample_weight)


def _is_bad(data):
    """Whether a batch holds NaN or infinity, as a tensor."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    floats = [leaf for leaf in leaves if keras.backend.is_float_dtype(leaf.dtype)]
    are_bad = [tf.reduce_any(~tf.math.is_finite(tf.convert_to_tensor(leaf))) for leaf in floats]
    return tf.reduce_any(are_bad) if are_bad else tf.constant(False)


def count_batches(data, batch_size=None):
    """How many batches arrays or a dataset make, infinite where that is not known.

    >>> count_batches((np.zeros((65, 2)),)), count_batches(iter([]))
    (3, inf)
    """
    if isinstance(data, (tuple, list)):
        return -(-len(keras.tree.flatten(data[0])[0]) // (batch_size or 32))
    if isinstance(data, keras.utils.PyDataset):
        number = data.num_batches
    else:
        try:
            number = len(data)
        except TypeError:  # so says a dataset that is made of a generator, or has no end
            number = None
    return math.inf if number is None else number


def _no_batches(data):
    return (
        "The data has no batches, so nothing can be measured; a generator can be gone through "
        f"only once. Received: data of type {type(data).__name__}."
    )


class Untracked:
    """Keeps a list from Keras, which would track what is in it."""

    def __init__(self, items):
        self.items = list(items)


def _counter(name):
    return keras.Variable(0.0, trainable=False, autocast=False, dtype="float32", name=name)


def accumulators(shapes, name, dtype="float32"):
    """Variables of some shapes that begin with 0, kept from Keras."""
    options = {"trainable": False, "autocast": False, "dtype": dtype, "name": name}
    return Untracked(keras.Variable(np.zeros(shape), **options) for shape in shapes)
