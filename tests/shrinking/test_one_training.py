"""Stages are one training: its history, callbacks, files and backups go on from one to the next."""

import collections

import keras
import numpy as np
import pytest

import tfprune
from tests.shrinking.trained_models import data, mlp, mlp_data, residual


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.begun, self.ended, self.models = 0, 0, []

    def on_train_begin(self, logs=None):
        self.begun += 1

    def on_epoch_end(self, epoch, logs=None):
        self.models.append(self.model)

    def on_train_end(self, logs=None):
        self.ended += 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One training with many callbacks: 8 units, 6 from epoch 2 on, 4 from epoch 4 on."""
    path = tmp_path_factory.mktemp("run")
    model = mlp(keras.optimizers.Adam(0.01))
    model.fit(*mlp_data(), verbose=0)
    before = [np.array(v) for v in [*model.weights, *model.optimizer.variables]]
    watch = Watch()
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=100.0)
    traced = []
    flatten = keras.layers.Flatten.call
    keras.layers.Flatten.call = lambda layer, x: traced.append(layer) or flatten(layer, x)
    try:
        result = tfprune.fit_and_shrink(
            model,
            *mlp_data(),
            stages={2: 0.25, 4: 0.5},
            initial_epoch=1,
            epochs=6,
            batch_size=16,
            verbose=0,
            callbacks=[
                watch,
                plateau,
                keras.callbacks.CSVLogger(path / "log.csv"),
                keras.callbacks.ModelCheckpoint(path / "{epoch}.keras"),
            ],
        )
    finally:
        keras.layers.Flatten.call = flatten
    return {**locals()}


def test_there_is_one_history_of_all_epochs(run):
    history = run["result"].history
    assert history.epoch == [1, 2, 3, 4, 5] and len(history.history["loss"]) == 5
    assert run["result"].model.history is history


def test_callbacks_are_called_as_in_one_training_with_the_model_of_the_time(run):
    watch = run["watch"]
    assert (watch.begun, watch.ended) == (1, 1)
    assert [m.get_layer("a").units for m in watch.models] == [8, 6, 6, 4, 4]
    assert watch.models[-1] is run["result"].model and watch.models[0] is not run["model"]


def test_a_learning_rate_that_a_callback_sets_goes_on(run):
    # The first epoch is an improvement on nothing; each later one halves the rate.
    rates = run["result"].history.history["learning_rate"]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.005, 0.0025, 0.00125])


def test_logs_and_files_go_on(run):
    rows = (run["path"] / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2", "3", "4", "5"]
    units = [
        keras.saving.load_model(run["path"] / f"{epoch}.keras").get_layer("a").units
        for epoch in (2, 6)
    ]
    assert units == [8, 4]


def test_the_model_given_is_untouched(run):
    after = [*run["model"].weights, *run["model"].optimizer.variables]
    for array, variable in zip(run["before"], after, strict=True):
        np.testing.assert_array_equal(array, variable)


def test_each_stage_is_traced_once(run):
    # Each model is called once to build it, once to build the metrics, and once to trace a step.
    # The masked model of full size is not trained: each stage runs it once, to compare with it.
    calls = collections.Counter(map(id, run["traced"]))
    trained = {id(layer) for model in run["watch"].models for layer in model.layers}
    assert [calls[layer] for layer in calls if layer in trained] == [3, 3, 3]
    assert max(calls.values()) == 3


def test_stages_say_what_went(run):
    first, second, third = run["result"].stages
    assert (first.epoch, first.target, first.units.after) == (1, None, 8)
    assert (second.epoch, second.target) == (2, 0.25)
    assert (second.units.before, second.units.after) == (8, 6)
    size = 72 * 4 + 4 + 4 * 2 + 2
    assert third.parameters.after == size == run["result"].model.count_params()
    assert third.macs.after == 72 * 4 + 4 * 2
    assert [len(stage.epoch_seconds) for stage in run["result"].stages] == [1, 2, 2]
    assert "4-5" in str(run["result"]) and "8 → 6" in str(run["result"])


def test_the_result_is_stock_and_trains_on(run):
    model = run["result"].model
    assert type(model.get_layer("a")) is keras.layers.Dense
    steps = int(model.optimizer.iterations)
    model.fit(*mlp_data(), batch_size=16, verbose=0)
    assert int(model.optimizer.iterations) == steps + 3


def test_a_callback_that_stops_ends_all_stages():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = self.model.get_layer("a").units == 6

    result = tfprune.fit_and_shrink(
        mlp(),
        *mlp_data(),
        stages={1: 0.25, 2: 0.5},
        epochs=4,
        batch_size=12,
        verbose=0,
        callbacks=[Stop()],
    )
    assert result.model.get_layer("a").units == 6 and len(result.stages) == 2
    assert int(result.model.optimizer.iterations) == 4 + 1


def test_early_stopping_restores_the_best_weights_of_the_last_model():
    stopping = keras.callbacks.EarlyStopping(
        "loss", patience=9, restore_best_weights=True, mode="max"
    )
    result = tfprune.fit_and_shrink(
        mlp(), *mlp_data(), stages={2: 0.5}, epochs=5, verbose=0, callbacks=[stopping]
    )
    losses = result.history.history["loss"]
    assert stopping.best == max(losses[2:]) and stopping.best_weights[0].shape == (72, 4)


class Killed(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [2, 4])  # within a stage, and where one begins
@pytest.mark.parametrize("make", [residual, mlp])
@pytest.mark.parametrize("backup", [keras.callbacks, tfprune.callbacks])
def test_a_killed_training_goes_on_from_its_backup(backup, make, epoch, tmp_path):
    x, y = data() if make is residual else mlp_data()
    given = {"stages": {1: 0.25, 4: 0.75}, "epochs": 6, "shuffle": False, "verbose": 0}

    def train(*callbacks):
        return tfprune.fit_and_shrink(
            make(jit_compile=False), x, y, callbacks=list(callbacks), **given
        )

    truth = train()
    with pytest.raises(KeyboardInterrupt):
        train(backup.BackupAndRestore(tmp_path / "backup"), Killed(epoch))
    resumed = train(backup.BackupAndRestore(tmp_path / "backup"))
    first = 0 if backup is tfprune.callbacks else epoch  # ours keeps the states of callbacks
    assert resumed.history.epoch == list(range(first, 6))
    assert [stage.epoch for stage in resumed.stages] == list(dict.fromkeys([epoch, 4]))
    assert resumed.stages[-1].units.after == truth.stages[-1].units.after
    for ours, theirs in zip(resumed.model.get_weights(), truth.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    ours, theirs = (result.model.optimizer.variables for result in (resumed, truth))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-3, atol=1e-6)
    losses = truth.history.history["loss"][first:]
    np.testing.assert_allclose(resumed.history.history["loss"], losses, rtol=1e-5)
    assert not (tmp_path / "backup").exists()
