"""Drop-in recurrent layers and their cells that carry masks."""

import keras

from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class SimpleRNN(Masked, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` whose kernel, recurrent_kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.SimpleRNN(4)
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class LSTM(Masked, keras.layers.LSTM):
    """`keras.layers.LSTM` whose kernel, recurrent_kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.LSTM(4)
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class GRU(Masked, keras.layers.GRU):
    """`keras.layers.GRU` whose kernel, recurrent_kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.GRU(4)
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class SimpleRNNCell(Masked, keras.layers.SimpleRNNCell):
    """`keras.layers.SimpleRNNCell` whose kernel, recurrent_kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.RNN(layers.SimpleRNNCell(4))
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.cell.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class LSTMCell(Masked, keras.layers.LSTMCell):
    """`keras.layers.LSTMCell` whose kernel, recurrent_kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.RNN(layers.LSTMCell(4))
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.cell.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class GRUCell(Masked, keras.layers.GRUCell):
    """`keras.layers.GRUCell` whose kernel, recurrent_kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.RNN(layers.GRUCell(4))
    >>> outputs = layer(keras.ops.ones((2, 5, 3)))
    >>> sorted(layer.cell.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class ConvLSTM1D(Masked, keras.layers.ConvLSTM1D):
    """`keras.layers.ConvLSTM1D` whose kernel, recurrent_kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.ConvLSTM1D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 2, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class ConvLSTM2D(Masked, keras.layers.ConvLSTM2D):
    """`keras.layers.ConvLSTM2D` whose kernel, recurrent_kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.ConvLSTM2D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 2, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """


@keras.saving.register_keras_serializable("tfprune")
class ConvLSTM3D(Masked, keras.layers.ConvLSTM3D):
    """`keras.layers.ConvLSTM3D` whose kernel, recurrent_kernel and bias carry masks.

    Arguments, defaults, shapes and results are the stock layer's. See `tfprune.set_masks`.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.ConvLSTM3D(4, 3)
    >>> outputs = layer(keras.ops.ones((1, 2, 6, 6, 6, 3)))
    >>> sorted(layer.trainable_masks)
    ['bias', 'kernel', 'recurrent_kernel']
    """
