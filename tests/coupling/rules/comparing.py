"""Random weights, whole units set to zeros, and outputs compared in float64."""

import keras
import numpy as np

import tfprune
from tfprune.rebuild.copying import in_double_precision


def randomised(model, seed=0):
    """The model with random weights, none of them zero."""
    draw = np.random.default_rng(seed)
    for weight in model.weights:
        if "seed" not in weight.path and keras.backend.is_float_dtype(weight.dtype):
            value = draw.normal(size=weight.shape) * 0.5
            weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


def zero(variable, axis, indices):
    """Sets slices of a weight to 0."""
    value = np.array(keras.ops.convert_to_numpy(variable))
    np.moveaxis(value, axis, 0)[indices] = 0
    variable.assign(value)


def assert_same(model, small, tolerance=1e-6, seed=1):
    """The models compute the same, measured by how much the output varies with the input."""
    ours, theirs = (in_double_precision(each).model for each in (model, small))
    draw = np.random.default_rng(seed)
    inputs = [random_input(tensor, draw) for tensor in model.inputs]
    given = inputs[0] if len(inputs) == 1 else inputs
    expected, found = (keras.tree.flatten(m(given, training=False)) for m in (ours, theirs))
    assert len(expected) == len(found)
    for a, b in zip(map(np.asarray, expected), map(np.asarray, found), strict=True):
        varies = np.ptp(a, axis=0).max()
        assert varies > 1e-4, "the output must depend on the input for the test to mean anything"
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * varies


def random_input(tensor, draw, batch=6):
    """A batch for an input; dynamic axes get 7 positions."""
    shape = [batch, *(size or 7 for size in tensor.shape[1:])]
    if tensor.dtype == "bool":
        return np.where(draw.random(shape) < 0.3, False, True)
    if "int" in tensor.dtype:
        return draw.integers(0, 5, shape).astype(tensor.dtype)
    return draw.normal(size=shape)


def stripped(model, **kwargs):
    """The stripped model, compared with the one given, and loaded again from its config."""
    small = tfprune.strip(model, **kwargs)
    assert_same(model, small)
    assert "tfprune" not in small.to_json()
    return small
