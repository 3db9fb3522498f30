"""Base class of callbacks that update the masks of single weights on a schedule."""

from tfprune.callbacks.scheduled import ScheduledCallback
from tfprune.masks.skipping import warn_of_skipped
from tfprune.weights import distributions
from tfprune.weights.prunable import PREDICATE, conflict_keys, select_weights, skipped_weights


class ScheduledWeights(ScheduledCallback):
    """Base class of `ScheduledCallback`s for the weights that `only` and `exclude` select.

    Args:
        target: See `ScheduledCallback`.
        distribution: The sparsity of each weight, given that of all; see `tfprune.distributions`.
        only, exclude: See `tfprune.prune_weights`.
        verbose: 0 is quiet, 1 prints a line for every update.
    """

    _predicate = PREDICATE

    _not_global = None
    """Why the weights cannot be ranked together, where they cannot."""

    _only_trained = False
    """Whether weights of layers with `trainable=False` are left out even if `only` names them."""

    def __init__(self, target, *, distribution="uniform", only=None, exclude=None, verbose=0):
        super().__init__(target, only=only, exclude=exclude, verbose=verbose)
        self.distribution = distributions.get(distribution)
        if self._not_global and self.distribution is distributions.GLOBAL:
            raise ValueError(
                f"Argument `distribution` cannot be 'global', because {self._not_global}. "
                "Received: distribution='global'. Take 'uniform' or 'erk'."
            )
        distributions.check_end(self.distribution, self.schedule)

    def selected(self, model):
        """The `PrunableWeight`s of a model that the callback works on."""
        return select_weights(
            model, self.only, self.exclude, action=self._action, trained=self._only_trained
        )

    def on_train_begin(self, logs=None):
        """Makes the update of step 0, or of the step at which training goes on."""
        super().on_train_begin(logs)
        warn_of_skipped(skipped_weights(self.model, self.only, self.exclude))

    def conflict_keys(self, model):
        """The weights that the callback works on."""
        return conflict_keys(self.selected(model))

    def get_config(self):
        """The arguments that make this callback again, layers by their names; data is left out."""
        distribution = distributions.serialize(self.distribution)
        return {**super().get_config(), "distribution": distribution}
