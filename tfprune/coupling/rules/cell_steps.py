"""One step of a recurrent cell of a user's class, traced, and the labels of its tensors."""

import inspect
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Call, Tensor
from tfprune.coupling.failures import failure
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.rules.base import fixed, has_rule, rule_of
from tfprune.coupling.rules.cell_weights import CellWeights, Expression
from tfprune.masks.in_place import unmask

BATCH = 2
"""How many examples a step is traced with."""


class NotTracedError(ValueError):
    """A step of a cell could not be traced; the message says why."""


@dataclass(frozen=True, eq=False)
class Step:
    """The graph of one step.

    Attributes:
        inputs: The symbolic tensors of the input and of the states.
        outputs: Those of the output and of the new states.
        weights: Pairs of a symbolic tensor and the weight of the cell for which it stands.
        nodes: The calls.
        originals: For each object of the copy that was traced, by id, the original.
    """

    inputs: list
    outputs: list
    weights: list
    nodes: list
    originals: dict


def trace_step(cell, shape, dtype):
    """Runs the `call` of a copy of a cell on symbolic tensors.

    Args:
        cell: The cell. It is not changed.
        shape: The shape of an input without the batch axis.
        dtype: The dtype of the input and states.

    Returns:
        A `Step`.

    Raises:
        NotTracedError: If that fails.
    """
    copies = _keras.copied_objects(cell)
    copy, originals = unmask(copies[0][1]), {id(new): old for old, new in copies}
    _check_parts(cell)
    try:
        states = initial_states(copy, BATCH)
    except Exception as error:  # the cell's own code may fail in any way
        why, _ = failure(getattr(copy, "get_initial_state", copy.call), error)
        raise NotTracedError(why) from error
    weights = _keras.symbolic_weights(copy)
    inputs = keras.Input(batch_shape=(BATCH, *shape), dtype=dtype)
    given = keras.tree.map_structure(
        lambda state: keras.Input(batch_shape=state.shape, dtype=dtype), states
    )
    training = {"training": False} if _takes_training(copy) else {}
    try:
        with _keras.noting_lines(copy.call):
            output, new_states = copy.call(inputs, given, **training)
    except Exception as error:  # as above
        raise NotTracedError(failure(copy.call, error)[0]) from error
    given, new_states = keras.tree.flatten(given), keras.tree.flatten(new_states)
    outputs = [output, *new_states]
    if not all(map(_keras.is_symbolic, outputs)) or len(given) != len(new_states):
        raise NotTracedError("its `call` returns something else than symbolic tensors")
    tensors = [tensor for _, tensor in weights]
    nodes, _, problem = _keras.nodes_between([inputs, *given, *tensors], outputs)
    if problem is not None:
        raise NotTracedError(problem)
    weights = [(tensor, originals[id(weight)]) for weight, tensor in weights]
    return Step([inputs, *given], outputs, weights, nodes, originals)


def initial_states(cell, batch):
    """The states with which a layer over a cell begins, in the structure that the cell takes."""
    if hasattr(cell, "get_initial_state"):
        states = cell.get_initial_state(batch_size=batch)
        return list(states) if keras.tree.is_nested(states) else [states]
    sizes = cell.state_size
    sizes = list(sizes) if isinstance(sizes, (list, tuple)) else [sizes]
    return [keras.ops.zeros((batch, size), cell.compute_dtype) for size in sizes]


def _takes_training(cell):
    return "training" in inspect.signature(cell.call).parameters


def _check_parts(cell):
    for part in _keras.all_layers(cell)[1:]:
        if part.weights and not has_rule(part):
            raise NotTracedError(f"its layer {part.name!r} has weights and no rule")


_SUMS = ("Add", "Subtract")
_ELEMENTWISE = (*_SUMS, "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power", "Where")


