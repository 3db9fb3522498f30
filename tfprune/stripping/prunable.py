"""`prunable`: returns a model of layers that carry masks."""

import keras

from tfprune import _keras
from tfprune.masks import layer_filter
from tfprune.rebuild import convert
from tfprune.stripping.inlining import inlined


def prunable(model, *, only=None, exclude=None):
    """Returns a copy of a model, made of layers that carry masks.

    Use it before pruning or freezing, unless the model is built of `tfprune.layers` already.
    Weights, compile state and optimizer slots are kept; the given model is not changed. Composite
    layers, made of layers themselves, are inlined (`tfprune.stripping.inlining`).

    Args:
        model: A Functional or built Sequential model, nested ones included.
        only: Layers of the model, names of layers or a predicate `layer -> bool`: what to convert;
            by default all that have a drop-in class.
        exclude: What to leave as it is, of what `only` says, given in the same way.

    Returns:
        A new model of the same kind.

    Raises:
        ValueError: If the model is subclassed, or a named layer is not in it.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> masked = tfprune.prunable(model)
    >>> sorted(masked.get_layer("d").trainable_masks)
    ['bias', 'kernel']
    """
    _check_graph(model)
    layer_filter.check(only, exclude, "layer -> bool")
    given, model = model, inlined(model)
    if model is not given:
        of_model = layer_filter.Counterparts(given, model).filter
        only, exclude = of_model(only), of_model(exclude)
    is_included, is_excluded = layer_filter.predicates(model, only, exclude)
    excluded = {layer.name for layer in _keras.all_layers(model) if is_excluded(layer)}

    def edit(config, operation):
        if is_included(operation) and not is_excluded(operation):
            return convert.to_drop_in(config, excluded)
        return config

    new = convert.rebuilt(model, edit)
    convert.copy_weights(model, new)
    convert.copy_compile_state(model, new)
    return new


def _check_graph(model):
    if _keras.functional(model) is not None:
        return
    if isinstance(model, keras.Sequential):
        raise ValueError(
            "The Sequential model is not built, so its shapes are unknown. "
            f"Received: model={model.name!r}. Add `keras.Input(shape)` first, or call the model "
            "on data once."
        )
    raise ValueError(
        "Argument `model` must be a Functional or Sequential model, whose layers can be exchanged. "
        f"Received: model={getattr(model, 'name', model)!r} ({type(model).__name__}). Either use "
        "`from tfprune import layers` where the model makes its layers, or build a Functional one: "
        "`inputs = keras.Input(shape)`, `keras.Model(inputs, model.call(inputs))`."
    )
