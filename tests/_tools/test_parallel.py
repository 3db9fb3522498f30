import threading

import numpy as np
import pytest

from tfprune._tools import parallel
from tfprune.patterns import top_k


@pytest.mark.parametrize("size", [3, 2**20], ids=["here", "in threads"])
def test_results_come_in_the_order_of_the_arrays(size):
    arrays = [np.full(size + place, place) for place in range(5)]
    found = parallel.each(lambda array, more: (array[0], array.size, more), arrays, "abcde")
    assert found == [(place, size + place, "abcde"[place]) for place in range(5)]


def test_threads_are_for_many_elements():
    def names(size):
        arrays = [np.zeros(size)] * 8
        return set(parallel.each(lambda array: threading.current_thread().name, arrays))

    here = threading.current_thread().name
    assert names(10) == {here}
    assert here not in names(2**20)


def test_what_one_call_raises_is_raised():
    def fail(array, place):
        if place == 2:
            raise ValueError("the third")

    with pytest.raises(ValueError, match="the third"):
        parallel.each(fail, [np.zeros(2**20)] * 4, range(4))


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.999])
def test_many_scores_in_threads_are_ranked_as_by_a_sort(sparsity):
    draw = np.random.default_rng(0)
    arrays = [draw.normal(size=(1400, 1100)).astype("float32") * scale for scale in (1, 2, 1e-6)]
    masks = top_k.top_k_masks(arrays, sparsity, keep_one=True)
    everything = np.concatenate([array.ravel() for array in arrays])
    assert sum(int(mask.sum()) for mask in masks) == everything.size - round(
        sparsity * everything.size
    )
    lost = np.concatenate([array[~mask] for array, mask in zip(arrays, masks, strict=True)])
    stays = [array[mask] for array, mask in zip(arrays, masks, strict=True)]
    for array, left in zip(arrays, stays, strict=True):
        assert left.size > 1 or left == array.max()  # what would be lost keeps its best
    assert min(left.min() for left in stays if left.size > 1) >= lost.max()
    assert sparsity == 0.5 or stays[2].size == 1
