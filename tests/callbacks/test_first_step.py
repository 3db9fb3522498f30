"""Schedules count from the first step after the masks of a model were made."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import layers
from tfprune.callbacks import FreezeWeights, PruneUnits, PruneWeights, Rewire
from tfprune.masks import mask_in_place
from tfprune.masks.first_step import first_step
from tfprune.rebuild.copying import copy_model
from tfprune.recovery.copy_model import copy_model as copy_edited
from tfprune.schedules import Constant, Linear, OneShot, PolynomialDecay

RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(24, size)).astype("float32") for size in (10, 2))
SCHEDULE = Linear(0.0, 0.8, begin_step=0, end_step=16, frequency=2)
"""Two steps at 0.1 each; `fit` makes six in an epoch."""


def compiled(model):
    model.compile("adam", "mse")
    return model


def trained(stock=True, epochs=4):
    """A model of 10 hidden units that has made six steps an epoch, 24 by default."""
    return copy_model(_trained(stock, epochs)).model


@functools.cache
def _trained(stock, epochs):
    dense = keras.layers.Dense if stock else layers.Dense
    inputs = keras.Input((10,))
    hidden = dense(10, activation="relu", name="hidden")(inputs)
    model = compiled(keras.Model(inputs, dense(2, name="last")(hidden)))
    fit(model, epochs=epochs)
    return model


def fit(model, *callbacks, epochs=1, **kwargs):
    return model.fit(
        X, Y, batch_size=4, epochs=epochs, verbose=0, shuffle=False, callbacks=list(callbacks),
        **kwargs,
    ).history  # fmt: skip


def sparsity(model):
    return tfprune.summary(model).weights[0].sparsity


CALLBACKS = {
    "sparsity": lambda target: PruneWeights(target, only=["hidden"]),
    "unit_sparsity": lambda target: PruneUnits(target, only=["hidden"]),
    "frozen": lambda target: FreezeWeights(target, "magnitude", only=["hidden"]),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_trained_model_is_pruned_along_the_schedule(name):
    history = fit(tfprune.prunable(trained()), CALLBACKS[name](SCHEDULE), epochs=3)
    np.testing.assert_allclose(history[name], [0.3, 0.6, 0.8], atol=1e-6)


def test_an_epoch_of_a_schedule_is_one_since_the_masks_were_made():
    schedule = Linear(0.0, 0.8, begin_step=1, end_step=3, unit="epoch")
    history = fit(tfprune.prunable(trained()), PruneWeights(schedule, only=["hidden"]), epochs=4)
    np.testing.assert_allclose(history["sparsity"], [0.0, 0.4, 0.8, 0.8])


def test_rewiring_counts_so_too():
    callback = Rewire(Constant(0.5, begin_step=3, end_step=9, frequency=3), only=["hidden"], seed=0)
    model = tfprune.prunable(trained())
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(sparsity(model))
    )
    fit(model, callback, watch)
    assert seen == [0.0, 0.0, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_number_is_reached_over_the_first_half_of_fit(name):
    model, seen = tfprune.prunable(trained()), []
    callback = CALLBACKS[name](0.8)

    def look(batch, logs):
        seen.append(round(callback.measure(model)[name], 2))

    watch = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    history = fit(model, callback, watch, epochs=4)
    curve = PolynomialDecay(0.0, 0.8, 0, 12, frequency=1)
    expected = np.array([curve(step) for step in range(1, 13)])
    if name == "unit_sparsity":  # whole units, of ten
        assert np.all(np.abs(np.array(seen[:12]) - expected) <= 0.051)
    else:
        np.testing.assert_allclose(seen[:12], expected, atol=0.011)
    np.testing.assert_allclose(history[name][1:], 0.8, atol=1e-6)


def test_a_number_counts_steps_of_the_optimizer_and_not_batches():
    model = tfprune.prunable(trained())
    model.compile(keras.optimizers.Adam(gradient_accumulation_steps=3), "mse")
    history = fit(model, PruneWeights(0.8, only=["hidden"]), epochs=4)
    curve = PolynomialDecay(0.0, 0.8, 0, 4)  # of eight steps in all
    np.testing.assert_allclose(history["sparsity"], [curve(2), 0.8, 0.8, 0.8], atol=0.011)


def test_a_number_begins_where_training_begins_at_a_later_epoch():
    model = trained(stock=False, epochs=2)
    history = fit(model, PruneWeights(0.8, only=["hidden"]), initial_epoch=2, epochs=6)
    curve = PolynomialDecay(0.0, 0.8, 0, 12)
    np.testing.assert_allclose(history["sparsity"], [curve(6), 0.8, 0.8, 0.8], atol=0.011)


def test_a_number_in_a_loop_of_ones_own_is_refused():
    model = tfprune.prunable(trained())
    with pytest.raises(ValueError, match=r"give a schedule.*FreezeWeights\(0.5\).*Constant"):
        FreezeWeights(0.5, "magnitude").after_step(model)


def test_a_number_survives_the_config():
    config = PruneWeights(0.5).get_config()
    assert config["target"] == 0.5
    assert PruneWeights.from_config(config).get_config() == config


def saved_and_loaded(model, path):
    model.save(path / "m.keras")
    return keras.models.load_model(path / "m.keras")


def with_weights_loaded(model, path):
    model.save_weights(path / "m.weights.h5")
    other = tfprune.prunable(trained(epochs=5))
    other.load_weights(path / "m.weights.h5")
    return other


def from_checkpoint(model, path):
    written = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(path / "m")
    other = tfprune.prunable(trained(epochs=5))
    tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(written)
    return other


def copied(model, path):
    return tfprune.prunable(model)


def shifted(model, path):
    """A model rebuilt from a config, as `surgery` does."""
    return copy_edited(model, lambda config, operation: config)


@pytest.mark.parametrize(
    "resumed", [saved_and_loaded, with_weights_loaded, from_checkpoint, copied, shifted]
)
def test_the_count_goes_on(resumed, tmp_path):
    model = tfprune.prunable(trained())
    fit(model, PruneWeights(SCHEDULE, only=["hidden"]))
    history = fit(resumed(model, tmp_path), PruneWeights(SCHEDULE, only=["hidden"]), epochs=2)
    np.testing.assert_allclose(history["sparsity"], [0.6, 0.8])


@pytest.mark.parametrize("target", [SCHEDULE, 0.8], ids=["schedule", "number"])
@pytest.mark.parametrize("last", [True, False], ids=["backup last", "backup first"])
def test_the_count_goes_on_after_a_backup(target, last, tmp_path):
    class KilledError(Exception):
        pass

    def die(epoch, logs):
        if epoch == 0:
            raise KilledError

    def train(*others):
        model = tfprune.prunable(trained())
        callbacks = [
            PruneWeights(target, only=["hidden"]),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        ]
        return fit(model, *callbacks[:: 1 if last else -1], *others, epochs=4)

    whole = fit(tfprune.prunable(trained()), PruneWeights(target, only=["hidden"]), epochs=4)
    with pytest.raises(KilledError):
        train(keras.callbacks.LambdaCallback(on_epoch_end=die))
    assert train()["sparsity"] == whole["sparsity"][1:]


def test_a_model_that_is_compiled_anew_counts_from_0():
    model = compiled(tfprune.prunable(trained()))
    fit(model, PruneWeights(SCHEDULE, only=["hidden"]))
    compiled(model)
    history = fit(model, PruneWeights(SCHEDULE, only=["hidden"]), epochs=2)
    np.testing.assert_allclose(history["sparsity"], [0.3, 0.6])


def test_masks_made_in_place_count_from_the_next_step():
    model = trained()
    mask_in_place(model.get_layer("hidden"))
    history = fit(model, PruneWeights(SCHEDULE, only=["hidden"]), epochs=2)
    np.testing.assert_allclose(history["sparsity"], [0.3, 0.6])


def test_layers_made_with_masks_count_from_the_first_step_of_all():
    model = trained(stock=False, epochs=1)
    assert first_step(model, 6) == 0
    history = fit(model, PruneWeights(SCHEDULE, only=["hidden"]), epochs=2)
    np.testing.assert_allclose(history["sparsity"], [0.6, 0.8])


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize("schedule", [SCHEDULE, OneShot(0.8, 3)], ids=["curve", "one shot"])
def test_a_schedule_that_is_over_before_it_starts_warns(name, schedule):
    model = trained(stock=False)
    with pytest.warns(UserWarning, match=r"(?s)was over before.*which ends at step.*24 steps"):
        history = fit(model, CALLBACKS[name](schedule))
    assert history[name] == pytest.approx([0.8])


@pytest.mark.filterwarnings("error:The schedule was over")
def test_a_schedule_that_was_followed_to_its_end_does_not_warn():
    model = tfprune.prunable(trained())
    for _ in range(2):
        fit(model, PruneWeights(SCHEDULE, only=["hidden"]), epochs=3)
    fit(model, PruneWeights(SCHEDULE, only=["hidden"]))


def test_in_a_loop_of_ones_own_steps_count_from_the_masks_too():
    model = tfprune.prunable(trained())
    callback = PruneWeights(OneShot(0.5, step=2), only=["hidden"])
    seen = [callback.after_step(model)["sparsity"]]
    for _ in range(3):
        model.train_on_batch(X, Y)
        seen.append(callback.after_step(model)["sparsity"])
    assert seen == [0.0, 0.0, 0.5, 0.5]


def test_a_growing_penalty_counts_from_the_masks_too():
    regularizer = tfprune.unit_regularizers.Growing(0.5, increment=0.25, every=6)
    model = tfprune.prunable(trained())
    callback = PruneUnits(OneShot(0.5, step=100), only=["hidden"], regularizer=regularizer)
    strengths = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: strengths.append(regularizer.strength)
    )
    fit(model, callback, watch)
    assert strengths == [0.25] * 5 + [0.5]
