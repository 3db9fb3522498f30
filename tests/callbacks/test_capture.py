import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.callbacks import Capture
from tfprune.masks.rewinding import Snapshot

X, Y = np.ones((24, 3), "float32"), np.ones((24, 1), "float32")


def compiled_model(**kwargs):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, name="d")])
    model.compile("adam", "mse", **kwargs)
    return model


def fit(model, *callbacks, epochs=1):
    return model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks))


class Kernels(keras.callbacks.Callback):
    """The kernel by step."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def on_train_begin(self, logs=None):
        self.on_train_batch_end(0)

    def on_train_batch_end(self, batch, logs=None):
        kernel = np.array(self.model.get_layer("d").kernel)
        self.found[int(self.model.optimizer.iterations)] = kernel


def test_each_step_is_captured_when_it_is_reached():
    model, kernels, taken = compiled_model(), Kernels(), Capture([7, 0, 3, 12])
    fit(model, kernels, taken, epochs=2)
    assert list(taken.snapshots) == [0, 3, 7, 12]
    for step, snapshot in taken.snapshots.items():
        assert snapshot.step == step
        np.testing.assert_array_equal(snapshot.weights["d/kernel"], kernels.found[step])


def test_training_goes_on_from_a_step_that_was_captured():
    model, kernels, taken, again = compiled_model(), Kernels(), Capture(6), Kernels()
    fit(model, kernels, taken, epochs=2)
    tfprune.rewind(model, taken.snapshots[6])
    fit(model, again)
    assert list(again.found) == list(range(6, 13))
    for step, kernel in again.found.items():
        np.testing.assert_array_equal(kernel, kernels.found[step])


def test_files_are_written(tmp_path):
    model = compiled_model()
    fit(model, Capture([0, 2], path=tmp_path / "snapshots"))
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        "step_0.npz",
        "step_2.npz",
    ]
    assert Snapshot.load(tmp_path / "snapshots" / "step_2.npz").step == 2


def test_steps_that_are_behind_are_passed_by():
    model, taken = compiled_model(), Capture([2, 8])
    fit(model)
    fit(model, taken)
    assert list(taken.snapshots) == [8]


def test_several_steps_an_execution():
    taken = Capture([0, 4])
    fit(compiled_model(steps_per_execution=2), taken)
    assert list(taken.snapshots) == [0, 4]
    with pytest.raises(ValueError, match="step=3, but the next hook came at step 4"):
        fit(compiled_model(steps_per_execution=2), Capture(3))


@pytest.mark.parametrize("steps", [-1, [1.5], ["a"], [True]])
def test_what_are_no_steps_is_refused(steps):
    with pytest.raises(ValueError, match="`steps` must be"):
        Capture(steps)


def test_configuration_makes_the_callback_again(tmp_path):
    config = keras.saving.serialize_keras_object(Capture([3, 1], tmp_path))
    again = keras.saving.deserialize_keras_object(config)
    assert (again.steps, again.path) == ([1, 3], tmp_path)
