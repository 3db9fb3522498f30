"""What every schedule has: the sparsity at a step, and the steps at which updates are due."""

from tfprune.schedules import checks

FOREVER = -1
"""As `end_step`: updates go on as long as training does."""


class Schedule:
    """Base class: a callable step -> sparsity, with updates due every `frequency` steps.

    Steps are counted from 0 by `optimizer.iterations`: step 0 is before the first update of the
    weights. The sparsity is 0 before `begin_step`. Updates are due at `begin_step`, at every
    `frequency` steps after it, and at `end_step` itself, so what the schedule ends with is always
    reached, also where `frequency` does not divide `end_step - begin_step`.

    A subclass implements `sparsity_at(step)` for steps from `begin_step` on.

    Args:
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one; -1 for no last one.
        frequency: Integer, steps from one update to the next.

    Example:

    >>> class Halving(Schedule):
    ...     def sparsity_at(self, step):
    ...         return 1 - 0.5 ** (1 + step // 100)
    >>> schedule = Halving(begin_step=100, end_step=300)
    >>> [schedule(step) for step in (0, 100, 200, 300)]
    [0.0, 0.75, 0.875, 0.9375]
    """

    def __init__(self, begin_step=0, end_step=FOREVER, frequency=100):
        self.begin_step = checks.integer("begin_step", begin_step, minimum=0)
        self.end_step = checks.integer("end_step", end_step, minimum=FOREVER)
        self.frequency = checks.integer("frequency", frequency, minimum=1)
        if self.end_step != FOREVER and self.end_step < self.begin_step:
            raise ValueError(
                "Argument `end_step` must not be less than `begin_step`. "
                f"Received: begin_step={begin_step}, end_step={end_step}."
            )

    def __call__(self, step):
        """The sparsity at a step: a float from 0 (dense) to 1, and 0 before `begin_step`."""
        step = int(step)
        return float(self.sparsity_at(step)) if step >= self.begin_step else 0.0

    def sparsity_at(self, step):
        """The sparsity at a step which is not before `begin_step`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `sparsity_at(step)`.")

    def last_due(self, step):
        """The last step up to `step`, itself included, at which an update is due, else `None`.

        A hook that runs less often than the optimizer steps asks this: an update was due in
        `(last, now]` where `last_due(now)` is later than `last`.

        Example:

        >>> from tfprune.schedules import PolynomialDecay
        >>> schedule = PolynomialDecay(0.0, 0.5, begin_step=10, end_step=45, frequency=20)
        >>> [schedule.last_due(step) for step in (9, 10, 29, 30, 44, 45, 100)]
        [None, 10, 10, 30, 30, 45, 45]
        """
        step = int(step)
        if step < self.begin_step:
            return None
        if self.end_step != FOREVER and step >= self.end_step:
            return self.end_step
        return step - (step - self.begin_step) % self.frequency

    def is_due(self, step):
        """Whether an update is due at exactly this step."""
        return self.last_due(step) == int(step)

    def get_config(self):
        """The arguments that make this schedule again."""
        return {
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
        }

    @classmethod
    def from_config(cls, config):
        """A schedule out of its `get_config()`."""
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"
