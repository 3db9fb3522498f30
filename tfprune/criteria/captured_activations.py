"""Captures the inputs and pre-activations of layers while a model runs."""

import contextlib


@contextlib.contextmanager
def capture_inputs(layer, see):
    """While open, `see(inputs, mask)` is called with the inputs of each call of the layer."""
    call = layer.call

    def captured(inputs, *args, **kwargs):
        see(inputs, kwargs.get("mask"))
        return call(inputs, *args, **kwargs)

    with _attribute(layer, "call", captured):
        yield


@contextlib.contextmanager
def capture_preactivations(layer, see):
    """While open, `see(outputs)` is called with what the layer's activation is applied to."""
    activation = layer.activation

    def captured(outputs, *args, **kwargs):
        see(outputs)
        return outputs if activation is None else activation(outputs, *args, **kwargs)

    with _attribute(layer, "activation", captured):
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
