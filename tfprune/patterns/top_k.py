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
    scores, kept, frozen = checked(scores, trainable, frozen)
    pruned = 0 if kept is None else scores.size - np.count_nonzero(kept)
    count = pruned_count(sparsity, scores.size) - pruned
    if count <= 0:
        return copied(kept, scores)
    if frozen is None:
        return highest(scores, count, candidates=kept)
    candidates = ~frozen if kept is None else kept & ~frozen
    available = np.count_nonzero(candidates)
    if count > available:
        raise ValueError(
            f"Cannot reach a sparsity of {sparsity}: {count} more of {scores.size} elements would "
            f"have to be pruned, but only {available} are neither pruned nor frozen. Lower the "
            "sparsity, or unfreeze some."
        )
    mask = highest(scores, count, candidates)
    return mask | (frozen if kept is None else kept & frozen)


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


def highest(scores, count, candidates=None):
    """The candidates without the `count` lowest of them, of equals without the last in C order.

    Args:
        scores: Array of any shape, finite where there is a candidate.
        count: Integer, from 1 to the number of candidates.
        candidates: Boolean array of the same shape. Default: every element is one.

    Returns:
        A boolean array of the same shape.
    """
    # One partition is no full sort, and one in place copies nothing a second time. `compress` is
    # four times as fast as indexing with a mask, and as filling in what is no candidate.
    among = scores.flatten() if candidates is None else np.compress(candidates.ravel(), scores)
    among.partition(count - 1)
    threshold = among[count - 1]
    mask = _among(scores > threshold, candidates)
    missing = among.size - count - np.count_nonzero(mask)
    if missing:
        equal = np.flatnonzero(_among(scores == threshold, candidates))
        mask[np.unravel_index(equal[:missing], mask.shape)] = True
    return mask


def checked(scores, trainable, frozen):
    """What every pattern is given, checked.

    Returns:
        The scores as float32 or float64; what is kept, `None` for everything; what is frozen,
        `None` for nothing.

    Raises:
        ValueError: If an element that is not pruned has a score of NaN or infinity, or a mask is
            not boolean and of the shape of the scores.
    """
    scores = _floats(scores)
    kept = _boolean("trainable", trainable, scores)
    frozen = _boolean("frozen", frozen, scores)
    kept = None if kept is None or kept.all() else kept
    frozen = None if frozen is None or not frozen.any() else frozen
    _check_finite(scores, kept)
    return scores, kept, frozen


def copied(mask, scores):
    """A mask that the caller may write to, of ones where it is `None`."""
    return np.ones(scores.shape, bool) if mask is None else mask.copy()


def _among(mask, candidates):
    if candidates is not None:
        mask &= candidates
    return mask


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
    wrong = ~finite if kept is None else ~finite & kept
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            "Scores must be finite where an element is not pruned. Received: "
            f"{np.count_nonzero(wrong)} of {scores.size} scores NaN or infinite, the first "
            f"{scores[index]} at index {index}."
        )


def _boolean(name, mask, scores):
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != scores.shape:
        raise ValueError(
            f"Argument `{name}` must be a boolean array of the shape of the scores, "
            f"{scores.shape}. Received: dtype={mask.dtype}, shape={mask.shape}."
        )
    return mask