class LabelledStep:
    """The labels of the tensors of a step.

    Args:
        layer: The layer over the cell.
        step: The `Step`.
        incoming: The label array of an input, without the batch axis.
        labels: The `Labels` to record in.
        families: For weights that make units which are no states, by id, the name of these.

    Attributes:
        calls: The calls of operations on tensors that are not weights alone.
        tensor_labels: The label array of each tensor.
        states: Label vectors of the states.
        output: The label vector of the output.
        weights: The `CellWeights`.
    """

    def __init__(self, layer, step, incoming, labels, families=None):
        self.layer, self.step, self.labels = layer, step, labels
        self.families = families or {}
        self.weights = CellWeights(labels)
        self.calls, self.tensor_labels = [], {}
        known = {id(tensor): self.weights.of(weight) for tensor, weight in step.weights}
        tensors = [_tensor(tensor) for tensor in step.inputs]
        known.update({id(a): b for a, b in zip(step.inputs, tensors, strict=True)})
        self.states = [labels.fresh(tensor.shape[-1]) for tensor in tensors[1:]]
        self.tensor_labels = {tensors[0]: incoming}
        for tensor, units in zip(tensors[1:], self.states, strict=True):
            self.tensor_labels[tensor] = placed(units, -1, len(tensor.shape) - 1)
        with labels.inside(layer):
            for node in step.nodes:
                for tensor, found in zip(node.outputs, self._outputs(node, known), strict=True):
                    known[id(tensor)] = found
        found = [self._vector(known[id(tensor)]) for tensor in step.outputs]
        self.output = found[0]
        for before, after in zip(self.states, found[1:], strict=True):
            labels.unite(before, after, f"{layer.name!r} gives it to a state that is fixed")
        self.weights.slices(layer, self.families)

    def _vector(self, tensor):
        """The labels along the last axis of a tensor of one axis."""
        if isinstance(tensor, Expression):
            raise NotTracedError("it gives a weight as output or state")
        labels = self.tensor_labels[tensor]
        return np.broadcast_to(labels.reshape(-1), tensor.shape[-1:])

    def _outputs(self, node, known):
        """The expressions or tensors that a call makes."""
        operation = self.step.originals.get(id(node.operation), node.operation)
        structure = keras.tree.map_structure(
            lambda leaf: _value(leaf, known),
            (list(node.arguments.args), dict(node.arguments.kwargs)),
        )
        leaves = keras.tree.flatten(structure)
        weights = [leaf for leaf in leaves if isinstance(leaf, Expression)]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors:
            return self.weights.applied(operation, structure)
        outputs = tuple(_tensor(tensor) for tensor in node.outputs)
        call = Call(operation, tuple(structure[0]), structure[1], outputs)
        if weights:
            arrays = self._with_weights(call, tensors, weights)
        else:
            arrays = self._of_tensors(call, leaves)
        self.tensor_labels.update(zip(outputs, arrays, strict=True))
        return outputs

    def _of_tensors(self, call, leaves):
        arrays = [self.tensor_labels[tensor] for tensor in call.inputs]
        constants = [leaf for leaf in leaves if isinstance(leaf, np.ndarray) and leaf.size > 1]
        if constants:
            return self._pinned(call, f"{call.operation.name!r} takes a constant array")
        self.calls.append(call)
        weights = getattr(call.operation, "weights", ())
        names = [self.families[id(weight)] for weight in weights if id(weight) in self.families]
        with self.labels.inside(self.layer, *names[:1]):
            return rule_of(call.operation).label(call, arrays, self.labels)

    def _pinned(self, call, reason, weights=()):
        for tensor in call.inputs:
            self.labels.pin(self.tensor_labels[tensor], reason)
        self.weights.pin(call.operation, *weights)
        return [fixed(tensor) for tensor in call.outputs]

    def _with_weights(self, call, tensors, weights):
        """The label arrays of the outputs of a call on a tensor and a weight."""
        terms = _terms(call)
        reason = f"{call.operation.name!r} takes a weight in a way without a rule"
        if len(tensors) != 1 or len(weights) != 1:
            return self._pinned(call, reason, weights)
        if terms is not None:
            return self._product(call, *terms)
        if type(call.operation).__name__ in _ELEMENTWISE:
            return self._elementwise(call, tensors[0], weights[0])
        return self._pinned(call, reason, weights)

    def _product(self, call, tensor, of_tensor, weight, of_weight, of_output):
        """A matrix product, or an einsum, given the letters of each axis."""
        found, name = {}, call.operation.name
        array = self.tensor_labels[tensor]
        for axis, letter in enumerate(of_tensor[1:]):
            found[letter] = np.full(tensor.shape[axis + 1], FIXED)
            if array.shape[axis] == array.size:
                found[letter] = np.broadcast_to(array.reshape(-1), tensor.shape[axis + 1])
        for letter, vector in zip(of_weight, self.weights.along_axes(weight), strict=True):
            if vector is None:
                continue
            if letter in found:
                self.labels.unite(found[letter], vector, f"{name!r} multiplies it with fixed units")
            if letter not in of_output:
                self.weights.used.append(vector)
            elif letter not in found:
                self.weights.made.append(vector)
                found[letter] = vector
        for letter in of_tensor:  # summed over without a weight
            if letter not in of_weight and letter not in of_output and letter in found:
                self.labels.pin(found[letter], f"{name!r} sums over it")
        (output,) = call.outputs
        axes = [
            axis
            for axis, letter in enumerate(of_output)
            if letter in found and (found[letter] != FIXED).any()
        ]
        for axis in axes[:-1]:
            self.labels.pin(found[of_output[axis]], f"{name!r} puts units on several axes")
        if not axes or axes[-1] == 0:
            return [fixed(output)]
        return [placed(found[of_output[axes[-1]]], axes[-1] - 1, len(output.shape) - 1)]

    def _elementwise(self, call, tensor, weight):
        (output,), name = call.outputs, call.operation.name
        result, offset = self.tensor_labels[tensor], len(output.shape) - len(weight.shape)
        result = result.reshape((1,) * (len(output.shape) - 1 - result.ndim) + result.shape)
        vectors = self.weights.along_axes(weight)
        for axis, vector in enumerate(vectors, offset):
            if vector is None:
                continue
            if axis <= 0:
                return self._pinned(call, f"{name!r} takes a weight for examples", [weight])
            if type(call.operation).__name__ in _SUMS:
                self.weights.made.append(vector)
            place = axis - len(output.shape) + len(tensor.shape)
            if place > 0 and tensor.shape[place] > 1:
                units = np.moveaxis(result, axis - 1, 0)
                units = units.reshape(len(units), -1)[:, 0]
                self.labels.unite(units, vector, f"{name!r} joins it with fixed units")
            elif result.size == 1:
                self.weights.made.append(vector)
                result = placed(vector, axis - 1, len(output.shape) - 1)
            else:
                return self._pinned(call, f"{name!r} puts units on several axes", [weight])
        return [result]


