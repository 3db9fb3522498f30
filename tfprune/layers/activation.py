"""Drop-in activation layers with masks: PReLU, the one that has a weight."""

import keras

from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class PReLU(Masked, keras.layers.PReLU):
    """`keras.layers.PReLU` with the same arguments, and masks on its alpha.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.PReLU()
    >>> outputs = layer(keras.ops.ones((2, 4)))
    >>> sorted(layer.trainable_masks)
    ['alpha']
    """
