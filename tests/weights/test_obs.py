"""The sweep of SparseGPT against optimal brain surgeon and least squares by hand, in NumPy."""

import numpy as np
import pytest

from tfprune.weights.obs import Hessian, sweep

RNG = np.random.default_rng(0)
DAMPING = 1e-2


def problem(inputs=6, outputs=4, examples=40):
    """Correlated inputs, weights, and the damped Hessian."""
    x = RNG.normal(size=(examples, inputs)) @ RNG.normal(size=(inputs, inputs))
    hessian = x.T @ x
    damped = hessian + DAMPING * np.trace(hessian) / inputs * np.eye(inputs)
    return RNG.normal(size=(inputs, outputs)), hessian, damped


def swept(weights, hessian, mask, fixed=None, tile=2):
    """The weights after a sweep with a mask that is given."""
    new = weights.copy()
    tiles = [(first, min(first + tile, len(mask))) for first in range(0, len(mask), tile)]

    def select(number, scores):
        first, end = tiles[number]
        assert scores.shape == mask[first:end].shape
        return mask[first:end]

    kept = sweep(new, Hessian(hessian.copy(), DAMPING).upper, tiles, select, fixed)
    np.testing.assert_array_equal(kept, mask)
    return new


@pytest.mark.parametrize("gone", [0, 3])
def test_one_weight_gone_is_optimal_brain_surgeon_on_the_inputs_not_decided(gone):
    weights, hessian, damped = problem()
    mask = np.ones(weights.shape, bool)
    mask[gone, 1] = False
    inverse = np.linalg.inv(damped[gone:, gone:])
    expected = weights.copy()
    expected[gone:, 1] -= weights[gone, 1] / inverse[0, 0] * inverse[:, 0]
    np.testing.assert_allclose(swept(weights, hessian, mask), expected, atol=1e-10)


def test_scores_are_the_errors_of_optimal_brain_surgeon():
    weights, hessian, damped = problem()
    seen = {}

    def select(number, scores):
        seen[number] = scores
        return np.ones(scores.shape, bool)

    sweep(weights.copy(), Hessian(hessian.copy(), DAMPING).upper, [(0, 2), (2, 6)], select)
    for first, end in ((0, 2), (2, 6)):
        for j in range(first, end):
            expected = weights[j] ** 2 / np.linalg.inv(damped[j:, j:])[0, 0]
            np.testing.assert_allclose(seen[first // 2][j - first], expected)


def test_many_inputs_are_decided_one_after_the_other():
    weights, hessian, damped = problem(inputs=150, outputs=3, examples=200)
    mask = RNG.random(weights.shape) < 0.5
    expected = weights.copy()
    for j in range(150):
        inverse = np.linalg.inv(damped[j:, j:])
        error = np.where(mask[j], 0, expected[j]) / inverse[0, 0]
        expected[j:] -= np.outer(inverse[:, 0], error)
    for tile in (4, 128, 150):
        np.testing.assert_allclose(swept(weights, hessian, mask, tile=tile), expected, atol=1e-7)


def least_squares(weights, damped, free, target):
    """The weights of the free elements that make the error least, the others at their targets."""
    best = target.copy()
    for output, rows in enumerate(free.T):
        residual = weights[:, output] - np.where(rows, 0, target[:, output])
        normal = damped[np.ix_(rows, rows)]
        best[rows, output] = np.linalg.solve(normal, (damped @ residual)[rows])
    return best


def test_where_what_goes_comes_first_it_is_the_exact_solution_and_else_no_better():
    weights, hessian, damped = problem()
    first = np.arange(6)[:, None] >= [1, 2, 3, 4]
    exact = least_squares(weights, damped, first, np.zeros_like(weights))
    np.testing.assert_allclose(swept(weights, hessian, first), exact, atol=1e-9)
    mask = RNG.random(weights.shape) < 0.5
    exact = least_squares(weights, damped, mask, np.zeros_like(weights))
    new = swept(weights, hessian, mask)
    least, found, plain = (
        np.sum((each - weights) * (damped @ (each - weights)))
        for each in (exact, new, weights * mask)
    )
    assert least < found < plain


def test_elements_that_are_fixed_keep_their_values_and_the_others_make_up_for_it():
    weights, hessian, damped = problem()
    mask = np.ones(weights.shape, bool)
    mask[:2] = False
    fixed = np.zeros(weights.shape, bool)
    fixed[2, ::2] = True
    new = swept(weights, hessian, mask, fixed, tile=3)
    np.testing.assert_array_equal(new[2, ::2], weights[2, ::2])
    target = np.where(fixed, weights, 0)
    exact = least_squares(weights, damped, mask & ~fixed, target)
    np.testing.assert_allclose(new, exact, atol=1e-9)


def test_inputs_that_are_never_used_and_single_precision():
    weights, hessian, _ = problem()
    hessian[:, 2] = hessian[2] = 0
    single = np.triu(Hessian(hessian.astype("float32"), DAMPING).upper)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, np.triu(Hessian(hessian.copy(), DAMPING).upper), rtol=2e-3)
    nothing = np.triu(Hessian(np.zeros((3, 3)), DAMPING).upper)
    np.testing.assert_array_equal(nothing, np.eye(3))


def test_errors_are_those_of_the_outputs():
    x, change = RNG.normal(size=(9, 4)), RNG.normal(size=(4, 3))
    found = Hessian(x.T @ x, DAMPING).errors(change)
    np.testing.assert_allclose(found, ((x @ change) ** 2).sum(0))


def test_nothing_is_copied_and_too_little_damping_is_raised():
    x = RNG.normal(size=(3, 60)).astype("float32")
    array = x.T @ x
    hessian = Hessian(array, 1e-12)
    assert np.shares_memory(hessian.upper, array)
    assert np.isfinite(np.triu(hessian.upper)).all()
    change = RNG.normal(size=(60, 2)).astype("float32")
    np.testing.assert_allclose(hessian.errors(change), ((x @ change) ** 2).sum(0), rtol=1e-4)
