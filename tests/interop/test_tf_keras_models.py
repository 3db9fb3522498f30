"""Models of `tf_keras` as people write them: with TensorFlow functions and classes of their own."""

import functools
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.sparsity import keras as tfmot

import tfprune
from tests.interop.test_tfmot import assert_masks_are, randomised
from tfprune.interop.tfmot import from_tfmot

pytestmark = pytest.mark.slow  # together; each builds and runs models of two Keras

K = tf_keras.layers
B = tf_keras.backend


def arrays(model, seed=5):
    """Inputs of other values and another length of batch than those that `from_tfmot` checks."""
    generator = np.random.default_rng(seed)

    def array(tensor):
        shape = [7 if size is None else size for size in tensor.shape[1:]]
        if tensor.dtype.is_integer:
            return generator.integers(0, 9, (3, *shape)).astype("int32")
        return generator.normal(size=(3, *shape)).astype("float32")

    specification = model.save_spec()[0][0] if model.inputs is None else model.input
    return keras.tree.map_structure(array, specification)


def assert_same(theirs, ours):
    inputs = arrays(theirs)
    pairs = zip(
        keras.tree.flatten(theirs(inputs)), keras.tree.flatten(flat_call(ours, inputs)), strict=True
    )
    for old, new in pairs:
        old, new = np.asarray(old), np.asarray(new)
        assert old.dtype == new.dtype
        assert old.dtype.kind == "b" or np.ptp(old) > 1e-3
        scale = np.abs(old.astype("float64")).max()
        np.testing.assert_allclose(old, new, rtol=1e-4, atol=1e-5 * max(scale, 1e-3))


def flat_call(ours, inputs):
    if isinstance(ours, keras.Sequential):
        return ours(inputs)
    return ours(keras.tree.pack_sequence_as(ours.input, keras.tree.flatten(inputs)))


