"""Training that is broken off or killed goes on bit for bit, with all of its random states."""

import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time
import warnings

import keras
import numpy as np
import pytest

import tfprune
from tests.callbacks.resumed_training import EPOCHS, STEPS, X, Y, network, same, train
from tfprune.callbacks import BackupAndRestore

ROOT = pathlib.Path(tfprune.__file__).parents[1]


class BrokenOffError(Exception):
    pass


class BreakOff(keras.callbacks.Callback):
    """Raises after so many batches of a process, or at the end of an epoch."""

    def __init__(self, batches=None, epoch=None):
        super().__init__()
        self.batches, self.epoch = batches, epoch

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_train_batch_end(self, batch, logs=None):
        if self.batches is not None:
            self.batches -= 1
            if self.batches == 0:
                raise BrokenOffError

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise BrokenOffError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a training gives that is not broken off, each trained once."""
    found = {}

    def get(*case):
        if case not in found:
            found[case] = train(tmp_path_factory.mktemp("whole"), *case)
        return found[case]

    return get


def broken_off(folder, *case, at, **options):
    """Trains, is broken off after each number of batches in turn, and goes on to the end."""
    for batches in at:
        with pytest.raises(BrokenOffError):
            train(folder, *case, **options, extra=[BreakOff(batches)])
    return train(folder, *case, **options)


@pytest.mark.parametrize(
    ("data", "save_freq"),
    [("arrays", "epoch"), ("shuffled", 4), ("repeated", 4), ("unknown", 1), ("sequence", 4)],
)
def test_training_goes_on_bit_for_bit_whatever_the_data(whole, data, save_freq, tmp_path):
    rng = random.Random(f"{data}{save_freq}")
    at = [rng.randrange(STEPS + 1, 2 * STEPS + 2), rng.randrange(STEPS, 2 * STEPS)]
    same(broken_off(tmp_path / "backup", data, "gradual", save_freq, at=at), whole(data))
    assert not list(tmp_path.iterdir())  # the backup goes when training is complete


@pytest.mark.parametrize(
    ("pruning", "save_freq", "place"),
    [("movement", 1, 0), ("rigl", 1, 5), ("units", 4, 0), ("measured", "epoch", 3)],
)
def test_training_goes_on_bit_for_bit_whatever_is_pruned(
    whole, pruning, save_freq, place, tmp_path
):
    case = ("arrays", pruning)
    found = broken_off(tmp_path / "backup", *case, save_freq, at=[11], place=place)
    same(found, whole(*case))


@pytest.mark.parametrize("epoch", [EPOCHS - 1])
def test_broken_off_at_the_end_of_an_epoch(whole, epoch, tmp_path):
    """Hooks of callbacks that are listed after it have run, those of the backup have not."""
    with pytest.raises(BrokenOffError):
        train(tmp_path / "backup", extra=[BreakOff(epoch=epoch)])
    same(train(tmp_path / "backup"), whole("arrays"))


def test_what_was_complete_but_for_its_end_trains_no_more(whole, tmp_path):
    class DiesAtTheEnd(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        train(tmp_path / "backup", place=5, extra=[DiesAtTheEnd()])
    same(broken_off(tmp_path / "backup", at=[]), whole("arrays"))


def fit(folder, callbacks=(), model=None, epochs=4, **options):
    model = network() if model is None else model
    model.compile("adam", "mse")
    backup = BackupAndRestore(folder, **options)
    return model, model.fit(X, Y, epochs=epochs, verbose=0, callbacks=[*callbacks, backup])


def kept(folder, epochs=2):
    return fit(folder, delete_checkpoint=False, epochs=epochs)


def test_masks_that_the_model_has_meanwhile_are_replaced(tmp_path):
    model, _ = kept(tmp_path)
    other = network()
    tfprune.prune_weights(other, 0.9)
    fit(tmp_path, model=other, epochs=2, delete_checkpoint=False)
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert tfprune.summary(other).sparsity == 0


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: network(9), "weights are others"),
        (lambda: keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]), "weights"),
        (lambda: tfprune.strip(network()), "masks|random generators"),
    ],
)
def test_a_backup_of_another_model_is_refused_and_changes_nothing(make, word, tmp_path):
    kept(tmp_path)
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=word):
        fit(tmp_path, model=model)
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_further_fit_of_a_complete_training_begins_anew(tmp_path):
    model, history = fit(tmp_path / "backup", epochs=2)
    assert history.epoch == [0, 1]
    _, history = fit(tmp_path / "backup", model=model, epochs=3)
    assert history.epoch == [0, 1, 2]


def test_other_files_of_the_directory_stay(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    fit(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_backup_of_keras_is_not_passed_by(tmp_path):
    model = network()
    model.compile("adam", "mse")
    theirs = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    model.fit(X, Y, verbose=0, callbacks=[theirs])
    with pytest.raises(ValueError, match="no random states"):
        fit(tmp_path)


def test_a_full_disk_is_named_and_the_backup_before_stays(tmp_path):
    class Fills(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="Cannot write the backup: File too large"):
            fit(tmp_path, [Fills()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list(tmp_path.iterdir())) == 1
    _, history = fit(tmp_path)
    assert history.epoch == [0, 1, 2, 3]


class Opaque(keras.callbacks.Callback):
    """Keeps its state in an object of its own."""

    def on_epoch_end(self, epoch, logs=None):
        self.last = object()
        self.count = epoch


def test_a_state_that_cannot_be_saved_warns(tmp_path):
    with pytest.warns(UserWarning, match="Opaque is not in the backup.*`last` is a object"):
        fit(tmp_path / "one", [Opaque()])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The state of the callback")
        fit(tmp_path / "two", [keras.callbacks.EarlyStopping("loss"), keras.callbacks.History()])


def test_a_callback_that_is_missing_afterwards_is_named(tmp_path):
    fit(tmp_path, [keras.callbacks.EarlyStopping("loss")], epochs=1, delete_checkpoint=False)
    with pytest.warns(UserWarning, match="callback EarlyStopping, and this `fit` has none"):
        fit(tmp_path)


@pytest.mark.parametrize("save_freq", ["batch", 0, -1, 2.0, True, False, None])
def test_arguments_are_checked(save_freq):
    with pytest.raises(ValueError, match="save_freq"):
        BackupAndRestore("backup", save_freq=save_freq)


def test_there_is_one_backup(tmp_path):
    with pytest.raises(ValueError, match="one backup"):
        fit(tmp_path, [keras.callbacks.BackupAndRestore(tmp_path / "other")])


# Real kills -------------------------------------------------------------------------------------


KILLS = int(os.environ.get("TFPRUNE_KILLS", "20"))


def killed(folder, data, units, kills, delays):
    """Kills the training at random times and in writes; gives its result, and how often of each."""
    backup, out = folder / "backup", folder / "out.npz"
    case = [backup, out, data, "gradual", 1, units]
    command = [sys.executable, "-m", "tests.callbacks.resumed_training", *map(str, case)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = cut = 0
    while not out.exists():
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done < kills:
            for _ in range(2):  # until a second batch begins, and the first is done
                process.stdout.readline()
            time.sleep(delays.uniform(0, 0.5))
            while done % 2 and process.poll() is None and not is_writing(backup):
                time.sleep(1e-4)
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
        if process.returncode == -signal.SIGKILL:
            done += 1
            cut += is_writing(backup)
        else:
            assert process.returncode == 0, errors
    with np.load(out) as arrays:
        return dict(arrays), done, cut


def is_writing(backup):
    """Whether a backup is being written, or was when the process died."""
    return any(".partial" in path.name for path in backup.glob(".*"))


def test_killed_twice(whole, tmp_path):
    found, done, _ = killed(tmp_path, "shuffled", 8, 2, random.Random(0))
    same(found, whole("shuffled"))
    assert done >= 1


@pytest.mark.slow
def test_killed_at_random_points_and_in_writes(tmp_path):
    """A model with Dropout and some megabytes of backup; each second kill is in a write."""
    delays = random.Random(1)
    total = cut = round = 0
    truth = {}
    while total < KILLS:
        data = ("shuffled", "arrays", "repeated")[round % 3]
        if data not in truth:
            truth[data] = train(tmp_path / "whole", data, save_freq=1, units=400)
        (tmp_path / str(round)).mkdir()
        found, done, torn = killed(tmp_path / str(round), data, 400, KILLS - total, delays)
        same(found, truth[data])
        total, cut, round = total + done, cut + torn, round + 1
    print(f"{total} kills, {cut} of them in a write")
    assert cut >= max(1, KILLS // 4)
