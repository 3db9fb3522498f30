"""Detects whether a `call` does something else in training, beside the layers in it."""

import keras
import numpy as np


def calls_made(inside):
    """What the calls inside a layer are, without the names of tensors and operations.

    Args:
        inside: The `Inside`.

    Returns:
        A list. Two of them are equal if the layer called the same layers and operations on the
        same tensors and numbers, but for the argument `training` of layers.
    """
    numbers = {id(tensor): number for number, tensor in enumerate(inside.inputs)}

    def described(leaf):
        if id(leaf) in numbers:
            return "tensor", numbers[id(leaf)]
        if keras.ops.is_tensor(leaf) or isinstance(leaf, np.ndarray):
            array = np.asarray(leaf)
            return array.shape, array.tobytes()
        return repr(leaf)

    found = []
    for node in inside.nodes:
        operation, kwargs = node.operation, dict(node.arguments.kwargs)
        is_layer = isinstance(operation, keras.layers.Layer)
        if is_layer:
            kwargs.pop("training", None)
            kind = id(inside.originals.get(id(operation), operation))
        else:
            kind = type(operation).__name__, _attributes(operation)
        leaves = keras.tree.flatten([list(node.arguments.args), kwargs])
        taken = [described(leaf) for leaf in leaves if not (is_layer and isinstance(leaf, bool))]
        found.append((kind, taken))
        for tensor in node.outputs:
            numbers[id(tensor)] = len(numbers)
    found.append([described(leaf) for leaf in keras.tree.flatten(inside.outputs)])
    return found


def _attributes(operation):
    """The plain attributes of an operation, such as the axis of a sum."""
    plain = (bool, int, float, str, tuple, list)
    return repr(
        sorted(
            (name, value)
            for name, value in vars(operation).items()
            if isinstance(value, plain) and not name.startswith("_") and name != "name"
        )
    )
