"""Runs a `tf_keras` model and its Keras 3 counterpart, whole or layer by layer."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.interop.tf_keras.description import leaves, mapped
from tfprune.interop.tf_keras.live import is_graph, symbolic_inputs


def call_arguments(model, arrays):
    """The arguments with which a `tf_keras` model is called in inference.

    Args:
        model: The model.
        arrays: A flat list of an array for each input.

    Returns:
        A tuple and a dict.
    """
    training = {"training": False} if _keras.legacy_takes_training(model) else {}
    if is_graph(model):
        return (keras.tree.pack_sequence_as(model.input, arrays),), training
    remaining = iter(arrays)
    arguments = mapped(
        symbolic_inputs(model), lambda leaf: next(remaining) if hasattr(leaf, "dtype") else leaf
    )
    return arguments[0], {**arguments[1], **training}


def outputs_by_layer(theirs, ours, tensors, arrays):
    """The outputs of the calls in both models, in an order in which they run.

    Args:
        theirs: A Functional or Sequential model of `tf_keras`.
        ours: Its counterpart.
        tensors: `Build.tensors`; empty for a Sequential model.
        arrays: A flat list of an array for each input.

    Returns:
        The names of the layers in `tf_keras`, a list of arrays of theirs, and one of ours.
    """
    import tf_keras

    found = []
    if tensors:
        for (key, place), outputs in tensors.items():
            old = keras.tree.flatten(theirs.get_layer(key).get_output_at(place))
            found += [(key, *pair) for pair in zip(old, outputs, strict=True)]
    else:
        layers = zip(theirs.layers, ours.layers, strict=True)
        found = [(old.name, old.output, new.output) for old, new in layers]
    found = [entry for entry in found if _keras.is_symbolic(entry[2])]
    names, old, new = map(list, zip(*found, strict=True))
    args, kwargs = call_arguments(theirs, arrays)
    before = tf_keras.Model(theirs.input, old)(*args, **kwargs)
    after = keras.Model(ours.input, new)(*args, **kwargs)
    return names, *(
        [np.asarray(keras.ops.cast(each, "float64")) for each in leaves(list(outputs))]
        for outputs in (before, after)
    )
