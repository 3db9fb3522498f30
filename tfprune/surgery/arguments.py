"""Arguments of edits: layers as plain values."""

import keras


def serialised_layer(layer, argument):
    """A layer as plain values, and its weights if it has them already."""
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(
            f"Argument `{argument}` must be a Keras layer"
            f"{', or a list of them' if argument == 'layers' else ''}. "
            f"Received: {argument}={layer!r}."
        )
    serialised = keras.saving.serialize_keras_object(layer)
    serialised = {key: value for key, value in serialised.items() if key != "build_config"}
    if not layer.built or not layer.weights:
        return serialised, None
    return serialised, tuple(weight.tolist() for weight in layer.get_weights())
