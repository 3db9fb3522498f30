import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfprune.patterns import NM, MatrixAxes, pruned_count

matrices = hnp.arrays(  # many ties
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.sampled_from([0.0, -1.0, 0.5, 0.5000001, 2.0]),
)
patterns = st.builds(
    lambda keep, more, axis: NM(keep=keep, of=keep + more, axis=axis),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([-2, -1]),
)
shares = st.floats(0, 1)
"""Of the pattern's own sparsity."""


def groups_of(shape, of, axis):
    """The places of each group, in the order along the axis."""
    rows, columns = shape
    for lane in range(columns if axis == -2 else rows):
        places = [(i, lane) if axis == -2 else (lane, i) for i in range(shape[axis])]
        for start in range(0, len(places), of):
            yield places[start : start + of]


def slow_mask(pattern, scores, sparsity, kept, frozen):
    """The mask by loops over groups; `None` where frozen elements stand in its way."""
    room, counted, candidates = 0, 0, []
    for group in groups_of(scores.shape, pattern.of, pattern.axis):
        most = max(0, len(group) - pattern.keep)
        gone = sum(not kept[place] for place in group)
        room += most
        counted += min(most, gone)
        living = [(bool(frozen[p]), scores[p], -i, p) for i, p in enumerate(group) if kept[p]]
        lowest = sorted(living)[: max(0, most - gone)]
        candidates += [
            (score, [-i for i in p], p) for is_frozen, score, _, p in lowest if not is_frozen
        ]
    count = max(0, min(pruned_count(sparsity, scores.size), room) - counted)
    if count > len(candidates):
        return None
    mask = kept.copy()
    for *_, place in sorted(candidates)[:count]:
        mask[place] = False
    return mask


