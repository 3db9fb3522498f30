"""The options of SparseGPT, `criterion="sparsegpt"` of `tfprune.prune_weights`."""

import keras

from tfprune._tools.checks import check_integer, check_positive
from tfprune._tools.registry import Configurable

NAME = "sparsegpt"


@keras.saving.register_keras_serializable("tfprune")
class SparseGPT(Configurable):
    """SparseGPT: prunes the weights that the outputs of their layer miss least, and updates others.

    For outputs X W of a layer, an element w of input j has the score w^2 / [H^-1]_jj, with the
    damped Hessian H = X'X + damping * mean(diag X'X) * I of the least squares error, and those
    inputs left out of H that were decided before. The elements of later inputs take over as well as
    they can. Unlike other criteria it changes the weights that are kept; so it is no function from
    weights to scores, and only `tfprune.prune_weights` takes it.

    Args:
        damping: Float above 0, relative to the mean of the diagonal.
        block_size: Integer of at least 1, for how many inputs at a time the mask is selected: in
            each such block the elements with the lowest scores go, over all outputs together.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(2, name="d")])
    >>> x = np.random.default_rng(0).normal(size=(32, 4))
    >>> tfprune.prune_weights(model, 0.5, SparseGPT(damping=0.1), data=(x,))
    MaskCounts(elements=8, pruned=4, frozen=0)

    Reference:
        E. Frantar, D. Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
        One-Shot", https://arxiv.org/abs/2301.00774.
    """

    def __init__(self, *, damping=0.01, block_size=128):
        check_positive("damping", damping)
        check_integer("block_size", block_size)
        self.damping = float(damping)
        self.block_size = int(block_size)

    def get_config(self):
        """The arguments that make this object again."""
        return {"damping": self.damping, "block_size": self.block_size}


def find(identifier):
    """The `SparseGPT` that an identifier means, or None if it means something else.

    Example:

    >>> find("sparsegpt"), find("magnitude")
    (SparseGPT(damping=0.01, block_size=128), None)
    """
    if identifier == NAME if isinstance(identifier, str) else identifier is SparseGPT:
        return SparseGPT()
    return identifier if isinstance(identifier, SparseGPT) else None
