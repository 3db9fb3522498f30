"""The precision in which a model computes, changed on a copy of it.

Private here, and why:

* `_dtype` of a variable, a symbolic tensor and an input layer, which have one dtype for life;
* `_value` and `_initialize` of a variable, to hold its value in another dtype.
"""

import keras
import tensorflow as tf

from tfprune._keras.copies import copied_objects
from tfprune._keras.graphs import is_symbolic
from tfprune._keras.variables import guard, is_guarded, raw


def in_double_precision(model):
    """A copy of a model in float64, layers, weights and graph, and pairs of an object and its copy.

    What is not a number of any float dtype stays what it is.
    """
    pairs = copied_objects(model)
    for _, part in pairs:
        dtype = part.compute_dtype if isinstance(part, keras.layers.Layer) else _dtype(part)
        if dtype is not None and keras.backend.is_float_dtype(dtype):
            _to_double(part)
    return pairs[0][1], pairs


def _dtype(part):
    has_dtype = is_symbolic(part) or isinstance(part, keras.Variable)
    return keras.backend.standardize_dtype(part.dtype) if has_dtype else None


def _to_double(part):
    if isinstance(part, keras.layers.Layer):
        part.dtype_policy = "float64"
    if not isinstance(part, keras.layers.Layer) or isinstance(part, keras.layers.InputLayer):
        part._dtype = "float64"
    if isinstance(part, keras.Variable) and raw(part) is not None:
        value = tf.cast(tf.convert_to_tensor(raw(part)), "float64")
        with tf.init_scope():
            part._value = None
            part._initialize(value)
        if is_guarded(part):
            guard(part, part.kept, part.live)
