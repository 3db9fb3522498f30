"""Base class of callbacks under which layers compute with some elements and all are trained."""

from tfprune.callbacks.scheduled_weights import ScheduledWeights
from tfprune.callbacks.tracing import trace_again
from tfprune.masks.straight_through import set_transforms
from tfprune.weights.prunable import apply_masks


class ThroughMasks(ScheduledWeights):
    """Base class of `ScheduledWeights` whose weights are read through a mask that passes gradients.

    While training runs, the `transform` of each weight's masks leaves elements out where a layer
    reads the weight; the stored weights stay dense and the masks unchanged. When it ends, what is
    left out is pruned. A subclass implements `make_read(weight)`, the transform, and
    `final_masks()`, the mask of each weight; `begin()` is called when all reads are made.
    """

    def __init__(self, target, **kwargs):
        super().__init__(target, **kwargs)
        self._trained = None
        self._weights = []

    def make_read(self, weight):
        """The transform of a `PrunableWeight`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `make_read(weight)`.")

    def final_masks(self):
        """A boolean array for each weight, False where an element is left out."""
        raise NotImplementedError(f"{type(self).__name__} must implement `final_masks()`.")

    def begin(self):
        """Called when the weights are read through masks, before the first update."""

    def after_step(self, model, optimizer=None):
        """Makes the update that is due: the one call per step of a custom loop."""
        self._attach(model)
        return super().after_step(model, optimizer)

    def finish(self, model, optimizer=None):
        """Prunes the elements that are left out, and restores the plain reads of the weights.

        Args:
            model: The model that was trained.
            optimizer: Its optimizer; by default `model.optimizer`.
        """
        if self._trained is None:
            return
        try:
            masks = self.final_masks()
        finally:
            self._detach()
        apply_masks(model, self._weights, masks, optimizer)
        trace_again(model)

    def reads(self):
        """The transform of each weight."""
        return [weight.mask.transform for weight in self._weights]

    def on_train_begin(self, logs=None):
        """Makes the layers compute with the elements that are not left out."""
        self._attach(self.model)
        try:
            super().on_train_begin(logs)
        except Exception:
            self._detach()
            trace_again(self.model)
            raise

    def on_epoch_begin(self, epoch, logs=None):
        """Makes a missed update, where weights of a later step have been loaded."""
        super().on_epoch_begin(epoch, logs)
        self.after_step(self.model)

    def on_train_end(self, logs=None):
        """Prunes the elements that are left out."""
        super().on_train_end(logs)
        self.finish(self.model)

    def _attach(self, model):
        if self._trained is model:
            return
        weights = self.selected(model)
        set_transforms(weights, list(map(self.make_read, weights)), type(self).__name__)
        self._trained, self._weights = model, weights
        self.begin()
        trace_again(model)

    def _detach(self):
        for weight in self._weights:
            weight.mask.transform = None
        self._trained = None
