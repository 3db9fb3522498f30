"""A schedule from a Python function."""

import keras

from tfprune.schedules import checks
from tfprune.schedules.base import FOREVER, Schedule


@keras.saving.register_keras_serializable("tfprune")
class Function(Schedule):
    """A schedule from a function of your own, step -> sparsity.

    Args:
        function: Callable which takes the step, an integer, or the epoch, a number, and returns a
            float from 0 to 1. To be saved with a callback it must be registered with
            `keras.saving.register_keras_serializable`.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one; -1 for no last one.
        frequency: Integer, steps from one update to the next; 100 by default, or one epoch.
        unit: "step" or "epoch": what steps are counted in. Epochs may be fractions.

    Raises:
        ValueError: If an argument is out of its range, or a value of the function is.

    Example:

    >>> schedule = Function(lambda step: min(0.9, step / 1000), frequency=10)
    >>> schedule(500), schedule(2000)
    (0.5, 0.9)
    """

    def __init__(self, function, begin_step=0, end_step=FOREVER, frequency=None, *, unit="step"):
        super().__init__(begin_step, end_step, frequency, unit=unit)
        if not callable(function):
            raise ValueError(
                f"Argument `function` must be callable. Received: function={function!r}."
            )
        self.function = function

    def sparsity_at(self, step):
        """What the function says, checked."""
        return checks.sparsity(f"{self.function!r} at {self.unit} {step}", self.function(step))

    def get_config(self):
        """The arguments that make this schedule again."""
        function = keras.saving.serialize_keras_object(self.function)
        return {"function": function, **super().get_config()}
