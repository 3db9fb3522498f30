"""Weights of a user's layer that become tensors: an expression of them for each example."""

import numpy as np

from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.rules.base import Rule, fixed, rule
from tfprune.coupling.rules.block_labels import fit_output
from tfprune.coupling.weight_values import Spread


@rule(Spread)
class SpreadRule(Rule):
    """The units of an expression of weights, such as a class token, in every example."""

    def label(self, call, inputs, labels):
        (output,), name = call.outputs, call.operation.name
        vectors = labels.along_axes(call.operation.array)
        axes = [
            axis
            for axis, vector in enumerate(vectors)
            if vector is not None and (vector != FIXED).any()
        ]
        for axis in axes[:-1]:
            labels.pin(vectors[axis], f"units stand on several axes of the output of {name!r}")
        result = fixed(output)
        if axes and axes[-1] > 0:
            result = placed(vectors[axes[-1]], axes[-1] - 1, len(output.shape) - 1)
        call.memo["shape"] = result.shape
        return [result]

    def constants(self, call, inputs):
        (output,) = call.outputs
        array = np.asarray(call.operation.array, "float64")
        values = array[:1] if array.ndim else array
        return [fit_output(output, values, call.memo["shape"])]
