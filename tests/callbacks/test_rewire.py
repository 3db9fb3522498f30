import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.callbacks.rewiring import RNG, X, Y, constant, fit, kept, kernel, linear, rigl, step
from tfprune import layers
from tfprune.callbacks import Rewire
from tfprune.schedules import Function, Linear, Periodic, PolynomialDecay


def gradient(weights, x=X, y=Y):
    return 2 * x.T @ (x @ weights - y) / y.size


def flat(mask):
    return set(np.flatnonzero(mask))


def smallest(weights, candidates, count):
    by_size = sorted(flat(candidates), key=lambda i: abs(weights.ravel()[i]))
    return set(by_size[:count])


def largest(scores, candidates, count):
    by_size = sorted(candidates, key=lambda i: -abs(scores.ravel()[i]))
    return set(by_size[:count])


# Which elements ----------------------------------------------------------------------------------


def test_the_smallest_are_dropped_and_the_largest_gradients_grow():
    model, callback = linear(), rigl(drop_fraction=0.4)
    callback.after_step(model)
    assert kept(model).sum() == 15
    for round_ in range(1, 9):
        mask, gradients = kept(model), gradient(kernel(model))
        weights = kernel(model) - 0.05 * np.where(mask, gradients, 0)
        step(model, callback)
        if round_ % 2:
            np.testing.assert_array_equal(kept(model), mask)
            continue
        dropped = smallest(weights, mask, 6)
        grown = largest(gradients, (flat(~mask) | dropped), 6)
        assert flat(kept(model)) == (flat(mask) - dropped) | grown
        assert not kernel(model).ravel()[list(grown)].any()


def test_what_is_dropped_may_grow_again_and_begins_at_0():
    model, callback = linear(keras.optimizers.SGD(0.0)), rigl(frequency=1, drop_fraction=1.0)
    callback.after_step(model)
    mask, gradients = kept(model), gradient(kernel(model))
    step(model, callback)
    assert flat(kept(model)) == largest(gradients, range(30), 15)
    assert (kept(model) & mask).any()
    assert not kernel(model).any()


def test_set_drops_the_smallest_and_grows_at_random():
    grown = []
    for seed in (0, 0, 1):
        model = linear(keras.optimizers.SGD(0.0))
        callback = Rewire(constant(), decay="constant", drop_fraction=0.4, seed=seed)
        callback.after_step(model)
        mask, weights = kept(model), kernel(model)
        step(model, callback)
        assert step(model, callback) == {"sparsity": 0.5, "rewired": 6.0}
        stayed = flat(mask) - smallest(weights, mask, 6)
        assert stayed <= flat(kept(model))
        assert len(flat(kept(model)) - stayed) == 6
        np.testing.assert_array_equal(flat(kernel(model)), stayed)
        grown.append(kept(model))
    np.testing.assert_array_equal(grown[0], grown[1])
    assert (grown[0] != grown[2]).any()


def test_what_is_drawn_depends_on_the_weight_and_the_step_too():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6, name="a"), layers.Dense(6, name="b")]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    callback = Rewire(constant(frequency=1), decay="constant", drop_fraction=1.0, seed=0)
    y, masks = np.ones((12, 6)), []
    fit(
        model,
        callback,
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: masks.append(
                [kept(model, "a"), kept(model, "b")]
            )
        ),
        y=y,
        epochs=2,
    )
    assert (masks[0][0] != masks[0][1]).any()
    assert (masks[0][0] != masks[1][0]).any()


def test_set_and_rigl_differ():
    masks = []
    for grow in ("random", "gradient"):
        model = linear()
        fit(model, rigl(grow=grow), epochs=4)
        masks.append(kept(model))
    assert (masks[0] != masks[1]).any()


def test_the_fraction_falls_as_a_cosine_to_the_end_of_the_schedule():
    callback = Rewire(constant(end_step=40, frequency=10), drop_fraction=0.3)
    truth = [0.3, 0.15 * (1 + np.sqrt(0.5)), 0.15, 0.15 * (1 - np.sqrt(0.5)), 0.0, 0.0]
    assert [callback.fraction(s) for s in (0, 10, 20, 30, 40, 50)] == pytest.approx(truth)
    model, grown = linear(), []
    callback = Rewire(constant(end_step=8), drop_fraction=0.8, seed=0)
    callback.after_step(model)
    for _ in range(10):
        grown.append(step(model, callback)["rewired"])
    shares = [0.4 * (1 + np.cos(np.pi * s / 8)) for s in (2, 4, 6, 8)]
    assert grown[1::2] == [*(round(15 * share) for share in shares), 0.0]


def test_frozen_elements_stay_as_they_are_pruned_or_not():
    model = linear(keras.optimizers.Adam(0.05))
    frozen = np.zeros((6, 5), bool)
    frozen[:2] = True
    tfprune.set_masks(model, "d", "kernel", trainable=np.s_[1:], frozen=frozen)
    before = kernel(model)[:2]
    for grow in ("gradient", "random"):
        fit(model, rigl(frequency=1, grow=grow, drop_fraction=0.9), epochs=6)
        np.testing.assert_array_equal(kernel(model)[:2], before)
        np.testing.assert_array_equal(kept(model)[:2], [[False] * 5, [True] * 5])
        assert kept(model).sum() == 15


