"""The latency from a table: interpolation, and what it is when units go."""

import functools

import keras
import numpy as np
import pytest

import tfprune
from tests.units.selection import formulas, models
from tfprune import Selection, budgets
from tfprune.coupling.kept_units import keeping
from tfprune.measuring.pieces import Pieces
from tfprune.rebuild.engine import rebuild
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores
from tfprune.units.selection.latency_costs import CostsOfLatency
from tfprune.units.selection.latency_table_search import units_by_table
from tfprune.units.selection.paying_widths import multiples_that_pay
from tfprune.units.selection.ranking import UnreachableError
from tfprune.units.selection.removal_groups import removal_groups
from tfprune.units.selection.removal_steps import removal_steps

L = tfprune.layers


@functools.cache
def network(name="wide"):
    if name != "wide":
        return models.made(name)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = stem = L.Conv2D(48, 1, activation="relu", name="stem")(inputs)
    x = L.Conv2D(96, 1, use_bias=False, name="expand")(x)
    x = L.ReLU()(L.BatchNormalization()(x))
    x = L.Conv2D(48, 1, name="project")(x) + stem
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(5, name="head")(x))


def costs_of(name, table=None):
    units = PrunableUnits(network(name))
    groups = removal_groups(units, np.random.default_rng(0).random(units.coupling.size))
    return units, groups, CostsOfLatency(units, groups, table or formulas.table())


def kept_at_random(units, groups, generator):
    stays = (generator.random(len(groups.removed)) < generator.random()) | ~groups.removable
    kept = stays[groups.group_of_unit]
    for unit_set in units.sets:
        if not kept[unit_set.units].any():
            kept[groups.group_of_unit == groups.group_of_unit[unit_set.units].max()] = True
    return kept


def truth(units, kept):
    """The nanoseconds of all pieces of the model that is left, by the formula."""
    model = rebuild(units.model, keeping(units.coupling, kept))
    pieces = Pieces(model, tfprune.coupling.couple(model))
    every = np.ones(pieces._coupling.size, bool)
    found = [formulas.product(pieces.small_model(piece, every)) for piece in pieces.all]
    return 1e9 * sum(found)


@pytest.mark.parametrize("name", ["wide", "plain", "residual", "concat"])
@pytest.mark.parametrize("seed", range(3))
def test_the_sum_of_pieces_is_that_of_the_model_that_is_left(name, seed):
    units, groups, costs = costs_of(name)
    generator = np.random.default_rng(seed)
    for _ in range(4):
        kept = kept_at_random(units, groups, generator)
        # Exact where a piece has a grid of its own along each dimension, and above its lowest end.
        smallest = min(kept[s.units].mean() for s in units.sets)
        expected = truth(units, kept)
        if smallest >= 0.5:
            assert costs.of(kept) == pytest.approx(expected, rel=0.06 if name != "wide" else 0.02)
        assert 0 < costs.of(kept) <= costs.dense * (1 + 1e-9)
    assert costs.dense == pytest.approx(truth(units, np.ones(units.coupling.size, bool)), rel=1e-6)


@pytest.mark.parametrize("name", ["wide", "grouped", "concat", "recurrent", "attention"])
def test_terms_do_not_depend_on_what_was_asked_before(name):
    units, groups, costs = costs_of(name)
    generator = np.random.default_rng(1)
    asked = [kept_at_random(units, groups, generator) for _ in range(5)]
    found = [costs.of(kept) for kept in asked]
    assert [costs.of(kept) for kept in reversed(asked)] == found[::-1]


@pytest.mark.parametrize("name", ["wide", "grouped", "concat", "recurrent", "attention"])
def test_terms_depend_on_no_other_units_than_they_say(name):
    units, groups, costs = costs_of(name)
    before = costs.terms(np.ones(units.coupling.size, bool))
    for group in np.flatnonzero(groups.removable):
        kept = groups.group_of_unit != group
        changed = np.flatnonzero(costs.terms(kept) != before)
        for term in changed:
            assert set(np.flatnonzero(~kept)) & set(costs.depends()[term])


