import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfprune
from tests.small_mlp import assert_same, every_mask, fit, mlp, pruned
from tfprune.callbacks import PruneWeights
from tfprune.schedules import Constant, OneShot, PolynomialDecay


@keras.saving.register_keras_serializable("test_prune_weights")
def is_bias(layer, name):
    return name == "bias"


def test_begin_step_0_prunes_before_the_first_step():
    model = mlp(keras.optimizers.SGD(0.0))
    kernel = np.abs(np.array(model.get_layer("first").kernel))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(pruned(model, "first"))
    )
    fit(model, PruneWeights(Constant(0.5)), watch, epochs=1)
    np.testing.assert_array_equal(seen[0], kernel < np.sort(kernel.ravel())[30])


@pytest.mark.parametrize("steps_per_execution", [1, 4])
@pytest.mark.parametrize(("begin", "end", "frequency"), [(0, 10, 4), (3, 11, 100), (5, 5, 2)])
def test_the_final_sparsity_is_reached_exactly(begin, end, frequency, steps_per_execution):
    model = mlp(steps_per_execution=steps_per_execution)
    schedule = PolynomialDecay(0.0, 0.8, begin, end, frequency=frequency)
    history = fit(model, PruneWeights(schedule)).history
    assert pruned(model, "first").sum() == 48
    assert pruned(model, "last").sum() == 16
    assert history["sparsity"][-1] == 0.8


def test_at_a_sparsity_of_0_training_is_plain_training_bit_for_bit():
    results = []
    for callbacks in ([], [PruneWeights(Constant(0.0, frequency=1))]):
        keras.utils.set_random_seed(3)
        model = mlp()
        fit(model, *callbacks)
        results.append(model.get_weights())
    assert_same(*results)


def test_what_is_pruned_never_comes_back():
    model = mlp(keras.optimizers.Adam(0.05, weight_decay=0.01))
    alive_again = []

    def look(batch, logs):
        now = pruned(model, "first")
        alive_again.append(np.sum(look.before & ~now))
        assert not np.array(model.get_layer("first").kernel)[now].any()
        look.before = now

    look.before = pruned(model, "first")
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    fit(model, PruneWeights(PolynomialDecay(0.0, 0.9, 0, 20, frequency=3)), watch, epochs=4)
    assert sum(alive_again) == 0
    assert look.before.sum() == 54


def test_scores_that_become_nan_while_training_change_no_mask():
    model = mlp()
    callback = PruneWeights(PolynomialDecay(0.5, 0.8, 0, 6, power=1, frequency=3))
    masks = []

    def break_last(batch, logs):
        if batch == 2:
            masks.extend(every_mask(model))
            kernel = model.get_layer("last").kernel
            kernel.assign(np.full(kernel.shape, np.nan))

    breaks = keras.callbacks.LambdaCallback(on_train_batch_end=break_last)
    with pytest.raises(ValueError, match="weight 'kernel' of layer 'last'"):
        fit(model, breaks, callback)
    assert_same(every_mask(model), masks)


def test_the_epoch_logs_tell_what_others_have_pruned_too():
    model = mlp()
    at_end = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: tfprune.set_masks(model, "first", "kernel", trainable=[0])
    )
    history = fit(model, at_end, PruneWeights(Constant(0.5)), epochs=1).history
    assert history["sparsity"][0] > 0.5
    assert history["sparsity"][0] == pytest.approx(
        (pruned(model, "first").sum() + pruned(model, "last").sum()) / 80
    )


def test_slots_of_pruned_elements_start_anew():
    model = mlp(keras.optimizers.SGD(0.01, momentum=0.9))
    fit(model, PruneWeights(OneShot(0.5, 11)), epochs=2)
    momentum = next(v for v in model.optimizer.variables if v.path.endswith("kernel_momentum"))
    assert not np.array(momentum)[pruned(model, "first")].any()
    assert np.array(momentum).any()


def test_two_callbacks_prune_two_layers_differently():
    model = mlp()
    first = PruneWeights(Constant(0.5), only=["first"])
    last = PruneWeights(Constant(0.8), only=["last"])
    history = fit(model, first, last, epochs=1).history
    assert (pruned(model, "first").sum(), pruned(model, "last").sum()) == (30, 16)
    assert (history["sparsity"], history["sparsity_1"]) == ([0.5], [0.8])


