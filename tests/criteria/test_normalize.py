"""Scores that are divided in each set of units, so that sets can be ranked together."""

import keras
import numpy as np
import pytest

import tfprune
from tests.criteria.models import scores
from tfprune import layers
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores


@pytest.mark.parametrize("normalize", [None, "mean", "max", "sum", "l2"])
def test_scores_are_divided_in_each_set(normalize):
    model = keras.Sequential(
        [keras.Input((1,)), *(layers.Dense(3, use_bias=False, name=n) for n in "ab")]
    )
    model.add(layers.Dense(1, use_bias=False, name="out"))
    model.get_layer("a").kernel.assign([[3.0, 0.0, -4.0]])
    units = PrunableUnits(model)
    by = {None: 1.0, "mean": 7 / 3, "max": 4.0, "sum": 7.0, "l2": 5.0}[normalize]
    found = UnitScores(tfprune.criteria.Magnitude(normalize=normalize)).of(units)[
        units.sets[0].units
    ]
    np.testing.assert_allclose(found, np.array([3.0, 0.0, 4.0]) / by)


def test_normalised_scores_can_be_ranked_together():
    """One layer is a hundred times the other: without, all that goes first stands in the other."""
    model = keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=n) for n in "ab")])
    model.add(layers.Dense(1, name="out"))
    model.get_layer("a").kernel.assign(100 * np.diag([1.0, 2.0, 3.0, 4.0]))
    model.get_layer("b").kernel.assign(np.diag([1.0, 2.0, 3.0, 4.0]))
    units = PrunableUnits(model)
    a, b = (s.units for s in units.sets)
    plain = UnitScores("magnitude").of(units)
    assert plain[b].max() < plain[a].min()
    fair = UnitScores(tfprune.criteria.Magnitude(normalize="mean")).of(units)
    np.testing.assert_allclose(fair[a], fair[b], rtol=1e-6)


def test_what_is_pruned_already_does_not_count_in_the_normaliser():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(3, use_bias=False), layers.Dense(1)])
    model.layers[0].kernel.assign([[3.0, 1.0, 5.0]])
    tfprune.prune_units(model, 0.4)
    units = PrunableUnits(model)
    found = UnitScores(tfprune.criteria.Magnitude(normalize="mean")).of(units)[units.sets[0].units]
    np.testing.assert_allclose(found, [0.75, 0.0, 1.25])


def test_sets_of_zeros_stay_zeros():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(3, use_bias=False), layers.Dense(1)])
    model.layers[0].kernel.assign(np.zeros((1, 3)))
    assert scores(model, "magnitude", normalize="mean").tolist() == [0.0] * 3
