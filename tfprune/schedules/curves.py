"""Schedules whose sparsity rises along a curve: polynomial, linear, exponential, cosine."""

import math

import keras

from tfprune._tools.checks import is_number
from tfprune.schedules import checks
from tfprune.schedules.base import Schedule


class Curve(Schedule):
    """Base class: the sparsity rises from `initial_sparsity` to `final_sparsity`.

    A subclass implements `sparsity_after(progress)`, where

        progress = (step - begin_step) / (end_step - begin_step)

    After `end_step` the sparsity stays at `final_sparsity`; where `end_step` equals `begin_step`
    it is there at once.

    Args:
        initial_sparsity: Float from 0 to 1, the sparsity at `begin_step`.
        final_sparsity: Float from `initial_sparsity` to 1, the sparsity from `end_step` on.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one.
        frequency: Integer, steps from one update to the next; 100 by default, or one epoch.
        unit: "step" or "epoch": what steps are counted in. Epochs may be fractions.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> class Quadratic(Curve):
    ...     def sparsity_after(self, progress):
    ...         return self.initial_sparsity + progress**2 * self.rise
    >>> schedule = Quadratic(0.1, 0.9, begin_step=0, end_step=1000)
    >>> [round(schedule(step), 3) for step in (0, 500, 1000)]
    [0.1, 0.3, 0.9]
    """

    def __init__(
        self, initial_sparsity, final_sparsity, begin_step, end_step, frequency=None, *, unit="step"
    ):
        checks.time("end_step", end_step, checks.unit(unit))  # there is no curve without an end
        super().__init__(begin_step, end_step, frequency, unit=unit)
        self.initial_sparsity = checks.sparsity("initial_sparsity", initial_sparsity)
        self.final_sparsity = checks.sparsity("final_sparsity", final_sparsity)
        self._check_final()
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                "Argument `initial_sparsity` must not be more than `final_sparsity`. Received: "
                f"initial_sparsity={initial_sparsity}, final_sparsity={final_sparsity}."
            )

    def _check_final(self):
        """Raises a `ValueError` if the curve cannot reach its final sparsity."""

    @property
    def rise(self):
        """`final_sparsity - initial_sparsity`."""
        return self.final_sparsity - self.initial_sparsity

    def sparsity_at(self, step):
        """The curve, and `final_sparsity` from `end_step` on."""
        if step >= self.end_step:
            return self.final_sparsity
        progress = (step - self.begin_step) / (self.end_step - self.begin_step)
        # Rounding must not carry a curve past its ends, which may be 0 and 1.
        return min(self.final_sparsity, max(self.initial_sparsity, self.sparsity_after(progress)))

    def sparsity_after(self, progress):
        """The sparsity where `progress`, from 0 to 1, of the course is done."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `sparsity_after(progress)`."
        )

    def get_config(self):
        """The arguments that make this schedule again."""
        return {
            "initial_sparsity": self.initial_sparsity,
            "final_sparsity": self.final_sparsity,
            **super().get_config(),
        }


@keras.saving.register_keras_serializable("tfprune")
class PolynomialDecay(Curve):
    """The sparsity rises from `initial_sparsity` to `final_sparsity`, fast first, then slowly.

    With p = (step - begin_step) / (end_step - begin_step), from 0 to 1:

        sparsity = final + (initial - final) * (1 - p) ** power

    Args:
        initial_sparsity: Float from 0 to 1, the sparsity at `begin_step`.
        final_sparsity: Float from `initial_sparsity` to 1, the sparsity from `end_step` on. 1
            removes every element.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one.
        power: Float above 0. 1 is a straight line.
        frequency: Integer, steps from one update to the next; 100 by default, or one epoch.
        unit: "step" or "epoch": what steps are counted in. Epochs may be fractions.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = PolynomialDecay(0.0, 0.8, begin_step=1000, end_step=2000)
    >>> [round(schedule(step), 3) for step in (999, 1000, 1500, 2000, 3000)]
    [0.0, 0.0, 0.7, 0.8, 0.8]

    Reference:
        M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", https://arxiv.org/abs/1710.01878, equation 1, which has the power 3, as
        `sparsity_function_exponent` of `tf.contrib.model_pruning` has.
    """

    def __init__(
        self,
        initial_sparsity,
        final_sparsity,
        begin_step,
        end_step,
        power=3,
        frequency=None,
        *,
        unit="step",
    ):
        super().__init__(
            initial_sparsity, final_sparsity, begin_step, end_step, frequency, unit=unit
        )
        if not is_number(power) or not 0 < power < float("inf"):
            raise ValueError(f"Argument `power` must be above 0. Received: power={power}.")
        self.power = power

    def sparsity_after(self, progress):
        """The polynomial."""
        return self.final_sparsity - self.rise * (1 - progress) ** self.power

    def get_config(self):
        """The arguments that make this schedule again."""
        return {**super().get_config(), "power": self.power}


@keras.saving.register_keras_serializable("tfprune")
class Linear(Curve):
    """The sparsity rises linearly from `initial_sparsity` to `final_sparsity`.

    With p = (step - begin_step) / (end_step - begin_step), from 0 to 1:

        sparsity = initial + (final - initial) * p

    Args:
        initial_sparsity: Float from 0 to 1, the sparsity at `begin_step`.
        final_sparsity: Float from `initial_sparsity` to 1, the sparsity from `end_step` on. 1
            removes every element.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one.
        frequency: Integer, steps from one update to the next; 100 by default, or one epoch.
        unit: "step" or "epoch": what steps are counted in. Epochs may be fractions.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = Linear(0.0, 0.8, begin_step=1, end_step=3, frequency=0.5, unit="epoch")
    >>> [schedule(epoch) for epoch in (0.5, 1, 1.5, 2, 3, 4)]
    [0.0, 0.0, 0.2, 0.4, 0.8, 0.8]
    """

    def sparsity_after(self, progress):
        """The straight line."""
        return self.initial_sparsity + self.rise * progress


@keras.saving.register_keras_serializable("tfprune")
class Exponential(Curve):
    """The density, 1 - sparsity, decays exponentially: by the same factor at every step.

    With p = (step - begin_step) / (end_step - begin_step), from 0 to 1:

        sparsity = 1 - (1 - initial) * ((1 - final) / (1 - initial)) ** p

    So each update prunes the same fraction of the weights that are left, as rounds of iterative
    magnitude pruning do.

    Args:
        initial_sparsity: Float from 0 to below 1, the sparsity at `begin_step`.
        final_sparsity: Float from `initial_sparsity` to below 1, the sparsity from `end_step` on.
            1 is not allowed, since no factor leads to a density of 0.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one.
        frequency: Integer, steps from one update to the next; 100 by default, or one epoch.
        unit: "step" or "epoch": what steps are counted in. Epochs may be fractions.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    Prune a fifth of what is left, three times:

    >>> schedule = Exponential(0.0, 0.488, begin_step=0, end_step=3, unit="epoch")
    >>> [round(schedule(epoch), 3) for epoch in (0, 1, 2, 3)]
    [0.0, 0.2, 0.36, 0.488]

    Reference:
        J. Frankle, M. Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural
        Networks", https://arxiv.org/abs/1803.03635, where each round prunes a share of the weights
        that are left.
    """

    def _check_final(self):
        if self.final_sparsity == 1:
            raise ValueError(
                "Argument `final_sparsity` must be less than 1, since a density that falls by a "
                f"factor never is 0. Received: final_sparsity={self.final_sparsity}. Try "
                "`tfprune.schedules.Linear`."
            )

    def sparsity_after(self, progress):
        """1 less the density."""
        density, final_density = 1 - self.initial_sparsity, 1 - self.final_sparsity
        return 1 - density * (final_density / density) ** progress


@keras.saving.register_keras_serializable("tfprune")
class Cosine(Curve):
    """The sparsity rises along half a cosine: slowly first, fast in the middle, slowly at the end.

    With p = (step - begin_step) / (end_step - begin_step), from 0 to 1:

        sparsity = final + (initial - final) * (1 + cos(pi * p)) / 2

    Args:
        initial_sparsity: Float from 0 to 1, the sparsity at `begin_step`.
        final_sparsity: Float from `initial_sparsity` to 1, the sparsity from `end_step` on. 1
            removes every element.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one.
        frequency: Integer, steps from one update to the next; 100 by default, or one epoch.
        unit: "step" or "epoch": what steps are counted in. Epochs may be fractions.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = Cosine(0.0, 0.8, begin_step=0, end_step=300)
    >>> [round(schedule(step), 3) for step in (0, 100, 150, 200, 300)]
    [0.0, 0.2, 0.4, 0.6, 0.8]

    Reference:
        I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
        https://arxiv.org/abs/1608.03983, equation 5, for learning rates.
    """

    def sparsity_after(self, progress):
        """The half cosine."""
        return self.final_sparsity - self.rise * (1 + math.cos(math.pi * progress)) / 2
