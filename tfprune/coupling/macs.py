"""Multiply-accumulates (MACs) of one call of an operation: one rule for each layer class.

The convention: the products of matrix products and convolutions are counted, at inference, and
nothing else. Biases, activations, gates, normalisations, pooling, look-ups and element-wise
arithmetic count 0. Every tap of a window counts, also where it reads padding; a transposed
convolution counts every tap at every *input* position; zeros in a kernel count as any number,
because dense kernels do not skip them.
"""

import math

import keras

from tfprune import _keras
from tfprune.coupling.model_trace import trace
from tfprune.coupling.shapes import Shapes, walk
from tfprune.layers import FakeQuantize

_RULES = {}


class UncountedError(ValueError):
    """The MACs of a call are not known; the message says why."""


def macs_of(*classes):
    """Registers a function that counts the MACs of layers or operations.

    The rule is a function `(layer, shapes) -> int` over the whole batch, where `shapes` is a
    `Shapes`. A rule also applies to subclasses without one of their own. Multiply sizes with
    `product`, which raises `UncountedError` if one of them is not known.

    Args:
        *classes: Layer or operation classes.

    Returns:
        The decorator.

    Example:

    >>> class Project(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.kernel = self.add_weight(shape=(shape[-1], 2))
    ...     def call(self, inputs):
    ...         return inputs @ self.kernel
    >>> @macs_of(Project)
    ... def project(layer, shapes):
    ...     return product(*shapes.inputs[0], 2)
    >>> count(Project(), Shapes(inputs=((1, 5),), outputs=((1, 2),)))
    10
    """

    def register(rule):
        for cls in classes:
            _RULES[cls] = rule
        return rule

    return register


def count(operation, shapes):
    """Returns the MACs of one call of an operation, over the whole batch.

    Raises:
        UncountedError: If no rule knows the operation, or a size it needs is not known.
    """
    if _keras.functional(operation) is not None:
        return sum(
            count(call.operation, inner) for call, inner in walk(trace(operation), shapes.inputs)
        )
    for cls in operation.__class__.__mro__:  # not `type`: a stand-in has the class of its layer
        if cls in _RULES:
            return _RULES[cls](operation, shapes)
    if not isinstance(operation, keras.layers.Layer) or _is_plain(operation):
        return 0
    raise UncountedError(
        f"no rule counts {type(operation).__name__}; register one with "
        "`tfprune.coupling.costs.macs_of`"
    )


def _is_plain(layer):
    """Whether it is one of Keras's own layers without weights: reshapes, activations, pools..."""
    own = [cls for cls in layer.__class__.__mro__ if cls in _KERAS_LAYERS]
    return own[0] not in (keras.layers.Layer, keras.layers.Wrapper) and not layer.weights


_KERAS_LAYERS = frozenset(value for value in vars(keras.layers).values() if isinstance(value, type))


def product(*sizes):
    """The product of sizes, each of which must be known."""
    if None in sizes:
        raise UncountedError("it depends on a dynamic dimension; give `input_shapes`")
    return math.prod(sizes)


def positions(layer, shape):
    """The number of positions of a tensor, batch included and channels not."""
    if getattr(layer, "data_format", None) == "channels_first":
        return product(shape[0], *shape[2:])
    return product(*shape[:-1])


def _elements(*weights):
    return sum(math.prod(weight.shape) for weight in weights)


# Dense layers and convolutions -------------------------------------------------------------------


@macs_of(keras.layers.Dense)
def _dense(layer, shapes):
    # Not by the kernel, which a quantized layer packs.
    return product(*shapes.outputs[0], shapes.inputs[0][-1])


@macs_of(keras.layers.EinsumDense)
def _einsum_dense(layer, shapes):
    operands, result = layer.equation.replace(" ", "").split("->")
    inner, kernel = operands.split(",")
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    fresh = [size for label, size in sizes.items() if label not in inner]
    return product(*shapes.inputs[0], *fresh)


@macs_of(keras.layers.Embedding)
def _embedding(layer, shapes):
    return 0


