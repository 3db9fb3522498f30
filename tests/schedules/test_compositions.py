import numpy as np
import pytest

from tfprune.schedules import Chain, Constant, Function, Linear, OneShot, Periodic


def due(schedule, count):
    return [step for step in range(count) if schedule.is_due(step)]


def test_a_period_repeats_the_schedule():
    rise = Linear(0.1, 0.8, begin_step=2, end_step=6, frequency=3)
    schedule = Periodic(rise, period=8)
    truth = np.interp(np.arange(8), [2, 6], [0.1, 0.8]) * (np.arange(8) >= 2)
    assert [schedule(step) for step in range(80)] == pytest.approx([*truth] * 10)


def test_updates_of_a_cycle_are_due_in_each_and_where_it_begins_anew():
    schedule = Periodic(Linear(0.1, 0.8, 2, 6, frequency=3), period=8)
    assert due(schedule, 25) == [2, 5, 6, 8, 10, 13, 14, 16, 18, 21, 22, 24]


def test_the_last_cycle_has_no_end():
    schedule = Periodic(Linear(0.1, 0.8, 2, 6, frequency=3), period=8, cycles=2)
    assert schedule.end_step == 14
    assert due(schedule, 100) == [2, 5, 6, 8, 10, 13, 14]
    assert {schedule(step) for step in range(14, 100)} == {0.8}


def test_a_schedule_without_end_can_have_cycles():
    schedule = Periodic(Function(lambda step: step / 10, frequency=2), period=4, cycles=2)
    assert [schedule(step) for step in range(11)] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    )
    assert due(schedule, 11) == [0, 2, 4, 6, 8, 10]


def test_cycles_without_a_step_between_them_are_refused():
    schedule = Periodic(Linear(0.0, 0.8, 0, 0.9, unit="epoch"), period=1)
    assert schedule.in_steps(10)(9) == 0.8
    chain = Chain([schedule, OneShot(0.9, 0, unit="epoch")], [20])
    for composed in (schedule, chain, Periodic(chain, 30)):
        with pytest.raises(ValueError, match="Argument `period` must be at least one step more"):
            composed.in_steps(9)


def test_a_chain_hands_over_at_its_boundaries():
    first, last = Linear(0.0, 0.5, 0, 10), Linear(0.5, 0.9, 0, 20)
    schedule = Chain([first, Constant(0.5), last], boundaries=[10, 30])
    truth = np.interp(np.arange(80), [0, 10, 30, 50], [0.0, 0.5, 0.5, 0.9])
    assert [schedule(step) for step in range(80)] == pytest.approx([*truth])


def test_updates_of_a_chain_are_due_where_the_active_one_says_and_at_boundaries():
    schedule = Chain(
        [Linear(0.0, 0.5, 1, 10, frequency=4), Linear(0.5, 0.9, 3, 12, frequency=7)], [8]
    )
    assert due(schedule, 60) == [1, 5, 8, 11, 18, 20]
    assert schedule.end_step == 20


def test_until_a_schedule_begins_the_one_before_leaves_what_it_came_to():
    waits = Linear(0.6, 0.9, 5, 10)
    schedule = Chain([Linear(0.0, 0.5, 0, 10), waits, waits], boundaries=[10, 12])
    assert [schedule(step) for step in (10, 11, 12, 16, 17, 22)] == pytest.approx(
        [0.5, 0.5, 0.5, 0.5, 0.6, 0.9]
    )


def test_a_chain_that_is_cut_before_it_begins_is_dense_until_its_boundary():
    schedule = Chain([Linear(0.1, 0.5, 9, 10), OneShot(0.8, 2)], boundaries=[4])
    assert [schedule(step) for step in range(8)] == [0.0] * 6 + [0.8] * 2
    assert due(schedule, 10) == [4, 6]


def test_one_schedule_makes_a_chain():
    line = Linear(0.1, 0.5, 2, 9, frequency=3)
    chain = Chain([line], [])
    assert [chain(s) for s in range(20)] == [line(s) for s in range(20)]
    assert due(chain, 20) == due(line, 20)


def test_compositions_nest():
    cycle = Chain([Linear(0.0, 0.5, 0, 3, frequency=1), OneShot(0.7, 1)], [4])
    schedule = Chain([Periodic(cycle, 6), Constant(0.9, frequency=50)], [12])
    rise = [0.0, 0.5 / 3, 1 / 3, 0.5, 0.5, 0.7]
    assert [schedule(step) for step in range(14)] == pytest.approx([*rise, *rise, 0.9, 0.9])
    assert due(schedule, 30) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
