"""Drop-in recurrent layers and cells with masks."""

import keras

from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class SimpleRNN(Masked, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.SimpleRNN(4)
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class LSTM(Masked, keras.layers.LSTM):
    """`keras.layers.LSTM` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.LSTM(4)
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class GRU(Masked, keras.layers.GRU):
    """`keras.layers.GRU` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.GRU(4)
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class SimpleRNNCell(Masked, keras.layers.SimpleRNNCell):
    """`keras.layers.SimpleRNNCell` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.RNN(layers.SimpleRNNCell(4))
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.cell.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class LSTMCell(Masked, keras.layers.LSTMCell):
    """`keras.layers.LSTMCell` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.RNN(layers.LSTMCell(4))
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.cell.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class GRUCell(Masked, keras.layers.GRUCell):
    """`keras.layers.GRUCell` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.RNN(layers.GRUCell(4))
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.cell.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class ConvLSTM1D(Masked, keras.layers.ConvLSTM1D):
    """`keras.layers.ConvLSTM1D` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.ConvLSTM1D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 2, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class ConvLSTM2D(Masked, keras.layers.ConvLSTM2D):
    """`keras.layers.ConvLSTM2D` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.ConvLSTM2D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 2, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class ConvLSTM3D(Masked, keras.layers.ConvLSTM3D):
    """`keras.layers.ConvLSTM3D` with the same arguments, and masks on its kernels and bias.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.ConvLSTM3D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 2, 6, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """
