import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune import schedules
from tfprune.schedules import Constant, Function, OneShot, PolynomialDecay


@keras.saving.register_keras_serializable("test_schedules")
def tenth_per_step(step):
    return min(1.0, step / 10)


EVERY = [
    Constant(0.3, begin_step=2, end_step=9, frequency=4),
    PolynomialDecay(0.1, 0.8, begin_step=3, end_step=10, power=2, frequency=4),
    OneShot(0.5, step=7),
    Function(tenth_per_step, begin_step=1, end_step=20, frequency=3),
]
each_schedule = pytest.mark.parametrize("schedule", EVERY, ids=lambda s: type(s).__name__)


def test_polynomial_follows_the_formula():
    schedule = PolynomialDecay(0.2, 0.9, begin_step=10, end_step=110, power=3)
    for step in range(10, 111, 7):
        p = (step - 10) / 100
        assert schedule(step) == pytest.approx(0.9 + (0.2 - 0.9) * (1 - p) ** 3, abs=1e-12)


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


@each_schedule
def test_an_update_is_due_at_the_end_and_none_after(schedule):
    assert schedule.is_due(schedule.end_step)
    assert not any(schedule.is_due(schedule.end_step + i) for i in range(1, 30))


@each_schedule
def test_config_round_trip_through_json(schedule):
    config = json.loads(json.dumps(schedules.serialize(schedule)))
    again = schedules.deserialize(config)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    steps = range(30)
    assert [again(s) for s in steps] == [schedule(s) for s in steps]
    assert [again.is_due(s) for s in steps] == [schedule.is_due(s) for s in steps]


@each_schedule
def test_arguments_are_attributes_of_the_same_name(schedule):
    config = schedule.get_config()
    for name in config.keys() - {"function"}:
        assert getattr(schedule, name) == config[name]


@given(
    begin=st.integers(0, 50),
    span=st.integers(0, 200),
    frequency=st.integers(1, 60),
    every=st.integers(1, 17),
    final=st.floats(0.1, 1.0),
)
def test_hooks_however_coarse_reach_the_final_sparsity(begin, span, frequency, every, final):
    schedule = PolynomialDecay(0.1, final, begin, begin + span, frequency=frequency)
    last, reached = None, 0.0
    for now in range(0, begin + span + every + 1, every):
        due = schedule.last_due(now)
        if due is not None and due != last:
            last, reached = due, schedule(due)
    assert reached == final


@given(st.integers(0, 100), st.integers(1, 100), st.integers(1, 5))
def test_polynomial_never_falls_and_is_never_nan(begin, span, power):
    schedule = PolynomialDecay(0.05, 0.95, begin, begin + span, power=power)
    values = np.array([schedule(s) for s in range(begin + span + 5)])
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0).all()
    assert values[-1] == 0.95


def test_begin_equal_to_end_is_one_shot_and_not_nan():
    schedule = PolynomialDecay(0.0, 0.8, begin_step=5, end_step=5)
    assert [schedule(s) for s in (4, 5, 6)] == [0.0, 0.8, 0.8]
    assert [s for s in range(300) if schedule.is_due(s)] == [5]


def test_begin_step_0_acts_at_step_0():
    assert Constant(0.5).is_due(0)
    assert Constant(0.5)(0) == 0.5
    assert PolynomialDecay(0.3, 0.5, 0, 100)(0) == 0.3


def test_constant_without_end_is_due_for_ever():
    assert Constant(0.5, begin_step=5, frequency=10).last_due(10**9) == 10**9 - 5


def test_schedules_take_the_optimizers_counter():
    iterations = keras.optimizers.SGD().iterations
    iterations.assign(1500)
    value = PolynomialDecay(0.0, 0.8, 1000, 2000)(iterations)
    assert isinstance(value, float)
    assert value == pytest.approx(0.7)


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
        (lambda: PolynomialDecay(-0.1, 0.5, 0, 10), "initial_sparsity"),
        (lambda: PolynomialDecay(0.0, 50, 0, 10), "final_sparsity"),
        (lambda: PolynomialDecay(0.6, 0.5, 0, 10), "initial_sparsity"),
        (lambda: PolynomialDecay(0.0, 0.5, 10, 5), "end_step"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, -1), "end_step"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, power=0), "power"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, power=float("nan")), "power"),
        (lambda: OneShot(2, 0), "target_sparsity"),
        (lambda: OneShot(0.5, -3), "step"),
        (lambda: Function(0.5), "function"),
        (lambda: schedules.get("constant"), "schedule"),
        (lambda: schedules.get(Constant), "schedule"),
        (lambda: schedules.get(None), "schedule"),
    ],
)
def test_bad_values_raise_naming_the_argument(make, argument):
    with pytest.raises(ValueError, match=f"Argument `{argument}`.*Received: .*{argument}="):
        make()


def test_a_function_that_leaves_its_range_is_reported_with_the_step():
    schedule = Function(lambda step: step / 10)
    assert schedule(10) == 1.0
    with pytest.raises(ValueError, match="at step 11"):
        schedule(11)


def test_get_takes_instance_config_number_and_callable():
    one_shot = OneShot(0.5, 3)
    assert schedules.get(one_shot) is one_shot
    assert schedules.get(schedules.serialize(one_shot)).step == 3
    assert schedules.get(0.25).target_sparsity == 0.25
    assert schedules.get(tenth_per_step)(5) == 0.5


def test_deserialize_takes_a_config_without_module():
    config = {"class_name": "Constant", "config": {"target_sparsity": 0.5}}
    assert schedules.deserialize(config)(0) == 0.5


def test_a_schedule_of_ones_own_needs_one_method():
    class Half(schedules.Schedule):
        def sparsity_at(self, step):
            return 0.5

    assert [Half(begin_step=1)(s) for s in (0, 1)] == [0.0, 0.5]
