"""Exact top-k masks from scores. Pure functions of NumPy arrays."""

import numpy as np

from tfprune._tools import parallel
from tfprune._tools.checks import is_number


def top_k_mask(scores, sparsity, *, trainable=None, frozen=None):
    """Returns the mask of the elements with the highest scores, with an exact count.

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
    return top_k_masks([scores], sparsity, trainable=[trainable], frozen=[frozen])[0]


def top_k_masks(
    scores, sparsity, *, trainable=None, frozen=None, keep_one=False, by_magnitude=False
):
    """Returns the masks of several arrays ranked together, as if they were one for `top_k_mask`.

    Args:
        scores: List of arrays.
        sparsity: Float from 0 to 1, the share of all elements of all arrays to be pruned.
        trainable, frozen: Lists of boolean arrays, `None` for one that is pruned, or frozen,
            nowhere. Default: none is.
        keep_one: Whether, below a sparsity of 1, no array loses its last element: its best stays,
            and the next lowest of another goes instead.
        by_magnitude: Whether the scores are the absolute values of what is given. They are never
            all held at once then, which takes half of the memory traffic.

    Returns:
        A list of boolean arrays, False = pruned.

    Raises:
        ValueError: As `top_k_mask`.

    Example:

    >>> [mask.tolist() for mask in top_k_masks([np.array([3.0, 1.0]), np.array([2.0])], 1 / 3)]
    [[True, False], [True]]
    """
    nothing = [None] * len(scores)
    scores = [_floats(array) for array in scores]
    given = parallel.each(checked_scores, scores, trainable or nothing, frozen or nothing)
    scores, kept, frozen = zip(*given, strict=True)
    size = sum(array.size for array in scores)
    pruned = sum(mask.size - np.count_nonzero(mask) for mask in kept if mask is not None)
    count = pruned_count(sparsity, size) - pruned
    if count <= 0:
        return [writable_mask(mask, array) for mask, array in zip(kept, scores, strict=True)]
    candidates = [_candidates(*masks) for masks in zip(kept, frozen, strict=True)]
    available = sum(
        array.size if mask is None else np.count_nonzero(mask)
        for mask, array in zip(candidates, scores, strict=True)
    )
    _check_available(count, available, sparsity, size)
    ranking = _Ranking(scores, candidates, available, count - 1, by_magnitude)
    protected = {}
    if keep_one and sparsity < 1:
        protected = _protected(candidates, kept, frozen, ranking, count)
    while True:
        _check_available(count, available - len(protected), sparsity, size)
        masks = ranking.highest(count + len(protected))
        for place, element in protected.items():
            masks[place].flat[element] = True
        for mask, keeps, stays in zip(masks, kept, frozen, strict=True):
            if stays is not None:
                mask |= stays if keeps is None else keeps & stays
        emptied = [] if not keep_one or sparsity == 1 else _emptied(masks, kept)
        if not emptied:
            return masks
        protected |= {place: ranking.best(place)[0] for place in emptied}


def _check_available(count, available, sparsity, size):
    if count > available:
        raise ValueError(
            f"Cannot reach a sparsity of {sparsity}: {count} more of {size} elements would "
            f"have to be pruned, but only {available} are neither pruned nor frozen. Lower the "
            "sparsity, or unfreeze some."
        )


def _emptied(masks, kept):
    """The places of arrays which had elements left and would have none."""
    pairs = enumerate(zip(masks, kept, strict=True))
    return [
        place
        for place, (mask, before) in pairs
        if mask.size and not mask.any() and (before is None or before.any())
    ]


def _protected(candidates, kept, frozen, ranking, count):
    """The best candidates of arrays which surely lose all they have: their places, flat.

    What is protected lets the next lowest go instead, which may empty other arrays. An array whose
    best is as low as the highest that goes is not among them, since of equals some may stay.
    """
    places = [
        place
        for place, (mask, keeps, stays) in enumerate(zip(candidates, kept, frozen, strict=True))
        if ranking.arrays[place].size
        and (mask is None or mask.any())
        and (stays is None or not (stays if keeps is None else stays & keeps).any())
    ]
    if not places:
        return {}
    arrays = [ranking.arrays[place] for place in places]
    found = parallel.each(lambda _, place: ranking.best(place), arrays, places)
    best = dict(zip(places, found, strict=True))
    protected = {}
    while True:
        threshold = ranking.at(min(count + len(protected), ranking.available) - 1)
        lost = {p: element for p, (element, score) in best.items() if score < threshold}
        if len(lost) == len(protected):
            return protected
        protected = lost


def _candidates(kept, frozen):
    """What may go, `None` for everything."""
    if frozen is None:
        return kept
    return ~frozen if kept is None else kept & ~frozen


def pruned_count(sparsity, size):
    """Returns how many of `size` elements are pruned at a sparsity.

    Example:

    >>> pruned_count(0.25, 10), pruned_count(0.9999, 10), pruned_count(1.0, 10)
    (2, 9, 10)
    """
    if not is_number(sparsity) or not 0 <= sparsity <= 1:  # a NaN compares False
        raise ValueError(
            f"Argument `sparsity` must be a number from 0 to 1. Received: sparsity={sparsity!r}."
        )
    count = round(float(sparsity) * size)
    return count if sparsity == 1 else max(0, min(count, size - 1))


def keep_highest(scores, count, candidates=None):
    """Returns the mask of the candidates without the `count` lowest of them.

    Of equal scores, those that come last in C order go first.

    Args:
        scores: Array of any shape, finite where there is a candidate.
        count: Integer, from 1 to the number of candidates.
        candidates: Boolean array of the same shape. Default: every element is one.

    Returns:
        A boolean array of the same shape.
    """
    available = scores.size if candidates is None else np.count_nonzero(candidates)
    return _Ranking([scores], [candidates], available, count - 1).highest(count)[0]


_SAMPLE = 2**16
"""From how many scores it is guessed between which two the threshold lies."""

_BLOCK = 2**15
"""How many elements are looked at in a row, so that what is made of them stays in the cache."""


class _Ranking:
    """The candidates of several arrays in one order, of which one window is known.

    A sample says between which two values the candidate of a rank must lie, but for bad
    luck; only the few candidates between them are gathered and partitioned. The arrays are read
    block by block, since most of the time goes into moving them through memory.
    """

    def __init__(self, arrays, candidates, available, rank, by_magnitude=False):
        dtype = np.result_type(*arrays)  # else NumPy 1 would compare in the lower precision
        self.arrays = [np.ascontiguousarray(array, dtype) for array in arrays]
        self.candidates = candidates
        self.by_magnitude = by_magnitude
        self.available = available
        self.below = 0  # how many candidates are lower than those of the window
        self.window = None
        if available > 8 * _SAMPLE:
            self._gather(*_bracket(self._sample(), rank / available))

    def _blocks(self, array, mask):
        """The scores of an array piece by piece, each with its candidates."""
        array, mask = array.reshape(-1), None if mask is None else mask.reshape(-1)
        scores = np.empty(_BLOCK, array.dtype)
        for start in range(0, array.size, _BLOCK):
            block = array[start : start + _BLOCK]
            if self.by_magnitude:
                block = np.abs(block, out=scores[: block.size])
            yield block, None if mask is None else mask[start : start + _BLOCK]

    def _sample(self):
        """Scores from everywhere."""
        size = sum(array.size for array in self.arrays)
        stride = max(size // _SAMPLE, 32) | 1  # odd, as few shapes are
        sample = [
            array.reshape(-1)[::stride][... if mask is None else mask.reshape(-1)[::stride]]
            for array, mask in zip(self.arrays, self.candidates, strict=True)
        ]
        sample = np.concatenate(sample)
        return np.abs(sample) if self.by_magnitude else sample

    def _gather(self, low, high):
        """Takes the candidates from `low` to `high`."""

        def gather(array, mask):
            below, inside = 0, []
            for scores, among in self._blocks(array, mask):
                is_below, is_inside = scores < low, scores <= high
                is_inside ^= is_below
                below += np.count_nonzero(_among(is_below, among))
                inside.append(np.compress(_among(is_inside, among), scores))
            return below, np.concatenate(inside or [array.reshape(-1)])

        below, inside = zip(*parallel.each(gather, self.arrays, self.candidates), strict=True)
        self.below = sum(below)
        self.window = np.concatenate(inside)

    def at(self, rank):
        """The candidate which `rank` are lower than."""
        if self.window is None or not 0 <= rank - self.below < self.window.size:
            self._gather(-np.inf, np.inf)
        # One partition is no full sort, and one in place copies nothing.
        self.window.partition(rank - self.below)
        return self.window[rank - self.below]

    def best(self, place):
        """The best candidate of an array, of equals the first: its place in it, flat; its score."""
        found, before = (0, -np.inf), 0
        for scores, among in self._blocks(self.arrays[place], self.candidates[place]):
            scores = scores if among is None else np.where(among, scores, -np.inf)
            element = int(np.argmax(scores))
            if scores[element] > found[1]:
                found = before + element, scores[element]
            before += scores.size
        return found

    def highest(self, count):
        """Masks of the candidates without the `count` lowest, of equals without the last."""
        threshold = self.at(count - 1)

        def above(array, candidates):
            mask = np.empty(array.size, bool)
            size = 0
            for place, (scores, among) in enumerate(self._blocks(array, candidates)):
                part = mask[place * _BLOCK :][: scores.size]
                _among(np.greater(scores, threshold, out=part), among)
                size += np.count_nonzero(part)
            return mask.reshape(array.shape), size

        masks, counts = zip(*parallel.each(above, self.arrays, self.candidates), strict=True)
        missing = self.available - count - sum(counts)
        for mask, array, candidates in zip(masks, self.arrays, self.candidates, strict=True):
            if missing:
                scores = np.abs(array) if self.by_magnitude else array
                equal = np.flatnonzero(_among(scores == threshold, candidates))[:missing]
                mask.reshape(-1)[equal] = True
                missing -= equal.size
        return list(masks)


def _bracket(sample, quantile):
    """Two values between which a quantile of the candidates lies, in all likelihood.

    The place of a quantile in a sample of n has a standard deviation of at most sqrt(n) / 2; four
    of them are left on either side.
    """
    place, margin = quantile * sample.size, 2 * sample.size**0.5 + 1
    low, high = int(place - margin), int(place + margin) + 1
    inside = [place for place in (low, high) if 0 <= place < sample.size]
    sample = np.partition(sample, inside)  # a full sort takes longer
    low = sample[low] if low >= 0 else -np.inf
    return low, sample[high] if high < sample.size else np.inf


def checked_scores(scores, trainable, frozen):
    """Checks the scores and masks that a pattern is given.

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


def writable_mask(mask, scores):
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
    flat = scores.ravel()
    if np.isfinite(np.dot(flat, flat)):  # twice as fast, but squares may overflow
        return
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