def test_what_cannot_be_measured_costs_what_its_multiply_accumulates_cost():
    whole = costs_of("wide")[2]
    table = formulas.table(
        lambda model: None if '"filters": 96' in model.key else formulas.product(model)
    )
    units, _, costs = costs_of("wide", table)
    assert costs.unmeasured == ("expand",)
    half = np.ones(units.coupling.size, bool)
    (expand,) = (s for s in units.sets if s.name == "expand")
    half[expand.units[::2]] = False
    index = [grid.piece.operation.name for grid in costs.grids].index("expand")
    dense = costs.terms(np.ones(units.coupling.size, bool))[index]
    assert costs.terms(half)[index] == pytest.approx(dense / 2, rel=1e-3)
    others = [g for g in whole.grids if g.piece.macs and g.piece.operation.name != "expand"]
    speed = 1e9 * sum(g.dense for g in others) / sum(g.piece.macs for g in others)
    assert dense == pytest.approx(speed * costs.grids[index].piece.macs, rel=0.01)


def test_more_units_never_take_less():
    noise = np.random.default_rng(0)
    table = formulas.table(lambda model: formulas.product(model) * noise.uniform(0.2, 5.0))
    units, groups, costs = costs_of("wide", table)
    kept = np.ones(units.coupling.size, bool)
    last = costs.dense
    for group in np.flatnonzero(groups.removable):
        kept[groups.group_of_unit == group] = False
        assert costs.of(kept) <= last
        last = costs.of(kept)


# Widths that pay ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [4, 8, 16])
def test_the_multiple_is_that_of_the_kernels(step):
    units, groups, costs = costs_of("wide", formulas.table(formulas.staircase(step)))
    names = [unit_set.name for unit_set in units.sets]
    found = dict(zip(names, multiples_that_pay(units, groups, costs).tolist(), strict=True))
    assert found["expand"] == step


def test_where_kernels_make_no_steps_all_widths_pay():
    units, groups, costs = costs_of("wide")
    assert multiples_that_pay(units, groups, costs).tolist() == [1] * len(units.sets)


# The search --------------------------------------------------------------------------------------


def searched(budget, measured, steps=40):
    """Searches among 40 units of which each takes the same; `measured` is the true time."""
    table = type("Costs", (), {"dense": 1000 * steps, "of": lambda self, kept: 1000 * kept.sum()})

    def select(allowed):
        if allowed < 1000:
            raise UnreachableError("The budget cannot be met.", 1000)
        return np.arange(steps) < allowed // 1000

    asked = []

    def timer(kept):
        asked.append(int(kept.sum()))
        return measured(steps), measured(int(kept.sum()))

    every, fewest = np.ones(steps, bool), np.arange(steps) < 1
    return units_by_table(select, every, fewest, table(), timer, budget), asked


@pytest.mark.parametrize(("fixed", "each"), [(0, 1.0), (10, 1.0), (30, 0.5), (0, 3.0)])
def test_a_fixed_part_and_a_factor_are_found_in_a_few_measurements(fixed, each):
    kept, asked = searched(budgets.Latency(fraction=0.7), lambda count: fixed + each * count)
    dense = fixed + 40 * each
    assert abs((fixed + each * kept.sum()) / dense - 0.7) <= 0.05 * 0.7 + each / dense
    assert len(asked) <= 4


def test_of_what_was_timed_the_slowest_within_the_budget_is_taken():
    kept, asked = searched(budgets.Latency(fraction=0.5), lambda count: 2.0 if count > 30 else 0.9)
    assert 1 <= kept.sum() <= 30
    assert kept.sum() == max(count for count in asked if count <= 30)
    assert len(asked) > 2


def test_what_is_met_already_loses_nothing():
    kept, asked = searched(budgets.Latency(50_000.0), lambda count: count)
    assert kept.all()
    assert asked == [40]


def test_what_is_never_met_is_an_error_with_the_least_that_was_measured():
    with pytest.raises(UnreachableError) as caught:
        searched(budgets.Latency(fraction=0.1), lambda count: 100 + count)
    assert 101 <= caught.value.lowest <= 105


