"""Copies of a model with its weights, masks, compile state and optimizer slots."""

from tfprune import _keras
from tfprune.rebuild import convert, copied_state, copying
from tfprune.stripping.inlining import inlined


def copy_model(model, edit=None):
    """Copies a model: weights, masks, compile state, optimizer slots and seeds.

    Args:
        model: Any Keras model, masked or not.
        edit: Function of a serialised operation and the operation, which gives the new one. Then
            the model must have a graph.

    Returns:
        The copy: of the same class, or with `edit` the model of the edited graph.
    """
    if edit is None:
        return copying.copy_model(model).model
    copy = convert.rebuilt(model, edit)
    copied_state.copy_weights(model, copy)
    copied_state.copy_compile_state(model, copy)
    return copy


def with_graph(model):
    """Returns the Functional model of the `call` of a subclassed model; any other model itself."""
    return inlined(model) if _keras.functional(model) is None else model
