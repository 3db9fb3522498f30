"""Drop-in attention layers with masks."""

import keras

from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class MultiHeadAttention(Masked, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` with the same arguments, and masks on its projections.

    The weights are those of the four projections: `query/kernel` of shape
    `(model_width, heads, key_dim)`, `attention_output/bias` and so on.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.MultiHeadAttention(num_heads=2, key_dim=3)
    >>> outputs = layer(keras.ops.ones((1, 5, 4)), keras.ops.ones((1, 5, 4)))
    >>> sorted(layer.trainable_masks)[:2]
    ['attention_output/bias', 'attention_output/kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class GroupedQueryAttention(Masked, keras.layers.GroupQueryAttention):
    """`keras.layers.GroupQueryAttention` with the same arguments, and masks on its projections.

    The weights are those of the four projections: `query/kernel` of shape
    `(model_width, heads, head_dim)`, `attention_output/bias` and so on.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.GroupQueryAttention(head_dim=3, num_query_heads=4, num_key_value_heads=2)
    >>> outputs = layer(keras.ops.ones((1, 5, 4)), keras.ops.ones((1, 5, 4)))
    >>> sorted(layer.trainable_masks)[:2]
    ['attention_output/bias', 'attention_output/kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class Attention(Masked, keras.layers.Attention):
    """`keras.layers.Attention` with the same arguments, and masks on its scale.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Attention(use_scale=True)
    >>> outputs = layer([keras.ops.ones((1, 5, 4)), keras.ops.ones((1, 5, 4))])
    >>> sorted(layer.trainable_masks)
    ['scale']
    """


@keras.saving.register_keras_serializable("tfprune")
class AdditiveAttention(Masked, keras.layers.AdditiveAttention):
    """`keras.layers.AdditiveAttention` with the same arguments, and masks on its scale.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.AdditiveAttention()
    >>> outputs = layer([keras.ops.ones((1, 5, 4)), keras.ops.ones((1, 5, 4))])
    >>> sorted(layer.trainable_masks)
    ['scale']
    """
