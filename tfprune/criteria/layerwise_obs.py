"""The criterion `LayerwiseOBS` for units: layer-wise optimal brain surgeon, and its options."""

import keras

from tfprune._tools.checks import check_positive
from tfprune.criteria.criterion import Criterion


@keras.saving.register_keras_serializable("tfprune")
class LayerwiseOBS(Criterion):
    """Error of the layers that use a unit after least squares has made up for its loss.

    A layer takes the inputs X and multiplies them with W. Without the inputs R of a unit, and with
    the other weights fitted anew, its outputs err by

        tr(G W_R' [(H^-1)_RR]^-1 W_R),    H = X'X + damping * mean(diag X'X) * I

    the price of optimal brain surgeon. X is centred where a bias, or the mean of a batch
    normalization, makes up for the mean. G is what errors of the layer do to the outputs of the
    model, measured by their gradients, so prices of all layers are in one unit: the squared error
    of the outputs, relative to their variance. No labels are needed. The price of a unit is the sum
    over the layers that use it. The cheapest unit goes first, then prices are worked out anew
    without it; what is returned for a unit is its price when its turn comes. Prices that would
    fall from one turn to the next are averaged, so that they rise in the order of removal.

    Weights that are in no product of inputs with a matrix, as in a recurrent layer, or that have
    more than 8192 inputs, count by the change of the outputs when the elements of the unit become
    0 and nothing is fitted, to first order.

    `tfprune.prune_units` and `tfprune.callbacks.PruneUnits` then fit the weights of the layers that
    lost inputs (`update`), biases included; masked and frozen elements, weights with a constraint
    and layers with `trainable=False` stay.

    Args:
        damping: Float above 0, relative to the mean of the diagonal.
        update: Whether the layers that use pruned units are fitted.
        aggregate, normalize: As for `tfprune.criteria.Criterion`. Prices add up, and can be
            compared as they are, so the defaults are right.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), tfprune.layers.Dense(8, "relu", name="hidden"),
    ...     tfprune.layers.Dense(2)])
    >>> x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    >>> tfprune.prune_units(model, 0.5, LayerwiseOBS(damping=1e-3), data=(x,))
    (UnitCount(name='hidden', units=8, pruned=4),)

    Reference:
        B. Hassibi, D. Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon",
        1992; E. Kurtic, E. Frantar, D. Alistarh, "ZipLM: Inference-Aware Structured Pruning of
        Language Models", https://arxiv.org/abs/2302.04089.
    """

    roles = ("consumers",)

    def __init__(self, *, damping=0.01, update=True, aggregate="sum", normalize=None):
        super().__init__(aggregate=aggregate, normalize=normalize)
        check_positive("damping", damping)
        self.damping = float(damping)
        self.update = bool(update)

    def __call__(self):
        """Raises an error: the layers of a model are looked at together, not one by one."""
        raise TypeError(
            "The criterion 'layerwise_obs' scores the units of a whole model, on data. Give it to "
            "`tfprune.prune_units`, `tfprune.prune` or `tfprune.callbacks.PruneUnits`."
        )

    def get_config(self):
        """The arguments that make this criterion again."""
        return {"damping": self.damping, "update": self.update, **super().get_config()}
