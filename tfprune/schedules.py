"""Schedules: how sparse a model has to be at a training step, and at which steps that changes.

A schedule is a pure function of the step, so whoever follows it needs no memory of its own: after
an interruption the step tells what the model must look like.
"""

import inspect
import numbers

import keras

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
        self.begin_step = _integer("begin_step", begin_step, minimum=0)
        self.end_step = _integer("end_step", end_step, minimum=FOREVER)
        self.frequency = _integer("frequency", frequency, minimum=1)
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


@keras.saving.register_keras_serializable("tfprune")
class Constant(Schedule):
    """The same sparsity from `begin_step` on.

    Args:
        target_sparsity: Float from 0 to 1. 1 removes every element.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one; -1 for no last one.
        frequency: Integer, steps from one update to the next.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = Constant(0.5, begin_step=200)
    >>> schedule(199), schedule(200), schedule.is_due(250), schedule.is_due(300)
    (0.0, 0.5, False, True)
    """

    def __init__(self, target_sparsity, begin_step=0, end_step=FOREVER, frequency=100):
        super().__init__(begin_step, end_step, frequency)
        self.target_sparsity = _sparsity("target_sparsity", target_sparsity)

    def sparsity_at(self, step):
        """The target."""
        return self.target_sparsity

    def get_config(self):
        """The arguments that make this schedule again."""
        return {"target_sparsity": self.target_sparsity, **super().get_config()}


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
        _integer("end_step", end_step, minimum=0)
        super().__init__(begin_step, end_step, frequency)
        self.initial_sparsity = _sparsity("initial_sparsity", initial_sparsity)
        self.final_sparsity = _sparsity("final_sparsity", final_sparsity)
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


@keras.saving.register_keras_serializable("tfprune")
class OneShot(Schedule):
    """The whole sparsity at one step.

    Args:
        target_sparsity: Float from 0 to 1. 1 removes every element.
        step: Integer, the step; 0 is before the first update of the weights.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = OneShot(0.5, step=300)
    >>> schedule(299), schedule(300), schedule.is_due(300), schedule.is_due(400)
    (0.0, 0.5, True, False)
    """

    def __init__(self, target_sparsity, step):
        self.step = _integer("step", step, minimum=0)
        self.target_sparsity = _sparsity("target_sparsity", target_sparsity)
        super().__init__(begin_step=self.step, end_step=self.step)

    def sparsity_at(self, step):
        """The target."""
        return self.target_sparsity

    def get_config(self):
        """The arguments that make this schedule again."""
        return {"target_sparsity": self.target_sparsity, "step": self.step}


@keras.saving.register_keras_serializable("tfprune")
class Function(Schedule):
    """A function step -> sparsity of your own as a schedule.

    Args:
        function: Callable which takes the step, an integer, and returns a float from 0 to 1. To
            be saved with a callback it must be registered with
            `keras.saving.register_keras_serializable`.
        begin_step: Integer, the first step at which an update is due.
        end_step: Integer, the last one; -1 for no last one.
        frequency: Integer, steps from one update to the next.

    Raises:
        ValueError: If an argument is out of its range, or a value of the function is.

    Example:

    >>> schedule = Function(lambda step: min(0.9, step / 1000), frequency=10)
    >>> schedule(500), schedule(2000)
    (0.5, 0.9)
    """

    def __init__(self, function, begin_step=0, end_step=FOREVER, frequency=100):
        super().__init__(begin_step, end_step, frequency)
        if not callable(function):
            raise ValueError(
                f"Argument `function` must be callable. Received: function={function!r}."
            )
        self.function = function

    def sparsity_at(self, step):
        """What the function says, checked."""
        return _sparsity(f"{self.function!r} at step {step}", self.function(step))

    def get_config(self):
        """The arguments that make this schedule again."""
        function = keras.saving.serialize_keras_object(self.function)
        return {"function": function, **super().get_config()}

    @classmethod
    def from_config(cls, config):
        """A schedule out of its `get_config()`."""
        function = keras.saving.deserialize_keras_object(config["function"])
        return cls(**{**config, "function": function})


_ALL = {cls.__name__: cls for cls in (Constant, PolynomialDecay, OneShot, Function)}


def serialize(schedule):
    """The configuration of a schedule.

    Example:

    >>> serialize(OneShot(0.5, step=0))["class_name"]
    'OneShot'
    """
    return keras.saving.serialize_keras_object(schedule)


def deserialize(config, custom_objects=None):
    """A schedule out of its configuration.

    Args:
        config: Dict, as `serialize` returns it; `{"class_name": ..., "config": ...}` is enough.
        custom_objects: Dict of names to classes which are not registered with Keras.

    Example:

    >>> deserialize({"class_name": "OneShot", "config": {"target_sparsity": 0.5, "step": 0}})
    OneShot(target_sparsity=0.5, step=0)
    """
    return keras.saving.deserialize_keras_object(config, {**_ALL, **(custom_objects or {})})


def get(identifier):
    """The schedule meant by an identifier.

    Args:
        identifier: A `Schedule`; a configuration of one; a number, for `Constant` at that
            sparsity; or a callable step -> sparsity, for `Function`.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> get(0.5)
    Constant(target_sparsity=0.5, begin_step=0, end_step=-1, frequency=100)
    """
    if isinstance(identifier, dict):
        identifier = deserialize(identifier)
    if isinstance(identifier, Schedule):
        return identifier
    if isinstance(identifier, numbers.Real) and not isinstance(identifier, bool):
        return Constant(identifier)
    if callable(identifier) and not inspect.isclass(identifier):
        return Function(identifier)
    raise ValueError(
        "Argument `schedule` must be a schedule with its arguments, such as "
        "`tfprune.schedules.Constant(0.5)`, its configuration, a number or a callable "
        f"step -> sparsity. Received: schedule={identifier!r}."
    )


def _integer(name, value, minimum):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(
            f"Argument `{name}` must be an integer of at least {minimum}. "
            f"Received: {name}={value!r}."
        )
    return int(value)


def _sparsity(name, value):
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:  # a NaN compares False
        raise ValueError(
            f"Argument `{name}` must be a number from 0 to 1. Received: {name}={value!r}."
        )
    return float(value)
