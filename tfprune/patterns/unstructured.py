"""Unstructured sparsity: single elements."""

import keras
import numpy as np

from tfprune._tools.checks import one_of
from tfprune.patterns.matrix import matrix_or_default
from tfprune.patterns.pattern import Pattern
from tfprune.patterns.top_k import checked_scores, keep_highest, pruned_count, top_k_mask


@keras.saving.register_keras_serializable("tfprune")
class Unstructured(Pattern):
    """Unstructured sparsity: prunes the elements with the lowest scores; see `top_k_mask`.

    Args:
        compare: With which elements an element is compared: "weight", all of the weight; or
            "output", those of the same output in the matrix form of the weight. Then each output
            loses as many, but for one more or less: of elements that have the same rank in their
            outputs the lowest go first.

    Raises:
        ValueError: If `compare` is none of these.

    Example:

    >>> scores = np.array([[3.0, 0.3], [1.0, 0.1], [2.0, 0.2], [2.0, 0.2]])
    >>> Unstructured().mask(scores[:, 0], 0.5)
    array([ True, False,  True, False])
    >>> Unstructured(compare="output").mask(scores, 0.5).sum(axis=0)
    array([2, 2])

    Reference:
        M. Sun et al., "A Simple and Effective Pruning Approach for Large Language Models",
        https://arxiv.org/abs/2306.11695, section 3, for the comparison within each output.
    """

    def __init__(self, compare="weight"):
        self.compare = one_of("compare", compare, ("weight", "output"))

    @property
    def uses_matrix(self):
        """Whether `mask` asks for the matrix form of the weight."""
        return self.compare == "output"

    def mask(self, scores, sparsity, *, trainable=None, frozen=None, matrix=None):
        """Which elements stay; see `Pattern.mask`.

        Raises:
            ValueError: As `top_k_mask`.
        """
        if self.compare == "weight":
            return top_k_mask(scores, sparsity, trainable=trainable, frozen=frozen)
        scores, kept, frozen = checked_scores(scores, trainable, frozen)
        axes = matrix_or_default(matrix, scores)
        before = np.ones(scores.shape, bool) if kept is None else kept
        stays = np.zeros(scores.shape, bool) if frozen is None else frozen & before
        count = pruned_count(sparsity, scores.size) - (scores.size - np.count_nonzero(before))
        if count <= 0:
            return before.copy()
        if count > np.count_nonzero(before & ~stays):
            return top_k_mask(scores, sparsity, trainable=trainable, frozen=frozen)  # which raises
        ordered = np.where(before, np.where(stays, np.inf, scores), -np.inf)
        ranks = axes.from_matrix(_ranks(axes.to_matrix(ordered)), scores.shape)
        candidates = before & ~stays
        # All candidates of lower ranks go; of those of the last rank the ones of lowest scores.
        totals = np.cumsum(np.bincount(ranks[candidates]))
        last = int(np.searchsorted(totals, count))
        mask = before & ~(candidates & (ranks < last))
        missing = count - (int(totals[last - 1]) if last else 0)
        among = candidates & (ranks == last)
        if missing:
            mask &= ~among | keep_highest(scores, missing, among)
        return mask

    def get_config(self):
        """The arguments that make this pattern again."""
        return {"compare": self.compare}


def _ranks(matrix):
    """The rank of each element among those of its output, 0 for the lowest; of equals the last."""
    stack, rows, columns = matrix.shape
    flat = matrix.reshape(stack * rows, columns)[::-1]
    order = np.argsort(flat, axis=0, kind="stable")
    ranks = np.empty(order.shape, np.int64)
    np.put_along_axis(ranks, order, np.arange(len(flat))[:, None], axis=0)
    return ranks[::-1].reshape(matrix.shape)
