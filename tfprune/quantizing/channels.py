"""The channels of kernels, which get a step of their own when they are rounded to int8."""

import keras

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


def inner_axes(layer, weight):
    """The axes of a kernel over which an output channel reaches, as LiteRT and Keras count them.

    Args:
        layer: A Keras layer.
        weight: One of its variables.

    Returns:
        A tuple of integers; None if it is no kernel of a layer that is known.

    Example:

    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer.build((None, 8, 8, 4))  # the kernel has the shape (3, 3, 4, 1)
    >>> inner_axes(layer, layer.kernel)
    (0, 1)
    """
    axes = range(len(weight.shape))
    if weight.name not in ("kernel", "depthwise_kernel", "pointwise_kernel"):
        return None
    if isinstance(layer, keras.layers.EinsumDense):
        return _contracted(layer.equation)
    if isinstance(layer, _TRANSPOSED):  # (*window, outputs, inputs)
        return (*axes[:-2], axes[-1])
    if isinstance(layer, _DEPTHWISE) or weight.name == "depthwise_kernel":
        return tuple(axes[:-2])  # (*window, inputs, multiplier)
    if isinstance(layer, (keras.layers.Dense, *_CONVOLUTIONS, *_SEPARABLE)):
        return tuple(axes[:-1])
    return None


def _contracted(equation):
    """The axes of the second operand of an einsum that its output lacks.

    >>> _contracted("...x,xhd->...hd"), _contracted("abc,cde->abde")
    ((0,), (0,))
    """
    operands, output = equation.replace(" ", "").split("->")
    kernel = operands.split(",")[1]
    return tuple(axis for axis, letter in enumerate(kernel) if letter not in output)
