"""Pooling, convolutions and functions on images."""

import numpy as np
from keras import ops

from tfprune.interop.tf_keras.operations.base import (
    FUNCTIONS,
    NoEquivalentError,
    alike,
    known,
    says,
)


def _window(value, rank):
    """Sizes or strides on the axes between batch and channels."""
    found = [int(each) for each in np.ravel(value)]
    if len(found) == rank + 2 and found[0] == found[-1] == 1:
        found = found[1:-1]
    found = found * rank if len(found) == 1 else found
    if len(found) != rank:
        raise NoEquivalentError(f"its window {value} is not one of Keras 3")
    return tuple(found)


def _pooling(function, rank):
    def apply(input, ksize, strides, padding):
        axes = len(input.shape) - 2 if rank is None else rank
        window, steps = _window(ksize, axes), _window(strides, axes)
        return function(input, window, steps, _padding(padding), data_format="channels_last")

    return apply


def _padding(padding):
    if not isinstance(padding, str):
        raise NoEquivalentError("it pads explicitly")
    return padding.lower()


for _name, _function in {"avg": ops.average_pool, "max": ops.max_pool}.items():
    for _rank in (1, 2, 3):
        FUNCTIONS[f"nn.{_name}_pool{_rank}d"] = _pooling(_function, _rank)
    FUNCTIONS[f"nn.{_name}_pool"] = _pooling(_function, None)


def _convolution(rank):
    # `tf.compat.v1` has two names for the filters, and requires neither.
    def apply(input, filters=None, strides=1, padding=None, dilations=1, filter=None):
        filters = filter if filters is None else filters
        where = {"data_format": "channels_last", "dilation_rate": _window(dilations, rank)}
        kernel = alike(filters, input)
        return ops.conv(input, kernel, _window(strides, rank), _padding(padding), **where)

    return apply


FUNCTIONS["nn.conv2d"] = _convolution(2)
FUNCTIONS["nn.conv1d"] = _convolution(1)


@says("nn.depthwise_conv2d")
def _depthwise(input, filter, strides, padding, dilations=1):
    where = {"data_format": "channels_last", "dilation_rate": _window(dilations, 2)}
    kernel = alike(filter, input)
    return ops.depthwise_conv(input, kernel, _window(strides, 2), _padding(padding), **where)


@says("nn.depth_to_space")
def _depth_to_space(input, block_size):
    return ops.depth_to_space(input, int(block_size), data_format="channels_last")


@says("nn.space_to_depth")
def _space_to_depth(input, block_size):
    return ops.space_to_depth(input, int(block_size), data_format="channels_last")


@says("image.resize")
def _resize(images, size, method="bilinear", antialias=False):
    if method not in ("bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"):
        raise NoEquivalentError(f"the method {method!r} is none of Keras 3")
    new = tuple(known(size, "size"))
    return ops.image.resize(
        images, new, interpolation=method, antialias=bool(antialias), data_format="channels_last"
    )


@says("image.flip_left_right")
def _flip_left_right(image):
    return ops.flip(image, axis=-2)


@says("image.flip_up_down")
def _flip_up_down(image):
    return ops.flip(image, axis=-3)


@says("image.extract_patches")
def _extract_patches(images, sizes, strides, rates, padding):
    return ops.image.extract_patches(
        images,
        _window(sizes, 2),
        strides=_window(strides, 2),
        dilation_rate=_window(rates, 2)[0],
        padding=_padding(padding),
        data_format="channels_last",
    )
