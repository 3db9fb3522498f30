"""Activations as users write them."""

import keras
import tensorflow as tf

layers, ops = keras.layers, keras.ops


def swish(x):
    return x * ops.sigmoid(x)


def squared_relu(x):
    return ops.square(tf.nn.relu(x))
