"""Models of `tf_keras` beside what `from_tfmot` made of them."""

import warnings

import keras
import numpy as np

from tfprune.interop.tfmot import from_tfmot


def arrays(model, seed=5):
    """Inputs of other values and another length of batch than those that `from_tfmot` checks."""
    generator = np.random.default_rng(seed)

    def array(tensor):
        shape = [7 if size is None else size for size in tensor.shape[1:]]
        if tensor.dtype.is_integer:
            return generator.integers(0, 9, (3, *shape)).astype("int32")
        return generator.normal(size=(3, *shape)).astype("float32")

    specification = model.save_spec()[0][0] if model.inputs is None else model.input
    return keras.tree.map_structure(array, specification)


def assert_same(theirs, ours):
    inputs = arrays(theirs)
    pairs = zip(
        keras.tree.flatten(theirs(inputs)), keras.tree.flatten(flat_call(ours, inputs)), strict=True
    )
    for old, new in pairs:
        old, new = np.asarray(old), np.asarray(new)
        assert old.dtype == new.dtype
        assert old.dtype.kind == "b" or np.ptp(old) > 1e-3
        scale = np.abs(old.astype("float64")).max()
        np.testing.assert_allclose(old, new, rtol=1e-4, atol=1e-5 * max(scale, 1e-3))


def flat_call(ours, inputs):
    if isinstance(ours, keras.Sequential):
        return ours(inputs)
    return ours(keras.tree.pack_sequence_as(ours.input, keras.tree.flatten(inputs)))


def taken_over(theirs, **kwargs):
    """The new model; warnings are errors, and the model given is as before."""
    layers = [layer for layer in theirs.submodules if hasattr(layer, "_inbound_nodes")]
    before = [len(layer._inbound_nodes) for layer in layers], theirs.get_weights()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", message=".*(without comparing|other operations|training=False).*"
        )
        ours = from_tfmot(theirs, **kwargs)
    assert [len(layer._inbound_nodes) for layer in layers] == before[0]
    for old, new in zip(before[1], theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return ours
