"""Training that is killed and goes on in a new process, bit for bit as if it had not been."""

import os
import subprocess
import sys

import numpy as np
import pytest

TRAINING = """
import os, sys
import keras, numpy as np, tensorflow as tf
from tfprune import layers
from tfprune.callbacks import FreezeWeights, PruneWeights, Rewire
from tfprune.schedules import Constant, Function, PolynomialDecay

tf.config.experimental.enable_op_determinism()
CALLBACKS = {
    "set": lambda: Rewire(Constant(0.6, end_step=20, frequency=3), seed=0),
    "rigl": lambda: Rewire(Constant(0.6, end_step=20, frequency=3), grow="gradient", seed=0),
    "gradual": lambda: PruneWeights(PolynomialDecay(0.1, 0.8, 0, 20, frequency=3)),
    "movement": lambda: PruneWeights(PolynomialDecay(0.1, 0.8, 1, 20, frequency=3), "movement"),
    "freeze": lambda: FreezeWeights(Function(rise_and_fall, end_step=20, frequency=3), "magnitude"),
}

def rise_and_fall(step):
    return 0.8 - abs(step - 9) / 20

rng = np.random.default_rng(0)
x, y = rng.normal(size=(28, 6)).astype("float32"), rng.normal(size=(28, 2)).astype("float32")

def train(case, backup, out, save_freq, dies_at=-1, dies_before=0):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([
        keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.01), "mse")

    def look(batch, logs):
        step = int(model.optimizer.iterations)
        if step == dies_at:
            os._exit(9)
        if step == 23:
            model.stop_training = True

    # Keras goes on at the beginning of an epoch, so within one all batches must be the same.
    size = 4 if save_freq == "epoch" else 28
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(size).repeat()
    save_freq = save_freq if save_freq == "epoch" else int(save_freq)
    backup = keras.callbacks.BackupAndRestore(backup, save_freq=save_freq)
    callbacks = [CALLBACKS[case](), backup]
    look = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    callbacks.insert(len(callbacks) - dies_before, look)
    model.fit(data, steps_per_epoch=7, epochs=50, verbose=0, callbacks=callbacks)
    masks = [np.array(m) for layer in model.layers for m in layer.trainable_masks.values()]
    masks += [np.array(m) for layer in model.layers for m in layer.frozen_masks.values()]
    assert int(model.optimizer.iterations) == 23
    np.savez(out, *[np.array(v) for v in model.optimizer.variables], *model.get_weights(), *masks)

if sys.argv[1] == "whole":
    for case in CALLBACKS:
        for save_freq in ("epoch", "1"):
            path = f"{sys.argv[2]}/{case}_{save_freq}"
            train(case, path, f"{path}.npz", save_freq)
else:
    train(*sys.argv[1:5], *map(int, sys.argv[5:]))
"""


def run(*arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", TRAINING, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder with what training gives that is not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    done = run("whole", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("interrupted")
@pytest.mark.parametrize(
    ("case", "save_freq"),
    [
        ("set", "1"),
        ("rigl", "1"),
        ("gradual", "1"),
        ("movement", "1"),
        ("freeze", "1"),
        ("rigl", "epoch"),
        ("movement", "epoch"),
    ],
)
def test_killed_at_random_steps_training_ends_bit_for_bit_as_it_would_have(
    whole, case, save_freq, tmp_path
):
    rng = np.random.default_rng([len(save_freq), *case.encode()])
    first = 3 * rng.integers(1, 4)  # an update was due, and neither made nor saved
    second = rng.integers(first + 1, 23)
    out = tmp_path / "out.npz"
    arguments = (case, tmp_path / "backup", out, save_freq)
    assert run(*arguments, first, 2).returncode == 9
    assert run(*arguments, second, rng.integers(3)).returncode == 9
    assert not out.exists()
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    with np.load(whole / f"{case}_{save_freq}.npz") as truth, np.load(out) as arrays:
        assert len(truth.files) == len(arrays.files) > 12
        for name in truth:
            np.testing.assert_array_equal(arrays[name], truth[name])
