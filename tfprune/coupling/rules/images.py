"""Operations on images: resized, padded, cropped, cut into patches; units are channels."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.rules.base import Rule, fixed, rule, unknown_outputs
from tfprune.coupling.rules.block_labels import block, with_batch_axis, without_batch_axis
from tfprune.coupling.rules.channelwise import Spatial


class _Image(Spatial):
    """The same in every channel, of a batch of images."""

    def label(self, call, inputs, labels):
        if len(call.inputs[0].shape) != 4:
            labels.pin(inputs[0], f"{call.operation.name!r} takes it for one image, not a batch")
            return [fixed(call.outputs[0])]
        return super().label(call, inputs, labels)

    def constants(self, call, inputs):
        if len(call.inputs[0].shape) != 4:
            return unknown_outputs(call)
        return super().constants(call, inputs)


@rule(keras.layers.Resizing, *_keras.operation_classes("Resize"))
class Resize(_Image):
    """Another size, pixels being means of pixels near by."""

    def of_channels(self, operation, constants):
        """A constant stays one: weights of pixels add up to 1, those of some kinds but nearly."""
        if operation.interpolation not in ("nearest", "bilinear"):
            constants = np.where(constants == 0, constants, np.nan)
        if operation.pad_to_aspect_ratio:
            constants = np.where(constants == operation.fill_value, constants, np.nan)
        return constants


@rule(*_keras.operation_classes("PadImages"))
class PadImages(_Image):
    """Zeros around: of the constants only 0 stays one."""

    def of_channels(self, operation, constants):
        return np.where(constants == 0, constants, np.nan)


@rule(keras.layers.CenterCrop, keras.layers.RandomCrop, *_keras.operation_classes("CropImages"))
class Crop(_Image):
    """A part of the pixels, or all of them in another size where there are too few."""


@rule(*_keras.operation_classes("GaussianBlur"))
class Blur(_Image):
    """Sums of pixels near by, zeros around."""

    def of_channels(self, operation, constants):
        return np.where(constants == 0, constants, np.nan)


@rule(*_keras.operation_classes("ExtractPatches"))
class ExtractPatches(Rule):
    """The pixels of each window side by side, as channels: all channels of one, then of the next.

    A channel goes in all of them, so it stands once for each pixel of the window.
    """

    def label(self, call, inputs, labels):
        name, (tensor,), (output,) = call.operation.name, call.inputs, call.outputs
        array = with_batch_axis(tensor, inputs[0])
        channels = self._axis(call)
        if len(tensor.shape) != (5 if call.operation.is_3d else 4):
            reason = f"{name!r} takes it for one image, not a batch"
        elif any(size != 1 for axis, size in enumerate(array.shape) if axis != channels):
            reason = f"{name!r} moves pixels that are units"
        else:
            call.memo["shape"] = True
            moved = self._repeated(call, array)
            return [without_batch_axis(output, block(labels, moved, f"{name!r} repeats its units"))]
        labels.pin(array, reason)
        return [fixed(output)]

    def constants(self, call, inputs):
        if "shape" not in call.memo:
            return unknown_outputs(call)
        array = self._repeated(call, with_batch_axis(call.inputs[0], inputs[0]))[0]
        if call.operation.padding != "valid":
            array = np.where(array == 0, array, np.nan)
        return [array]

    def _repeated(self, call, array):
        axis = self._axis(call)
        if array.shape[axis] == 1:
            return array
        return np.concatenate([array] * int(np.prod(call.operation.size)), axis)

    def _axis(self, call):
        first = call.operation.data_format == "channels_first"
        return 1 if first else len(call.inputs[0].shape) - 1
