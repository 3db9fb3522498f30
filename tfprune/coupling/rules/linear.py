"""Linear layers: dense layers and convolutions, matrix products over channels."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import FIXED, along, placed
from tfprune.coupling.rules.activations import is_elementwise, of_constant
from tfprune.coupling.rules.base import Fold, Need, Rule, fixed, rule, unknown, values_of
from tfprune.coupling.rules.block_labels import groups_left


class Linear(Rule):
    """`outputs = activation(inputs @ matrix + bias)` over channels, at each place or window.

    Subclasses define the axes of the channels in the weights, and the matrix.
    """

    def applies(self, call):
        """Whether the layer has this form; if not, its channels are pinned."""
        return _keras.changed_kernel(call.operation) is None

    def pin_reason(self, call, incoming):
        """Why the channels are pinned."""
        return pin_reason(call.operation, incoming)

    def axes(self, call):
        """The channel axes of input and output, counted without the batch axis."""
        return len(call.inputs[0].shape) - 2, len(call.outputs[0].shape) - 2

    def bias(self, call):
        """The bias of each output channel; NaN where it differs within the channel."""
        return _value(call.operation.bias)

    def taps(self, call):
        """The matrices of all taps: an array of shape (taps, inputs, outputs)."""
        raise NotImplementedError

    def connected(self, call):
        """Per input and output channel whether any tap is not 0."""
        return (self.taps(call) != 0).any(axis=0)

    def product(self, call, constants):
        """The product of constants in the input channels with the matrix, in float64."""
        rows = np.flatnonzero(constants)
        return constants[rows] @ self.taps(call)[:, rows].sum(axis=0, dtype="float64")

    def is_padded(self, call):
        """Whether a constant input channel other than 0 gives an output that is not constant.

        So it is for windows that reach over the border, where the input is padded with 0.
        """
        return False

    def slices(self, call, inputs, outputs, labels):
        """Records the slices of weights of input and output channels."""
        raise NotImplementedError

    def made(self, layer, incoming, size, labels):
        """The labels of the output channels."""
        return labels.fresh(size)

    # What follows is the same for all of them.

    def label(self, call, inputs, labels):
        layer, (output,) = call.operation, call.outputs
        before, axis = self.axes(call)
        incoming = along(inputs[0], before)
        if incoming is None or not self.applies(call):
            labels.pin(inputs[0], self.pin_reason(call, incoming))
            return [fixed(output)]
        outgoing = self.made(layer, incoming, output.shape[axis + 1], labels)
        if not is_elementwise(layer.activation):
            labels.pin(outgoing, f"the activation of {layer.name!r} joins its units")
        self.slices(call, incoming, outgoing, labels)
        return [placed(outgoing, axis, len(output.shape) - 1)]

    def constants(self, call, inputs):
        layer, (output,) = call.operation, call.outputs
        before, axis = self.axes(call)
        incoming = along(inputs[0], before)
        if incoming is None or not self.applies(call):
            return [unknown(output)]
        connected = self._connected(call)
        incoming = np.broadcast_to(incoming, connected.shape[:1])
        moves = np.isnan(incoming) | (self.is_padded(call) & (incoming != 0))
        known = ~connected[moves].any(axis=0)
        value = self.product(call, np.where(moves, 0, incoming)) + self.bias(call)
        value = of_constant(layer.activation, np.where(known, value, np.nan), layer.compute_dtype)
        return [placed(value, axis, len(output.shape) - 1)]

    def needs(self, call, flow):
        layer = call.operation
        parts = self._parts(call, flow)
        if parts is None:
            return []
        labels, constants, connected, kept = parts
        used = connected[:, kept].any(axis=1)
        foldable = ~np.isnan(constants)
        reason = f"{layer.name!r} uses it"
        if self.is_padded(call):
            foldable &= constants == 0
            reason += ", or pads around its constant"
        elif not flow.can_fold(call):
            foldable &= constants == 0
        return [Need(labels, used & ~foldable, reason)]

    def folds(self, call, flow):
        parts = self._parts(call, flow)
        if parts is None:
            return []
        labels, constants, connected, kept = parts
        removed = ~flow.is_needed(labels) & connected[:, kept].any(axis=1)
        if not (removed & (constants != 0)).any():
            return []
        outgoing = along(flow.labels(call.outputs[0]), self.axes(call)[1])
        values = self.product(call, np.where(removed, constants, 0))
        return [Fold(call.operation, values, (outgoing,))]

    def _connected(self, call):
        if "connected" not in call.memo:
            call.memo["connected"] = self.connected(call)
        return call.memo["connected"]

    def _parts(self, call, flow):
        tensor, (output,) = call.inputs[0], call.outputs
        before, after = self.axes(call)
        labels = along(flow.labels(tensor), before)
        if labels is None or not self.applies(call):
            return None
        connected = self._connected(call)
        labels = np.broadcast_to(labels, connected.shape[:1])
        constants = np.broadcast_to(along(flow.constants(tensor), before), labels.shape)
        outgoing = along(flow.labels(output), after)
        return labels, constants, connected, flow.is_needed(outgoing)


def forget_connected(calls):
    """Frees what was remembered of kernels, which takes a quarter of the memory of the weights."""
    for call in calls:
        call.memo.pop("connected", None)


def pin_reason(layer, incoming):
    """Returns why the channels of a layer with a rule are pinned."""
    if incoming is None:
        return f"units stand on several axes of the input of {layer.name!r}"
    return _keras.changed_kernel(layer) or f"{layer.name!r} has not the form of its class"


def _value(variable):
    return 0.0 if variable is None else values_of(variable).astype("float64")


@rule(keras.layers.Dense)
class Dense(Linear):
    """A dense layer: kernel of shape (inputs, units).

    It does the same at each position of the other axes. So units along one of these, as of a layer
    over tokens the channels, pass through it, and its own stay; or they stay, and its own may go
    (`Labels.other_axis`).
    """

    def label(self, call, inputs, labels):
        layer, (output,), array = call.operation, call.outputs, inputs[0]
        is_beside = along(array, -1) is None and array.shape[-1] == 1
        if not (is_beside and self.applies(call) and is_elementwise(layer.activation)):
            return super().label(call, inputs, labels)
        call.memo["has units beside"] = True
        if id(layer) in labels.other_axis:
            labels.pin(array, self.pin_reason(call, None))
            return super().label(call, [fixed(call.inputs[0])], labels)
        outgoing = labels.fresh(output.shape[-1])
        labels.pin(outgoing, f"units stand on another axis of the output of {layer.name!r}")
        self.slices(call, np.full(layer.kernel.shape[0], FIXED), outgoing, labels)
        return [array]

    def taps(self, call):
        """The kernel."""
        return values_of(call.operation.kernel)[None]

    def slices(self, call, inputs, outputs, labels):
        """Kernel rows are inputs; columns and bias are units."""
        layer = call.operation
        labels.slice(layer, layer.kernel, 0, inputs, uses=True)
        labels.slice(layer, layer.kernel, 1, outputs, makes=True)
        labels.slice(layer, layer.bias, 0, outputs, makes=True)

    def resize(self, config, call, sizes):
        """Sets `units`."""
        config["units"] = sizes.of_weight(call.operation.kernel)[1]


class _Windowed(Linear):
    def axes(self, call):
        return (0, 0) if call.operation.data_format == "channels_first" else super().axes(call)

    def is_padded(self, call):
        layer = call.operation
        return layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)


def _over_window(kernel):
    return kernel.reshape(-1, *kernel.shape[-2:])


def _blocks(matrix, groups):
    """(rows of a group, columns of all) -> (rows of all, columns of all), 0 between groups."""
    rows, columns = matrix.shape[0], matrix.shape[1] // groups
    full = np.zeros((groups, rows, groups, columns), matrix.dtype)
    each = np.arange(groups)
    full[each, :, each] = matrix.reshape(rows, groups, columns).swapaxes(0, 1)
    return full.reshape(groups * rows, groups * columns)


@rule(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
class Convolution(_Windowed):
    """A convolution: kernel of shape (*window, inputs of a group, filters of all groups)."""

    def taps(self, call):
        """One for each place in the window; the inputs are those of a group."""
        return _over_window(values_of(call.operation.kernel))

    def connected(self, call):
        """In blocks along the diagonal if there are groups."""
        connected, groups = super().connected(call), call.operation.groups
        return connected if groups == 1 else _blocks(connected, groups)

    def product(self, call, constants):
        """Of each group's constants with its filters."""
        layer = call.operation
        if layer.groups == 1:
            return super().product(call, constants)
        sums = self.taps(call).sum(axis=0, dtype="float64")
        return constants @ _blocks(sums, layer.groups)

    def made(self, layer, incoming, size, labels):
        """Filters of a group with one input channel are coupled with it, as in a depthwise one."""
        if layer.groups > 1 and layer.kernel.shape[-2] == 1:
            return np.repeat(np.broadcast_to(incoming, (layer.groups,)), size // layer.groups)
        return super().made(layer, incoming, size, labels)

    def slices(self, call, inputs, outputs, labels):
        """The last two axes of the kernel; the bias."""
        layer = call.operation
        rank, is_shared = len(layer.kernel.shape), layer.kernel.shape[-2] > 1
        if layer.groups == 1:
            labels.slice(layer, layer.kernel, rank - 2, inputs, uses=True)
        elif is_shared:
            self._group_slices(layer, inputs, outputs, labels)
        labels.slice(layer, layer.kernel, rank - 1, outputs, makes=layer.groups == 1 or is_shared)
        labels.slice(layer, layer.bias, 0, outputs, makes=layer.groups == 1 or is_shared)

    def _group_slices(self, layer, inputs, outputs, labels):
        """Row r of filter f is channel r of the group of f; groups keep equal counts."""
        *window, rows, filters = layer.kernel.shape
        inputs = np.broadcast_to(inputs, (rows * layer.groups,)).reshape(layer.groups, rows)
        by_filter = np.repeat(inputs, filters // layer.groups, axis=0).T
        by_filter = by_filter.reshape(*(1 for _ in window), rows, filters)
        labels.slice(layer, layer.kernel, len(window), by_filter, uses=True)
        labels.group(layer, inputs, outputs.reshape(layer.groups, -1))

    def resize(self, config, call, sizes):
        """Sets `filters`, and `groups` to the number of groups of which any filter is left.

        Where each channel is a group there are as many as channels.
        """
        layer, (output,) = call.operation, call.outputs
        before, after = self.axes(call)
        config["filters"] = sizes.of_weight(layer.kernel)[-1]
        if layer.groups > 1 and layer.kernel.shape[-2] == 1:
            config["groups"] = int(sizes.counts_along(call.inputs[0], before).sum())
        else:
            config["groups"] = groups_left(layer, sizes.counts_along(output, after))


@rule(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
class TransposedConvolution(_Windowed):
    """A transposed convolution: kernel of shape (*window, filters, inputs)."""

    def taps(self, call):
        """One for each place in the window."""
        return _over_window(np.swapaxes(values_of(call.operation.kernel), -1, -2))

    def is_padded(self, call):
        """Places of the output are reached by different taps, so a constant does not stay one."""
        return True

    def slices(self, call, inputs, outputs, labels):
        """The last two axes of the kernel; the bias."""
        layer = call.operation
        rank = len(layer.kernel.shape)
        labels.slice(layer, layer.kernel, rank - 1, inputs, uses=True)
        labels.slice(layer, layer.kernel, rank - 2, outputs, makes=True)
        labels.slice(layer, layer.bias, 0, outputs, makes=True)

    def resize(self, config, call, sizes):
        """Sets `filters`."""
        config["filters"] = sizes.of_weight(call.operation.kernel)[-2]


@rule(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
class SeparableConvolution(_Windowed):
    """Depthwise taps (*window, inputs, multiplier), then a matrix (inputs x multiplier, filters).

    A hidden channel is coupled with its input channel.
    """

    def connected(self, call):
        """Whether a hidden channel of the input channel has taps and a pointwise weight."""
        depthwise, pointwise = self._kernels(call.operation)
        connected = (depthwise != 0).any(axis=0)[..., None] & (pointwise != 0)
        return connected.any(axis=1)

    def product(self, call, constants):
        """Through the hidden channels."""
        depthwise, pointwise = self._kernels(call.operation)
        hidden = constants[:, None] * depthwise.sum(axis=0)
        return np.einsum("im,imo->o", hidden, pointwise)

    def _kernels(self, layer):
        """Shapes (taps, inputs, multiplier) and (inputs, multiplier, outputs)."""
        depthwise = _over_window(_value(layer.depthwise_kernel))
        pointwise = _value(layer.pointwise_kernel)
        return depthwise, pointwise.reshape(*depthwise.shape[1:], pointwise.shape[-1])

    def slices(self, call, inputs, outputs, labels):
        """Input channels are in both kernels; hidden ones of a channel are adjacent."""
        layer = call.operation
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        rank = len(depthwise.shape)
        inputs = np.broadcast_to(inputs, (depthwise.shape[-2],))
        labels.slice(layer, depthwise, rank - 2, inputs)
        hidden = np.repeat(inputs, depthwise.shape[-1])
        labels.slice(layer, pointwise, rank - 2, hidden, uses=True)
        labels.slice(layer, pointwise, rank - 1, outputs, makes=True)
        labels.slice(layer, layer.bias, 0, outputs, makes=True)

    def resize(self, config, call, sizes):
        """Sets `filters`."""
        config["filters"] = sizes.of_weight(call.operation.pointwise_kernel)[-1]
