import numpy as np
import pytest

from tfprune.patterns import pruned_count, top_k_mask, top_k_masks
from tfprune.patterns import top_k as module

LARGE = (3, 400_000)  # enough for a sample to say where the threshold lies


def sorted_mask(scores, sparsity, kept, frozen):
    """The mask by a stable sort: of equals the last in C order goes first."""
    count = pruned_count(sparsity, scores.size) - np.sum(~kept)
    places = np.flatnonzero((kept & ~frozen).ravel())[::-1]
    order = np.argsort(scores.ravel()[places], kind="stable")
    mask = kept.ravel().copy()
    mask[places[order[:count]]] = False
    return mask.reshape(scores.shape)


def values_of(kind, rng):
    if kind == "normal":
        return np.abs(rng.normal(size=LARGE)).astype("float32")
    if kind == "few":
        return rng.integers(0, 4, LARGE).astype("float32")
    if kind == "sorted":
        return np.arange(np.prod(LARGE), dtype="float32").reshape(LARGE)
    return np.tile(np.float32([0, 1, 2, 3]), LARGE[0] * LARGE[1] // 4).reshape(LARGE)


@pytest.mark.parametrize("kind", ["normal", "few", "sorted", "periodic"])
@pytest.mark.parametrize("sparsity", [1e-6, 0.3, 0.8, 0.999999])
@pytest.mark.parametrize("masked", [False, True])
def test_large_arrays_equal_a_full_sort(kind, sparsity, masked):
    rng = np.random.default_rng(0)
    scores = values_of(kind, rng)
    kept, frozen = np.ones(LARGE, bool), np.zeros(LARGE, bool)
    if masked:
        pruned_before, frozen = rng.random(LARGE) < sparsity / 2, rng.random(LARGE) < 1e-7
        kept = ~pruned_before
    expected = sorted_mask(scores, sparsity, kept, frozen)
    together = top_k_masks(list(scores), sparsity, trainable=list(kept), frozen=list(frozen))
    np.testing.assert_array_equal(together, expected)
    alone = top_k_mask(scores, sparsity, trainable=kept, frozen=frozen)
    np.testing.assert_array_equal(alone, expected)


@pytest.mark.parametrize("bracket", [(5.0, 6.0), (-2.0, -1.0), (np.inf, np.inf)])
def test_a_sample_that_misleads_does_no_harm(bracket, monkeypatch):
    scores = values_of("normal", np.random.default_rng(0))
    expected = top_k_mask(scores, 0.5)
    monkeypatch.setattr(module, "_bracket", lambda sample, quantile: bracket)
    np.testing.assert_array_equal(top_k_mask(scores, 0.5), expected)


@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.9999])
@pytest.mark.parametrize("masked", [False, True])
def test_magnitudes_need_not_be_made_beforehand(sparsity, masked):
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=LARGE), 1e-4 * rng.normal(size=(700, 30)), rng.normal(size=0)]
    weights = [np.round(weight.astype("float32"), 3) for weight in weights]  # many ties
    trainable = [rng.random(w.shape) < 0.7 if masked else None for w in weights]
    options = {"trainable": trainable, "keep_one": True}
    ours = top_k_masks(weights, sparsity, by_magnitude=True, **options)
    theirs = top_k_masks([np.abs(w) for w in weights], sparsity, **options)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_single_and_double_precision_are_ranked_in_double():
    single, double = np.float32([1.0]), np.array([1.0 + 1e-12, 0.5])
    masks = top_k_masks([single, double], 2 / 3)
    assert [mask.tolist() for mask in masks] == [[False], [True, False]]


def test_no_array_loses_its_last_element_and_the_next_lowest_go():
    scores = [np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 6.0, 7.0, 8.0])]
    masks = top_k_masks(scores, 0.5, keep_one=True)
    assert [mask.tolist() for mask in masks] == [
        [False, True],
        [False, True],
        [False, False, True, True],
    ]
    masks = top_k_masks(scores, 1, keep_one=True)
    assert not any(mask.any() for mask in masks)
    with pytest.raises(ValueError, match="only 0 are neither"):
        top_k_masks([np.array([1.0])] * 2, 0.5, keep_one=True)


def test_an_array_pruned_before_stays_empty_and_a_frozen_element_is_enough():
    scores, kept = [np.arange(2.0), np.arange(2.0), np.arange(4.0) + 9], [False, True, True]
    kept = [np.full(array.shape, keep) for array, keep in zip(scores, kept, strict=True)]
    frozen = [np.zeros(2, bool), np.array([True, False]), np.zeros(4, bool)]
    masks = top_k_masks(scores, 0.5, trainable=kept, frozen=frozen, keep_one=True)
    assert [mask.tolist() for mask in masks] == [
        [False] * 2,
        [True, False],
        [False, True, True, True],
    ]
