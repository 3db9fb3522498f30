import fractions
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune import schedules
from tfprune.schedules import Constant, Function, InSteps, Linear, OneShot, PolynomialDecay


def test_begin_step_0_acts_at_step_0():
    assert Constant(0.5).is_due(0)
    assert Constant(0.5)(0) == 0.5
    assert PolynomialDecay(0.3, 0.5, 0, 100)(0) == 0.3


def test_constant_without_end_is_due_for_ever():
    assert Constant(0.5, begin_step=5, frequency=10).last_due(10**9) == 10**9 - 5


def test_updates_are_due_every_100_steps_or_every_epoch_by_default():
    assert [s for s in range(301) if Constant(0.5).is_due(s)] == [0, 100, 200, 300]
    halves = [e / 2 for e in range(7)]
    assert [e for e in halves if Constant(0.5, unit="epoch").is_due(e)] == [0, 1, 2, 3]


def test_a_function_that_leaves_its_range_is_reported_with_the_step():
    schedule = Function(lambda step: step / 10)
    assert schedule(10) == 1.0
    with pytest.raises(ValueError, match="at step 11"):
        schedule(11)
    with pytest.raises(ValueError, match="at epoch 1.5"):
        Function(lambda epoch: epoch, unit="epoch")(1.5)


def test_a_function_of_the_epoch_is_asked_for_the_epoch():
    asked = []

    def function(epoch):
        asked.append(epoch)
        return 0.5

    schedule = Function(function, unit="epoch").in_steps(4)
    assert [schedule(step) for step in (0, 3, 6)] == [0.5] * 3
    assert asked == [0, 0.75, 1.5]


def test_a_schedule_of_ones_own_needs_one_method():
    class Half(schedules.Schedule):
        def sparsity_at(self, step):
            return 0.5

    assert [Half(begin_step=1)(s) for s in (0, 1)] == [0.0, 0.5]
    in_steps = Half(begin_step=1, unit="epoch").in_steps(3)
    assert [in_steps(s) for s in (2, 3)] == [0.0, 0.5]


def test_tenths_of_epochs_are_tenths_and_not_binary_fractions():
    schedule = Linear(0.0, 0.8, 0, 0.3, frequency=0.1, unit="epoch")
    assert [step for step in range(20) if schedule.in_steps(10).is_due(step)] == [0, 1, 2, 3]
    assert schedule(0.1 + 0.2) == schedule(0.3) == 0.8
    assert schedule.is_due(0.1 + 0.2)


@given(
    begin=st.fractions(0, 3, max_denominator=60),
    span=st.fractions(0, 5, max_denominator=60),
    frequency=st.fractions(fractions.Fraction(1, 60), 2, max_denominator=60),
    steps=st.integers(1, 30),
)
def test_an_update_between_two_steps_is_due_at_the_later_one(begin, span, frequency, steps):
    end = begin + span
    times = [begin + i * frequency for i in range(math.floor(span / frequency) + 1)] + [end]
    truth = sorted({math.ceil(time * steps) for time in times})
    schedule = Linear(
        0.0, 0.8, float(begin), float(end), frequency=float(frequency), unit="epoch"
    ).in_steps(steps)
    assert [s for s in range(math.ceil(end * steps) + 5) if schedule.is_due(s)] == truth


def test_steps_per_epoch_need_not_be_whole():
    schedule = OneShot(0.5, step=2, unit="epoch").in_steps(12 / 5)
    assert [s for s in range(20) if schedule.is_due(s)] == [5]  # epoch 2 begins at step 4.8


def test_repr_shows_what_is_inside():
    schedule = InSteps(OneShot(0.5, 1.5, unit="epoch"), 10)
    inside = "OneShot(target_sparsity=0.5, step=1.5, unit='epoch')"
    assert repr(schedule) == f"InSteps(schedule={inside}, steps_per_epoch=10)"
