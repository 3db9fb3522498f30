"""Dynamic network surgery, against NumPy by hand."""

import math

import keras
import numpy as np
import pytest

import tfprune
from tests.small_mlp import counting_traces
from tfprune import layers
from tfprune.callbacks import BackupAndRestore, DynamicSurgery, StraightThrough
from tfprune.schedules import Constant, Linear, OneShot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = RNG.normal(size=(24, 3)).astype("float32")
KERNEL = RNG.normal(size=(6, 3)).astype("float32")


def linear(kernel=KERNEL, rate=0.1, **kwargs):
    """y = x w, with the weights given."""
    layer = layers.Dense(kernel.shape[1], use_bias=False, name="d")
    model = keras.Sequential([keras.Input((kernel.shape[0],)), layer])
    layer.set_weights([kernel])
    model.compile(keras.optimizers.SGD(rate), "mse", **kwargs)
    return model


def mlp(optimizer="adam"):
    keras.utils.set_random_seed(0)
    first = layers.Dense(10, activation="relu", name="first")
    model = keras.Sequential([keras.Input((6,)), first, layers.Dense(3, name="last")])
    model.compile(optimizer, "mse")
    return model


def fit(model, *callbacks, epochs=2, batch_size=4, **kwargs):
    options = {"batch_size": batch_size, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(X, Y, callbacks=list(callbacks), **options, **kwargs)


def masks(callback):
    return [np.array(read.kept) for read in callback.reads()]


class Watch(keras.callbacks.Callback):
    """Notes weights and masks after each step; list it after the callback it watches."""

    def __init__(self, callback):
        super().__init__()
        self.callback = callback
        self.weights, self.masks = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(np.array(self.model.layers[0].kernel))
        self.masks.append(masks(self.callback)[0])


def trained_by_hand(kernel, update, epochs=2, rate=0.1):
    """Weights and masks after each step; `update(step, w, mask)` gives the next mask."""
    w, found = kernel.astype("float64"), []
    mask = update(0, w, np.ones(w.shape, bool))
    for step in range(1, 1 + 6 * epochs):
        start = 4 * ((step - 1) % 6)
        x, y = X[start : start + 4], Y[start : start + 4]
        error = x @ (w * mask) - y
        w = w - rate * 2 * x.T @ error / error.size  # for every element, also those that are off
        mask = update(step, w, mask)
        found.append((w, mask))
    return found


def compare(watch, truth):
    assert len(watch.weights) == len(truth)
    for weights, mask, (w, on) in zip(watch.weights, watch.masks, truth, strict=True):
        np.testing.assert_allclose(weights, w, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(mask, on)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_two_thresholds_by_hand(jit_compile):
    magnitudes = np.abs(KERNEL.astype("float64"))
    t = magnitudes.mean() + 0.2 * magnitudes.std()

    def update(step, w, mask):
        if step > 9:
            return mask
        off, on = np.abs(w) <= 0.9 * t, np.abs(w) > 1.1 * t
        return np.where(off, False, np.where(on, True, mask))

    truth = trained_by_hand(KERNEL, update, rate=0.3)
    came_back = [(b & ~a).sum() for (_, a), (_, b) in zip(truth, truth[1:], strict=False)]
    assert sum(came_back) > 0 and not truth[0][1].all()
    model = linear(rate=0.3, jit_compile=jit_compile)
    # So far from the end there is an update at every step; then the end is moved to step 9.
    callback = DynamicSurgery(deviations=0.2, frequency=1, end_step=10**12)
    watch = Watch(callback)
    rest = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            setattr(callback, "end_step", 9) if len(watch.masks) == 9 else None
        )
    )
    history = fit(model, callback, watch, rest)
    compare(watch, truth)
    w, mask = truth[-1]
    np.testing.assert_array_equal(model.layers[0].trainable_masks["kernel"], mask)
    np.testing.assert_allclose(model.layers[0].kernel, w * mask, rtol=1e-4, atol=1e-5)
    assert history.history["sparsity"][-1] == pytest.approx(1 - mask.mean())


def test_a_sparsity_is_reached_exactly_by_thresholds_that_follow_it():
    schedule = Linear(0.2, 0.7, 0, 8, frequency=2)

    def update(step, w, mask):
        if step > 8 or step % 2:
            return mask
        scores = np.abs(w) / np.where(mask, 0.8, 1.2)
        count = w.size - round(schedule(step) * w.size)
        return scores >= np.sort(scores.ravel())[-count]

    truth = trained_by_hand(KERNEL, update)
    # One threshold t: what was on and left has |w| <= 0.8 t, what came back has |w| > 1.2 t.
    for step in (2, 4, 6, 8):
        (_, before), (w, after) = truth[step - 2], truth[step - 1]
        scores = np.abs(w) / np.where(before, 0.8, 1.2)
        assert scores[~after].max() < scores[after].min()
    model = linear()
    callback = DynamicSurgery(schedule, hysteresis=0.2, frequency=10**6, end_step=8)
    watch = Watch(callback)
    history = fit(model, callback, watch)
    compare(watch, truth)
    assert history.history["sparsity"][-1] == pytest.approx(13 / 18)  # round(0.7 * 18) of 18
    assert np.count_nonzero(model.layers[0].kernel) == 5


