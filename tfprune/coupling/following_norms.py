"""Finds the batch normalizations that alone follow a layer."""

import keras


def following_norms(traced):
    """Returns the batch normalizations that get the outputs of a layer, and are all that gets them.

    Args:
        traced: A `Trace`.

    Returns:
        A dict from the id of the layer to its `BatchNormalization`. Both are called once, the norm
        is on the axis of the layer's units, and the layer has no activation in between.

    Example:

    >>> from tfprune.coupling.model_trace import trace
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(2, name="dense"),
    ...     keras.layers.BatchNormalization(name="norm")])
    >>> following_norms(trace(model))[id(model.get_layer("dense"))].name
    'norm'
    """
    times, users = {}, {}
    for call in traced.calls:
        times[id(call.operation)] = times.get(id(call.operation), 0) + 1
        for tensor in call.inputs:
            users.setdefault(tensor, []).append(call.operation)
    found = {}
    for call in traced.calls:
        layer = call.operation
        if getattr(layer, "activation", None) not in (None, keras.activations.linear):
            continue
        if len(call.outputs) != 1 or call.outputs[0] in traced.outputs:
            continue
        norm, *others = users.get(call.outputs[0], [None])
        if others or not isinstance(norm, keras.layers.BatchNormalization):
            continue
        rank = len(call.outputs[0].shape)
        units = 1 if getattr(layer, "data_format", "") == "channels_first" else rank - 1
        if times[id(layer)] == times[id(norm)] == 1 and norm.axis % rank == units:
            found[id(layer)] = norm
    return found
