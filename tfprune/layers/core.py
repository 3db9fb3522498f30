"""Drop-in dense and embedding layers with masks."""

import keras

from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class Dense(Masked, keras.layers.Dense):
    """`keras.layers.Dense` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Dense(8)
    >>> outputs = layer(keras.ops.ones((2, 4)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class EinsumDense(Masked, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.EinsumDense("ab,bc->ac", output_shape=8, bias_axes="c")
    >>> outputs = layer(keras.ops.ones((2, 4)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class Embedding(Masked, keras.layers.Embedding):
    """`keras.layers.Embedding` with the same arguments, and masks on its embeddings.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Embedding(10, 4)
    >>> outputs = layer(keras.ops.zeros((2, 4), "int32"))
    >>> sorted(layer.trainable_masks)
    ['embeddings']
    """


@keras.saving.register_keras_serializable("tfprune")
class ReversibleEmbedding(Masked, keras.layers.ReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding` with the same arguments, and masks on its embeddings.

    One mask holds in both directions where the weights are tied.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.ReversibleEmbedding(10, 4)
    >>> outputs = layer(keras.ops.zeros((2, 4), "int32"))
    >>> sorted(layer.trainable_masks)
    ['embeddings']
    """
