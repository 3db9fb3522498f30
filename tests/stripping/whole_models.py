"""Whole models with units pruned, and what they compute beside what is left of them."""

import keras
import numpy as np

import tfprune


def pruned(inputs, outputs, target=0.5, **compiled):
    """A masked model with random weights, a part of its units pruned."""
    model = keras.Model(inputs, outputs, name="whole")
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(0.2 + 0.8 * draw.random(weight.shape))
    if compiled:
        model.compile(**compiled)
    model = tfprune.prunable(model)
    tfprune.prune_units(model, target, tfprune.criteria.Random(seed=0))
    return model


def samples(model, dynamic=7):
    draw = np.random.default_rng(1)

    def numbers(tensor):
        shape = (3, *(size or dynamic for size in tensor.shape[1:]))
        if "int" in tensor.dtype:
            return draw.integers(0, 5, shape).astype("int32")
        return draw.normal(size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(numbers, model.input)


def assert_same_outputs(model, small, tolerance=1e-5, **options):
    x = samples(model, **options)
    ours, theirs = model(x, training=False), small(x, training=False)
    keras.tree.assert_same_structure(ours, theirs)
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        assert np.ptp(a, axis=0).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(a).max())


def stripped(model):
    """The stripped model, which computes what the model computes."""
    small = tfprune.strip(model)
    assert_same_outputs(model, small)
    return small


def kernel(model, *names):
    """The shape of a kernel, in a layer of a model in a model ..."""
    for name in names:
        model = model.get_layer(name)
    return tuple(model.kernel.shape)
