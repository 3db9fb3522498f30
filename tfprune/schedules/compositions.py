"""Schedules made of other schedules: repeated, or one after the other."""

import itertools

import keras

from tfprune.schedules import checks
from tfprune.schedules.base import FOREVER, Schedule


@keras.saving.register_keras_serializable("tfprune")
class Periodic(Schedule):
    """Repeats a schedule every `period` steps.

        sparsity = schedule(step % period)

    Updates are due where the schedule says so, and where a cycle begins. After the last cycle the
    sparsity stays at the final one of the schedule.

    The sparsity falls at the beginning of a cycle. `FreezeWeights` follows it both ways.
    `PruneWeights` and `PruneUnits` never bring pruned elements back: they prune in the first cycle,
    and in later ones only if the sparsity rises above that.

    Args:
        schedule: A `tfprune.schedules.Schedule`. Its steps are counted from the beginning of each
            cycle.
        period: Integer, steps from the beginning of one cycle to that of the next, or epochs,
            whichever `schedule` counts in. It must be more than the `end_step` of `schedule`, if
            that has one, so that each cycle reaches its end.
        cycles: Integer, how many cycles there are; -1 for no last one.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> from tfprune.schedules import Linear
    >>> schedule = Periodic(Linear(0.0, 0.8, begin_step=0, end_step=400), period=500, cycles=2)
    >>> [schedule(step) for step in (0, 200, 400, 499, 500, 700, 900, 1000)]
    [0.0, 0.4, 0.8, 0.8, 0.0, 0.4, 0.8, 0.8]

    Reference:
        S. Srinivas, A. Kuzmin, M. Nagel, M. van Baalen, A. Skliar, T. Blankevoort, "Cyclical
        Pruning for Sparse Neural Networks", https://arxiv.org/abs/2202.01290, where weights pruned
        in one cycle recover in the next.
    """

    def __init__(self, schedule, period, *, cycles=FOREVER):
        _check_schedule("schedule", schedule)
        self.schedule = schedule
        self.period = checks.duration("period", period, schedule.unit)
        self.cycles = checks.integer("cycles", cycles, minimum=FOREVER)
        if self.cycles == 0:
            raise ValueError("Argument `cycles` must be at least 1, or -1. Received: cycles=0.")
        if self.period <= max(schedule.begin_step, schedule.end_step):
            raise ValueError(
                "Argument `period` must be more than `begin_step` and `end_step` of the schedule, "
                f"or a cycle does not reach its end. Received: period={period}, "
                f"schedule={schedule!r}."
            )
        is_endless = FOREVER in (self.cycles, schedule.end_step)
        super().__init__(
            begin_step=schedule.begin_step,
            end_step=FOREVER if is_endless else self._in_cycle(cycles - 1, schedule.end_step),
            frequency=schedule.frequency,
            unit=schedule.unit,
        )

    def sparsity_at(self, step):
        """What the schedule says at this step of its cycle."""
        _, within = self._cycle(step)
        return self.schedule(within)

    def last_due(self, step):
        """The last step at which an update is due, as in `Schedule.last_due`."""
        cycle, within = self._cycle(step)
        due = self.schedule.last_due(within)
        if due is None and cycle == 0:
            return None
        return self._in_cycle(cycle, due or 0)

    def check_steps_per_epoch(self, steps_per_epoch):
        """Raises a `ValueError` if there may be no step between two cycles for the end of one."""
        self.schedule.check_steps_per_epoch(steps_per_epoch)
        rest = checks.exact(self.period) - checks.exact(max(self.schedule.end_step, 0))
        if rest * checks.exact(steps_per_epoch) < 1:
            raise ValueError(
                "Argument `period` must be at least one step more than the `end_step` of the "
                f"schedule. Received: period={self.period}, schedule={self.schedule!r}, "
                f"steps_per_epoch={steps_per_epoch}."
            )

    def _cycle(self, step):
        """The number of the cycle, and the time since it began."""
        now, period = self._now(step), checks.exact(self.period)
        cycle = now // period
        if self.cycles != FOREVER:
            cycle = min(cycle, self.cycles - 1)
        return cycle, now - cycle * period

    def _in_cycle(self, cycle, within):
        return checks.plain(cycle * checks.exact(self.period) + checks.exact(within))

    def get_config(self):
        """The arguments that make this schedule again."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "period": self.period, "cycles": self.cycles}


@keras.saving.register_keras_serializable("tfprune")
class Chain(Schedule):
    """Joins several schedules, one after the other.

    Each counts its steps from the boundary at which it becomes active. Updates are due where the
    active schedule says so, and at each boundary. Until its `begin_step`, the sparsity stays where
    the schedule before it has come to.

    Args:
        schedules: Sequence of `tfprune.schedules.Schedule`, all in the same unit.
        boundaries: Sequence of integers, or of epochs if the schedules count in these: the steps,
            counted from 0, at which the second, the third, ... takes over.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> from tfprune.schedules import Linear, OneShot
    >>> schedule = Chain([Linear(0.0, 0.5, 0, 1000), OneShot(0.8, step=200)], boundaries=[1000])
    >>> [schedule(step) for step in (500, 999, 1000, 1199, 1200)]
    [0.25, 0.4995, 0.5, 0.5, 0.8]

    Reference:
        `optax.join_schedules`, for learning rates.
    """

    def __init__(self, schedules, boundaries):
        self.schedules = list(schedules)
        for schedule in self.schedules:
            _check_schedule("schedules", schedule)
        if len({schedule.unit for schedule in self.schedules}) != 1:
            raise ValueError(
                "Argument `schedules` must have at least one schedule, and all must be in the same "
                f"unit. Received: schedules={self.schedules!r}."
            )
        unit = self.schedules[0].unit
        self.boundaries = [checks.duration("boundaries", b, unit) for b in boundaries]
        rises = all(one < two for one, two in itertools.pairwise(self.boundaries))
        if len(self.boundaries) != len(self.schedules) - 1 or not rises:
            raise ValueError(
                "Argument `boundaries` must rise, and be one fewer than `schedules`. Received: "
                f"boundaries={self.boundaries}, {len(self.schedules)} schedules."
            )
        last = self.schedules[-1].end_step
        super().__init__(
            begin_step=min([self.schedules[0].begin_step, *self.boundaries[:1]]),
            end_step=FOREVER if last == FOREVER else self._after(len(self.boundaries), last),
            frequency=min(schedule.frequency for schedule in self.schedules),
            unit=unit,
        )

    def sparsity_at(self, step):
        """What the active schedule says, or where the one before it has come to."""
        index, within = self._active(step)
        while index and within < checks.exact(self.schedules[index].begin_step):
            within = self._start(index) - self._start(index - 1)
            index -= 1
        return self.schedules[index](within)

    def last_due(self, step):
        """The last step at which an update is due, as in `Schedule.last_due`."""
        index, within = self._active(step)
        due = self.schedules[index].last_due(within)
        if due is None and index == 0:
            return None
        return self._after(index, due or 0)

    def check_steps_per_epoch(self, steps_per_epoch):
        """Raises a `ValueError` if one of the schedules does."""
        for schedule in self.schedules:
            schedule.check_steps_per_epoch(steps_per_epoch)

    def _active(self, step):
        """The index of the active schedule, and the time since it took over."""
        now = self._now(step)
        index = sum(now >= checks.exact(boundary) for boundary in self.boundaries)
        return index, now - self._start(index)

    def _start(self, index):
        return checks.exact(self.boundaries[index - 1] if index else 0)

    def _after(self, index, within):
        return checks.plain(self._start(index) + checks.exact(within))

    def get_config(self):
        """The arguments that make this schedule again."""
        schedules = [keras.saving.serialize_keras_object(s) for s in self.schedules]
        return {"schedules": schedules, "boundaries": self.boundaries}


def _check_schedule(name, schedule):
    if not isinstance(schedule, Schedule):
        raise ValueError(
            f"Argument `{name}` must be made of `tfprune.schedules.Schedule`. "
            f"Received: {name}={schedule!r}."
        )
