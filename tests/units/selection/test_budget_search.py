"""Budgets against brute force: met, tight, and the best there is."""

import itertools

import keras
import numpy as np
import pytest

import tfprune
from tests.units.selection import models
from tfprune import budgets, layers
from tfprune.coupling.costs import costs
from tfprune.coupling.kept_units import keeping
from tfprune.rebuild.engine import rebuild
from tfprune.units.prunable import PrunableUnits

COUNTS = {
    budgets.Parameters: lambda model: model.count_params(),
    budgets.MACs: lambda model: sum(cost.macs for cost in costs(model)),
    budgets.Bytes: lambda model: sum(np.asarray(w).nbytes for w in model.weights),
}
MEASURES = list(COUNTS)


def kept_units(units):
    return ~units.pruned()


def removals(units):
    """What could come back: for each layer a unit, or one of each group."""
    for unit_set in units.sets:
        groups = unit_set.units[None] if unit_set.groups is None else unit_set.groups
        gone = units.pruned()
        lost = [group[gone[group]] for group in groups]
        assert len({len(units) for units in lost}) == 1
        if len(lost[0]):  # those of a layer cost the same
            yield [units[0] for units in lost]


SCOPES = ["uniform", "global", "exact"]
NAMES = [name for name in models.ALL if name != "split"]


@pytest.mark.parametrize(
    ("name", "scope"),
    [(name, "greedy") for name in NAMES] + [(n, SCOPES[i % 3]) for i, n in enumerate(NAMES)],
)
def test_a_budget_is_met_and_nothing_more_could_stay(name, scope):
    measure = MEASURES[(NAMES.index(name) + len(scope)) % len(MEASURES)]
    model = models.made(name)
    allowed = int(0.6 * COUNTS[measure](model))
    tfprune.prune_units(model, measure(0.6), selection=scope)
    assert COUNTS[measure](tfprune.strip(model)) <= allowed
    units = PrunableUnits(model)
    kept, checked = kept_units(units), 0
    for back in removals(units):
        more = kept.copy()
        more[back] = True
        assert COUNTS[measure](rebuild(model, keeping(units.coupling, more))) > allowed
        checked += 1
    assert checked


COSTS = {}
"""For models by name and measures what choices cost, by how many units of each set they keep."""


def best_by_brute_force(model, values, measure, allowed):
    """The greatest sum of values over all choices of units that meet a budget."""
    units = PrunableUnits(model)
    best = -np.inf
    choices = [
        [c for n in range(1, len(s.units) + 1) for c in itertools.combinations(s.units.tolist(), n)]
        for s in units.sets
    ]
    cost_of = COSTS.setdefault((model.name, measure), {})
    everything = np.setdiff1d(
        np.arange(units.coupling.size), np.concatenate([s.units for s in units.sets])
    )
    for chosen in itertools.product(*choices):
        kept = np.zeros(units.coupling.size, bool)
        kept[everything] = True
        kept[list(itertools.chain(*chosen))] = True
        size = tuple(map(len, chosen))
        if size not in cost_of:  # units of one layer cost the same
            cost_of[size] = COUNTS[measure](rebuild(model, keeping(units.coupling, kept)))
        if cost_of[size] <= allowed:
            best = max(best, sum(values[u] for u in itertools.chain(*chosen)))
    return best


def small_chain():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="a"),
            layers.Dense(5, name="b"),
            layers.Dense(3, name="c"),
            layers.Dense(1, name="out"),
        ],
        name="chain",
    )


def small_residual():
    inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(4, 3, padding="same", name="a")(inputs)
    y = layers.Conv2D(4, 1, name="b")(x)
    x = x + layers.Conv2D(4, 3, padding="same", name="c")(y)
    return keras.Model(inputs, layers.Dense(1)(keras.layers.Flatten()(x)), name="residual")


def drawn(model, seed):
    """Scores by layer, and their values by unit, those of coupled layers summed."""
    draw = np.random.default_rng(seed)
    by_name, values = {}, {}
    for unit_set in PrunableUnits(model).sets:
        for layer in unit_set.layers:
            by_name[layer.name] = draw.integers(1, 50, len(unit_set.units)).astype(float)
        total = sum(by_name[layer.name] for layer in unit_set.layers)
        values.update(zip(unit_set.units.tolist(), total.tolist(), strict=True))
    return (lambda layer: by_name[layer.name]), values


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "measure"), [(small_chain, budgets.Parameters), (small_residual, budgets.MACs)]
)
def test_the_exact_choice_is_the_best_of_all(make, measure):
    for seed, share in [(0, 0.3), (1, 0.5), (2, 0.8)]:
        model = make()
        criterion, values = drawn(model, seed)
        allowed = int(share * COUNTS[measure](model))
        best = best_by_brute_force(model, values, measure, allowed)
        found = {}
        for scope in ("exact", "greedy", "global", "uniform"):
            model = make()
            tfprune.prune_units(model, measure(allowed), criterion, selection=scope)
            kept = kept_units(PrunableUnits(model))
            found[scope] = sum(value for unit, value in values.items() if kept[unit])
            assert COUNTS[measure](tfprune.strip(model)) <= allowed
        assert found["exact"] == best
        assert all(value <= best for value in found.values())
        assert found["greedy"] >= 0.8 * best