# By the public face ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The path of a table that was "measured" elsewhere."""
    units, groups, costs = costs_of("wide", table := formulas.table(formulas.staircase(8)))
    multiples_that_pay(units, groups, costs)
    path = tmp_path_factory.mktemp("tables") / "phone.json"
    table.write(path)
    return path


def pruned(device, selection, fraction=0.5):
    model = keras.models.clone_model(network())
    model.set_weights(network().get_weights())
    budget = budgets.Latency(fraction=fraction, runtime="litert", table=device)
    tfprune.prune_units(model, budget, "magnitude", selection=selection)
    units = PrunableUnits(model)
    kept = ~units.pruned()
    groups = removal_groups(units)
    costs = CostsOfLatency(units, groups, formulas.table(formulas.staircase(8)))
    return units, kept, costs.of(kept) / costs.dense


@pytest.mark.parametrize("scope", ["uniform", "global", "greedy", "exact"])
def test_a_budget_is_met_by_the_table_of_another_device(device, scope):
    _, _, share = pruned(device, Selection(scope, round_to=8))
    assert 0.3 < share <= 0.5


def test_the_best_choice_keeps_no_less_than_the_greedy_one(device):
    units = PrunableUnits(network())
    scores = UnitScores("magnitude").of(units)
    prunable = np.concatenate([unit_set.units for unit_set in units.sets])
    importance = []
    for scope in ("exact", "greedy"):
        _, kept, _ = pruned(device, Selection(scope, round_to="auto"))
        importance.append(scores[prunable][kept[prunable]].sum())
    assert importance[0] >= importance[1]


def test_widths_are_found_by_themselves(device):
    units, kept, _ = pruned(device, Selection("greedy", round_to="auto"))
    counts = {unit_set.name: int(kept[unit_set.units].sum()) for unit_set in units.sets}
    assert any(counts[s.name] < len(s.units) for s in units.sets)
    assert all(count % 8 == 0 or count == 4 for count in counts.values())


def test_below_the_multiple_a_layer_keeps_a_half_or_a_quarter():
    units = PrunableUnits(network())
    groups = removal_groups(units, np.arange(float(units.coupling.size)))
    least = np.ones(len(units.sets), int)
    own = removal_steps(units, groups, least, np.full(len(units.sets), 16))
    (row,) = (row for row, each in enumerate(units.sets) if each.name == "expand")
    removed, found = np.zeros(len(own), bool), []
    for step in np.flatnonzero(groups.members[[row]].toarray()[0][own.deciding_group] > 0):
        removed[step] = True
        found.append(int(own.kept(removed)[units.sets[row].units].sum()))
    assert found == [80, 64, 48, 32, 16, 8, 4]


@pytest.mark.parametrize(
    ("target", "selection", "message"),
    [
        (0.5, Selection("greedy", round_to="auto"), "LiteRT or ONNX Runtime alone"),
        (budgets.MACs(0.5), Selection(round_to="auto"), "LiteRT or ONNX Runtime alone"),
        (budgets.Latency(1.0), Selection(round_to="auto"), "LiteRT or ONNX Runtime alone"),
        (budgets.Latency(1.0), Selection("exact"), "measured and not worked out"),
    ],
)
def test_what_no_table_serves_is_refused(target, selection, message):
    model = keras.models.clone_model(network())
    with pytest.raises(ValueError, match=message):
        tfprune.prune_units(model, target, selection=selection)
    assert not PrunableUnits(model).pruned().any()


def test_a_table_is_of_a_runtime_that_has_one():
    with pytest.raises(ValueError, match="`table` must be None but for"):
        budgets.Latency(1.0, table="phone.json")


@pytest.mark.slow
def test_measured_really(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    inputs = keras.Input((32, 32, 3))
    x = L.Conv2D(64, 3, activation="relu", name="a")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(L.Conv2D(64, 3, activation="relu", name="b")(x))
    model = keras.Model(inputs, L.Dense(4)(x))
    budget = budgets.Latency(fraction=0.6, runtime="onnx", tolerance=0.3)
    small = tfprune.prune(model, budget, criterion="magnitude", selection="greedy", recover=None)
    assert small.count_params() < model.count_params()
    assert len(list((tmp_path / "tfprune" / "latency").iterdir())) == 1
