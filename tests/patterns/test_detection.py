import numpy as np
import pytest

from tfprune.patterns import NM, Block, MatrixAxes, pattern_of

DENSE = MatrixAxes(inputs=(0,), outputs=(1,))
CONV = MatrixAxes(stack=(0, 1), inputs=(2,), outputs=(3,))
RNG = np.random.default_rng(0)


def bits(*rows):
    return np.array([[int(bit) for bit in row] for row in rows], bool)


@pytest.mark.parametrize(
    ("mask", "pattern"),
    [
        (bits("111", "111"), "dense"),
        (bits("101", "101"), "units"),
        (bits("111", "000"), "units"),
        (bits("101", "000", "101"), "units"),
        (bits("000", "000"), "units"),
        (bits("101", "101", "011", "011"), "blocks 2x1"),
        (bits("1100", "0011", "0011"), "blocks 1x2"),
        (bits("1100", "1100", "0011", "0011", "1111"), "blocks 2x2"),
        (bits("101", "101", "010", "010", "011"), "blocks 2x1"),  # the edge is half a block
        (bits("10", "01", "01", "10"), "1:2"),
    ],
    ids=str,
)
def test_masks_by_hand(mask, pattern):
    assert pattern_of(mask, DENSE) == pattern


def two_of_four(groups, columns):
    chosen = [RNG.permutation([True, True, False, False]) for _ in range(groups * columns)]
    return np.reshape(chosen, (columns, 4 * groups)).T


def test_two_of_four_inputs():
    mask = two_of_four(16, 10)
    assert pattern_of(mask, DENSE) == "2:4"
    assert pattern_of(mask.T, DENSE) == "2:4 of outputs"


def test_one_element_too_many_is_no_pattern():
    mask = two_of_four(16, 10)
    mask[:4, 0] = True, False, True, True
    assert pattern_of(mask, DENSE) == "unstructured"


def test_units_that_are_gone_leave_the_pattern_of_the_others():
    mask = two_of_four(16, 10)
    mask[:, 2:5] = False
    assert pattern_of(mask, DENSE) == "2:4"


@pytest.mark.parametrize(("keep", "of"), [(1, 2), (1, 4), (2, 4), (3, 4), (2, 8), (1, 16), (2, 5)])
@pytest.mark.parametrize(("axis", "suffix"), [(-2, ""), (-1, " of outputs")])
def test_groups_of_any_length(keep, of, axis, suffix):
    pattern = NM(keep=keep, of=of, axis=axis)
    mask = pattern.mask(RNG.normal(size=(83, 85)), pattern.sparsity)
    assert pattern_of(mask, DENSE) == f"{keep}:{of}{suffix}"


@pytest.mark.parametrize("shape", [(4, 1), (1, 3), (4, 4), (5, 2)])
def test_blocks_of_any_shape(shape):
    mask = Block(shape).mask(RNG.normal(size=(41, 42)), 0.6)
    assert pattern_of(mask, DENSE) == f"blocks {shape[0]}x{shape[1]}"


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.75, 0.9, 0.98])
def test_random_masks_are_unstructured(sparsity):
    assert pattern_of(RNG.random((64, 64)) >= sparsity, DENSE) == "unstructured"


def test_the_positions_of_a_window_are_apart():
    mask = np.ones((3, 3, 8, 6), bool)
    mask[:, :, :, 2] = False
    assert pattern_of(mask, CONV) == "units"
    mask[0, 0, :, 2] = True
    assert pattern_of(mask, CONV) == "blocks 8x1"
    pattern = NM(keep=2, of=4)
    mask = pattern.mask(RNG.normal(size=mask.shape), pattern.sparsity, matrix=CONV)
    assert pattern_of(mask, CONV) == "2:4"


def test_without_inputs_and_outputs():
    assert pattern_of(np.array([True, False, True])) == "units"
    assert pattern_of(np.array([True, True])) == "dense"
    assert pattern_of(bits("101", "101")) == "unstructured"
