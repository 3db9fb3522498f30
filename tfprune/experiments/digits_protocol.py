"""Hyperparameters, data and initial networks of the digits experiment."""

import functools
from dataclasses import dataclass, field

import numpy as np

from tfprune.experiments import stacked


@dataclass(frozen=True)
class Protocol:
    """The hyperparameters of the digits experiment.

    Args:
        repeats: Integer, trainings for each sweep and fraction, from different initial weights.
        steps_before, steps_after: Integers, steps before and after the intervention.
        rate, batch_size, kappa, rule, double_softmax: See `tfprune.experiments.stacked.Update`.
        first_step: The t of the first step.
        dataset_size: Integer, N. Default: the size of the training set.
        hidden: Integer, hidden units.
        seed: Integer; the same seed gives the same trainings.
    """

    repeats: int = 5
    steps_before: int = 200
    steps_after: int = 3000
    rate: float = 0.01
    batch_size: int = 32
    kappa: float = 1.0
    rule: str = "preconditioned"
    double_softmax: bool = False
    first_step: int = 10
    dataset_size: int | None = None
    hidden: int = 32
    seed: int = 0

    @classmethod
    def of_notebook(cls, **changes):
        """The notebook's loss and N, both wrong, for a comparison."""
        return cls(**{"double_softmax": True, "dataset_size": 2314, **changes})

    def update(self, examples):
        """The `stacked.Update` on a training set of so many examples."""
        return stacked.Update(
            self.rate,
            self.batch_size,
            self.dataset_size or examples,
            self.kappa,
            self.rule,
            self.double_softmax,
        )


@dataclass(frozen=True)
class Digits:
    """The data, standardised: x float32 of shape (examples, 61), y the digits."""

    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)


@functools.cache
def load():
    """The digits of scikit-learn, 1,257 for training and 540 for the test (split with seed 42).

    Features are standardised with mean and deviation of the training set; three of the 64, which
    are always 0 there, are left out.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=42)
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    varies = deviation > 0
    x_train, x_test = (
        ((a - mean)[:, varies] / deviation[varies]).astype("float32") for a in (x_train, x_test)
    )
    return Digits(x_train, y_train, x_test, y_test)


def start(protocol, repeat):
    """The initial network of a repeat, as `stacked.Networks` of one replica; and all its batches.

    Kernels and biases are uniform within sqrt(6 / (inputs + outputs)), C is uniform from 0 to
    sqrt(6 / weights).
    """
    rng = np.random.default_rng([protocol.seed, repeat])
    examples, features = load().x_train.shape
    sizes = ((features, protocol.hidden), (protocol.hidden, 10))
    weights = []
    for inputs, outputs in sizes:
        limit = np.sqrt(6 / (inputs + outputs))
        for shape in ((1, inputs, outputs), (1, outputs)):
            weights.append(rng.uniform(-limit, limit, shape).astype("float32"))
    most = np.sqrt(6 / sum(weight.size for weight in weights))
    covariance = [rng.uniform(0, most, w.shape).astype("float32") for w in weights]
    steps = protocol.steps_before + protocol.steps_after
    batches = rng.integers(0, examples, (steps, protocol.batch_size + 1))
    return stacked.Networks(weights, covariance, step=protocol.first_step), batches
