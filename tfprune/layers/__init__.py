"""Drop-in replacements for `keras.layers`, whose weights have a trainable and a frozen mask.

Use `from tfprune import layers` in place of `from keras import layers`. Arguments, defaults, shapes
and outputs are those of the stock layers, and layers without weights are Keras's own. Masks change
by `tfprune.set_masks`.

Example:

>>> from tfprune import layers
>>> layer = layers.Dense(2)
>>> outputs = layer(keras.ops.ones((1, 3)))
>>> layer.trainable_masks["kernel"].shape
TensorShape([3, 2])
>>> layers.Flatten is keras.layers.Flatten
True
"""

import keras

from tfprune.layers.activation import PReLU
from tfprune.layers.attention import (
    AdditiveAttention,
    Attention,
    GroupedQueryAttention,
    MultiHeadAttention,
)
from tfprune.layers.convolutional import (
    Conv1D,
    Conv1DTranspose,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    DepthwiseConv1D,
    DepthwiseConv2D,
    SeparableConv1D,
    SeparableConv2D,
)
from tfprune.layers.core import Dense, EinsumDense, Embedding, ReversibleEmbedding
from tfprune.layers.fake_quantize import FakeQuantize
from tfprune.layers.masked import Masked
from tfprune.layers.normalization import (
    BatchNormalization,
    GroupNormalization,
    LayerNormalization,
    RMSNormalization,
)
from tfprune.layers.recurrent import (
    GRU,
    LSTM,
    ConvLSTM1D,
    ConvLSTM2D,
    ConvLSTM3D,
    GRUCell,
    LSTMCell,
    SimpleRNN,
    SimpleRNNCell,
)

# Keras's other names for the same layers.
GroupQueryAttention = GroupedQueryAttention
Convolution1D, Convolution2D, Convolution3D = Conv1D, Conv2D, Conv3D
Convolution1DTranspose, Convolution2DTranspose = Conv1DTranspose, Conv2DTranspose
Convolution3DTranspose = Conv3DTranspose
SeparableConvolution1D, SeparableConvolution2D = SeparableConv1D, SeparableConv2D

DROP_INS = {
    cls.__mro__[2]: cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, Masked) and cls is not Masked
}
"""The drop-in class for each stock class."""


def __getattr__(name):
    """Layers without weights are Keras's own."""
    return getattr(keras.layers, name)


def __dir__():
    return sorted({*globals(), *dir(keras.layers)})
