import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfprune.patterns import pruned_count, top_k_mask

few_values = hnp.arrays(  # many ties
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=6),
    elements=st.sampled_from([0.0, -1.0, 0.5, 0.5000001, 2.0]),
)


def slow_mask(scores, count, candidates):
    """The `count` lowest candidates by a full sort, of equals the last."""
    places = sorted(
        np.flatnonzero(candidates.ravel()), key=lambda i: (scores.ravel()[i], -i), reverse=False
    )
    mask = np.ones(scores.size, bool)
    mask[places[:count]] = False
    return mask.reshape(scores.shape)


@given(few_values, st.floats(0, 1))
def test_equals_a_full_sort(scores, sparsity):
    count = pruned_count(sparsity, scores.size)
    expected = slow_mask(scores, count, np.ones(scores.shape, bool))
    np.testing.assert_array_equal(top_k_mask(scores, sparsity), expected)


@given(few_values, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_pruned_counts_and_frozen_stays(scores, sparsity, seed):
    rng = np.random.default_rng(seed)
    kept, frozen = rng.random(scores.shape) < 0.7, rng.random(scores.shape) < 0.3
    count = pruned_count(sparsity, scores.size) - np.sum(~kept)
    if count > np.sum(kept & ~frozen):
        with pytest.raises(ValueError, match=r"Cannot reach a sparsity of .* nor frozen"):
            top_k_mask(scores, sparsity, trainable=kept, frozen=frozen)
        return
    mask = top_k_mask(scores, sparsity, trainable=kept, frozen=frozen)
    expected = kept & slow_mask(scores, max(count, 0), kept & ~frozen)
    np.testing.assert_array_equal(mask, expected)
    assert not mask[~kept].any()
    assert mask[kept & frozen].all()


@pytest.mark.parametrize("size", [1, 2, 3, 10, 999, 1000])
@pytest.mark.parametrize("sparsity", [0, 0.1, 0.25, 1 / 3, 0.5, 0.77, 0.9, 0.999])
def test_the_number_pruned_is_the_nearest_integer(size, sparsity):
    mask = top_k_mask(np.random.default_rng(size).normal(size=size), sparsity)
    assert np.sum(~mask) == min(round(sparsity * size), size - 1)


def test_a_constant_array_at_a_half_loses_exactly_its_second_half():
    mask = top_k_mask(np.full((4, 5), 0.1, "float32"), 0.5)
    np.testing.assert_array_equal(mask.ravel(), [True] * 10 + [False] * 10)


@pytest.mark.parametrize("size", [1, 2, 10, 5000])
def test_almost_all_keeps_one_and_all_keeps_none(size):
    scores = np.arange(size)
    np.testing.assert_array_equal(np.flatnonzero(top_k_mask(scores, 0.9999)), [size - 1])
    assert not top_k_mask(scores, 1.0).any()
    assert top_k_mask(scores, 0.0).all()


def test_a_living_zero_is_not_confused_with_a_pruned_one():
    kept = np.array([True, False, True, False])
    mask = top_k_mask(np.zeros(4), 0.5, trainable=kept)
    np.testing.assert_array_equal(mask, kept)
    mask = top_k_mask(np.array([0.0, 9.0, 1.0, 9.0]), 0.75, trainable=kept)
    np.testing.assert_array_equal(mask, [False, False, True, False])


def test_more_pruned_than_asked_for_stays_pruned():
    kept = np.array([True, False, False, False])
    mask = top_k_mask(np.array([0.0, 1.0, 2.0, 3.0]), 0.25, trainable=kept)
    np.testing.assert_array_equal(mask, kept)
    assert mask is not kept


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_raise_with_their_place(wrong):
    scores = np.ones((3, 4), "float32")
    scores[1, 2] = wrong
    with pytest.raises(ValueError, match=r"Scores must be finite.* 1 of 12 .*index \(1, 2\)"):
        top_k_mask(scores, 0.5)
    kept = np.isfinite(scores)
    assert top_k_mask(scores, 0.5, trainable=kept).sum() == 6


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64", "int32", "uint8"])
def test_any_number_type(dtype):
    scores = np.array([3, 1, 4, 1, 5, 9]).astype(dtype)
    mask = top_k_mask(scores, 0.5)
    np.testing.assert_array_equal(mask, [False, False, True, False, True, True])


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan"), "half", True])
def test_bad_sparsity_raises(sparsity):
    with pytest.raises(ValueError, match="Argument `sparsity`"):
        top_k_mask(np.ones(3), sparsity)


def test_masks_of_another_shape_or_type_raise():
    with pytest.raises(ValueError, match="Argument `trainable`.*shape"):
        top_k_mask(np.ones(3), 0.5, trainable=np.ones(4, bool))
    with pytest.raises(ValueError, match="Argument `frozen`.*dtype"):
        top_k_mask(np.ones(3), 0.5, frozen=np.zeros(3))


def test_what_is_given_is_not_written_to():
    scores, kept = np.arange(6.0), np.array([True, False] * 3)
    top_k_mask(scores, 0.7, trainable=kept, frozen=~kept)
    np.testing.assert_array_equal(scores, np.arange(6.0))
    np.testing.assert_array_equal(kept, [True, False] * 3)
