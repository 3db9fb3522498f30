"""The base class of schedules, and the conversion from epochs to steps."""

import fractions
import math

import keras

from tfprune._tools.registry import Configurable
from tfprune.schedules import checks

FOREVER = -1
"""The `end_step` of a schedule without an end."""


class Schedule(Configurable):
    """Base class: maps a step to a sparsity, with updates due every `frequency` steps.

    Steps are counted from 0: callbacks count updates of the weights since the masks of the model
    were made, and step 0 is before the first of them. The sparsity is 0 before `begin_step`.
    Updates are due at `begin_step`, at every `frequency` steps after it, and at `end_step` itself,
    so what the schedule ends with is always reached, also where `frequency` does not divide
    `end_step - begin_step`.

    With `unit="epoch"` all these are epochs, and may be fractions such as 0.5: the schedule maps
    the epoch, 1.5 in the middle of the second, to the sparsity. Callbacks ask `fit` how many steps
    an epoch has; elsewhere, `in_steps` gives the same schedule in steps.

    A subclass implements `sparsity_at(step)` for steps from `begin_step` on.

    Args:
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one; -1 for no last one.
        frequency: Integer, steps from one update to the next; 100 by default, or one epoch.
        unit: "step" or "epoch": what steps are counted in, here and where the schedule is called.

    Example:

    >>> class Halving(Schedule):
    ...     def sparsity_at(self, step):
    ...         return 1 - 0.5 ** (1 + step // 100)
    >>> schedule = Halving(begin_step=100, end_step=300)
    >>> [schedule(step) for step in (0, 100, 200, 300)]
    [0.0, 0.75, 0.875, 0.9375]
    """

    def __init__(self, begin_step=0, end_step=FOREVER, frequency=None, *, unit="step"):
        self.unit = checks.unit(unit)
        self.begin_step = checks.time("begin_step", begin_step, unit)
        self.end_step = FOREVER if end_step == FOREVER else self._end(end_step)
        if frequency is None:
            frequency = 100 if unit == checks.STEP else 1
        self.frequency = checks.duration("frequency", frequency, unit)

    def _end(self, end_step):
        checked = checks.time("end_step", end_step, self.unit)
        if checked < self.begin_step:
            raise ValueError(
                "Argument `end_step` must not be less than `begin_step`. "
                f"Received: begin_step={self.begin_step}, end_step={end_step}."
            )
        return checked

    def __call__(self, step):
        """The sparsity at a step: a float from 0 (dense) to 1, and 0 before `begin_step`."""
        now = self._now(step)
        if now < checks.exact(self.begin_step):
            return 0.0
        return float(self.sparsity_at(checks.plain(now)))

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
        now, begin = self._now(step), checks.exact(self.begin_step)
        if now < begin:
            return None
        if self.end_step != FOREVER and now >= checks.exact(self.end_step):
            return self.end_step
        return checks.plain(now - (now - begin) % checks.exact(self.frequency))

    @property
    def final(self):
        """The sparsity from the last update on; `None` for a schedule without an end.

        Example:

        >>> from tfprune.schedules import Linear
        >>> Linear(0.0, 0.8, begin_step=0, end_step=100).final
        0.8
        """
        return None if self.end_step == FOREVER else self(self.end_step)

    def is_due(self, step):
        """Whether an update is due at exactly this step."""
        due = self.last_due(step)
        return due is not None and checks.exact(due) == self._now(step)

    def in_steps(self, steps_per_epoch):
        """Returns this schedule counted in steps; itself if it is in steps already.

        Args:
            steps_per_epoch: Number, the steps of the optimizer in one epoch. It need not be
                whole: with `gradient_accumulation_steps`, several batches are one step.

        Raises:
            ValueError: If it is not above 0, or steps are too coarse for this schedule.

        Example:

        >>> from tfprune.schedules import Linear
        >>> schedule = Linear(0.0, 0.8, begin_step=1, end_step=3, unit="epoch").in_steps(50)
        >>> [schedule(step) for step in (49, 50, 100, 150)]
        [0.0, 0.0, 0.4, 0.8]
        """
        return self if self.unit == checks.STEP else InSteps(self, steps_per_epoch)

    def check_steps_per_epoch(self, steps_per_epoch):
        """Raises a `ValueError` if whole steps are too coarse for this schedule in epochs."""

    def _now(self, step):
        """The exact time; steps are whole, and may be the optimizer's variable."""
        return int(step) if self.unit == checks.STEP else checks.exact(step)

    def get_config(self):
        """The arguments that make this schedule again."""
        return {
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
            "unit": self.unit,
        }


@keras.saving.register_keras_serializable("tfprune")
class InSteps(Schedule):
    """Converts a schedule in epochs to steps; `schedule.in_steps(steps_per_epoch)` returns it.

        sparsity = schedule(step / steps_per_epoch)

    An update that is due between two steps is made at the later one.

    Args:
        schedule: A schedule with `unit="epoch"`.
        steps_per_epoch: Number above 0, the steps of the optimizer in one epoch.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> from tfprune.schedules import OneShot
    >>> schedule = InSteps(OneShot(0.5, step=1.5, unit="epoch"), steps_per_epoch=5)
    >>> schedule(7), schedule(8), schedule.is_due(8)
    (0.0, 0.5, True)
    """

    def __init__(self, schedule, steps_per_epoch):
        if not isinstance(schedule, Schedule) or schedule.unit != checks.EPOCH:
            raise ValueError(
                'Argument `schedule` must be a schedule with `unit="epoch"`. '
                f"Received: schedule={schedule!r}."
            )
        self.schedule = schedule
        self.steps_per_epoch = checks.duration("steps_per_epoch", steps_per_epoch, checks.EPOCH)
        schedule.check_steps_per_epoch(self.steps_per_epoch)
        end = schedule.end_step
        super().__init__(
            begin_step=self._step(schedule.begin_step),
            end_step=FOREVER if end == FOREVER else self._step(end),
            frequency=self._step(schedule.frequency),
        )

    def sparsity_at(self, step):
        """What the schedule says at this part of an epoch."""
        return self.schedule(self._epoch(step))

    def last_due(self, step):
        """The last step at which an update is due, as in `Schedule.last_due`."""
        due = self.schedule.last_due(self._epoch(step))
        return None if due is None else min(int(step), self._step(due))

    def _epoch(self, step):
        return fractions.Fraction(int(step)) / checks.exact(self.steps_per_epoch)

    def _step(self, epoch):
        return math.ceil(checks.exact(epoch) * checks.exact(self.steps_per_epoch))

    def get_config(self):
        """The arguments that make this schedule again."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "steps_per_epoch": self.steps_per_epoch}
