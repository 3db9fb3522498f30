"""The hard concrete distribution of gates between 0 and 1, both of which have probability.

    s = sigmoid((log u - log(1 - u) + log_alpha) / BETA),   u uniform from 0 to 1
    z = min(1, max(0, s * (ZETA - GAMMA) + GAMMA))

Reference:
    C. Louizos, M. Welling, D. P. Kingma, "Learning Sparse Neural Networks through L0
    Regularization", https://arxiv.org/abs/1712.01312, equations 10 to 13.
"""

import math

from keras import ops

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""The temperature, and the ends to which s is stretched, as in the paper."""

_FARTHEST = math.log(100)

_SHIFT = BETA * math.log(-GAMMA / ZETA)


def sampled(log_alpha, uniform):
    """A sample of each gate.

    Args:
        log_alpha: Float tensor, the location of each gate's distribution.
        uniform: Tensor of its shape, uniform numbers above 0 and below 1.

    Returns:
        A tensor of its shape, from 0 to 1.
    """
    logistic = ops.log(uniform) - ops.log(1 - uniform)
    return _stretched(ops.sigmoid((logistic + log_alpha) / BETA))


def settled(log_alpha):
    """The gates in inference: sigmoid(log_alpha), stretched and clipped alike.

    Example:

    >>> [round(float(z), 3) for z in settled(ops.array([-3.0, 0.0, 3.0]))]
    [0.0, 0.5, 1.0]
    """
    return _stretched(ops.sigmoid(log_alpha))


def probability_open(log_alpha):
    """The probability that a gate is not 0: sigmoid(log_alpha - BETA * log(-GAMMA / ZETA))."""
    return ops.sigmoid(log_alpha - _SHIFT)


def slope_open(log_alpha):
    """The derivative of `probability_open`."""
    probability = probability_open(log_alpha)
    return probability * (1 - probability)


def limited(log_alpha):
    """The parameters, no farther from 0 than a gate comes back from, that has closed or opened."""
    return ops.clip(log_alpha, -_FARTHEST, _FARTHEST)


def _stretched(s):
    return ops.clip(s * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)
