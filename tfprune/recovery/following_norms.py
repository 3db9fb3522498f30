"""Fits the statistics of a batch normalization behind a layer that is fitted to another."""

from dataclasses import dataclass

import keras
import numpy as np


@dataclass(frozen=True, eq=False)
class FollowingNorm:
    """A norm behind a layer that is fitted to another, and the norm behind that.

    Attributes:
        norm, other: The two `BatchNormalization` layers.
        outputs: The indices of the other layer's outputs that the layer has; None for all.
    """

    norm: keras.layers.Layer
    other: keras.layers.Layer
    outputs: np.ndarray | None

    def fit(self, bias, selected):
        """Gives the norm the other's statistics, the mean lower by a bias that the layer lacks.

        Args:
            bias: Array (outputs,), 0 where the layer has a bias of its own.
            selected: Boolean array (outputs,), the channels that were fitted.
        """
        for name, shift in (("moving_mean", bias), ("moving_variance", 0)):
            variable = getattr(self.norm, name)
            theirs = np.asarray(getattr(self.other, name), "float64")
            theirs = theirs if self.outputs is None else theirs[self.outputs]
            variable.assign(np.where(selected, theirs - shift, np.asarray(variable)))
