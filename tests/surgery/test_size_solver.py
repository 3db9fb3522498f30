"""The integer program of the size solver: its optimum, compared with all selections there are."""

import itertools

import keras
import numpy as np
import pytest

from tfprune.coupling.analysis import couple
from tfprune.surgery.edits import Resize
from tfprune.surgery.size_constraints import equal_counts
from tfprune.surgery.size_solver import solve
from tfprune.surgery.sizes import by

layers = keras.layers


def model_with_groups():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(6, 1, name="before")(inputs)
    x = layers.Conv2D(6, 1, groups=3, name="grouped")(x)
    return keras.Model(inputs, layers.Conv2D(1, 1)(x))


def model_with_sums():
    inputs = keras.Input((2,))
    a, b = (layers.Dense(n, name=name)(inputs) for n, name in ((3, "a"), (4, "b")))
    joined = layers.Concatenate(name="joined")([a, b, a])
    return keras.Model(inputs, layers.Dense(1)(joined))


def size_constraint(model, coupling, key, value):
    (edit,) = Resize.of(lambda name: name, key, value)
    (constraint,) = edit.constraints(model, coupling, ())
    return constraint


def found(model, changes, seed, **options):
    """The solution with random utilities, and these."""
    coupling = couple(model)
    utility = np.random.default_rng(seed).normal(size=coupling.size)
    constraints = [size_constraint(model, coupling, key, wanted) for key, wanted in changes.items()]
    solution = solve(coupling, constraints, lambda wanted: utility, **options)
    return coupling, utility, constraints, solution


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (model_with_sums, {"joined": by(-3)}),
        (model_with_sums, {"joined": by(-4)}),
        (model_with_sums, {"a": 2, "b": 2}),
        (model_with_groups, {"grouped": 4}),
        (model_with_groups, {"before": 3, "grouped": 3}),
        (model_with_groups, {"before": 4, "grouped": 2}),
    ],
)
def test_no_choice_is_worth_more(make, changes, seed):
    coupling, utility, constraints, solution = found(make(), changes, seed)
    free = [u for u in range(1, coupling.size) if u not in coupling.pins]
    lowest = utility[free].min()
    scaled = 0.1 + 0.9 * (utility - lowest) / (utility[free].max() - lowest)

    def is_possible(kept):
        if any((each.signs * kept[each.units]).sum() != each.bounds[0] for each in constraints):
            return False
        for grouping in coupling.groupings:
            sides = [kept[coupling.roots[side]].sum(axis=1) for side in grouping.sides]
            lives = sides[0] > 0
            if any(((s > 0) != lives).any() or len(set(s[lives])) != 1 for s in sides):
                return False
        makers = [s.units for s in coupling.sets]
        return all(kept[units].any() for units in makers)

    best = -np.inf
    for choice in itertools.product([False, True], repeat=len(free)):
        kept = np.ones(coupling.size, bool)
        kept[free] = choice
        if is_possible(kept):
            best = max(best, scaled[free][kept[free]].sum())
    assert is_possible(solution.kept)
    assert not solution.new
    np.testing.assert_allclose(scaled[free][solution.kept[free]].sum(), best)


def test_as_few_units_come_as_sizes_ask_for():
    _, _, constraints, solution = found(model_with_sums(), {"joined": by(+3)}, 0)
    assert solution.size(constraints[0]) == 13
    assert solution.kept.all()
    assert sorted(count for _, count in solution.new) in ([1, 1], [3])
    assert sum(count for _, count in solution.new) == 2


def test_firm_constraints_hold_where_sizes_are_met_as_nearly_as_can_be():
    model = model_with_sums()
    coupling = couple(model)
    constraints = [size_constraint(model, coupling, key, 5) for key in ("a", "b")]
    sides = [size_constraint(model, coupling, key, 1).units for key in ("a", "b")]
    constraints[1] = size_constraint(model, coupling, "b", 2)
    constraints += equal_counts("both", *sides)
    utility = np.ones(coupling.size)
    with pytest.raises(ValueError, match="nearest"):
        solve(coupling, constraints, lambda wanted: utility)
    solution = solve(coupling, constraints, lambda wanted: utility, relaxed=True)
    assert solution.size(constraints[0]) == solution.size(constraints[1])
    assert 2 <= solution.size(constraints[0]) <= 5


def test_units_that_cannot_stand_alone_are_never_all_taken():
    inputs = keras.Input((2,))
    x = layers.Dense(5, name="x")(inputs)
    model = keras.Model(inputs, layers.Dense(1)(layers.Add()([x[:, :2], layers.Dense(2)(x)])))
    coupling, _, constraints, solution = found(model, {"x": 1}, 0, relaxed=True)
    counts = solution.kept.astype(int)
    assert all(
        counts[coupling.roots[labels.reshape(-1)]].any()
        for labels in coupling.tensor_labels.values()
    )
    assert solution.size(constraints[0]) == 1
