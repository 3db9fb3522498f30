"""Measures for least squares of the weights that use units, and what their errors do to outputs.

For a weight that is the matrix W of products x W: the sums of x and x x' over all rows x, and

    G = sum of (dL/dW)' dL/dW / tr(sum x x')

for L the outputs of the model, each divided by its standard deviation and given a random sign. Over
the signs, (dL/dW)' dL/dW is the sum over examples of |x|^2 times what an error of x W does to the
squared error of the outputs. So that of W + D is tr(G D' H D), in the approximation of K-FAC, with
H = sum x x'. Of other weights w, the sum over elements of a unit of w dL/dw is measured: its square
is what becomes of the outputs when these are 0, to first order.

Reference:
    J. Martens, R. Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate
    Curvature", https://arxiv.org/abs/1503.05671.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfprune.criteria.effect_pass import EffectPass
from tfprune.criteria.second_moments import Total
from tfprune.criteria.weight_uses import moved, products_of
from tfprune.measuring.accumulators import Accumulator, accumulators
from tfprune.measuring.data_pass import Untracked

MOST_OUTPUTS = 1024
"""The most outputs of a matrix for which the products of their errors are measured; of more, the
squares alone."""


@dataclass(frozen=True, eq=False)
class Consumer:
    """A matrix that inputs are multiplied with, and what was measured of it.

    Attributes:
        matrix: `tfprune.criteria.second_moments.Matrix`.
        gram: Array (groups, rows, rows), the sum of x x'.
        total: Array (groups, rows), the sum of x.
        count: Float, how many x there were in each group.
        effect: Array (groups, outputs, outputs), G divided by the number of outputs of the model
            over all examples; of many outputs (groups, outputs), its diagonal.
    """

    matrix: object
    gram: np.ndarray
    total: np.ndarray
    count: float
    effect: np.ndarray


@dataclass(frozen=True, eq=False)
class Removal:
    """Elements of weights that become 0 together with each of some units.

    Attributes:
        pieces: Pairs of a variable and an integer array of its shape: for each element the number
            of its unit, from 0, or `units` where it belongs to none.
        units: Integer, how many units there are.
    """

    pieces: tuple
    units: int


def measure_consumers(model, variables, uses, removals, data, verbose=0):
    """Measures how weights use their inputs, in one pass over data.

    Args:
        model: The model.
        variables: Weights of it.
        uses: The `Use` of each; those with a problem are left out.
        removals: `Removal`s, with pieces of any weights.
        data, verbose: See `tfprune.criteria.measuring.measure`.

    Returns:
        For each variable a list of `Consumer`, one for each matrix of its use; for each removal an
        array of how much the outputs change without a unit, relative.

    Raises:
        ValueError: If outputs of the model do not depend on the weights in a way that has a
            gradient.
    """
    run = _Consumers(model, variables, uses, removals, data)
    run.run(data, verbose)
    return run.consumers(), run.changes()


class _Consumers(EffectPass):
    def __init__(self, model, variables, uses, removals, data):
        removed = [variable for each in removals for variable, _ in each.pieces]
        every = {id(variable): variable for variable in (*variables, *removed)}
        super().__init__(model, list(every.values()), data)
        place = {key: index for index, key in enumerate(every)}
        matrices = {
            place[id(variable)]: use.matrices
            for variable, use in zip(variables, uses, strict=True)
            if use.problem is None
        }
        inputs = {each.inputs: each for found in matrices.values() for each in found}
        effects = {
            (index, number): _effect(matrix, self.variables_read.items[index])
            for index, found in matrices.items()
            for number, matrix in enumerate(found)
        }
        changes = accumulators([(each.units,) for each in removals], "float64")
        self._given = Untracked([matrices, removals, [place[id(v)] for v in variables], place])
        self._sums = Untracked([{key: Total(each) for key, each in inputs.items()}, effects])
        self._changes = Untracked(changes)

    def add_batch(self, x, y, sample_weight, size):
        """One batch: sums of inputs, then gradients."""
        tensors, signed, tape = self.signed(x)
        self._add_inputs(tensors)
        for one in signed:
            gradients = tape.gradient(one, tensors, unconnected_gradients="zero")
            self._add_gradients(tensors, [tf.convert_to_tensor(each) for each in gradients])
        del tape

    def _add_inputs(self, tensors):
        matrices, _, _, _ = self._given.items
        missing = dict(self._sums.items[0])
        for index, found in matrices.items():
            products = products_of(tensors[index])
            for matrix in found:
                total = missing.pop(matrix.inputs, None)
                for product in products if total is not None else ():
                    if product.steps == matrix.steps:
                        total.add(product)

    def _add_gradients(self, tensors, gradients):
        matrices, removals, _, place = self._given.items
        for index, found in matrices.items():
            for number, matrix in enumerate(found):
                form = tf.cast(moved(gradients[index], matrix.steps, tf), "float64")
                total = self._sums.items[1][index, number]
                is_square = len(total.shape) == 3
                added = tf.matmul(form, form, transpose_a=True) if is_square else form**2
                total.assign_add(added if is_square else tf.reduce_sum(added, 1))
        for removal, total in zip(removals, self._changes.items, strict=True):
            change = tf.zeros((removal.units,), "float64")
            for variable, units in removal.pieces:
                index = place[id(variable)]
                product = tf.cast(tensors[index], "float64") * tf.cast(gradients[index], "float64")
                flat = tf.reshape(product, [-1]), tf.constant(units.reshape(-1), "int32")
                change += tf.math.unsorted_segment_sum(*flat, removal.units + 1)[:-1]
            total.assign_add(tf.square(change))

    def consumers(self):
        """For each variable given a list of `Consumer`."""
        matrices, _, places, _ = self._given.items
        totals, effects = self._sums.items
        taken = {
            key: (each.take(self.replicas), *each.take_sums(self.replicas))
            for key, each in totals.items()
        }
        effects = dict(zip(effects, self.replicas.totals(effects.values()), strict=True))
        scale, found = self.scale(), []
        for index in places:
            consumers = []
            for number, matrix in enumerate(matrices.get(index, ())):
                gram, sums, count = taken[matrix.inputs]
                traces = np.einsum("gii->g", gram).astype("float64")
                by = scale * np.where(traces > 0, traces, 1.0)
                effect = effects[index, number]
                effect = effect / by.reshape([-1] + [1] * (effect.ndim - 1))
                consumers.append(Consumer(matrix, gram, sums[0], count, effect))
            found.append(consumers)
        return found

    def changes(self):
        """For each removal an array over its units."""
        scale = self.scale()
        return [total / scale for total in self.replicas.totals(self._changes.items)]


def _effect(matrix, variable):
    groups, _, outputs = moved(np.empty(variable.shape, "bool"), matrix.steps).shape
    shape = (groups, outputs, outputs) if outputs <= MOST_OUTPUTS else (groups, outputs)
    return Accumulator(shape, "float64")
