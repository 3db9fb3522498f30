"""Subclasses of Functional and Sequential models that train, evaluate or predict in their own way.

Private here, and why:

* the attributes of a model by name: those that a plain one has not are the user's.
"""

import functools

import keras

from tfprune._keras.copies import ModelCopy
from tfprune._keras.graphs import functional, operations
from tfprune._keras.layers import all_layers
from tfprune._keras.pairs import layer_pairs, variable_pairs

_STEPS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


def has_own_steps(model):
    """Whether the class of a model has a step, a loss or metrics of its own."""
    return any(getattr(type(model), name) is not getattr(keras.Model, name) for name in _STEPS)


def take_class(model, new):
    """Makes a model that was rebuilt from the graph of another one of the class of that.

    It gets copies of the attributes that a user's class adds. Where they refer to layers of the
    graph, the copies refer to those of the new one. Optimizers among them are set up anew.

    Args:
        model: The model, with a graph.
        new: The plain model, changed in place.

    Returns:
        Whether that was possible. It is not where attributes hold layers of the graph which the new
        one lacks, or other models over its layers.
    """
    copy = ModelCopy()
    copy.enter(model, new)
    for pair in [*layer_pairs(model, new, models=True), *variable_pairs(model, new)]:
        copy.enter(*pair)
    inside = {id(operation) for operation in _all_operations(model)}
    others = [layer for layer in all_layers(model) if id(layer) not in copy.copies]
    for layer in others:
        if id(layer) in inside or not inside.isdisjoint(map(id, _all_operations(layer))):
            return False
    new.__class__ = type(model)
    for name, value in list(vars(model).items()):
        if name in _plain_attributes() or name in vars(new):
            continue
        if isinstance(value, keras.optimizers.Optimizer):
            value = type(value).from_config(value.get_config())
            setattr(new, name, value)
        else:
            setattr(new, name, copy.copy(value))
    copy.finish()
    return True


def _all_operations(model):
    if functional(model) is None:
        return
    for operation in operations(model):
        if isinstance(operation, keras.layers.InputLayer):
            continue
        yield operation
        yield from _all_operations(operation)


@functools.cache
def _plain_attributes():
    """The names of the attributes that any compiled model may have."""
    inputs = keras.Input((1,))
    names = {"history"}
    for model in (keras.Model(inputs, inputs * 1.0), keras.Sequential([inputs])):
        model.compile("sgd", "mse", metrics=["mae"])
        names |= set(vars(model))
    return frozenset(names)
