"""Traces: a model as the list of the calls of its operations, with nested models flattened."""

import dataclasses

from tfprune import _keras
from tfprune.coupling.model_inputs import call_arguments
from tfprune.coupling.tracer import Tracer, tensor_of, trace_call
from tfprune.coupling.unreached import unreached_parts


def trace(model, *, closed=(), keep=(), whole=False):
    """Returns the calls of a model in topological order.

    Nested models are flattened, and composite layers inlined: the calls of the layers inside them
    take the place of theirs. The graph of a subclassed model is that of its `call`, in inference
    mode, on inputs of the shapes for which it was built.

    Args:
        model: Any Keras model that is built. It is not changed.
        closed: Dict from the id of a layer that is not inlined to the reason.
        keep: The names of the composite layers that stay what they are, and are resized in place;
            or True for all.
        whole: Whether layers that hold no others are left whole, though they hold weights.

    Returns:
        A `Trace`.

    Raises:
        ValueError: If the model is not built, or is subclassed and its `call` cannot be traced.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> [(call.operation.name, call.outputs[0].shape) for call in trace(model).calls]
    [('d', (None, 2))]
    """
    graph = _keras.functional(model)
    if graph is None:
        traced = trace_call(model, *call_arguments(model), closed, keep, whole)
    else:
        known = {id(tensor): tensor_of(tensor) for tensor in graph.inputs}
        tracer = Tracer(closed, keep, whole)
        calls = list(tracer.calls(graph, known, ()))
        traced = tracer.trace(calls, graph.inputs, _keras.output_structure(model), known)
    return dataclasses.replace(traced, unreached=tuple(unreached_parts(model, traced)))