def taken_over(theirs, **kwargs):
    """The new model; warnings are errors, and the model given is as before."""
    layers = [layer for layer in theirs.submodules if hasattr(layer, "_inbound_nodes")]
    before = [len(layer._inbound_nodes) for layer in layers], theirs.get_weights()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", message=".*(without comparing|other operations|training=False).*"
        )
        ours = from_tfmot(theirs, **kwargs)
    assert [len(layer._inbound_nodes) for layer in layers] == before[0]
    for old, new in zip(before[1], theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return ours


# TensorFlow functions -----------------------------------------------------------------------------


def batch(x):
    return tf.shape(x)[0]


FUNCTIONS = {
    "abs": lambda x: abs(x),
    "negative": lambda x: -x,
    "power": lambda x: x**2,
    "power of": lambda x: 2.0**x,
    "from one": lambda x: 1.0 - x,
    "divided": lambda x: x / 3 + 2 / (x + 9.0),
    "remainder": lambda x: tf.floor(x) % 3 + x // 2,
    "compare": lambda x: tf.cast(tf.logical_not(x > 0) | (x == 1.0), "float32"),
    "relu": lambda x: tf.nn.relu(x) + tf.nn.elu(x),
    "leaky": lambda x: tf.nn.leaky_relu(x) + tf.nn.leaky_relu(x, 0.3),
    "gelu": lambda x: tf_keras.activations.gelu(x, approximate=True) + tf.nn.gelu(x),
    "silu": lambda x: tf.nn.silu(x, beta=1.5) + tf.nn.swish(x),
    "hard swish": lambda x: x * tf.nn.relu6(x + 3) / 6,
    "erf": lambda x: 0.5 * x * (1 + tf.math.erf(x / np.sqrt(2))),
    "softmax": lambda x: tf.nn.softmax(x, axis=1) + tf.compat.v1.nn.softmax(x, dim=-1),
    "log softmax": lambda x: tf.nn.log_softmax(x),
    "sigmoid": lambda x: tf.sigmoid(x) * tf.tanh(x) + tf.math.softplus(x),
    "where": lambda x: tf.where(x > 0, x, 0.1 * x),
    "where constants": lambda x: tf.where(x > 0, 1.0, -2.0),
    "clip": lambda x: tf.clip_by_value(x, 0.0, 1.0),
    "squared difference": lambda x: tf.math.squared_difference(x, tf.stop_gradient(x * 2)),
    "safe division": lambda x: tf.math.divide_no_nan(x, tf.nn.relu(x)),
    "sum of several": lambda x: tf.add_n([x, x * 2, x]),
    "constant": lambda x: tf.add(x, tf.constant([1.0, 2, 3, 4, 5, 6])) * np.arange(6),
    "bias": lambda x: tf.nn.bias_add(x, np.arange(6.0, dtype="float32"), "NHWC"),
    "mean": lambda x: B.mean(x, axis=1, keepdims=True) + tf.reduce_mean(x, [1, 2], keepdims=True),
    "reductions": lambda x: tf.reduce_max(x, 1) - tf.reduce_min(x, axis=1) + tf.reduce_prod(x, 1),
    "deviation": lambda x: tf.math.reduce_std(x, -1) + tf.math.reduce_variance(x, -1),
    "log sum exp": lambda x: tf.reduce_logsumexp(x, axis=1),
    "sum of a list": lambda x: tf.reduce_sum([x, x * 2], axis=0),
    "norm": lambda x: tf.norm(x, axis=-1) + tf.norm(x, ord=1, axis=2) + tf.norm(x, np.inf, 2),
    "unit length": lambda x: tf.math.l2_normalize(x, -1) + B.l2_normalize(x, 1),
    "moments": lambda x: list(tf.nn.moments(x, axes=[1], keepdims=True)),
    "batch norm": lambda x: tf.nn.batch_normalization(
        x, np.ones(6), np.arange(1, 7), None, np.ones(6) * 3, 1e-3
    ),
    "argmax": lambda x: tf.argmax(x, -1),
    "argmax of the first": lambda x: tf.argmax(tf.transpose(x, [1, 0, 2])),
    "top k": lambda x: tf.math.top_k(x, 2).values,
    "cumulative sum": lambda x: tf.cumsum(x, axis=1, reverse=True) + tf.cumsum(x, 2),
    "sort": lambda x: tf.sort(x, direction="DESCENDING"),
    "matmul": lambda x: tf.matmul(x, x, transpose_b=True) @ x,
    "matmul with a constant": lambda x: x @ np.arange(12.0).reshape(6, 2),
    "batch dot": lambda x: B.batch_dot(x, x, axes=2),
    "einsum": lambda x: tf.einsum("abc, adc -> abd", x, x),
    "einsum with a constant": lambda x: tf.einsum("abc,dc->abd", x, np.arange(18.0).reshape(3, 6)),
    "tensordot": lambda x: tf.tensordot(x, tf.ones((6, 5)) * 0.5, [[2], [0]]),
    "matvec": lambda x: tf.linalg.matvec(np.arange(24.0, dtype="float32").reshape(4, 6), x),
    "slices": lambda x: x[:, 1:-1, ..., tf.newaxis],
    "index": lambda x: x[:, 1] + x[:, -1],
    "last": lambda x: x[..., -2:],
    "backwards": lambda x: x[:, ::-1] + tf.reverse(x, [2]),
    "slice": lambda x: tf.slice(x, [0, 1, 0], [-1, 2, 3]),
    "slice of a batch": lambda x: tf.slice(x, [0, 1, 2], [batch(x), 2, 3]),
    "strided": lambda x: tf.strided_slice(
        x, [0, 1, 0], [0, 3, 6], [1, 1, 2], begin_mask=1, end_mask=1
    ),
    "reshape": lambda x: tf.reshape(x, [batch(x), -1]),
    "reshape by shapes": lambda x: tf.reshape(x, tf.concat([tf.shape(x)[:-1], [2, 3]], 0)),
    "reshape by products": lambda x: tf.reshape(x, [-1, tf.shape(x)[1] * tf.shape(x)[2]]),
    "reshape with two open": lambda x: tf.reshape(x, [B.shape(x)[0], 2, -1]),
    "transpose": lambda x: B.permute_dimensions(x, (0, 2, 1)),
    "expand": lambda x: tf.squeeze(tf.expand_dims(x, 1), [1]) + B.expand_dims(x[:, 0], 1),
    "concat": lambda x: tf.concat([x, x * 2], axis=-1) + B.concatenate([x, x], 2),
    "stack": lambda x: tf.stack([x, 2 * x], axis=-1),
    "unstack": lambda x: tf.unstack(x, axis=1)[1:],
    "split": lambda x: tf.split(x, 2, axis=-1) + tf.split(x, [1, -1], axis=1),
    "gather": lambda x: tf.gather(x, [0, 2], axis=1),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0]], constant_values=2.0),
    "pad by reflection": lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0]], "REFLECT"),
    "tile": lambda x: tf.tile(x, [1, 2, 1]) + tf.repeat(x, 2, axis=1),
    "roll": lambda x: tf.roll(x, 1, -1) + tf.roll(x, [1, 2], [1, 2]),
    "one hot": lambda x: tf.one_hot(tf.cast(x, "int32"), 3),
    "likes": lambda x: tf.zeros_like(x) + 2 * tf.ones_like(x) * x,
    "ones of a batch": lambda x: tf.concat([tf.ones([batch(x), 1, 6]), x], 1),
    "fill": lambda x: x + tf.fill([batch(x), 1, 1], 2.0),
    "tile to a batch": lambda x: tf.concat([tf.tile(tf.ones([1, 1, 6]), [batch(x), 1, 1]), x], 1),
    "broadcast": lambda x: x * tf.broadcast_to(np.arange(6.0, dtype="float32"), [batch(x), 4, 6]),
    "range": lambda x: x + tf.cast(tf.range(tf.shape(x)[2]), "float32"),
    "switch": lambda x: B.switch(x > 0, x, x * 2),
    "identity": lambda x: tf.identity(x * 2),
    "resize": lambda x: tf.image.resize(x[..., None], (8, 8)),
    "resize by shape": lambda x: tf.image.resize(x[..., None], tf.shape(x)[1:3] * 2, "nearest"),
    "resize images": lambda x: B.resize_images(x[..., None], 2, 2, "channels_last"),
    "depth to space": lambda x: tf.nn.depth_to_space(tf.reshape(x, (-1, 2, 3, 4)), 2),
    "pools": lambda x: (
        tf.nn.avg_pool2d(x[..., None], 2, 2, "SAME")
        + tf.nn.max_pool2d(x[..., None], [1, 2, 2, 1], [1, 2, 2, 1], "VALID")
    ),
    "blur": lambda x: tf.nn.conv2d(x[..., None], np.ones((2, 2, 1, 3), "float32"), 1, "SAME"),
    "blur along": lambda x: tf.nn.conv1d(x, np.ones((2, 6, 3), "float32"), 1, "SAME"),
    "patches": lambda x: tf.image.extract_patches(
        x[..., None], [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1], "VALID"
    ),
    "flips": lambda x: tf.image.flip_left_right(x) + tf.image.flip_up_down(x),
}


