"""Copies a model with its weights, masks, compile state and optimizer slots."""

import keras

from tfprune import _keras
from tfprune.rebuild import convert


def copy_model(model, edit=lambda config, _: config):
    """Copies a model: weights, masks, compile state, optimizer slots and seeds.

    Args:
        model: A Functional or built Sequential model, masked or not.
        edit: Function of a serialised operation and the operation, which gives the new one.

    Returns:
        The copy.

    Raises:
        ValueError: If the model has no graph.
    """
    if _keras.functional(model) is None:
        raise ValueError(
            "Argument `model` must be a Functional or built Sequential model, which can be copied. "
            f"Received: model={getattr(model, 'name', model)!r} ({type(model).__name__}). Build it "
            "as `keras.Model(inputs, model.call(inputs))` with `inputs = keras.Input(shape)`."
        )
    copy = convert.rebuilt(model, edit)
    convert.copy_weights(model, copy)
    convert.copy_compile_state(model, copy)
    return copy


def as_tuple(data):
    """Data for `evaluate`: a single array is put in a tuple, so that `batch_size` applies to it."""
    is_array = keras.ops.is_tensor(data) or hasattr(data, "__array__")
    return (data,) if is_array else data
