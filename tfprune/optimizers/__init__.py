"""Optimizers that sample from the posterior: SGD as approximate Bayesian inference.

Reference:
    S. Mandt, M. D. Hoffman & D. M. Blei, "Stochastic Gradient Descent as Approximate Bayesian
    Inference", https://arxiv.org/abs/1704.04289.
"""

from tfprune.optimizers.batches import independent_batches
from tfprune.optimizers.full import FullPreconditionedSGD
from tfprune.optimizers.noise import (
    GradientNoise,
    averaging_covariance,
    gradient_noise,
    optimal_learning_rate,
    optimal_preconditioner,
)
from tfprune.optimizers.preconditioned import PreconditionedSGD

__all__ = [
    "FullPreconditionedSGD",
    "GradientNoise",
    "PreconditionedSGD",
    "averaging_covariance",
    "gradient_noise",
    "independent_batches",
    "optimal_learning_rate",
    "optimal_preconditioner",
]
