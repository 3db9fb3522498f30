import numpy as np
import pytest

from tfprune.optimizers import independent_batches

X = np.arange(50)


def draws(**options):
    return np.stack([np.asarray(batch) for batch in independent_batches(X, 20, **options)])


def test_every_example_is_as_likely_and_comes_independently():
    drawn = draws(steps=2500, seed=0)
    counts = np.bincount(drawn.ravel(), minlength=50)
    expected = drawn.size / 50
    assert ((counts - expected) ** 2 / expected).sum() < 49 + 4 * np.sqrt(2 * 49)
    # Sums of epochs are as spread as those of independent draws: without replacement, not at all.
    sums = drawn.reshape(-1, 50, 20).sum((1, 2))
    spread = sums.var() / (1000 * X.var())
    assert abs(spread - 1) < 4 * np.sqrt(2 / len(sums))


def test_epochs_differ_and_seeds_repeat():
    batches = independent_batches({"x": X, "y": (X * 2,)}, 8, seed=3)
    epochs = [[np.asarray(b["x"]) for b in batches] for _ in range(2)]
    assert len(epochs[0]) == 6
    assert not np.array_equal(*epochs)
    again = [np.asarray(b["x"]) for b in independent_batches({"x": X, "y": (X * 2,)}, 8, seed=3)]
    np.testing.assert_array_equal(epochs[0], again)
    for batch in batches:
        np.testing.assert_array_equal(batch["y"][0], batch["x"] * 2)


def test_bad_input_is_refused():
    for data in ((X, X[1:]), X[:0], ()):
        with pytest.raises(ValueError, match="one and the same number"):
            independent_batches(data, 4)
    with pytest.raises(ValueError, match="batch_size"):
        independent_batches(X, 0)
    with pytest.raises(ValueError, match="steps"):
        independent_batches(X, 4, steps=0)
