import inspect
import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schedules.cases import every_schedule, tenth_per_step
from tfprune import schedules
from tfprune.schedules import (
    Chain,
    Constant,
    Cosine,
    Exponential,
    Function,
    InSteps,
    Linear,
    OneShot,
    Periodic,
    PolynomialDecay,
)

EVERY = [schedule for schedule, _ in every_schedule()]
IN_EPOCHS = [schedule for schedule, _ in every_schedule(frequency=0.4, unit="epoch")]
each_schedule = pytest.mark.parametrize("schedule", EVERY, ids=lambda s: type(s).__name__)
each_unit = pytest.mark.parametrize(
    "schedule", [*EVERY, *IN_EPOCHS], ids=lambda s: f"{type(s).__name__}-{s.unit}"
)


def each_of(every):
    """The index of each in `every_schedule`, for tests which make it with arguments of theirs."""
    return pytest.mark.parametrize(
        "index", range(len(every)), ids=[type(schedule).__name__ for schedule in every]
    )


def test_every_exported_class_is_here():
    exported = {getattr(schedules, name) for name in schedules.__all__}
    classes = {c for c in exported if inspect.isclass(c)} - {schedules.Schedule}
    assert {type(schedule) for schedule in EVERY} == classes


@each_schedule
def test_dense_before_begin_step(schedule):
    assert [schedule(step) for step in range(schedule.begin_step)] == [0.0] * schedule.begin_step
    assert schedule.last_due(schedule.begin_step - 1) is None
    assert schedule.is_due(schedule.begin_step)


@each_schedule
def test_last_due_is_the_last_step_that_is_due(schedule):
    due = [s for s in range(40) if schedule.is_due(s)]
    for step in range(40):
        assert schedule.last_due(step) == max((s for s in due if s <= step), default=None)


@each_unit
def test_an_update_is_due_at_the_end_and_none_after(schedule):
    assert schedule.is_due(schedule.end_step)
    assert not any(schedule.is_due(schedule.end_step + i / 10) for i in range(10, 300))


@each_unit
def test_values_are_sparsities(schedule):
    values = [schedule(time / 10) for time in range(400)]
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in values)


@each_unit
def test_sparsity_never_falls_but_in_cycles(schedule):
    differences = np.diff([schedule(time / 10) for time in range(400)])
    assert (differences < -1e-12).any() == isinstance(schedule, Periodic)


@each_unit
def test_config_round_trip_through_json(schedule):
    config = json.loads(json.dumps(schedules.serialize(schedule)))
    again = schedules.deserialize(config)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert again.unit == schedule.unit
    times = np.arange(0, 30, 0.1)
    assert [again(t) for t in times] == [schedule(t) for t in times]
    assert [again.last_due(t) for t in times] == [schedule.last_due(t) for t in times]


@each_unit
def test_arguments_are_attributes_of_the_same_name(schedule):
    config = schedule.get_config()
    assert config.keys() == inspect.signature(type(schedule)).parameters.keys()
    for name in config.keys() - {"function", "schedule", "schedules"}:
        assert getattr(schedule, name) == config[name]


@each_of(EVERY)
@given(frequency=st.integers(1, 60), every=st.integers(1, 17))
def test_hooks_however_coarse_reach_the_final_sparsity(index, frequency, every):
    schedule, final = every_schedule(frequency)[index]
    last, reached = None, 0.0
    for now in range(0, schedule.end_step + every + 1, every):
        due = schedule.last_due(now)
        if due is not None and due != last:
            last, reached = due, schedule(due)
    assert reached == final


@each_of(IN_EPOCHS)
@given(
    frequency=st.floats(0.01, 3.0),
    batches=st.integers(2, 40),
    updates_per_batch=st.sampled_from([1, 1 / 2, 1 / 3]),
)
def test_epochs_of_however_many_steps_reach_the_final_sparsity(
    index, frequency, batches, updates_per_batch
):
    schedule, final = every_schedule(frequency, unit="epoch")[index]
    schedule = schedule.in_steps(batches * updates_per_batch)
    assert schedule(schedule.last_due(10**6)) == final
    assert schedule.last_due(schedule.end_step) == schedule.end_step


@each_of(IN_EPOCHS)
@pytest.mark.parametrize("scale", [1, 10])
def test_in_steps_is_the_same_schedule_with_times_in_steps(index, scale):
    epochs, _ = every_schedule(unit="epoch")[index]
    steps, _ = every_schedule(scale=scale)[index]
    if isinstance(steps, Function):  # which reads the time itself
        steps.function = lambda step: tenth_per_step(step / scale)
    converted = epochs.in_steps(scale)
    assert converted.unit == "step"
    times = range(40 * scale)
    assert [converted(t) for t in times] == pytest.approx([steps(t) for t in times], abs=1e-12)
    assert [converted.last_due(t) for t in times] == [steps.last_due(t) for t in times]
    assert (converted.begin_step, converted.end_step) == (steps.begin_step, steps.end_step)


@each_schedule
def test_a_schedule_in_steps_is_in_steps(schedule):
    assert schedule.in_steps(7) is schedule


