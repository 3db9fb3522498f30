"""Drop-in convolutional layers with masks."""

import keras

from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class Conv1D(Masked, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Conv1D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class Conv2D(Masked, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Conv2D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class Conv3D(Masked, keras.layers.Conv3D):
    """`keras.layers.Conv3D` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Conv3D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 6, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class Conv1DTranspose(Masked, keras.layers.Conv1DTranspose):
    """`keras.layers.Conv1DTranspose` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Conv1DTranspose(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class Conv2DTranspose(Masked, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Conv2DTranspose(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class Conv3DTranspose(Masked, keras.layers.Conv3DTranspose):
    """`keras.layers.Conv3DTranspose` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.Conv3DTranspose(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 6, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class DepthwiseConv1D(Masked, keras.layers.DepthwiseConv1D):
    """`keras.layers.DepthwiseConv1D` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.DepthwiseConv1D(3)
    >>> outputs = layer(keras.ops.ones((1, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class DepthwiseConv2D(Masked, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with the same arguments, and masks on its kernel and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.DepthwiseConv2D(3)
    >>> outputs = layer(keras.ops.ones((1, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class SeparableConv1D(Masked, keras.layers.SeparableConv1D):
    """`keras.layers.SeparableConv1D` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.SeparableConv1D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'depthwise_kernel', 'pointwise_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class SeparableConv2D(Masked, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.SeparableConv2D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'depthwise_kernel', 'pointwise_kernel']
    """
