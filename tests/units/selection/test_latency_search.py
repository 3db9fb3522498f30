"""Latency: the search, with clocks that count units, and one run that measures."""

import numpy as np
import pytest

import tfprune
from tests.units.selection import models
from tfprune import budgets
from tfprune.units.prunable import PrunableUnits
from tfprune.units.selection.latency_search import steps_within_latency
from tfprune.units.selection.limits import least_kept
from tfprune.units.selection.ranking import UnreachableError
from tfprune.units.selection.removal_groups import removal_groups
from tfprune.units.selection.removal_steps import removal_steps


@pytest.fixture(scope="module")
def steps():
    units = PrunableUnits(models.made("plain"))
    groups = removal_groups(units, np.arange(float(units.coupling.size)))
    return removal_steps(units, groups, least_kept(units))


class Counting:
    """A clock by which a call takes as many milliseconds as there are units, and some noise."""

    def __init__(self, drift=lambda call: 1.0, noise=lambda call: 1.0, fixed=0):
        self.calls = 0
        self.drift, self.noise, self.fixed = drift, noise, fixed

    def __call__(self, kept):
        self.calls += 1
        now = self.drift(self.calls) / 1000
        return (
            now * (self.fixed + len(kept)),
            now * (self.fixed + kept.sum()) * self.noise(self.calls),
        )


@pytest.mark.parametrize("left", range(6, 14))
def test_bisection_finds_as_many_units_as_fit(steps, left):
    clock = Counting()
    size = len(steps.groups.group_of_unit)
    budget = budgets.Latency(left + 0.5, tolerance=1e-9)
    removed = steps_within_latency(steps, clock, budget, "global")
    assert steps.kept(removed).sum() == min(size, left)
    assert clock.calls <= 8 + 3
    # The ranking decides which.
    assert removed.tolist() == [True] * int(removed.sum()) + [False] * int((~removed).sum())


def test_a_fraction_is_of_the_dense_model(steps):
    size = len(steps.groups.group_of_unit)
    removed = steps_within_latency(
        steps, Counting(), budgets.Latency(fraction=0.75, tolerance=1e-9), "global"
    )
    assert steps.kept(removed).sum() == int(0.75 * size)


def test_a_slower_machine_in_the_middle_of_it_does_not_count(steps):
    slower = Counting(drift=lambda call: 1.0 if call < 4 else 3.0)
    removed = steps_within_latency(steps, slower, budgets.Latency(8.5, tolerance=1e-9), "global")
    assert steps.kept(removed).sum() == 8


def test_on_the_way_there_the_time_is_between(steps):
    size = len(steps.groups.group_of_unit)
    budget = budgets.Latency(float(size - 6), tolerance=1e-9)
    removed = steps_within_latency(steps, Counting(), budget, "global", progress=0.5)
    assert steps.kept(removed).sum() == size - 3


def test_an_unlucky_last_measurement_costs_a_few_units_more(steps):
    last = {"call": None}

    def noise(call):
        return 1.5 if call == last["call"] else 1.0

    quiet = Counting()
    budget = budgets.Latency(8.2)
    first = steps_within_latency(steps, quiet, budget, "global")
    last["call"] = quiet.calls
    again = steps_within_latency(steps, Counting(noise=noise), budget, "global")
    assert again.sum() == first.sum() + 1


def test_what_no_choice_reaches_is_an_error(steps):
    with pytest.raises(UnreachableError) as caught:
        steps_within_latency(steps, Counting(fixed=50), budgets.Latency(40.0), "global")
    assert caught.value.lowest > 0.05


def test_measuring_really():
    model = models.made("plain")
    with pytest.raises(ValueError, match=r"ms were measured.*Nothing was changed"):
        tfprune.prune_units(model, budgets.Latency(1e-6))
    assert not PrunableUnits(model).pruned().any()
    counts = tfprune.prune_units(model, budgets.Latency(1000.0), selection="greedy")
    assert [count.pruned for count in counts] == [0, 0]


def test_the_best_choice_of_what_is_measured_is_refused():
    with pytest.raises(ValueError, match=r"measured and not worked out.*another scope"):
        tfprune.prune_units(models.made("plain"), budgets.Latency(1.0), selection="exact")
