"""Exports a model as a SavedModel that stores each weight once."""

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.shapes import random_inputs, sized_inputs
from tfprune.exporting.graph import changing_operations, module_of, output_names, save, traced

SUFFIX = ""

_PARTS = {
    "assets",
    "assets.extra",
    "fingerprint.pb",
    "keras_metadata.pb",
    "saved_model.pb",
    "variables",
}


def is_model(path):
    """Whether there is a SavedModel at a path, and nothing else."""
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    return "saved_model.pb" in names and names <= _PARTS


def write(model, place):
    """Writes the directory, loads it and compares; see `export`."""
    # The graph stands in `serving_default`; `serve` only calls it, because tf.saved_model.save
    # traces the functions it finds once more.
    function = traced(model)
    module = module_of(model, function)
    module.serve = _in_model_structure(model, function)
    save(module, model, function, place)
    _check(model, function, tf.saved_model.load(place))


def _in_model_structure(model, function):
    """A function which takes and gives tensors in the structure that the model takes and gives."""
    structure = _keras.input_structure(model)
    outputs = _keras.functional(model).output
    names = output_names(model)
    specs = keras.tree.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name), structure
    )

    @tf.function(input_signature=[specs], autograph=False)
    def serve(inputs):
        by_name = function(*keras.tree.flatten(inputs))
        return keras.tree.pack_sequence_as(outputs, [by_name[name] for name in names])

    return serve


def _check(model, function, loaded):
    """Compares what was written with the model, as far as that is cheap."""
    for stored, variable in zip(loaded.values, function.variables, strict=True):
        if stored.numpy().tobytes() != variable.numpy().tobytes():
            raise RuntimeError(
                "The SavedModel holds another value than the model. "
                f"Received: variable={variable.name!r}, path of the model={model.name!r}."
            )
    sizes = sized_inputs(model)
    if changing_operations(function) or any(None in size for size in sizes):
        return
    sample = random_inputs(model, sizes)
    expected = keras.tree.flatten(model(sample, training=False))
    outputs = keras.tree.flatten(loaded.serve(sample))
    for name, ours, theirs in zip(output_names(model), expected, outputs, strict=True):
        if ours.dtype.is_floating and not _agree(ours, theirs):
            raise RuntimeError(
                "The SavedModel does not compute what the model computes. "
                f"Received: output={name!r}, {ours} from the model, {theirs} from the SavedModel."
            )


def _agree(ours, theirs):
    """Whether two tensors are equal up to what reordered sums of their precision may differ."""
    a, b = (np.asarray(tf.cast(tensor, tf.float64)) for tensor in (ours, theirs))
    size = np.max(np.abs(a), initial=1e-3, where=np.isfinite(a))
    tolerance = (1e-3 if ours.dtype.size > 2 else 5e-2) * size
    return np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)
