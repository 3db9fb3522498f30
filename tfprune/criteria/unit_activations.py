"""Statistics of the activations that layers read units from, measured while a model runs.

A unit is read where other units are made out of it: at the input of each layer that uses it, so
after the norm and the activation that follow its maker, and after a residual sum. That is what
becomes 0 when the unit goes. Norms, activations, pooling and depthwise convolutions pass a unit on.
Time steps that a mask leaves out are measured like all others.

A gradient at a tensor is that by way of these layers alone, so a sum over the tensors of a residual
stream counts nothing twice. The calls of the model are run one by one (`trace_runs.py`), which
gives access to every tensor.
"""

from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.labels import FIXED
from tfprune.coupling.model_inputs import input_structure
from tfprune.coupling.rules import Rule, rule_of
from tfprune.criteria.measuring import check_compiled
from tfprune.criteria.trace_runs import refuse_repeated, run_calls, traced_for_one_size
from tfprune.criteria.unit_slices import roles
from tfprune.measuring.accumulators import Accumulator
from tfprune.measuring.data_pass import DataPass, Untracked

STATISTICS = ("mean", "variance", "zero_share")
"""The measures that need no loss."""

MEASURES = (*STATISTICS, "contribution")
"""All measures by name."""


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor that layers read units from.

    Its arrays have an axis for each axis of the tensor without the batch axis, of size 1 where the
    units do not change along it: there, and over examples, everything is averaged.

    Attributes:
        tensor: The `Tensor` of the trace.
        calls: The calls that read units from it.
        units: The unit which stands at each position, 0 where none is read.
        mean: The mean of the activations, float64.
        variance: Their variance, that of all and not of a sample.
        zero_share: Which share of them is exactly 0.
    """

    tensor: Tensor
    calls: tuple = field(repr=False)
    units: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    variance: np.ndarray = field(repr=False)
    zero_share: np.ndarray = field(repr=False)

    def by_unit(self, name):
        """The units that are read from the tensor, and a measure of each over its positions."""
        found, indices = np.unique(self.units, return_inverse=True)
        indices = indices.reshape(-1)
        counts = np.bincount(indices)

        def averaged(values):
            return np.bincount(indices, values.reshape(-1)) / counts

        values = averaged(getattr(self, name))
        if name == "variance":
            means = averaged(self.mean)
            values += averaged(np.square(self.mean.reshape(-1) - means[indices]))
        return found[found != FIXED], values[found != FIXED]


def in_tensors(coupling):
    """Which units occur in a tensor: not the heads and key dimensions inside an attention."""
    visible = np.zeros(coupling.size, bool)
    for labels in coupling.tensor_labels.values():
        visible[coupling.roots[labels]] = True
    return visible


def _captures(units, sets):
    """The tensors which layers read units of some sets from, with the calls that do."""
    coupling = units.coupling
    wanted = np.zeros(coupling.size, bool)
    for unit_set in units.sets if sets is None else sets:
        wanted[unit_set.units] = True
    reads = {}
    role_of = roles(coupling)
    for piece in coupling.slices:
        if role_of.get(id(piece)) == "consumers":
            used = reads.setdefault(id(piece.layer), np.zeros(coupling.size, bool))
            used[coupling.roots[piece.labels]] = True
    found = {}
    for call in coupling.trace.calls:
        passed = np.zeros(coupling.size, bool)
        for tensor in call.outputs:
            passed[coupling.roots[coupling.tensor_labels[tensor]]] = True
        is_read = wanted & (~passed & _joins(call) | reads.get(id(call.operation), False))
        for tensor in dict.fromkeys(call.inputs):
            units_at = coupling.roots[coupling.tensor_labels[tensor]]
            if is_read[units_at].any():
                capture = found.setdefault(tensor, ActivationCapture(tensor, units_at))
                capture.read(call, is_read[units_at])
    return list(found.values())


def _seen_in(trace, captures):
    """The captures whose tensors can be seen: in layers traced for one size, those layers read."""
    for capture in captures:
        capture.calls = [
            call
            for call in capture.calls
            if isinstance(call.operation, keras.layers.Layer)
            or traced_for_one_size(call, trace) is None
        ]
    refuse_repeated(trace)
    return [capture for capture in captures if capture.calls]


def _joins(call):
    """Whether a call computes something from units, rather than moving or dropping some."""
    return type(rule_of(call.operation)).needs is not Rule.needs


class ActivationCapture:
    """A tensor that is measured where some calls read it."""

    def __init__(self, tensor, units_at):
        self.tensor = tensor
        self.calls = []
        self.units_at = units_at
        self.is_read = np.zeros(units_at.shape, bool)

    def read(self, call, where):
        """Notes that a call reads the units at some positions."""
        self.calls.append(call)
        self.is_read |= where

    @property
    def units(self):
        """The unit which is read at each position, or 0."""
        return np.where(self.is_read, self.units_at, FIXED)

    @property
    def members(self):
        """The units that are read."""
        return np.setdiff1d(self.units, [FIXED])

    def begin(self):
        """Makes the sums, in double precision because they add up over all the data."""
        shapes = [(), *[self.units_at.shape] * 3, self.members.shape]
        sums = (Accumulator(shape, "float64") for shape in shapes)
        self.count, self.mean, self.squares, self.zeros, self.contribution = sums

    def add(self, activations):
        """Adds a batch to mean, sum of squares around it, and number of zeros."""
        a = tf.cast(activations, "float32")
        axes = [0, *(i + 1 for i, size in enumerate(self.units_at.shape) if size == 1)]
        count = tf.cast(tf.size(a), "float64") / self.units_at.size
        mean, variance = tf.nn.moments(a, axes, keepdims=True)
        mean, variance = (tf.cast(m[0], "float64") for m in (mean, variance))
        before = tf.identity(self.count.value)
        total, away = before + count, mean - self.mean.value
        self.mean.assign_add(away * count / total)
        self.squares.assign_add(variance * count + tf.square(away) * before * count / total)
        zeros = tf.reduce_sum(tf.cast(tf.equal(a, 0), "float64"), axes, keepdims=True)[0]
        self.zeros.assign_add(zeros)
        self.count.assign(total)

    def add_contribution(self, activations, gradients, size):
        """Adds |mean over positions of a dL/da| of each example of a batch."""
        product = tf.cast(activations, "float32") * tf.cast(gradients, "float32")
        axes = [i + 1 for i, size in enumerate(self.units_at.shape) if size == 1]
        by_position = tf.reduce_mean(product, axes) if axes else product
        by_position = tf.reshape(by_position, (tf.shape(product)[0], self.units_at.size))
        members = self.members
        indices = np.searchsorted(members, self.units.reshape(-1)) % len(members)
        indices = np.where(self.is_read.reshape(-1), indices, -1)  # -1 is left out
        by_unit = tf.math.unsorted_segment_mean(tf.transpose(by_position), indices, len(members))
        self.contribution.assign_add(
            tf.cast(tf.reduce_sum(tf.abs(by_unit), axis=1) * size, "float64")
        )

    def statistics(self):
        """The statistics, as `TensorStatistics`."""
        return TensorStatistics(
            tensor=self.tensor,
            calls=tuple(self.calls),
            units=self.units,
            mean=self.mean,
            variance=self.squares / self.count,
            zero_share=self.zeros / self.count,
        )

    def of_units(self, name):
        """A measure for each of `members`."""
        if name == "contribution":
            return self.contribution / self.examples
        return self.statistics().by_unit(name)[1]


def measure_activations(names, units, data, sets=None, verbose=0):
    """Measures the tensors that layers read units from, in one pass over the data.

    Args:
        names: What is measured, of `MEASURES`.
        units: `PrunableUnits`.
        data, verbose: See `tfprune.criteria.measuring.measure`.
        sets: The sets of units that are measured, by default all.

    Returns:
        A list of `ActivationCapture`.

    Raises:
        ValueError: If there is no data, or no loss for a measure.
    """
    if data is None:
        raise ValueError(
            f"The criterion asks for {sorted(names)} of activations, which is measured on data. "
            "Received: data=None. Pass `data=(x, y)` or a dataset."
        )
    needs_loss = "contribution" in names
    if needs_loss:
        check_compiled(units.model, ["contribution"])
    captures = _seen_in(units.coupling.trace, _captures(units, sets))
    for capture in captures:
        capture.begin()
    if captures:
        data_pass = _Activations(units.model, units.coupling.trace, captures, names, needs_loss)
        data_pass.run(data, verbose)
        _end(captures, data_pass)
    return captures


def _end(captures, data_pass):
    """Puts the totals of all replicas in the place of what each of them added up."""
    replicas = data_pass.replicas
    moments = replicas.moments([(each.count, each.mean, each.squares) for each in captures])
    others = replicas.totals(
        [total for each in captures for total in (each.zeros, each.contribution)]
    )
    for place, capture in enumerate(captures):
        count, capture.mean, capture.squares = moments[place]
        capture.count, capture.examples = float(count), float(data_pass.examples_read)
        capture.zeros, capture.contribution = others[2 * place : 2 * place + 2]


class _Activations(DataPass):
    """Runs the calls of a model one by one, and captures the tensors that some of them read."""

    def __init__(self, model, trace, captures, names, needs_loss):
        super().__init__(model, [], needs_loss=needs_loss)
        is_sequential = isinstance(model, keras.Sequential)
        structure = model.inputs[0] if is_sequential else input_structure(model)
        if _keras.functional(model) is None:
            structure = keras.tree.map_structure(_as_input, structure)
        self.entry = keras.Model(structure, keras.tree.flatten(structure))
        self._given = Untracked([trace, captures, names])
        self._seen = Untracked([])
        self._tape = None

    def call(self, inputs, training=False):
        """The outputs of the model; the captured tensors are kept."""
        trace, captures, _ = self._given.items
        values = dict(zip(trace.inputs, keras.tree.flatten(self.entry(inputs)), strict=True))
        seen, read_by = {}, {}
        for capture in captures:
            for call in capture.calls:
                read_by.setdefault(call, []).append(capture.tensor)

        def see(tensor, value):
            if tensor not in seen:
                seen[tensor] = self._watched(value)
            return seen[tensor]

        run_calls(trace, values, read_by, see)
        self._seen.items = [seen[capture.tensor] for capture in captures]
        outputs = [values[tensor] for tensor in trace.outputs]
        return keras.tree.pack_sequence_as(trace.output_structure, outputs)

    def _watched(self, value):
        """The value for those who read it, so that its gradient is theirs alone."""
        if self._tape is None:
            return value
        copy = tf.identity(value)
        self._tape.watch(copy)
        return copy

    def add_batch(self, x, y, sample_weight, size):
        """Adds a batch to the captures."""
        _, captures, names = self._given.items
        if "contribution" in names:
            with tf.GradientTape() as tape:
                self._tape = tape
                loss = self.loss_through([], x, y, sample_weight)
            self._tape = None
            gradients = tape.gradient(loss, self._seen.items, unconnected_gradients="zero")
            for capture, a, gradient in zip(captures, self._seen.items, gradients, strict=True):
                capture.add_contribution(a, gradient, size)
        else:
            self(x, training=False)
        if set(names).intersection(STATISTICS):
            for capture, a in zip(captures, self._seen.items, strict=True):
                capture.add(a)
        self._seen.items = []


def _as_input(tensor):
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
