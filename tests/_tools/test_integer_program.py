"""Integer programs, compared with all assignments there are."""

import itertools

import numpy as np

from tfprune._tools.integer_program import IntegerProgram


def knapsack():
    values, weights = np.array([4.0, 5.0, 3.0]), np.array([3.0, 4.0, 2.0])
    program = IntegerProgram()
    items = program.add_variables(-values, np.ones(3))
    program.add_constraint(items, weights, -np.inf, 5.5)
    return program, values, weights


def test_the_optimum_is_the_best_of_all_assignments():
    program, values, weights = knapsack()
    taken = program.minimize(10).x
    fits = [np.array(t) for t in itertools.product([0, 1], repeat=3) if weights @ t <= 5.5]
    assert values @ taken == max(values @ t for t in fits)
    assert program.is_integral(taken)


def test_a_relaxed_optimum_need_not_have_integers():
    program, values, _ = knapsack()
    relaxed = program.minimize(10, relaxed=True).x
    assert values @ relaxed > values @ program.minimize(10).x
    assert not program.is_integral(relaxed)


def test_sums_tie_parts_to_totals():
    program = IntegerProgram()
    parts = program.add_variables([1.0, 2.0, 1.0], np.ones(3), integer=False)
    totals = program.add_variables([0.0, -5.0], [2, 2])
    program.add_sums(parts, totals[[0, 1, 1]], totals)
    assert program.minimize(10).x.tolist() == [0, 1, 1, 0, 2]
