"""Scatter, slice and one-hot: units pass along axes that are written or taken whole."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.operating import around, beside, drawn, left, pins, with_masks

ops = keras.ops
ROWS = np.array([[0, 1], [1, 0], [0, 3]])


def written(x, rows=ROWS, **kwargs):
    """Steps of some examples replaced by others."""
    return ops.scatter_update(x, rows, 2 * x[: len(rows), 4], **kwargs)


PASSING = {
    "scatter_update": written,
    "scatter_update, added": lambda x: written(x, reduction="add"),
    "scatter_update of numbers": lambda x: ops.scatter_update(x, ROWS, drawn(3, 8)),
    "slice_update": lambda x: ops.slice_update(x, (0, 2, 0), ops.tanh(x[:, :3])),
    "slice_update of numbers": lambda x: ops.slice_update(x, (0, 2, 0), drawn(1, 3, 8)),
    "slice": lambda x: ops.slice(x, (0, 1, 0), (2, 3, 8)),
    "slice of units": lambda x: ops.slice(x, (0, 1, 2), (2, 3, 5)),
    "slice to the end": lambda x: ops.slice(x, (0, 1, 2), (2, 3, -1)),
    "one_hot of places": lambda x: ops.moveaxis(ops.one_hot(ops.argmax(x, axis=1), 6), 1, -1),
    "one_hot before": lambda x: ops.one_hot(ops.argmax(x, axis=1), 6, axis=1),
    "argmin of steps": lambda x: ops.cast(ops.argmin(x, axis=1), "float32"),
    "linspace": lambda x: ops.linspace(x, 2 * x, 3, axis=1),
    "times numbers": lambda x: x * ops.arange(8, dtype="float32") + ops.linspace(0.0, 1.0, 8),
}


@pytest.mark.parametrize("name", PASSING)
def test_masked_units_go(name):
    assert with_masks(around(beside(PASSING[name]))) == 4


@pytest.mark.parametrize(
    "function, reason",
    [
        (lambda x: ops.scatter_update(x, [[0, 1, 2]], [1.0]), "writes at places among its units"),
        (lambda x: ops.slice_update(x, (0, 0, 2), x[:, :, :3]), "writes at places among its units"),
        (lambda x: ops.slice_update(x, (0, 0, 2), drawn(1, 6, 3)), "at places among its units"),
        (lambda x: ops.one_hot(ops.argmax(x, axis=-1), 8), "counts each of its units"),
        (lambda x: ops.argmin(x, axis=-1, keepdims=True), "counts each of its units"),
        (lambda x: ops.top_k(x, 3)[0], "chooses among its units"),
        (lambda x: keras.layers.Softmax()(x), "divides by a sum over all of them"),
        (lambda x: ops.softmax(x, axis=(1, 2)), "divides by a sum over all of them"),
        (lambda x: ops.moments(x, axes=(1, 2), keepdims=True)[1], "counts each of its units"),
    ],
)
def test_pinned_with_the_reason(function, reason):
    found = pins(around(lambda x: [x, ops.cast(function(x), "float32")]))
    assert any(reason in each for each in found), found


@pytest.mark.parametrize("zeros", [ops.zeros, np.zeros], ids=["tensor", "array"])
def test_what_is_written_into_numbers(zeros):
    model = around(lambda x: [ops.scatter_update(zeros((2, 6, 8), "float32"), ROWS, x[:3, 0]), x])
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0), only=["d"])
    assert left(tfprune.strip(model)) == 4  # in single precision, as the numbers are
