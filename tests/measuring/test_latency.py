import collections
import time

import keras
import pytest
import tensorflow as tf

from tfprune.measuring.latency import latency

L = keras.layers


def sequential(*layers, shape=(3,), **kwargs):
    return keras.Sequential([keras.Input(shape), *layers], **kwargs)


class Sleeps(L.Layer):
    """Takes a known time at inference, and notes when it was called."""

    def __init__(self, seconds, log=None, **kwargs):
        super().__init__(**kwargs)
        self.seconds = seconds
        self.log = collections.deque() if log is None else log

    def call(self, inputs):
        def sleep(array):
            time.sleep(self.seconds)
            self.log.append((self.name, len(array)))
            return array

        return tf.ensure_shape(tf.numpy_function(sleep, [inputs], tf.float32), inputs.shape)

    def compute_output_shape(self, shape):
        return shape


def test_latency_is_the_time_a_call_takes():
    models = [sequential(Sleeps(seconds)) for seconds in (0.002, 0.02)]
    short, long = latency(models)
    assert 0.002 <= short < 0.02 <= long < 0.1


def test_latency_takes_models_in_turns_on_the_batch_size_given():
    log = collections.deque()  # Keras would copy a list
    models = [sequential(Sleeps(0.001, log, name=name)) for name in "ab"]
    latency(models, batch_size=7)
    assert {size for _, size in log} == {7}
    names = "".join(name for name, _ in log)
    assert names.count("a") == names.count("b") >= 15
    turns = {names[i : i + 2] for i in range(0, len(names), 2)}
    assert turns == {"ab", "ba"}


def test_latency_of_a_dynamic_size_needs_the_size():
    model = sequential(L.Conv1D(2, 3), shape=(None, 3))
    with pytest.raises(ValueError, match="`input_shapes` must be given"):
        latency([model])
    assert latency([model], input_shapes=(8, 3))[0] > 0


def test_latency_of_a_fixed_batch_is_measured_at_that_batch_only():
    inputs = keras.Input(batch_shape=(4, 3))
    model = keras.Model(inputs, L.Dense(2)(inputs))
    assert latency([model], batch_size=4)[0] > 0
    with pytest.raises(ValueError, match="`batch_size` must be the one that the model fixes"):
        latency([model], batch_size=1)
