"""Data movement within an axis, or between channels and space: roll, repeat, tile, pad."""

import numpy as np

from tfprune import _keras
from tfprune.coupling.rules.base import rule
from tfprune.coupling.rules.block_labels import counts_along, operation_axes
from tfprune.coupling.rules.data_movement import DataMovement, argument


@rule(*_keras.operation_classes("Roll"))
class Roll(DataMovement):
    """A circular shift along axes."""

    def pin_reason(self, call, arrays):
        if any(arrays[0].shape[axis] != 1 for axis in operation_axes(call)):
            return f"{call.operation.name!r} rolls its units by a fixed number of places"
        return None

    def moved(self, call, arrays, number):
        return arrays


@rule(*_keras.operation_classes("Repeat"))
class Repeat(DataMovement):
    """Each position several times in a row."""

    def pin_reason(self, call, arrays):
        if call.operation.axis is None:
            return f"{call.operation.name!r} makes one axis of all"
        return None

    def moved(self, call, arrays, number):
        (axis,) = operation_axes(call)
        is_constant = arrays[0].shape[axis] == 1
        return [arrays[0] if is_constant else np.repeat(arrays[0], self._repeats(call), axis)]

    def resize(self, config, call, sizes):
        """Cuts `repeats` where each position has its own."""
        counts = counts_along(sizes, call.inputs[0], operation_axes(call)[0])
        if counts is not None and np.size(config["repeats"]) > 1:
            config["repeats"] = np.repeat(config["repeats"], counts).tolist()

    def _repeats(self, call):
        return np.asarray(call.operation.repeats)


@rule(*_keras.operation_classes("Tile"))
class Tile(DataMovement):
    """An axis repeated as a whole."""

    def moved(self, call, arrays, number):
        array, repeats = arrays[0], np.atleast_1d(call.operation.repeats)
        rank = max(array.ndim, len(repeats))
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        repeats = [1] * (rank - len(repeats)) + list(repeats)
        return [
            np.tile(array, [1 if n == 1 else r for n, r in zip(array.shape, repeats, strict=True)])
        ]


@rule(*_keras.operation_classes("Pad"))
class Pad(DataMovement):
    """Padding by a number, or by positions at the border."""

    def pin_reason(self, call, arrays):
        mode = call.operation.mode
        for axis, widths in enumerate(self._widths(call)):
            if arrays[0].shape[axis] != 1 and any(widths) and mode != "constant":
                return f"{call.operation.name!r} pads its units with each other ({mode!r})"
        return None

    def moved(self, call, arrays, number):
        widths = [
            pair if size != 1 else (0, 0)
            for pair, size in zip(self._widths(call), arrays[0].shape, strict=True)
        ]
        return [np.pad(arrays[0], widths, constant_values=number(self._value(call)))]

    def constants(self, call, inputs):
        outputs = super().constants(call, inputs)
        pads_others = any(
            any(pair) and size == 1
            for pair, size in zip(self._widths(call)[1:], inputs[0].shape, strict=True)
        )
        if pads_others and call.operation.mode == "constant":
            outputs = [np.where(array == self._value(call), array, np.nan) for array in outputs]
        return outputs

    def _value(self, call):
        value = argument(call, 1, "constant_values")
        if value is None:
            return 0.0
        return float(value) if isinstance(value, (int, float)) else np.nan

    def _widths(self, call):
        widths = [tuple(pair) for pair in call.operation.pad_width]
        return widths * len(call.inputs[0].shape) if len(widths) == 1 else widths


class _BetweenChannelsAndSpace(DataMovement):
    """Channels become blocks of pixels, or blocks of pixels channels."""

    def pin_reason(self, call, arrays):
        channels = self._axis(call)
        if any(size != 1 for axis, size in enumerate(arrays[0].shape) if axis != channels):
            return f"{call.operation.name!r} moves pixels that are units"
        return None

    def moved(self, call, arrays, number):
        axis = self._axis(call)
        if arrays[0].shape[axis] == 1:
            return arrays
        size = call.operation.block_size**2
        return [np.moveaxis(self._blocks(np.moveaxis(arrays[0], axis, -1), size), -1, axis)]

    def _blocks(self, channels, size):
        raise NotImplementedError

    def _axis(self, call):
        return 1 if call.operation.data_format == "channels_first" else 3


@rule(*_keras.operation_classes("DepthToSpace"))
class DepthToSpace(_BetweenChannelsAndSpace):
    """A run of channels for each pixel of a block; the places of a channel in all runs are tied."""

    def tie(self, call, arrays, labels):
        axis = self._axis(call)
        if arrays[0].shape[axis] != 1:
            runs = arrays[0].reshape(call.operation.block_size**2, -1)
            labels.unite(runs, runs[:1], f"{call.operation.name!r} joins it with fixed channels")

    def _blocks(self, channels, size):
        runs = channels.reshape(*channels.shape[:-1], size, -1)
        first = runs[..., 0, :]
        is_same = (runs == first[..., None, :]).all(axis=-2)
        return first if channels.dtype.kind == "i" else np.where(is_same, first, np.nan)


@rule(*_keras.operation_classes("SpaceToDepth"))
class SpaceToDepth(_BetweenChannelsAndSpace):
    """A run of all channels for each pixel of a block."""

    def _blocks(self, channels, size):
        return np.concatenate([channels] * size, axis=-1)
