"""Recurrent layers: gates side by side in the kernels, units fed back into themselves."""

import keras
import numpy as np

from tfprune.coupling.labels import FIXED, along
from tfprune.coupling.rules.activations import is_elementwise, of_constant
from tfprune.coupling.rules.base import Fold, Need, Rule, fixed, rule, unknown


class _Recurrent(Rule):
    """Kernels of shape (inputs, gates x units) and (units, gates x units)."""

    gates = 1
    candidate = 0  # the gate which proposes the new state

    def label(self, call, inputs, labels):
        layer = call.operation
        incoming = along(inputs[0], 1)
        pinned = self._pinned(call)
        if incoming is None or pinned:
            for array in inputs:
                labels.pin(array, pinned or f"units stand on several axes before {layer.name!r}")
            return [fixed(tensor) for tensor in call.outputs]
        units = labels.fresh(layer.units)
        gated = np.tile(units, self.gates)
        labels.slice(layer, layer.cell.kernel, 0, incoming)
        labels.slice(layer, layer.cell.kernel, 1, gated, makes=True)
        labels.slice(layer, layer.cell.recurrent_kernel, 0, units)
        labels.slice(layer, layer.cell.recurrent_kernel, 1, gated, makes=True)
        if layer.cell.bias is not None:
            labels.slice(layer, layer.cell.bias, len(layer.cell.bias.shape) - 1, gated, makes=True)
        for state in inputs[1:]:
            labels.unite(state, units, f"{layer.name!r} starts from a fixed state")
        return [_placed(units, tensor) for tensor in call.outputs]

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
        incoming = along(inputs[0], 1)
        if incoming is None or self._pinned(call) or len(call.inputs) > 1:
            return [unknown(tensor) for tensor in call.outputs]
        values = self.unit_constants(layer.cell, self._incoming(layer, incoming))
        if call.kwargs.get("mask") is not None:  # a masked first step gives the start, 0
            values = np.where(values == 0, values, np.nan)
        return [_placed(values, tensor) for tensor in call.outputs]

    def unit_constants(self, cell, incoming):
        """The constant that each unit holds at every step, or NaN.

        A unit whose proposal is always 0 stays at its start, which is 0, whatever its gates do.
        """
        units = cell.units
        columns = slice(self.candidate * units, (self.candidate + 1) * units)
        kernel = np.asarray(cell.kernel, "float64")[:, columns]
        recurrent = np.asarray(cell.recurrent_kernel, "float64")[:, columns]
        silent = ~(kernel[np.isnan(incoming)] != 0).any(axis=0) & ~(recurrent != 0).any(axis=0)
        proposal = np.nan_to_num(incoming) @ kernel
        return self.from_proposal(cell, silent, proposal, columns)

    def from_proposal(self, cell, silent, proposal, columns):
        """Zero where the proposal, biases and activations are; NaN elsewhere."""
        biases = 0.0 if cell.bias is None else np.asarray(cell.bias, "float64")[..., columns]
        quiet = (np.atleast_2d(biases) == 0).all(axis=0) & (proposal == 0) & silent
        at_zero = of_constant(cell.activation, np.zeros(1), cell.compute_dtype)
        return np.where(quiet & (at_zero == 0), 0.0, np.nan)

    def _incoming(self, layer, incoming):
        return np.broadcast_to(incoming, (layer.cell.kernel.shape[0],))

    def needs(self, call, flow):
        parts = self._parts(call, flow)
        if parts is None:
            return []
        labels, constants, kernel, units, recurrent, held, kept = parts
        name = call.operation.name
        foldable = (constants == 0) | (~np.isnan(constants) & flow.can_fold(call))
        used = (kernel[:, kept] != 0).any(axis=(1, 2)) & ~foldable
        fed_back = (recurrent[:, kept] != 0).any(axis=(1, 2)) & (held != 0)
        return [
            Need(labels, used, f"{name!r} uses it"),
            Need(units, fed_back, f"{name!r} feeds it back into its other units"),
        ]

    def folds(self, call, flow):
        parts = self._parts(call, flow)
        if parts is None:
            return []
        labels, constants, kernel, units, _, _, kept = parts
        removed = ~flow.is_needed(labels) & (kernel[:, kept] != 0).any(axis=(1, 2))
        if not (removed & (constants != 0)).any():
            return []
        by_unit = np.einsum("i,iug->gu", np.where(removed, constants, 0), kernel)
        values = self.bias_shaped(call.operation.cell, by_unit.reshape(-1))
        gated = np.tile(units, self.gates)
        all_labels = (gated,) if values.ndim == 1 else (np.full(2, FIXED), gated)
        return [Fold(call.operation.cell, values, all_labels)]

    def bias_shaped(self, cell, gated):
        """An addition to the input bias in the shape of the layer's bias."""
        return gated

    def _parts(self, call, flow):
        layer = call.operation
        labels = along(flow.labels(call.inputs[0]), 1)
        units = along(flow.labels(call.outputs[0]), -1)
        if labels is None or self._pinned(call):
            return None
        cell, size = layer.cell, layer.units

        def by_unit(variable):  # (rows, gates x units) -> (rows, units, gates)
            array = np.asarray(variable, "float64")
            return array.reshape(len(array), self.gates, size).swapaxes(1, 2)

        kernel, recurrent = by_unit(cell.kernel), by_unit(cell.recurrent_kernel)
        labels = np.broadcast_to(labels, kernel.shape[:1])
        constants = np.broadcast_to(along(flow.constants(call.inputs[0]), 1), labels.shape)
        held = along(flow.constants(call.outputs[0]), -1)
        return labels, constants, kernel, units, recurrent, held, flow.is_needed(units)

    def resize(self, config, call, sizes):
        """Sets `units`."""
        config["units"] = sizes.of_weight(call.operation.cell.recurrent_kernel)[0]


def _placed(units, tensor):
    return np.asarray(units).reshape((1,) * (len(tensor.shape) - 2) + (-1,))


@rule(keras.layers.SimpleRNN)
class SimpleRNN(_Recurrent):
    """`h = activation(x W + h U + b)`."""

    def from_proposal(self, cell, silent, proposal, columns):
        bias = 0.0 if cell.bias is None else np.asarray(cell.bias, "float64")
        values = np.where(silent, proposal + bias, np.nan)
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


@rule(keras.layers.Embedding)
class Embedding(Rule):
    """Rows by index: embeddings of shape (rows, units)."""

    def label(self, call, inputs, labels):
        layer, output = call.operation, call.outputs[0]
        if layer.quantization_mode or getattr(layer, "lora_enabled", False):
            return [fixed(output)]
        units = labels.fresh(layer.output_dim)
        labels.slice(layer, layer.embeddings, 1, units, makes=True)
        return [_placed(units, output)]

    def constants(self, call, inputs):
        table = np.asarray(call.operation.embeddings, "float64")
        values = np.where((table == table[:1]).all(axis=0), table[0], np.nan)
        return [_placed(values, call.outputs[0])]

    def resize(self, config, call, sizes):
        """Sets `output_dim`."""
        config["output_dim"] = sizes.of_weight(call.operation.embeddings)[1]
