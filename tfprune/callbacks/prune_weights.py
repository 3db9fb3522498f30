"""Pruning single weights on a schedule while a model trains."""

import keras

from tfprune import choices
from tfprune.callbacks.scheduled import ScheduledCallback
from tfprune.criteria import weights as criteria
from tfprune.criteria.asking import drawn_seed
from tfprune.prune_weights import (
    PREDICATE,
    apply_masks,
    count_weights,
    select_weights,
    weight_masks,
)


@keras.saving.register_keras_serializable("tfprune")
class PruneWeights(ScheduledCallback):
    """Prunes, in each kernel and embedding, the elements with the lowest scores.

    At every update each weight loses exactly as many elements as the schedule says; the sparsity
    never falls, and what is pruned does not come back. At a sparsity of 0 training is plain
    training, bit for bit.

    Elements that are frozen are never pruned; where they leave too few to prune, an error says so.
    Layers with `trainable=False` are left out. A layer that is used several times counts once.
    The callback keeps nothing that would have to be saved: training goes on after
    `BackupAndRestore`, or with a loaded model, with the same masks as without the interruption
    (criterion "random" needs a `seed` for that).

    The logs of steps and epochs get `sparsity`, the pruned share of the weights chosen, as
    `sparsity_1` where the name is taken. List the callback before those which write logs, such as
    `CSVLogger` and `TensorBoard`. Without `fit`, call `after_step(model)` once per step.

    Args:
        schedule: A `tfprune.schedules.Schedule`, its configuration, a number or a callable
            step -> sparsity.
        criterion: "magnitude", "random", or a callable; see `tfprune.criteria.weights`.
        only: What to prune: a sequence of layers or layer names, or a predicate
            `(layer, weight_name) -> bool`; see `tfprune.prune_weights`. Default: all kernels and
            embeddings.
        exclude: What not to prune, given in the same way.
        seed: Integer, for criteria which draw; the same seed gives the same masks.
        verbose: 0 is quiet, 1 prints a line for every update.

    Raises:
        ValueError: At the start of training, if there is nothing to prune or a layer is unknown;
            at an update, if scores are NaN or infinite, or frozen elements leave too few to
             Masks are then as they were.

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

    def __init__(
        self, schedule, criterion="magnitude", *, only=None, exclude=None, seed=None, verbose=0
    ):
        super().__init__(schedule, verbose=verbose)
        self.criterion = criteria.get(criterion)
        choices.check(only, exclude, PREDICATE)
        self.only = only
        self.exclude = exclude
        self.seed = seed
        self._drawn_seed = drawn_seed(seed, self.criterion)

    def update(self, model, sparsity, optimizer):
        """Prunes each weight to `sparsity`, if it is less sparse."""
        weights = select_weights(model, self.only, self.exclude)
        masks = weight_masks(weights, sparsity, self.criterion, self._drawn_seed)
        apply_masks(model, weights, masks, optimizer)

    def measure(self, model):
        """The pruned share of the weights chosen."""
        weights = select_weights(model, self.only, self.exclude)
        return {"sparsity": count_weights(weights).sparsity}

    def get_config(self):
        """The arguments that make this callback again, layers by their names."""
        return {
            **super().get_config(),
            "criterion": criteria.serialize(self.criterion),
            **choices.serialize(self.only, self.exclude),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        """A callback out of its `get_config()`."""
        return cls(**choices.deserialize(config))