def test_what_is_off_is_trained_on_and_comes_back():
    model = linear(np.array([[1.0], [0.9]], "float32"))
    x, y = np.array([[0.0, 1.0]], "float32"), np.array([[5.0]], "float32")
    callback = DynamicSurgery(Constant(0.5, end_step=9, frequency=1), hysteresis=0.1)
    outputs, spliced = [], []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            outputs.append(float(model(np.ones((1, 2)))[0, 0])),
            spliced.append(logs["spliced"]),
        )
    )
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback, look])
    # The second is off and grows by 0.1 * 2 * 5, so that the first goes: 1.9 / 1.1 > 1 / 0.9.
    assert outputs[0] == pytest.approx(1.9)
    assert spliced == [1.0, 0.0]
    # Now it is on: 1.9 + 0.2 * (5 - 1.9)
    np.testing.assert_allclose(model.layers[0].kernel, [[0.0], [2.52]], rtol=1e-5)


def test_hysteresis_holds_what_is_on():
    """0.95 behind the mask is not above 1.1 / 0.9 of 1.0, though it is larger than 0.9."""
    kernel = np.array([[1.0], [0.95]], "float32")
    for hysteresis, expected in ((0.0, [[False], [True]]), (0.1, [[True], [False]])):
        model = linear(kernel)
        callback = DynamicSurgery(0.5, hysteresis=hysteresis, end_step=9)
        callback.schedule, callback._spread_to = Constant(0.5, end_step=9, frequency=1), None
        callback.after_step(model)
        model.layers[0].set_weights([np.array([[0.9], [0.95]], "float32")])
        model.optimizer.iterations.assign(1)
        callback.after_step(model)
        np.testing.assert_array_equal(masks(callback)[0], expected)


def test_updates_become_rare_as_the_formula_says_and_end():
    callback = DynamicSurgery(OneShot(0.5, 10), frequency=3, end_step=110)
    due = callback._schedule_in_steps()
    steps = sorted({due.last_due(step) for step in range(10, 300)})
    counts = [math.floor((s - s**2 / 200) / 3 + 1e-9) for s in range(101)]
    rises = [10 + s for s in range(1, 101) if counts[s] > counts[s - 1]]
    assert steps == sorted({10, *rises, 110})
    assert due.last_due(9) is None
    gaps = np.diff(steps)
    assert gaps[0] <= 4 < 10 < gaps[-1]


def test_by_default_masks_rest_in_the_last_quarter_of_fit():
    model = linear(rate=0.5)
    callback = DynamicSurgery(0.5, frequency=1)
    watch = Watch(callback)
    history = fit(model, callback, watch, epochs=8)  # 48 steps
    changed = [
        step + 1 for step in range(1, 48) if (watch.masks[step] != watch.masks[step - 1]).any()
    ]
    assert max(changed) <= 36 and max(changed) > 24
    assert np.count_nonzero(watch.masks[23]) == 9
    assert history.history["sparsity"][-1] == 0.5


def test_masks_that_are_there_hold_and_frozen_elements_stay():
    model = linear(np.abs(KERNEL) + 0.1)
    frozen = np.array(model.layers[0].kernel)[5]
    tfprune.set_masks(model, "d", "kernel", trainable=np.s_[1:], frozen=np.s_[5])
    for callback in (
        DynamicSurgery(Constant(0.5, end_step=6)),
        DynamicSurgery(deviations=1.0, end_step=30),
    ):
        fit(model, callback)
        kernel = np.array(model.layers[0].kernel)
        assert not kernel[0].any()
        np.testing.assert_array_equal(kernel[5], frozen)
    assert np.count_nonzero(kernel) <= 9


def test_the_result_holds_in_further_training_and_strips():
    model = mlp("adamw")
    fit(model, DynamicSurgery(0.8, distribution="global", frequency=1), epochs=4)
    counts = [np.count_nonzero(w) for w in model.get_weights() if w.ndim == 2]
    assert sum(counts) == 18  # a fifth of 90
    kept = [np.array(layer.trainable_masks["kernel"]) for layer in model.layers]
    fit(model)
    for layer, mask in zip(model.layers, kept, strict=True):
        np.testing.assert_array_equal(np.array(layer.kernel) != 0, mask)
    np.testing.assert_allclose(tfprune.strip(model)(X), model(X), rtol=1e-4, atol=1e-5)


def test_evaluate_in_between_is_that_of_the_sparse_model():
    model = linear()
    callback = DynamicSurgery(Constant(0.5, end_step=3))
    found = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found.append(
            (
                model.evaluate(X, Y, verbose=0),
                np.mean((X @ (np.array(model.layers[0].kernel) * masks(callback)[0]) - Y) ** 2),
            )
        )
    )
    fit(model, callback, look)
    assert len(found) == 2
    for loss, truth in found:
        assert loss == pytest.approx(truth, rel=1e-4)


