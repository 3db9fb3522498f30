"""Criterion "movement" of `PruneWeights`, summed while the model trains."""

import keras
import numpy as np
import pytest

from tfprune import layers
from tfprune.callbacks import PruneWeights
from tfprune.schedules import Constant, OneShot, PolynomialDecay

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 6)).astype("float32")
Y = RNG.normal(size=(8, 5)).astype("float32")


def linear():
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, use_bias=False, name="d")])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    return model


def lowest(kernel, steps, count):
    """Which elements moved least, by hand, over some steps from a kernel."""
    kernel, movement = kernel.astype("float64"), 0.0
    for _ in range(steps):
        gradient = 2 * X.T @ (X @ kernel - Y) / Y.size
        movement = movement - kernel * gradient
        kernel = kernel - gradient
    return set(np.argsort(movement.ravel())[:count])


def pruned(model):
    return set(np.flatnonzero(~np.asarray(model.get_layer("d").trainable_masks["kernel"])))


def fit(model, *callbacks, epochs=5):
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks))


def test_what_moved_least_since_training_began_goes():
    model = linear()
    kernel = np.array(model.get_layer("d").kernel)
    fit(model, PruneWeights(OneShot(0.4, 4), "movement"))
    assert pruned(model) == lowest(kernel, 4, 12)
    assert lowest(kernel, 4, 12) != lowest(kernel, 1, 12)


def test_the_sum_goes_on_in_the_next_fit():
    model = linear()
    kernel = np.array(model.get_layer("d").kernel)
    callback = PruneWeights(OneShot(0.4, 4), "movement")
    fit(model, callback, epochs=2)
    assert not pruned(model)
    fit(model, callback, epochs=2)
    assert pruned(model) == lowest(kernel, 4, 12)


def test_a_loop_of_ones_own():
    model = linear()
    kernel = np.array(model.get_layer("d").kernel)
    callback = PruneWeights(OneShot(0.4, 3), "movement")
    callback.after_step(model)
    for _ in range(3):
        model.train_on_batch(X, Y)
        callback.after_step(model)
    assert pruned(model) == lowest(kernel, 3, 12)


def test_before_the_first_step_there_is_no_sum():
    with pytest.raises(ValueError, match="before its first step there is none yet"):
        fit(linear(), PruneWeights(Constant(0.4), "movement"))
    model = linear()
    fit(model, PruneWeights(PolynomialDecay(0.0, 0.4, 0, 4, frequency=2), "movement"))
    assert len(pruned(model)) == 12


def test_with_data_it_is_measured_there():
    model = linear()
    kernel = np.array(model.get_layer("d").kernel)
    fit(model, PruneWeights(Constant(0.4), "movement", data=(X, Y)), epochs=1)
    assert pruned(model) == lowest(kernel, 1, 12)


def test_files_have_the_sums_while_training_runs(tmp_path):
    model = linear()
    callback = PruneWeights(OneShot(0.4, 4), "movement")
    save = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True, verbose=0
    )
    kernel = np.array(model.get_layer("d").kernel)
    fit(model, callback, save, epochs=3)
    resumed = linear()
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: resumed.load_weights(tmp_path / "3.weights.h5")
    )
    fit(resumed, PruneWeights(OneShot(0.4, 1), "movement"), load, epochs=1)
    assert pruned(resumed) == lowest(kernel, 4, 12)
    assert resumed.get_layer("d").masks_by_name["kernel"].observer is None


@pytest.mark.parametrize(("name", "times"), [("m.keras", 2), ("m.h5", 1), ("m.weights.h5", 1)])
def test_the_sum_goes_on_in_a_model_that_is_loaded(name, times, tmp_path):
    model = linear()
    kernel = np.array(model.get_layer("d").kernel)
    fit(model, PruneWeights(OneShot(0.4, 4), "movement"), epochs=2)
    for _ in range(times):
        if name.endswith("weights.h5"):
            model.save_weights(tmp_path / name)
            model = linear()
            model.load_weights(tmp_path / name)
            model.optimizer.iterations.assign(2)
        else:
            model.save(tmp_path / name)
            model = keras.saving.load_model(tmp_path / name, compile=False)
            model.compile(keras.optimizers.SGD(1.0), "mse")
            model.optimizer.iterations.assign(2)
    fit(model, PruneWeights(OneShot(0.4, 4), "movement"), epochs=2)
    assert pruned(model) == lowest(kernel, 4, 12) != lowest(kernel, 2, 12)


def test_backup_restored_before_the_callback_begins_has_the_sums_too(tmp_path):
    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    model, again = linear(), linear()
    kernel = np.array(model.get_layer("d").kernel)
    prune, backup = PruneWeights(OneShot(0.4, 4), "movement"), keras.callbacks.BackupAndRestore
    with pytest.raises(KeyboardInterrupt):
        fit(model, backup(tmp_path / "b"), prune, Killed())
    fit(again, backup(tmp_path / "b"), PruneWeights(OneShot(0.4, 4), "movement"), epochs=4)
    assert pruned(again) == lowest(kernel, 4, 12) != lowest(kernel, 2, 12)


def test_when_the_schedule_has_ended_the_sums_are_gone(tmp_path):
    model = linear()
    fit(model, PruneWeights(OneShot(0.4, 4), "movement"), epochs=4)
    mask = model.get_layer("d").masks_by_name["kernel"]
    assert mask.sums is None and mask.observer is None
