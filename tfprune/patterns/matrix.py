"""The matrix form of weights: which axes are rows (inputs) and which are columns (outputs).

Inputs are the axes that are summed over to make an output, outputs are the others. The positions
of a window are neither: a convolution is a stack of matrices, one for each position, so that groups
and blocks reach over channels and never from one position to the next.

| weight | shape | stack | inputs | outputs |
|---|---|---|---|---|
| kernel of `Dense` | (in, out) | | in | out |
| kernel of `Conv1D`, `Conv2D`, `Conv3D` | (*window, in / groups, out) | window | in | out |
| kernel of `Conv1DTranspose` and so on | (*window, out, in) | window | in | out |
| kernel of `DepthwiseConv1D`, `DepthwiseConv2D` | (*window, in, multiplier) | | window | in, multiplier |
| `depthwise_kernel` of `SeparableConv1D` and 2D | (*window, in, multiplier) | | window | in, multiplier |
| `pointwise_kernel` of `SeparableConv1D` and 2D | (1, ..., in * multiplier, out) | 1, ... | in | out |
| embeddings of `Embedding`, `ReversibleEmbedding` | (rows, width) | | rows | width |
| `reverse_embeddings` of `ReversibleEmbedding` | (width, rows) | | width | rows |
| kernel, `recurrent_kernel` of RNNs and cells | (in, gates * units) | | in | gates * units |
| kernel, `recurrent_kernel` of `ConvLSTM1D` and so on | (*window, in, gates * filters) | window | in | gates * filters |
| kernel of `EinsumDense` | by its equation | | summed over | the others |
| query, key, value, gate kernel of attention | (width, heads, size) | | width | heads, size |
| output kernel of attention | (heads, size, width) | | heads, size | width |

Several axes become one in C order, in the order they have in the weight: consecutive inputs of an
output kernel of attention are the elements of one head. What is not in the table has no matrix
form: biases, scales of norms, slopes of PReLU.
"""  # noqa: E501 (a row of the table is one line)

import math
from dataclasses import dataclass

import numpy as np
from keras import layers

from tfprune import _keras

_RULES = {}
"""(class of a layer, name of a weight) -> rule."""


@dataclass(frozen=True)
class MatrixAxes:
    """The axes of a weight in its matrix form, a stack of matrices of inputs x outputs.

    Args:
        inputs: Tuple of the axes that become the rows.
        outputs: Tuple of the axes that become the columns.
        stack: Tuple of the axes with a matrix for each position.

    Raises:
        ValueError: If an axis is named twice or left out.

    Example:

    >>> axes = MatrixAxes(stack=(0, 1), inputs=(3,), outputs=(2,))
    >>> axes.to_matrix(np.zeros((3, 3, 8, 4))).shape
    (9, 4, 8)
    """

    inputs: tuple
    outputs: tuple
    stack: tuple = ()

    def __post_init__(self):
        if sorted(self.order) != list(range(len(self.order))) or not self.order:
            raise ValueError(
                "Arguments `inputs`, `outputs` and `stack` must name every axis of the weight "
                f"once, counted from 0. Received: inputs={self.inputs}, outputs={self.outputs}, "
                f"stack={self.stack}."
            )

    @property
    def order(self):
        """All axes, in the order of the matrix form."""
        return (*self.stack, *self.inputs, *self.outputs)

    def to_matrix(self, array):
        """An array of the weight's shape as (stack, inputs, outputs)."""
        if array.ndim != len(self.order):
            raise ValueError(
                f"Argument `matrix` must have as many axes as the scores, {array.ndim}. "
                f"Received: matrix={self}, scores of shape {array.shape}."
            )
        sizes = [math.prod(array.shape[a] for a in axes) for axes in (self.stack, self.inputs)]
        columns = math.prod(array.shape[a] for a in self.outputs)
        return array.transpose(self.order).reshape(*sizes, columns)

    def from_matrix(self, matrix, shape):
        """The inverse of `to_matrix`, for a weight of a shape."""
        array = matrix.reshape([shape[axis] for axis in self.order])
        return array.transpose(np.argsort(self.order))


def matrix_or_default(matrix, scores):
    """`matrix`; where it is `None`, rows and columns of scores that have two axes.

    Raises:
        ValueError: If it is `None` and the scores have fewer axes or more.
    """
    if matrix is None and np.ndim(scores) != 2:
        raise ValueError(
            "Scores must have two axes, inputs and outputs, to form groups or blocks of. "
            f"Received: shape={np.shape(scores)}. Give the matrix form of a kernel with more axes "
            "as `matrix=tfprune.patterns.matrix_axes(layer, name)`; prune what has only one with "
            '"unstructured", or leave it out.'
        )
    return MatrixAxes(inputs=(0,), outputs=(1,)) if matrix is None else matrix


