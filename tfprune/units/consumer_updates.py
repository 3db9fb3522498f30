"""New weights of the layers that lose units, by least squares on their inputs.

For inputs X, of which K stay and R go, the weights W_K of least squares for the outputs X W are

    W_K + H_KK^-1 H_KR W_R,        H = X'X + damping * mean(diag X'X) * I

with X centred where there is a bias, which then makes up for the mean that went.
"""

import numpy as np
import scipy.linalg

from tfprune.coupling.following_norms import following_norms
from tfprune.criteria.kernel_biases import kernel_biases
from tfprune.criteria.weight_uses import moved, write


class ConsumerUpdates:
    """The new weights and biases of layers that lose inputs, to be assigned after masks are set.

    Args:
        units: `PrunableUnits`.
    """

    def __init__(self, units):
        self._units = units
        self._masks = {id(piece.variable): (layer, name) for piece, layer, name in units.masked}
        self._biases = kernel_biases(units.model)
        self._norms = following_norms(units.coupling.trace)
        self._values, self._shifts, self._done = {}, {}, set()

    @staticmethod
    def biased(units):
        """The ids of kernels with a bias, or a batch normalization, that makes up for the mean."""
        norms = following_norms(units.coupling.trace)
        found = kernel_biases(units.model)
        return {
            key for key, (layer, bias) in found.items() if bias is not None or id(layer) in norms
        }

    def add(self, consumers, dead, damping):
        """Works out the update of each matrix that loses inputs, all on the weights before.

        Args:
            consumers: `Consumed`s.
            dead: Boolean array over units: which are gone afterwards.
            damping: Float above 0.
        """
        by_matrix = {}
        for consumer in consumers:
            key = id(consumer.piece.variable), consumer.moments.matrix.steps
            if key not in self._done:
                by_matrix.setdefault(key, []).append(consumer)
        self._done.update(by_matrix)
        for consumer, *others in by_matrix.values():
            variable = consumer.piece.variable
            if not self._may_change(variable):
                continue
            before, steps = np.asarray(variable, "float64"), consumer.moments.matrix.steps
            live = moved(self._live(variable), steps)
            weights, changed = moved(before, steps), moved(before.copy(), steps).copy()
            removed = np.any([dead[each.units] for each in (consumer, *others)], axis=0)
            if not (removed & (weights != 0).any(axis=2)).any():
                continue
            for group in range(len(weights)):
                h = centred(consumer, group, damping)
                changed[group] = _fitted(h, weights[group], removed[group], live[group])
            moments = consumer.moments
            means = moments.total / max(moments.count, 1.0)
            shift = np.einsum("gr,grk->gk", means, weights - changed)
            value = self._values.setdefault(id(variable), (variable, before.copy()))[1]
            write(value, steps, changed)
            if consumer.has_bias:
                self._add_shift(variable, steps, changed.shape, shift)

    def apply(self):
        """Assigns the new values; masks hold what is pruned."""
        for variable, value in self._values.values():
            variable.assign(value)
        for variable, value in self._shifts.values():
            variable.assign(np.asarray(variable, "float64") + value)

    def _may_change(self, variable):
        layer, _ = self._masks[id(variable)]
        return layer.trainable and variable.trainable and variable.constraint is None

    def _live(self, variable):
        """Which elements of a weight no mask holds."""
        layer, name = self._masks[id(variable)]
        return np.asarray(layer.trainable_masks[name]) & ~np.asarray(layer.frozen_masks[name])

    def _add_shift(self, kernel, steps, shape, shift):
        """Adds what a kernel lacks in the mean to its bias, or takes it off the norm's mean."""
        layer, bias = self._biases[id(kernel)]
        target = self._norms[id(layer)].moving_mean if bias is None else bias
        sign = -1 if bias is None else 1
        if bias is not None and (bias.constraint is not None or not bias.trainable):
            return
        places = np.arange(int(np.prod(target.shape))).reshape(target.shape)
        places = moved(np.broadcast_to(places, kernel.shape), steps)[:, 0, :]
        total = self._shifts.setdefault(id(target), (target, np.zeros(target.shape)))[1]
        np.add.at(total.reshape(-1), places.reshape(-1), sign * shift.reshape(-1))


def centred(consumer, group, damping):
    """The damped H of the inputs of one group, centred where a bias makes up for the mean."""
    moments = consumer.moments
    gram = np.array(moments.gram[group], "float64")
    if consumer.has_bias:
        gram -= np.outer(moments.total[group], moments.total[group]) / max(moments.count, 1.0)
    diagonal = np.diag(gram)
    used = diagonal[diagonal > 0]
    gram[np.diag_indices_from(gram)] += damping * (used.mean() if used.size else 1.0)
    return gram


def _fitted(h, weights, removed, live):
    """The weights of least squares without the inputs that are gone, where they may change."""
    found, lost = weights.copy(), weights * removed[:, None]
    found[removed] = 0
    missing = h @ lost
    may_change = live & ~removed[:, None]
    patterns, which = np.unique(may_change, axis=1, return_inverse=True)
    for index, rows in enumerate(patterns.T):
        columns = which.ravel() == index
        if rows.any():
            found[np.ix_(rows, columns)] += scipy.linalg.solve(
                h[np.ix_(rows, rows)], missing[np.ix_(rows, columns)], assume_a="pos"
            )
    return found
