"""Prices and fits of optimal brain surgeon against least squares by hand, in NumPy."""

import itertools

import numpy as np
import pytest

from tfprune.criteria.dense_moments import DenseMoments
from tfprune.weights.obs_prices import damped, fitted, prices, removal_order

DAMPING = 1e-2


def problem(seed, inputs=6, outputs=4, examples=40):
    """Correlated inputs, weights, and the damped Hessian."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, inputs)) @ rng.normal(size=(inputs, inputs))
    hessian = x.T @ x
    return rng.normal(size=(inputs, outputs)), hessian, damped(hessian, DAMPING)


def least_error(hessian, weights, gone):
    """The least error of an output without some inputs, the others fitted anew."""
    gone = list(gone)
    kept = np.setdiff1d(np.arange(len(weights)), gone)
    change = np.zeros(len(weights))
    change[gone] = -weights[gone]
    pull = hessian[np.ix_(kept, gone)] @ weights[gone]
    change[kept] = np.linalg.solve(hessian[np.ix_(kept, kept)], pull) if len(kept) else 0
    return change @ hessian @ change


@pytest.mark.parametrize("seed", range(3))
def test_prices_of_a_6_by_4_layer_add_up_to_the_error_of_least_squares(seed):
    weights, _, hessian = problem(seed)
    inverse = np.linalg.inv(hessian)
    for w in weights.T:
        order, found = removal_order(inverse, w)
        assert sorted(order) == list(range(6))
        errors = [least_error(hessian, w, order[: count + 1]) for count in range(6)]
        np.testing.assert_allclose(np.cumsum(found), errors, rtol=1e-8)
        # Each is the cheapest of those that are left, and the first the best of all.
        for count in range(6):
            left = [j for j in range(6) if j not in order[:count]]
            tried = [least_error(hessian, w, [*order[:count], j]) for j in left]
            assert left[int(np.argmin(tried))] == order[count]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_order_is_close_to_the_best_of_all_subsets(count):
    ratios = []
    for seed in range(8):
        weights, _, hessian = problem(seed)
        for w in weights.T:
            order, found = removal_order(np.linalg.inv(hessian), w)
            subsets = itertools.combinations(range(6), count)
            best = min(least_error(hessian, w, subset) for subset in subsets)
            ratios.append(found[:count].sum() / best)
    assert np.min(ratios) > 1 - 1e-8
    assert np.max(ratios) < 1 + 1e-8 if count == 1 else np.mean(np.array(ratios) < 1.01) > 0.7


def test_where_several_go_at_once_the_others_are_those_of_least_squares():
    weights, _, hessian = problem(0, inputs=100, outputs=1, examples=300)
    order, found = removal_order(np.linalg.inv(hessian), weights[:, 0])
    np.testing.assert_array_equal(np.sort(order), np.arange(100))
    first = np.square(weights[:, 0]) / np.diag(np.linalg.inv(hessian))
    np.testing.assert_allclose(found[:5], np.sort(first)[:5])
    for count in (60, 90, 98):  # from here they go one by one: the last are exact
        gone, last = order[:count], order[count:]
        errors = [least_error(hessian, weights[:, 0], g) for g in (gone, order)]
        if len(last) < 40:
            np.testing.assert_allclose(found[count:].sum(), errors[1] - errors[0], rtol=1e-7)


def test_prices_rise_in_their_order_and_leave_out_what_may_not_go():
    weights, raw, hessian = problem(1)
    may_go = np.ones((6, 4), bool)
    may_go[2, 1] = may_go[0, 3] = False
    found = prices(raw, weights, may_go, DAMPING, 512)
    assert (found[~may_go] == 0).all() and (found[may_go] > 0).all()
    for column in range(4):
        rows = np.flatnonzero(may_go[:, column])
        inverse = np.linalg.inv(hessian[np.ix_(rows, rows)])
        order, plain = removal_order(inverse, weights[rows, column])
        assert (np.diff(found[rows[order], column]) > 0).all()
        np.testing.assert_allclose(found[rows, column].sum(), plain.sum())


def test_of_blocks_the_inputs_of_others_stand_still():
    weights, raw, hessian = problem(2)
    found = prices(raw, weights, np.ones((6, 4), bool), DAMPING, 3)
    for rows in (slice(0, 3), slice(3, 6)):
        inverse = np.linalg.inv(hessian[rows, rows])
        for column in range(4):
            _, plain = removal_order(inverse, weights[rows, column])
            np.testing.assert_allclose(found[rows, column].sum(), plain.sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_ridge_regression_on_what_the_dense_layer_gives(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(30, 5))
    x = z + 0.3 * rng.normal(size=(30, 5))
    dense = rng.normal(size=(5, 3))
    kept = rng.random((5, 3)) < 0.6
    frozen = kept & (rng.random((5, 3)) < 0.3)
    sums = DenseMoments((x.T @ x)[None], (x.T @ z)[None], np.zeros((2, 1, 5)), 30.0)
    before = dense * kept
    found = fitted(sums, 0, before, dense, kept & ~frozen, DAMPING)
    np.testing.assert_array_equal(found[~kept | frozen], before[~kept | frozen])
    ridge = DAMPING * np.diag(x.T @ x).mean()
    for column in range(3):
        rows = np.flatnonzero(kept[:, column] & ~frozen[:, column])
        missing = z @ dense[:, column] - x @ before[:, column]
        stacked = np.concatenate([x[:, rows], np.sqrt(ridge) * np.eye(len(rows))])
        targets = np.concatenate([missing, np.zeros(len(rows))])
        change = np.linalg.lstsq(stacked, targets, rcond=None)[0]
        np.testing.assert_allclose(found[rows, column], before[rows, column] + change, atol=1e-8)
    errors = [np.square(x @ w - z @ dense).sum(0) for w in (found, before)]
    assert (errors[0] <= errors[1]).all()
