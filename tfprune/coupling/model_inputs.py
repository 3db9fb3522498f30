"""The arguments that a model is called with, as symbolic tensors, and the names of its inputs."""

import contextlib

import keras

from tfprune import _keras
from tfprune.coupling.failures import no_graph, not_recorded
from tfprune.coupling.rules import rule_of
from tfprune.coupling.rules.embedding import Embedding
from tfprune.coupling.tracer import trace_call

_OF_TEXT = (keras.layers.Hashing, keras.layers.StringLookup, keras.layers.TextVectorization)


def call_arguments(model):
    """The arguments of the `call` of a model, as symbolic tensors.

    Those of a subclassed model have the shapes for which it was built, and whole numbers or strings
    where an `Embedding` or a layer for text takes them, or where the model cannot be called on
    others. Of a model with several arguments and no `build` of its own, Keras keeps the shape of
    the first alone. They are known if it was called on symbolic tensors, or if it is prunable and
    was called at all.

    Returns:
        A tuple of the positional arguments and the keyword arguments.

    Raises:
        ValueError: If the model has no graph because it is not built, or cannot be traced.
    """
    if _keras.functional(model) is not None:
        return (_keras.input_structure(model),), {}
    inputs = _keras.built_inputs(model) if isinstance(model, keras.Model) else {}
    given = _keras.called_on(model) if isinstance(model, keras.Model) else {}
    if not (inputs or given) or isinstance(model, keras.Sequential):
        raise ValueError(no_graph(model))
    if len(given) > len(inputs):
        is_first_alone = list(given) == _keras.required_arguments(model)[:1]
        return (tuple(given.values()), {}) if is_first_alone else ((), given)
    if len(inputs) < len(_keras.required_arguments(model)):
        raise ValueError(not_recorded(model))
    if len(inputs) == 1:
        arguments = tuple(inputs.values()), {}
    else:
        arguments = (), {name.removesuffix("_shape"): each for name, each in inputs.items()}
    try:
        traced = trace_call(model, *arguments)
    except ValueError as error:
        for dtype in ("int32", "string"):
            others = keras.tree.map_structure(lambda tensor: _of(dtype, tensor), arguments)  # noqa: B023
            with contextlib.suppress(ValueError):
                trace_call(model, *others)
                return others
        raise error from None
    places = iter(traced.inputs)
    return keras.tree.map_structure(
        lambda tensor: _of(_looked_up_dtype(next(places), traced), tensor), arguments
    )


def input_structure(model):
    """The structure in which a model takes its inputs, as symbolic tensors.

    That of a subclassed model is its first argument, or a dict of all whose shapes are known.
    """
    args, kwargs = call_arguments(model)
    return kwargs or args[0]


def input_names(model):
    """The names of the inputs of a model, in their order.

    Those of a subclassed model are their places in its first argument, or in the dict of all.
    """
    graph = _keras.functional(model)
    if graph is not None:
        return [layer.name for layer in _keras.input_layers(graph)]
    return names_in(input_structure(model))


def names_in(structure):
    """A name for each tensor of a structure, after its place there."""
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    return ["_".join(map(str, path)) or "inputs" for path in paths]


def _of(dtype, tensor):
    return tensor if dtype is None else keras.KerasTensor(tensor.shape, dtype)


def _looked_up_dtype(tensor, traced):
    """The dtype of an input that is looked up by the layers that take it; None of any other."""
    users = traced.users_of(tensor)
    if any(isinstance(rule_of(user), Embedding) for user in users):
        return "int32"
    return "string" if any(isinstance(user, _OF_TEXT) for user in users) else None
