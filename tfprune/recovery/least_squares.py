"""Ridge regression for kernel and bias of a layer, from sums over data.

For rows x of the layer's inputs and the error e = target - output of each row, the change of the
kernel D and of the bias d that minimise

    sum |e - x D - d|^2 + ridge * sum_i s_i^2 |D_i|^2,    s_i^2 = sum (x_i - mean x_i)^2

depend only on n, sum x, sum e, sum x'x and sum x'e. The penalty is on the change, not on the
kernel: where the data do not determine the kernel, it stays. Since it grows with the spread of each
input, the solution does not depend on the scale of the inputs.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import tensorflow as tf

from tfprune.measuring.accumulators import accumulators
from tfprune.measuring.replicas import ALONE

ELEMENTS_AT_ONCE = 2**22
"""How many elements of the rows are held at once: 32 MB in double precision."""


class Sums:
    """The sums of one layer, as variables which a traced function can add to.

    Args:
        form: The layer's matrix form, of shape (groups, rows, columns).
    """

    def __init__(self, form):
        groups, rows, columns = form.shape
        self.form = form
        shapes = {
            "count": (),
            "x": (groups, rows),
            "e": (groups, columns),
            "xx": (groups, rows, rows),
            "xe": (groups, rows, columns),
            "ee": (groups, columns),
            "y": (groups, columns),
            "yy": (groups, columns),
        }
        self._totals = dict(zip(shapes, accumulators(shapes.values(), "float64"), strict=True))

    def add(self, inputs, outputs, targets):
        """Adds a batch, by as many examples at a time as memory should hold."""
        inputs, outputs, targets = map(self.form.channels_last, (inputs, outputs, targets))
        groups, rows, _ = self.form.shape
        examples = tf.shape(outputs)[0]
        positions = tf.reduce_prod(tf.cast(tf.shape(outputs)[1:-1], "int64"))
        at_once = ELEMENTS_AT_ONCE // tf.maximum(groups * rows * positions, 1)
        step = tf.cast(tf.clip_by_value(at_once, 1, ELEMENTS_AT_ONCE), "int32")

        def body(start):
            self._add(*(t[start : start + step] for t in (inputs, outputs, targets)))
            return (start + step,)

        tf.while_loop(
            lambda start: start < examples, body, (tf.constant(0),), parallel_iterations=1
        )

    def _add(self, inputs, outputs, targets):
        form = self.form
        x = tf.cast(form.rows(inputs, outputs), "float64")
        y = tf.cast(form.targets(targets), "float64")
        e = y - tf.cast(form.targets(outputs), "float64")
        added = {
            "count": tf.cast(tf.shape(y)[1], "float64"),
            "x": tf.reduce_sum(x, 1),
            "e": tf.reduce_sum(e, 1),
            "xx": tf.matmul(x, x, transpose_a=True),
            "xe": tf.matmul(x, e, transpose_a=True),
            "ee": tf.reduce_sum(e * e, 1),
            "y": tf.reduce_sum(y, 1),
            "yy": tf.reduce_sum(y * y, 1),
        }
        for name, total in self._totals.items():
            total.assign_add(added[name])

    def values(self, replicas=ALONE):
        """The sums over `Replicas` as NumPy arrays by name."""
        return dict(zip(self._totals, replicas.totals(self._totals.values()), strict=True))


@dataclass(frozen=True, eq=False)
class Solution:
    """The change of kernel and bias, and the relative error before and after.

    Attributes:
        kernel: Array of shape (groups, rows, columns).
        bias: Array of shape (groups, columns).
        before, after: Root mean squared error of the columns that may change, divided by the
            standard deviation of their targets.
        ridge: The weight of the penalty.
    """

    kernel: np.ndarray
    bias: np.ndarray
    before: float
    after: float
    ridge: float


def solve(sums, trainable, trainable_bias, ridge):
    """Solves for the change of the trainable elements that minimizes the error.

    Args:
        sums: Dict of arrays, from `Sums.values`.
        trainable: Boolean array (groups, rows, columns), True where the kernel may change.
        trainable_bias: Boolean array (groups, columns).
        ridge: Float above 0, the weight of the penalty; infinite, the kernel stays as it is.

    Returns:
        A `Solution`.
    """
    kernel, bias = np.zeros(trainable.shape), np.zeros(trainable_bias.shape)
    after = np.array(sums["ee"])
    for group in range(len(trainable)):
        count = max(float(sums["count"]), 1.0)
        gram, cross = sums["xx"][group], sums["xe"][group]
        mean_x, mean_e = sums["x"][group] / count, sums["e"][group] / count
        patterns = np.concatenate([trainable[group], trainable_bias[group][None]])
        patterns, which = np.unique(patterns, axis=1, return_inverse=True)
        for index, pattern in enumerate(patterns.T):
            columns, rows = np.flatnonzero(which.ravel() == index), np.flatnonzero(pattern[:-1])
            x = mean_x if pattern[-1] else np.zeros_like(mean_x)
            e = mean_e[columns] if pattern[-1] else np.zeros(len(columns))
            n = sums["count"]
            centred = gram[np.ix_(rows, rows)] - n * np.outer(x[rows], x[rows])
            with_e = cross[np.ix_(rows, columns)] - n * np.outer(x[rows], e)
            squares = np.diag(gram)[rows]
            spread = squares - n * mean_x[rows] ** 2
            spread = np.where(spread > 1e-10 * squares, spread, 0)  # the rest is rounding
            change = _solved(centred, with_e, spread, ridge)
            kernel[np.ix_([group], rows, columns)] = change
            bias[group, columns] = e - x[rows] @ change
            gained = 2 * (change * with_e).sum(0) - (change * (centred @ change)).sum(0)
            after[group, columns] -= gained + n * e**2
    moved = trainable.any(axis=1) | trainable_bias
    errors = (relative_error(sums, squares, moved) for squares in (sums["ee"], after))
    return Solution(kernel, bias, *errors, ridge)


def _solved(gram, cross, spread, ridge):
    """The solution in inputs of spread 1; an input that never changes keeps its weights."""
    if ridge == np.inf:
        return np.zeros(cross.shape)
    scale = np.sqrt(np.where(spread > 0, spread, np.inf))
    scaled = gram / np.outer(scale, scale) + ridge * np.eye(len(scale))
    return scipy.linalg.solve(scaled, cross / scale[:, None], assume_a="pos") / scale[:, None]


def relative_error(sums, squares, moved):
    """The root of the squared errors of some columns, divided by the spread of their targets.

    Args:
        sums: Dict of arrays, from `Sums.values`.
        squares: Array (groups, columns), the sums of squared errors.
        moved: Boolean array (groups, columns), the columns that count.
    """
    spread = (sums["yy"] - sums["y"] ** 2 / max(float(sums["count"]), 1.0))[moved].sum()
    return float(np.sqrt(max(squares[moved].sum(), 0) / spread)) if spread > 0 else 0.0
