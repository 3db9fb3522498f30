"""Schedules with one sparsity: constant, and one shot."""

import keras

from tfprune.schedules import checks
from tfprune.schedules.base import FOREVER, Schedule


@keras.saving.register_keras_serializable("tfprune")
class Constant(Schedule):
    """A constant sparsity from `begin_step` on.

    Args:
        target_sparsity: Float from 0 to 1. 1 removes every element.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one; -1 for no last one.
        frequency: Integer, steps from one update to the next; 100 by default, or one epoch.
        unit: "step" or "epoch": what steps are counted in. Epochs may be fractions.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = Constant(0.5, begin_step=200)
    >>> schedule(199), schedule(200), schedule.is_due(250), schedule.is_due(300)
    (0.0, 0.5, False, True)
    """

    def __init__(
        self, target_sparsity, begin_step=0, end_step=FOREVER, frequency=None, *, unit="step"
    ):
        super().__init__(begin_step, end_step, frequency, unit=unit)
        self.target_sparsity = checks.sparsity("target_sparsity", target_sparsity)

    def sparsity_at(self, step):
        """The target."""
        return self.target_sparsity

    @property
    def final(self):
        """The target."""
        return self.target_sparsity

    def get_config(self):
        """The arguments that make this schedule again."""
        return {"target_sparsity": self.target_sparsity, **super().get_config()}


@keras.saving.register_keras_serializable("tfprune")
class OneShot(Schedule):
    """Prunes to the target sparsity at one step, with no updates before or after.

    Args:
        target_sparsity: Float from 0 to 1. 1 removes every element.
        step: Integer, the step; 0 is before the first update of the weights.
        unit: "step" or "epoch": what `step` is counted in. Epochs may be fractions.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = OneShot(0.5, step=300)
    >>> schedule(299), schedule(300), schedule.is_due(300), schedule.is_due(400)
    (0.0, 0.5, True, False)
    """

    def __init__(self, target_sparsity, step, *, unit="step"):
        self.step = checks.time("step", step, checks.unit(unit))
        self.target_sparsity = checks.sparsity("target_sparsity", target_sparsity)
        super().__init__(begin_step=self.step, end_step=self.step, unit=unit)

    def sparsity_at(self, step):
        """The target."""
        return self.target_sparsity

    def get_config(self):
        """The arguments that make this schedule again."""
        return {"target_sparsity": self.target_sparsity, "step": self.step, "unit": self.unit}
