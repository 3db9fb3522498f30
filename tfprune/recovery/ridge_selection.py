"""Selection of the ridge of a layer by its error on held-out examples."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfprune.recovery.least_squares import relative_error, solve

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)
"""The ridges that are tried. The last leaves the kernel as it is, and moves the bias alone."""

HELD_OUT = 4
"""Every fourth example is held out."""

MOST_PATTERNS = 16
"""Where columns have more patterns of masks, the ridge is selected on so many columns of each
group, since each pattern has an equation of its own."""


def is_held_out(rows, size, first):
    """For each row of a batch whether its example is held out.

    Args:
        rows: Scalar tensor, the number of rows; several in a row may be of one example.
        size: Scalar tensor, the number of examples in the batch.
        first: Scalar tensor, the number of examples in the batches before.

    Example:

    >>> is_held_out(tf.constant(8), tf.constant(4), tf.constant(0)).numpy().astype(int)
    array([0, 0, 0, 0, 0, 0, 1, 1])
    """
    rows, size, first = (tf.cast(value, "int64") for value in (rows, size, first))
    examples = first + tf.range(rows) * size // tf.maximum(rows, 1)
    return examples % HELD_OUT == HELD_OUT - 1


def select_ridge(fit, held_out, trainable, trainable_bias):
    """Solves with the ridge whose solution errs least on held-out examples.

    Args:
        fit: Dict of arrays, the sums over the examples to fit to, from `Sums.values`.
        held_out: The same over those held out.
        trainable: Boolean array (groups, rows, columns), True where the kernel may change.
        trainable_bias: Boolean array (groups, columns).

    Returns:
        A `Solution` whose `before` and `after` are errors on the held-out examples.
    """
    columns = _sample(trainable, trainable_bias)
    part = trainable[..., columns], trainable_bias[..., columns]
    sums, others = (
        {n: _columns(n, s, columns) for n, s in each.items()} for each in (fit, held_out)
    )
    errors = [error_on(others, solve(sums, *part, ridge), *part) for ridge in RIDGES]
    solution = solve(fit, trainable, trainable_bias, RIDGES[int(np.argmin(errors))])
    nothing = dataclasses.replace(
        solution, kernel=np.zeros_like(solution.kernel), bias=np.zeros_like(solution.bias)
    )
    before, after = (
        error_on(held_out, each, trainable, trainable_bias) for each in (nothing, solution)
    )
    return dataclasses.replace(solution, before=before, after=after)


def is_better(before, after, rows):
    """Whether an error has fallen by more than so few held-out rows show by chance.

    Args:
        before, after: Relative errors, see `Solution`.
        rows: Integer, how many rows they were measured on: examples times positions.

    Example:

    >>> [is_better(0.5, 0.48, rows) for rows in (0, 100, 1000)]
    [False, False, True]
    """
    return rows > 0 and bool(after**2 < (1 - rows**-0.5) * before**2)


def error_on(sums, solution, trainable, trainable_bias):
    """The relative error of a solution on the examples that were summed up.

    Args:
        sums: Dict of arrays, from `Sums.values`.
        solution: A `Solution` from these or other sums.
        trainable, trainable_bias: As for `solve`: columns that cannot change do not count.
    """
    kernel, bias = solution.kernel, solution.bias
    squares = (
        sums["ee"]
        - 2 * ((kernel * sums["xe"]).sum(1) + bias * sums["e"])
        + (kernel * (sums["xx"] @ kernel)).sum(1)
        + 2 * bias * (kernel * sums["x"][..., None]).sum(1)
        + float(sums["count"]) * bias**2
    )
    return relative_error(sums, squares, trainable.any(axis=1) | trainable_bias)


def _sample(trainable, trainable_bias):
    """The columns on which the ridge is selected: all, or some evenly spaced ones."""
    columns = trainable.shape[2]
    for group, bias in zip(trainable, trainable_bias, strict=True):
        patterns = np.unique(np.concatenate([group, bias[None]]), axis=1)
        if patterns.shape[1] > MOST_PATTERNS:
            return np.unique(np.linspace(0, columns - 1, MOST_PATTERNS).astype(int))
    return np.arange(columns)


def _columns(name, sums, columns):
    return sums if name in ("count", "x", "xx") else sums[..., columns]
