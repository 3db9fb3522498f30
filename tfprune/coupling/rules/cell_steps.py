"""One step of a recurrent cell of a user's class, traced, and the labels of its tensors."""

import functools
import inspect
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Call, Tensor
from tfprune.coupling.failures import failure
from tfprune.coupling.labels import placed
from tfprune.coupling.rules.base import has_rule, label
from tfprune.coupling.weight_values import WeightAxes
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

    The calls of layers inside that have no rule, such as cells, are looked into.

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
    copy, originals = unmask(copies[0][1]), _keras.Originals(copies)
    try:
        states = initial_states(copy, BATCH)
    except Exception as error:  # the cell's own code may fail in any way
        why, _ = failure(getattr(copy, "get_initial_state", copy.call), error)
        raise NotTracedError(why) from error
    weights = _keras.symbolic_weights(copy)
    for part in _keras.all_layers(copy)[1:]:
        if part.weights and not has_rule(part):  # such as a cell of Keras
            weights += _keras.symbolic_weights(part)
            _keras.call_directly(part, functools.partial(_called, part))
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


def _called(part, *args, **kwargs):
    """What a layer inside makes, in inference, without the call that Keras would note."""
    if _takes_training(part):
        kwargs["training"] = False
    return part.call(*args, **kwargs)


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
    """

    def __init__(self, layer, step, incoming, labels, families=None):
        self.step, self.weight_axes = step, WeightAxes(len(labels.of_numbers))
        families = families or {}
        known = {id(t): self.weight_axes.of(layer.cell, weight) for t, weight in step.weights}
        tensors = [_tensor(tensor) for tensor in step.inputs]
        known.update({id(a): b for a, b in zip(step.inputs, tensors, strict=True)})
        self.states = [labels.fresh(tensor.shape[-1]) for tensor in tensors[1:]]
        self.tensor_labels = {tensors[0]: incoming}
        for tensor, units in zip(tensors[1:], self.states, strict=True):
            self.tensor_labels[tensor] = placed(units, -1, len(tensor.shape) - 1)
        self.calls = list(self._calls(known))
        self.weight_axes.record(labels, self.calls)
        with labels.inside(layer):
            for call in self.calls:
                weights = getattr(call.operation, "weights", ())
                names = [families[id(weight)] for weight in weights if id(weight) in families]
                with labels.inside(layer, *names[:1]):
                    label([call], self.tensor_labels, labels)
            self.weight_axes.record_slices(labels, families)
        found = [self._vector(known[id(tensor)]) for tensor in step.outputs]
        self.output = found[0]
        for before, after in zip(self.states, found[1:], strict=True):
            labels.unite(before, after, f"{layer.name!r} gives it to a state that is fixed")

    def _vector(self, tensor):
        """The labels along the last axis of a tensor of one axis."""
        if not isinstance(tensor, Tensor):
            raise NotTracedError("it gives a weight as output or state")
        labels = self.tensor_labels[tensor]
        return np.broadcast_to(labels.reshape(-1), tensor.shape[-1:])

    def _calls(self, known):
        """The calls of operations on tensors; `known` has what stands for each symbolic one."""
        for node in self.step.nodes:
            operation = self.step.originals.get(id(node.operation), node.operation)
            args, kwargs = keras.tree.map_structure(
                lambda leaf: _value(leaf, known),
                (list(node.arguments.args), dict(node.arguments.kwargs)),
            )
            if any(isinstance(leaf, Tensor) for leaf in keras.tree.flatten((args, kwargs))):
                outputs = tuple(_tensor(tensor) for tensor in node.outputs)
                yield Call(operation, tuple(args), kwargs, outputs, in_place=True)
            else:
                outputs = self.weight_axes.applied(operation, args, kwargs)
            known.update({id(t): ours for t, ours in zip(node.outputs, outputs, strict=True)})


def _value(leaf, known):
    is_constant = keras.ops.is_tensor(leaf) and not _keras.is_symbolic(leaf)
    return keras.ops.convert_to_numpy(leaf) if is_constant else known.get(id(leaf), leaf)


def _tensor(keras_tensor):
    dtype = keras.backend.standardize_dtype(keras_tensor.dtype)
    return Tensor(tuple(keras_tensor.shape), dtype)
