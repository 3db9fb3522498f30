"""Schedules of tfmot: the same updates at the same steps."""

import keras
import numpy as np
import pytest
import tf_keras
from tensorflow_model_optimization.sparsity import keras as tfmot

import tfprune
from tests.interop.tfmot_models import randomised, tfmot_masks
from tfprune import schedules
from tfprune.interop.tfmot import CountedFromOne, TfmotSchedule, from_tfmot_schedule

pytestmark = pytest.mark.slow  # together; each builds and runs models of two Keras

K = tf_keras.layers


THEIRS = [
    tfmot.ConstantSparsity(0.5, begin_step=0, frequency=7),
    tfmot.ConstantSparsity(0.5, begin_step=5, end_step=26, frequency=7),
    tfmot.PolynomialDecay(0.1, 0.8, begin_step=0, end_step=40, frequency=10),
    tfmot.PolynomialDecay(0.0, 0.8, begin_step=1, end_step=31, power=2, frequency=5),
    tfmot.PolynomialDecay(0.2, 0.9, begin_step=12, end_step=48, frequency=1),
]


@pytest.mark.parametrize("theirs", THEIRS, ids=lambda s: str(s.get_config()))
def test_the_same_updates_at_the_same_steps(theirs):
    ours = schedules.get(theirs)
    assert isinstance(ours, CountedFromOne)
    for step in range(1, 60):  # tfmot's: before its update of the weights there were step - 1
        is_due, sparsity = theirs(step)
        assert ours.is_due(step - 1) == bool(is_due)
        if is_due:
            assert ours(step - 1) == pytest.approx(float(sparsity), abs=1e-6)


def test_tfmot_trains_with_the_steps_that_are_said():
    schedule = tfmot.PolynomialDecay(0.0, 0.75, begin_step=0, end_step=6, frequency=2)
    layer = tf_keras.Sequential([K.Dense(4, input_shape=(4,))])
    theirs = tfmot.prune_low_magnitude(randomised(layer), schedule)
    theirs.compile("sgd", "mse")
    callback, found = tfmot.UpdatePruningStep(), []
    for _ in range(8):
        theirs.fit(np.ones((1, 4)), np.ones((1, 4)), verbose=0, callbacks=[callback])
        found.append(1 - np.mean(tfmot_masks(theirs)[theirs.layers[0].layer.name][0]))
    model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(4)])
    model.compile("sgd", "mse")
    ours = schedules.get(schedule)
    # A step has the mask that is set before it: after `iterations` updates, tfmot's step + 1.
    due = [ours.last_due(iterations) for iterations in range(8)]
    expected = [0 if step is None else round(16 * ours(step)) / 16 for step in due]
    assert found == expected


def test_the_final_sparsity_is_reached_where_tfmot_misses_it():
    theirs = tfmot.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=25, frequency=10)
    ours = from_tfmot_schedule(theirs)
    assert not theirs(25)[0] and ours.last_due(100) == 24 and ours(24) == 0.8
    at_once = from_tfmot_schedule(tfmot.PolynomialDecay(0.0, 0.8, begin_step=3, end_step=3))
    assert at_once.last_due(9) == 2 and at_once(2) == 0.8


@keras.saving.register_keras_serializable("test_tfmot")
class Steps(tfmot.PruningSchedule):
    def __init__(self, steps):
        self.steps = steps

    def __call__(self, step):
        return step in self.steps, step / 100

    def get_config(self):
        return {"class_name": type(self).__name__, "config": {"steps": self.steps}}


@pytest.mark.parametrize(
    "theirs", [THEIRS[1], THEIRS[2], Steps([3, 9])], ids=lambda s: type(s).__name__
)
def test_a_callback_with_one_round_trips(theirs):
    callback = tfprune.callbacks.PruneWeights(theirs)
    again = type(callback).from_config(callback.get_config())
    for step in range(50):
        assert again.schedule.last_due(step) == callback.schedule.last_due(step)
        assert again.schedule(step) == callback.schedule(step)


def test_a_schedule_of_ones_own_is_asked_backwards_until_it_answers():
    schedule = schedules.get(Steps([3, 9]))
    assert isinstance(schedule, TfmotSchedule)
    assert [schedule.last_due(step) for step in (50, 1, 2, 7, 8, 60)] == [8, None, 2, 2, 8, 8]


def test_a_callback_follows_it_in_training():
    model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(4)])
    model.compile("sgd", "mse")
    callback = tfprune.callbacks.PruneWeights(tfmot.PolynomialDecay(0.0, 0.75, 0, 6, frequency=2))
    x = np.ones((8, 4))
    history = model.fit(x, x, batch_size=1, callbacks=[callback], verbose=0).history
    assert history["sparsity"] == [0.75]
