"""Schedules whose sparsity rises along a curve."""

import numbers

import keras

from tfprune.schedules import checks
from tfprune.schedules.base import Schedule


@keras.saving.register_keras_serializable("tfprune")
class PolynomialDecay(Schedule):
    """The sparsity rises from `initial_sparsity` to `final_sparsity`, fast first, then slowly.

    With p = (step - begin_step) / (end_step - begin_step), from 0 to 1:

        sparsity = final + (initial - final) * (1 - p) ** power

    After `end_step` it stays at `final_sparsity`; where `end_step` equals `begin_step` it is there
    at once.

    Args:
        initial_sparsity: Float from 0 to 1, the sparsity at `begin_step`.
        final_sparsity: Float from `initial_sparsity` to 1, the sparsity from `end_step` on. 1
            removes every element.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one.
        power: Float above 0. 1 is a straight line.
        frequency: Integer, steps from one update to the next.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = PolynomialDecay(0.0, 0.8, begin_step=1000, end_step=2000)
    >>> [round(schedule(step), 3) for step in (999, 1000, 1500, 2000, 3000)]
    [0.0, 0.0, 0.7, 0.8, 0.8]

    Reference:
        M. Zhu, S. Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", https://arxiv.org/abs/1710.01878, equation 1.
    """

    def __init__(
        self, initial_sparsity, final_sparsity, begin_step, end_step, power=3, frequency=100
    ):
        checks.integer("end_step", end_step, minimum=0)
        super().__init__(begin_step, end_step, frequency)
        self.initial_sparsity = checks.sparsity("initial_sparsity", initial_sparsity)
        self.final_sparsity = checks.sparsity("final_sparsity", final_sparsity)
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                "Argument `initial_sparsity` must not be more than `final_sparsity`. Received: "
                f"initial_sparsity={initial_sparsity}, final_sparsity={final_sparsity}."
            )
        if not isinstance(power, numbers.Real) or not 0 < power < float("inf"):
            raise ValueError(f"Argument `power` must be above 0. Received: power={power}.")
        self.power = power

    def sparsity_at(self, step):
        """The polynomial, and `final_sparsity` from `end_step` on."""
        if step >= self.end_step:
            return self.final_sparsity
        progress = (step - self.begin_step) / (self.end_step - self.begin_step)
        difference = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + difference * (1 - progress) ** self.power

    def get_config(self):
        """The arguments that make this schedule again."""
        return {
            "initial_sparsity": self.initial_sparsity,
            "final_sparsity": self.final_sparsity,
            "power": self.power,
            **super().get_config(),
        }
