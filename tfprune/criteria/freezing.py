"""Criteria for freezing: how much an element still trains. The lowest scores are frozen first.

They are functions like those of `tfprune.criteria.weights` and request measures in the same way;
"magnitude" and "random" are those of that module. With g the mean gradient over the data and C the
variance of the gradient of one example, a step of the diagonally preconditioned optimizer is in
proportion to g / C.

Both are measured on data for the weights as they are. Gradients seen in training belong to weights
that have changed since, and to batches, whereas C is the variance over single examples.

>>> score = get(lambda weight, gradient_variance: 1 / gradient_variance)
"""

import numpy as np

from tfprune.criteria import arguments, weights


def gradient(weight, gradient):
    """The absolute gradient, |g|: how much the loss falls for a step of a given length.

    Args:
        weight: Array of any shape.
        gradient: g, the mean over examples, of the same shape.

    Returns:
        An array of the weight's shape.

    Example:

    >>> gradient(np.array([2.0, -1.0]), np.array([-0.5, 3.0]))
    array([0.5, 3. ])
    """
    return np.abs(gradient)


def preconditioned_gradient(weight, gradient, gradient_variance):
    """The length of a preconditioned step, |g / C|.

    A variance below what single precision can tell from 0, that is 1.2e-7 g^2, counts as that much;
    where the gradient is 0, so is the score.

    Args:
        weight: Array of any shape.
        gradient: g, the mean over examples, of the same shape.
        gradient_variance: C, the mean over examples of (g_i - g)^2, of the same shape.

    Returns:
        An array of the weight's shape, float64.

    Example:

    >>> preconditioned_gradient(np.zeros(3), np.array([2.0, -1.0, 0.0]), np.array([4.0, 0.5, 0.0]))
    array([0.5, 2. , 0. ])

    Reference:
        S. Mandt, M. Hoffman, D. Blei, "Stochastic Gradient Descent as Approximate Bayesian
        Inference", https://arxiv.org/abs/1704.04289, corollary 3: the preconditioner 2 S / (N C).
    """
    size = np.abs(np.asarray(gradient, "float64"))
    floor = np.finfo("float32").eps * np.square(size)
    variance = np.maximum(np.asarray(gradient_variance, "float64"), floor)
    return np.divide(size, variance, out=np.zeros_like(size), where=variance > 0)


_ALL = {
    "preconditioned_gradient": preconditioned_gradient,
    "gradient": gradient,
    "magnitude": weights.magnitude,
    "random": weights.random,
}
_REGISTRY = arguments.registry(_ALL, "or a callable")
serialize = _REGISTRY.serialize_by_name


def get(identifier):
    """Returns the criterion for freezing that an identifier means.

    Args:
        identifier: "preconditioned_gradient", "gradient", "magnitude", "random"; a callable as
            `tfprune.criteria.weights` describes it; or the configuration of a callable.

    Raises:
        ValueError: If there is no such criterion, or it requests something unknown.

    Example:

    >>> get("gradient") is gradient
    True
    """
    return weights.get(_REGISTRY.get(identifier))


def is_known(criterion):
    """Whether a criterion is a function of this module."""
    return weights.function_of(criterion) in _ALL.values()
