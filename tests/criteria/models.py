"""Models whose units criteria score, and their scores."""

import keras
import numpy as np

from tfprune import layers
from tfprune.criteria import units as criteria
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores


def with_drawn_weights(model, draw):
    """Weights that nothing has in common with others, and norms that are not fresh; compiled."""
    for weight in model.weights:
        values = draw.normal(size=weight.shape)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    model.compile("sgd", "mse")
    return model


def residual_model():
    """Units of `a` and `b` are one set: `b` reads them after norm and ReLU, `out` after the sum."""
    inputs = keras.Input((4,))
    a = layers.Dense(5, name="a")(inputs)
    h = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(a))
    b = layers.Dense(5, name="b")(h)
    outputs = layers.Dense(2, name="out")(keras.layers.Add(name="add")([a, b]))
    return keras.Model(inputs, outputs)


def scores(model, criterion, data=None, **options):
    """The scores of the units of a model with one set of units."""
    units = PrunableUnits(model)
    (unit_set,) = units.sets
    scoring = UnitScores(criteria.get(criterion, **options), data=data)
    return scoring.of(units)[unit_set.units]
