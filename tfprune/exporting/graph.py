"""Traces the TensorFlow graph of a model at inference, which all formats but `.keras` need."""

import keras
import tensorflow as tf

from tfprune import _keras


def traced(model, batch_size=None):
    """Traces a model at inference as a concrete function from tensors to a dict by output name.

    Args:
        model: A model.
        batch_size: The size to fix a dynamic batch to; None leaves it dynamic.

    Raises:
        ValueError: If the model has no graph, takes sparse inputs or calls back into Python.

    Example:

    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2, name="y")])
    >>> traced(model)(tf.ones((5, 3)))["y"].shape
    TensorShape([5, 2])
    """
    graph = _keras.functional(model)
    if graph is None:
        raise ValueError(
            "Argument `model` must be a Functional or built Sequential model, which knows its "
            f"inputs. Received: model={model.name!r} ({type(model).__name__}). Build one as "
            "`keras.Model(inputs, model.call(inputs))` with `inputs = keras.Input(...)`."
        )
    inputs = flat_inputs(model)
    if any(tensor.sparse or getattr(tensor, "ragged", False) for tensor in inputs):
        raise ValueError(
            "Argument `model` must take dense inputs. Received: model="
            f"{model.name!r} with inputs {inputs}."
        )
    names = output_names(model)

    def serve(*tensors):
        structured = keras.tree.pack_sequence_as(_keras.input_structure(model), tensors)
        outputs = keras.tree.flatten(model(structured, training=False))
        return dict(zip(names, outputs, strict=True))

    specs = [
        tf.TensorSpec((tensor.shape[0] or batch_size, *tensor.shape[1:]), tensor.dtype, tensor.name)
        for tensor in inputs
    ]
    function = tf.function(serve, autograph=False).get_concrete_function(*specs)
    python = sorted(operation_types(function) & {"PyFunc", "PyFuncStateless", "EagerPyFunc"})
    if python:
        raise ValueError(
            "Cannot export a model that calls back into Python, because no other process could "
            f"run it. Received: model={model.name!r} with operations {python}."
        )
    return function


def flat_inputs(model):
    """The symbolic inputs of a model as a flat list."""
    return keras.tree.flatten(_keras.input_structure(model))


def output_names(model):
    """The names of the outputs in order; repeated names get the suffix `_1`, `_2`."""
    names = []
    for name in _keras.functional(model).output_names:
        count = 0
        unique = name
        while unique in names:
            count += 1
            unique = f"{name}_{count}"
        names.append(unique)
    return names


def operation_types(function):
    """The types of all TensorFlow operations of a concrete function, inner functions included."""
    definition = function.graph.as_graph_def()
    bodies = [inner.node_def for inner in definition.library.function]
    return {node.op for nodes in [definition.node, *bodies] for node in nodes}


def changing_operations(function):
    """The operations that make two equal calls differ: they draw at random or update a state."""
    return [op for op in sorted(operation_types(function)) if op.startswith(("Assign", "Random"))]


def module_of(model, function):
    """A `tf.Module` that holds what a concrete function reads: variables and look-up tables.

    Keras's own objects would bring each variable along a second time.
    """
    module = tf.Module()
    module.values = list(function.variables)
    module.tables = _tables(model)
    return module


def save(module, model, function, place):
    """Writes a SavedModel with the function as its signature `serving_default`.

    Raises:
        ValueError: If the function uses a resource that no layer holds as its attribute.
    """
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        tf.saved_model.save(module, place, {"serving_default": function}, options)
    except AssertionError as error:
        if "untracked" not in str(error):
            raise
        raise ValueError(
            "Cannot export a model with a resource that is no attribute of one of its layers. "
            f"Received: model={model.name!r} ({error})."
        ) from error


def _tables(model):
    """The look-up tables and other resources which the layers of a model hold."""
    kind = tf.saved_model.experimental.TrackableResource
    return [
        value
        for layer in _keras.all_layers(model)
        for value in vars(layer).values()
        if isinstance(value, kind)
    ]
