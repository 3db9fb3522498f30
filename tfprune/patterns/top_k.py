"""The elements with the highest scores, to an exact count. Pure functions of NumPy arrays."""

import numbers

import numpy as np


def top_k_mask(scores, sparsity, *, trainable=None, frozen=None):
    """Keeps the elements with the highest scores: exactly as many as the sparsity leaves.

    The number of pruned elements is `sparsity * size` rounded to the nearest integer (half to
    even, as Python's `round`). Below a sparsity of 1 at least one element is kept; 1 prunes all.
    Of equal scores the elements that come first in C order are kept, so a constant array at 0.5
    loses exactly its second half.

    An element that is pruned already stays so and counts, whatever its score; where more are
    pruned than asked for, the mask is `trainable` itself. A frozen element is kept whatever its
    score.

    Args:
        scores: Array of any shape, higher = keep.
        sparsity: Float from 0 to 1, the share of all elements to be pruned.
        trainable: Boolean array of the same shape, False = pruned already. Default: none is.
        frozen: Boolean array of the same shape, True = must be kept. Default: none is.

    Returns:
        A boolean array of the same shape, False = pruned.

    Raises:
        ValueError: If an element that is not pruned has a score of NaN or infinity, if a shape or
            the sparsity is wrong, or if frozen elements leave too few to prune.

    Example:

    >>> top_k_mask(np.array([[3.0, 1.0], [2.0, 2.0]]), 0.5)
    array([[ True, False],
           [ True, False]])
    """
    scores = _floats(scores)
    if trainable is None and frozen is None:
        _check_finite(scores, True)
        return ~_lowest(scores, pruned_count(sparsity, scores.size), candidates=None)

    kept = _boolean("trainable", trainable, scores, default=True)
    frozen = _boolean("frozen", frozen, scores, default=False)
    _check_finite(scores, kept)
    count = pruned_count(sparsity, scores.size) - (scores.size - np.count_nonzero(kept))
    if count <= 0:
        return kept.copy()
    candidates = kept & ~frozen
    available = np.count_nonzero(candidates)
    if count > available:
        raise ValueError(
            f"Cannot reach a sparsity of {sparsity}: {count} more of {scores.size} elements would "
            f"have to be pruned, but only {available} are neither pruned nor frozen. Lower the "
            "sparsity, or unfreeze some."
        )
    return kept & ~_lowest(scores, count, candidates)


def pruned_count(sparsity, size):
    """How many of `size` elements a sparsity prunes.

    Example:

    >>> pruned_count(0.25, 10), pruned_count(0.9999, 10), pruned_count(1.0, 10)
    (2, 9, 10)
    """
    is_number = isinstance(sparsity, numbers.Real) and not isinstance(sparsity, bool)
    if not is_number or not 0 <= sparsity <= 1:  # a NaN compares False
        raise ValueError(
            f"Argument `sparsity` must be a number from 0 to 1. Received: sparsity={sparsity!r}."
        )
    count = round(float(sparsity) * size)
    return count if sparsity == 1 else max(0, min(count, size - 1))


def _lowest(scores, count, candidates):
    """A mask of the `count` candidates with the lowest scores, of equals the last in C order."""
    if count == 0:
        return np.zeros(scores.shape, bool)
    # `compress` is four times as fast as indexing with a mask; one partition is no full sort.
    among = scores if candidates is None else np.compress(candidates.ravel(), scores)
    threshold = np.partition(among, count - 1, axis=None)[count - 1]
    lowest = _among(scores <= threshold, candidates)
    surplus = np.count_nonzero(lowest) - count
    if surplus:
        equal = np.flatnonzero(_among(scores == threshold, candidates))
        lowest[np.unravel_index(equal[:surplus], lowest.shape)] = False
    return lowest


def _among(mask, candidates):
    return mask if candidates is None else mask & candidates


def _floats(scores):
    """The scores as float32 or float64, which NumPy partitions fast; bfloat16 it cannot."""
    scores = np.asarray(scores)
    if scores.dtype in (np.float32, np.float64):
        return scores
    return scores.astype("float32" if scores.dtype.itemsize == 2 else "float64")


def _check_finite(scores, kept):
    finite = np.isfinite(scores)
    if finite.all():
        return
    wrong = ~finite & kept
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            "Scores must be finite where an element is not pruned. Received: "
            f"{np.count_nonzero(wrong)} of {scores.size} scores NaN or infinite, the first "
            f"{scores[index]} at index {index}."
        )


def _boolean(name, mask, scores, default):
    if mask is None:
        return np.full(scores.shape, default)
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != scores.shape:
        raise ValueError(
            f"Argument `{name}` must be a boolean array of the shape of the scores, "
            f"{scores.shape}. Received: dtype={mask.dtype}, shape={mask.shape}."
        )
    return mask