def test_half_of_four_inputs_by_hand():
    scores = np.array([[4, 1], [3, 2], [2, 3], [1, 4], [9, 0], [8, 0], [7, 0], [6, 0]])
    mask = NM(keep=2, of=4).mask(scores, 0.5)
    np.testing.assert_array_equal(mask[:, 0], [1, 1, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(mask[:, 1], [0, 0, 1, 1, 1, 1, 0, 0])


def test_along_outputs_is_along_inputs_of_the_transpose():
    scores = np.random.default_rng(1).random((6, 10))
    along_outputs = NM(keep=1, of=3, axis=-1).mask(scores, 0.4)
    np.testing.assert_array_equal(along_outputs, NM(keep=1, of=3).mask(scores.T, 0.4).T)


@given(matrices, patterns, shares)
def test_equals_loops_over_groups(scores, pattern, share):
    kept, frozen = np.ones(scores.shape, bool), np.zeros(scores.shape, bool)
    expected = slow_mask(pattern, scores, share * pattern.sparsity, kept, frozen)
    np.testing.assert_array_equal(pattern.mask(scores, share * pattern.sparsity), expected)


@given(matrices, patterns, st.one_of(shares, st.just(1.0)), st.integers(0, 2**32 - 1))
def test_pruned_counts_and_frozen_stays(scores, pattern, share, seed):
    rng = np.random.default_rng(seed)
    kept, frozen = rng.random(scores.shape) < 0.7, rng.random(scores.shape) < 0.3
    scores = np.where(kept, scores, np.nan)  # what is pruned has no score
    sparsity = share * pattern.sparsity
    expected = slow_mask(pattern, scores, sparsity, kept, frozen)
    if expected is None:
        with pytest.raises(ValueError, match=r"Cannot reach a sparsity of .* frozen elements"):
            pattern.mask(scores, sparsity, trainable=kept, frozen=frozen)
        return
    mask = pattern.mask(scores, sparsity, trainable=kept, frozen=frozen)
    np.testing.assert_array_equal(mask, expected)
    assert not mask[~kept].any()
    assert mask[kept & frozen].all()


@given(matrices, patterns, st.integers(0, 2**32 - 1))
def test_at_its_sparsity_every_group_has_the_pattern(scores, pattern, seed):
    kept = np.random.default_rng(seed).random(scores.shape) < 0.7
    mask = pattern.mask(scores, pattern.sparsity, trainable=kept)
    for group in groups_of(scores.shape, pattern.of, pattern.axis):
        living = sum(kept[place] for place in group)
        assert sum(mask[place] for place in group) == min(living, pattern.keep)


@given(patterns, st.integers(1, 3), st.integers(1, 3), shares)
def test_the_number_pruned_is_that_of_the_schedule(pattern, rows, columns, share):
    shape = (rows * pattern.of, columns * pattern.of)
    scores = np.random.default_rng(rows).normal(size=shape)
    sparsity = share * pattern.sparsity
    assert np.sum(~pattern.mask(scores, sparsity)) == round(sparsity * scores.size)


@given(matrices, patterns, shares, shares)
def test_a_higher_sparsity_prunes_the_same_and_more(scores, pattern, share, other):
    low, high = sorted([share * pattern.sparsity, other * pattern.sparsity])
    first, last = pattern.mask(scores, low), pattern.mask(scores, high)
    assert not (last & ~first).any()
    np.testing.assert_array_equal(pattern.mask(scores, high, trainable=first), last)


def test_an_incomplete_group_keeps_as_many_as_a_whole_one():
    mask = NM(keep=2, of=4).mask(np.arange(7.0)[:, None], 0.5)
    np.testing.assert_array_equal(mask[:, 0], [0, 0, 1, 1, 0, 1, 1])
    mask = NM(keep=2, of=4).mask(np.arange(6.0)[:, None], 0.5)
    np.testing.assert_array_equal(mask[:, 0], [0, 0, 1, 1, 1, 1])


def test_of_equal_scores_the_first_stay():
    mask = NM(keep=2, of=4).mask(np.zeros((4, 3)), 0.5)
    np.testing.assert_array_equal(mask, np.repeat([[1], [1], [0], [0]], 3, axis=1))
    mask = NM(keep=2, of=4).mask(np.zeros((4, 3)), 0.25)
    np.testing.assert_array_equal(mask.ravel(), [1] * 9 + [0] * 3)


def test_groups_are_channels_within_a_position_of_a_window():
    kernel = np.random.default_rng(2).random((2, 3, 5, 2))
    axes = MatrixAxes(stack=(0, 1), inputs=(2,), outputs=(3,))
    pattern = NM(keep=1, of=2)
    mask = pattern.mask(kernel, pattern.sparsity, matrix=axes)
    for place in np.ndindex(2, 3):
        np.testing.assert_array_equal(mask[place], pattern.mask(kernel[place], pattern.sparsity))


@pytest.mark.parametrize("sparsity", [0.51, 0.75, 1.0])
def test_a_sparsity_above_its_own_raises(sparsity):
    with pytest.raises(ValueError, match=r"Keeping 2 of 4 .* is a sparsity of 0.5, .*`pattern.spa"):
        NM(keep=2, of=4).mask(np.ones((4, 4)), sparsity)


@pytest.mark.parametrize(("keep", "of", "sparsity"), [(1, 3, 2 / 3), (9, 10, 0.1), (2, 6, 2 / 3)])
def test_its_own_sparsity_written_as_a_fraction_is_none_above(keep, of, sparsity):
    mask = NM(keep=keep, of=of).mask(np.arange(of * 5.0).reshape(of, 5), sparsity)
    np.testing.assert_array_equal(mask.sum(axis=0), [keep] * 5)


@pytest.mark.parametrize("shape", [(8,), (3, 3, 4, 4)])
def test_scores_of_other_ranks_ask_for_the_matrix_form(shape):
    with pytest.raises(ValueError, match=r"must have two axes.*matrix_axes\(layer, name\)"):
        NM(keep=2, of=4).mask(np.ones(shape), 0.5)


def test_a_matrix_form_of_another_rank_raises():
    axes = MatrixAxes(inputs=(0,), outputs=(1, 2))
    with pytest.raises(ValueError, match="Argument `matrix` must have as many axes"):
        NM(keep=2, of=4).mask(np.ones((4, 4)), 0.5, matrix=axes)


@pytest.mark.parametrize(("keep", "of"), [(0, 4), (4, 4), (5, 4), (True, 4), (1.0, 4), (-1, 2)])
def test_bad_numbers_raise(keep, of):
    with pytest.raises(ValueError, match="Arguments `keep` and `of`"):
        NM(keep=keep, of=of)


def test_keep_and_of_are_named():
    with pytest.raises(TypeError):
        NM(2, 4)


@pytest.mark.parametrize("axis", [0, 1, -3, "inputs"])
def test_bad_axis_raises(axis):
    with pytest.raises(ValueError, match="Argument `axis`"):
        NM(keep=2, of=4, axis=axis)


def test_scores_that_are_not_finite_raise():
    with pytest.raises(ValueError, match="Scores must be finite"):
        NM(keep=2, of=4).mask(np.full((4, 1), np.nan), 0.5)


def test_what_is_given_is_not_written_to():
    scores, kept = np.arange(12.0).reshape(4, 3), np.ones((4, 3), bool)
    kept[0], frozen = False, np.zeros((4, 3), bool)
    frozen[1] = True
    given_before = [array.copy() for array in (scores, kept, frozen)]
    for sparsity in (0.0, 0.5):
        mask = NM(keep=2, of=4).mask(scores, sparsity, trainable=kept, frozen=frozen)
        assert not np.shares_memory(mask, kept)
    for array, before in zip((scores, kept, frozen), given_before, strict=True):
        np.testing.assert_array_equal(array, before)