LINE = Linear(0.0, 0.5, 0, 10)
EPOCHS = Linear(0.0, 0.5, 0, 1, unit="epoch")


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Constant(1.5), "target_sparsity"),
        (lambda: Constant(float("nan")), "target_sparsity"),
        (lambda: Constant("a half"), "target_sparsity"),
        (lambda: Constant(True), "target_sparsity"),
        (lambda: Constant(0.5, begin_step=-1), "begin_step"),
        (lambda: Constant(0.5, begin_step=1.5), "begin_step"),
        (lambda: Constant(0.5, begin_step=10, end_step=5), "end_step"),
        (lambda: Constant(0.5, end_step=-2), "end_step"),
        (lambda: Constant(0.5, frequency=0), "frequency"),
        (lambda: Constant(0.5, frequency=0.5), "frequency"),
        (lambda: Constant(0.5, unit="epochs"), "unit"),
        (lambda: Constant(0.5, begin_step=-0.5, unit="epoch"), "begin_step"),
        (lambda: Constant(0.5, begin_step=float("nan"), unit="epoch"), "begin_step"),
        (lambda: Constant(0.5, end_step=float("inf"), unit="epoch"), "end_step"),
        (lambda: Constant(0.5, end_step=-0.5, unit="epoch"), "end_step"),
        (lambda: Constant(0.5, frequency=0.0, unit="epoch"), "frequency"),
        (lambda: PolynomialDecay(-0.1, 0.5, 0, 10), "initial_sparsity"),
        (lambda: PolynomialDecay(0.0, 50, 0, 10), "final_sparsity"),
        (lambda: PolynomialDecay(0.6, 0.5, 0, 10), "initial_sparsity"),
        (lambda: PolynomialDecay(0.0, 0.5, 10, 5), "end_step"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, -1), "end_step"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, power=0), "power"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, power=float("nan")), "power"),
        (lambda: Linear(0.6, 0.5, 0, 10), "initial_sparsity"),
        (lambda: Linear(0.0, 0.5, 0, -1, unit="epoch"), "end_step"),
        (lambda: Exponential(0.0, 1.0, 0, 10), "final_sparsity"),
        (lambda: Exponential(1, 1, 0, 10), "final_sparsity"),
        (lambda: Cosine(0.0, 1.1, 0, 10), "final_sparsity"),
        (lambda: OneShot(2, 0), "target_sparsity"),
        (lambda: OneShot(0.5, -3), "step"),
        (lambda: OneShot(0.5, 1.5), "step"),
        (lambda: OneShot(0.5, 1, unit=None), "unit"),
        (lambda: Function(0.5), "function"),
        (lambda: Periodic(0.5, 10), "schedule"),
        (lambda: Periodic(LINE, 10), "period"),
        (lambda: Periodic(LINE, 10.5), "period"),
        (lambda: Periodic(Constant(0.5, begin_step=10), 10), "period"),
        (lambda: Periodic(LINE, 20, cycles=0), "cycles"),
        (lambda: Periodic(LINE, 20, cycles=-2), "cycles"),
        (lambda: Chain([], []), "schedules"),
        (lambda: Chain([LINE, 0.5], [10]), "schedules"),
        (lambda: Chain([LINE, EPOCHS], [10]), "schedules"),
        (lambda: Chain([LINE, LINE], []), "boundaries"),
        (lambda: Chain([LINE, LINE], [0]), "boundaries"),
        (lambda: Chain([LINE, LINE], [1.5]), "boundaries"),
        (lambda: Chain([LINE, LINE, LINE], [10, 10]), "boundaries"),
        (lambda: InSteps(LINE, 10), "schedule"),
        (lambda: EPOCHS.in_steps(0), "steps_per_epoch"),
        (lambda: EPOCHS.in_steps(None), "steps_per_epoch"),
        (lambda: schedules.get("constant"), "schedule"),
        (lambda: schedules.get(Constant), "schedule"),
        (lambda: schedules.get(None), "schedule"),
    ],
)
def test_bad_values_raise_naming_the_argument(make, argument):
    with pytest.raises(ValueError, match=f"Argument `{argument}`.*Received: .*{argument}="):
        make()


def test_get_takes_instance_config_number_and_callable():
    one_shot = OneShot(0.5, 3)
    assert schedules.get(one_shot) is one_shot
    assert schedules.get(schedules.serialize(one_shot)).step == 3
    assert schedules.get(0.25).target_sparsity == 0.25
    assert schedules.get(tenth_per_step)(5) == 0.5


def test_deserialize_takes_a_config_without_module():
    config = {"class_name": "Constant", "config": {"target_sparsity": 0.5}}
    assert schedules.deserialize(config)(0) == 0.5


def test_schedules_take_the_optimizers_counter():
    iterations = keras.optimizers.SGD().iterations
    iterations.assign(1500)
    value = PolynomialDecay(0.0, 0.8, 1000, 2000)(iterations)
    assert isinstance(value, float)
    assert value == pytest.approx(0.7)
