"""Symbolic tensors of `tf_keras`, and the calls between them."""

import tensorflow as tf

from tfprune import _keras
from tfprune.interop.tf_keras.description import leaves


class NotTracedError(Exception):
    """Raised where the `call` of a layer cannot be run on symbolic tensors; says why."""


def ordered_calls(outputs, inputs):
    """The calls between symbolic tensors in an order in which they can run.

    Returns:
        A list of the layer, the place of the call, and its args and kwargs; these are None for
        the inputs that the outputs depend on.
    """
    given = {id(tensor) for tensor in tf.nest.flatten(inputs)}
    seen, ordered = set(), []
    stack = [(tensor, False) for tensor in reversed(tf.nest.flatten(outputs))]
    while stack:
        tensor, is_ready = stack.pop()
        layer, place, _, args, kwargs = _keras.legacy_node(tensor)
        if is_ready:
            ordered.append((layer, place, args, kwargs))
        elif (id(layer), place) not in seen:
            seen.add((id(layer), place))
            stack.append((tensor, True))
            if id(tensor) in given:
                continue
            if args is None:
                raise NotTracedError(
                    f"it uses the tensor of {layer.name!r}, which is none of its inputs"
                )
            stack.extend((leaf, False) for leaf in leaves((args, kwargs)) if is_symbolic(leaf))
    return ordered


def tensors_in(args, kwargs):
    """The different symbolic tensors in arguments; a single one is not in a list."""
    tensors = {id(leaf): leaf for leaf in leaves((args, kwargs)) if is_symbolic(leaf)}
    return next(iter(tensors.values())) if len(tensors) == 1 else list(tensors.values())


def like(tensor):
    """A new input of the shape and dtype of a tensor."""
    import tf_keras

    shape = tensor.shape
    return tf_keras.Input(shape[1:], batch_size=shape[0], dtype=tensor.dtype)


def is_symbolic(value):
    """Whether a value is a symbolic tensor of `tf_keras`."""
    return _keras.legacy_node(value) is not None
