"""Base class of callbacks that update masks on a schedule."""

import weakref

import keras

from tfprune import schedules
from tfprune.callbacks.step import current_step
from tfprune.masks import layer_filter

_listed = weakref.WeakSet()
"""Callbacks which a `fit` has listed. Those of one `fit` have one and the same `params`."""


class ScheduledCallback(keras.callbacks.Callback):
    """Base class of callbacks that call `update(model, sparsity, optimizer)` on a schedule.

    The sparsity of a model is a function of `optimizer.iterations`: it must be that of the last
    update that was due. So the callback has no state to save. Where hooks run less often than the
    optimizer steps (`steps_per_execution`), or training continues after `BackupAndRestore` or with
    a loaded model, a missed update is made at the next hook; one that was made already is called
    again, and `update` must then leave the masks as they are.

    A schedule with `unit="epoch"` is converted to steps of the optimizer: an epoch has as many as
    `fit` makes in one, and epoch 0 begins where `optimizer.iterations` is 0.

    A subclass implements `update`, and `measure` for the logs.

    Args:
        target: A `tfprune.schedules.Schedule`, or what `tfprune.schedules.get` takes.
        only, exclude: Filters of layers, see `tfprune.masks.layer_filter`.
        verbose: 0 is quiet, 1 prints a line for every update.

    Example:

    In a training loop of your own, call `after_step` once after each step, and once before the
    first if the schedule begins at step 0:

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

    def __init__(self, target, *, only=None, exclude=None, verbose=0):
        super().__init__()
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
        step = current_step(model, optimizer)
        schedule = self._schedule_in_steps()
        due = schedule.last_due(step)
        is_due = due is not None and due != self._last_update
        if is_due and self.update(model, schedule(due), optimizer) is not False:
            self._last_update = due
            self._measured = self.measure(model)
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
        self._in_steps = self._converted_for_fit()
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
        return f"{type(self).__name__}({self.schedule!r})"

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
        batches = (self.params or {}).get("steps")
        if not batches:
            raise ValueError(
                "A schedule in epochs needs to know how many steps an epoch has, which `fit` does "
                f"not. Received: schedule={self.schedule!r}, steps={batches}. Pass "
                "`steps_per_epoch` to `fit`, or give the callback the schedule in steps: "
                "`schedule.in_steps(steps_per_epoch)`."
            )
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a `LossScaleOptimizer`
        return self.schedule.in_steps(batches / (optimizer.gradient_accumulation_steps or 1))

    def _log(self, logs):
        measured = self.after_step(self.model)
        if logs is not None:
            for name, value in measured.items():
                logs[_free_name(name, logs)] = value

    def _forget(self):
        self._last_update = None
        self._measured = None

    def get_config(self):
        """The arguments that make this callback again, layers by their names; data is left out."""
        return {
            "target": schedules.serialize(self.schedule),
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
