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


@rule(keras.layers.Reshape)
class Reshape(Rule):
    """The same positions in other axes.

    Where units end up on several axes, all but the last are tied: what goes must leave a block.
    """

    def label(self, call, inputs, labels):
        array, output = inputs[0], call.outputs[0]
        moved = self._moved(call, array)
        if moved is None:
            labels.pin(array, f"{call.operation.name!r} reshapes axes of unknown size")
            return [fixed(output)]
        moved = _shrunk(moved)
        varying = [axis for axis, size in enumerate(moved.shape) if size != 1]
        if len(varying) > 1:
            last = varying[-1]
            first = moved[tuple(slice(None) if a == last else slice(1) for a in range(moved.ndim))]
            labels.unite(moved, first, f"{call.operation.name!r} splits fixed channels")
            return [first]
        return [moved]

    def constants(self, call, inputs):
        moved = self._moved(call, inputs[0])
        return [unknown(call.outputs[0]) if moved is None else moved]

    def resize(self, config, call, sizes):
        """Sets the sizes of `target_shape` that change."""
        new = sizes.of_tensor(call.outputs[0])[1:]
        old = call.outputs[0].shape[1:]
        config["target_shape"] = tuple(
            given if before == after else after
            for given, before, after in zip(config["target_shape"], old, new, strict=True)
        )

    def _moved(self, call, array):
        before, after = call.inputs[0].shape[1:], call.outputs[0].shape[1:]
        if array.size == 1:
            return array.reshape((1,) * len(after))
        if None in before or None in after:
            return None
        return np.broadcast_to(array, before).reshape(after)


def _shrunk(array):
    """Axes along which nothing changes get size 1."""
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if (array == first).all():
            array = first
    return array


@rule(keras.layers.Permute)
class Permute(Rule):
    """The axes in another order."""

    def label(self, call, inputs, labels):
        return [np.transpose(inputs[0], [d - 1 for d in call.operation.dims])]

    def constants(self, call, inputs):
        return [np.transpose(inputs[0], [d - 1 for d in call.operation.dims])]


@rule(keras.layers.RepeatVector)
class RepeatVector(Rule):
    """A vector at each of several steps."""

    def label(self, call, inputs, labels):
        return [inputs[0][None]]

    def constants(self, call, inputs):
        return [inputs[0][None]]
