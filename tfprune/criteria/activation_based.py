"""Activation-based criteria for units, measured on data where layers read the units."""

import keras

from tfprune.criteria.criterion import Criterion


@keras.saving.register_keras_serializable("tfprune")
class TaylorActivation(Criterion):
    """First-order change of the loss without a unit, the mean over single examples.

        u = mean over examples | mean over positions (a dL/da) |

    Here a is the tensor that the layers which use the unit read, after norms and activations, and L
    the loss of the example by way of these layers. `ActivationContribution` is measured while the
    model trains, at the layers that make units.

    Args:
        aggregate, normalize: See `tfprune.criteria.Criterion`; they apply to the scores of a
            unit in several tensors.

    Example:

    >>> import numpy as np
    >>> TaylorActivation()(np.array([0.5, 2.0]))
    array([0.5, 2. ])

    Reference:
        P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz, "Pruning Convolutional Neural
        Networks for Resource Efficient Inference", https://arxiv.org/abs/1611.06440, equation 8.
    """

    def __call__(self, contribution):
        """The contributions, an array of shape (units,)."""
        return contribution


@keras.saving.register_keras_serializable("tfprune")
class APoZ(Criterion):
    """The share of activations that are not 0: 1 - the average percentage of zeros (APoZ).

    Zeros are counted after the activation, where layers use the unit. Behind activations that give
    no zeros, all units score 1.

    Args:
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> import numpy as np
    >>> APoZ()(np.array([0.25, 1.0]))
    array([0.75, 0.  ])

    Reference:
        H. Hu, R. Peng, Y. Tai, C. Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach
        towards Efficient Deep Architectures", https://arxiv.org/abs/1607.03250.
    """

    def __call__(self, zero_share):
        """The shares of activations that are not 0, an array of shape (units,)."""
        return 1 - zero_share


@keras.saving.register_keras_serializable("tfprune")
class ActivationVariance(Criterion):
    """The variance of a unit: the error that remains when its mean is folded into biases.

    Args:
        aggregate, normalize: See `tfprune.criteria.Criterion`.

    Example:

    >>> import numpy as np
    >>> ActivationVariance()(np.array([0.5, 2.0]))
    array([0.5, 2. ])
    """

    def __call__(self, variance):
        """The variances, an array of shape (units,)."""
        return variance
