"""Criteria as objects: how units are scored, with options in Keras's dialect."""

import inspect

import keras

from tfprune._tools.checks import is_integer, one_of
from tfprune._tools.registry import Configurable

ROLES = ("makers", "norms", "consumers")
"""The roles of layers for a unit: they make it, scale it, or use it."""

AGGREGATES = ("sum", "mean", "max")
NORMALIZERS = (None, "mean", "max", "sum", "l2")


class Criterion(Configurable):
    """Base class of criteria: importance scores, higher = keep.

    A subclass implements `__call__`, which returns a score for each unit and requests what it needs
    by the names of its arguments; `tfprune.criteria.units` lists them. One that can also score the
    elements of a weight has `of_weight`, a function as `tfprune.criteria.weights` describes it.

    Args:
        aggregate: "sum", "mean" or "max": how the scores of a unit in several layers, or in
            several tensors, become one number.
        normalize: What the scores of each set of coupled units are divided by, so that units of
            different layers can be ranked together: "mean", "max", "sum" or "l2" (the Euclidean
            length) over the units that are not pruned yet. `None` leaves scores as they are.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> import numpy as np
    >>> class SmallestWeight(Criterion):
    ...     def __call__(self, weights):
    ...         return np.abs(weights["kernel"]).min(axis=1)
    >>> SmallestWeight(normalize="mean").get_config()
    {'aggregate': 'sum', 'normalize': 'mean'}
    """

    roles = ("makers",)
    """Which layers of a unit are scored, among `ROLES`."""

    of_weight = None
    """The function that scores elements of a weight; `None` for a criterion of units only."""

    def __init__(self, *, aggregate="sum", normalize=None):
        self.aggregate = one_of("aggregate", aggregate, AGGREGATES)
        self.normalize = one_of("normalize", normalize, NORMALIZERS)

    def get_config(self):
        """The arguments that make this criterion again."""
        return {"aggregate": self.aggregate, "normalize": self.normalize}


@keras.saving.register_keras_serializable("tfprune", "CriterionFunction")  # of schedules too
class Function(Criterion):
    """Wraps a function of your own as a criterion with options.

    Args:
        function: Callable which scores units, or the elements of a weight; see
            `tfprune.criteria.units` and `tfprune.criteria.weights`.
        seed: Integer, for a function with an argument `seed`; by default one is drawn from
            Keras's global seed.
        aggregate, normalize: See `Criterion`.

    Example:

    >>> import numpy as np
    >>> criterion = Function(lambda weights: weights["kernel"].max(axis=1), normalize="max")
    >>> criterion({"kernel": np.array([[1.0, 2.0]])})
    array([2.])
    """

    def __init__(self, function, *, seed=None, aggregate="sum", normalize=None):
        super().__init__(aggregate=aggregate, normalize=normalize)
        if not callable(function):
            raise ValueError(
                f"Argument `function` must be a callable. Received: function={function!r}."
            )
        self.function = self.of_weight = function
        self.roles = tuple(getattr(function, "roles", self.roles))
        self.seed = checked_seed(seed)
        self.__signature__ = inspect.signature(function)

    def __call__(self, *args, **kwargs):
        """The scores that the function returns."""
        return self.function(*args, **kwargs)

    def get_config(self):
        """The arguments that make this criterion again."""
        function = keras.saving.serialize_keras_object(self.function)
        return {"function": function, "seed": self.seed, **super().get_config()}


def checked_seed(seed):
    """`seed`, if it is `None` or a non-negative integer.

    Raises:
        ValueError: If it is neither.
    """
    if seed is not None and not (is_integer(seed) and seed >= 0):
        raise ValueError(
            f"Argument `seed` must be a non-negative integer or `None`. Received: seed={seed!r}."
        )
    return seed
