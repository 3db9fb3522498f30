"""Hard concrete gates on units, against NumPy by hand."""

import keras
import numpy as np
import pytest

import tfprune
from tests.units.gated_models import (
    IMAGES,
    RNG,
    X,
    Y,
    by_hand,
    drawn,
    fit,
    gate,
    is_open,
    mlp,
    residual,
)
from tfprune.callbacks import RegularizeUnits
from tfprune.units import hard_concrete
from tfprune.units.regularizers import L0


def test_samples_and_settled_gates_are_those_of_the_paper():
    log_alpha = np.linspace(-5, 5, 21)
    uniform = RNG.random(21) * 0.98 + 0.01
    found = hard_concrete.sampled(keras.ops.array(log_alpha), keras.ops.array(uniform))
    np.testing.assert_allclose(found, gate(log_alpha, uniform), rtol=1e-5, atol=1e-6)
    found = hard_concrete.settled(keras.ops.array(log_alpha))
    np.testing.assert_allclose(found, gate(log_alpha), rtol=1e-5, atol=1e-6)
    assert float(found[0]) == 0 and float(found[-1]) == 1


def test_the_probability_is_how_often_samples_are_not_0_and_the_slope_its_derivative():
    log_alpha = np.array([-4.0, -2.0, 0.0, 1.0, 3.0])
    samples = gate(log_alpha, RNG.random((200_000, 1)))
    found = hard_concrete.probability_open(keras.ops.array(log_alpha))
    np.testing.assert_allclose(found, (samples > 0).mean(axis=0), atol=0.005)
    numeric = (is_open(log_alpha + 1e-5) - is_open(log_alpha - 1e-5)) / 2e-5
    found = hard_concrete.slope_open(keras.ops.array(log_alpha))
    np.testing.assert_allclose(found, numeric, rtol=1e-4)


# Gates in a model --------------------------------------------------------------------------------


def test_a_model_computes_with_its_gates():
    model, regularizer = mlp(), L0(0.3, seed=5)
    regularizer.attach(model)
    log_alpha = np.array([-3.0, -1.0, 0.5, 2.0])
    regularizer.gates.log_alpha.assign(log_alpha)
    np.testing.assert_allclose(model(X), by_hand(model, gate(log_alpha)), rtol=1e-4, atol=1e-6)
    sampled = gate(log_alpha, drawn(5, 0, 4))
    assert (sampled != gate(log_alpha)).any()
    found = model(X, training=True)
    np.testing.assert_allclose(found, by_hand(model, sampled), rtol=1e-4, atol=1e-6)
    penalty = 0.3 * is_open(log_alpha).mean()
    np.testing.assert_allclose(sum(model.losses), penalty, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_gradient_of_gates_is_the_numeric_one(jit_compile):
    model = mlp(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    regularizer = L0(0.0, seed=5)
    regularizer.attach(model)
    log_alpha = np.array([-1.5, -0.5, 0.3, 0.8])
    regularizer.gates.log_alpha.assign(log_alpha)
    model.train_on_batch(X, Y)

    def loss(log_alpha):
        return np.mean((by_hand(model, gate(log_alpha, drawn(5, 0, 4))) - Y) ** 2)

    numeric = [(loss(log_alpha + d) - loss(log_alpha - d)) / 2e-5 for d in 1e-5 * np.eye(4)]
    found = regularizer.gates.total_gradient()
    np.testing.assert_allclose(found, numeric, rtol=1e-3, atol=1e-6)
    assert np.count_nonzero(found) > 1
    assert not regularizer.gates.total_gradient().any()


def test_training_by_hand_and_what_stays_at_the_end():
    model, strength = mlp(), 0.7
    w, b, v, c = [np.asarray(value, "float64") for value in model.get_weights()]
    log_alpha = np.full(4, np.log(0.8 / 0.2))
    for step in range(12):
        x, y = (array[4 * (step % 6) : 4 * (step % 6) + 4] for array in (X, Y))
        uniform = drawn(3, step, 4)
        z = gate(log_alpha, uniform)
        hidden = np.tanh(x @ w + b)
        error = 2 * (hidden * z @ v + c - y) / y.size
        back = error @ v.T
        steep = (gate(log_alpha + 1e-6, uniform) - gate(log_alpha - 1e-6, uniform)) / 2e-6
        of_penalty = strength / 4 * is_open(log_alpha) * (1 - is_open(log_alpha))
        of_gates = (back * hidden).sum(axis=0) * steep + of_penalty
        back = back * z * (1 - hidden**2)
        v, c = v - 0.1 * (hidden * z).T @ error, c - 0.1 * error.sum(axis=0)
        w, b = w - 0.1 * x.T @ back, b - 0.1 * back.sum(axis=0)
        log_alpha = log_alpha - 0.1 * of_gates
    regularizer, seen = L0(strength, dropout=0.2, seed=3), []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(np.array(regularizer.gates.log_alpha))
    )
    fit(model, RegularizeUnits(regularizer), look)
    np.testing.assert_allclose(seen[-1], log_alpha, rtol=1e-4, atol=1e-5)
    assert np.ptp(log_alpha) > 0.01
    z = gate(log_alpha)
    truth = (w, b, v * z[:, None], c)
    for found, expected in zip(model.get_weights(), truth, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert regularizer.model is None and not model.losses


@pytest.mark.parametrize("make", [mlp, residual])
def test_folding_computes_the_same_and_the_stripped_model_too(make):
    model, x = make(), X if make is mlp else IMAGES
    regularizer = L0(seed=0)
    regularizer.attach(model)
    count = len(regularizer.gates.removals)
    assert count == (4 if make is mlp else 9)
    log_alpha = np.linspace(-4, 4, count)
    regularizer.gates.log_alpha.assign(log_alpha)
    gated = np.array(model(x))
    regularizer.detach()
    np.testing.assert_allclose(model(x), gated, rtol=1e-5, atol=1e-5)
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(x), gated, rtol=1e-4, atol=1e-4)
    gone = int((gate(log_alpha) == 0).sum())
    assert gone > 0
    made = {"first": 4} if make is mlp else {"stem": 5, "deep": 4}
    sizes = sum(
        small.get_layer(n).get_config().get("units", 0) or small.get_layer(n).filters for n in made
    )
    assert sizes == sum(made.values()) - gone


def test_masks_and_slots_of_what_is_folded():
    model = mlp(keras.optimizers.Adam(0.01))
    fit(model)
    regularizer = L0(seed=0)
    regularizer.attach(model)
    regularizer.gates.log_alpha.assign(np.array([-4.0, 0.0, 4.0, -4.0]))
    regularizer.detach()
    first, last = model.get_layer("first"), model.get_layer("last")
    kept = np.array([False, True, True, False])
    np.testing.assert_array_equal(np.asarray(first.trainable_masks["bias"]), kept)
    np.testing.assert_array_equal(np.asarray(last.trainable_masks["kernel"])[:, 0], kept)
    slots = [np.array(v) for v in model.optimizer.variables if tuple(v.shape) == (4, 2)]
    for slot in slots:
        assert not slot[[0, 1, 3]].any() and slot[2].all()
    fit(model)
    assert not np.array(first.kernel)[:, ~kept].any()


def test_all_gates_closed_leave_a_unit_and_the_same_outputs():
    model, regularizer = mlp(), L0(seed=0)
    regularizer.attach(model)
    regularizer.gates.log_alpha.assign(np.array([-4.0, -3.0, -4.0, -4.0]))
    gated = np.array(model(X))
    regularizer.detach()
    np.testing.assert_array_equal(model(X), gated)
    kept = np.asarray(model.get_layer("first").trainable_masks["bias"])
    np.testing.assert_array_equal(kept, [False, True, False, False])


def test_a_strong_penalty_closes_gates_and_a_weak_one_none():
    found = {}
    for strength in (0.01, 20.0):
        model = mlp(keras.optimizers.Adam(0.05), units=12)
        regularizer = L0(strength, optimizer=keras.optimizers.Adam(0.2), seed=0)
        history = fit(model, RegularizeUnits(regularizer), epochs=6).history
        found[strength] = history["open_units"][-1]
        assert history["unit_penalty"][-1] < history["unit_penalty"][0] or strength < 1
    assert found[0.01] == 1.0 and found[20.0] < 0.3


@pytest.mark.parametrize("cost", ["units", "parameters", "macs"])
def test_costs_by_hand(cost):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, name="conv")(inputs)  # 6 x 6
    x = keras.layers.Dense(5, activation="relu", name="hidden")(keras.layers.Flatten()(x))
    model = tfprune.prunable(keras.Model(inputs, keras.layers.Dense(3)(x)))
    model.compile("sgd", "mse")
    regularizer = L0(1.0, cost=cost)
    regularizer.attach(model)
    filters = {"units": 1, "parameters": 9 + 1 + 36 * 5, "macs": 36 * 9 + 36 * 5}[cost]
    neurons = {"units": 1, "parameters": 72 + 1 + 3, "macs": 72 + 3}[cost]
    costs = np.array([filters] * 2 + [neurons] * 5, float)
    np.testing.assert_allclose(regularizer.gates.costs, costs / costs.sum(), rtol=1e-6)


