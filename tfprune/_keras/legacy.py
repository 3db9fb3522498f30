"""The graphs of `tf_keras`, the Keras before Keras 3.

Private there, and why:

* `_inbound_nodes`, `_outbound_nodes` and `_keras_history`: the calls of layers, and the call that a
  symbolic tensor comes from; calls that are made to read a layer are removed again;
* `_nested_inputs`, `_nested_outputs` and `_is_graph_network`: in which structure a model takes and
  gives tensors, and whether it has a graph;
* `_trainable_weights` and `_non_trainable_weights`: weights of a layer itself, not of those in it;
* `_flatten_layers`: the layers in a layer;
* `_build_input_shape`: the shape a model was built for;
* `_expects_training_arg`: whether a `call` takes `training`.

`Layer.__call__` is replaced while a layer is read, so that layers inside which are called on
constants (position embeddings) are in the graph.
"""

import contextlib

import tensorflow as tf


def legacy_node(tensor):
    """The call that a symbolic tensor of `tf_keras` comes from.

    Returns:
        None for other values; else the layer, the place of the call, that of the output, and the
        arguments of the call, as a tuple and a dict; both None for an input.
    """
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    node = history.layer._inbound_nodes[history.node_index]
    arguments = (None, None) if node.is_input else (node.call_args, node.call_kwargs)
    return (*history, *arguments)


def legacy_structures(model):
    """The structures in which a functional `tf_keras` model takes and gives symbolic tensors."""
    return model._nested_inputs, model._nested_outputs


def has_legacy_graph(model):
    """Whether a `tf_keras` model has a graph, which is all that its `call` computes."""
    if not getattr(model, "_is_graph_network", False):
        return False
    defined = next(cls for cls in type(model).__mro__ if "call" in vars(cls))
    return defined.__module__.startswith("tf_keras.")


def legacy_own_weights(layer):
    """The weights of a `tf_keras` layer that are not those of layers inside it."""
    return list(layer._trainable_weights) + list(layer._non_trainable_weights)


def legacy_children(layer):
    """The layers directly inside a `tf_keras` layer."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


@contextlib.contextmanager
def legacy_weights_as(layer, tensors):
    """Puts tensors in place of variables in the attributes of a `tf_keras` layer.

    Args:
        layer: The layer.
        tensors: Dict from the id of each variable to its tensor.
    """

    def replaced(value):
        if isinstance(value, dict):
            return {key: replaced(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            kind = list if isinstance(value, list) else tuple
            return kind(replaced(each) for each in value)
        return tensors.get(id(value), value)

    def has_variable(value):
        return any(id(leaf) in tensors for leaf in tf.nest.flatten(value))

    attributes = vars(layer)
    hidden = ("_trainable_weights", "_non_trainable_weights")
    held = (tf.Variable, list, tuple, dict)
    before = {
        name: value
        for name, value in attributes.items()
        if name not in hidden and isinstance(value, held) and has_variable(value)
    }
    try:
        attributes.update({name: replaced(value) for name, value in before.items()})
        yield
    finally:
        attributes.update(before)


def legacy_build_shape(model):
    """The shape that a `tf_keras` model was built for, or None."""
    return getattr(model, "_build_input_shape", None)


def legacy_takes_training(layer):
    """Whether the `call` of a `tf_keras` layer takes `training`."""
    return bool(layer._expects_training_arg)


@contextlib.contextmanager
def without_new_calls(layers):
    """Removes the calls of `tf_keras` layers that are made inside, from their graphs."""
    lists = [nodes for each in layers for nodes in (each._inbound_nodes, each._outbound_nodes)]
    before = [(nodes, len(nodes)) for nodes in lists]
    try:
        yield
    finally:
        for nodes, length in before:
            del nodes[length:]


@contextlib.contextmanager
def legacy_calls_on(layers, symbolic):
    """Gives `tf_keras` layers that are called on a constant `symbolic(constant)` in its place."""
    import tf_keras

    cls, inside = tf_keras.layers.Layer, {id(layer) for layer in layers}
    original = cls.__call__

    def call(self, *args, **kwargs):
        is_constant = args and isinstance(args[0], tf.__internal__.EagerTensor)
        if is_constant and id(self) in inside:
            args = (symbolic(args[0]), *args[1:])
        return original(self, *args, **kwargs)

    cls.__call__ = call
    try:
        yield
    finally:
        cls.__call__ = original