def of_function(function):
    inputs = tf_keras.Input((4, 6), name="given")
    return tf_keras.Model(inputs, function(inputs), name="made")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_tensorflow_function_is_taken_over(name, tmp_path):
    theirs = of_function(FUNCTIONS[name])
    ours = taken_over(theirs)
    assert_same(theirs, ours)
    ours.save(tmp_path / "model.keras")
    assert_same(theirs, keras.saving.load_model(tmp_path / "model.keras"))


REFUSED = {
    "rgb_to_grayscale.*no equivalent": lambda x: tf.image.rgb_to_grayscale(x[..., :3]),
    "random.normal.*draws random numbers": lambda x: x + tf.random.normal(tf.shape(x)),
    "random.uniform.*draws random": lambda x: x + tf.random.uniform(tf.shape(x)[1:]),
    "nn.dropout.*in inference too": lambda x: tf.nn.dropout(x, 0.1),
    "boolean_mask.*depends on the values": lambda x: tf.boolean_mask(x, x > 0),
    "cumsum.*exclusive=True": lambda x: tf.cumsum(x, 1, exclusive=True),
    "resize.*'area'": lambda x: tf.image.resize(x[..., None], (8, 8), "area"),
    "reduce_mean.*integers": lambda x: tf.reduce_mean(tf.cast(x, "int32"), 1),
    "norm.*ord=": lambda x: tf.norm(x, ord=3, axis=1),
    "where.*depends on the values": lambda x: tf.where(x > 0),
    "getitem.*known only at run time": lambda x: x[:, : tf.cast(x[0, 0, 0], "int32")],
}


