"""Operations that only move data: they are applied to the labels themselves."""

import keras
import numpy as np

from tfprune.coupling.rules.base import Rule, fixed, rule, unknown


@rule(keras.layers.Flatten)
class Flatten(Rule):
    """One axis in place of all, channels last whatever the data format."""

    def label(self, call, inputs, labels):
        array = inputs[0]
        moved = self._moved(call, array)
        if moved is None:
            labels.pin(array, f"{call.operation.name!r} flattens axes of unknown size")
            return [fixed(call.outputs[0])]
        return [moved]

    def constants(self, call, inputs):
        moved = self._moved(call, inputs[0])
        return [unknown(call.outputs[0]) if moved is None else moved]

    def _moved(self, call, array):
        shape = call.inputs[0].shape[1:]
        if array.size == 1:
            return array.reshape(1)
        if None in shape:
            return None
        full = np.broadcast_to(array, shape)
        if call.operation.data_format == "channels_first" and len(shape) > 1:
            full = np.moveaxis(full, 0, -1)
        return full.reshape(-1)
