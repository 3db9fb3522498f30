"""Drop-in dense, einsum and embedding layers that carry masks."""

import keras

from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class Dense(Masked, keras.layers.Dense):
    """`keras.layers.Dense` whose kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Dense(8)
    >>> outputs = layer(keras.ops.ones((2, 4)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class EinsumDense(Masked, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` whose kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.EinsumDense("ab,bc->ac", output_shape=8, bias_axes="c")
    >>> outputs = layer(keras.ops.ones((2, 4)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class Embedding(Masked, keras.layers.Embedding):
    """`keras.layers.Embedding` whose embeddings carries masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Embedding(10, 4)
    >>> outputs = layer(keras.ops.zeros((2, 4), "int32"))
    >>> sorted(layer.trainable_masks)
    ['embeddings']
    """


@keras.saving.register_keras_serializable("tfprune")
class ReversibleEmbedding(Masked, keras.layers.ReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding` whose embeddings carries masks, both ways.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.ReversibleEmbedding(10, 4)
    >>> outputs = layer(keras.ops.zeros((2, 4), "int32"))
    >>> sorted(layer.trainable_masks)
    ['embeddings']
    """
