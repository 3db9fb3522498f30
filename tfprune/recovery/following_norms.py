"""Finds the batch normalizations that alone follow a layer, and fits their statistics to it."""

from dataclasses import dataclass

import keras
import numpy as np


def following_norms(traced):
    """Returns the batch normalizations that get the outputs of a layer, and are all that gets them.

    Args:
        traced: A `Trace`.

    Returns:
        A dict from the id of the layer to its `BatchNormalization`. Both are called once, the norm
        is on the axis of the layer's units, and the layer has no activation in between.

    Example:

    >>> from tfprune.coupling.trace import trace
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(2, name="dense"),
    ...     keras.layers.BatchNormalization(name="norm")])
    >>> following_norms(trace(model))[id(model.get_layer("dense"))].name
    'norm'
    """
    times, users = {}, {}
    for call in traced.calls:
        times[id(call.operation)] = times.get(id(call.operation), 0) + 1
        for tensor in call.inputs:
            users.setdefault(tensor, []).append(call.operation)
    found = {}
    for call in traced.calls:
        layer = call.operation
        if getattr(layer, "activation", None) not in (None, keras.activations.linear):
            continue
        if len(call.outputs) != 1 or call.outputs[0] in traced.outputs:
            continue
        norm, *others = users.get(call.outputs[0], [None])
        if others or not isinstance(norm, keras.layers.BatchNormalization):
            continue
        rank = len(call.outputs[0].shape)
        units = 1 if getattr(layer, "data_format", "") == "channels_first" else rank - 1
        if times[id(layer)] == times[id(norm)] == 1 and norm.axis % rank == units:
            found[id(layer)] = norm
    return found


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

    def fit(self, bias, chosen):
        """Gives the norm the other's statistics, the mean lower by a bias that the layer lacks.

        Args:
            bias: Array (outputs,), 0 where the layer has a bias of its own.
            chosen: Boolean array (outputs,), the channels that were fitted.
        """
        for name, shift in (("moving_mean", bias), ("moving_variance", 0)):
            variable = getattr(self.norm, name)
            theirs = np.asarray(getattr(self.other, name), "float64")
            theirs = theirs if self.outputs is None else theirs[self.outputs]
            variable.assign(np.where(chosen, theirs - shift, np.asarray(variable)))
