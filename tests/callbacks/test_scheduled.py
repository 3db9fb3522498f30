import csv

import keras
import numpy as np
import pytest

from tfprune import layers
from tfprune.callbacks import ScheduledCallback
from tfprune.schedules import Constant, OneShot, PolynomialDecay

X, Y = np.ones((24, 3), "float32"), np.ones((24, 1), "float32")


class Recorder(ScheduledCallback):
    """Writes down when it is asked for what; `stands` is its whole state."""

    def __init__(self, schedule, **kwargs):
        super().__init__(schedule, **kwargs)
        self.asked, self.stands = [], 0.0

    def update(self, model, sparsity, optimizer):
        step = int(keras.ops.convert_to_numpy(optimizer.iterations))
        self.asked.append((step, round(sparsity, 4)))
        self.stands = sparsity

    def measure(self, model):
        return {"sparsity": self.stands}


def compiled_model(optimizer="sgd", **kwargs):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, *callbacks, epochs=2, **kwargs):
    return model.fit(
        X, Y, batch_size=2, epochs=epochs, verbose=0, callbacks=list(callbacks), **kwargs
    )


def test_updates_at_the_steps_that_are_due_from_step_0_to_the_end_step():
    recorder = Recorder(PolynomialDecay(0.1, 0.8, 0, 23, power=1, frequency=10))
    fit(compiled_model(), recorder)
    assert recorder.asked == [(0, 0.1), (10, 0.4043), (20, 0.7087), (23, 0.8)]


def test_begin_step_0_acts_before_the_first_step_of_training():
    recorder = Recorder(OneShot(0.5, 0))
    model = compiled_model()
    recorder.set_model(model)
    recorder.on_train_begin()
    assert recorder.asked == [(0, 0.5)]


def test_hooks_every_five_steps_miss_no_update():
    recorder = Recorder(PolynomialDecay(0.0, 0.8, 2, 12, power=1, frequency=5))
    fit(compiled_model(steps_per_execution=5), recorder, epochs=1)
    assert recorder.asked == [(5, 0.0), (10, 0.4), (12, 0.8)]


def test_an_update_missed_between_two_trainings_is_made_up_for():
    model = compiled_model()
    fit(model, epochs=1)
    recorder = Recorder(Constant(0.5, begin_step=5, end_step=7))
    fit(model, recorder, epochs=1)
    assert recorder.asked == [(12, 0.5)]


def test_training_that_goes_on_counts_on():
    model = compiled_model()
    schedule = PolynomialDecay(0.0, 0.8, 0, 20, power=1, frequency=10)
    fit(model, Recorder(schedule), epochs=1)
    recorder = Recorder(schedule)
    fit(model, recorder, epochs=1)
    assert recorder.asked == [(12, 0.4), (20, 0.8)]


def test_gradient_accumulation_counts_updates_of_the_weights():
    recorder = Recorder(OneShot(0.5, 3))
    fit(compiled_model(keras.optimizers.SGD(gradient_accumulation_steps=4)), recorder, epochs=2)
    assert recorder.asked == [(3, 0.5)]


def test_a_loss_scale_optimizer_counts_its_inner_steps():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    recorder = Recorder(OneShot(0.5, 3))
    fit(compiled_model(optimizer), recorder, epochs=1)
    assert recorder.asked == [(3, 0.5)]


def test_train_on_batch_with_one_call_a_step():
    model, recorder = compiled_model(), Recorder(Constant(0.5, begin_step=1, frequency=2))
    returned = []
    for _ in range(5):
        model.train_on_batch(X, Y)
        returned.append(recorder.after_step(model))
    assert [step for step, _ in recorder.asked] == [1, 3, 5]
    assert returned == [{"sparsity": 0.5}] * 5


def test_a_custom_loop_passes_its_own_optimizer():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    optimizer = keras.optimizers.SGD()
    recorder = Recorder(OneShot(0.5, 2))
    with pytest.raises(ValueError, match="pass `optimizer=...` to `after_step`"):
        recorder.after_step(model)
    recorder.after_step(model, optimizer)
    optimizer.build(model.trainable_variables)
    for _ in range(3):
        optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables])
        recorder.after_step(model, optimizer)
    assert recorder.asked == [(2, 0.5)]


def test_history_and_csv_show_the_sparsity(tmp_path):
    recorder = Recorder(PolynomialDecay(0.0, 0.8, 0, 20, frequency=10))
    log = tmp_path / "log.csv"
    history = fit(compiled_model(), recorder, keras.callbacks.CSVLogger(log)).history
    assert history["sparsity"] == [pytest.approx(0.7), 0.8]
    with log.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["sparsity"]) for row in rows] == history["sparsity"]


def test_logs_of_steps_show_the_sparsity():
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs["sparsity"])
    )
    fit(compiled_model(), Recorder(OneShot(0.5, 3)), watch, epochs=1)
    assert seen == [0.0] * 2 + [0.5] * 10


def test_a_name_that_is_taken_is_not_overwritten():
    first, second = Recorder(OneShot(0.5, 3)), Recorder(OneShot(0.7, 3))
    history = fit(compiled_model(), first, second, epochs=1).history
    assert (history["sparsity"], history["sparsity_1"]) == ([0.5], [0.7])


def test_verbose_says_what_it_did(capsys):
    fit(compiled_model(), Recorder(OneShot(0.5, 3), verbose=1), epochs=1)
    assert "Recorder: step 3: sparsity 0.5000" in capsys.readouterr().out
    fit(compiled_model(), Recorder(OneShot(0.5, 3)), epochs=1)
    assert capsys.readouterr().out == ""


def test_a_callback_serves_one_training_after_another():
    recorder = Recorder(OneShot(0.5, 3))
    fit(compiled_model(), recorder, epochs=1)
    fit(compiled_model(), recorder, epochs=1)
    assert recorder.asked == [(3, 0.5)] * 2


def test_update_has_to_be_implemented():
    with pytest.raises(NotImplementedError, match="ScheduledCallback must implement `update"):
        fit(compiled_model(), ScheduledCallback(Constant(0.5)))
