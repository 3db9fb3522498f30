"""Norms of the inputs that the elements of kernels are multiplied with."""

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.criteria.captured_activations import capture_over_data
from tfprune.measuring.accumulators import Accumulator


def input_norms(model, weights, data, verbose=0):
    """||x||_2 over examples and positions of the input feature of each element.

    Args:
        model: The model.
        weights: `PrunableWeight`s of it.
        data, verbose: See `tfprune.criteria.measuring.measure`.

    Returns:
        For each weight an array that broadcasts to its shape.

    Raises:
        ValueError: If the inputs of a weight are not known: those of recurrent kernels, of
            embeddings, and of kernels in groups.

    Example:

    >>> import tfprune
    >>> from tfprune.weights.prunable import select_weights
    >>> model = keras.Sequential([keras.Input((2,)), tfprune.layers.Dense(3)])
    >>> x = np.array([[3.0, 0.0], [4.0, 1.0]])
    >>> input_norms(model, select_weights(model), (x, None))
    [array([[5.],
           [1.]], dtype=float32)]
    """
    captures = [_InputCapture(model, weight) for weight in weights]
    pairs = [(capture.owner, capture.add) for capture in captures]
    replicas = capture_over_data(model, pairs, data, verbose=verbose)
    totals = replicas.totals([capture.total for capture in captures])
    return [capture.norms(total) for capture, total in zip(captures, totals, strict=True)]


class _InputCapture:
    """Sums the squares of the inputs of a weight, for each feature."""

    def __init__(self, model, weight):
        self.weight = weight.variable
        self.owner = _owner(model, weight)
        axes = _AXES.get(_base(type(self.owner), _AXES))
        axes = axes(self.owner, self.weight) if axes else None
        if axes is None:
            raise ValueError(
                "The inputs of a weight cannot be told, which the criterion asks for. "
                f"Received: layer={weight.layer.name!r} ({type(weight.layer).__name__}), "
                f"weight={weight.name!r}. Leave the layer out with `exclude`, or take another "
                "criterion."
            )
        self.kernel_axes, self.input_axes = axes
        self.features = tuple(self.weight.shape[axis] for axis in self.kernel_axes)
        self.total = Accumulator(self.features)

    def add(self, inputs, mask):
        """Adds the squares of what the layer is called on."""
        rank = len(inputs.shape)
        kept = [axis % rank for axis in self.input_axes]
        others = [axis for axis in range(rank) if axis not in kept]
        self.total.assign_add(tf.reduce_sum(tf.square(tf.cast(inputs, "float32")), axis=others))

    def norms(self, total):
        """The norm of each feature, with an axis for each of the weight's."""
        shape = [1] * len(self.weight.shape)
        for axis, size in zip(self.kernel_axes, self.features, strict=True):
            shape[axis] = size
        return np.sqrt(total).reshape(shape)


def _owner(model, weight):
    """The innermost layer that has the weight."""
    parts = _keras.all_layers(weight.layer)
    owners = [part for part in parts if any(v is weight.variable for v in part.weights)]
    return owners[-1]


def _base(cls, known):
    return next((base for base in cls.__mro__ if base in known), None)


def _dense(layer, kernel):
    return (0,), (-1,)


def _convolution(layer, kernel):
    if getattr(layer, "groups", 1) > 1:
        return None
    return (len(kernel.shape) - 2,), _channels(layer)


def _transposed(layer, kernel):
    return (len(kernel.shape) - 1,), _channels(layer)


def _separable(layer, kernel):
    is_depthwise = kernel is layer.depthwise_kernel
    return ((len(kernel.shape) - 2,), _channels(layer)) if is_depthwise else None


def _channels(layer):
    return (1,) if layer.data_format == "channels_first" else (-1,)


def _einsum(layer, kernel):
    terms, output = layer.equation.replace(" ", "").split("->")
    inputs, letters = (term.replace("...", "") for term in terms.split(","))
    contracted = [letter for letter in letters if letter in inputs and letter not in output]
    if not contracted or kernel is not layer.kernel:
        return None
    kernel_axes = tuple(letters.index(letter) for letter in contracted)
    input_axes = tuple(inputs.index(letter) - len(inputs) for letter in contracted)
    ordered = sorted(zip(input_axes, kernel_axes, strict=True))  # as the sums come out
    return tuple(k for _, k in ordered), tuple(i for i, _ in ordered)


_AXES = {
    keras.layers.Dense: _dense,
    keras.layers.EinsumDense: _einsum,
    **{
        getattr(keras.layers, f"Conv{rank}D{kind}"): axes
        for rank in (1, 2, 3)
        for kind, axes in (("", _convolution), ("Transpose", _transposed))
    },
    keras.layers.DepthwiseConv1D: _convolution,
    keras.layers.DepthwiseConv2D: _convolution,
    keras.layers.SeparableConv1D: _separable,
    keras.layers.SeparableConv2D: _separable,
}
"""For each class of layers: along which axes of the kernel, and of the input, features stand."""
