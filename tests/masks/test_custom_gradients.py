"""Custom gradients do not keep the graphs that they were traced in."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph
from tensorflow.python.framework.ops import gradient_registry

import tfprune
from tfprune import _keras
from tfprune.measuring.latency import latency
from tfprune.measuring.metrics import evaluate

X = np.random.default_rng(0).normal(size=(8, 4))


def kept():
    """How many graphs there are, and how many custom gradients are registered."""
    gc.collect()
    graphs = sum(isinstance(each, FuncGraph) for each in gc.get_objects())
    return graphs, sum(name.startswith("CustomGradient-") for name in gradient_registry.list())


def model(activation="silu"):
    made = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation, name="wide"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    made = tfprune.prunable(made)
    made.compile("sgd", "mse")
    return made


RUNS = {
    "wanda": lambda m: tfprune.prune_weights(m, 0.5, "wanda", data=(X,)),
    "sparsegpt": lambda m: tfprune.prune_weights(m, 0.5, "sparsegpt", data=(X,)),
    "obc": lambda m: tfprune.prune_weights(m, 0.5, tfprune.criteria.OBC(rounds=2), data=(X,)),
    "taylor": lambda m: tfprune.prune_units(m, 0.5, "taylor", data=(X, X[:, :2])),
    "latency": lambda m: latency([m]),
    "evaluate": lambda m: evaluate(m, (X, X[:, :2])),
    "distill": lambda m: tfprune.distill(m, model(), (X, X[:, :2]), verbose=0),
    "prune": lambda m: tfprune.prune(m, 0.5, (X, X[:, :2]), epochs=1, verbose=0),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_over_data_leaves_no_graph_behind(name):
    made = model()
    before = kept()
    RUNS[name](made)
    del made
    assert kept() == before


def test_masked_weights_leave_no_graph_behind_when_users_run_their_model():
    made = model("relu")  # "silu" would, by itself
    before = kept()
    made.predict(X, verbose=0)
    del made
    assert kept() == before


def test_a_function_that_was_traced_in_a_run_has_its_gradients_later():
    function = tf.function(lambda x: tf.nn.silu(x) * 2.0, autograph=False)
    x = tf.constant([1.0, -2.0])
    with _keras.gradients_kept_by_graphs():
        function(x)
    gc.collect()
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    sigmoid = 1 / (1 + np.exp(-x.numpy()))
    expected = 2 * sigmoid * (1 + x.numpy() * (1 - sigmoid))
    np.testing.assert_allclose(tape.gradient(y, x), expected, rtol=1e-5)
    assert function.experimental_get_tracing_count() == 1
