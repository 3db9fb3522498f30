"""Trials of a layer with other sizes: a copy of it is run with values of any shape as weights."""

import numpy as np

from tfprune import _keras
from tfprune.coupling.rules.custom_weights import own_weights
from tfprune.coupling.rules.trials import MOST_ELEMENTS, Trials
from tfprune.masks.in_place import unmask

MOST_WEIGHTS = 32
"""Up to how many weights a layer may have: beyond, too many ways would have to be tried."""

MOST_RUNS = 1000
"""After how many runs of a layer no further units are looked for in it."""


class ResizedTrials(Trials):
    """Runs a copy of a layer, with values of any shape for its weights."""

    def __init__(self, call, error):
        super().__init__(call, error)
        self.operation = unmask(_keras.copied_objects(call.operation)[0][1])
        _keras.forget_input_shape(self.operation)
        first = len(self.tensors)
        self.weights = dict(enumerate(own_weights(self.operation), first))
        elements = sum(np.prod(w.shape, dtype=float) for w in self.weights.values())
        if elements > MOST_ELEMENTS or len(self.weights) > MOST_WEIGHTS:
            raise error("is too large to be tried")
        self.shapes = {place: tuple(weight.shape) for place, weight in self.weights.items()}
        self.numbers = {}
        self.runs_left, self.set = MOST_RUNS, {}

    def draw(self, scale, seed):
        """Random values, also for the weights: with the scale 1, they are positive."""
        values, draw = super().draw(scale, seed), np.random.default_rng([seed, 1])
        for place, shape in self.shapes.items():
            drawn = draw.uniform(0.5, 1.5, shape) if scale == 1 else draw.normal(size=shape)
            values[place] = drawn.astype("float32")
        return values

    def run(self, values):
        """The outputs, given an array for each tensor and weight."""
        self.runs_left -= 1
        if self.runs_left < 0:
            raise self.error("would have to be tried in too many ways")
        self._set(values)
        return super().run(values)

    def announced(self, values):
        """The shapes of the outputs, given an array for each tensor and weight."""
        self._set(values)
        return super().announced(values)

    def _set(self, values):
        for place, weight in self.weights.items():
            if self.set.get(place) is not values[place]:
                _keras.resize_variable(weight, values[place])
                self.set[place] = values[place]
        for place, (source, axis) in self.numbers.items():
            _keras.set_number(self.operation, place, values[source].shape[axis])
