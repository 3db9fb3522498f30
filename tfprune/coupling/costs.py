"""Cost model: parameters and multiply-accumulates (MACs) of each call of a model."""

import math
from dataclasses import dataclass, field

import keras

from tfprune._tools.checks import check_model
from tfprune.coupling.calls import Passed
from tfprune.coupling.macs import UncountedError, count, macs_of
from tfprune.coupling.model_trace import trace
from tfprune.coupling.shapes import sized_inputs, walk
from tfprune.coupling.weight_values import Spread

__all__ = ["CallCost", "costs", "macs_of"]

_MAKES_UNITS = (
    keras.layers.Bidirectional,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.Dense,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.EinsumDense,
    keras.layers.Embedding,
    keras.layers.GroupQueryAttention,
    keras.layers.MultiHeadAttention,
    keras.layers.RNN,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


@dataclass(frozen=True)
class CallCost:
    """The cost of one call of a layer or operation.

    Attributes:
        name: The layer's name with those of the nested models around it: `"encoder/dense"`.
        type: Its class name.
        output_shape: The shape of its (first) output with the batch axis, None where dynamic.
        units: The size of the output axis along which the layer makes units (neurons, filters,
            features), None for layers that make none.
        parameters: The number of elements of its weights, trainable or not; weights that an
            earlier call has used count 0.
        macs: Multiply-accumulates for one sample, None if they are not known.
        reason: Why the MACs are not known.
        operation: The layer or operation itself.
    """

    name: str
    type: str
    output_shape: tuple
    units: int | None
    parameters: int
    macs: int | None
    reason: str | None = None
    operation: keras.Operation = field(default=None, repr=False, compare=False)


def costs(model, input_shapes=None):
    """Returns the parameters and multiply-accumulates (MACs) of every call of a model.

    MACs are those of matrix products and convolutions at inference, for one sample; everything
    else counts 0 (see `tfprune.coupling.macs` for the convention). A layer that is called twice
    is listed twice: its parameters count once, its MACs each time. Where MACs are not
    known, because a layer has no rule or a size is dynamic, they are None and `reason` says why.
    They are never assumed to be 0.

    Args:
        model: Any Keras model that is built; nested models are looked into.
        input_shapes: The sizes to take for dynamic dimensions: the shape of the input without the
            batch axis, as `(224, 224, 3)`; for several inputs a list, or a dict by input name.

    Returns:
        A tuple of `CallCost`, in the order in which the calls run.

    Raises:
        ValueError: If the model has no graph, or `input_shapes` does not fit its inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((8, 3)), keras.layers.Conv1D(4, 3, name="c")])
    >>> costs(model)  # doctest: +NORMALIZE_WHITESPACE
    (CallCost(name='c', type='Conv1D', output_shape=(None, 6, 4), units=4, parameters=40,
     macs=216, reason=None),)
    """
    check_model(model)
    seen, found = set(), []
    for call, known, batch in sized_calls(trace(model, whole=True), model, input_shapes):
        if isinstance(call.operation, (Passed, Spread)):
            found += _own_parameters(call, seen)
            continue
        macs, reason = macs_of_call(call.operation, known, batch)
        found.append(
            CallCost(
                name="/".join(call.path),
                type=type(call.operation).__name__,
                output_shape=call.outputs[0].shape,
                units=_units(call),
                parameters=_parameters(call.operation, seen),
                macs=macs,
                reason=reason,
                operation=call.operation,
            )
        )
    return tuple(found)


def total_macs(model, input_shapes=None):
    """The multiply-accumulates of a model for one sample, or `None` if they are not known.

    Args:
        model, input_shapes: See `costs`.
    """
    macs = [call.macs for call in costs(model, input_shapes)]
    return None if None in macs else sum(macs)


def sized_calls(traced, model, input_shapes=None):
    """Yields each call of the trace of a model, its `Shapes` and the batch size they are for."""
    shapes = sized_inputs(model, input_shapes)
    batches = [tensor.shape[0] or 1 for tensor in traced.inputs]
    inputs = [(batch, *shape) for batch, shape in zip(batches, shapes, strict=True)]
    for call, known in walk(traced, inputs):
        yield call, known, batches[0]


def _own_parameters(call, seen):
    """A row for the weights that a layer holds itself, whose call is listed by what it calls."""
    layer = getattr(call.operation, "layer", None)
    weights = () if layer is None else layer.weights
    fresh = {id(weight): weight for weight in weights if id(weight) not in seen}
    seen.update(fresh)
    if not fresh:
        return []
    return [
        CallCost(
            name="/".join(part.name for part in call.parents),
            type=type(layer).__name__,
            output_shape=call.outputs[0].shape,
            units=None,
            parameters=sum(math.prod(weight.shape) for weight in fresh.values()),
            macs=0,
            reason=None,
            operation=layer,
        )
    ]


def macs_of_call(operation, shapes, batch):
    """Returns the MACs of a call for one sample and None, or None and the reason."""
    try:
        return count(operation, shapes) // batch, None
    except UncountedError as error:
        return None, str(error)


def _parameters(operation, seen):
    """The number of elements of the weights that are not in `seen`; adds them to it."""
    if not isinstance(operation, keras.layers.Layer):
        return 0
    fresh = {id(weight): weight for weight in operation.weights if id(weight) not in seen}
    seen.update(fresh)
    return sum(math.prod(weight.shape) for weight in fresh.values())


def _units(call):
    layer = call.operation
    made_by = layer.layer if isinstance(layer, keras.layers.Wrapper) else layer
    if not isinstance(made_by, _MAKES_UNITS):
        return None
    filters = getattr(made_by, "filters", None)
    if filters is not None:
        return filters
    is_first = getattr(made_by, "data_format", None) == "channels_first"
    return call.outputs[0].shape[1 if is_first else -1]
