"""Frozen masks at a fraction: criterion -> scores, distribution -> counts -> masks.

The count is a share of all elements of a weight, so it does not change when others are pruned. An
update that is made again finds the right count and measures nothing. Elements are unfrozen only
where the schedule has fallen, so those that a user froze by hand stay frozen under a schedule that
begins with 0.
"""

import numpy as np

from tfprune.criteria import freezing
from tfprune.patterns.top_k import checked_scores, keep_highest
from tfprune.weights import distributions
from tfprune.weights.prunable import check_target
from tfprune.weights.scores import WeightScores, error_context


class FreezingMethod:
    """Computes the masks that freeze a fraction of the elements of weights.

    Args:
        criterion, distribution, data, verbose: See `tfprune.freeze_weights`.

    Raises:
        ValueError: If an argument is wrong.
    """

    def __init__(self, criterion, *, distribution="uniform", data=None, verbose=0):
        self.criterion = freezing.get(criterion)
        self.distribution = distributions.get(distribution)
        self._scoring = WeightScores(self.criterion, data=data, verbose=verbose, action="freeze")

    def masks(self, model, weights, fraction, *, final, thaw=True):
        """The masks that freeze a fraction; the model is not changed.

        Args:
            model: The model.
            weights: `PrunableWeight`s of it.
            fraction: Float from 0 to 1, of the elements, for now.
            final: Float, the fraction in the end; see `tfprune.distributions.allocate`.
            thaw: Whether elements are unfrozen where more are frozen.

        Returns:
            A list of boolean arrays, `None` where a weight stays as it is.

        Raises:
            ValueError: If the fraction is none, or scores are not finite.
        """
        check_target(fraction)
        kept = [weight.trainable_mask for weight in weights]
        frozen = [weight.frozen_mask for weight in weights]
        together = self.distribution is distributions.GLOBAL
        if together:
            kept, frozen = [[_joined(masks)] for masks in (kept, frozen)]
            fractions = [fraction]
        else:
            fractions = distributions.allocate(self.distribution, model, weights, fraction, final)
        missing = [
            wanted_count(of_weight, masks[0]) - np.count_nonzero(masks[0] & masks[1])
            for of_weight, masks in zip(fractions, zip(kept, frozen, strict=True), strict=True)
        ]
        indices = [i for i, count in enumerate(missing) if count > 0 or (count < 0 and thaw)]
        if not indices:
            return [None] * len(weights)
        if together:
            scores = self._scoring.of(model, weights, range(len(weights)))
            for weight, array in zip(weights, scores.values(), strict=True):
                with error_context(
                    weight, "freeze"
                ):  # whose scores are not finite, the error names
                    checked_scores(array, weight.trainable_mask, None)
            mask = frozen_mask(_joined(scores.values()), missing[0], kept[0], frozen[0])
            return _split(mask, weights)
        scores = self._scoring.of(model, weights, indices)
        masks = [None] * len(weights)
        for index in indices:
            with error_context(weights[index], "freeze"):
                of_weight = (each[index] for each in (scores, missing, kept, frozen))
                masks[index] = frozen_mask(*of_weight)
        return masks


def wanted_count(fraction, kept):
    """The number of elements to freeze: a fraction of all, at most those that are not pruned.

    Example:

    >>> wanted_count(0.5, np.array([True, True, True, False]))
    2
    >>> wanted_count(1.0, np.array([True, True, True, False]))
    3
    """
    return min(round(float(fraction) * kept.size), int(np.count_nonzero(kept)))


def frozen_mask(scores, missing, kept, frozen):
    """A frozen mask with more elements, those of the lowest scores; or without the highest.

    Of equal scores those that come last in C order are frozen first, and unfrozen last.

    Args:
        scores: Array of any shape, higher = trained longer.
        missing: Integer, how many more are to be frozen; below 0, how many are to be set free.
        kept: Boolean array of the same shape, False = pruned, neither frozen nor set free.
        frozen: Boolean array of the same shape, what is frozen now.

    Returns:
        A boolean array of the same shape.

    Raises:
        ValueError: If an element that is not pruned has a score of NaN or infinity.

    Example:

    >>> everything, nothing = np.ones(4, bool), np.zeros(4, bool)
    >>> two = frozen_mask(np.array([3.0, 1.0, 2.0, 4.0]), 2, everything, nothing)
    >>> two
    array([False,  True,  True, False])
    >>> frozen_mask(np.array([3.0, 1.0, 2.0, 4.0]), -1, everything, two)
    array([False,  True, False, False])
    """
    scores, _, _ = checked_scores(scores, kept, None)
    candidates = kept & (~frozen if missing > 0 else frozen)
    count = missing if missing > 0 else np.count_nonzero(candidates) + missing
    lowest = candidates
    if count < np.count_nonzero(candidates):
        lowest = candidates & ~keep_highest(scores, count, candidates) if count else False
    return frozen | lowest if missing > 0 else (frozen & ~candidates) | lowest


def frozen_share(weights):
    """The share of the elements of weights that are frozen, and not pruned."""
    pairs = [(weight.trainable_mask, weight.frozen_mask) for weight in weights]
    frozen = sum(int(np.count_nonzero(kept & mask)) for kept, mask in pairs)
    return frozen / sum(kept.size for kept, _ in pairs)


def _joined(arrays):
    return np.concatenate([np.ravel(array) for array in arrays])


def _split(joined, weights):
    sizes = [weight.trainable_mask.size for weight in weights]
    parts = np.split(joined, np.cumsum(sizes)[:-1])
    return [part.reshape(weight.shape) for part, weight in zip(parts, weights, strict=True)]