def test_the_greedy_choice_is_that_of_one_unit_after_another():
    model = small_chain()
    criterion, values = drawn(model, 4)
    units = PrunableUnits(model)
    kept = np.ones(units.coupling.size, bool)
    allowed = model.count_params() // 2

    def count(kept):
        return rebuild(model, keeping(units.coupling, kept)).count_params()

    order = []
    while count(kept) > allowed:  # by hand: the least importance for each parameter saved
        prices = {}
        for unit_set in units.sets:
            left = [u for u in unit_set.units.tolist() if kept[u]]
            unit = min(left, key=lambda u: values[u])
            if len(left) > 1:
                without = kept.copy()
                without[unit] = False
                prices[unit] = values[unit] / (count(kept) - count(without))
        order.append(min(prices, key=prices.get))
        kept[order[-1]] = False
    for unit in reversed(order):
        kept[unit] = True
        kept[unit] = count(kept) <= allowed
    tfprune.prune_units(model, budgets.Parameters(allowed), criterion, selection="greedy")
    assert kept_units(PrunableUnits(model)).tolist() == kept.tolist()


def test_the_global_choice_is_one_ranking():
    model = small_chain()
    criterion, values = drawn(model, 5)
    tfprune.prune_units(model, budgets.Units(7), criterion, selection="global")
    units = PrunableUnits(model)
    kept = kept_units(units)
    floors = {max(s.units.tolist(), key=lambda u: values[u]) for s in units.sets}
    ranked = sorted(
        (u for s in units.sets for u in s.units.tolist()),
        key=lambda u: (u not in floors, -values[u], -u),
    )
    assert {u for u in values if kept[u]} == set(ranked[:7])


def test_cheap_units_come_back_where_a_dear_one_left_room():
    few, many = keras.Input((2,)), keras.Input((50,))
    cheap = layers.Dense(4, name="cheap")(few)  # 4 parameters each
    dear = layers.Dense(4, name="dear")(many)  # 52 each
    outputs = layers.Dense(1)(keras.layers.Concatenate()([cheap, dear]))
    model = keras.Model([few, many], outputs)
    worth = {"cheap": 1.0, "dear": 10.0}
    counts = tfprune.prune_units(
        model,
        budgets.Parameters(180),
        lambda layer: worth[layer.name] + np.arange(layer.units),
        selection="global",
    )
    assert [(c.name, c.pruned) for c in counts] == [("cheap", 0), ("dear", 1)]
    assert tfprune.strip(model).count_params() == 4 * 4 + 3 * 52 + 1


def test_a_uniform_budget_takes_the_same_fraction_to_within_what_fits():
    model = models.made("plain")
    counts = tfprune.prune_units(model, budgets.Units(0.5))
    assert [(c.units, c.pruned) for c in counts] in ([(6, 3), (5, 3)], [(6, 4), (5, 2)])


@pytest.mark.parametrize("scope", ["uniform", "global", "greedy", "exact"])
def test_no_layer_is_emptied(scope):
    """Though all units of one layer are worth less than those of the others."""
    model = small_chain()
    worth = {"a": 1.0, "b": 100.0, "c": 10.0}
    tfprune.prune_units(
        model,
        budgets.Units(6),
        lambda layer: worth[layer.name] + np.arange(layer.units),
        selection=scope,
    )
    left = [c.units - c.pruned for c in PrunableUnits(model).counts()]
    assert min(left) >= 1 and sum(left) == 6
    assert [tfprune.strip(model).get_layer(n).units for n in "abc"] == left


def test_min_units_are_kept_by_every_scope():
    for scope in ("uniform", "global", "greedy", "exact"):
        model = small_chain()
        tfprune.prune_units(
            model, budgets.Units(9), selection=tfprune.Selection(scope, min_units=3)
        )
        assert [c.units - c.pruned for c in PrunableUnits(model).counts()] == [3, 3, 3]


