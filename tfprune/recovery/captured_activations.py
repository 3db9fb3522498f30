"""What passes through a layer while a model runs: inputs, and outputs before the activation."""

import contextlib

import keras
import numpy as np

from tfprune.criteria.running import Held


@contextlib.contextmanager
def watched_inputs(layer, see):
    """While open, `see(inputs, mask)` gets what each call of the layer takes."""
    call = layer.call

    def tapped(inputs, *args, **kwargs):
        see(inputs, kwargs.get("mask"))
        return call(inputs, *args, **kwargs)

    with _attribute(layer, "call", tapped):
        yield


@contextlib.contextmanager
def watched_sums(layer, see):
    """While open, `see(outputs)` gets what each call gives to the layer's activation."""
    activation = layer.activation

    def tapped(outputs, *args, **kwargs):
        see(outputs)
        return outputs if activation is None else activation(outputs, *args, **kwargs)

    with _attribute(layer, "activation", tapped):
        yield


@contextlib.contextmanager
def _attribute(layer, name, value):
    # Not `setattr`, which would track an activation that is a layer anew.
    own = vars(layer)
    before = {name: own[name]} if name in own else {}
    own[name] = value
    try:
        yield
    finally:
        del own[name]
        own.update(before)


def double_totals(shapes, name):
    """Variables in double precision that begin with 0, kept from Keras."""
    return Held(
        keras.Variable(np.zeros(shape), trainable=False, dtype="float64", name=name)
        for shape in shapes
    )
