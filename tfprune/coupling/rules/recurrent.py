"""Recurrent layers: gates are concatenated in the kernels, and units are fed back."""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune.coupling.calls import Call, Tensor
from tfprune.coupling.labels import FIXED, along, placed
from tfprune.coupling.rules.activations import is_elementwise, of_constant
from tfprune.coupling.rules.base import Fold, Need, Rule, pin_inputs, rule, unknown_outputs
from tfprune.coupling.rules.custom_cells import OwnCell
from tfprune.coupling.rules.parts import OfParts
from tfprune.layers import DROP_INS


class _Recurrent(Rule):
    """Kernels of shape (*window, inputs, gates x units) and (*window, units, gates x units)."""

    gates = 1
    candidate = 0  # the gate which proposes the new state

    def axis(self, layer):
        """The channel axis of inputs, outputs and states, counted from the end."""
        return -1

    def is_padded(self, layer):
        """Whether windows over the inputs reach over the border."""
        return False

    # What follows is the same for all of them.

    def label(self, call, inputs, labels):
        layer, cell = call.operation, call.operation.cell
        incoming = along(inputs[0], self.axis(layer))
        states = [along(state, self.axis(layer)) for state in inputs[1:]]
        pinned = self._pinned(call)
        if incoming is None or any(state is None for state in states) or pinned:
            reason = pinned or f"units stand on several axes before {layer.name!r}"
            return pin_inputs(call, inputs, labels, reason)
        rank = len(cell.kernel.shape)
        units = labels.fresh(cell.recurrent_kernel.shape[-2])
        gated = np.tile(units, self.gates)
        labels.slice(layer, cell.kernel, rank - 2, incoming, uses=True)
        labels.slice(layer, cell.kernel, rank - 1, gated, makes=True)
        labels.slice(layer, cell.recurrent_kernel, rank - 2, units, uses=True)
        labels.slice(layer, cell.recurrent_kernel, rank - 1, gated, makes=True)
        if cell.bias is not None:
            labels.slice(layer, cell.bias, len(cell.bias.shape) - 1, gated, makes=True)
        for state in states:
            labels.unite(state, units, f"{layer.name!r} starts from a fixed state")
        return [self._placed(call, units, tensor) for tensor in call.outputs]

    def _pinned(self, call):
        cell, name = call.operation.cell, call.operation.name
        if call.operation.stateful:
            return f"{name!r} is stateful"
        activations = [cell.activation, getattr(cell, "recurrent_activation", None)]
        if not all(is_elementwise(activation) for activation in activations):
            return f"an activation of {name!r} joins its units"
        return None

    def constants(self, call, inputs):
        layer = call.operation
        incoming = along(inputs[0], self.axis(layer))
        if incoming is None or self._pinned(call) or len(call.inputs) > 1:
            return unknown_outputs(call)
        if self.is_padded(layer):
            incoming = np.where(incoming == 0, 0, np.nan)
        values = self._unit_constants(call, incoming)
        if call.kwargs.get("mask") is not None:  # a masked first step gives the start, 0
            values = np.where(values == 0, values, np.nan)
        return [self._placed(call, values, tensor) for tensor in call.outputs]

    def _unit_constants(self, call, incoming):
        """The constant that each unit holds at every step, or NaN.

        A unit whose proposal is always 0 keeps its initial state, which is 0, for any gates.
        """
        (connected, sums), (fed_back, _) = self._by_unit(call)
        gate = (..., self.candidate)
        incoming = np.broadcast_to(incoming, connected.shape[:1])
        is_unknown = np.isnan(incoming)
        is_known = ~connected[gate][is_unknown].any(axis=0) & ~fed_back[gate].any(axis=0)
        proposal = np.where(is_unknown, 0, incoming) @ sums[gate]
        units = sums.shape[1]
        columns = slice(self.candidate * units, (self.candidate + 1) * units)
        return self.from_proposal(call.operation.cell, is_known, proposal, columns)

    def from_proposal(self, cell, is_known, proposal, columns):
        """Zero where the proposal, biases and activations are; NaN elsewhere."""
        biases = 0.0 if cell.bias is None else np.asarray(cell.bias, "float64")[..., columns]
        is_zero = (np.atleast_2d(biases) == 0).all(axis=0) & (proposal == 0) & is_known
        at_zero = of_constant(cell.activation, np.zeros(1), cell.compute_dtype)
        return np.where(is_zero & (at_zero == 0), 0.0, np.nan)

    def needs(self, call, flow):
        parts = self._parts(call, flow)
        if parts is None:
            return []
        labels, constants, units, states, kept = parts
        name, (kernel, recurrent) = call.operation.name, self._by_unit(call)
        can_fold = flow.can_fold(call) and not self.is_padded(call.operation)
        foldable = (constants == 0) | (~np.isnan(constants) & can_fold)
        used = kernel[0][:, kept].any(axis=(1, 2)) & ~foldable
        fed_back = recurrent[0][:, kept].any(axis=(1, 2)) & (states != 0)
        return [
            Need(labels, used, f"{name!r} uses it"),
            Need(units, fed_back, f"{name!r} feeds it back into its other units"),
        ]

    def folds(self, call, flow):
        parts = self._parts(call, flow)
        if parts is None:
            return []
        labels, constants, units, _, kept = parts
        connected, sums = self._by_unit(call)[0]
        removed = ~flow.is_needed(labels) & connected[:, kept].any(axis=(1, 2))
        if not (removed & (constants != 0)).any():
            return []
        by_unit = np.einsum("i,iug->gu", np.where(removed, constants, 0), sums)
        values = self.bias_shaped(call.operation.cell, by_unit.reshape(-1))
        gated = np.tile(units, self.gates)
        all_labels = (gated,) if values.ndim == 1 else (np.full(2, FIXED), gated)
        return [Fold(call.operation.cell, values, all_labels)]

    def bias_shaped(self, cell, gated):
        """An addition to the input bias in the shape of the layer's bias."""
        return gated

    def _by_unit(self, call):
        """Of both kernels: what is connected, and sums of taps; (rows, units, gates)."""
        if "by_unit" not in call.memo:
            cell = call.operation.cell
            call.memo["by_unit"] = [
                self._split(np.asarray(variable, "float64"))
                for variable in (cell.kernel, cell.recurrent_kernel)
            ]
        return call.memo["by_unit"]

    def _split(self, kernel):
        taps = kernel.reshape(-1, kernel.shape[-2], self.gates, kernel.shape[-1] // self.gates)
        taps = taps.swapaxes(2, 3)
        return (taps != 0).any(axis=0), taps.sum(axis=0)

    def _parts(self, call, flow):
        """Labels and constants of inputs; labels, constants and whether needed of units."""
        axis = self.axis(call.operation)
        labels = along(flow.labels(call.inputs[0]), axis)
        units = along(flow.labels(call.outputs[0]), axis)
        if labels is None or self._pinned(call):
            return None
        rows, size = call.operation.cell.kernel.shape[-2], call.operation.cell.kernel.shape[-1]
        labels = np.broadcast_to(labels, (rows,))
        constants = np.broadcast_to(along(flow.constants(call.inputs[0]), axis), (rows,))
        units = np.broadcast_to(units, (size // self.gates,))
        states = np.broadcast_to(along(flow.constants(call.outputs[0]), axis), units.shape)
        return labels, constants, units, states, flow.is_needed(units)

    def _placed(self, call, units, tensor):
        return placed(units, self.axis(call.operation), len(tensor.shape) - 1)

    def resize(self, config, call, sizes):
        """Sets `units`."""
        config["units"] = sizes.of_weight(call.operation.cell.recurrent_kernel)[-2]


@rule(keras.layers.SimpleRNN)
class SimpleRNN(_Recurrent):
    """`h = activation(x W + h U + b)`."""

    def from_proposal(self, cell, is_known, proposal, columns):
        bias = 0.0 if cell.bias is None else np.asarray(cell.bias, "float64")
        values = np.where(is_known, proposal + bias, np.nan)
        return of_constant(cell.activation, values, cell.compute_dtype)


@rule(keras.layers.LSTM)
class LSTM(_Recurrent):
    """Gates in the order input, forget, candidate, output."""

    gates = 4
    candidate = 2


@rule(keras.layers.GRU)
class GRU(_Recurrent):
    """Gates in the order update, reset, candidate; with `reset_after` a bias for each kernel."""

    gates = 3
    candidate = 2

    def bias_shaped(self, cell, gated):
        return np.stack([gated, np.zeros_like(gated)]) if cell.reset_after else gated


@rule(keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)
class ConvLSTM(LSTM):
    """An LSTM whose products are convolutions; units are filters."""

    def axis(self, layer):
        """Channels come first or last among the axes of a step."""
        return -1 if layer.data_format == "channels_last" else -1 - len(layer.kernel_size)

    def is_padded(self, layer):
        """Whether windows over the inputs reach over the border."""
        return layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)

    def resize(self, config, call, sizes):
        """Sets `filters`."""
        config["filters"] = sizes.of_weight(call.operation.cell.recurrent_kernel)[-2]


class _Stacked(OfParts):
    """The cells of `StackedRNNCells`, each of which takes what the one before it gives."""

    def label(self, call, inputs, labels):
        found = self.label_parts(call, inputs, labels)
        return self._outputs(call, found)

    def constants(self, call, inputs):
        return self._outputs(call, self.constants_of_parts(call, inputs))

    def _outputs(self, call, found):
        """Of the arrays of the outputs of each cell those of the layer: sequences, then states."""
        states = [array for arrays in found for array in arrays[1:]]
        return [placed(along(found[-1][0], -1), -1, len(call.outputs[0].shape) - 1), *states]

    def parts(self, call):
        if "parts" not in call.memo:
            call.memo["parts"] = list(self._parts(call))
        return call.memo["parts"]

    def _parts(self, call):
        layer, (sequences, *given) = call.operation, call.inputs
        made = list(call.outputs[1:])
        kwargs = {name: value for name, value in call.kwargs.items() if name == "mask"}
        for place, cell in enumerate(layer.cell.cells):
            count = len(keras.tree.flatten(cell.state_size))
            inputs, given = (sequences, *given[:count]), given[count:]
            ends, made = made[:count], made[count:]
            sequences = Tensor((*sequences.shape[:2], _output_size(cell)), layer.compute_dtype)
            part = Call(_Layer(layer, cell), inputs, kwargs, (sequences, *ends))
            yield _rule_of_cell(cell), part, f"cell_{place}"

    def config_of(self, config, place):
        return config["cells"][place]["config"]


def _output_size(cell):
    size = getattr(cell, "output_size", None)
    return keras.tree.flatten(cell.state_size)[0] if size is None else size


@dataclass(frozen=True, eq=False)
class _Layer:
    """In place of the layer over a cell, if that is one of several in it."""

    layer: keras.layers.RNN
    cell: keras.layers.Layer

    @property
    def name(self):
        return self.layer.name

    @property
    def stateful(self):
        return self.layer.stateful


_OWN_CELL = OwnCell()
_CELL_RULES = {
    keras.layers.SimpleRNNCell: SimpleRNN(),
    keras.layers.LSTMCell: LSTM(),
    keras.layers.GRUCell: GRU(),
    keras.layers.StackedRNNCells: _Stacked(),
}
_CELL_RULES.update({DROP_INS[cell]: _CELL_RULES[cell] for cell in DROP_INS if cell in _CELL_RULES})


def _rule_of_cell(cell):
    return _CELL_RULES.get(type(cell), _OWN_CELL)


@rule(keras.layers.RNN)
class OverCell(Rule):
    """`RNN` of a cell: the rule of the layer with that cell, or that read off the cell."""

    def label(self, call, inputs, labels):
        return _rule(call).label(call, inputs, labels)

    def constants(self, call, inputs):
        return _rule(call).constants(call, inputs)

    def needs(self, call, flow):
        return _rule(call).needs(call, flow)

    def folds(self, call, flow):
        return _rule(call).folds(call, flow)

    def add_bias(self, config, call):
        """Sets `use_bias` of the cell, or of the cells."""
        _rule(call).add_bias(config["cell"]["config"], call)

    def resize(self, config, call, sizes):
        """Sets `units` of the cell, or of the cells."""
        _rule(call).resize(config["cell"]["config"], call, sizes)

    def in_place(self, call):
        """The cell, if it is of a user's class, or those of the cells that are."""
        return _rule(call).in_place(call)


def _rule(call):
    return _rule_of_cell(call.operation.cell)
