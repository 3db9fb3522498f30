"""Isotonic regression against the lowest mean by trying all lengths."""

import numpy as np
import pytest

from tfprune._tools.isotonic import rising


@pytest.mark.parametrize("seed", range(3))
def test_scores_rise_in_the_order_of_removal_and_keep_the_total(seed):
    prices = np.random.default_rng(seed).exponential(size=40)
    scores = rising(prices)
    assert (np.diff(scores) > 0).all()
    np.testing.assert_allclose(scores.sum(), prices.sum())
    best = min(  # the mean of the lowest run from the start, over all lengths
        prices[:length].mean() for length in range(1, 41)
    )
    np.testing.assert_allclose(scores[0], best, rtol=1e-8)
    np.testing.assert_array_equal(rising(np.empty(0)), [])