def test_updates_trace_nothing_anew():
    model, traces = counting_traces(3)
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: traces.clear() if batch == 0 else None
    )
    fit(model, DynamicSurgery(Linear(0, 0.5, 0, 5, frequency=1)), look, epochs=1)
    assert not traces


def test_thresholds_may_differ_between_layers():
    model = mlp(keras.optimizers.SGD(0.0))
    callback = DynamicSurgery(deviations={"first": 0.5, "last": -0.5}, end_step=6)
    kernels = [np.abs(np.array(layer.kernel)) for layer in model.layers]
    fit(model, callback)
    for layer, magnitude, c in zip(model.layers, kernels, (0.5, -0.5), strict=True):
        kept = magnitude > 0.9 * (magnitude.mean() + c * magnitude.std())
        np.testing.assert_array_equal(layer.trainable_masks["kernel"], kept)
    with pytest.raises(ValueError, match="without.*last"):
        fit(mlp(), DynamicSurgery(deviations={"first": 0.5}))


@pytest.mark.parametrize(
    ("target", "save_freq", "epochs", "stop_at"),
    [(Linear(0.2, 0.6, 0, 20, frequency=5), 4, 4, 11), (0.6, "epoch", 14, 8)],
)
def test_an_interrupted_training_ends_as_it_would_have(
    target, save_freq, epochs, stop_at, tmp_path
):
    """No update is due at step 8, or 6, where it goes on."""

    def train(stop_at=None, folder=None):
        keras.backend.clear_session()
        model = mlp(keras.optimizers.SGD(0.1, momentum=0.8))
        callbacks = [DynamicSurgery(target, frequency=7, hysteresis=0.05)]
        if folder:
            callbacks.append(BackupAndRestore(folder, save_freq=save_freq))

        def stop(batch, logs=None):
            if stop_at is not None and int(model.optimizer.iterations) == stop_at:
                raise KeyboardInterrupt

        callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_end=stop))
        try:
            fit(model, *callbacks, epochs=epochs)
        except KeyboardInterrupt:
            return None
        return [*map(np.array, model.get_weights()), *map(np.array, model.optimizer.variables)]

    whole = train()
    train(stop_at=stop_at, folder=tmp_path)
    resumed = train(folder=tmp_path)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_loop_of_ones_own_ends_with_finish():
    model = linear()
    callback = DynamicSurgery(OneShot(0.5, 1), end_step=3)
    callback.after_step(model)
    for _ in range(3):
        model.train_on_batch(X, Y)
        logs = callback.after_step(model)
    assert logs["sparsity"] == 0.5 and np.array(model.layers[0].kernel).all()
    callback.finish(model)
    assert np.count_nonzero(model.layers[0].kernel) == 9
    assert model.layers[0].masks_by_name["kernel"].transform is None


def test_what_cannot_be_done_is_refused_and_changes_nothing():
    model = linear()
    with pytest.raises(ValueError, match="either a `target` or `deviations`"):
        DynamicSurgery()
    with pytest.raises(ValueError, match="no `distribution`"):
        DynamicSurgery(deviations=1.0, distribution="erk")
    with pytest.raises(ValueError, match="`deviations` must be a number"):
        DynamicSurgery(deviations=math.nan)
    with pytest.raises(ValueError, match="`hysteresis` must be"):
        DynamicSurgery(0.5, hysteresis=1.0)
    with pytest.raises(ValueError, match="prune the same.*'d'"):
        fit(model, DynamicSurgery(0.5), StraightThrough(0.5))
    with pytest.raises(ValueError, match="Give an `end_step`"):
        DynamicSurgery(OneShot(0.5, 1)).after_step(model)
    tfprune.set_masks(model, "d", "kernel", frozen=np.s_[1:])
    with pytest.raises(ValueError, match="weight 'kernel' of layer 'd'.*unfreeze"):
        fit(model, DynamicSurgery(Constant(0.5)))
    np.testing.assert_array_equal(model.layers[0].kernel, KERNEL)
    assert model.layers[0].masks_by_name["kernel"].transform is None


@pytest.mark.parametrize("by", [{"target": 0.5}, {"deviations": 0.0}])
def test_weights_that_are_not_finite_name_their_layer(by):
    model = linear()
    spoil = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: model.layers[0].kernel.assign(KERNEL * np.nan)
    )
    with pytest.raises(ValueError, match="(?s)'kernel' of layer 'd'.*finite"):
        fit(model, spoil, DynamicSurgery(**by, frequency=1))


def test_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = mlp()
    fit(model, DynamicSurgery(0.5))
    assert tfprune.summary(model).weights[0].sparsity == 0.5


@pytest.mark.parametrize(
    "made",
    [
        DynamicSurgery(Linear(0.0, 0.5, 0, 9), distribution="erk", only=["first"], end_step=12),
        DynamicSurgery(0.7, hysteresis=0.3, frequency=4),
        DynamicSurgery(deviations={"first": 1.5}, exclude=["last"]),
    ],
)
def test_configuration_makes_the_callback_again(made):
    config = keras.saving.serialize_keras_object(made)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == made.get_config()
