"""Explicit padding of convolutions: a `ZeroPadding` layer before one with `padding="valid"`."""

import math

import keras

from tfprune import _keras
from tfprune.coupling.model_trace import trace
from tfprune.surgery import graph
from tfprune.surgery.lookup import model_at, walk_operations

_PADDED = tuple(
    getattr(keras.layers, f"{kind}{n}D")
    for kind, ranks in (
        ("Conv", (1, 2, 3)),
        ("DepthwiseConv", (1, 2)),
        ("SeparableConv", (1, 2)),
        ("ConvLSTM", (1, 2)),
    )
    for n in ranks
)
_ZERO_PADDING = tuple(getattr(keras.layers, f"ZeroPadding{n}D") for n in (1, 2, 3))


def check(padding, layer):
    """Raises a `ValueError` unless a layer can have a padding, a string or as in `borders`."""
    if not isinstance(padding, str):
        borders(padding, layer)
    elif padding not in ("same", "valid") and (padding, len(layer.kernel_size)) != ("causal", 1):
        _refuse(padding, layer)


def borders(padding, layer):
    """Explicit padding as a pair of integers for each axis of a layer's window.

    Args:
        padding: An integer for all borders, or for each axis an integer or a pair of those before
            and after; a pair alone for a window of one axis.
        layer: The layer.

    Raises:
        ValueError: If it is none of these, or the layer has no padding before it.
    """
    rank, given = len(layer.kernel_size), padding
    if not isinstance(given, (list, tuple)):
        given = (given,) * rank
    elif rank == 1 and len(given) == 2:
        given = (given,)
    pairs = [tuple(e) if isinstance(e, (list, tuple)) else (e, e) for e in given]
    numbers = [number for pair in pairs for number in pair]
    is_counts = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    if len(pairs) != rank or {len(pair) for pair in pairs} != {2} or not is_counts:
        _refuse(padding, layer)
    if not isinstance(layer, _PADDED) or isinstance(layer, keras.layers.Conv2DTranspose):
        raise ValueError(
            "Only a convolution that is not transposed can have padding for each border. "
            f"Received: layer={layer.name!r} ({type(layer).__name__}), padding={padding!r}."
        )
    return tuple(pairs)


def _refuse(padding, layer):
    rank = len(layer.kernel_size)
    names = "'same', 'valid', 'causal'" if rank == 1 else "'same', 'valid'"
    raise ValueError(
        f"Argument `padding` must be {names}, an integer from 0, or for each of the {rank} axes of "
        "the window an integer or a pair of those before and after. "
        f"Received: padding={padding!r}, layer={layer.name!r}."
    )


def layer_before(model, path, layer):
    """The `ZeroPadding` layer that a layer alone takes the output of, or None."""
    calls = [node for node, _ in _keras.nodes(_keras.functional(model_at(model, path)))]
    made = {id(tensor): node.operation for node in calls for tensor in node.outputs}
    given = [node.arguments.keras_tensors[0] for node in calls if node.operation is layer]
    before = made.get(id(given[0])) if len(given) == 1 else None
    times = [node for node in calls if node.operation is before]
    users = [
        node for node in calls if given and id(given[0]) in map(id, node.arguments.keras_tensors)
    ]
    is_output = given and id(given[0]) in map(id, _keras.functional(model_at(model, path)).outputs)
    is_own = len(times) == len(users) == 1 and not is_output
    return before if is_own and isinstance(before, _ZERO_PADDING) else None


def current_borders(model, layer, before):
    """The zeros that a layer pads with, as pairs for each axis; None where they are not known.

    Args:
        model: The model.
        layer: A convolution.
        before: The `ZeroPadding` layer before it, which is counted too, or None.
    """
    rank, strides, rates = len(layer.kernel_size), _of_axes(layer, "strides"), dilation(layer)
    call = next(call for call in trace(model).calls if call.operation is layer)
    shape = call.inputs[0].shape
    is_first = layer.data_format == "channels_first"
    sizes = shape[-rank:] if is_first else shape[-rank - 1 : -1]
    outer = _pairs(before, rank)
    found = []
    for k, s, d, n, (front, back) in zip(
        layer.kernel_size, strides, rates, sizes, outer, strict=True
    ):
        window = (k - 1) * d + 1
        if layer.padding == "same" and s > 1 and n is None:
            return None
        total = 0
        if layer.padding == "same":
            total = window - 1 if s == 1 else max((math.ceil(n / s) - 1) * s + window - n, 0)
        first = window - 1 if layer.padding == "causal" else total // 2
        last = 0 if layer.padding == "causal" else total - first
        found.append((front + first, back + last))
    return found


def dilation(layer):
    """The dilation rate of a layer along each axis of its window."""
    return _of_axes(layer, "dilation_rate")


def _of_axes(layer, name):
    given = getattr(layer, name)
    return (given,) * len(layer.kernel_size) if isinstance(given, int) else tuple(given)


def _pairs(before, rank):
    """The padding of a `ZeroPadding` layer along the axes of a window."""
    if before is None:
        return [(0, 0)] * rank
    given = before.padding
    pairs = [given] if isinstance(before, keras.layers.ZeroPadding1D) else list(given)
    return [tuple(pair) for pair in pairs][-rank:]


def zero_padding(model, layer, pairs, before):
    """The serialised `ZeroPadding` layer that pads a layer, in place of the one before it if any.

    Raises:
        ValueError: If Keras has none of so many axes.
    """
    leading = isinstance(layer, (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D))
    pairs = [*[(0, 0)] * leading, *pairs]
    made = _ZERO_PADDING[len(pairs) - 1]
    taken = {each.name for _, each in walk_operations(model)}
    name = f"{layer.name}_padding"
    while name in taken:
        name += "_1"
    if before is not None:
        name = before.name
    padding = pairs[0] if len(pairs) == 1 else tuple(pairs)
    new = made(padding, data_format=layer.data_format, name=name, dtype=layer.dtype_policy)
    return keras.saving.serialize_keras_object(new)


def pad(model, path, layer, pairs, draft):
    """Adds the padding of a layer to a `Draft`."""
    before = layer_before(model, path, layer)
    new = zero_padding(model, layer, pairs, before)
    if before is None:
        draft.graph_edits.append(
            (path, lambda config: graph.with_layer_before(config, layer.name, new))
        )
        return

    def replaced(config):
        return {**config, "config": {**config["config"], "padding": new["config"]["padding"]}}

    draft.layer_edits.setdefault(id(before), []).append(replaced)