@pytest.mark.parametrize("scope", ["uniform", "global", "greedy", "exact"])
def test_caps_hold_in_every_scope(scope):
    model = small_chain()
    worth = {"a": 10.0, "b": 1.0, "c": 30.0}  # `b` would go first

    def criterion(layer):
        return worth[layer.name] + np.arange(layer.units)

    caps = {"b": 0.2, (lambda layer: layer.name == "c"): 0.0}
    tfprune.prune_units(
        model, budgets.Units(9), criterion, selection=tfprune.Selection(scope, max_fraction=caps)
    )
    a, b, c = PrunableUnits(model).counts()
    assert (b.pruned, c.pruned) == (1, 0) and a.pruned == 2


def test_caps_of_a_fraction():
    model = small_chain()
    counts = tfprune.prune_units(model, 0.8, selection=tfprune.Selection(max_fraction={"b": 0.4}))
    assert [c.pruned for c in counts] == [3, 2, 2]
    with pytest.raises(ValueError, match="names a layer none of whose units.*'out'"):
        tfprune.prune_units(model, 0.8, selection=tfprune.Selection(max_fraction={"out": 0.4}))
    with pytest.raises(ValueError, match="`max_fraction` must be a layer of the model.*'no'"):
        tfprune.prune_units(model, 0.8, selection=tfprune.Selection(max_fraction={"no": 0.4}))


@pytest.mark.parametrize("scope", ["uniform", "global", "greedy", "exact"])
def test_an_unreachable_budget_says_what_can_be_reached_and_changes_nothing(scope):
    model = small_chain()
    least = 2 * 4 + 1 * 3 * 2 + 3 * 2 + 3  # two units in each: (3+1)2 + (2+1)2 + (2+1)2 + 2+1
    with pytest.raises(ValueError, match=rf"cannot be met.*{least} parameters.*`min_units`"):
        tfprune.prune_units(
            model, budgets.Parameters(least - 1), selection=tfprune.Selection(scope, min_units=2)
        )
    assert all(c.pruned == 0 for c in PrunableUnits(model).counts())
    tfprune.prune_units(
        model, budgets.Parameters(least), selection=tfprune.Selection(scope, min_units=2)
    )
    assert tfprune.strip(model).count_params() == least


def test_the_dense_model_is_that_without_any_pruning():
    model = models.made("plain")
    dense = model.count_params()
    tfprune.prune_units(model, 0.3)
    tfprune.prune_units(model, budgets.Parameters(0.5), selection="global")
    assert 0.4 * dense < tfprune.strip(model).count_params() <= 0.5 * dense


def test_what_is_pruned_stays_so_and_what_fits_is_left_alone():
    model = models.made("plain")
    tfprune.prune_units(model, budgets.Parameters(0.5), tfprune.criteria.Random(seed=1))
    first = kept_units(PrunableUnits(model))
    tfprune.prune_units(
        model, budgets.Parameters(0.5), tfprune.criteria.Random(seed=2), selection="global"
    )
    assert kept_units(PrunableUnits(model)).tolist() == first.tolist()
    tfprune.prune_units(
        model, budgets.Parameters(0.3), tfprune.criteria.Random(seed=3), selection="global"
    )
    second = kept_units(PrunableUnits(model))
    assert (second <= first).all() and (second < first).any()


def test_frozen_and_excluded_units_stay():
    model = small_chain()
    tfprune.set_masks(model, "b", "bias", frozen=[0, 1, 2])
    counts = tfprune.prune_units(model, budgets.Units(4), exclude=["a"], selection="global")
    assert [(c.name, c.pruned) for c in counts] == [("b", 2), ("c", 2)]
    assert np.asarray(model.get_layer("b").trainable_masks["bias"])[:3].all()
    assert np.asarray(model.get_layer("a").trainable_masks["bias"]).all()


def test_ties_go_by_place():
    model = small_chain()
    tfprune.prune_units(
        model, budgets.Units(9), lambda layer: np.ones(layer.units), selection="global"
    )
    gone = ~np.asarray(model.get_layer("a").trainable_masks["bias"])
    assert gone.tolist() == [True, True, True, False]


def test_the_best_choice_is_refused_for_large_models():
    wide = [layers.Dense(120, name=f"wide_{i}") for i in range(4)]
    model = keras.Sequential([keras.Input((3,)), *wide, layers.Dense(1)])
    with pytest.raises(ValueError, match=r"too large.*selection='greedy'"):
        tfprune.prune_units(model, budgets.Parameters(0.5), selection="exact")


def test_a_half_of_a_split_keeps_a_unit():
    for scope in ("global", "greedy", "exact"):
        model = models.made("split")
        tfprune.prune_units(
            model,
            budgets.Parameters(0.35),
            lambda layer: np.arange(1.0, layer.units + 1),
            selection=scope,
        )
        kept = np.asarray(model.get_layer("wide").trainable_masks["bias"])
        assert kept[:3].any() and kept[3:].any()
        assert tfprune.strip(model).count_params() <= 0.35 * model.count_params()
