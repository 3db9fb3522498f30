"""The patches of inputs under the window of a convolution (im2col)."""

import itertools

import tensorflow as tf


def same_paddings(inputs, window, strides, dilations):
    """Zeros before and after each axis of the window, as "same" of TensorFlow has them."""
    paddings = []
    for axis, reach in enumerate(_reaches(window, dilations)):
        size = tf.shape(inputs)[axis + 1]
        covered = ((size - 1) // strides[axis]) * strides[axis] + reach
        missing = tf.maximum(covered - size, 0)
        paddings.append([missing // 2, missing - missing // 2])
    return paddings


def patches(inputs, window, strides, dilations, paddings, groups=1):
    """What the window holds at each of its places.

    Args:
        inputs: Tensor (examples, *positions, channels).
        window, strides, dilations: Tuples, a number for each axis of positions.
        paddings: For each of these axes the zeros before and after it.
        groups: Integer, into how many groups the channels are divided.

    Returns:
        Tensor (groups, examples * places, taps * channels of a group), channels last in it.

    Example:

    >>> x = tf.reshape(tf.range(4.0), (1, 4, 1))
    >>> patches(x, (2,), (1,), (1,), [(0, 0)]).numpy()[0].tolist()
    [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
    """
    padded = tf.pad(inputs, [[0, 0], *paddings, [0, 0]])
    sizes = [
        (tf.shape(padded)[axis + 1] - reach) // strides[axis] + 1
        for axis, reach in enumerate(_reaches(window, dilations))
    ]
    taps = []
    for place in itertools.product(*map(range, window)):
        index = [slice(None)]
        for axis, offset in enumerate(place):
            start = offset * dilations[axis]
            index.append(slice(start, start + (sizes[axis] - 1) * strides[axis] + 1, strides[axis]))
        tap = padded[tuple(index)]
        taps.append(tf.reshape(tap, [-1, groups, tap.shape[-1] // groups]))
    taps = tf.transpose(tf.stack(taps, 2), [1, 0, 2, 3])
    return tf.reshape(taps, [groups, -1, taps.shape[2] * taps.shape[3]])


def _reaches(window, dilations):
    """Over how many positions the window reaches along each axis."""
    return [(size - 1) * dilation + 1 for size, dilation in zip(window, dilations, strict=True)]
