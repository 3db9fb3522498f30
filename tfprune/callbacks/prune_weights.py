"""Prunes single weights on a schedule while a model trains."""

import keras

from tfprune import patterns
from tfprune.callbacks.scheduled_weights import ScheduledWeights
from tfprune.criteria import weights as criteria
from tfprune.masks.gradient_accumulation import GradientAccumulator
from tfprune.weights.prunable import apply_masks, count_weights
from tfprune.weights.pruning import PruningMethod


@keras.saving.register_keras_serializable("tfprune")
class PruneWeights(ScheduledWeights):
    """Prunes the elements of kernels and embeddings with the lowest scores, on a schedule.

    At every update each weight is pruned to exactly the sparsity of the schedule; the sparsity
    never falls, and pruned elements do not come back. At a sparsity of 0 training is the same as
    without the callback, bit for bit.

    Frozen elements are never pruned; where they leave too few to prune, an error is raised. Layers
    with `trainable=False` are left out. A layer that is used several times counts once. The
    callback has no state to save: training continues after `BackupAndRestore`, or with a loaded
    model, with the same masks as without the interruption (a random criterion needs a seed for
    that: `tfprune.criteria.Random(seed=0)`). The sums of "movement" are written with the masks into
    `.weights.h5`, `.keras` and `.h5` files until the schedule ends, and go on in a model that is
    loaded from one; `tfprune.callbacks.BackupAndRestore` restores them, and Keras's if it is listed
    after this. TensorFlow checkpoints do not have them.

    Two of them in one `fit` must choose different weights. Beside `PruneUnits` it may prune the
    weights of the same layers: both only prune, and elements pruned by the other count.

    The logs of steps and epochs get `sparsity`, the pruned share of the selected weights, as
    `sparsity_1` where the name is taken. List the callback before those which write logs, such as
    `CSVLogger` and `TensorBoard`. Without `fit`, call `after_step(model)` once per step.

    Args:
        target: The sparsity: a number, which is reached gradually (`PolynomialDecay` with ten
            updates) over the first half of `fit`; the other half is left to recover. Or that at
            each step: a `tfprune.schedules.Schedule`, its configuration, or a callable
            step -> sparsity. `tfprune.schedules.Constant` prunes all at once.
        criterion, pattern: See `tfprune.prune_weights`.
        distribution: "uniform", "erk", "global", a dict or a callable; see
            `tfprune.distributions`. A dict gives the sparsities of layers in the end.
        data: `(x, y)` or a dataset of batches, for criteria that are measured on data, again at
            every update. "movement" needs none: without it, -w dL/dw is summed over the steps of
            training.
        only, exclude: Layers whose weights are pruned, and whose are not; see
            `tfprune.prune_weights`.
        verbose: 0 is quiet, 1 prints a line for every update.

    Raises:
        ValueError: At the start of training, if there is nothing to prune, a layer is unknown, or
            another `PruneWeights` prunes the same weights; at an update, if scores are NaN or
            infinite, or frozen elements leave too few to prune. Masks are then as they were.

    Example:

    >>> import numpy as np
    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(5, name="d")])
    >>> model.compile("adam", "mse")
    >>> schedule = tfprune.schedules.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=6)
    >>> callback = PruneWeights(schedule)
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, batch_size=2, epochs=2, callbacks=[callback], verbose=0)
    >>> history.history["sparsity"]
    [0.0, 0.8]
    """

    _spreads_numbers = True

    def __init__(
        self,
        target,
        criterion="magnitude",
        *,
        pattern=None,
        distribution="uniform",
        data=None,
        only=None,
        exclude=None,
        verbose=0,
    ):
        super().__init__(
            target, distribution=distribution, only=only, exclude=exclude, verbose=verbose
        )
        self.method = PruningMethod(
            criterion, pattern=pattern, distribution=self.distribution, data=data
        )
        self.criterion = self.method.criterion
        self.pattern = self.method.pattern
        self.data = data
        measured = criteria.measures_of(self.criterion)
        self._accumulates = data is None and measured == ["movement"]
        self._accumulator = None

    def after_step(self, model, optimizer=None):
        """Makes the update that is due: the one call per step of a custom loop.

        For "movement" without data, call it once before the first step too, before the step
        function is traced: it is summed from then on.
        """
        is_new = self._accumulator is None or self._accumulator.model is not model
        if self._accumulates and is_new:
            weights = self.selected(model)
            self._accumulator = GradientAccumulator(model, weights, optimizer, times_weight=True)
            self._accumulator.attach()
            self._accumulator.start()
        return super().after_step(model, optimizer)

    def update(self, model, sparsity, optimizer):
        """Prunes the weights to `sparsity`, if they are less sparse."""
        weights = self.selected(model)
        measured = {}
        if self._accumulator is not None and self._accumulator.has_gradients():
            measured["movement"] = self._accumulator.totals()
        final = self.schedule.final
        masks = self.method.masks(model, weights, sparsity, final=final, measured=measured)
        apply_masks(model, weights, masks, optimizer)

    def measure(self, model):
        """The pruned share of the selected weights."""
        return {"sparsity": count_weights(self.selected(model)).sparsity}

    def on_train_begin(self, logs=None):
        """Makes the update of step 0, or of the step at which training goes on."""
        if self._accumulator is not None and self._accumulator.model is self.model:
            self._accumulator.attach()
            self._accumulator.resume()
        super().on_train_begin(logs)

    def on_train_end(self, logs=None):
        """Stops the accumulation; it continues if the model, or a saved one, is trained further."""
        if self._accumulator is not None:
            is_over = self._last_update == self._schedule_in_steps().end_step
            self._accumulator.detach(keep=not is_over)
        super().on_train_end(logs)

    def get_config(self):
        """The arguments that make this callback again, layers by their names; data is left out."""
        return {
            **super().get_config(),
            "criterion": criteria.serialize(self.criterion),
            "pattern": patterns.serialize(self.pattern),
        }
