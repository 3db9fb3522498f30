"""Drop-in activations with weights that carry masks."""

import keras

from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class PReLU(Masked, keras.layers.PReLU):
    """`keras.layers.PReLU` whose alpha carries masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.PReLU()
    >>> outputs = layer(keras.ops.ones((2, 4)))
    >>> sorted(layer.trainable_masks)
    ['alpha']
    """
