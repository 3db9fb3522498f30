"""Freezes elements of weights on a schedule while a model trains."""

import keras

from tfprune.callbacks.scheduled_weights import ScheduledWeights
from tfprune.criteria import freezing
from tfprune.weights.freezing import FreezingMethod, frozen_share
from tfprune.weights.prunable import apply_masks


@keras.saving.register_keras_serializable("tfprune")
class FreezeWeights(ScheduledWeights):
    """Freezes the elements of kernels and embeddings with the lowest scores, on a schedule.

    After every update each weight has `round(size * fraction)` frozen elements, with the fraction
    of the schedule. Frozen elements keep their value bit for bit under every optimizer, and
    its slots of them become 0. Where the schedule rises, the lowest of the others are frozen; where
    it falls, the highest of the frozen are unfrozen, by scores of that moment. Elements that were
    frozen otherwise count, and may be unfrozen too where the schedule falls: leave them out with
    `exclude`. As long as the schedule has never fallen, nothing is unfrozen.

    Pruned elements are left alone: where fewer than the fraction are not pruned, these are all
    frozen. Beside `PruneWeights` it may freeze the same weights, but frozen elements are never
    pruned; nor are units, by `PruneUnits`, of which any element is frozen. Two of them in one `fit`
    must choose different weights. Layers with `trainable=False` are left out.

    The callback has no state to save: training continues after `BackupAndRestore`, or with a loaded
    model, with the same masks as without the interruption (a random criterion needs a seed for
    that: `tfprune.criteria.Random(seed=0)`).

    The logs of steps and epochs get `frozen`, the share of elements that are frozen, as `frozen_1`
    where the name is taken. Without `fit`, call `after_step(model)` once per step.

    Args:
        target: The frozen fraction: a number, which is reached gradually (`PolynomialDecay` with
            ten updates) over the first half of `fit`; or that at each step: a
            `tfprune.schedules.Schedule`, its configuration, or a callable step -> fraction.
        criterion: "preconditioned_gradient", "gradient", "magnitude", "random", an object or a
            callable; see `tfprune.freeze_weights`.
        distribution: "uniform", "global", a dict, a callable or "erk"; see
            `tfprune.distributions`. A dict gives the fractions of layers in the end.
        data: `(x, y)` or a dataset of batches, on which gradients are measured at every update that
            changes something, with the weights of that moment. Gradients of training steps cannot
            replace it: they belong to other weights, and to batches instead of single examples.
        only, exclude: Layers whose weights are frozen, and whose are not; see
            `tfprune.freeze_weights`.
        verbose: 0 is quiet, 1 prints a line for every update.

    Raises:
        ValueError: At the start of training, if there is nothing to freeze, a layer is unknown, or
            another `FreezeWeights` freezes the same weights; at an update, if there is no data for
            the criterion, or scores are NaN or infinite. Masks are then as they were.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(5, name="d")])
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> schedule = tfprune.schedules.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=6)
    >>> callback = FreezeWeights(schedule, "gradient", data=(x, y))
    >>> history = model.fit(x, y, batch_size=2, epochs=2, callbacks=[callback], verbose=0)
    >>> history.history["frozen"]
    [0.0, 0.8]
    """

    _action = "freeze"

    _spreads_numbers = True

    def __init__(
        self,
        target,
        criterion="preconditioned_gradient",
        *,
        distribution="uniform",
        data=None,
        only=None,
        exclude=None,
        verbose=0,
    ):
        super().__init__(
            target, distribution=distribution, only=only, exclude=exclude, verbose=verbose
        )
        self.method = FreezingMethod(criterion, distribution=self.distribution, data=data)
        self.criterion = self.method.criterion
        self.data = data

    def update(self, model, sparsity, optimizer):
        """Brings the frozen share of the weights to what the schedule says, given as `sparsity`."""
        weights = self.selected(model)
        has_fallen = sparsity < self._highest_until(self._step(model, optimizer))
        masks = self.method.masks(
            model, weights, sparsity, final=self.schedule.final, thaw=has_fallen
        )
        apply_masks(model, weights, masks, optimizer, kind="frozen")

    def measure(self, model):
        """The frozen share of the selected weights."""
        return {"frozen": frozen_share(self.selected(model))}

    def conflict_keys(self, model):
        """The weights it freezes."""
        return {("frozen", key): name for key, name in super().conflict_keys(model).items()}

    def _highest_until(self, step):
        """The highest fraction of the schedule up to a step."""
        schedule = self._schedule_in_steps()
        due = schedule.last_due(step)
        known, highest = self._highest
        now = due
        while due is not None and due > known:
            highest = max(highest, schedule(due))
            due = schedule.last_due(due - 1)
        self._highest = (now, highest)
        return highest

    def _forget(self):
        self._highest = (-1, 0.0)  # up to which step, and what it was
        super()._forget()

    def get_config(self):
        """The arguments that make this callback again, layers by their names; data is left out."""
        return {**super().get_config(), "criterion": freezing.serialize(self.criterion)}