@pytest.mark.parametrize("how", ["accumulation", "execution"])
def test_several_batches_at_once(how):
    """The mean gradient of two batches: one step of the gates, or two."""
    accumulates = how == "accumulation"
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2 if accumulates else None)
    model = mlp(optimizer, steps_per_execution=1 if accumulates else 2)
    regularizer, seen = L0(0.0, optimizer=keras.optimizers.SGD(1.0), seed=3), []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(np.array(regularizer.gates.log_alpha))
    )
    model.optimizer.learning_rate.assign(0.0)  # of the weights alone
    start = np.full(4, np.log(0.9 / 0.1))

    def gradient(rows, step):
        def loss(log_alpha):
            z = gate(log_alpha, drawn(3, step, 4))
            return np.mean((by_hand(model, z, X[rows]) - Y[rows]) ** 2)

        return np.array([(loss(start + d) - loss(start - d)) / 2e-5 for d in 1e-5 * np.eye(4)])

    first, second = np.s_[:4], np.s_[4:8]
    if accumulates:
        total = (gradient(first, 0) + gradient(second, 0)) / 2
    else:
        total = gradient(first, 0) + gradient(second, 1)
    fit(model, RegularizeUnits(regularizer), look, epochs=1)
    after = seen[1] if accumulates else seen[0]
    np.testing.assert_allclose(after, start - total, rtol=1e-3, atol=1e-5)


def test_gates_follow_the_learning_rate_of_the_model():
    model, regularizer = mlp(keras.optimizers.SGD(0.0)), L0(5.0, seed=0)
    seen = []

    def set_rate(batch, logs=None):
        seen.append(np.array(regularizer.gates.log_alpha))
        model.optimizer.learning_rate = 0.5 if batch == 2 else 0.0

    look = keras.callbacks.LambdaCallback(on_train_batch_end=set_rate)
    fit(model, RegularizeUnits(regularizer), look, epochs=1)
    moved = [bool((a != b).any()) for a, b in zip(seen, seen[1:], strict=False)]
    assert moved == [False, False, True, False, False]
