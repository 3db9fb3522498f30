"""Dynamic sparse training (SET, RigL): drops the smallest weights and grows others."""

import math

import keras
import numpy as np

from tfprune._tools.checks import is_number, one_of
from tfprune.callbacks.scheduled_weights import ScheduledWeights
from tfprune.criteria import Random
from tfprune.criteria.arguments import resolve_seed
from tfprune.masks.gradient_accumulation import GradientAccumulator
from tfprune.masks.setting import set_masks
from tfprune.patterns import pruned_count, top_k_mask
from tfprune.patterns.top_k import checked_scores, keep_highest
from tfprune.schedules import FOREVER
from tfprune.weights import distributions
from tfprune.weights.prunable import conflict_keys, count_weights
from tfprune.weights.scores import error_context

GROW = ("random", "gradient")
DECAY = ("cosine", "constant")


@keras.saving.register_keras_serializable("tfprune")
class Rewire(ScheduledWeights):
    """Dynamic sparse training: keeps the sparsity and moves the weights (SET, RigL).

    At the first update each kernel and embedding is pruned at random. At each later one, it drops
    of its `active` elements, those neither pruned nor frozen, the

        k = round(fraction(step) * active)

    with the least |w|, and grows as many among all pruned elements, those just dropped included:
    at random (SET) or where the gradient of the loss is largest (RigL). Grown elements start at 0,
    with the optimizer's slots at 0. The sparsity is exactly that of the schedule; where it rises,
    more is dropped, and where it falls, more is grown.

        fraction(step) = drop_fraction                                              "constant"
                       = drop_fraction / 2 * (1 + cos(pi * step / end_step))        "cosine"

    Frozen elements are left alone. Gradients are those of the step before the update: they are
    accumulated in this step alone, outside of the optimizer, and nothing is computed twice. With
    `steps_per_execution` or `gradient_accumulation_steps`, they are summed over the steps that are
    made together.

    The step of the last rewiring is written with the masks, into `.keras` and `.weights.h5` files
    and TensorFlow checkpoints, so that after `BackupAndRestore`, or with a loaded model, no update
    is made twice or missed. Give a `seed`: then training under a
    `tfprune.callbacks.BackupAndRestore` continues bit for bit as it would have. List the callback
    before one of Keras's: in another order an update may be due just where training was
    interrupted; "gradient" then makes it one step later, since it has no gradients yet.

    The logs of steps and epochs get `sparsity`, the pruned share of the selected weights, and
    `rewired`, the number of elements grown at the last update. Without `fit`, call
    `after_step(model)` once per step, and once before the first step, before the step function is
    traced.

    Args:
        target: The sparsity at each update: a `tfprune.schedules.Schedule`, its configuration, a
            number or a callable step -> sparsity. Usually a `Constant`, whose `end_step` ends the
            rewiring.
        grow: "random" or "gradient".
        drop_fraction: Float from 0 to 1.
        decay: "cosine", which needs a schedule with an `end_step`, or "constant".
        distribution: "erk", "uniform", a dict or a callable; see `tfprune.distributions`.
        only, exclude: Layers whose weights are rewired, and whose are not; see
            `tfprune.prune_weights`.
        seed: Integer. Random numbers depend on it, the index of the weight and the step alone.
        verbose: 0 is quiet, 1 prints a line for every update.

    Raises:
        ValueError: If an argument is wrong; at the start of training, if there is nothing to
            rewire; at an update, if a weight or a gradient is NaN or infinite, if frozen elements
            leave too few, or if no gradient came. Masks are then as they were.

    Example:

    >>> import tfprune
    >>> model = keras.Sequential([keras.Input((4,)), tfprune.layers.Dense(5, name="d")])
    >>> model.compile("adam", "mse")
    >>> schedule = tfprune.schedules.Constant(0.8, end_step=6, frequency=2)
    >>> callback = Rewire(schedule, grow="gradient", seed=0)
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, batch_size=2, epochs=2, callbacks=[callback], verbose=0)
    >>> history.history["sparsity"]
    [0.8, 0.8]

    Reference:
        D. Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
        connectivity inspired by network science", https://arxiv.org/abs/1707.04780 (SET);
        U. Evci et al., "Rigging the Lottery: Making All Tickets Winners",
        https://arxiv.org/abs/1911.11134, algorithm 1 (RigL).
    """

    _not_global = "each weight is rewired on its own"
    _only_trained = True

    def __init__(
        self,
        target,
        *,
        grow="random",
        drop_fraction=0.3,
        decay="cosine",
        distribution="erk",
        only=None,
        exclude=None,
        seed=None,
        verbose=0,
    ):
        super().__init__(
            target, distribution=distribution, only=only, exclude=exclude, verbose=verbose
        )
        self.grow = one_of("grow", grow, GROW)
        self.drop_fraction = _fraction(drop_fraction)
        self.decay = one_of("decay", decay, DECAY)
        if decay == "cosine" and self.schedule.end_step == FOREVER:
            raise ValueError(
                'With `decay="cosine"` the drop fraction falls to 0 where the schedule ends, so it '
                f"must have an end. Received: target={self.schedule!r}. Give it an `end_step`: "
                '`tfprune.schedules.Constant(0.9, end_step=10000)`, or take `decay="constant"`.'
            )
        self.seed = seed
        self._drawn = resolve_seed(Random(seed))
        self._steps_at_once = 1
        self._prepared = None
        self._weights = None
        self._accumulator = None

    def fraction(self, step):
        """The share of the active elements which is dropped at a step."""
        if self.decay == "constant":
            return self.drop_fraction
        end = max(1, self._schedule_in_steps().end_step)
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * min(step, end) / end))

    def after_step(self, model, optimizer=None):
        """Makes the update that is due: the one call per step of a custom loop.

        In a loop of your own, call it once before the first step too, before the step function is
        traced: gradients are accumulated from then on.
        """
        self._prepare(model, optimizer)
        logs = super().after_step(model, optimizer)
        self._hooked_at = self._step(model, optimizer)
        if self._accumulator is not None:
            self._accumulate_before_updates()
        return logs

    def update(self, model, sparsity, optimizer):
        """Rewires the weights, unless that is done already or gradients are still missing."""
        step = self._step(model, optimizer)
        due = self._schedule_in_steps().last_due(step)
        indices = [i for i, weight in enumerate(self._weights) if _rewired_at(weight) != due]
        begun = [p for p in indices if _has_begun(self._weights[p], due)]
        gradients = None
        if self._accumulator is not None and begun:
            if not self._accumulator.has_gradients():
                self._check_accumulated(step)
                return False
            gradients = [np.abs(total) for total in self._accumulator.totals()]
        arguments = (self.distribution, model, self._weights, sparsity, self.schedule.final)
        sparsities = distributions.allocate(*arguments)
        fraction = self.fraction(due)
        plans = []
        for index in indices:
            weight = self._weights[index]
            scores = self._draw(index, due, weight.shape) if gradients is None else gradients[index]
            with error_context(weight):
                if index in begun:
                    plan = rewired(weight, scores, sparsities[index], fraction)
                else:
                    plan = _pruned(weight, self._draw(index, due, weight.shape), sparsities[index])
            plans.append((weight, *plan))
        for weight, kept, grown in plans:
            for mask in (kept, kept | grown):  # what is dropped and grown at once begins at 0 too
                set_masks(model, weight.layer, weight.name, trainable=mask, optimizer=optimizer)
            weight.mask.rewired.assign(due)
        if indices:
            self._grown = sum(int(np.count_nonzero(grown)) for _, _, grown in plans)
        return None

    def conflict_keys(self, model):
        """The weights it rewires, and the units of their layers, whose elements would grow."""
        weights = self.selected(model)
        units = {("units", id(w.layer)): f"units of layer {w.layer.name!r}" for w in weights}
        return {**conflict_keys(weights), **units}

    def measure(self, model):
        """The pruned share of the selected weights, and the elements grown last."""
        return {"sparsity": count_weights(self._weights).sparsity, "rewired": float(self._grown)}

    def on_train_begin(self, logs=None):
        """Makes the update of step 0, or of the step at which training goes on."""
        self._prepared = None
        self._steps_at_once = self.model.steps_per_execution
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        """Checks the step again: other callbacks may have loaded another one."""
        super().on_epoch_begin(epoch, logs)
        if self._step(self.model) != self._hooked_at:
            self._forget()
            self.after_step(self.model)

    def on_train_end(self, logs=None):
        """Stops accumulating gradients."""
        if self._accumulator is not None:
            self._accumulator.detach()
        self._prepared = self._weights = self._accumulator = None
        self._steps_at_once = 1
        super().on_train_end(logs)

    def _prepare(self, model, optimizer):
        """Selects the weights, and accumulates their gradients where `grow` needs them."""
        if self._prepared is model:
            return
        self._weights = self.selected(model)
        self._accumulator = None
        if self.grow == "gradient":
            self._accumulator = GradientAccumulator(model, self._weights, optimizer)
            self._accumulator.attach()
        self._prepared = model

    def _accumulate_before_updates(self):
        """Accumulates gradients in the steps right before an update."""
        due = self._schedule_in_steps().last_due(self._hooked_at + self._steps_at_once)
        is_due = due is not None and due != self._last_update
        if not is_due or not any(_has_begun(weight, due) for weight in self._weights):
            if self._accumulator.is_running:
                self._accumulator.stop()
            self._accumulated_from = None
        elif self._accumulated_from != self._hooked_at:  # else gradients are being accumulated
            self._accumulator.start()
            self._accumulated_from = self._hooked_at

    def _check_accumulated(self, step):
        if self._accumulated_from is not None and self._accumulated_from != step:
            raise ValueError(
                "No gradient came back through the weights in the last step, so nothing can be "
                "grown. In a training loop of your own, call `after_step` once before the step "
                "function is traced; no other callback may accumulate their gradients meanwhile. "
                f"Received: step={step}, weights of {[w.layer.name for w in self._weights]}."
            )

    def _draw(self, index, step, shape):
        """Scores that depend on the seed, the weight's index and the step alone."""
        return np.random.default_rng([self._drawn, index, step]).random(shape, np.float32)

    def _forget(self):
        super()._forget()
        self._hooked_at = None
        self._accumulated_from = None
        self._grown = 0
        accumulator = getattr(self, "_accumulator", None)
        if accumulator is not None:
            accumulator.start()  # its totals are of another step
            accumulator.stop()

    def get_config(self):
        """The arguments that make this callback again, layers by their names."""
        return {
            **super().get_config(),
            "grow": self.grow,
            "drop_fraction": self.drop_fraction,
            "decay": self.decay,
            "seed": self.seed,
        }


