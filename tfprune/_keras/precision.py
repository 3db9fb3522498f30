"""The precision in which a model computes, changed on a copy of it.

Private here, and why:

* `_dtype` of a symbolic tensor and an input layer, which have one dtype for life.
"""

import keras
import tensorflow as tf

from tfprune._keras.copies import copied_objects
from tfprune._keras.graphs import is_symbolic
from tfprune._keras.layers import all_layers
from tfprune._keras.variable_values import raw


def in_precision(model, precision):
    """A copy of a model in a precision, layers, weights and graph.

    What is not a number of any float dtype stays what it is.

    Args:
        model: Any Keras model.
        precision: "float64" or "float32".

    Returns:
        The copy, and pairs of an object and its copy.
    """

    def value(variable):
        if _is_float(variable):
            return tf.cast(tf.convert_to_tensor(raw(variable)), precision)
        return None

    pairs = copied_objects(model, value)
    for _, part in pairs:
        if isinstance(part, keras.layers.Layer) and _is_float(part):
            part.dtype_policy = precision
        is_float = not isinstance(part, keras.Variable) and _is_float(part)
        if is_float and (is_symbolic(part) or isinstance(part, keras.layers.InputLayer)):
            part._dtype = precision
    return pairs[0][1], pairs


def half_precision(model):
    """The float dtype of fewer bits than float32 in which a layer or tensor of a model computes.

    None if there is none.
    """
    found = {layer.compute_dtype for layer in all_layers(model)}
    found |= {_dtype(weight) for weight in model.weights}
    return next((dtype for dtype in ("bfloat16", "float16") if dtype in found), None)


def _dtype(part):
    has_dtype = is_symbolic(part) or isinstance(part, keras.Variable)
    return keras.backend.standardize_dtype(part.dtype) if has_dtype else None


def _is_float(part):
    dtype = part.compute_dtype if isinstance(part, keras.layers.Layer) else _dtype(part)
    return dtype is not None and keras.backend.is_float_dtype(dtype)
