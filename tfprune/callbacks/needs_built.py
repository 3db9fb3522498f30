"""Base class of callbacks that look at the weights of a model when training begins."""

import keras

from tfprune import _keras


class NeedsBuilt(keras.callbacks.Callback):
    """Builds the model for the data of `fit` before any callback begins, if it is not built.

    Keras builds it in the first step, when the masks of drop-in layers would come too late.
    """

    def set_params(self, params):
        """Called by `fit`, for all of its callbacks before the first begins."""
        super().set_params(params)
        _keras.build_in_fit(self.model)
