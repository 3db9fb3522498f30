"""The graph of a functional model: its operations, their calls, its configuration.

Private here, and why:

* `Functional`, the class, and `_functional` of a Sequential: the graph itself;
* `functional_like_constructor`, by which Keras decides whether a config is a graph;
* `_nodes_by_depth`, `_inbound_nodes` and `_keras_history`: calls of operations, in an order in
  which they can run, and the call that a symbolic tensor comes from;
* `_keras_mask`: the mask of time steps that a tensor carries;
* `_inputs_struct` and `_outputs_struct`: in which structure a model takes and gives tensors.
"""

import contextlib
import functools
import inspect

import keras
import tensorflow as tf
from keras.src.models.functional import Functional, functional_like_constructor

from tfprune._keras.layers import all_layers
from tfprune._keras.sharing import leads_to_copies


def functional(model):
    """The functional graph of a Functional or built Sequential model, else None."""
    if isinstance(model, keras.Sequential):
        return model._functional
    return model if isinstance(model, Functional) else None


def nodes(model):
    """The calls of a functional graph in an order in which they can run, inputs left out.

    Returns:
        Pairs of a node, which has `operation`, `outputs` and `arguments` with `args` and `kwargs`,
        and its place among the `inbound_nodes` in the config of its operation.
    """
    by_depth = model._nodes_by_depth
    ordered = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    inside = {id(node) for node in ordered}
    places = {
        id(node): place
        for operation in model.operations
        for place, node in enumerate(n for n in operation._inbound_nodes if id(n) in inside)
    }
    return [(node, places[id(node)]) for node in ordered if not node.is_input]


def carries_mask(keras_tensor):
    """Whether a symbolic tensor carries a mask, which layers that are called on it will see."""
    return getattr(keras_tensor, "_keras_mask", None) is not None


def mask_of(value):
    """The mask of time steps that a symbolic tensor carries, or None."""
    return getattr(value, "_keras_mask", None)


def operations(model):
    """The operations of a Functional or Sequential model, layers and others, not of inner ones."""
    return list(functional(model).operations)


def all_operations(model):
    """The operations of a model, of the models in it, and the layers inside layers."""
    found = []
    for operation in operations(model):
        if functional(operation) is not None:
            found.extend(all_operations(operation))
        elif isinstance(operation, keras.layers.Layer):
            found.extend(all_layers(operation))
        else:
            found.append(operation)
    return found


def line_of(node):
    """The line in which a call was made, as words that begin a sentence; empty if not known."""
    return getattr(node, "line", "")


def part_of(node):
    """The layer in whose `call` a call was made, as `noting_lines` noted; None if not known."""
    return getattr(node, "part", None)


def nodes_between(inputs, outputs, with_variables=False):
    """The calls between symbolic tensors, in an order in which they can run.

    Args:
        inputs, outputs: The tensors.
        with_variables: Whether calls may take variables.

    Returns:
        A list of nodes, see `nodes`; a list of the constant tensors that they take; and None, or,
        if some take variables or symbolic tensors that do not come from the inputs, the reason.
    """
    ordered, seen, problem = {}, {id(tensor) for tensor in inputs}, None
    stack = [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, is_ready = stack.pop()
        if is_ready:
            operation, index, _ = tensor._keras_history
            node = operation._inbound_nodes[index]
            ordered.setdefault(id(node), node)
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            operation, index, _ = tensor._keras_history
            if operation is None or isinstance(operation, keras.layers.InputLayer):
                problem = "it uses a symbolic tensor that is not among its inputs"
                continue
            node = operation._inbound_nodes[index]
            for leaf in _leaves(node):
                if isinstance(leaf, (keras.Variable, tf.Variable)) and not with_variables:
                    name = getattr(leaf, "path", leaf.name)
                    kind = type(operation).__name__
                    problem = (
                        f"{line_of(node)}its `{kind}` takes the weight {name!r} of a layer inside"
                    )
            stack.append((tensor, True))
            stack.extend((each, False) for each in node.arguments.keras_tensors)
    calls = list(ordered.values())
    constants = [leaf for node in calls for leaf in _leaves(node) if isinstance(leaf, tf.Tensor)]
    return calls, constants, problem


def data_of(node):
    """The symbolic tensors of floats that a call takes, without masks."""
    named = [value for name, value in node.arguments.kwargs.items() if not name.endswith("mask")]
    leaves = keras.tree.flatten([list(node.arguments.args), named])
    tensors = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
    return [tensor for tensor in tensors if keras.backend.is_float_dtype(tensor.dtype)]


def source_of(tensor):
    """The operation that makes a symbolic tensor, and how many it makes in that call."""
    operation, index, _ = tensor._keras_history
    return operation, len(operation._inbound_nodes[index].outputs)


def _leaves(node):
    return keras.tree.flatten([list(node.arguments.args), dict(node.arguments.kwargs)])


def calls_functions_of_layers(node):
    """Whether a raw operation is given Python functions that use layers, as `ops.cond` may be."""
    values = [leaf for leaf in _leaves(node) if callable(leaf)]
    values += [value for value in vars(node.operation).values() if inspect.isfunction(value)]
    is_layer = isinstance(node.operation, keras.layers.Layer)
    return not is_layer and any(leads_to_copies(value) for value in values)


def input_layers(graph):
    """The input layers of a functional graph, in the order of its inputs."""
    return [tensor._keras_history.operation for tensor in graph.inputs]


def input_structure(model):
    """The structure (tensor, list, dict) in which a model takes its inputs."""
    return functional(model)._inputs_struct


def output_structure(model):
    """The structure (tensor, list, dict) in which a model gives its outputs."""
    return functional(model)._outputs_struct


def is_symbolic(value):
    """Whether a value is a symbolic tensor of Keras."""
    return isinstance(value, keras.KerasTensor)


def graph_config(model, kept=()):
    """A model as serialised, without weights; a subclass of Functional as its plain graph.

    Args:
        model: The model.
        kept: Layers that are not asked for their config: in it stands their name alone, and under
            "kept" their id.
    """
    with not_asked_for_configs(kept):
        return _graph_config(model)


@contextlib.contextmanager
def not_asked_for_configs(kept):
    """While open, the config of each of some layers is its name and, under "kept", its id."""
    with contextlib.ExitStack() as stack:
        for layer in {id(layer): layer for layer in kept}.values():
            vars(layer)["get_config"] = functools.partial(dict, name=layer.name, kept=id(layer))
            stack.callback(vars(layer).pop, "get_config")
        yield


def _graph_config(model):
    if isinstance(model, keras.Sequential):
        cls, config = keras.Sequential, keras.Sequential.get_config(model)
    else:
        cls = Functional
        if type(model) is not Functional:
            model = keras.Model(model._inputs_struct, model._outputs_struct, name=model.name)
        config = model.get_config()
    return {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "config": config,
        "registered_name": cls.__name__,
    }


def is_saved_as_graph(cls):
    """Whether the config of a model of a class is its graph, with the configs of its layers."""
    is_graph = issubclass(cls, Functional) and functional_like_constructor(cls)
    writes = cls.get_config
    return writes is keras.Sequential.get_config or (is_graph and writes is Functional.get_config)


def is_functional_config(config):
    """Whether a serialised operation is a nested Functional model."""
    return config.get("class_name") == Functional.__name__ and "layers" in config["config"]
