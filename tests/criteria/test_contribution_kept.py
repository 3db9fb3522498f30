"""What ActivationContribution has measured goes on: after saving, strip and surgery."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune.criteria import ActivationContribution
from tfprune.layers.layer_masks import measured_of

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.ones((8, 2), "float32")


def network():
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            tfprune.layers.Dense(6, activation="tanh", name="wide"),
            tfprune.layers.Dense(2, name="last"),
        ]
    )
    compile(model)
    return model


def compile(model):
    model.compile("sgd", "mse", jit_compile=False)


def measure(model, steps, criterion=None):
    """Trains under the criterion, and takes no unit away."""
    criterion = ActivationContribution() if criterion is None else criterion
    never = tfprune.schedules.OneShot(0.5, 100)
    callback = tfprune.callbacks.PruneUnits(never, criterion)
    model.fit(X, Y, epochs=steps, verbose=0, callbacks=[callback])
    return measured_of(model.get_layer("wide"))


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.weights.h5"])
def test_the_average_goes_on_in_a_model_that_is_loaded(name, tmp_path):
    truth, calls = measure(network(), 5)
    model = network()
    before, _ = measure(model, 3)
    if name.endswith("weights.h5"):
        model.save_weights(tmp_path / name)
        model = network()
        model.load_weights(tmp_path / name)
    else:
        model.save(tmp_path / name)
        model = keras.saving.load_model(tmp_path / name, compile=False)
        compile(model)
    average, count = measure(model, 2)
    assert (count, calls) == (5, 5) and np.abs(average - before).max() > 1e-6
    np.testing.assert_allclose(average, truth, rtol=1e-5)


def test_files_written_while_it_is_measured_have_it(tmp_path):
    model, path = network(), tmp_path / "m.keras"
    save = keras.callbacks.ModelCheckpoint(path, verbose=0)
    callback = tfprune.callbacks.PruneUnits(
        tfprune.schedules.OneShot(0.5, 100), ActivationContribution()
    )
    model.fit(X, Y, epochs=3, verbose=0, callbacks=[callback, save])
    found = measured_of(keras.saving.load_model(path).get_layer("wide"))
    np.testing.assert_array_equal(found[0], measured_of(model.get_layer("wide"))[0])
    assert found[1] == 3


def test_an_update_that_is_due_at_once_takes_what_was_measured_before(tmp_path):
    model = network()
    average, _ = measure(model, 3)
    model.save(tmp_path / "m.keras")
    model = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    compile(model)
    callback = tfprune.callbacks.PruneUnits(
        tfprune.schedules.OneShot(0.5, 0), ActivationContribution()
    )
    callback.after_step(model)
    kept = np.asarray(model.get_layer("wide").trainable_masks["bias"])
    assert set(np.flatnonzero(~kept)) == set(np.argsort(average)[:3])


def test_strip_keeps_it_for_the_units_that_stay():
    model = network()
    average, calls = measure(model, 3)
    tfprune.prune_units(model, units={"wide": [1, 4]})
    again = tfprune.prunable(tfprune.strip(model))
    found = measured_of(again.get_layer("wide"))
    np.testing.assert_array_equal(found[0], average[[0, 2, 3, 5]])
    assert found[1] == calls == 3
    compile(again)
    assert measure(again, 1)[1] == 4


def test_surgery_keeps_it_and_new_units_have_the_mean():
    model = network()
    average, calls = measure(model, 3)
    larger = tfprune.surgery.resize(model, {"wide": 8})
    found = measured_of(larger.get_layer("wide"))
    np.testing.assert_allclose(found[0], [*average, average.mean(), average.mean()], rtol=1e-6)
    longer = tfprune.surgery.insert(model, "wide", keras.layers.Dense(6, name="new"))
    found = measured_of(longer.get_layer("wide"))
    np.testing.assert_array_equal(found[0], average)
    assert found[1] == calls


def test_gates_are_one_unit():
    model = keras.Sequential(
        [
            keras.Input((3, 4)),
            tfprune.layers.LSTM(6, name="wide", unroll=True),
            tfprune.layers.Dense(2, name="last"),
        ]
    )
    model.compile("sgd", "mse", run_eagerly=True)
    never = tfprune.schedules.OneShot(0.5, 100)
    callback = tfprune.callbacks.PruneUnits(never, ActivationContribution())
    model.fit(np.ones((2, 3, 4)), np.ones((2, 2)), verbose=0, callbacks=[callback])
    average, _ = measured_of(model.get_layer("wide"))
    tfprune.prune_units(model, units={"wide": [0, 4]})
    found = measured_of(tfprune.strip(model).get_layer("wide"))
    np.testing.assert_array_equal(found[0], average[[1, 2, 3, 5]])
