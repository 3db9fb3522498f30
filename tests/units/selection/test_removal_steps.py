"""Kept units in multiples: the nearest for a fraction, never above a budget."""

import math

import keras
import numpy as np
import pytest

import tfprune
from tests.units.selection import models
from tfprune import budgets, layers
from tfprune.coupling.kept_units import keeping
from tfprune.rebuild.engine import rebuild
from tfprune.units.prunable import PrunableUnits

SIZES = [3, 8, 10, 14, 16, 20]


def dense_layers(sizes=SIZES):
    wide = [layers.Dense(size, name=f"d{place}") for place, size in enumerate(sizes)]
    return keras.Sequential([keras.Input((2,)), *wide, layers.Dense(1)])


def rising(layer):
    return np.arange(1.0, layer.units + 1)


def kept(counts):
    return [count.units - count.pruned for count in counts]


def nearest(size, pruned, round_to, least=1):
    """By hand: what is kept of a layer of which so many units would go."""
    wanted = size - pruned
    multiple = math.floor(wanted / round_to + 0.5) * round_to
    multiple = max(multiple, math.ceil(least / round_to) * round_to)
    return size if pruned == 0 or multiple > size else multiple


@pytest.mark.parametrize("round_to", [2, 3, 4, 8])
def test_a_fraction_keeps_the_nearest_multiple_of_each_layer(round_to):
    for target in (0.1, 0.25, 0.3, 0.4, 0.5, 0.75, 0.9):
        counts = tfprune.prune_units(
            dense_layers(), target, rising, selection=tfprune.Selection(round_to=round_to)
        )
        before = [min(round(target * size), size - 1) for size in SIZES]
        by_hand = [nearest(s, b, round_to) for s, b in zip(SIZES, before, strict=True)]
        assert kept(counts) == by_hand, target


def test_it_is_no_rounding_down_and_a_tie_keeps_the_larger():
    def left(target):
        return kept(
            tfprune.prune_units(
                dense_layers([10]), target, rising, selection=tfprune.Selection(round_to=4)
            )
        )

    assert [left(t) for t in (0.0, 0.1, 0.3, 0.4, 0.5, 0.8)] == [[10], [8], [8], [8], [4], [4]]


def test_a_global_fraction_is_rounded_in_each_layer():
    criterion = {"d0": np.arange(12) * 1.0, "d1": np.arange(12) * 2.0}
    model = dense_layers([12, 12])
    counts = tfprune.prune_units(
        model,
        0.5,
        lambda layer: criterion[layer.name],
        selection=tfprune.Selection("global", round_to=4),
    )
    # Of both rankings the lowest 12: 8 of d0, and 4 of d1.
    assert kept(counts) == [4, 8]


def test_min_units_and_caps_are_rounded_up():
    counts = tfprune.prune_units(
        dense_layers([12]), 0.9, rising, selection=tfprune.Selection(round_to=4, min_units=5)
    )
    assert kept(counts) == [8]
    counts = tfprune.prune_units(
        dense_layers([12]), 0.9, rising, selection=tfprune.Selection(round_to=4, max_fraction=0.3)
    )
    assert kept(counts) == [12]


@pytest.mark.parametrize("scope", ["uniform", "global", "greedy", "exact"])
def test_under_a_budget_multiples_go_until_it_is_met(scope):
    model = dense_layers([8, 12, 16])
    allowed = model.count_params() // 2
    counts = tfprune.prune_units(
        model, budgets.Parameters(0.5), selection=tfprune.Selection(scope, round_to=4)
    )
    assert all(k % 4 == 0 for k in kept(counts))
    assert tfprune.strip(model).count_params() <= allowed
    units = PrunableUnits(model)
    gone = units.pruned()
    for unit_set in units.sets:
        lost = unit_set.units[gone[unit_set.units]]
        if len(lost):
            more = ~gone
            more[lost[:4]] = True
            assert rebuild(model, keeping(units.coupling, more)).count_params() > allowed


def test_layers_in_groups_keep_multiples():
    model = models.made("grouped")
    before, grouped = tfprune.prune_units(
        model, budgets.Parameters(0.7), selection=tfprune.Selection(round_to=4)
    )
    assert (before.units - before.pruned) % 4 == 0
    assert grouped.units - grouped.pruned in (4, 6)
    small = tfprune.strip(model)
    assert small.get_layer("before").filters == before.units - before.pruned


@pytest.mark.parametrize("round_to", [0, -1, 1.5, True, "8"])
def test_a_bad_multiple_is_named(round_to):
    with pytest.raises(ValueError, match="`round_to`"):
        tfprune.prune_units(dense_layers([4]), 0.5, selection=tfprune.Selection(round_to=round_to))


@pytest.mark.parametrize("max_fraction", [-0.1, 1.1, True, {"d0": 2}, "half"])
def test_a_bad_cap_is_named(max_fraction):
    with pytest.raises(ValueError, match="`max_fraction`"):
        tfprune.prune_units(
            dense_layers([4]), 0.5, selection=tfprune.Selection(max_fraction=max_fraction)
        )


def test_a_bad_scope_is_named():
    with pytest.raises(ValueError, match=r"`selection` must be one of.*greedy"):
        tfprune.prune_units(dense_layers([4]), 0.5, selection="best")
