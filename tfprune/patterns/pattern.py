"""The base class of patterns."""

from tfprune._tools.registry import Configurable


class Pattern(Configurable):
    """Base class: computes the mask of one weight from its scores and a sparsity.

    A pattern holds nothing but its arguments: `mask` is a pure function of NumPy arrays. For every
    pattern, what is pruned stays pruned, what is frozen is kept, equal scores are told apart by
    their place, and with the same scores a higher sparsity prunes what a lower one did, and more.

    A subclass implements `mask` and, where it has arguments, `get_config`.

    Example:

    >>> import numpy as np
    >>> class FirstColumns(Pattern):
    ...     def mask(self, scores, sparsity, *, trainable=None, frozen=None, matrix=None):
    ...         mask = np.ones(scores.shape, bool)
    ...         mask[:, round((1 - sparsity) * scores.shape[1]) :] = False
    ...         return mask
    >>> FirstColumns().mask(np.zeros((2, 4)), 0.75)
    array([[ True, False, False, False],
           [ True, False, False, False]])
    """

    uses_matrix = False
    """Whether `mask` asks for the matrix form of the weight, see `matrix_axes`."""

    def mask(self, scores, sparsity, *, trainable=None, frozen=None, matrix=None):
        """Which elements stay.

        Args:
            scores: Array of the shape of the weight, higher = keep.
            sparsity: Float from 0 to 1, the share of all elements to be pruned.
            trainable: Boolean array of the same shape, False = pruned already. Default: none is.
            frozen: Boolean array of the same shape, True = must be kept. Default: none is.
            matrix: `MatrixAxes`, from `matrix_axes(layer, name)`. Default: the rows of an array of
                two axes are inputs, its columns outputs.

        Returns:
            A boolean array of the same shape, False = pruned.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `mask`.")
