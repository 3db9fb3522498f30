"""Second moments of the inputs of weights in a pruned model, and with those of the dense one.

A weight is multiplied with the rows x in the pruned model, and with z in the dense one, where it is
V. The outputs of W in the pruned model miss those of the dense one by

    tr(W' H W) - 2 tr(W' K V) + a constant,    H = sum x x',    K = sum x z'

Of an error of one output, what it does to the outputs of the model is measured too: the diagonal of
G in `tfprune.criteria.consumer_moments`.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfprune.criteria.effect_pass import EffectPass
from tfprune.criteria.second_moments import Total
from tfprune.criteria.weight_uses import moved, products_of
from tfprune.measuring.accumulators import accumulators
from tfprune.measuring.data_pass import Untracked


@dataclass(frozen=True, eq=False)
class DenseMoments:
    """Sums for a matrix that inputs are multiplied with.

    Attributes:
        gram, cross: Arrays (groups, rows, rows), H and K.
        totals: Array (2, groups, rows), the sums of x and z.
        count: Float, how many x there were in each group.
    """

    gram: np.ndarray
    cross: np.ndarray
    totals: np.ndarray
    count: float

    def without_mean(self):
        """The same of inputs less their means, of which a bias takes care."""
        of_x, of_z = self.totals
        count = max(self.count, 1.0)
        return DenseMoments(
            self.gram - of_x[:, :, None] * of_x[:, None] / count,
            self.cross - of_x[:, :, None] * of_z[:, None] / count,
            np.zeros_like(self.totals),
            self.count,
        )


class DensePass(EffectPass):
    """Measures how weights use their inputs, in a pass over data each time.

    Args:
        model: The dense model.
        tasks: Pairs of a weight of it that carries masks, and its `Use`.
        values: Pairs of a weight of it that carries masks, and a variable with its value in the
            pruned model; those of `tasks` among them.
        data: See `tfprune.criteria.measuring.measure`.
        effects: Whether the effects of errors are measured, which takes gradients.
    """

    keeps = True

    def __init__(self, model, tasks, values, data, *, effects=False):
        super().__init__(model, [variable for variable, _ in values], data)
        places = {id(variable): place for place, (variable, _) in enumerate(values)}
        every = {each.inputs: each for _, use in tasks for each in use.matrices}
        shapes = [
            moved(np.broadcast_to(False, variable.shape), matrix.steps).shape
            for variable, use in tasks
            for matrix in use.matrices
        ]
        sums = accumulators([(g, m) for g, _, m in shapes], "float64")
        self._tasks = Untracked([(places[id(variable)], use) for variable, use in tasks])
        self._values = Untracked([value for _, value in values])
        self._totals = Untracked([{key: Total(each, paired=True) for key, each in every.items()}])
        self._effects = Untracked(sums)
        self._with_effects, self._data = effects, Untracked([data])

    def measure(self):
        """Runs both models over the data once, the pruned one with the values it has now.

        Returns:
            A dict from `Matrix.inputs` to `DenseMoments`, and for each weight a list of arrays
            (groups, outputs), one for each matrix of it: what an error of an output, squared and
            summed over the data, does to the mean squared error of the outputs of the model,
            relative to their variance. Without `effects` None.
        """
        (totals,), (data,) = self._totals.items, self._data.items
        for total in totals.values():
            total.reset()
        for each in (self.elements, *self._effects.items):
            each.reset()
        self.run(data)
        moments = {
            key: DenseMoments(
                *(each.take(self.replicas, run) for run in (0, 1)), *each.take_sums(self.replicas)
            )
            for key, each in totals.items()
        }
        return moments, self._effects_by(moments) if self._with_effects else None

    def add_batch(self, x, y, sample_weight, size):
        """One batch: both runs, then gradients of the pruned model's."""
        values = self._values.items
        if self._with_effects:
            tensors, signed, tape = self.signed(x, values)
        else:
            _, tensors = self.substituted(x, values=values)
        _, dense = self.substituted(x)
        missing = dict(self._totals.items[0])
        for place, use in self._tasks.items:
            pairs = list(zip(products_of(tensors[place]), products_of(dense[place]), strict=True))
            for matrix in use.matrices:
                total = missing.pop(matrix.inputs, None)
                for products in pairs if total is not None else ():
                    if products[0].steps == matrix.steps:
                        total.add(*products)
        for one in signed if self._with_effects else ():
            self._add_effects(tape.gradient(one, tensors, unconnected_gradients="zero"))

    def _add_effects(self, gradients):
        sums = iter(self._effects.items)
        for place, use in self._tasks.items:
            gradient = tf.convert_to_tensor(gradients[place])
            for matrix in use.matrices:
                form = tf.cast(moved(gradient, matrix.steps, tf), "float64")
                next(sums).assign_add(tf.reduce_sum(form**2, 1))

    def _effects_by(self, moments):
        """For each weight the effects of its matrices."""
        sums, found = iter(self.replicas.totals(self._effects.items)), []
        scale = self.scale()
        for _, use in self._tasks.items:
            found.append([])
            for matrix in use.matrices:
                traces = np.einsum("gii->g", moments[matrix.inputs].gram).astype("float64")
                by = scale * np.where(traces > 0, traces, 1.0)
                found[-1].append(next(sums) / by[:, None])
        return found