def _terms(call):
    """A tensor with its letters, a weight with its letters, and the letters of their product.

    None if the call is no product of these.
    """
    kind = type(call.operation).__name__
    leaves = keras.tree.flatten([list(call.args), call.kwargs])
    operands = [leaf for leaf in leaves if isinstance(leaf, (Tensor, Expression))]
    if len(operands) != 2:
        return None
    if kind in ("Matmul", "Dot") and isinstance(operands[1], Expression):
        tensor, weight = operands
        if len(weight.shape) != 2:
            return None
        letters = "abcdefgh"[: len(tensor.shape) - 1]
        return tensor, letters + "y", weight, "yz", letters + "z"
    if kind == "Einsum" and "." not in call.operation.subscripts:
        left, _, output = call.operation.subscripts.replace(" ", "").partition("->")
        terms = list(zip(operands, left.split(","), strict=True))
        if isinstance(operands[0], Expression):
            terms.reverse()
        (tensor, of_tensor), (weight, of_weight) = terms
        return tensor, of_tensor, weight, of_weight, output
    return None


def _value(leaf, known):
    is_constant = keras.ops.is_tensor(leaf) and not _keras.is_symbolic(leaf)
    return keras.ops.convert_to_numpy(leaf) if is_constant else known.get(id(leaf), leaf)


def _tensor(keras_tensor):
    dtype = keras.backend.standardize_dtype(keras_tensor.dtype)
    return Tensor(tuple(keras_tensor.shape), dtype)
