"""Which units have hard concrete gates, in layers of all kinds, and which cannot."""

import keras
import numpy as np
import pytest

import tfprune
from tests.units.gated_models import RNG, X
from tfprune.callbacks import RegularizeUnits
from tfprune.units.regularizers import L0


def test_units_that_cannot_have_gates_are_named_and_left_alone():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, name="normed")(inputs)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.Dense(5, name="free", activation="relu")(x)
    x = keras.layers.Dense(6, name="icy", activation="relu")(x)
    x = keras.layers.Dense(6, name="before", activation="relu")(x)
    x = keras.layers.Dense(2, name="still")(x)
    model = tfprune.prunable(keras.Model(inputs, x))
    model.compile("sgd", "mse")
    model.get_layer("still").trainable = False
    tfprune.set_masks(model, "before", "kernel", frozen=np.s_[2, :])
    regularizer = L0()
    with pytest.warns(UserWarning, match="(?s)'normed'.*'norm' takes statistics") as warned:
        regularizer.attach(model)
    text = next(str(each.message) for each in warned if "are skipped" in str(each.message))
    assert "'before': 'still' uses its units: it has `trainable=False`" in text
    assert "'icy': it has frozen elements" in text
    assert len(regularizer.gates.removals) == 5 + 5
    alone = [set(found.tolist()) for found in regularizer.gates.removals]
    assert len(alone) == len(set().union(*alone))
    regularizer.gates.log_alpha.assign(np.linspace(-4, 4, 10))
    gated = np.array(model(X))
    frozen = np.array(model.get_layer("before").kernel)[2]
    regularizer.detach()
    np.testing.assert_allclose(model(X), gated, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.array(model.get_layer("before").kernel)[2], frozen)


@pytest.mark.slow
def test_recurrent_units_and_embeddings():
    tokens = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(9, 4, name="embedding")(tokens)
    x = keras.layers.GRU(3, name="gru", return_sequences=True)(x)
    x = keras.layers.LSTM(3, name="lstm")(x)
    model = tfprune.prunable(keras.Model(tokens, keras.layers.Dense(2)(x)))
    model.compile("adam", "mse")
    x, y = RNG.integers(0, 9, (16, 5)), np.ones((16, 2))
    regularizer = L0(seed=0)
    model.fit(x, y, verbose=0, callbacks=[RegularizeUnits(regularizer)])
    regularizer.attach(model)
    count = len(regularizer.gates.removals)
    assert count == 10
    regularizer.gates.log_alpha.assign(np.resize([-4.0, 1.0, 0.2], count))
    gated = np.array(model(x))
    regularizer.detach()
    np.testing.assert_allclose(model(x), gated, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tfprune.strip(model)(x), gated, rtol=1e-4, atol=1e-5)


def test_attention_gated_units_and_shared_layers():
    inputs = keras.Input((5, 8))
    x = keras.layers.Dense(6, name="stream")(inputs)
    x = x + keras.layers.MultiHeadAttention(3, 2, name="heads")(x, x)
    y = keras.layers.LayerNormalization()(x)
    up = keras.layers.Dense(8, activation="gelu", name="up")(y)
    y = keras.layers.Dense(4, name="down")(up * keras.layers.Dense(8, name="side")(y))
    twice = keras.layers.Dense(5, activation="relu", name="twice")
    y = twice(y) + keras.layers.ReLU()(twice(keras.layers.Dense(4, activation="tanh")(x)))
    model = tfprune.prunable(keras.Model(inputs, keras.layers.Dense(2)(y)))
    model.compile("sgd", "mse")
    for weight in model.weights:
        weight.assign(RNG.normal(size=weight.shape) / 2)
    x = RNG.normal(size=(8, 5, 8)).astype("float32")
    regularizer = L0(seed=0)
    with pytest.warns(UserWarning, match="takes statistics"):
        regularizer.attach(model)
    count = len(regularizer.gates.removals)
    assert count == 3 + 2 + 2 + 8 + 4 + 5  # heads, their dimensions; up, down and its like, twice
    regularizer.gates.log_alpha.assign(RNG.permutation(np.linspace(-4, 4, count)))
    gated = np.array(model(x))
    regularizer.detach()
    np.testing.assert_allclose(model(x), gated, rtol=1e-4, atol=1e-5)
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(x), gated, rtol=1e-4, atol=1e-4)
    assert small.count_params() < 0.85 * model.count_params()


def test_grouped_convolutions_have_one_gate_for_what_goes_at_once():
    model = keras.Sequential(
        [
            keras.Input((4, 4)),
            keras.layers.Conv1D(4, 1, name="a"),
            keras.layers.Conv1D(6, 1, groups=2, name="b"),
            keras.layers.Conv1D(3, 1, name="c"),
        ]
    )
    model = tfprune.prunable(model)
    model.compile("sgd", "mse")
    x = RNG.normal(size=(8, 4, 4)).astype("float32")
    regularizer = L0(seed=0)
    regularizer.attach(model)
    sizes = [len(found) for found in regularizer.gates.removals]
    assert min(sizes) >= 2
    regularizer.gates.log_alpha.assign(np.resize([1.0, -4.0], len(sizes)))
    gated = np.array(model(x))
    regularizer.detach()
    np.testing.assert_allclose(model(x), gated, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tfprune.strip(model)(x), gated, rtol=1e-4, atol=1e-5)
