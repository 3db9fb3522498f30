"""Runs the calls of a trace one by one, which gives access to every tensor of a model.

A layer that was traced for one size is run as a whole, and what the layers in it read is seen as
they are called.
"""

import contextlib
import functools
from collections import ChainMap

import keras

from tfprune.coupling.calls import Tensor
from tfprune.criteria.captured_activations import attribute


def run_calls(trace, values, read_by, see):
    """Runs all calls of a trace.

    Args:
        trace: A trace of `tfprune.coupling.model_trace`.
        values: Dict from the input tensors of the trace to their values; those of the outputs of
            all calls are put into it.
        read_by: Dict from calls to the tensors that are to be seen where they read them.
        see: Function of a tensor and its value; returns the value that the call reads.
    """
    for call, inside in _steps(trace):
        read = {tensor: see(tensor, values[tensor]) for tensor in read_by.get(call, ())}
        known = ChainMap(read, values)
        with contextlib.ExitStack() as stack:
            for layer, calls in _by_layer(inside).items():
                stack.enter_context(_captured_reads(layer, calls, read_by, see))
            args, kwargs = _filled(list(call.args), known), _filled(call.kwargs, known)
            outputs = call.operation(*args, **kwargs)
        values.update(zip(call.outputs, keras.tree.flatten(outputs), strict=True))


def refuse_repeated(trace):
    """Refuses layers that were traced for one size and are called more than once."""
    made = {tensor for call, _ in _steps(trace) for tensor in call.outputs}
    needed = {tensor for call, _ in _steps(trace) for tensor in (*call.inputs, *call.masks)}
    if needed - made - set(trace.inputs):
        names = sorted({call.operation.name for call in trace.in_place.values()})
        raise ValueError(
            "Activations inside a layer that is called several times cannot be measured where its "
            f"`call` is traced for one size. Received: layers among {names}. Take a criterion of "
            "weights or gradients ('magnitude', 'taylor')."
        )


def _steps(trace):
    """The calls to run one by one: of a layer that was traced for one size, its call as a whole.

    Returns:
        A list of pairs of a call and, for such a layer, the calls inside.
    """
    found, inside = [], {}
    for call in trace.calls:
        layer = traced_for_one_size(call, trace)
        if layer is None:
            found.append((call, ()))
        elif id(layer) in inside:
            inside[id(layer)].append(call)
        else:
            inside[id(layer)] = [call]
            found.append((trace.in_place[id(layer)], inside[id(layer)]))
    return found


def traced_for_one_size(call, trace):
    """The outermost layer around a call that was traced for one size, or None."""
    return next((part for part in call.parents if id(part) in trace.in_place), None)


def _by_layer(calls):
    """The calls of each layer, in order."""
    found = {}
    for call in calls:
        if isinstance(call.operation, keras.layers.Layer):
            found.setdefault(call.operation, []).append(call)
    return found


@contextlib.contextmanager
def _captured_reads(layer, calls, read_by, see):
    """While open, what the calls of a layer read is seen, each call in its turn."""
    turns, call_before = iter(calls), layer.call

    def captured(*args, **kwargs):
        turn = next(turns, None)
        for tensor in read_by.get(turn, ()):
            args, kwargs = _replaced(turn, tensor, args, kwargs, functools.partial(see, tensor))
        return call_before(*args, **kwargs)

    with attribute(layer, "call", captured):
        yield


def _replaced(call, tensor, args, kwargs, see):
    """The arguments of a call that runs, with what `see` returns in place of a tensor's value."""
    traced = keras.tree.flatten(list(call.args))
    places = [place for place, leaf in enumerate(traced) if leaf is tensor]
    if places:
        leaves = keras.tree.flatten(list(args))
        leaves[places[0]] = see(leaves[places[0]])
        return keras.tree.pack_sequence_as(list(args), leaves), kwargs
    name = next(name for name, value in call.kwargs.items() if value is tensor)
    return args, {**kwargs, name: see(kwargs[name])}


def _filled(arguments, values):
    """Arguments with values in place of the tensors of a trace."""
    return keras.tree.map_structure(
        lambda leaf: values[leaf] if isinstance(leaf, Tensor) else leaf, arguments
    )
