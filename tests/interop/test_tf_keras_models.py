"""Models of `tf_keras` with layers of one's own, or with classes of Keras 3 in their place."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.sparsity import keras as tfmot

import tfprune
from tests.interop.comparing import arrays, assert_same, taken_over
from tests.interop.tf_keras_models import (
    Conditional3,
    HandMadeDense,
    ResidualBlock,
    Scales,
    Squeeze,
    any_size_of_image,
    conditional,
    frames,
    in_a_sequence,
    locally_connected,
    residual,
    shuffled,
    siamese,
    subclassed,
    text,
    text_of_any_length,
    vision_transformer,
)
from tests.interop.tfmot_models import assert_masks_are, randomised
from tfprune.interop.tfmot import from_tfmot

pytestmark = pytest.mark.slow  # together; each builds and runs models of two Keras

K = tf_keras.layers


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


# Classes of Keras 3 in their place ----------------------------------------------------------------


def test_a_call_that_cannot_be_run_is_refused_with_its_line():
    with pytest.raises(
        ValueError, match=r"layer='either' \(Conditional\).*line \d+ of tf_keras_models.py"
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
