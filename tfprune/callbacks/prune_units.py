"""Prunes coupled units on a schedule while a model trains."""

import keras

from tfprune import schedules
from tfprune._tools.checks import is_number
from tfprune.callbacks.regularize_units import RegularizeUnits
from tfprune.callbacks.scheduled import ScheduledCallback
from tfprune.criteria import units as criteria
from tfprune.criteria.contribution import ActivationContribution
from tfprune.masks.skipping import warn_of_skipped
from tfprune.schedules import checks
from tfprune.units import budgets
from tfprune.units import regularizers as unit_regularizers
from tfprune.units.accuracy import check_says_how_much
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores
from tfprune.units.selection import selection as selections
from tfprune.units.selection.budget_search import check_target
from tfprune.units.selection.select_units import select_units


@keras.saving.register_keras_serializable("tfprune")
class PruneUnits(ScheduledCallback):
    """Prunes units (neurons, filters, heads) on a schedule while a model trains.

    Units are masked as by `tfprune.prune_units`, which describes the arguments in full;
    `tfprune.strip` then removes them. Pruned units do not come back. `unit_sparsity` in the logs is
    the fraction of units pruned.

    Two of them in one `fit` must choose different layers. `PruneWeights` may prune the weights of
    the same layers.

    Args:
        target: A fraction of units or a budget, see `tfprune.prune_units`, which is reached
            gradually (`PolynomialDecay` with ten updates) over the first half of `fit`; the other
            half is left to recover. Or a `tfprune.schedules.Schedule`, the fraction at each step.
        criterion: See `tfprune.prune_units`; also "activation_contribution", which is measured
            while the model trains.
        schedule: Replaces the default way to a fraction or a budget: a `tfprune.schedules.Schedule`
            from 0, the dense model, to 1, the target. In between, a budget allows the interpolation
            of the dense model's cost and its own.
        selection: See `tfprune.prune_units`. An update for `Latency` rebuilds and times several
            models.
        data: See `tfprune.prune_units`; it is measured again at every update.
        only, exclude: See `tfprune.prune_units`.
        regularizer: A penalty on units in the loss while `fit` runs, which makes units small before
            they are pruned: "group_lasso", "batch_norm_l1", "growing", or an object of
            `tfprune.unit_regularizers`.
        verbose: 0 is quiet, 1 prints a line for every update.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     tfprune.layers.Dense(8, activation="relu", name="hidden"),
    ...     tfprune.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> history = model.fit(
    ...     np.ones((32, 4)), np.ones((32, 1)), epochs=4, verbose=0,
    ...     callbacks=[PruneUnits(0.5, criterion="activation_contribution")])
    >>> history.history["unit_sparsity"][-1]
    0.5
    >>> tfprune.strip(model).get_layer("hidden").units
    4
    """

    _spread_target = "A fraction or a budget as `target`"
    _of_own_loop = "Try `schedule=tfprune.schedules.PolynomialDecay(0, 1, begin_step, end_step)`."

    def __init__(
        self,
        target,
        criterion="magnitude",
        *,
        schedule=None,
        selection="uniform",
        data=None,
        only=None,
        exclude=None,
        regularizer=None,
        verbose=0,
    ):
        if isinstance(target, dict) and target.get("class_name") in budgets.NAMES:
            target = budgets.deserialize(target)
        check_says_how_much(target)
        is_fraction = is_number(target)
        if is_fraction:
            target = checks.sparsity("target", target)
        is_budget = isinstance(target, budgets.Budget)
        if target is None or isinstance(target, (bool, str)):
            raise ValueError(
                "Argument `target` must be a number from 0 to 1, a budget of `tfprune.budgets`, a "
                f"schedule, or a callable step -> sparsity. Received: target={target!r}."
            )
        super().__init__(
            _first_schedule(target, schedule, is_fraction, is_budget),
            only=only,
            exclude=exclude,
            verbose=verbose,
        )
        self.target = target if is_fraction or is_budget else self.schedule
        self._progress = None if schedule is None else self.schedule
        self.selection = selections.get(selection)
        self.selection.check_budget(target)
        self._scoring = UnitScores(criterion, data=data)
        self.criterion = self._scoring.criterion
        self.data = data
        self.regularizer = unit_regularizers.get(regularizer)
        if self.regularizer is not None and self.regularizer.prunes:
            raise ValueError(
                f"`{type(self.regularizer).__name__}` says by itself which units go, without a "
                f"target. Received: regularizer={self.regularizer!r}. Train with "
                "`tfprune.callbacks.RegularizeUnits` in place of `PruneUnits`."
            )
        self._penalty = self.regularizer and RegularizeUnits(
            self.regularizer, only=only, exclude=exclude
        )
        if isinstance(self.regularizer, unit_regularizers.Growing):
            self.regularizer.default_target = target if is_budget else self.schedule.final
        self._units = None
        if (is_fraction or is_budget) and schedule is None:
            self._spread_to = target if is_fraction else 1.0

    def after_step(self, model, optimizer=None):
        """Makes the update that is due: the one call per step of a custom loop.

        In a loop of your own give a schedule as target, and call this once before the first step,
        before the step function is traced: a criterion that is measured begins to measure then.
        """
        self._check_spread()
        if self.regularizer is not None and self.regularizer.model is not model:
            raise ValueError(
                "A regularizer is attached by `fit`; in a training loop of your own call "
                "`regularizer.attach(model)` before the step function is traced. "
                f"Received: regularizer={self.regularizer!r}."
            )
        self._prepare(model)
        return super().after_step(model, optimizer)

    def update(self, model, sparsity, optimizer):
        """Prunes units so that each layer has the sparsity, or a budget is reached so far."""
        target, progress = sparsity, 1.0
        if isinstance(self.target, budgets.Budget):
            target, progress = self.target, sparsity
        elif self._progress is not None:
            target = self.target * sparsity
        dead = select_units(self._units, target, self._scoring, self.selection, progress)
        self._scoring.prune(self._units, dead, optimizer)

    def measure(self, model):
        """The fraction of units that are pruned."""
        counts = self._units.counts()
        total = sum(count.units for count in counts)
        return {"unit_sparsity": sum(count.pruned for count in counts) / total}

    def conflict_keys(self, model):
        """The units it prunes, by the layers that make them."""
        units = self._units
        if units is None or units.model is not model:
            units = self._prunable_units(model)
        return {
            ("units", id(layer)): f"units of layer {layer.name!r}"
            for unit_set in units.sets
            for layer in unit_set.layers
        }

    def _described(self):
        return f"{type(self).__name__}({self.target!r})"

    def on_train_begin(self, logs=None):
        """Makes the update of step 0, or of the step at which training goes on."""
        self._check_conflicts()  # before anything is measured
        if self._spread_to is None:
            self._converted_for_fit()  # an error before anything is measured
        else:
            self._steps_per_epoch()
        self._prepare(self.model)
        if isinstance(self.criterion, ActivationContribution):
            self.model.make_train_function(force=True)
        if self._penalty:
            self._penalty.set_model(self.model)
            self._penalty.on_train_begin(logs)
        super().on_train_begin(logs)

    def on_train_batch_end(self, batch, logs=None):
        """Makes the update that is due."""
        if self._penalty:
            self._penalty.on_train_batch_end(batch, logs)
        super().on_train_batch_end(batch, logs)

    def get_state(self):
        """The state for `BackupAndRestore`: those of criterion and regularizer too."""
        state = super().get_state()
        if isinstance(self.criterion, ActivationContribution):
            state["contribution"] = self.criterion.get_state()
        if self._penalty:
            state["penalty"] = self._penalty.get_state()
        return state

    def set_state(self, state):
        """Gives the state back."""
        super().set_state(state)
        if isinstance(self.criterion, ActivationContribution):
            self.criterion.set_state(state["contribution"])
        if self._penalty:
            self._penalty.set_state(state["penalty"])

    def on_train_end(self, logs=None):
        """Stops measuring the criterion."""
        if isinstance(self.criterion, ActivationContribution):
            for layer, _, _ in self._units.layers():
                self.criterion.detach(layer)
            self.model.make_train_function(force=True)
        if self._penalty:
            self._penalty.on_train_end(logs)
        self._units = None
        super().on_train_end(logs)

    def _prunable_units(self, model):
        limits = {"min_units": self.selection.min_units}
        return PrunableUnits(model, only=self.only, exclude=self.exclude, **limits)

    def _prepare(self, model):
        if self._units is not None and self._units.model is model:
            return
        units = self._prunable_units(model)
        check_target(units, self.target, self.selection)
        self._units = units
        warn_of_skipped(units.skipped)
        if isinstance(self.criterion, ActivationContribution):
            for layer, units, axis in self._units.layers():
                self.criterion.attach(layer, units, axis)

    def get_config(self):
        """The arguments that make this callback again, layers by their names; data is left out."""
        return {
            **super().get_config(),
            "target": keras.saving.serialize_keras_object(self.target),
            "criterion": criteria.serialize(self.criterion),
            "schedule": None if self._progress is None else schedules.serialize(self._progress),
            "selection": selections.serialize(self.selection),
            "regularizer": unit_regularizers.serialize(self.regularizer),
        }


def _first_schedule(target, schedule, is_fraction, is_budget):
    """The schedule before `fit`; a placeholder where the target is spread over `fit`."""
    if schedule is None:
        return (
            schedules.Constant(1.0 if is_budget else target) if is_fraction or is_budget else target
        )
    schedule = schedules.get(schedule)
    if not is_fraction and not is_budget:
        raise ValueError(
            "Argument `schedule` says how far a fraction or a budget is reached, so `target` must "
            f"be one of these. Received: target={target!r}, schedule={schedule!r}."
        )
    if schedule.final not in (None, 1.0):
        raise ValueError(
            "Argument `schedule` must end at 1, where the target is reached. "
            f"Received: schedule={schedule!r}, which ends at {schedule.final}."
        )
    return schedule
