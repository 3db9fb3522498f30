"""The options of optimal brain compression, `criterion="obc"` of `tfprune.prune_weights`."""

import keras

from tfprune._tools.checks import check_integer, check_positive
from tfprune._tools.registry import Configurable

NAME = "obc"


@keras.saving.register_keras_serializable("tfprune")
class OBC(Configurable):
    """Optimal brain compression in rounds, for the whole model: the most accurate without training.

    For an output x w of a layer with the damped Hessian H = X'X + damping * mean(diag X'X) * I, an
    element w_j has the price

        g w_j^2 / [H^-1]_jj

    the error of the output without it, the other elements fitted anew, times g, what errors of
    that output do to the outputs of the model, measured by their gradients. So prices of all
    layers are in one unit, the squared error of the outputs relative to their variance, and the
    lowest of all layers go (`distribution="global"`, the default here). Prices are worked out anew
    as elements of the same output go. No labels are needed.

    Each round prunes the same share of what is left. Then the weights that are kept, and biases,
    are fitted by least squares to what the layer gives in the dense model, with its inputs in the
    pruned one; and the next round measures the pruned model. In the last round layers are fitted
    one after the other, so that the errors of those before are made up for. A layer errs no more on
    the data than with the same mask and the weights unchanged.

    It is no option of `SparseGPT`, which is for large models: there one inverse for each layer, in
    one order of its inputs, serves all outputs, and each layer is done before the next is measured.
    Here each output has an inverse of its own, and the fit of each takes a third of the cube of the
    inputs it has left in operations, in each round: seconds for a layer of 784 x 40, many minutes
    for one of 4,608 x 512. Like SparseGPT it is no function from weights to scores, and only
    `tfprune.prune_weights` takes it.

    Args:
        rounds: Integer of at least 1.
        damping: Float above 0, relative to the mean of the diagonal: of the Hessian, and of the
            penalty on the change of weights in the fit.
        block_size: Integer of at least 1: of a layer with more inputs the Hessian is taken to be
            one of blocks along the diagonal, in the prices alone.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((4,)), tfprune.layers.Dense(8, "relu", name="a"),
    ...     tfprune.layers.Dense(2, name="b")])
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> tfprune.prune_weights(model, 0.75, OBC(rounds=2), data=(x,))
    MaskCounts(elements=48, pruned=36, frozen=0)

    Reference:
        E. Frantar, S. P. Singh, D. Alistarh, "Optimal Brain Compression",
        https://arxiv.org/abs/2208.11580, for the order of each output, and its ranking of several
        together; rounds in which the pruned model is measured anew as in R. Benbaki et al., "Fast
        as CHITA", https://arxiv.org/abs/2302.14623.
    """

    def __init__(self, *, rounds=8, damping=0.01, block_size=512):
        check_integer("rounds", rounds)
        check_positive("damping", damping)
        check_integer("block_size", block_size)
        self.rounds = int(rounds)
        self.damping = float(damping)
        self.block_size = int(block_size)

    def get_config(self):
        """The arguments that make this object again."""
        return {
            "rounds": self.rounds,
            "damping": self.damping,
            "block_size": self.block_size,
        }


def find(identifier):
    """The `OBC` that an identifier means, or None if it means something else.

    Example:

    >>> find("obc"), find("magnitude")
    (OBC(rounds=8, damping=0.01, block_size=512), None)
    """
    if identifier == NAME if isinstance(identifier, str) else identifier is OBC:
        return OBC()
    return identifier if isinstance(identifier, OBC) else None
