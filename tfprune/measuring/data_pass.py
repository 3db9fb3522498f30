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
from tfprune.measuring.accumulators import accumulators
from tfprune.measuring.data import check_ends, check_fits, check_kind, fit_arguments, running
from tfprune.measuring.replicas import outside_scope, replicas_of
from tfprune.measuring.shares import Share, without_optionals

EAGER_BATCHES = 16
"""The most batches for which a pass runs eagerly: tracing a model takes as long as several."""


class DataPass(keras.Model):
    """Runs a model over data by Keras's `evaluate`; a subclass measures in `add_batch`.

    Under a strategy each replica takes its share of the batches, see `tfprune.measuring.replicas`.
    Sums are `Accumulator`s, and `replicas.totals` gives those of all.

    Attributes:
        traces_always: Whether it is traced for few batches too.
        replicas: The `Replicas` that share the data.
        examples_read, batches_read: Integers, how many all replicas went through in `run`.
    """

    traces_always = True

    def __init__(self, model, variables=(), *, needs_loss=True):
        super().__init__(name=f"measuring_{model.name}")
        _keras.leave_strategy(self)
        self.replicas = replicas_of(model)
        self.measured = model
        self.variables_read = Untracked(variables)
        self.examples_read = self.batches_read = 0
        self.counters = Untracked(accumulators([()] * 4))
        self._position = Untracked([None, None])
        self._share = Share(self.replicas)
        arguments = _keras.compile_arguments(model) if needs_loss else {}
        self.compile(
            loss=arguments.get("loss"),
            loss_weights=arguments.get("loss_weights"),
            run_eagerly=arguments.get("run_eagerly", False),
            jit_compile=False,
            steps_per_execution=self.replicas.count,
        )

    @property
    def batch_number(self):
        """The number of the batch that is measured, from 0, among all; a tensor."""
        return self._position.items[0]

    @property
    def examples_before(self):
        """How many examples the batches before the one that is measured hold, a tensor."""
        return self._position.items[1]

    @property
    def examples_here(self):
        """How many examples the replica that runs now has measured before, a tensor."""
        return self.counters.items[1].value

    def call(self, inputs, training=False):
        """The outputs of the model."""
        return self.measured(inputs, training=training)

    def run(self, data, verbose=0, batch_size=None):
        """Runs the model over the data once.

        Raises:
            NotFiniteError: If the data or a weight of the model hold NaN or infinity.
            ValueError: If there is no data, or no end of it, the batch size is no integer, or
                processes got other data than each other.
        """
        outside_scope(lambda: self._run(data, verbose, batch_size))

    def _run(self, data, verbose, batch_size):
        for counter in self.counters.items:
            counter.reset()
        self._share = Share(self.replicas)
        error = None
        try:
            self._run_share(data, verbose, batch_size)
        except Exception as raised:
            if not self.replicas.has_others:
                raise
            error = raised  # the others are told before it is raised
        self._share.check_others(error)
        batches, examples, bad, _ = self.replicas.totals(self.counters.items)
        self.batches_read, self.examples_read = int(batches), int(examples)
        if not self.examples_read:
            raise ValueError(_no_batches(data))
        if bad:
            first = self.replicas.gathered([self._first_bad()])
            raise NotFiniteError(
                "Argument `data` must hold finite numbers. Received: NaN or infinity in "
                f"{int(bad)} batches, the first in batch {int(first.min())}."
            )

    def _first_bad(self):
        _, _, bad, first = (counter.parts() for counter in self.counters.items)
        return min((n for n, is_bad in zip(first, bad, strict=True) if is_bad), default=np.inf)

    def _run_share(self, data, verbose, batch_size):
        if batch_size is not None:
            check_integer("batch_size", batch_size)
        check_finite_weights(self.measured)
        check_finite_data("data", data)
        check_ends(data)
        states = [(s, np.asarray(s).copy()) for s in _keras.recurrent_states(self.measured)]
        if states and self.replicas.count > 1:
            raise ValueError(
                "A model whose recurrent layers are stateful cannot be measured by several "
                "replicas, since they hand their states from batch to batch. Received: "
                f"model={self.measured.name!r}, {self.replicas.count} replicas. Measure a copy "
                "that was made outside of `strategy.scope()`."
            )
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
        rounds = batches if math.isinf(batches) else -(-batches // self.replicas.count)
        shown = {"verbose": verbose, "callbacks": progress.of_pass(rounds)}
        try:
            with running(self.measured):
                self.evaluate(**fit_arguments(data), **sizes, **shown)
        except ValueError as error:
            if is_arrays or any(sum(each.parts()) for each in self.counters.items):
                raise
            if not isinstance(data, Iterator):  # what else Keras takes, it has taken
                check_kind(data)
            raise ValueError(f"{_no_batches(data)} ({error})") from error
        finally:
            for state, value in states:
                state.assign(value)

    def make_test_function(self, force=False):
        """A function of an iterator that measures a batch, or one for each replica."""
        if self.replicas.count == 1:
            return super().make_test_function(force)
        if self.test_function is not None and not force:
            return self.test_function
        measure = self._measure_round
        if not self.run_eagerly:
            measure = tf.function(measure, reduce_retracing=True, autograph=False)
        traced = set()

        def round_of_batches(iterator):
            read, numbers, befores = self._share.read(iterator)
            if not read:
                raise StopIteration
            if not int(numbers[0]):
                self.begin(read[0])
            count = len(self._share.ours(read))
            if count and count not in traced and not self.run_eagerly:
                traced.add(count)  # once for batches of all sizes
                measure.get_concrete_function(*_specs(iterator, count))
            if count:
                measure(*(self._share.ours(each) for each in (read, numbers, befores)))
            return {"batches": numbers[-1] + 1}

        self.test_function = round_of_batches
        return round_of_batches

    def begin(self, batch):
        """Called with the first batch of all before it is measured, where replicas share them."""

    def _measure_round(self, batches, numbers, befores):
        """Measures a batch on each replica of this process, or on the first of them."""
        for place, each in enumerate(zip(batches, numbers, befores, strict=True)):
            with self.replicas.on(place):
                self._measure(*each)

    def test_step(self, data):
        """Measures one batch."""
        batches, examples, _, _ = self.counters.items
        self._measure(data, batches.value, examples.value)
        return {"batches": batches.value}

    def _measure(self, data, number, before):
        # Where data ends without a word, a last step finds no batch, and must add nothing.
        parts = tf.nest.flatten(data, expand_composites=True)
        with tf.control_dependencies([part for part in parts if part is not None]):
            self._measure_batch(data, number, before)

    def _measure_batch(self, data, number, before):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        size = tf.cast(tf.shape(keras.tree.flatten(x)[0])[0], "float32")
        self._position.items = [number, before]
        with _keras.strides_outside():
            self.add_batch(x, y, sample_weight, size)
        self._position.items = [None, None]
        batches, examples, bad_batches, first_bad = self.counters.items
        is_bad = _is_bad(data)
        is_first = tf.logical_and(is_bad, tf.equal(bad_batches.value, 0.0))
        first_bad.assign(tf.where(is_first, tf.cast(number, "float32"), first_bad.value))
        bad_batches.assign_add(tf.cast(is_bad, "float32"))
        batches.assign_add(1.0)
        examples.assign_add(size)

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


def _specs(iterator, count):
    """What is measured in a round, as specs: the batches, their numbers, the examples before."""
    batch = keras.tree.map_structure(without_optionals, iterator.element_spec)
    return [batch] * count, *[[tf.TensorSpec((), "int64")] * count] * 2


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