@pytest.mark.parametrize("match", REFUSED)
def test_a_function_without_equivalent_is_refused_by_its_layer_and_reason(match):
    theirs = of_function(REFUSED[match])
    with pytest.raises(ValueError, match=r"layer='tf\..*" + match):
        from_tfmot(theirs)


def test_a_function_can_be_given_by_its_name():
    theirs = of_function(lambda x: tf.linalg.band_part(x, -1, 0) * 2)
    with pytest.raises(ValueError, match=r"custom_objects=\{'linalg.band_part': function\}"):
        from_tfmot(theirs)
    lower = {"linalg.band_part": lambda x, below, above: keras.ops.tril(x)}
    assert_same(theirs, taken_over(theirs, custom_objects=lower))
    wrong = {"linalg.band_part": lambda x, below, above: keras.ops.triu(x)}
    with pytest.raises(RuntimeError, match="first different layer='tf.linalg.band_part"):
        from_tfmot(theirs, custom_objects=wrong)


# Layers and models of one's own -------------------------------------------------------------------


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


MODELS = [
    text,
    functools.partial(text, is_static=True),
    text_of_any_length,
    residual,
    subclassed,
    in_a_sequence,
    vision_transformer,
    siamese,
    shuffled,
    any_size_of_image,
    frames,
    locally_connected,
]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: getattr(make, "__name__", "text, static"))
def test_a_model_is_taken_over_with_all_its_weights(make, tmp_path):
    theirs = randomised(make())
    ours = taken_over(theirs)
    assert_same(theirs, ours)
    floats = [weight for weight in theirs.weights if weight.dtype.is_floating]
    assert ours.count_params() == sum(int(np.prod(weight.shape)) for weight in floats)
    assert len(ours.trainable_weights) == len(theirs.trainable_weights)
    ours.save(tmp_path / "model.keras")
    assert_same(theirs, keras.saving.load_model(tmp_path / "model.keras"))


