"""The layers whose softmax or sigmoid makes an output of a model."""

SATURATING = ("softmax", "sigmoid")


def saturating_layers(model):
    """Pairs of the number of an output and the layer whose softmax or sigmoid makes it.

    >>> import keras
    >>> inputs = keras.Input((3,))
    >>> classes = keras.layers.Dense(2, "softmax", name="classes")(inputs)
    >>> model = keras.Model(inputs, [keras.layers.Dense(1)(inputs), classes])
    >>> [(index, layer.name) for index, layer in saturating_layers(model)]
    [(1, 'classes')]
    """
    layers = getattr(model, "layers", ())
    names = {
        id(getattr(layer, "output", None)): layer for layer in layers if _is_called_once(layer)
    }
    found = []
    for index, output in enumerate(getattr(model, "outputs", None) or ()):
        layer = names.get(id(output))
        activation = getattr(layer, "activation", None)
        if getattr(activation, "__name__", None) in SATURATING:
            found.append((index, layer))
    return found


def _is_called_once(layer):
    try:
        return layer.output is not None
    except (AttributeError, ValueError):  # several outputs, or none
        return False
