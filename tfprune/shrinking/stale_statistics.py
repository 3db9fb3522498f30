"""Tells whether the statistics of batch normalizations fit the data."""

import keras
import numpy as np

from tfprune import _keras

STALE = 0.1
"""The staleness from which statistics are put right: where there are labels, if the loss falls."""


UNLIKE = 0.5
"""The same where there are no labels to tell by: unseen data of another kind is off by as much as
0.2 to 0.3, and then the statistics of the model are right."""


def stale_from(examples):
    """The staleness that examples without labels must show: more than few of them do by chance.

    >>> stale_from(4), stale_from(10_000)
    (1.25, 0.5)
    """
    return max(UNLIKE, 2.5 / max(examples, 1) ** 0.5)


def has_norms(model):
    """Whether a model has batch normalizations."""
    return any(map(_is_norm, _keras.all_layers(model)))


def staleness(model, recalibrated):
    """How far the statistics of a model are from those of its recalibrated copy.

    For each channel with the mean m and variance v in the model, m' and v' in the copy, inputs of
    the copy's statistics are normalised to the mean (m' - m) / sqrt(v) and the deviation
    sqrt(v' / v). The staleness of a layer is the root mean square over channels of that mean and
    of the deviation less 1; that of a model is the highest of its layers.

    Args:
        model: A model.
        recalibrated: What `tfprune.recalibrate` made of it.

    Returns:
        A float; 0 where the statistics are the same.
    """
    found = [0.0]
    for old, new in filter(lambda pair: _is_norm(pair[0]), _keras.layer_pairs(model, recalibrated)):
        mean, variance = np.array(old.moving_mean), np.array(old.moving_variance) + old.epsilon
        new_mean, new_variance = np.array(new.moving_mean), np.array(new.moving_variance)
        shift = (new_mean - mean) / np.sqrt(variance)
        scale = np.sqrt((new_variance + old.epsilon) / variance) - 1
        found.append(float(np.sqrt(np.mean(shift**2 + scale**2))))
    return max(found)


def copy_statistics(model, other):
    """Gives the batch normalizations of a copy of a model the statistics that the model has."""
    for ours, theirs in filter(lambda pair: _is_norm(pair[0]), _keras.layer_pairs(model, other)):
        for name in ("moving_mean", "moving_variance", "moving_stddev"):
            if getattr(ours, name, None) is not None:
                getattr(theirs, name).assign(np.array(getattr(ours, name)))


def _is_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization)
