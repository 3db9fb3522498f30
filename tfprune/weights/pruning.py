"""Masks of weights at a sparsity: criterion -> scores, distribution and pattern -> masks."""

import numpy as np

from tfprune import patterns
from tfprune.criteria import weights as criteria
from tfprune.patterns import matrix_axes, pruned_count, top_k_mask, top_k_masks
from tfprune.weights import distributions
from tfprune.weights.prunable import check_target
from tfprune.weights.scores import WeightScores, error_context


class PruningMethod:
    """Computes the masks that bring weights to a sparsity.

    Args:
        criterion, pattern, distribution, data, verbose: See `tfprune.prune_weights`.

    Raises:
        ValueError: If an argument is wrong, or two do not go together.
    """

    def __init__(
        self, criterion="magnitude", *, pattern=None, distribution="uniform", data=None, verbose=0
    ):
        self.criterion = criteria.get(criterion)
        self.distribution = distributions.get(distribution)
        self.pattern = patterns.get(pattern)
        if pattern is None and self.distribution is not distributions.GLOBAL:
            self.pattern = criteria.pattern_of(self.criterion)
        self._scoring = WeightScores(self.criterion, data=data, verbose=verbose)
        if self.distribution is distributions.GLOBAL and self.pattern.uses_matrix:
            raise ValueError(
                "Argument `distribution` cannot be 'global' with a pattern in the matrix of each "
                f"weight. Received: pattern={self.pattern!r}. Take 'uniform' or 'erk'."
            )

    def masks(self, model, weights, sparsity, *, final, measured=None):
        """The trainable masks that bring weights to a sparsity; nothing is changed.

        Args:
            model: The model.
            weights: `PrunableWeight`s of it.
            sparsity: Float from 0 to 1, for now.
            final: Float, the sparsity in the end; see `tfprune.distributions.allocate`.
            measured: Dict from name to a list of arrays, measures that were taken already.

        Returns:
            A list of boolean arrays, `None` where a weight is sparse enough already.

        Raises:
            ValueError: If scores are not finite or frozen elements leave too few to prune.
        """
        check_target(sparsity)
        if self.distribution is distributions.GLOBAL:
            return self._ranked_together(model, weights, sparsity, measured)
        sparsities = distributions.allocate(self.distribution, model, weights, sparsity, final)
        kept = [weight.trainable_mask for weight in weights]
        indices = [
            index
            for index, mask in enumerate(kept)
            if self.pattern.uses_matrix
            or mask.size - np.count_nonzero(mask) < pruned_count(sparsities[index], mask.size)
        ]
        scores = self._scoring.of(model, weights, indices, measured)
        masks = [None] * len(weights)
        for index in indices:
            weight = weights[index]
            with error_context(weight):
                uses_matrix = self.pattern.uses_matrix
                matrix = matrix_axes(weight.layer, weight.name) if uses_matrix else None
                masks[index] = self.pattern.mask(
                    scores[index],
                    sparsities[index],
                    trainable=kept[index],
                    frozen=weight.frozen_mask,
                    matrix=matrix,
                )
        return masks

    def _ranked_together(self, model, weights, sparsity, measured):
        """Masks out of one ranking; each weight keeps an element, unless all go."""
        kept = [weight.trainable_mask for weight in weights]
        size = sum(mask.size for mask in kept)
        if size - sum(map(np.count_nonzero, kept)) >= pruned_count(sparsity, size):
            return [None] * len(weights)
        by_magnitude = self.criterion is criteria.magnitude
        if by_magnitude:
            scores = [weight.value for weight in weights]
        else:
            scores = list(self._scoring.of(model, weights, range(len(weights)), measured).values())
        limits = {"frozen": [weight.frozen_mask for weight in weights], "keep_one": True}
        try:
            return top_k_masks(
                scores, sparsity, trainable=kept, by_magnitude=by_magnitude, **limits
            )
        except ValueError as error:
            for weight, score in zip(weights, scores, strict=True):
                with error_context(weight):  # whose scores are not finite, the error names
                    top_k_mask(score, 0.0, trainable=weight.trainable_mask)
            raise ValueError(f"Cannot prune the weights together. {error}") from error
