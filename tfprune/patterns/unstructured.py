"""Unstructured sparsity: single elements."""

import keras

from tfprune.patterns.pattern import Pattern
from tfprune.patterns.top_k import top_k_mask


@keras.saving.register_keras_serializable("tfprune")
class Unstructured(Pattern):
    """Unstructured sparsity: prunes the elements with the lowest scores; see `top_k_mask`.

    Example:

    >>> import numpy as np
    >>> Unstructured().mask(np.array([3.0, 1.0, 2.0, 2.0]), 0.5)
    array([ True, False,  True, False])
    """

    def mask(self, scores, sparsity, *, trainable=None, frozen=None, matrix=None):
        """`top_k_mask`; the matrix form is of no use to it."""
        return top_k_mask(scores, sparsity, trainable=trainable, frozen=frozen)