# Configuration and saving ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "callback",
    [
        PruneWeights(PolynomialDecay(0.1, 0.8, 5, 50, frequency=7)),
        PruneWeights(
            0.5, tfprune.criteria.Random(seed=3), only=["first"], exclude=["norm"], verbose=1
        ),
        PruneWeights(OneShot(0.5, 3), only=is_bias),
    ],
)
def test_config_round_trip(callback):
    config = keras.saving.serialize_keras_object(callback)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, PruneWeights)
    assert again.get_config() == callback.get_config()
    assert again.only == callback.only


def test_layers_in_a_config_become_names():
    model = mlp()
    assert PruneWeights(0.5, only=[model.get_layer("last")]).get_config()["only"] == ["last"]


def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(tmp_path):
    schedule = PolynomialDecay(0.0, 0.8, 2, 11, frequency=3)

    def trained(stop):
        keras.utils.set_random_seed(3)
        model = mlp()
        fit(model, PruneWeights(schedule), epochs=1, shuffle=False)
        if stop:
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
        fit(model, PruneWeights(schedule), epochs=1, shuffle=False)
        return model

    whole, resumed = trained(stop=False), trained(stop=True)
    assert_same(resumed.get_weights(), whole.get_weights())
    assert_same(every_mask(resumed), every_mask(whole))
    assert pruned(resumed, "first").sum() == 48


RESUMED_TRAINING = """
import os, sys
import keras, numpy as np
from tfprune import layers
from tfprune.callbacks import PruneWeights
from tfprune.schedules import PolynomialDecay

backup, out, dies_at, order = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
keras.utils.set_random_seed(3)
model = keras.Sequential([
    keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(2)])
model.compile(keras.optimizers.Adam(0.01), "mse")
rng = np.random.default_rng(0)
x, y = rng.normal(size=(24, 6)), rng.normal(size=(24, 2))

def die(batch, logs):
    if int(model.optimizer.iterations) == dies_at:
        os._exit(9)

prune = PruneWeights(PolynomialDecay(0.1, 0.8, 0, 20, frequency=4))
callbacks = [prune, keras.callbacks.BackupAndRestore(backup)]
if order == "after":
    callbacks.reverse()
callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_end=die))
model.fit(x, y, batch_size=4, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
masks = [np.array(m) for layer in model.layers for m in layer.trainable_masks.values()]
arrays = [np.array(v) for v in model.optimizer.variables] + model.get_weights() + masks
np.savez(out, *arrays)
"""


def run(script, *arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_killed_training_goes_on_in_a_new_process_bit_for_bit(tmp_path, order):
    whole, resumed = tmp_path / "whole.npz", tmp_path / "resumed.npz"
    assert run(RESUMED_TRAINING, tmp_path / "a", whole, -1, order).returncode == 0
    assert run(RESUMED_TRAINING, tmp_path / "b", resumed, 15, order).returncode == 9
    assert not resumed.exists()
    again = run(RESUMED_TRAINING, tmp_path / "b", resumed, -1, order)
    assert again.returncode == 0, again.stderr
    with np.load(whole) as expected, np.load(resumed) as arrays:
        assert_same([arrays[name] for name in arrays], [expected[name] for name in expected])


MIRRORED_TRAINING = """
import keras, numpy as np, tensorflow as tf
from tfprune import layers
from tfprune.callbacks import PruneWeights
from tfprune.schedules import PolynomialDecay

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(10), layers.Dense(2)])
    model.compile("adam", "mse")
schedule = PolynomialDecay(0.1, 0.8, 0, 7, frequency=3)
history = model.fit(
    np.ones((32, 6)), np.ones((32, 2)), batch_size=4, verbose=0, callbacks=[PruneWeights(schedule)])
for layer in model.layers:
    for variable in (layer.kernel, layer.trainable_masks["kernel"]):
        one, two = [v.numpy() for v in strategy.experimental_local_results(variable.value)]
        assert (one == two).all()
    assert np.mean(~np.asarray(layer.trainable_masks["kernel"])) == 0.8
    assert np.mean(np.asarray(layer.kernel) == 0) == 0.8
assert history.history["sparsity"] == [0.8]
"""


@pytest.mark.slow
def test_replicas_of_a_mirrored_strategy_keep_the_same_masks():
    result = run(MIRRORED_TRAINING)
    assert result.returncode == 0, result.stderr
