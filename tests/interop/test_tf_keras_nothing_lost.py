"""What a layer of `tf_keras` does beside its outputs, in training alone, or without effect."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.interop.comparing import taken_over
from tests.interop.tf_keras_models import (
    TokensAndPositions,
    TransformerBlock,
)
from tests.interop.tfmot_models import randomised
from tfprune.interop.tfmot import from_tfmot

pytestmark = pytest.mark.slow  # together; each builds and runs models of two Keras

K = tf_keras.layers


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
