"""Converts schedules of tfmot, which count steps from 1."""

import keras

from tfprune import schedules
from tfprune.schedules import FOREVER, Schedule


@keras.saving.register_keras_serializable("tfprune")
class CountedFromOne(Schedule):
    """A schedule whose steps are counted from 1, as tfmot counts them.

    tfmot counts a step before it trains, so its step s stands before the s-th update of the
    weights, where `optimizer.iterations` is s - 1:

        sparsity(iterations) = schedule(iterations + 1)

    There is no step 0, so an update due then is not made: with `begin_step=0` the first one is at
    tfmot's step `frequency`.

    Args:
        schedule: A `tfprune.schedules.Schedule`, or what `tfprune.schedules.get` takes, whose
            `begin_step` and `end_step` are counted from 1.

    Example:

    >>> schedule = CountedFromOne(schedules.Constant(0.5, begin_step=3, end_step=5, frequency=2))
    >>> [step for step in range(10) if schedule.is_due(step)]
    [2, 4]
    """

    def __init__(self, schedule):
        self.schedule = schedules.get(schedule)
        begin, end = self.schedule.begin_step, self.schedule.end_step
        frequency = self.schedule.frequency
        begin = begin - 1 if begin > 0 else frequency - 1
        if end != FOREVER:
            end = max(end - 1, 0)
            begin = min(begin, end)
        super().__init__(begin, end, frequency)

    def sparsity_at(self, step):
        """The sparsity at a step, counted from 1 for the schedule."""
        return self.schedule(step + 1)

    def get_config(self):
        """The arguments that make this schedule again."""
        return {"schedule": schedules.serialize(self.schedule)}

    def __repr__(self):
        return f"{type(self).__name__}({self.schedule!r})"


@keras.saving.register_keras_serializable("tfprune")
class TfmotSchedule(Schedule):
    """A custom tfmot schedule, called at every step.

    Args:
        schedule: Callable which takes tfmot's step, from 1, and returns whether to prune and the
            sparsity. To be saved with a callback its class must be registered with
            `keras.saving.register_keras_serializable`, and have the `get_config` that tfmot asks
            for.

    Example:

    >>> class Twice:
    ...     def __call__(self, step):
    ...         return step in (10, 20), step / 100
    >>> schedule = TfmotSchedule(Twice())
    >>> [schedule.last_due(step) for step in (8, 9, 15, 19, 40)], schedule(19)
    ([None, 9, 9, 19, 19], 0.2)
    """

    def __init__(self, schedule):
        super().__init__(begin_step=0, end_step=FOREVER, frequency=1)
        self.schedule = schedule
        self._asked = (0, None)  # up to which step of tfmot's, and which was the last due

    def sparsity_at(self, step):
        """The sparsity at a step."""
        return float(self.schedule(step + 1)[1])

    def last_due(self, step):
        """The last step up to `step` at which it prunes, else `None`."""
        now = int(step) + 1
        asked, due = self._asked if self._asked[0] <= now else (0, None)
        for earlier in range(now, asked, -1):
            if bool(self.schedule(earlier)[0]):
                due = earlier
                break
        self._asked = (now, due)
        return None if due is None else due - 1

    def __repr__(self):
        return f"{type(self).__name__}({self.schedule!r})"

    def get_config(self):
        """The arguments that make this schedule again."""
        name = keras.saving.get_registered_name(type(self.schedule))
        config = self.schedule.get_config()
        return {"schedule": {"class_name": name, "config": config.get("config", config)}}

    @classmethod
    def from_config(cls, config):
        """A schedule out of its `get_config()`."""
        name = config["schedule"]["class_name"]
        found = keras.saving.get_registered_object(name)
        if found is None:
            raise ValueError(
                "The class of the schedule must be registered with "
                "`keras.saving.register_keras_serializable` before it is read. "
                f"Received: class_name={name!r}."
            )
        return cls(found.from_config(config["schedule"]["config"]))


_OURS = {"ConstantSparsity": schedules.Constant, "PolynomialDecay": schedules.PolynomialDecay}


def from_tfmot_schedule(schedule):
    """Converts a tfmot schedule to one that prunes at the same steps of the optimizer.

    `tfprune.schedules.get` calls this, so callbacks accept tfmot's schedules. Their steps are
    counted from 1 (`CountedFromOne`). Two defects of tfmot are fixed: there is an update at
    `end_step`, so the final sparsity is reached also where `frequency` does not divide
    `end_step - begin_step`; and where `PolynomialDecay` ends as it begins, it has the final
    sparsity instead of NaN. The schedules of subclasses are called as they are.

    Args:
        schedule: A `ConstantSparsity` or `PolynomialDecay` of tfmot, or a schedule of your own
            class.

    Returns:
        A `tfprune.schedules.Schedule`.

    Example:

    >>> from tensorflow_model_optimization.sparsity import keras as sparsity
    >>> ours = from_tfmot_schedule(sparsity.ConstantSparsity(0.5, begin_step=100))
    >>> [ours.is_due(step) for step in (98, 99, 100)], ours(99)
    ([False, True, False], 0.5)
    """
    ours = _OURS.get(type(schedule).__name__) if _is_tfmot_s(type(schedule)) else None
    if ours is None:
        return TfmotSchedule(schedule)
    return CountedFromOne(ours(**schedule.get_config()["config"]))


def _is_tfmot_s(cls):
    return cls.__module__.startswith("tensorflow_model_optimization.")


@schedules.converter
def _converted(identifier):
    is_theirs = any(_is_tfmot_s(cls) for cls in type(identifier).__mro__)
    return from_tfmot_schedule(identifier) if is_theirs else identifier
