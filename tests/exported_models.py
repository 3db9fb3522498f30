"""Models that were pruned and stripped, to export to LiteRT and ONNX."""

import keras
import numpy as np

import tfprune
from tests.export_models import floats

L = keras.layers


def stripped(model, sparsity=0.5):
    """The model without half of its units."""
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, sparsity)
    return tfprune.strip(masked)


def cnn():
    """Convolution, batch normalisation with statistics, depthwise convolution, a residual sum."""
    inputs = keras.Input((12, 12, 3), name="x")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="first")(inputs)
    x = L.BatchNormalization(momentum=0.0)(x)
    x = L.ReLU(6.0)(x)
    y = L.DepthwiseConv2D(3, padding="same")(x)
    y = L.BatchNormalization(momentum=0.0)(y)
    x = L.Add()([x, y])
    x = L.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = L.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, L.Dense(4, name="y")(x), name="cnn")
    model(10 * floats(32, 12, 12, 3), training=True)
    return stripped(model)


def mlp():
    layers = [L.Dense(128, "relu"), L.Dense(128, "relu"), L.Dense(10, "softmax", name="y")]
    model = keras.Sequential([keras.Input((64,), name="x"), *layers], name="mlp")
    for layer in layers:
        layer.bias.assign(np.linspace(-0.3, 0.3, layer.units))
    return stripped(model)


def lstm(unroll=False):
    inputs = keras.Input((6, 8), name="x")
    x = L.LSTM(32, unroll=unroll, name="lstm")(inputs)
    return stripped(keras.Model(inputs, L.Dense(3, name="y")(x), name="lstm_model"))


def block_sparse(sparsity, inputs=64, units=64):
    """Two Dense layers whose kernels are zero in blocks of 4 inputs, and stock layers around."""
    layers = [L.Dense(units, "relu", name="hidden"), L.Dense(units, name="y")]
    model = keras.Sequential([keras.Input((inputs,), name="x"), *layers], name="blocks")
    for layer in layers:
        kernel = layer.kernel.numpy()
        pattern = tfprune.patterns.Block((4, 1))
        layer.kernel.assign(kernel * pattern.mask(np.abs(kernel), sparsity))
    return model