def rewired(weight, scores, sparsity, fraction):
    """The elements of a weight that are kept and those that are grown at one rewiring.

    Args:
        weight: A `PrunableWeight`.
        scores: Array of its shape; the elements with the highest are grown.
        sparsity: Float from 0 to 1, its exact sparsity afterwards.
        fraction: Float from 0 to 1, the share of its active elements that is dropped.

    Returns:
        Two boolean arrays: the elements kept before and not dropped, and those grown.

    Raises:
        ValueError: If a value or a score is not finite, or frozen elements leave too few.
    """
    kept, _ = _pruned(weight, np.abs(np.asarray(weight.variable)), sparsity)
    active = kept & ~weight.frozen_mask
    dropped = round(fraction * np.count_nonzero(active))
    magnitudes, _, _ = checked_scores(np.abs(np.asarray(weight.variable)), active, None)
    if dropped:
        kept &= keep_highest(magnitudes, dropped, active) | ~active
    candidates = ~kept & ~weight.frozen_mask
    number = kept.size - np.count_nonzero(kept) - pruned_count(sparsity, kept.size)
    available = np.count_nonzero(candidates)
    if number > available:
        raise ValueError(
            f"Cannot reach a sparsity of {sparsity}: {number} of {kept.size} elements would have "
            f"to grow, but only {available} are pruned and not frozen. Unfreeze some."
        )
    if number == available:
        return kept, candidates
    scores, _, _ = checked_scores(scores, candidates, None)
    if number == 0:
        return kept, np.zeros_like(kept)
    return kept, keep_highest(scores, available - number, candidates)


def _pruned(weight, scores, sparsity):
    """The elements of a weight that are kept at a sparsity, and that none is grown."""
    kept = top_k_mask(scores, sparsity, trainable=weight.trainable_mask, frozen=weight.frozen_mask)
    return kept, np.zeros_like(kept)


def _rewired_at(weight):
    return int(np.asarray(weight.mask.rewired))


def _has_begun(weight, due):
    """Whether a weight was rewired before; later than now, the steps were reset since."""
    return 0 <= _rewired_at(weight) < due


def _fraction(given):
    if not is_number(given) or not 0 <= given <= 1:
        raise ValueError(
            "Argument `drop_fraction` must be a number from 0 to 1. "
            f"Received: drop_fraction={given!r}."
        )
    return given
