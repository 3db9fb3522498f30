"""Training that shrinks, against the same training with masks alone."""

import collections

import keras
import numpy as np
import pytest

import tfprune

STAGES = {1: 0.25, 2: 0.5, 4: 0.75}


def data(count=48):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, 6, 6, 2)).astype("f")
    y = (x[:, :3].mean((1, 2, 3)) > x[:, 3:].mean((1, 2, 3))).astype("int32")
    return x, y


def residual(optimizer="adam", **compile_arguments):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation("relu")(x)
    y = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="branch")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, y]))
    x = keras.layers.Dense(12, activation="gelu", kernel_regularizer="l2", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(x), name="residual")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **compile_arguments)
    return model


def mlp(optimizer="adam", **compile_arguments):
    keras.utils.set_random_seed(3)
    made = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu", name="a"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    made.compile(optimizer, "mse", **compile_arguments)
    return made


def mlp_data():
    x, y = data()
    return x, np.stack([y, 1 - y], 1).astype("f")


class PruneAt(keras.callbacks.Callback):
    """The same masks at the same epochs, and nothing rebuilt."""

    def __init__(self, stages):
        super().__init__()
        self.stages = stages

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self.stages:
            tfprune.prune_units(self.model, self.stages[epoch])


def against_masks(build, data, optimizer, stages, **arguments):
    """The losses and outputs of training that shrinks must be those of masks alone."""
    (x, y), arguments = data, {"batch_size": 12, "shuffle": False, "verbose": 0, **arguments}
    masked = tfprune.prunable(build(optimizer()))
    expected = masked.fit(x, y, callbacks=[PruneAt(stages)], **arguments)
    result = tfprune.fit_and_shrink(build(optimizer()), x, y, stages=stages, **arguments)
    assert set(result.history.history) == set(expected.history)
    for name, values in expected.history.items():
        found = result.history.history[name]
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-6, err_msg=name)
    outputs = [model.predict(x, verbose=0) for model in (result.model, masked)]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-5)
    assert int(result.model.optimizer.iterations) == int(masked.optimizer.iterations)
    return result


