"""Regularizes coupled units while a model trains."""

import keras

from tfprune.callbacks.needs_built import NeedsBuilt
from tfprune.callbacks.tracing import trace_again
from tfprune.masks import layer_filter
from tfprune.masks.first_step import current_step, first_step
from tfprune.units import regularizers as unit_regularizers
from tfprune.units.prunable import PREDICATE


@keras.saving.register_keras_serializable("tfprune")
class RegularizeUnits(NeedsBuilt):
    """Adds a penalty on coupled units to the loss while `fit` runs, and removes it at its end.

    The penalty is part of `loss` and `val_loss`, as those of Keras's regularizers; the logs of
    epochs get its value as `unit_penalty`. But for `L0`, which needs masks and prunes the units
    that it has closed at the end of `fit`, the callback also works in `tfprune.fit_and_shrink`,
    where it follows the rebuilt models, and on models of stock layers.

    Args:
        regularizer: A `tfprune.unit_regularizers.GroupLasso`, `BatchNormL1`, `Growing` or `L0`, or
            a name ("group_lasso", "batch_norm_l1", "l0").
        only, exclude: Layers whose units are regularized, and whose are not; see
            `tfprune.prune_units`.

    Example:

    >>> import numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> history = model.fit(
    ...     np.ones((8, 4)), np.ones((8, 1)), verbose=0,
    ...     callbacks=[RegularizeUnits("group_lasso")])
    >>> sorted(history.history)
    ['loss', 'unit_penalty']
    """

    def __init__(self, regularizer, *, only=None, exclude=None):
        super().__init__()
        self.regularizer = unit_regularizers.get(regularizer)
        if self.regularizer is None:
            raise ValueError("Argument `regularizer` must be a regularizer. Received: None.")
        layer_filter.check(only, exclude, PREDICATE)
        self.only = only
        self.exclude = exclude

    def set_model(self, model):
        """Attaches the penalty to another model that replaces the one that is trained."""
        super().set_model(model)
        if self.regularizer.model not in (None, model):
            trace_again(self.regularizer.model)
            self._attach()
            self.regularizer.restart(self._step())

    def on_train_begin(self, logs=None):
        """Adds the penalty."""
        self._attach()

    def on_train_batch_end(self, batch, logs=None):
        """Updates the strength of the penalty."""
        self.regularizer.update(self._step())

    def on_epoch_end(self, epoch, logs=None):
        """Logs the penalty."""
        if logs is not None:
            logs["unit_penalty"] = float(self.regularizer.penalty())
            logs.update(self.regularizer.measure())

    def get_state(self):
        """The state for `BackupAndRestore`: that of the regularizer."""
        return self.regularizer.get_state()

    def set_state(self, state):
        """Gives the state back."""
        self.regularizer.set_state(state)
        self.regularizer.update(self._step())
        trace_again(self.model)

    def on_train_end(self, logs=None):
        """Removes the penalty."""
        self.regularizer.detach()
        trace_again(self.model)

    def _attach(self):
        self.regularizer.attach(self.model, only=self.only, exclude=self.exclude)
        self._first_step = first_step(self.model, current_step(self.model))
        self.regularizer.update(self._step())
        trace_again(self.model)

    def _step(self):
        """The steps of the optimizer, in a model with masks since these were made."""
        return current_step(self.model) - self._first_step

    def get_config(self):
        """The arguments that make this callback again; layers are named."""
        return {
            "regularizer": unit_regularizers.serialize(self.regularizer),
            **layer_filter.serialize(self.only, self.exclude),
        }

    @classmethod
    def from_config(cls, config):
        """A callback out of its `get_config()`."""
        return cls(**layer_filter.deserialize(config))
