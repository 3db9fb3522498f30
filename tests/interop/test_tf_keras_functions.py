"""Functions of TensorFlow in models of `tf_keras`, each taken over or refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.interop.comparing import assert_same, taken_over
from tests.interop.tf_keras_models import (
    of_function,
)
from tfprune.interop.tfmot import from_tfmot

pytestmark = pytest.mark.slow  # together; each builds and runs models of two Keras

K = tf_keras.layers
B = tf_keras.backend


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
