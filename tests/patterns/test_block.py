import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfprune.patterns import Block, MatrixAxes, pruned_count

matrices = hnp.arrays(  # sums of these are exact, and ties many
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.sampled_from([0.0, -1.0, 0.5, 2.0]),
)
patterns = st.builds(
    lambda rows, columns, pooling: Block((rows, columns), pooling=pooling),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["mean", "max"]),
)


def blocks_of(shape, size):
    """The places of each block, in C order."""
    for top in range(0, shape[0], size[0]):
        for left in range(0, shape[1], size[1]):
            rows = range(top, min(top + size[0], shape[0]))
            columns = range(left, min(left + size[1], shape[1]))
            yield [(row, column) for row in rows for column in columns]


def slow_mask(pattern, scores, sparsity, kept, frozen):
    """The mask by loops over blocks; `None` where frozen elements stand in its way."""
    pool = {"mean": np.mean, "max": np.max}[pattern.pooling]
    loose, held = [], []
    for number, block in enumerate(blocks_of(scores.shape, pattern.shape)):
        living = [place for place in block if kept[place]]
        if any(frozen[place] for place in living):
            held.append(len(living))
        elif living:
            loose.append((pool([float(scores[place]) for place in living]), -number, living))
    asked, mask = pruned_count(sparsity, scores.size), kept.copy()
    loose.sort()
    if sparsity < 1 and not held:
        loose = loose[:-1]
    for _, _, block in loose:
        gone = int(np.sum(~mask))
        if abs(gone + len(block) - asked) >= abs(gone - asked):
            return mask
        for place in block:
            mask[place] = False
    gone = int(np.sum(~mask))
    stuck = any(abs(gone + size - asked) < abs(gone - asked) for size in held)
    return None if stuck else mask


def test_pairs_of_rows_by_hand():
    scores = np.array([[1, 5, 2], [1, 5, 4], [9, 0, 7], [0, 0, 7]])
    mask = Block((2, 1)).mask(scores, 1 / 3)
    np.testing.assert_array_equal(mask, [[0, 1, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1]])
    mask = Block((2, 1), pooling="max").mask(scores, 0.5)
    np.testing.assert_array_equal(mask, [[0, 1, 0], [0, 1, 0], [1, 0, 1], [1, 0, 1]])


@given(matrices, patterns, st.floats(0, 1))
def test_equals_loops_over_blocks(scores, pattern, sparsity):
    kept, frozen = np.ones(scores.shape, bool), np.zeros(scores.shape, bool)
    expected = slow_mask(pattern, scores, sparsity, kept, frozen)
    np.testing.assert_array_equal(pattern.mask(scores, sparsity), expected)


@given(matrices, patterns, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_pruned_counts_and_blocks_with_frozen_stay(scores, pattern, sparsity, seed):
    rng = np.random.default_rng(seed)
    kept, frozen = rng.random(scores.shape) < 0.7, rng.random(scores.shape) < 0.1
    scores = np.where(kept, scores, np.nan)  # what is pruned has no score
    expected = slow_mask(pattern, scores, sparsity, kept, frozen)
    if expected is None:
        with pytest.raises(ValueError, match=r"Cannot reach a sparsity of .* hold frozen"):
            pattern.mask(scores, sparsity, trainable=kept, frozen=frozen)
        return
    mask = pattern.mask(scores, sparsity, trainable=kept, frozen=frozen)
    np.testing.assert_array_equal(mask, expected)
    for block in blocks_of(scores.shape, pattern.shape):
        before = [place for place in block if kept[place]]
        after = {bool(mask[place]) for place in before}
        assert len(after) <= 1
        assert not any(mask[place] for place in block if not kept[place])
        assert not any(frozen[place] for place in before) or after == {True}


@given(matrices, patterns, st.floats(0, 1))
def test_the_number_pruned_is_off_by_half_a_block_at_most(scores, pattern, sparsity):
    mask = pattern.mask(scores, sparsity)
    blocks = list(blocks_of(scores.shape, pattern.shape))
    left = sum(any(mask[place] for place in block) for block in blocks)
    off = abs(np.sum(~mask) - pruned_count(sparsity, scores.size))
    assert off <= max(map(len, blocks)) / 2 or left == 1
    assert mask.any() or sparsity == 1


@given(matrices, patterns, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_sparsity_prunes_the_same_and_more(scores, pattern, low, high):
    low, high = sorted([low, high])
    first, last = pattern.mask(scores, low), pattern.mask(scores, high)
    assert not (last & ~first).any()
    np.testing.assert_array_equal(pattern.mask(scores, high, trainable=first), last)


def test_blocks_of_one_element_are_unstructured():
    from tfprune.patterns import top_k_mask

    scores = np.random.default_rng(1).normal(size=(5, 7))
    for pooling in ("mean", "max"):
        mask = Block((1, 1), pooling=pooling).mask(scores, 0.37)
        np.testing.assert_array_equal(mask, top_k_mask(scores, 0.37))


def test_a_block_at_the_edge_has_the_mean_of_what_it_has():
    scores = np.array([[2.0], [2.0], [2.0], [2.0], [3.0]])
    mask = Block((4, 3)).mask(scores, 0.8)
    np.testing.assert_array_equal(mask[:, 0], [0, 0, 0, 0, 1])


def test_of_equal_blocks_the_first_stay():
    mask = Block((2, 2)).mask(np.ones((4, 4)), 0.5)
    np.testing.assert_array_equal(mask, np.repeat([[1], [1], [0], [0]], 4, axis=1))


def test_almost_all_keeps_a_block_and_all_keeps_none():
    scores = np.arange(16.0).reshape(4, 4)
    np.testing.assert_array_equal(Block((2, 4)).mask(scores, 0.99)[:, 0], [0, 0, 1, 1])
    assert not Block((2, 4)).mask(scores, 1.0).any()


def test_blocks_are_of_channels_within_a_position_of_a_window():
    kernel = np.random.default_rng(2).random((3, 5, 2))
    mask = Block((2, 2)).mask(kernel, 0.5, matrix=MatrixAxes(stack=(0,), inputs=(1,), outputs=(2,)))
    assert np.sum(~mask) in (14, 16)
    for matrix in mask:
        for block in blocks_of((5, 2), (2, 2)):
            assert len({bool(matrix[place]) for place in block}) == 1


@pytest.mark.parametrize("shape", [(8,), (3, 4, 4)])
def test_scores_of_other_ranks_ask_for_the_matrix_form(shape):
    with pytest.raises(ValueError, match=r"must have two axes.*matrix_axes\(layer, name\)"):
        Block((4, 1)).mask(np.ones(shape), 0.5)


@pytest.mark.parametrize("shape", [4, (4,), (4, 0), (4, 1.0), (True, 4), "41", (1, 2, 3)])
def test_bad_shape_raises(shape):
    with pytest.raises(ValueError, match="Argument `shape`"):
        Block(shape)


def test_bad_pooling_raises():
    with pytest.raises(ValueError, match="Argument `pooling`.*'mean', 'max'.*'sum'"):
        Block((4, 1), pooling="sum")


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
def test_any_number_type(dtype):
    mask = Block((2, 1)).mask(np.array([[3, 1], [4, 1]]).astype(dtype), 0.5)
    np.testing.assert_array_equal(mask, [[1, 0], [1, 0]])
