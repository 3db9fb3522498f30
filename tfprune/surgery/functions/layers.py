"""Single edits that insert, remove or replace layers."""

from tfprune.surgery.plan import edit


def insert(model, after, layers, *, init="identity", before=None):
    """Returns a new model with layers inserted after a layer.

    What took the output of the layer takes that of the last inserted one: all, the outputs of the
    model too, or only what `before` names.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        after: A layer or operation, or its name.
        layers: A layer or a list of layers, one after the other, with new names. Built layers keep
            their weights.
        init: "identity" for weights with which each layer computes the identity, so that the model
            computes the same; "default" for those of their initializers.
        before: A layer or operation that takes the output of `after`, its name, or a list of these:
            all others go on to take the output of `after` itself. The model, or its name, stands
            for its outputs.

    Returns:
        A new model.

    Raises:
        ValueError: If a layer cannot compute the identity, or does not fit, or `before` holds what
            does not take the output of `after`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2)])
    >>> deeper = insert(model, "hidden", keras.layers.Dense(4, activation="relu"))
    >>> x = np.ones((1, 3))
    >>> len(deeper.layers), bool((deeper(x) == model(x)).numpy().all())
    (3, True)
    """
    plan = edit(model)
    plan.insert(after, layers, init, before)
    return plan.model


def remove(model, layer, *, fit=None):
    """Returns a new model without a layer: what took its output takes its input.

    Where both have different sizes, the integer program of `resize` makes them equal: mostly the
    kernels that follow lose rows, or gain rows of 0.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        layer: A layer or operation with one input and one output, or its name.
        fit: How sizes are made equal: "shrink" to the smaller, or less; "grow" to the larger, or
            more, with new units; by default any way that keeps most.

    Returns:
        A new model.

    Raises:
        ValueError: If the layer cannot be removed, or sizes do not fit that way.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(4)])
    >>> remove(model, "hidden").layers[0].kernel.shape
    TensorShape([3, 4])
    """
    plan = edit(model)
    plan.remove(layer, fit=fit)
    return plan.model


def replace(model, layer, new_layer, *, keep_weights=True):
    """Returns a new model in which a layer is replaced by another, under the same name.

    Where the new layer has another number of output channels, coupled layers are resized.

    Args:
        model: Any Keras model that is built. It is not changed. Of a subclassed model, the
            Functional model of its `call` is edited.
        layer: The layer to replace, or its name.
        new_layer: The new layer. If it is built it keeps its weights.
        keep_weights: Boolean. Whether a new layer that is not built gets the weights of the old one
            that have the same name and shape.

    Returns:
        A new model.

    Raises:
        ValueError: If the layer does not fit.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(4)])
    >>> new = replace(model, "hidden", keras.layers.Dense(6, activation="tanh"))
    >>> [layer.kernel.shape[0] for layer in new.layers]
    [3, 6]
    """
    plan = edit(model)
    plan.replace(layer, new_layer, keep_weights)
    return plan.model