@pytest.mark.slow
def test_the_losses_of_a_residual_model_are_those_of_masks_alone():
    def optimizer():
        return keras.optimizers.Adam(0.01, global_clipnorm=0.5)

    stages = {1: 0.25, 3: 0.75}
    result = against_masks(
        residual, data(), optimizer, stages, epochs=5, validation_data=data(), validation_freq=2
    )
    layers = ("stem", "branch")
    assert [result.model.get_layer(name).filters for name in layers] == [2, 2]
    assert [stage.units.after for stage in result.stages] == [20, 15, 5]


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "schedule": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.02, 24), weight_decay=0.05
    ),
    "averages": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
    "accumulation": lambda: keras.optimizers.RMSprop(0.01, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    "accumulators": lambda: keras.optimizers.Adagrad(0.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on(name):
    against_masks(mlp, mlp_data(), OPTIMIZERS[name], {1: 0.25, 2: 0.5}, epochs=4)


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
    # The masked model of full size is not trained: each stage runs it twice, to compare with it.
    calls = collections.Counter(map(id, run["traced"]))
    trained = {id(layer) for model in run["watch"].models for layer in model.layers}
    assert [calls[layer] for layer in calls if layer in trained] == [3, 3, 3]
    assert max(calls.values()) == 2 * 3


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


def test_data_that_are_not_used_up_are_not_read_twice():
    x, y = mlp_data()

    def batches():
        for number in range(1000):
            yield x[:4] * (number + 1), y[:4]

    arguments = {"steps_per_epoch": 2, "epochs": 3, "verbose": 0}
    masked = tfprune.prunable(mlp("sgd"))
    masked.optimizer.learning_rate = 0.0
    expected = masked.fit(batches(), callbacks=[PruneAt({1: 0.25, 2: 0.5})], **arguments)
    model = mlp("sgd")
    model.optimizer.learning_rate = 0.0
    result = tfprune.fit_and_shrink(model, batches(), stages={1: 0.25, 2: 0.5}, **arguments)
    np.testing.assert_allclose(result.history.history["loss"], expected.history["loss"], rtol=1e-5)


def test_a_branch_that_is_zero_at_first_is_not_taken_for_dead():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, activation="relu", name="a")(inputs)
    y = keras.layers.Dense(6, kernel_initializer="zeros", name="branch")(x)
    outputs = keras.layers.Dense(1, kernel_initializer="zeros", name="out")(x + y)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("f")
    result = tfprune.fit_and_shrink(model, x, x[:, :1], stages={0: 0.5}, epochs=1, verbose=0)
    assert result.model.get_layer("branch").units == 3
    assert np.any(np.asarray(result.model.get_layer("out").kernel))


def test_a_norm_whose_scale_changes_with_its_size_is_taken_back():
    """RMSNormalization is cut with another scale; units that stay compute what they did."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, name="a"),
            keras.layers.RMSNormalization(name="norm"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("f")
    masked = tfprune.prunable(model)
    arguments = {"epochs": 3, "verbose": 0}
    expected = masked.fit(x, x[:, :2], callbacks=[PruneAt({1: 0.25, 2: 0.5})], **arguments)
    result = tfprune.fit_and_shrink(model, x, x[:, :2], stages={1: 0.25, 2: 0.5}, **arguments)
    assert result.model.get_layer("a").units == 4
    np.testing.assert_allclose(result.history.history["loss"], expected.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(result.model(x), masked(x), rtol=1e-4, atol=1e-5)


def test_frozen_elements_stay_frozen_in_the_small_model():
    model = tfprune.prunable(mlp())
    tfprune.set_masks(model, "a", "kernel", frozen=np.s_[:5, 7])
    kernel = np.array(model.get_layer("a").kernel)
    arguments = {"stages": {1: 0.5}, "epochs": 3, "verbose": 0}
    result = tfprune.fit_and_shrink(model, *mlp_data(), **arguments)
    small = np.asarray(result.model.get_layer("a").kernel)
    assert small.shape == (72, 4)
    np.testing.assert_array_equal(small[:5, -1], kernel[:5, 7])
    assert not np.isin(small[5:, -1], kernel[5:, 7]).any()
    assert type(result.model.get_layer("a")) is keras.layers.Dense


def test_a_masked_result_can_be_pruned_on():
    result = tfprune.fit_and_shrink(
        mlp(), *mlp_data(), stages=0.5, masked=True, epochs=2, verbose=0
    )
    counts = tfprune.prune_units(result.model, 0.5)
    assert [(count.units, count.pruned) for count in counts] == [(4, 2)]


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


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"stages": 1.5}, "from 0 to 1"),
        ({"stages": [0.5, 0.25]}, "must rise"),
        ({"stages": {5: 0.5}}, "epochs that are trained"),
        ({"stages": {2: 0.5, 1: 0.6}}, "must rise"),
        ({"stages": []}, "must hold a target"),
        ({"stages": [0.1, 0.2, 0.3]}, "too short"),
        ({"stages": ["half"]}, "target"),
        ({"stages": 0.5, "only": ["b"]}, "b"),
        ({"stages": 0.5, "criterion": "nothing"}, "nothing"),
        ({"stages": 0.5, "callbacks": [tfprune.callbacks.PruneUnits(0.5)]}, "PruneUnits"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(arguments, error):
    class Never(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise AssertionError("training began")

    arguments["callbacks"] = [Never(), *arguments.get("callbacks", [])]
    with pytest.raises(ValueError, match=error):
        tfprune.fit_and_shrink(mlp(), *mlp_data(), epochs=4, verbose=0, **arguments)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="epoch_count"):
        tfprune.fit_and_shrink(mlp(), *mlp_data(), stages=0.5, epoch_count=4)


def test_models_with_steps_of_their_own_are_refused():
    class Own(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    inputs = keras.Input((3,))
    model = Own(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="compiled"):
        tfprune.fit_and_shrink(model, stages=0.5)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="train_step"):
        tfprune.fit_and_shrink(model, stages=0.5)


@pytest.mark.slow
def test_compiled_and_in_several_steps_at_once():
    for arguments in ({"jit_compile": True}, {"steps_per_execution": 2}):
        model = mlp(**arguments)
        result = tfprune.fit_and_shrink(
            model, *mlp_data(), stages={1: 0.25, 2: 0.5}, epochs=3, batch_size=12, verbose=0
        )
        assert result.model.get_layer("a").units == 4
        assert int(result.model.optimizer.iterations) == 12


def test_layers_of_the_model_given_are_excluded():
    hidden = [keras.layers.Dense(8, activation="relu", name=name) for name in "ab"]
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), keras.layers.Flatten(), *hidden, keras.layers.Dense(2)]
    )
    model.compile("adam", "mse")
    for exclude in ([hidden[0]], lambda each: each is hidden[0]):
        result = tfprune.fit_and_shrink(
            model, *mlp_data(), stages={0: 0.5}, exclude=exclude, epochs=1, verbose=0
        )
        assert [layer.units for layer in result.model.layers[1:]] == [8, 4, 2]


@pytest.mark.parametrize("verbose", ["auto", 1, 2, 0])
def test_progress_is_shown_as_by_fit(verbose, capsys):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 4)), np.ones((8, 1))
    tfprune.fit_and_shrink(model, x, y, stages={1: 0.5}, epochs=2, verbose=verbose)
    shown = capsys.readouterr().out
    assert ("Epoch 1/2" in shown and "Epoch 2/2" in shown) == (verbose != 0)


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
