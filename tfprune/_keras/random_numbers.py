"""Restores what a call of a model changes: seeds, states and counters, TensorFlow's seed.

Private here, and why:

* `_seed` and `_rng` of TensorFlow's eager context: the global seed and what was drawn from it,
  which `tf.random.set_seed` sets but nothing reads. There is no `_rng` before it is called.
"""

import contextlib

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context as eager

from tfprune._keras.layers import recurrent_states
from tfprune._keras.variable_values import raw


@contextlib.contextmanager
def unchanged(model):
    """A context at whose end all variables that are not trained are as they were at its begin.

    Layers change some of them when they are called, such as the state of a seed.
    """
    variables = [variable for variable in model.variables if not variable.trainable]
    variables += recurrent_states(model)
    before = [(raw(variable), raw(variable).read_value()) for variable in variables]
    try:
        yield
    finally:
        for variable, value in before:
            if not np.array_equal(np.asarray(variable), np.asarray(value)):
                variable.assign(value)


def called_in_inference(layer, args, kwargs):
    """What a layer returns in inference, with its state as it was.

    Where nothing is said of training, a layer inside decides for all after it: `Resizing` trains.
    """
    with unchanged(layer):
        return layer(*args, **{"training": False, **kwargs})


@contextlib.contextmanager
def fixed_seed(seed):
    """A context in which functions of `tf.random` draw the same numbers each time it is entered."""
    held = vars(eager.context())
    before = {name: held[name] for name in ("_seed", "_rng") if name in held}
    tf.random.set_seed(seed)
    try:
        yield
    finally:
        held.pop("_rng")
        held.update(before)
