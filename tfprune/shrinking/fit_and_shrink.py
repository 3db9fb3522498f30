"""Training that prunes units in stages and rebuilds the model smaller at each of them.

Units are pruned and removed at the same moment, at the beginning of a stage: units that are masked
within a stage would still be computed. For gradual pruning take more stages; each costs a rebuild
and one trace.
"""

import dataclasses
import inspect
import time

import keras

from tfprune import _keras
from tfprune._tools.checks import check_model
from tfprune._tools.finite import check_finite_data, check_finite_weights
from tfprune._tools.tables import Change
from tfprune.callbacks import RegularizeUnits, ScheduledCallback
from tfprune.coupling.costs import total_macs
from tfprune.coupling.failures import no_call
from tfprune.measuring.data import running
from tfprune.shrinking.shrinkable_model import ShrinkableModel
from tfprune.shrinking.stages import ShrinkResult, Stage, plan_stages

_FIT = set(inspect.signature(keras.Model.fit).parameters) - {"self", "x", "y"}


def fit_and_shrink(
    model,
    x=None,
    y=None,
    *,
    stages,
    criterion="magnitude",
    selection="uniform",
    data=None,
    only=None,
    exclude=None,
    masked=False,
    **fit,
):
    """Returns a smaller model, trained while its units are removed, so that epochs get faster.

    At the beginning of some epochs units are pruned and the model is rebuilt without them; training
    continues with the small one. It is one training: the data run through one `fit`, optimizer
    slots are sliced, and step count, learning rate, schedule, loss scale, metrics, history and
    callbacks continue. The losses are those of a training in which the same units are masked at the
    same epochs and nothing is rebuilt, up to rounding, where no layer is random; an
    RMSNormalization with fewer units has another scale, which its optimizer sees.

    The trained model has stock layers; where masks are left, for frozen or single pruned elements
    of the model given, it has drop-in layers that keep them. Only masked units are removed: a
    weight that happens to be 0 may still be trained.

    Callbacks are called as in one `fit`, `on_train_begin` once, and their `model` is the one that
    is trained at the time. `EarlyStopping(restore_best_weights=True)` starts again with each
    rebuilt model, since the best weights of a larger one do not fit. `stop_training` ends all
    stages. Files of `ModelCheckpoint` hold the model as it was then; weights alone fit only a model
    of the same stage. Callbacks that prune are refused.

    A `BackupAndRestore` among the callbacks saves the masked model of full size. So a training that
    was killed goes on in the same stage, when the same call is made again: with the same units, and
    the same weights up to rounding. The stages of the result begin where it was resumed.

    Args:
        model: Any compiled Keras model that trains with Keras's own `train_step`. It is not
            changed. In place of a subclassed model the Functional model of its `call` is trained,
            whose layers are given by name.
        x, y: The data, as `fit` takes them: arrays, datasets, generators.
        stages: The targets of `tfprune.prune_units` over the epochs: a dict from an epoch, at whose
            beginning units go, to a target, as `{2: 0.3, 4: 0.6}`; a sequence of targets, spread
            evenly over the first half of training; or a single fraction, which is reached in four
            equal steps over the first half. Fractions count from the model given.
        criterion, selection, data, only, exclude: See `tfprune.prune_units`; layers are those of
            `model`.
        masked: Whether the model that is trained and returned carries masks, for more pruning.
        **fit: Arguments of `keras.Model.fit` (`epochs`, `validation_data`, `callbacks`, ...).

    Returns:
        A `ShrinkResult` with the small `model`, compiled, the `history` of all epochs, and the
        `stages`: units, parameters, MACs, seconds per epoch, seconds of rebuilding.

    Raises:
        TypeError: If an argument is unknown.
        ValueError: If the model is not compiled or has training steps of its own, stages are out
            of range or cannot be reached, or a callback cannot go on. Nothing is trained then: all
            stages are tried on a copy first.

    Example:

    >>> import numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((32, 4)), np.ones((32, 1))
    >>> result = fit_and_shrink(model, x, y, stages={1: 0.25, 2: 0.5}, epochs=4, verbose=0)
    >>> result.model.get_layer("hidden").units, [stage.units.after for stage in result.stages]
    (4, [8, 6, 4])
    >>> len(result.history.history["loss"])
    4
    """
    check_model(model)
    _check_fit(fit)
    plan = plan_stages(stages, fit.get("initial_epoch", 0), fit.get("epochs", 1))
    _check_model(model)
    callbacks = keras.tree.flatten(fit.pop("callbacks", None) or [])
    _check_callbacks(callbacks)
    check_finite_data("x", x)
    check_finite_data("y", y)
    check_finite_weights(model)
    pruning = {"criterion": criterion, "selection": selection, "data": data}
    pruning |= {"only": only, "exclude": exclude}
    _try(model, plan, pruning)

    shrinkable = ShrinkableModel(model)
    training = _Stages(shrinkable, plan, pruning, masked, callbacks, fit.pop("verbose", "auto"))
    with running(model):
        training.relay.fit(x, y, verbose=0, callbacks=[training], **fit)
    small = shrinkable.finished(masked)
    check_finite_weights(small, " after training")
    history = training.history
    history.set_model(small)
    small.history = history
    return ShrinkResult(small, history, tuple(training.stages))


def _check_fit(given):
    unknown = sorted(set(given) - _FIT)
    if unknown:
        raise TypeError(
            "Arguments must be those of `fit_and_shrink` or `keras.Model.fit`. "
            f"Received: {unknown}."
        )


