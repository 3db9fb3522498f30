"""Latency: the search, with clocks that count units, and one run that measures."""

import numpy as np
import pytest

import tfprune
from tests.units.selection import models
from tfprune import budgets
from tfprune.units.prunable import PrunableUnits
from tfprune.units.selection.latency_search import meet_in_time
from tfprune.units.selection.limits import least_kept
from tfprune.units.selection.ranking import UnreachableError
from tfprune.units.selection.removal_groups import bundled
from tfprune.units.selection.removal_steps import steps_of


@pytest.fixture(scope="module")
def steps():
    units = PrunableUnits(models.made("plain"))
    bundles = bundled(units, np.arange(float(units.coupling.size)))
    return steps_of(units, bundles, least_kept(units))


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
    size = len(steps.bundles.of_unit)
    budget = budgets.Latency(left + 0.5, tolerance=1e-9)
    gone = meet_in_time(steps, clock, budget, "global")
    assert steps.kept(gone).sum() == min(size, left)
    assert clock.calls <= 8 + 3
    # The ranking decides which.
    assert gone.tolist() == [True] * int(gone.sum()) + [False] * int((~gone).sum())


def test_a_fraction_is_of_the_dense_model(steps):
    size = len(steps.bundles.of_unit)
    gone = meet_in_time(steps, Counting(), budgets.Latency(fraction=0.75, tolerance=1e-9), "global")
    assert steps.kept(gone).sum() == int(0.75 * size)


def test_a_slower_machine_in_the_middle_of_it_does_not_count(steps):
    slower = Counting(drift=lambda call: 1.0 if call < 4 else 3.0)
    gone = meet_in_time(steps, slower, budgets.Latency(8.5, tolerance=1e-9), "global")
    assert steps.kept(gone).sum() == 8


def test_on_the_way_there_the_time_is_between(steps):
    size = len(steps.bundles.of_unit)
    budget = budgets.Latency(float(size - 6), tolerance=1e-9)
    gone = meet_in_time(steps, Counting(), budget, "global", progress=0.5)
    assert steps.kept(gone).sum() == size - 3


def test_an_unlucky_last_measurement_costs_a_few_units_more(steps):
    last = {"call": None}

    def noise(call):
        return 1.5 if call == last["call"] else 1.0

    quiet = Counting()
    budget = budgets.Latency(8.2)
    first = meet_in_time(steps, quiet, budget, "global")
    last["call"] = quiet.calls
    again = meet_in_time(steps, Counting(noise=noise), budget, "global")
    assert again.sum() == first.sum() + 1


def test_what_no_choice_reaches_is_an_error(steps):
    with pytest.raises(UnreachableError) as caught:
        meet_in_time(steps, Counting(fixed=50), budgets.Latency(40.0), "global")
    assert caught.value.least > 0.05


def test_measuring_really():
    model = models.made("plain")
    with pytest.raises(ValueError, match=r"ms were measured.*Nothing was changed"):
        tfprune.prune_units(model, budgets.Latency(1e-6))
    assert not PrunableUnits(model).pruned().any()
    counts = tfprune.prune_units(model, budgets.Latency(1000.0), scope="greedy")
    assert [count.pruned for count in counts] == [0, 0]


def test_the_best_choice_of_what_is_measured_is_refused():
    with pytest.raises(ValueError, match=r"measured and not worked out.*another scope"):
        tfprune.prune_units(models.made("plain"), budgets.Latency(1.0), scope="exact")
