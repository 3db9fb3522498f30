"""Base class of callbacks that update masks on a schedule.

Schedules are pure functions of the step, counted by the optimizer since masks were made, so no
callback saves its progress, and training goes on correctly after an interruption. What cannot be
derived from the step a callback gives to backups in `get_state`.
"""

import math
import warnings
import weakref

from tfprune import schedules
from tfprune._tools.checks import is_number
from tfprune.callbacks.needs_built import NeedsBuilt
from tfprune.masks import layer_filter
from tfprune.masks.first_step import current_step, first_step
from tfprune.schedules import checks

_listed = weakref.WeakSet()
"""Callbacks which a `fit` has listed. Those of one `fit` have one and the same `params`."""


class ScheduledCallback(NeedsBuilt):
    """Base class of callbacks that call `update(model, sparsity, optimizer)` on a schedule.

    Steps are those of the optimizer since the masks of the model were made: step 0 is before the
    first of them, also where a trained model was made prunable and `optimizer.iterations` is high
    already. Where they were made is saved with the masks, so counting continues in a loaded model
    and after `BackupAndRestore`. A model that is compiled anew begins at step 0 again.

    The sparsity of a model is a function of the step: it must be that of the last update that was
    due. So the callback has no state to save. Where hooks run less often than the optimizer steps
    (`steps_per_execution`), or training is resumed, a missed update is made at the next hook; one
    that was made already is called again, and `update` must then leave the masks as they are. Where
    training begins after the end of the schedule, and the model is not as it should be then, all
    of it is done at once, and a warning says so.

    A schedule with `unit="epoch"` is converted to steps of the optimizer: an epoch has as many as
    `fit` makes in one, and epoch 0 begins at step 0.

    A subclass implements `update`, and `measure` for the logs.

    Args:
        target: A `tfprune.schedules.Schedule`, or what `tfprune.schedules.get` takes.
        only, exclude: Filters of layers, see `tfprune.masks.layer_filter`.
        verbose: 0 is quiet, 1 prints a line for every update.

    Example:

    In a training loop of your own, call `after_step` once after each step, and once before the
    first if the schedule begins at step 0:

    >>> import keras
    >>> import tfprune
    >>> from tfprune.callbacks import PruneWeights
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> callback = PruneWeights(tfprune.schedules.OneShot(0.5, step=2))
    >>> for step in range(3):
    ...     loss = model.train_on_batch(keras.ops.ones((1, 4)), keras.ops.ones((1, 2)))
    ...     print(callback.after_step(model))
    {'sparsity': 0.0}
    {'sparsity': 0.5}
    {'sparsity': 0.5}
    """

    _action = "prune"
    """What the callback does, for errors."""

    _predicate = "layer -> bool"
    """The signature of a predicate as `only` or `exclude`."""

    _spreads_numbers = False
    """Whether a number is reached gradually in `fit`, or holds from the first step on."""

    _spread_target = "A number as `target`"
    """What is spread over `fit`, for errors."""

    _of_own_loop = (
        "Take `tfprune.schedules.Constant(...)` for all at once, or "
        "`tfprune.schedules.PolynomialDecay(0, ..., begin_step, end_step)`."
    )
    """What to give in a training loop of one's own, for errors."""

    def __init__(self, target, *, only=None, exclude=None, verbose=0):
        super().__init__()
        is_spread = self._spreads_numbers and is_number(target)
        self._spread_to = checks.sparsity("target", target) if is_spread else None
        self._is_spread = False
        self.schedule = schedules.get(target, "target")
        layer_filter.check(only, exclude, self._predicate)
        self.only = only
        self.exclude = exclude
        self.verbose = verbose
        self._in_steps = None
        self._forget()

    def update(self, model, sparsity, optimizer):
        """Brings `model` to `sparsity`; does nothing where it has it already.

        Args:
            model: The model that is trained.
            sparsity: Float, the value of the schedule.
            optimizer: Its optimizer, to pass on to `tfprune.set_masks`.

        Returns:
            `False` where the update cannot be made yet: it is called again after the next step.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `update(model, sparsity, optimizer)`."
        )

    def measure(self, model):
        """The values for the logs, a dict of floats. Called at the start and after updates."""
        return {}

    def conflict_keys(self, model):
        """Keys of what the callback prunes: no two callbacks of a `fit` may have one in common.

        Returns:
            A dict from hashable keys to names for errors.
        """
        return {}

    def get_state(self):
        """The state for `BackupAndRestore`: the schedule, where a number was spread over `fit`."""
        return {"schedule": schedules.serialize(self.schedule)} if self._is_spread else {}

    def set_state(self, state):
        """Gives the state back."""
        if "schedule" in state:
            self.schedule = schedules.get(state["schedule"])
            self._is_spread = True

    def set_params(self, params):
        """Called by `fit`, for all of its callbacks before the first begins."""
        super().set_params(params)
        _listed.add(self)

    def after_step(self, model, optimizer=None):
        """Makes the update that is due, if any: the one call per step of a custom loop.

        Args:
            model: The model that is trained.
            optimizer: Its optimizer; by default `model.optimizer`.

        Returns:
            The logs: a dict of floats, as `{"sparsity": 0.5}`.

        Raises:
            ValueError: If there is no optimizer to count the steps; without `fit`, if the schedule
                is in epochs.
        """
        optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
        if optimizer is None:
            raise ValueError(
                "The steps are counted by the optimizer, and the model has none. Compile the "
                "model, or pass `optimizer=...` to `after_step`. "
                f"Received: model={getattr(model, 'name', model)!r}."
            )
        self._check_spread()
        step = self._step(model, optimizer)
        schedule = self._schedule_in_steps()
        due = schedule.last_due(step)
        is_due = due is not None and due != self._last_update
        is_late = is_due and self._last_update is None and due == schedule.end_step < step
        before = self.measure(model) if is_late else None
        if is_due and self.update(model, schedule(due), optimizer) is not False:
            self._last_update = due
            self._measured = self.measure(model)
            if is_late and self._measured != before:
                self._warn_late(schedule, step)
            if self.verbose:
                print(_message(type(self).__name__, step, self._measured))
        elif self._measured is None:
            self._measured = self.measure(model)
        return dict(self._measured)

    def on_train_begin(self, logs=None):
        """Makes the update of step 0, or of the step at which training goes on.

        Raises:
            ValueError: If another callback of this `fit` has a conflict key in common.
        """
        self._check_conflicts()
        self._forget()
        self._is_spread = False
        if self._spread_to is None:
            self._in_steps = self._converted_for_fit()
            self._log(logs)
        else:
            self._steps_per_epoch()  # an error before anything is done

    def on_epoch_begin(self, epoch, logs=None):
        """Spreads a number over `fit`, and finds step 0 again, which others may have loaded.

        Only now is the epoch known at which an interrupted training continues.
        """
        self._first_step = None
        if self._spread_to is not None and not self._is_spread:
            self.schedule = self._spread(epoch)
            self._is_spread = True
            self._log(logs)

    def on_train_end(self, logs=None):
        """Drops the conversion of epochs to steps."""
        self._in_steps = None

    def on_train_batch_end(self, batch, logs=None):
        """Makes the update that is due."""
        self._log(logs)

    def on_epoch_end(self, epoch, logs=None):
        """Adds to the logs of the epoch, measured again since others may have changed masks."""
        self._measured = None
        self._log(logs)

    def _check_conflicts(self):
        others = [
            other
            for other in list(_listed)
            if other is not self and self.params is not None and other.params is self.params
        ]
        mine = self.conflict_keys(self.model) if others else {}
        for other in others:
            theirs = other.conflict_keys(self.model) if mine else {}
            both = [name for key, name in mine.items() if key in theirs]
            if both:
                more = f" and {len(both) - 1} more" if len(both) > 1 else ""
                raise ValueError(
                    f"Two callbacks {self._action} the same: {both[0]}{more}. "
                    f"Received: {self._described()} and {other._described()}. Leave one of them "
                    "out, or tell them apart with `only` and `exclude`."
                )

    def _described(self):
        target = self.schedule if self._spread_to is None else self._spread_to
        return f"{type(self).__name__}({target!r})"

    def _schedule_in_steps(self):
        if self.schedule.unit == "step":
            return self.schedule
        if self._in_steps is None:
            raise ValueError(
                "In a training loop of your own nobody says how many steps an epoch has. "
                f"Received: schedule={self.schedule!r}. Give the callback the schedule in steps: "
                "`schedule.in_steps(steps_per_epoch)`."
            )
        return self._in_steps

    def _converted_for_fit(self):
        """The schedule in the steps of the optimizer in this `fit`."""
        if self.schedule.unit == "step":
            return self.schedule
        return self.schedule.in_steps(self._steps_per_epoch())

    def _steps_per_epoch(self):
        """How many steps the optimizer makes in an epoch of this `fit`: a float."""
        batches = (self.params or {}).get("steps")
        if not batches and self._spread_to is not None:
            raise ValueError(
                f"{self._spread_target} is spread over the steps of `fit`, but how many there are "
                f"is not known. Received: {self._described()}, steps={batches}. Pass "
                "`steps_per_epoch` to `fit`, or a schedule."
            )
        if not batches:
            raise ValueError(
                "A schedule in epochs needs to know how many steps an epoch has, which `fit` does "
                f"not. Received: schedule={self.schedule!r}, steps={batches}. Pass "
                "`steps_per_epoch` to `fit`, or give the callback the schedule in steps: "
                "`schedule.in_steps(steps_per_epoch)`."
            )
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a `LossScaleOptimizer`
        return batches / (optimizer.gradient_accumulation_steps or 1)

    def _spread(self, epoch):
        """The schedule to a number: `PolynomialDecay` in ten updates over the first half of `fit`.

        A training that is resumed at a later epoch continues on the same curve; one that begins
        there, with nothing done yet, has the epochs that are left.
        """
        steps, epochs = self._steps_per_epoch(), self.params["epochs"]
        now = self._step(self.model)
        start = max(0, now - round(epoch * steps))
        if start < now and not any(self.measure(self.model).values()):
            start, epochs = now, epochs - epoch
        half = max(1, math.floor(steps * epochs / 2))
        return schedules.PolynomialDecay(
            0.0, self._spread_to, start, start + half, frequency=max(1, half // 10)
        )

    def _check_spread(self):
        if self._spread_to is not None and not self._is_spread:
            raise ValueError(
                f"{self._spread_target} is spread over `fit`; in a training loop of your own give "
                f"a schedule. Received: {self._described()}. {self._of_own_loop}"
            )

    def _step(self, model, optimizer=None):
        """The steps of the optimizer since the masks of the model were made."""
        step = current_step(model, optimizer)
        if self._first_step is None or self._first_step > step:
            self._first_step = first_step(model, step)
        return step - self._first_step

    def _warn_late(self, schedule, step):
        warnings.warn(
            f"The schedule was over before training began, so all of it was done in one step. "
            f"Received: {self._described()}, which ends at step {schedule.end_step}; the model has "
            f"made {step} steps since it carries masks. Give a schedule with a later `end_step`, "
            "or a number, which is spread over `fit`; compiled anew, a model counts from 0.",
            stacklevel=3,
        )

    def _log(self, logs):
        measured = self.after_step(self.model)
        if logs is not None:
            for name, value in measured.items():
                logs[_free_name(name, logs)] = value

    def _forget(self):
        self._first_step = None
        self._last_update = None
        self._measured = None

    def get_config(self):
        """The arguments that make this callback again, layers by their names; data is left out."""
        return {
            "target": schedules.serialize(self.schedule)
            if self._spread_to is None
            else self._spread_to,
            **layer_filter.serialize(self.only, self.exclude),
            "verbose": self.verbose,
        }

    @classmethod
    def from_config(cls, config):
        """A callback out of its `get_config()`."""
        return cls(**layer_filter.deserialize(config))


def _free_name(name, logs):
    """`name`, or `name_1`, ... where a metric or another callback has taken it."""
    taken, number = name, 0
    while taken in logs:
        number += 1
        taken = f"{name}_{number}"
    return taken


def _message(callback, step, measured):
    values = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
    return f"\n{callback}: step {step}: {values}"