def _check_model(model):
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise ValueError(
            "The model must be compiled with an optimizer, as for `fit`. "
            f"Received: model={getattr(model, 'name', model)!r}. Call `model.compile(...)` first."
        )
    if not _keras.has_own_call(model):
        raise ValueError(no_call(model))
    own = [
        name
        for name in ("train_step", "test_step", "compute_loss", "compute_metrics", "fit")
        if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if own:
        raise ValueError(
            "The rebuilt model is a plain one, so steps of the model's own would be lost. "
            f"Received: model={model.name!r} ({type(model).__name__}), which overrides {own}. "
            "Train it with `tfprune.callbacks.PruneUnits` and call `tfprune.strip` at the end."
        )


def _check_callbacks(callbacks):
    for callback in callbacks:
        name = type(callback).__name__
        has_gates = isinstance(callback, RegularizeUnits) and callback.regularizer.prunes
        if has_gates or isinstance(callback, ScheduledCallback):
            given = f"{name}({callback.regularizer!r})" if has_gates else name
            raise ValueError(
                "A callback that moves masks cannot go on when the model is rebuilt. "
                f"Received: {given}. `fit_and_shrink` prunes units itself, see `stages`; prune "
                "weights of the small model afterwards."
            )


def _try(model, plan, pruning):
    """Runs all stages on an untrained copy, so that errors come before hours of training."""
    trial = ShrinkableModel(model, check=False)
    for _, target in plan:
        trial.prune(target, **pruning)
    trial.extract()


class _Stages(keras.callbacks.CallbackList):
    """Gives the user's callbacks the current model, and replaces it where a stage begins."""

    def __init__(self, shrinkable, plan, pruning, masked, callbacks, verbose):
        self.shrinkable = shrinkable
        self.plan = dict(plan)
        self.pruning = pruning
        self.masked = masked
        self.verbose = verbose
        self.stages = []
        first, report = shrinkable.extract(masked)
        with shrinkable.strategy.scope():
            self.relay = _keras.Relay(first)
        self._backed_up = _keras.BackedUp(
            shrinkable.full, self.relay, self._write_back, self._go_on_from_backup
        )
        super().__init__(
            callbacks, add_history=True, add_progbar=verbose != 0, model=self.relay.current
        )
        self._size = _size(shrinkable, first)
        self._report = report

    @property
    def history(self):
        """The user's History, or Keras's own."""
        return self.model.history

    def set_model(self, model):
        """Keeps the model of the stage; `fit` passes the relay."""
        if model is self.relay:
            return
        super().set_model(model)
        for callback in self.callbacks:
            if isinstance(callback, keras.callbacks.BackupAndRestore):
                callback.set_model(self._backed_up)

    def set_params(self, params):
        """Sets the parameters of `fit`, which itself is quiet; none are known before it begins."""
        super().set_params({**params, "verbose": self.verbose} if params else params)

    def on_train_begin(self, logs=None):
        """Goes on where a backup ends, if there is one."""
        super().on_train_begin(logs)
        self.relay.begin_as(self._backed_up)

    def on_epoch_begin(self, epoch, logs=None):
        """Continues with a smaller model where a stage begins."""
        if epoch in self.plan:
            self._shrink(epoch)
        elif not self.stages:
            self._begin(epoch, None, self._size, 0.0, self._report)
        self._start = time.perf_counter()
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        """Notes how long the epoch took."""
        times = (*self.stages[-1].epoch_seconds, time.perf_counter() - self._start)
        self.stages[-1] = dataclasses.replace(self.stages[-1], epoch_seconds=times)
        super().on_epoch_end(epoch, logs)
        self._pass_on_stop()

    def on_train_batch_end(self, batch, logs=None):
        """Stops where a callback sets `stop_training`."""
        super().on_train_batch_end(batch, logs)
        self._pass_on_stop()

    def on_train_end(self, logs=None):
        """Finalizes the trained model, as `fit` does at its end."""
        self.model.optimizer.finalize_variable_values(self.model.trainable_weights)
        super().on_train_end(logs)

    def _shrink(self, epoch):
        start = time.perf_counter()
        self._write_back()
        self.shrinkable.prune(self.plan[epoch], **self.pruning)
        made = self.shrinkable.extract(self.masked)
        if made is not None:
            self._switch(*made)
            for callback in self.callbacks:
                _forget_best_weights(callback)
        seconds = time.perf_counter() - start
        size = _size(self.shrinkable, self.model)
        self._begin(epoch, self.plan[epoch], size, seconds, self._report)

    def _write_back(self):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.shrinkable.write_back()

    def _switch(self, small, report):
        self._report = report
        self.relay.switch(small)
        self.set_model(small)

    def _go_on_from_backup(self):
        """Once the model of full size was loaded: what is trained is extracted from it."""
        self._switch(*self.shrinkable.extract_again(self.masked))
        self._size = _size(self.shrinkable, self.model)

    def _begin(self, epoch, target, size, seconds, report):
        changes = [Change(before, after) for before, after in zip(self._size, size, strict=True)]
        self.stages.append(Stage(epoch, target, *changes, seconds, report=report))
        self._size = size

    def _pass_on_stop(self):
        if self.model.stop_training:
            self.relay.stop_training = True


def _size(shrinkable, model):
    """Units, parameters and MACs of the model that is trained."""
    return shrinkable.units(), _keras.count_weights(model), total_macs(model)


def _forget_best_weights(callback):
    """Resets `EarlyStopping`: the best weights of a larger model cannot be restored."""
    if isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights:
        callback.wait = 0
        callback.best = None
        callback.best_weights = None
        callback.best_epoch = 0
