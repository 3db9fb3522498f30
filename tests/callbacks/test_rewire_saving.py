"""What `Rewire` leaves in files, and its configuration."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.callbacks.rewiring import X, Y, constant, fit, kept, kernel, linear, rigl, step
from tfprune.callbacks import Rewire


@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_saved_model_goes_on_without_a_second_update_or_a_missing_one(grow, epochs, tmp_path):
    def trained(stop):
        model = linear(keras.optimizers.Adam(0.01))
        fit(model, rigl(grow=grow), epochs=epochs)
        if stop:
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
        fit(model, rigl(grow=grow), epochs=4)
        return model

    whole, resumed = trained(stop=False), trained(stop=True)
    np.testing.assert_array_equal(kept(resumed), kept(whole))
    np.testing.assert_array_equal(kernel(resumed), kernel(whole))
    assert int(np.array(resumed.get_layer("d").masks_by_name["kernel"].rewired)) > 0


@pytest.mark.parametrize(("grow", "late"), [("random", 0), ("gradient", 1)])
def test_an_update_that_was_due_as_the_model_was_saved_is_made(grow, late, tmp_path):
    def trained(stop):
        model, callback = linear(keras.optimizers.SGD(0.0)), rigl(frequency=2, grow=grow)
        callback.after_step(model)
        for now in (1, 2):
            model.train_on_batch(X, Y)
            if now == 2 and stop:
                model.save(tmp_path / "model.keras")
                model = keras.saving.load_model(tmp_path / "model.keras")
                callback = rigl(frequency=2, grow=grow)
            before = kept(model)
            callback.after_step(model)
        return model, callback, before

    (whole, _, before), (resumed, callback, _) = trained(stop=False), trained(stop=True)
    assert (kept(whole) != before).any()
    for _ in range(late):
        np.testing.assert_array_equal(kept(resumed), before)
        step(resumed, callback)
    np.testing.assert_array_equal(kept(resumed), kept(whole))


@pytest.mark.parametrize("kind", ["weights", "checkpoint", "prunable"])
def test_the_step_of_the_last_rewiring_is_kept(kind, tmp_path):
    model, other = linear(), linear()
    fit(model, rigl(), epochs=3)
    if kind == "weights":
        model.save_weights(tmp_path / "m.weights.h5")
        other.load_weights(tmp_path / "m.weights.h5")
    elif kind == "checkpoint":
        path = tf.train.Checkpoint(model=model).save(tmp_path / "m")
        tf.train.Checkpoint(model=other).restore(path)
    else:
        other = tfprune.prunable(model)
    assert int(np.array(other.get_layer("d").masks_by_name["kernel"].rewired)) == 2


def test_a_file_from_before_any_rewiring_says_so(tmp_path):
    model = linear()
    model.save_weights(tmp_path / "m.weights.h5")
    fit(model, rigl(), epochs=3)
    model.load_weights(tmp_path / "m.weights.h5")
    assert int(np.array(model.get_layer("d").masks_by_name["kernel"].rewired)) == -1


def test_a_new_optimizer_counts_anew_and_the_masks_stay():
    model = linear()
    fit(model, rigl(), epochs=5)
    before = kept(model)
    model.compile("sgd", "mse")
    callback = rigl()
    callback.after_step(model)
    np.testing.assert_array_equal(kept(model), before)
    for _ in range(2):
        step(model, callback)
    assert (kept(model) != before).any()


@keras.saving.register_keras_serializable("test_rewire")
def is_kernel(layer, name):
    return name == "kernel"


@pytest.mark.parametrize(
    "callback",
    [
        Rewire(constant()),
        Rewire(0.5, grow="gradient", decay="constant", drop_fraction=0.1, only=["d"], seed=3),
        Rewire(constant(), distribution={"d": 0.3}, exclude=is_kernel, verbose=1),
    ],
)
def test_config_round_trip(callback):
    config = keras.saving.serialize_keras_object(callback)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, Rewire)
    assert again.get_config() == callback.get_config()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"target": 0.5}, "must have an end"),
        ({"grow": "nosuch"}, "Argument `grow`"),
        ({"decay": "nosuch"}, "Argument `decay`"),
        ({"drop_fraction": 1.5}, "Argument `drop_fraction`"),
        ({"drop_fraction": True}, "Argument `drop_fraction`"),
        ({"distribution": "global"}, "cannot be 'global'"),
        ({"only": 3}, "Argument `only`"),
        ({"seed": -1}, "Argument `seed`"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Rewire(**{"target": constant(), **kwargs})
