"""Prices of optimal brain surgeon against least squares over all subsets."""

import itertools

import numpy as np
import pytest

from tfprune.units.removal_order import UnitRows, removal_order


def layer(seed, rows=6, outputs=4):
    """Correlated inputs and weights of a layer, and the products of its inputs."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(50, rows)) @ draw.normal(size=(rows, rows))
    return x, draw.normal(size=(rows, outputs)), x.T @ x


def least_error(x, weights, kept):
    """The squared error of the outputs with some inputs, by NumPy's least squares."""
    target = x @ weights
    fitted = np.linalg.lstsq(x[:, kept], target)[0] if len(kept) else np.zeros((0, 4))
    return np.sum((target - x[:, kept] @ fitted) ** 2)


def test_optimal_brain_surgeon_on_a_layer_by_hand():
    x, weights, gram = layer(0)
    inverse = np.linalg.inv(gram)
    rows = UnitRows(inverse, weights, np.arange(6))
    by_hand = [np.sum(weights[j] ** 2) / inverse[j, j] for j in range(6)]
    np.testing.assert_allclose(rows.prices(), by_hand)
    rows.remove([2])
    kept = [0, 1, 3, 4, 5]
    smaller = np.linalg.inv(gram[np.ix_(kept, kept)])
    fitted = np.linalg.lstsq(x[:, kept], x @ weights)[0]
    expected = np.sum(fitted**2, axis=1) / np.diag(smaller)
    np.testing.assert_array_equal(rows.units, kept)
    np.testing.assert_allclose(rows.prices(), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("units", [np.arange(6), np.array([0, 1, 0, 2, 2, 1])], ids=["one", "two"])
def test_prices_add_up_to_the_error_of_all_subsets(seed, units):
    x, weights, gram = layer(seed)
    count = units.max() + 1
    rows = UnitRows(np.linalg.inv(gram), weights, units)
    order, prices = removal_order(np.ones(count, bool), [rows], np.zeros(count))
    errors = {
        gone: least_error(x, weights, np.flatnonzero(~np.isin(units, gone)))
        for size in range(count + 1)
        for gone in itertools.combinations(range(count), size)
    }
    for size in range(1, count + 1):
        gone = tuple(sorted(order[:size].tolist()))
        np.testing.assert_allclose(prices[:size].sum(), errors[gone], rtol=1e-8)
        before = set(order[: size - 1].tolist())
        following = [each for each in errors if len(each) == size and before < set(each)]
        assert gone == min(following, key=errors.get)  # greedy, and exact for one unit


def test_the_prices_of_several_products_and_others_add_up():
    draws = [layer(seed) for seed in (0, 1)]
    others = np.array([0.0, 5.0, 0.0, 0.0, 900.0, 0.0])
    parts = [UnitRows(np.linalg.inv(gram), w, np.arange(6)) for _, w, gram in draws]
    order, prices = removal_order(np.array([True] * 5 + [False]), parts, others)
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
    kept = np.arange(6)
    for unit, price in zip(order, prices, strict=True):
        less = kept[kept != unit]
        grown = sum(least_error(x, w, less) - least_error(x, w, kept) for x, w, _ in draws)
        np.testing.assert_allclose(price, grown + others[unit])
        kept = less


def test_units_may_have_different_numbers_of_rows_and_stand_in_some_products_only():
    x, weights, gram = layer(3)
    units = np.array([4, 0, 4, 4, 0, 2])
    rows = UnitRows(np.linalg.inv(gram), weights, units)
    order, prices = removal_order(np.ones(5, bool), [rows], np.zeros(5))
    assert set(order[:2].tolist()) == {1, 3}  # in no product
    np.testing.assert_array_equal(prices[:2], 0)
    for size in range(3, 6):
        kept = np.flatnonzero(~np.isin(units, order[:size]))
        np.testing.assert_allclose(prices[:size].sum(), least_error(x, weights, kept))


def test_more_outputs_than_inputs_change_no_price():
    _, weights, gram = layer(5, rows=6, outputs=40)
    rows = UnitRows(np.linalg.inv(gram), weights, np.arange(6))
    expected = np.sum(weights**2, axis=1) / np.diag(np.linalg.inv(gram))
    np.testing.assert_allclose(rows.prices(), expected)


@pytest.mark.parametrize(("aggregate", "combine"), [("mean", np.mean), ("max", np.max)])
def test_prices_of_several_products_may_be_combined_otherwise(aggregate, combine):
    draws = [layer(seed) for seed in (0, 1)]
    parts = [UnitRows(np.linalg.inv(gram), w, np.arange(6)) for _, w, gram in draws]
    expected = combine([part.prices() for part in parts], axis=0)
    order, prices = removal_order(np.ones(6, bool), parts, np.zeros(6), aggregate)
    np.testing.assert_allclose(prices[0], expected.min())
    assert order[0] == expected.argmin()
