"""Captures the inputs and pre-activations of layers while a model runs."""

import contextlib

from tfprune.measuring.data_pass import DataPass


@contextlib.contextmanager
def capture_inputs(layer, see):
    """While open, `see(inputs, mask)` is called with the inputs of each call of the layer."""
    call = layer.call

    def captured(inputs, *args, **kwargs):
        see(inputs, kwargs.get("mask"))
        return call(inputs, *args, **kwargs)

    with attribute(layer, "call", captured):
        yield


@contextlib.contextmanager
def capture_preactivations(layer, see):
    """While open, `see(outputs)` is called with what the layer's activation is applied to."""
    activation = layer.activation

    def captured(outputs, *args, **kwargs):
        see(outputs)
        return outputs if activation is None else activation(outputs, *args, **kwargs)

    with attribute(layer, "activation", captured):
        yield


@contextlib.contextmanager
def attribute(layer, name, value):
    """While open, an attribute of a layer is something else."""
    # Not `setattr`, which would track an activation that is a layer anew.
    own = vars(layer)
    before = {name: own[name]} if name in own else {}
    own[name] = value
    try:
        yield
    finally:
        del own[name]
        own.update(before)


def capture_over_data(model, captures, data, batch_size=None, verbose=0):
    """Runs a model over data once, in inference, and captures the inputs of some layers.

    Args:
        model: The model.
        captures: Pairs of a layer and a function `see(inputs, mask)`, see `capture_inputs`.
        data, verbose: See `tfprune.criteria.measuring.measure`.
        batch_size: Integer, for arrays; Keras's default is 32.

    Returns:
        The `Replicas` that shared the data, which give the totals of what was added up.
    """
    data_pass = DataPass(model, needs_loss=False)
    data_pass.traces_always = False
    with contextlib.ExitStack() as stack:
        for layer, see in captures:
            stack.enter_context(capture_inputs(layer, see))
        data_pass.run(data, verbose, batch_size)
    return data_pass.replicas