@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_new_weights_and_their_slots_are_0(grow, optimizer):
    adam = optimizer == "adam"
    optimizer = keras.optimizers.Adam(0.01) if adam else keras.optimizers.SGD(0.01, momentum=0.9)
    model, callback = linear(optimizer), rigl(frequency=3, grow=grow, drop_fraction=0.5)
    callback.after_step(model)
    grown = 0
    for now in range(1, 7):
        before = kept(model)
        step(model, callback)
        new = kept(model) & ~before
        grown += new.sum()
        slots = [np.array(v) for v in model.optimizer.variables if v.shape == (6, 5)]
        assert len(slots) == (2 if adam else 1)
        for array in [kernel(model), *slots]:
            assert not array[new].any()
            assert not array[~kept(model)].any()
            assert now > 2 or array[kept(model)].all()
    assert grown


# Sparsity ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize(
    "schedule",
    [
        constant(0.7, frequency=1),
        PolynomialDecay(0.2, 0.8, 0, 8, frequency=1),
        Periodic(Linear(0.2, 0.6, 0, 3, frequency=1), period=4, cycles=3),
    ],
)
def test_the_sparsity_is_exactly_what_the_schedule_says_at_each_step(grow, schedule):
    model, callback = linear(), rigl(schedule=schedule, grow=grow)
    callback.after_step(model)
    for now in range(1, 12):
        step(model, callback)
        assert (~kept(model)).sum() == round(schedule(schedule.last_due(now)) * 30)


def test_the_distribution_says_how_sparse_each_weight_is():
    model = keras.Sequential(
        [keras.Input((20,)), layers.Dense(30, name="a"), layers.Dense(5, name="b")]
    )
    model.compile("adam", "mse")
    x = RNG.normal(size=(12, 20))
    fit(model, Rewire(constant(0.8), seed=0), x=x, epochs=4)
    erk = tfprune.distributions.erk([np.empty((20, 30)), np.empty((30, 5))], 0.8)
    shares = [(~kept(model, name)).mean() for name in "ab"]
    assert shares == pytest.approx(erk, abs=0.004)
    assert erk[1] < 0.7


# Ways to train -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{"jit_compile": True}, {"run_eagerly": True}])
def test_the_same_with_jit_and_eagerly(kwargs):
    masks = []
    for given in ({}, kwargs):
        model = linear(**given)
        fit(model, rigl(), epochs=8)
        masks.append(kept(model))
    np.testing.assert_array_equal(*masks)


def test_fit_does_what_a_custom_loop_does():
    ours, theirs = linear(), linear()
    fit(ours, rigl(), epochs=8)
    callback = rigl()
    callback.after_step(theirs)
    for _ in range(8):
        step(theirs, callback)
    np.testing.assert_array_equal(kept(ours), kept(theirs))
    np.testing.assert_array_equal(kernel(ours), kernel(theirs))


def test_mixed_precision_grows_the_same():
    masks = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        model = linear()
        fit(model, rigl(drop_fraction=0.4), epochs=2)
        masks.append(kept(model))
    np.testing.assert_array_equal(*masks)


def test_with_several_steps_at_once_their_gradients_are_summed():
    model, masks = linear(keras.optimizers.SGD(0.0), steps_per_execution=3), []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: masks.append(kept(model))
    )
    callback = rigl(frequency=3, drop_fraction=1.0)
    fit(model, callback, look, batch_size=2, epochs=1)
    rows = [gradient(np.zeros((6, 5)), X[i : i + 2], Y[i : i + 2]) for i in range(6, 12, 2)]
    assert len(masks) == 2
    assert flat(masks[1]) == largest(sum(rows), range(30), 15)  # all weights were 0 by then


def test_accumulated_gradients_are_summed():
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=2)
    model, callback = linear(optimizer), rigl(frequency=1, drop_fraction=1.0)
    weights = []
    look = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: weights.append(kernel(model)))
    fit(model, callback, look, batch_size=6)
    assert flat(kept(model)) == largest(gradient(weights[0]), range(30), 15)


def test_embeddings_are_rewired_too():
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(9, 4, name="e"),
            keras.layers.Flatten(),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    tokens = RNG.integers(0, 5, size=(12, 4))
    fit(model, rigl(drop_fraction=1.0), x=tokens, y=RNG.normal(size=(12, 16)), epochs=2)
    assert kept(model, "e", "embeddings").sum() == 18
    assert kept(model, "e", "embeddings")[:5].sum() == 18  # the others have no gradient


def test_a_loop_that_was_traced_before_is_an_error():
    model = linear()

    @tf.function
    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, variables), variables)

    callback = rigl(frequency=1)
    train(X, Y)
    callback.after_step(model)
    train(X, Y)
    with pytest.raises(ValueError, match="before the step function is traced"):
        callback.after_step(model)


# Errors -------------------------------------------------------------------------------------------


def test_a_weight_that_is_nan_names_the_layer_and_changes_no_mask():
    model, callback = linear(), rigl(frequency=1)
    callback.after_step(model)
    before = kept(model)
    model.train_on_batch(X, Y)
    model.get_layer("d").kernel.assign(np.full((6, 5), np.nan))
    with pytest.raises(ValueError, match=r"weight 'kernel' of layer 'd'.*finite"):
        callback.after_step(model)
    np.testing.assert_array_equal(kept(model), before)


def test_too_few_to_grow_is_an_error():
    model = linear()
    tfprune.set_masks(model, "d", "kernel", trainable=np.s_[2:], frozen=np.s_[:2])
    callback = rigl(schedule=Function(lambda step: 0.5 if step < 2 else 0.2, frequency=1))
    callback.after_step(model)
    step(model, callback)
    with pytest.raises(ValueError, match="Unfreeze some"):
        step(model, callback)
