"""Carries measurements of units, made in training, over to a rebuilt model."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.layers.layer_masks import keep_measured, measured_of

_TRANSPOSED = tuple(getattr(keras.layers, f"Conv{n}DTranspose") for n in (1, 2, 3))


def carry_measures(old, new, take):
    """Gives the layers of a model the running averages that those of another have of their units.

    Args:
        old: The model.
        new: The model that was rebuilt from it.
        take: Function of an old variable, an array of its shape, and one of the shape of the new
            variable; returns the array gathered as the variable is, with new elements of the last.
    """
    if not any(measured_of(layer) for layer in _keras.all_layers(old)):
        return
    counterparts = {id(ours): theirs for ours, theirs in _keras.variable_pairs(old, new)}
    for ours, theirs in _keras.layer_pairs(old, new):
        measured = measured_of(ours)
        if measured is None:
            continue
        average, calls = measured
        weight = _with_units_last(ours, len(average))
        if weight is not None and id(weight) in counterparts:
            shape = tuple(counterparts[id(weight)].shape)
            repeats = weight.shape[-1] // len(average)  # one for each gate
            spread = np.broadcast_to(np.tile(average, repeats), tuple(weight.shape)).copy()
            taken = take(weight, spread, np.full(shape, average.mean(), average.dtype))
            taken = taken.reshape(-1, shape[-1])[0, : shape[-1] // repeats]
            keep_measured(theirs, (taken, calls))


def _with_units_last(layer, count):
    """A weight of a layer whose last axis has its units, the same number of times each; or None."""
    weights = [w for w in layer.trainable_weights if w.shape and w.shape[-1] % count == 0]
    vectors = [weight for weight in weights if len(weight.shape) == 1]
    if vectors or isinstance(layer, _TRANSPOSED):
        return vectors[0] if vectors else None
    return weights[0] if weights else None