if hasattr(keras.layers, "ReversibleEmbedding"):

    @macs_of(keras.layers.ReversibleEmbedding)
    def _reversible_embedding(layer, shapes):
        is_product = shapes.arguments.get("reverse", False)
        return product(*shapes.inputs[0], layer.input_dim) if is_product else 0


@macs_of(
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
def _convolution(layer, shapes):
    return positions(layer, shapes.outputs[0]) * _elements(layer.kernel)


@macs_of(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
def _transposed_convolution(layer, shapes):
    return positions(layer, shapes.inputs[0]) * _elements(layer.kernel)


@macs_of(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
def _separable_convolution(layer, shapes):
    kernels = _elements(layer.depthwise_kernel, layer.pointwise_kernel)
    return positions(layer, shapes.outputs[0]) * kernels


# Recurrent layers and wrappers -------------------------------------------------------------------


@macs_of(keras.layers.RNN)
def _recurrent(layer, shapes):
    batch, steps, *features = shapes.inputs[0]
    return _of_inner(layer.cell, (product(batch, steps), *features))


@macs_of(keras.layers.SimpleRNNCell, keras.layers.LSTMCell, keras.layers.GRUCell)
def _cell(cell, shapes):
    return shapes.inputs[0][0] * _elements(cell.kernel, cell.recurrent_kernel)


@macs_of(keras.layers.StackedRNNCells)
def _stacked_cells(stack, shapes):
    shape, macs = shapes.inputs[0], 0
    for cell in stack.cells:
        macs += _of_inner(cell, shape)
        shape = (shape[0], cell.output_size)
    return macs


@macs_of(keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)
def _convolutional_lstm(layer, shapes):
    shape = list(shapes.outputs[0])
    if layer.return_sequences:
        del shape[1]
    cell = layer.cell
    kernels = _elements(cell.kernel, cell.recurrent_kernel)
    return product(shapes.inputs[0][1], positions(cell, shape)) * kernels


@macs_of(keras.layers.Bidirectional)
def _bidirectional(layer, shapes):
    directions = (layer.forward_layer, layer.backward_layer)
    return sum(_of_inner(direction, shapes.inputs[0]) for direction in directions)


@macs_of(keras.layers.TimeDistributed)
def _time_distributed(layer, shapes):
    calls = product(*shapes.inputs[0][:2])
    inner, outer = ((calls, *shape[2:]) for shape in (shapes.inputs[0], shapes.outputs[0]))
    return count(layer.layer, Shapes((inner,), (outer,)))


@macs_of(keras.layers.SpectralNormalization)
def _spectral_normalization(layer, shapes):
    return count(layer.layer, Shapes(shapes.inputs[:1], shapes.outputs))


def _of_inner(layer, shape):
    """The MACs of a recurrent layer or cell inside a layer, called on one tensor."""
    if hasattr(layer, "state_size") and not isinstance(layer, keras.layers.RNN):  # a cell
        return count(layer, Shapes((shape,), ()))
    outputs = keras.tree.flatten(layer.compute_output_spec(keras.KerasTensor(shape)))
    return count(layer, Shapes((shape,), tuple(tuple(output.shape) for output in outputs)))


# Attention ---------------------------------------------------------------------------------------


@macs_of(keras.layers.MultiHeadAttention)
def _multi_head_attention(layer, shapes):
    query, value = shapes.inputs[:2]
    sources = product(*value[:-1])
    projections = product(*query[:-1]) * _elements(
        layer.query_dense.kernel, layer.output_dense.kernel
    ) + sources * _elements(layer.key_dense.kernel, layer.value_dense.kernel)
    attended = layer.attention_axes or tuple(range(1, len(query) - 1))
    beside = [size for axis, size in enumerate(query[:-1]) if axis not in attended]
    pairs = product(*beside, *(query[axis] * value[axis] for axis in attended))
    return projections + pairs * layer.num_heads * (layer.key_dim + layer.value_dim)


@macs_of(keras.layers.GroupQueryAttention)
def _group_query_attention(layer, shapes):
    (batch, targets, width), (_, sources, value_width) = shapes.inputs[:2]
    key_width = (shapes.arguments.get("key") or (value_width,))[-1]
    queries, keys = layer.num_query_heads, layer.num_key_value_heads
    from_query = 3 if getattr(layer, "use_gate", False) else 2  # query, output and the gate
    per_target = from_query * width * queries
    per_source = (value_width + key_width) * keys
    pairs = 2 * product(targets, sources) * queries
    return product(batch, layer.head_dim) * (targets * per_target + sources * per_source + pairs)


@macs_of(keras.layers.Attention)
def _attention(layer, shapes):
    (batch, targets, width), (_, sources, value_width) = shapes.inputs[:2]
    products = value_width + (width if layer.score_mode == "dot" else 0)
    return product(batch, targets, sources, products)


@macs_of(keras.layers.AdditiveAttention)
def _additive_attention(layer, shapes):
    (batch, targets, _), (_, sources, value_width) = shapes.inputs[:2]
    return product(batch, targets, sources, value_width)


# Products without weights ------------------------------------------------------------------------


@macs_of(keras.layers.Dot)
def _dot(layer, shapes):
    axis = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    return product(*shapes.outputs[0], shapes.inputs[0][axis])


@macs_of(*map(_keras.raw_operation, ("Matmul", "Dot", "Inner")))
def _matrix_product(operation, shapes):
    first = _shape(shapes.arguments["x1"])
    return product(*shapes.outputs[0], *first[-1:])


@macs_of(_keras.raw_operation("Tensordot"))
def _tensordot(operation, shapes):
    first, axes = _shape(shapes.arguments["x1"]), operation.axes
    axes = range(len(first) - axes, len(first)) if isinstance(axes, int) else axes[0]
    return product(*shapes.outputs[0], *(first[axis] for axis in axes))


@macs_of(_keras.raw_operation("Einsum"))
def _einsum(operation, shapes):
    operands = [_shape(operand) for operand in shapes.arguments["operands"]]
    terms = operation.subscripts.replace(" ", "").split("->")[0].split(",")
    if len(operands) > 2 or "." in operation.subscripts:
        raise UncountedError(f"the einsum {operation.subscripts!r} is not of two plain operands")
    sizes = {}
    for term, shape in zip(terms, operands, strict=True):
        sizes.update(zip(term, shape, strict=True))
    return product(*sizes.values()) if len(operands) == 2 else 0


@macs_of(_keras.raw_operation("DotProductAttention"))
def _dot_product_attention(operation, shapes):
    query, key, value = (_shape(shapes.arguments[name]) for name in ("query", "key", "value"))
    return sum(product(*query[:-1], key[1], last) for last in (query[-1], value[-1]))


@macs_of(*map(_keras.raw_operation, ("Conv", "DepthwiseConv", "SeparableConv")))
def _raw_convolution(operation, shapes):
    kernels = [_shape(given) for name, given in shapes.arguments.items() if "kernel" in name]
    return positions(operation, shapes.outputs[0]) * sum(product(*kernel) for kernel in kernels)


@macs_of(_keras.raw_operation("ConvTranspose"))
def _raw_transposed_convolution(operation, shapes):
    kernel = _shape(shapes.arguments["kernel"])
    return positions(operation, shapes.inputs[0]) * product(*kernel)


def _shape(argument):
    """The shape of an argument: given as a shape, or a constant array."""
    return argument if isinstance(argument, tuple) else tuple(getattr(argument, "shape", ()))


# Layers without products, and layers that cannot be looked into ----------------------------------


@macs_of(
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
    FakeQuantize,
    *_keras.application_layers("LayerScale", "StochasticDepth", "CustomScaleLayer"),
)
def _no_products(layer, shapes):
    return 0


@macs_of(
    keras.layers.Lambda, keras.layers.TFSMLayer, keras.layers.MelSpectrogram, keras.layers.Pipeline
)
def _opaque(layer, shapes):
    raise UncountedError(f"a {type(layer).__name__} layer cannot be looked into")