def matrix_rule(*classes, weights=("kernel",)):
    """Registers the matrix form of weights of some classes of layers, and of their subclasses.

    Args:
        classes: Classes of layers.
        weights: Sequence of the names of the weights.

    Returns:
        A decorator for a function `(layer, rank) -> MatrixAxes`, with the number of axes of the
        weight as its rank.

    Example:

    >>> import tfprune
    >>> class Mixing(tfprune.layers.Masked, layers.Layer):
    ...     def build(self, input_shape):
    ...         self.mix = self.add_weight(shape=(5, input_shape[-1]), name="mix")
    >>> @matrix_rule(Mixing, weights=["mix"])
    ... def outputs_first(layer, rank):
    ...     return MatrixAxes(inputs=(1,), outputs=(0,))
    >>> layer = Mixing()
    >>> layer.build((None, 8))
    >>> matrix_axes(layer, "mix")
    MatrixAxes(inputs=(1,), outputs=(0,), stack=())
    """

    def register(rule):
        _RULES.update({(cls, name): rule for cls in classes for name in weights})
        return rule

    return register


def matrix_axes(layer, name):
    """Returns the matrix form of a weight: its axes of inputs and of outputs.

    Args:
        layer: A built layer that carries masks.
        name: The weight's name in `layer.masked_weights`; `query/kernel` is a sub-layer's.

    Returns:
        `MatrixAxes`, as the rule for the class of the layer says. A weight of a sub-layer has the
        sub-layer's rule, where there is one.

    Raises:
        ValueError: If the layer has no such weight, or the weight no matrix form.

    Example:

    >>> import tfprune
    >>> layer = tfprune.layers.Conv2D(8, 3)
    >>> layer.build((None, 6, 6, 4))
    >>> matrix_axes(layer, "kernel")
    MatrixAxes(inputs=(2,), outputs=(3,), stack=(0, 1))
    """
    if name not in layer.masked_weights:
        raise ValueError(
            f"Argument `name` must be one of {sorted(layer.masked_weights)}, the weights that "
            f"carry masks. Received: name={name!r}, layer={layer.name!r} "
            f"({type(layer).__name__})."
        )
    weight = layer.masked_weights[name]
    rank = len(weight.shape)
    for part in reversed(_keras.all_layers(layer)):  # the innermost owner comes last
        rule = _rule_of(part, weight.name)
        if rank >= 2 and rule and any(own is weight for own in part.weights):
            return rule(part, rank)
    raise ValueError(_explained(layer, name, tuple(weight.shape)))


def _rule_of(layer, name):
    return next((r for c in type(layer).__mro__ if (r := _RULES.get((c, name)))), None)


def _explained(layer, name, shape):
    if len(shape) < 2:
        reason = "it has fewer than two axes, so there are no inputs and outputs"
    else:
        reason = (
            "no rule says which of its axes are inputs and which outputs (register one with "
            "`tfprune.patterns.matrix_rule`)"
        )
    return (
        f"Weight {name!r} of layer {layer.name!r} ({type(layer).__name__}) cannot be pruned in "
        f"groups or blocks: {reason}. Received: shape={shape}. Leave it out with `exclude`, or "
        'prune it with "unstructured".'
    )


_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_RECURRENT = (layers.SimpleRNN, layers.LSTM, layers.GRU)
_CELLS = (layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell)
_CONV_LSTMS = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)


@matrix_rule(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
@matrix_rule(layers.Embedding, weights=["embeddings"])
@matrix_rule(layers.ReversibleEmbedding, weights=["embeddings", "reverse_embeddings"])
@matrix_rule(*_RECURRENT, *_CELLS, *_CONV_LSTMS, weights=["kernel", "recurrent_kernel"])
@matrix_rule(*_SEPARABLE, weights=["pointwise_kernel"])
def _outputs_last(layer, rank):
    return MatrixAxes(stack=tuple(range(rank - 2)), inputs=(rank - 2,), outputs=(rank - 1,))


@matrix_rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _inputs_last(layer, rank):
    return MatrixAxes(stack=tuple(range(rank - 2)), inputs=(rank - 1,), outputs=(rank - 2,))


@matrix_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
@matrix_rule(*_SEPARABLE, weights=["depthwise_kernel"])
def _window_as_inputs(layer, rank):
    return MatrixAxes(inputs=tuple(range(rank - 2)), outputs=(rank - 2, rank - 1))


@matrix_rule(layers.EinsumDense)
def _by_equation(layer, rank):
    operands, result = layer.equation.split("->")
    axes = list(enumerate(operands.split(",")[1]))
    return MatrixAxes(
        inputs=tuple(axis for axis, letter in axes if letter not in result),
        outputs=tuple(axis for axis, letter in axes if letter in result),
    )
