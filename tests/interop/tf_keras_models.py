"""Layers and models of `tf_keras` as people write them, for tests."""

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from tests.interop.tfmot_models import randomised

K = tf_keras.layers


def of_function(function):
    inputs = tf_keras.Input((4, 6), name="given")
    return tf_keras.Model(inputs, function(inputs), name="made")


class TokensAndPositions(K.Layer):
    def __init__(self, length, words, size, is_static=False, **kwargs):
        super().__init__(**kwargs)
        self.words, self.places = K.Embedding(words, size), K.Embedding(length, size)
        self.positions = tf.range(length) if is_static else None

    def call(self, inputs):
        positions = self.positions
        if positions is None:
            positions = tf.range(start=0, limit=tf.shape(inputs)[-1], delta=1)
        return self.words(inputs) + self.places(positions)


class TransformerBlock(K.Layer):
    def __init__(self, size, heads, **kwargs):
        super().__init__(**kwargs)
        self.attention = K.MultiHeadAttention(heads, size // heads)
        self.wide = tf_keras.Sequential([K.Dense(2 * size, activation="gelu"), K.Dense(size)])
        self.norms, self.drop = [K.LayerNormalization(), K.LayerNormalization()], K.Dropout(0.1)

    def call(self, inputs, training=None):
        found = self.drop(self.attention(inputs, inputs), training=training)
        x = self.norms[0](inputs + found)
        return self.norms[1](x + self.drop(self.wide(x), training=training))


class HandMadeAttention(K.Layer):
    def __init__(self, size, heads, **kwargs):
        super().__init__(**kwargs)
        self.size, self.heads = size, heads
        self.query, self.key_, self.value, self.out = (K.Dense(size) for _ in range(4))

    def heads_of(self, x, count):
        x = tf.reshape(x, (count, -1, self.heads, self.size // self.heads))
        return tf.transpose(x, [0, 2, 1, 3])

    def call(self, inputs, mask=None):
        count = tf.shape(inputs)[0]
        parts = [self.heads_of(part(inputs), count) for part in (self.query, self.key_, self.value)]
        scale = tf.math.sqrt(tf.cast(self.size // self.heads, tf.float32))
        weights = tf.nn.softmax(tf.matmul(parts[0], parts[1], transpose_b=True) / scale, axis=-1)
        found = tf.transpose(tf.matmul(weights, parts[2]), [0, 2, 1, 3])
        return self.out(tf.reshape(found, (count, -1, self.size)))


class Squeeze(K.Layer):
    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.down = K.Dense(channels // 2, activation="relu")
        self.up = K.Dense(channels, activation="sigmoid")

    def call(self, inputs):
        return inputs * self.up(self.down(tf.reduce_mean(inputs, [1, 2])))[:, None, None, :]


class ResidualBlock(tf_keras.Model):
    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = (K.Conv2D(filters, 3, padding="same") for _ in range(2))
        self.norm, self.squeeze = K.BatchNormalization(), Squeeze(filters)

    def call(self, inputs, training=False):
        x = tf.nn.relu(self.norm(self.first(inputs), training=training))
        return tf.nn.relu(self.squeeze(self.second(x)) + inputs)


class Network(tf_keras.Model):
    def __init__(self):
        super().__init__(name="network")
        self.stem, self.head = K.Conv2D(8, 3, strides=2, padding="same"), K.Dense(3)
        self.blocks = [ResidualBlock(8) for _ in range(2)]

    def call(self, inputs, training=False):
        x = self.stem(inputs)
        for block in self.blocks:
            x = block(x, training=training)
        return {"logits": self.head(tf.reduce_mean(x, axis=[1, 2]))}


class ClassToken(K.Layer):
    def build(self, shape):
        self.token = self.add_weight(name="token", shape=(1, 1, shape[-1]))

    def call(self, inputs):
        token = tf.broadcast_to(self.token, [tf.shape(inputs)[0], 1, inputs.shape[-1]])
        return tf.concat([token, inputs], 1)


class Scales(K.Layer):
    """Weights in attributes, lists and dicts, vectors and tables."""

    def build(self, shape):
        self.gamma = self.add_weight(name="gamma", shape=shape[-1:])
        self.betas = [self.add_weight(name=f"beta{i}", shape=shape[-1:]) for i in range(2)]
        self.others = {"places": tf.Variable(tf.zeros((1, *shape[1:])), name="places")}

    def call(self, inputs):
        return (inputs + self.others["places"]) * self.gamma + self.betas[0] - 2 * self.betas[1]


class HandMadeDense(K.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight("w", shape=(shape[-1], self.units))
        self.b = self.add_weight("b", shape=(self.units,))

    def call(self, inputs):
        return tf.nn.relu(tf.matmul(inputs, self.w) + self.b)


class RelativeBias(K.Layer):
    def __init__(self, heads, length, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.length = heads, length
        places = np.arange(length)
        self.places = tf.Variable(places[:, None] - places + length - 1, trainable=False)

    def build(self, shape):
        self.table = self.add_weight("table", shape=(2 * self.length - 1, self.heads))

    def call(self, scores):
        bias = tf.gather(self.table, tf.reshape(self.places, [-1]))
        bias = tf.reshape(bias, [self.length, self.length, self.heads])
        return scores + tf.transpose(bias, [2, 0, 1])[None]


class Standardized(K.Conv2D):
    def call(self, inputs):
        mean, variance = tf.nn.moments(self.kernel, axes=[0, 1, 2], keepdims=True)
        kernel = (self.kernel - mean) / tf.sqrt(variance + 1e-5)
        return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper()) + self.bias


class Renamed(K.Dense):
    """Nothing but another name."""


def text(is_static=False):
    words = tf_keras.Input((9,), dtype="int32", name="words")
    x = TokensAndPositions(9, 12, 8, is_static, name="lookup")(words)
    x = TransformerBlock(8, 2, name="block")(x)
    x = HandMadeAttention(8, 2, name="attention")(x)
    return tf_keras.Model(words, K.Dense(3, name="out")(tf.reduce_mean(x, 1)))


def text_of_any_length():
    words = tf_keras.Input((None,), dtype="int32", name="words")
    x = TokensAndPositions(30, 12, 8, name="lookup")(words)
    return tf_keras.Model(words, HandMadeAttention(8, 2, name="attention")(x))


def residual():
    image = tf_keras.Input((8, 8, 3), name="image")
    x = K.Conv2D(8, 3, padding="same", name="stem")(image)
    block = ResidualBlock(8, name="block")
    inside = tf_keras.Input((8, 8, 8))
    nested = tf_keras.Model(inside, K.Conv2D(8, 1, name="mix")(tf.nn.relu(inside) + 1.0), name="in")
    x = block(x)
    x = block(nested(x) + nested(x * 2))  # both are shared
    return tf_keras.Model(image, K.Dense(2, name="out")(tf.reduce_mean(x, (1, 2))))


def subclassed():
    model = Network()
    model(np.zeros((2, 8, 8, 3), "float32"))
    return model


def in_a_sequence():
    return tf_keras.Sequential(
        [
            K.Conv2D(8, 3, padding="same", input_shape=(8, 8, 3), name="stem"),
            Squeeze(8, name="squeeze"),
            ResidualBlock(8, name="block"),
            K.Lambda(lambda x: tf.reduce_max(x, [1, 2]), name="pool"),
            Renamed(4, name="renamed"),
        ]
    )


def vision_transformer():
    image = tf_keras.Input((8, 8, 3), name="image")
    x = K.Reshape((-1, 8), name="rows")(K.Conv2D(8, 4, strides=4, name="patches")(image))
    x = Scales(name="scales")(ClassToken(name="class_token")(x))
    scores = RelativeBias(2, 5, name="bias")(
        tf.einsum("bqhd,bkhd->bhqk", *[K.Reshape((5, 2, 4))(K.Dense(8)(x)) for _ in range(2)])
    )
    x = x + tf.reduce_mean(tf.nn.softmax(scores), 1) @ HandMadeDense(8, name="values")(x)
    return tf_keras.Model(image, K.Dense(3, name="out")(K.LayerNormalization(name="ln")(x)[:, 0]))


def siamese():
    encoder = tf_keras.Sequential(
        [
            K.Dense(6, activation=tf.sin, input_shape=(4,), name="wide"),
            K.Dense(3, activation=lambda x: x * tf.tanh(x), name="narrow"),
            K.Lambda(lambda x: tf.math.l2_normalize(x, axis=-1), name="unit"),
        ],
        name="encoder",
    )
    one, two = tf_keras.Input((4,), name="one"), tf_keras.Input((4,), name="two")
    distance = tf.reduce_sum(tf.square(encoder(one) - encoder(two)), -1, keepdims=True)
    return tf_keras.Model({"one": one, "two": two}, distance)


def shuffled():
    image = tf_keras.Input((8, 8, 4), name="image")
    x = K.Conv2D(8, 1, name="conv")(image)
    count, height, width, channels = (tf.shape(x)[axis] for axis in range(4))
    y = tf.reshape(x, [count, height, width, 2, channels // 2])
    y = tf.reshape(tf.transpose(y, [0, 1, 2, 4, 3]), [count, height, width, channels])
    left, right = tf.split(y, 2, -1)
    y = tf.concat([left, K.DepthwiseConv2D(3, padding="same", name="depthwise")(right)], -1)
    y = Standardized(4, 1, name="standard")(y)
    return tf_keras.Model(image, K.Dense(2, name="out")(tf.reduce_mean(y, [1, 2])))


def any_size_of_image():
    image = tf_keras.Input((None, None, 3), name="image")
    x = tf.nn.relu(K.Conv2D(4, 3, padding="same", name="down")(image))
    x = tf.concat([x, K.Conv2D(4, 3, padding="same", name="side")(x)], -1)
    return tf_keras.Model(image, K.Conv2D(2, 1, name="out")(x))


def frames():
    frame = tf_keras.Input((6, 6, 2), name="frame")
    x = tf.nn.relu(K.Conv2D(4, 3, name="conv")(frame))
    each = tf_keras.Model(frame, K.GlobalAveragePooling2D(name="pool")(x), name="each")
    film = tf_keras.Input((5, 6, 6, 2), name="film")
    x = K.LSTM(4, return_sequences=True, name="lstm")(K.TimeDistributed(each, name="all")(film))
    weights = tf.nn.softmax(K.Dense(1, name="score")(tf.nn.tanh(x)), axis=1)
    return tf_keras.Model(film, tf.reduce_sum(weights * x, axis=1))


def locally_connected():
    inputs = tf_keras.Input((6, 3), name="signal")
    x = K.LocallyConnected1D(4, 3, name="local")(inputs)  # Keras 3 has no such layer
    return tf_keras.Model(inputs, K.Dense(2, name="out")(K.Flatten(name="flat")(x)))


class Conditional(K.Layer):
    """Its `call` cannot be run on symbolic tensors."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense, self.other = K.Dense(units), K.Dense(units)

    def call(self, inputs):
        if tf.reduce_sum(inputs) > 1e9:
            return inputs
        return self.dense(inputs) - self.other(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Conditional3(keras.layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.other = keras.layers.Dense(units), keras.layers.Dense(units)

    def build(self, shape):
        self.dense.build(shape)
        self.other.build(shape)

    def call(self, inputs):
        return self.dense(inputs) - self.other(inputs)


def conditional():
    inputs = tf_keras.Input((6,), name="given")
    x = Conditional(6, name="either")(K.Dense(6, name="before")(inputs))
    return randomised(tf_keras.Model(inputs, K.Dense(2, name="after")(x)))