@pytest.mark.parametrize("make", [text, residual, subclassed, vision_transformer, siamese])
def test_it_can_be_pruned_and_stripped(make):
    masked = taken_over(randomised(make()))
    inputs = keras.tree.map_structure(
        lambda each: np.ones([2, *each.shape[1:]], each.dtype), masked.input
    )
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    assert small.count_params() < 0.92 * masked.count_params()
    for one, two in zip(
        keras.tree.flatten(masked(inputs)), keras.tree.flatten(small(inputs)), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def random_model(seed):
    """A model of random layers and functions on images, which may be joined and shared."""
    random = np.random.default_rng(seed)
    image = tf_keras.Input((8, 8, 3), name="image")
    open_tensors = [K.Conv2D(8, 3, padding="same", name="stem")(image)]
    shared = K.Conv2D(8, 1, name="shared")
    steps = [
        lambda x, y: tf.nn.relu(x),
        lambda x, y: x * tf.sigmoid(y),
        lambda x, y: x + 0.5 * y,
        lambda x, y: shared(x),
        lambda x, y: K.BatchNormalization()(x),
        lambda x, y: K.Conv2D(8, 3, padding="same", activation=tf.nn.silu)(x),
        lambda x, y: K.Conv2D(8, 1)(tf.concat([x, y], -1)),
        lambda x, y: K.Lambda(lambda t: tf.nn.leaky_relu(t[0], 0.1) - t[1])([x, y]),
        lambda x, y: tf.concat(tf.split(x, 2, -1)[::-1], -1),
        lambda x, y: x - tf.reduce_mean(x, [1, 2], keepdims=True),
        lambda x, y: tf.pad(x[:, 1:-1], [[0, 0], [1, 1], [0, 0], [0, 0]]),
        lambda x, y: tf.image.resize(K.MaxPool2D()(x), tf.shape(x)[1:3]),
        lambda x, y: tf.reshape(tf.reshape(x, [-1, 64, 8]), [tf.shape(x)[0], 8, 8, 8]),
        lambda x, y: Squeeze(8)(x),
        lambda x, y: ResidualBlock(8)(x),
        lambda x, y: tf.nn.depth_to_space(K.Conv2D(32, 2, strides=2)(x), 2),
    ]
    for place in random.integers(0, len(steps), 7):
        one, two = (open_tensors[i] for i in random.integers(0, len(open_tensors), 2))
        open_tensors.append(steps[place](one, two))
    x = tf.add_n(open_tensors[-3:])
    return tf_keras.Model(image, K.Dense(3, name="out")(tf.reduce_mean(x, [1, 2])))


def test_names_with_slashes_and_names_that_repeat():
    class Pair(K.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first, self.second = K.Dense(4, name="same"), K.Dense(4, name="same")

        def call(self, inputs):
            return self.second(tf.nn.relu(self.first(inputs)))

    inputs = tf_keras.Input((4,), name="given")
    x = Pair(name="block/pair")(inputs)
    scaled = Scales(name="block/scales")(tf.expand_dims(x, 1))
    theirs = randomised(tf_keras.Model(inputs, scaled, name="with/slash"))
    ours = taken_over(theirs)
    assert [layer.name for layer in ours.get_layer("block_pair").layers][1:] == ["same", "same_1"]
    assert_same(theirs, ours)


def test_weights_of_a_layer_that_is_in_two_models_stay_one():
    scale = HandMadeDense(4, name="hand")
    inside = tf_keras.Input((4,))
    nested = tf_keras.Model(inside, scale(inside), name="nested")
    inputs = tf_keras.Input((4,), name="given")
    theirs = randomised(tf_keras.Model(inputs, scale(tf.nn.tanh(nested(inputs)))))
    ours = taken_over(theirs)
    assert len(ours.weights) == len(theirs.weights) == 2
    assert_same(theirs, ours)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_layers_of_other_precisions(policy):
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        inputs = tf_keras.Input((4,), name="given")
        x = HandMadeDense(5, name="hand")(tf.nn.relu(K.Dense(4, name="first")(inputs)) * 0.5)
        theirs = randomised(tf_keras.Model(inputs, x))
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    ours = taken_over(theirs)
    assert ours.get_layer("hand").get_layer("w").compute_dtype == theirs.layers[-1].compute_dtype
    assert ours.get_layer("hand").get_layer("w").variable_dtype == theirs.layers[-1].variable_dtype
    x = arrays(theirs)
    atol = 0.1 if policy == "mixed_bfloat16" else 1e-10
    old, new = (np.asarray(tf.cast(model(x), "float64")) for model in (theirs, ours))
    np.testing.assert_allclose(old, new, atol=atol)


@pytest.mark.parametrize("seed", range(12))
def test_random_models(seed):
    theirs = randomised(random_model(seed))
    ours = taken_over(theirs)
    assert_same(theirs, ours)
    tfprune.prune_units(ours, 0.4)
    assert tfprune.strip(ours).count_params() < theirs.count_params()


# Classes of Keras 3 in their place ----------------------------------------------------------------


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


def test_a_call_that_cannot_be_run_is_refused_with_its_line():
    with pytest.raises(
        ValueError, match=r"layer='either' \(Conditional\).*line \d+ of test_tf_ker"
    ):
        from_tfmot(conditional())


@pytest.mark.parametrize("found", [Conditional3, lambda units, **config: Conditional3(units)])
def test_a_class_or_function_of_keras_3_takes_its_place(found):
    theirs = conditional()
    ours = taken_over(theirs, custom_objects={"Conditional": found})
    assert isinstance(ours.get_layer("either"), Conditional3)
    assert_same(theirs, ours)


def test_a_cell_of_ones_own_is_named_with_its_layer():
    class Cell(K.SimpleRNNCell):
        def call(self, inputs, states, training=None):
            return super().call(inputs, states)

    inputs = tf_keras.Input((4, 6), name="given")
    theirs = tf_keras.Model(inputs, K.RNN(Cell(3), name="over")(inputs))
    with pytest.raises(ValueError, match=r"\(Cell\), it is inside the layer 'over'"):
        from_tfmot(theirs)


def test_a_class_that_computes_something_else_is_named():
    class Swapped(Conditional3):
        def call(self, inputs):
            return self.other(inputs) - self.dense(inputs)

    with pytest.raises(RuntimeError, match="first different layer='either'"):
        from_tfmot(conditional(), custom_objects={"Conditional": Swapped})


def test_a_subclassed_model_becomes_an_object_of_the_class_given():
    class Network3(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.out = keras.layers.Dense(5, "relu"), keras.layers.Dense(2)

        def call(self, inputs):
            return self.out(self.dense(inputs))

    class Old(tf_keras.Model):
        def __init__(self):
            super().__init__(name="old")
            self.dense, self.out = K.Dense(5, "relu"), K.Dense(2)

        def call(self, inputs):
            if tf.reduce_sum(inputs) > 1e9:
                return inputs
            return self.out(self.dense(inputs))

    theirs = Old()
    theirs(np.zeros((2, 4), "float32"))
    randomised(theirs)
    with pytest.raises(ValueError, match="subclassed model.*line .*custom_objects={'Old'"):
        from_tfmot(theirs)
    ours = taken_over(theirs, custom_objects={"Old": lambda **config: Network3()})
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(theirs(x), ours(x), rtol=1e-5, atol=1e-5)
    assert isinstance(ours, Network3)


# What would be lost -------------------------------------------------------------------------------


def test_what_a_layer_does_in_training_alone_is_said():
    class InTraining(K.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense, self.drop = K.Dense(3), K.Dropout(0.5)

        def call(self, inputs, training=None):
            x = self.dense(inputs)
            return self.drop(x) if training else x

    inputs = tf_keras.Input((4,), name="given")
    theirs = tf_keras.Model(inputs, InTraining(name="mine")(inputs))
    with pytest.warns(UserWarning, match="'mine'.*other operations in training"):
        from_tfmot(theirs)


def test_losses_beside_the_outputs_and_regularizers_of_own_weights_are_refused():
    class Regularized(K.Layer):
        def build(self, shape):
            self.g = self.add_weight("g", shape=shape[-1:], regularizer="l2")

        def call(self, inputs):
            return inputs * self.g

    inputs = tf_keras.Input((4,), name="given")
    x = K.Dense(3, name="made")(inputs)
    with pytest.raises(ValueError, match="layer='mine' .*regularizers"):
        from_tfmot(tf_keras.Model(inputs, Regularized(name="mine")(x)))
    theirs = tf_keras.Model(inputs, x)
    theirs.add_loss(tf.reduce_mean(x))
    with pytest.raises(ValueError, match="add_loss"):
        from_tfmot(theirs)
    taken_over(tf_keras.Model(theirs.inputs, theirs.outputs))


def test_a_variable_that_no_layer_holds_is_refused():
    variable = tf.Variable([1.0, 2.0, 3.0, 4.0], name="free")
    inputs = tf_keras.Input((4,), name="given")
    with pytest.raises(ValueError, match="'tf.math.multiply.*the variable 'free"):
        from_tfmot(tf_keras.Model(inputs, inputs * variable))


class Dropping(K.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.drop = K.Dense(8), K.Dropout(0.5)

    def call(self, inputs, training=False):
        return self.drop(self.dense(inputs), training=training)


@pytest.mark.parametrize("block", [TransformerBlock(8, 2), Dropping()], ids=["None", "False"])
def test_dropout_in_an_opened_layer_still_drops_in_training(block):
    inputs = tf_keras.Input((9,), dtype="int32", name="words")
    x = TokensAndPositions(9, 12, 8, name="lookup")(inputs)
    ours = taken_over(randomised(tf_keras.Model(inputs, block(x))))
    words = np.ones((2, 9), "int32")
    assert not np.allclose(ours(words, training=True), ours(words, training=False))


def test_an_explicit_training_argument_is_said_or_refused():
    inputs = tf_keras.Input((4,), name="given")
    x = K.BatchNormalization(name="norm")(K.Dense(3, name="made")(inputs), training=False)
    with pytest.warns(UserWarning, match=r"training=False.*\['norm'\]"):
        from_tfmot(tf_keras.Model(inputs, x))
    x = K.Dropout(0.5, name="always")(inputs, training=True)
    with pytest.raises(ValueError, match="training=True.*layer='always'"):
        from_tfmot(tf_keras.Model(inputs, x))


def test_a_layer_inside_that_computes_nothing_is_refused():
    class Idle(K.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense, self.idle = K.Dense(3), K.Dense(3, name="idle")

        def call(self, inputs):
            self.idle(inputs)
            return self.dense(inputs)

    inputs = tf_keras.Input((4,), name="given")
    with pytest.raises(ValueError, match="layer='mine' .*does not depend on its weights .*idle"):
        from_tfmot(tf_keras.Model(inputs, Idle(name="mine")(inputs)))


def test_vectors_that_layers_hold_shrink_with_the_width():
    class Scale(K.Layer):
        def build(self, shape):
            self.gamma = self.add_weight("gamma", shape=shape[-1:])

        def call(self, inputs):
            return inputs * self.gamma

    inputs = tf_keras.Input((6,), name="given")
    x = Scale(name="scale")(K.Dense(8, activation="relu", name="wide")(inputs))
    masked = taken_over(randomised(tf_keras.Model(inputs, K.Dense(2, name="out")(x))))
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    assert small.get_layer("wide").units == 4
    assert small.count_params() == (6 + 1) * 4 + 4 + (4 + 1) * 2


def test_masks_of_wrapped_layers_beside_functions_and_in_own_weights():
    inputs = tf_keras.Input((6,), name="given")
    x = HandMadeDense(5, name="hand")(tf.nn.relu(K.Dense(4, name="first")(inputs)) + 1.0)
    plain = randomised(tf_keras.Model(inputs, K.Dense(2, name="last")(x)))

    def wrapped(layer):
        is_dense = type(layer) is K.Dense
        return tfmot.prune_low_magnitude(layer) if is_dense else layer

    theirs = tf_keras.models.clone_model(plain, clone_function=wrapped)
    expected = {}
    for name, shape in (("first", (6, 4)), ("last", (5, 2))):
        wrapper = theirs.get_layer(f"prune_low_magnitude_{name}")
        expected[name] = [np.random.default_rng(0).uniform(size=shape) > 0.4]
        wrapper.pruning_vars[0][1].assign(expected[name][0])
        wrapper.layer.kernel.assign(wrapper.layer.kernel * expected[name][0])
    ours = taken_over(theirs)
    assert_masks_are(ours, expected)
    assert_same(theirs, ours)


# Files --------------------------------------------------------------------------------------------


def of_stock_layers():
    inputs = tf_keras.Input((4, 6), name="given")
    x = K.Dense(8, name="wide")(inputs)
    x = tf.concat([tf.nn.relu(x) * 0.5, x[:, ::-1]], axis=-1) + tf.constant([1.0] * 16)
    x = tf.reshape(tf.transpose(x, [0, 2, 1]), [tf.shape(x)[0], -1])
    inside = tf_keras.Input((64,))
    nested = tf_keras.Model(inside, K.Dense(3, name="in")(tf.nn.tanh(inside)), name="nested")
    return randomised(tf_keras.Model(inputs, 1.0 - nested(x)))


WITHOUT = """
    import sys, warnings
    for name in ("tf_keras", "tensorflow_model_optimization"):
        sys.modules[name] = None  # importing them fails
    import numpy as np
    from tfprune.interop.tfmot import from_tfmot
    stored = np.load(sys.argv[1] + "/arrays.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = from_tfmot(sys.argv[1] + "/model.h5")
        np.testing.assert_allclose(model(stored["x"]), stored["y"], rtol=1e-5, atol=1e-5)
        try:
            from_tfmot(sys.argv[1] + "/lambda.h5")
        except ValueError as error:
            assert "layer='mine' (Lambda)" in str(error) and "pass the model" in str(error), error
        else:
            raise AssertionError("the Lambda was taken over")
"""


@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_h5_files_with_functions_load_with_and_without_tf_keras(tmp_path):
    theirs = of_stock_layers()
    theirs.save(tmp_path / "model.h5")
    assert_same(theirs, from_tfmot(tmp_path / "model.h5"))
    x = arrays(theirs)
    np.savez(tmp_path / "arrays.npz", x=x, y=np.asarray(theirs(x)))
    layers = [K.Dense(3, input_shape=(4,)), K.Lambda(lambda x: x * tf.nn.sigmoid(x), name="mine")]
    of_lambda = randomised(tf_keras.Sequential(layers))
    of_lambda.save(tmp_path / "lambda.h5")
    assert_same(of_lambda, from_tfmot(tmp_path / "lambda.h5"))
    code = [sys.executable, "-c", textwrap.dedent(WITHOUT), str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:.*HDF5 file", "ignore:.*without comparing")
def test_an_h5_file_with_a_class_of_keras_3(tmp_path):
    theirs = conditional()
    theirs.save(tmp_path / "model.h5")
    theirs.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="cannot load the file.*pass the model"):
        from_tfmot(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="layer='either' .*load the file with `tf_keras`"):
        from_tfmot(tmp_path / "model.h5")
    ours = from_tfmot(tmp_path / "model.h5", custom_objects={"Conditional": Conditional3})
    assert_same(theirs, ours)


@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_files_that_do_not_load_say_what_to_do(tmp_path):
    theirs = of_function(lambda x: tf.einsum("abc,adc->abd", x, x))
    theirs.save(tmp_path / "einsum.h5")  # which loses the tensors
    with pytest.raises(ValueError, match="layer='tf.einsum.*stored without all of its arguments"):
        from_tfmot(tmp_path / "einsum.h5")
    of_stock_layers().save_weights(tmp_path / "weights.h5")
    with pytest.raises(ValueError, match="weights without a model.*pass the model"):
        from_tfmot(tmp_path / "weights.h5")
    (tmp_path / "text.h5").write_text("nothing")
    with pytest.raises(ValueError, match="neither an HDF5"):
        from_tfmot(tmp_path / "text.h5")
    new = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for ending in ("h5", "keras"):
        new.save(tmp_path / f"new.{ending}")
        with pytest.raises(ValueError, match="written by Keras 3.*keras.saving.load_model"):
            from_tfmot(tmp_path / f"new.{ending}")
