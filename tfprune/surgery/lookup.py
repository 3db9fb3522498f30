"""Finds the operations of a model by layer or name, and the units of their inputs and outputs."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Call
from tfprune.coupling.kept_units import made_units
from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules import rule_of
from tfprune.coupling.rules.arithmetic import Elementwise
from tfprune.coupling.rules.joins import Concatenate
from tfprune.coupling.rules.time_steps import FoldTime, UnfoldTime
from tfprune.coupling.time_steps import at_each_step


def walk_operations(model, path=()):
    """Yields the operations of a model and of those nested in it, with the names of the models."""
    for operation in _keras.operations(model):
        yield from _operations_in(operation, path)


def _operations_in(operation, path):
    """An operation and those inside it, if it is a model or a `TimeDistributed` of one."""
    yield path, operation
    if _keras.functional(operation) is not None:
        yield from walk_operations(operation, (*path, operation.name))
    elif at_each_step(operation) is not None:
        yield from _operations_in(operation.layer, (*path, operation.name))


def find_operation(model, given, argument="layer"):
    """The operation of a model for a layer, an operation or a name.

    Args:
        model: The model; models nested in it are looked into.
        given: A layer or operation of it, or its name.
        argument: What the argument is called in errors.

    Returns:
        The names of the nested models around it, and the operation.

    Raises:
        ValueError: If there is none, or several have the name.
    """
    known = list(walk_operations(model))
    name = given if isinstance(given, str) else None
    found = [(path, each) for path, each in known if each is given or each.name == name]
    if len({id(each) for _, each in found}) == 1:
        return found[0]
    name = getattr(given, "name", given)
    if found:
        raise ValueError(
            f"Argument `{argument}` names {len(found)} layers, of the model and of models in it. "
            f"Received: {argument}={name!r}. Give them names of their own."
        )
    names = [each.name for _, each in known]
    raise ValueError(
        f"Argument `{argument}` must be a layer or operation in the graph of the model, or its "
        f"name. Received: {argument}={name!r}, model={model.name!r}. It has: {_abbreviated(names)}."
    )


def _abbreviated(names):
    shown = ", ".join(map(repr, names[:20]))
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 20 else shown


def calls_of(coupling, operation):
    """The calls of an operation in the trace of a model, also where others stand in their place.

    Those are calls of composite layers, and of a `TimeDistributed` of a model.
    """
    traced = coupling.trace
    if id(operation) in traced.inlined:
        return traced.inlined[id(operation)]
    calls = [call for call in traced.calls if call.operation is operation]
    if calls or at_each_step(operation) is None:
        return calls
    folds, unfolds = (
        [
            call
            for call in traced.calls
            if type(call.operation) is kind and call.operation.name == f"{operation.name}_{ending}"
        ]
        for kind, ending in ((FoldTime, "steps"), (UnfoldTime, "sequence"))
    )
    return [
        Call(operation, fold.args, {}, unfold.outputs, fold.parents, fold.node_index)
        for fold, unfold in zip(folds, unfolds, strict=True)
    ]


def output_units(coupling, operation, family=None):
    """The unit of each position along the output of an operation.

    Args:
        coupling: The units of the model.
        operation: The operation.
        family: The name of units inside a layer, which its output does not show, as `"heads"`.

    Raises:
        ValueError: If the operation is not called, or has no units of that name.
    """
    if family is not None:
        return made_units(coupling, operation, family)
    if id(operation) in coupling.trace.entries:  # the input of a nested model
        return units_along(coupling, coupling.trace.entries[id(operation)][0])
    if isinstance(operation, keras.layers.InputLayer):
        return np.full(operation.batch_shape[-1] or 1, FIXED)
    if _keras.functional(operation) is not None:
        raise ValueError(
            "A nested model has no size of its own: name a layer in it. "
            f"Received: layer={operation.name!r}."
        )
    return given_units(coupling, _first_call(coupling, operation))


def given_units(coupling, call):
    """The unit of each position along the first output of a call."""
    output = call.outputs[0]
    is_joined = isinstance(rule_of(call.operation), Concatenate) and len(call.inputs) > 1
    if is_joined and coupling.tensor_labels[output].size == 1:  # one unit several times
        parts = [units_along(coupling, tensor) for tensor in call.inputs]
        joined = np.concatenate(parts)
        return joined if len(joined) == output.shape[-1] else units_along(coupling, output)
    return units_along(coupling, output)


def input_units(coupling, operation, index=None):
    """The unit of each position along the inputs of an operation.

    Args:
        coupling: The units of the model.
        operation: The operation.
        index: Which of several inputs. By default it is the first, but of a concatenation all of
            them, one after the other, and of an element-wise operation what each has: its output.

    Raises:
        ValueError: If the operation is not called, or has no such input.
    """
    call = _first_call(coupling, operation)
    if index is not None and index >= len(call.inputs):
        raise ValueError(
            "Argument `index` of `inputs_of` must be that of an input of the layer. Received: "
            f"layer={operation.name!r} with {len(call.inputs)} inputs, index={index}."
        )
    is_joined = len(call.inputs) > 1 and isinstance(rule_of(operation), (Concatenate, Elementwise))
    if index is None and is_joined:
        return given_units(coupling, call)
    return units_along(coupling, call.inputs[index or 0])


def _first_call(coupling, operation):
    calls = calls_of(coupling, operation)
    if not calls or not calls[0].inputs:
        raise ValueError(
            "The layer is not called on tensors of the model. "
            f"Received: layer={operation.name!r} ({type(operation).__name__})."
        )
    return calls[0]


def only_call(coupling, target):
    """The call of an operation whose inputs change; raises a `ValueError` if it has others."""
    calls = calls_of(coupling, target)
    if len(calls) != 1:
        raise ValueError(
            "Only an operation that is called once can get or lose inputs. "
            f"Received: target={target.name!r}, with {len(calls)} calls."
        )
    return calls[0]


def units_along(coupling, tensor):
    """The unit of each position along the unit axis of a tensor; `FIXED` along the last if none."""
    labels = coupling.tensor_labels[tensor]
    if labels.size > 1:
        return coupling.roots[labels.reshape(-1)]
    size = tensor.shape[-1] if len(tensor.shape) > 1 else 1
    unit = int(coupling.roots[labels.reshape(-1)[0]]) if labels.size else FIXED
    return np.full(size or 1, unit if size == 1 else FIXED)


def unit_axis(coupling, tensor):
    """The axis of a tensor along which units stand, counting the batch axis; the last if none."""
    shape = coupling.tensor_labels[tensor].shape
    return next((axis + 1 for axis, size in enumerate(shape) if size != 1), len(tensor.shape) - 1)


def model_at(model, path):
    """The model nested under the names of `path`, also at each step of a `TimeDistributed`."""
    for name in path:
        inner = at_each_step(model)
        model = operation_at(model, (), name) if inner is None else inner
    return model


def operation_at(model, path, name):
    """The operation of a name in the model nested under the names of `path`, or None."""
    operations = _keras.operations(model_at(model, path))
    return next((each for each in operations if each.name == name), None)


def graph_outputs(model, path, operation):
    """The symbolic tensors that an operation gives in the graph of a model, for each of its calls.

    A layer may be called in other graphs too, so `operation.output` may be of one of these.

    Args:
        model: The model.
        path: The names of the nested models around the operation.
        operation: The operation.

    Returns:
        A list of lists, one for each call.
    """
    graph = _keras.functional(model_at(model, path))
    if isinstance(operation, keras.layers.InputLayer):
        pairs = zip(_keras.input_layers(graph), graph.inputs, strict=True)
        return [[tensor] for layer, tensor in pairs if layer is operation]
    return [list(node.outputs) for node, _ in _keras.nodes(graph) if node.operation is operation]


def graph_inputs(model, path, operation):
    """The symbolic tensors of the list that an operation takes in its one call in a graph.

    Args:
        model, path, operation: As in `graph_outputs`.

    Raises:
        ValueError: If it is not called once.
    """
    graph = _keras.functional(model_at(model, path))
    nodes = [node for node, _ in _keras.nodes(graph) if node.operation is operation]
    if len(nodes) != 1:
        raise ValueError(
            "Only an operation that is called once can get or lose inputs. "
            f"Received: target={operation.name!r}, with {len(nodes)} calls."
        )
    return keras.tree.flatten([list(nodes[0].arguments.args)])
