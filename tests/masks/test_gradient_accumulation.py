import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.masks.gradient_accumulation import GradientAccumulator
from tfprune.weights.prunable import select_weights

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 5)).astype("float32")
Y = RNG.normal(size=(8, 3)).astype("float32")


def linear(learning_rate=0.0, **kwargs):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(3, use_bias=False, name="d")])
    model.compile(keras.optimizers.SGD(learning_rate), "mse", **kwargs)
    return model


def gradient(kernel):
    return 2 * X.T @ (X @ kernel - Y) / Y.size


def accumulating(model, **kwargs):
    accumulator = GradientAccumulator(model, select_weights(model), **kwargs)
    accumulator.attach()
    accumulator.start()
    return accumulator


@pytest.mark.parametrize("kwargs", [{}, {"run_eagerly": True}, {"jit_compile": True}])
def test_pruned_and_frozen_elements_have_their_gradient_too(kwargs):
    model = linear(**kwargs)
    tfprune.set_masks(model, "d", "kernel", trainable=np.s_[:2], frozen=np.s_[1:3])
    model.train_on_batch(X, Y)  # traced before
    accumulator = accumulating(model)
    assert not accumulator.has_gradients()
    model.train_on_batch(X, Y)
    assert accumulator.has_gradients()
    truth = gradient(np.array(model.get_layer("d").kernel))
    np.testing.assert_allclose(accumulator.totals()[0], truth, rtol=1e-5, atol=1e-6)
    assert np.abs(truth).min() > 1e-3


def test_steps_add_up_until_it_is_stopped_and_begin_anew_when_it_is_started():
    model = linear()
    accumulator = accumulating(model)
    truth = gradient(np.array(model.get_layer("d").kernel))
    for _ in range(3):
        model.train_on_batch(X, Y)
    np.testing.assert_allclose(accumulator.totals()[0], 3 * truth, rtol=1e-4, atol=1e-6)
    accumulator.stop()
    model.train_on_batch(X, Y)
    np.testing.assert_allclose(accumulator.totals()[0], 3 * truth, rtol=1e-4, atol=1e-6)
    accumulator.start()
    model.train_on_batch(X, Y)
    np.testing.assert_allclose(accumulator.totals()[0], truth, rtol=1e-5, atol=1e-6)


def test_switching_traces_nothing_anew():
    model = linear()
    accumulator = accumulating(model)
    traces = []
    step = model.train_step
    model.train_step = lambda data: traces.append(1) or step(data)
    model.make_train_function(force=True)
    model.train_on_batch(X, Y)
    before = len(traces)
    for switch in (accumulator.stop, accumulator.start, accumulator.stop):
        switch()
        model.train_on_batch(X, Y)
    assert len(traces) == before


def test_totals_stay_after_detach():
    model = linear()
    accumulator = accumulating(model)
    model.train_on_batch(X, Y)
    before = accumulator.totals()[0]
    accumulator.detach()
    model.train_on_batch(X, Y)
    np.testing.assert_array_equal(accumulator.totals()[0], before)
    assert model.get_layer("d").masks_by_name["kernel"].observer is None


def test_movement_is_summed_with_the_weights_of_each_step():
    model = linear(learning_rate=0.1)
    accumulator = accumulating(model, times_weight=True)
    kernel, truth = np.array(model.get_layer("d").kernel, "float64"), 0.0
    for _ in range(4):
        model.train_on_batch(X, Y)
        truth = truth - kernel * gradient(kernel)
        kernel = kernel - 0.1 * gradient(kernel)
    np.testing.assert_allclose(accumulator.totals()[0], truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_slices_of_embeddings_and_several_reads_are_summed(jit_compile):
    tokens = keras.Input((4,), dtype="int32")
    embedding = layers.Embedding(6, 2, name="e")
    sums = keras.ops.sum(embedding(tokens) + 3 * embedding(tokens), axis=(1, 2))
    model = keras.Model(tokens, keras.ops.reshape(sums, (-1, 1)))
    model.compile(keras.optimizers.SGD(0.0), lambda y, p: p, jit_compile=jit_compile)
    accumulator = accumulating(model)
    model.train_on_batch(np.array([[0, 1, 1, 5]]), np.zeros((1, 1)))
    truth = 4.0 * np.array([1, 2, 0, 0, 0, 1])[:, None].repeat(2, 1)
    np.testing.assert_array_equal(accumulator.totals()[0], truth)


def test_the_scale_of_the_loss_in_mixed_precision_is_taken_out():
    keras.config.set_dtype_policy("mixed_float16")
    model = linear()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    accumulator = accumulating(model)
    for _ in range(2):
        model.train_on_batch(X, Y)
    truth = 2 * gradient(np.array(model.get_layer("d").kernel))
    np.testing.assert_allclose(accumulator.totals()[0], truth, rtol=0.01, atol=0.005)


def test_a_step_that_mixed_precision_skips_is_not_counted():
    keras.config.set_dtype_policy("mixed_float16")
    model = linear()
    accumulator = accumulating(model)
    model.train_on_batch(X * np.inf, Y)
    assert not accumulator.has_gradients()
    assert not accumulator.totals()[0].any()


def test_cells_in_a_loop_are_an_error_unless_it_is_unrolled():
    for unroll in (True, False):
        rnn = keras.layers.RNN(layers.SimpleRNNCell(3), unroll=unroll, name="loop")
        model = keras.Sequential([keras.Input((1, 5)), rnn])
        model.compile("sgd", "mse")
        if unroll:
            accumulator = accumulating(model)
            model.train_on_batch(X[:, None], Y)
            assert accumulator.totals()[0].any()
        else:
            with pytest.raises(ValueError, match="'loop'"):
                accumulating(model)
