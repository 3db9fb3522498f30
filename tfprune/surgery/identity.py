"""Weights with which a layer computes the identity."""

import functools

import keras
import numpy as np

from tfprune.coupling.model_trace import trace
from tfprune.coupling.rules.activations import is_elementwise
from tfprune.coupling.rules.time_steps import FoldTime, UnfoldTime


def set_identity(layers):
    """Sets the weights of layers so that each computes the identity, but for its activation.

    Raises:
        ValueError: If a layer has no such weights.
    """
    for layer in layers:
        layer.set_weights(_checked(layer, identity_weights(layer)))


def check_activations(model, layers):
    """Raises a `ValueError` where the activation of one of these layers changes its input."""
    known = trace(model)
    for call in known.calls:
        if any(call.operation is layer for layer in layers):
            _check_activation(known, call)


@functools.singledispatch
def identity_weights(layer):
    """The weights with which a layer computes the identity, in the order of `layer.weights`.

    Raises:
        ValueError: If the layer has no identity.
    """
    if not layer.weights:
        return []
    raise ValueError(_refusal(layer, f"{type(layer).__name__} has no identity"))


@identity_weights.register
def _(layer: keras.layers.Dense):
    return _with_bias(layer, _eye(layer, *layer.kernel.shape))


def _convolution(layer):
    kernel, centre = _zeros_and_centre(layer, layer.kernel)
    *_, inputs, filters = kernel.shape
    if inputs * layer.groups != filters:
        raise ValueError(_refusal(layer, f"it takes {inputs * layer.groups} channels"))
    for channel in range(filters):
        kernel[(*centre, channel % inputs, channel)] = 1
    return _with_bias(layer, kernel)


def _depthwise(layer):
    kernel, centre = _zeros_and_centre(layer, layer.kernel)
    if kernel.shape[-1] != 1:
        raise ValueError(_refusal(layer, f"it has depth_multiplier={kernel.shape[-1]}"))
    kernel[centre] = 1
    return _with_bias(layer, kernel)


def _separable(layer):
    depthwise, centre = _zeros_and_centre(layer, layer.depthwise_kernel)
    depthwise[(*centre, slice(None), 0)] = 1
    *_, inputs, multiplier = depthwise.shape
    filters = layer.pointwise_kernel.shape[-1]
    pointwise = np.zeros((inputs, multiplier, filters), "float32")
    pointwise[:, 0] = _eye(layer, inputs, filters)
    return [depthwise, *_with_bias(layer, pointwise.reshape(layer.pointwise_kernel.shape))]


for _class in (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D):
    identity_weights.register(_class, _convolution)
for _class in (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D):
    identity_weights.register(_class, _depthwise)
for _class in (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D):
    identity_weights.register(_class, _separable)


@identity_weights.register
def _(layer: keras.layers.BatchNormalization):
    """An identity with the moving statistics, as in inference."""
    dtype = np.float64 if layer.variable_dtype == "float64" else np.float32
    start = {"gamma": 1, "beta": 0, "moving_mean": 0}
    start["moving_variance"] = 1 - dtype(layer.epsilon)  # their sum is exactly 1
    return [np.full(weight.shape, start[weight.name], dtype) for weight in layer.weights]


@identity_weights.register
def _(layer: keras.layers.TimeDistributed):
    """What its layer does at each step."""
    return identity_weights(layer.layer)


@identity_weights.register
def _(layer: keras.layers.PReLU):
    return [np.ones(layer.alpha.shape, "float32")]


def _eye(layer, inputs, outputs):
    if inputs != outputs:
        raise ValueError(_refusal(layer, f"it takes {inputs} channels and gives {outputs}"))
    return np.eye(inputs, dtype="float32")


def _with_bias(layer, kernel):
    return [kernel] if layer.bias is None else [kernel, np.zeros(layer.bias.shape, "float32")]


def _zeros_and_centre(layer, kernel):
    """Zeros of the shape of a kernel, and the index of its centre, the last tap if causal."""
    *window, _, _ = kernel.shape
    if layer.padding == "valid" and any(size > 1 for size in window):
        raise ValueError(_refusal(layer, "padding='valid' cuts the border off"))
    strides = layer.strides if isinstance(layer.strides, (tuple, list)) else (layer.strides,)
    if any(stride > 1 for stride in strides):
        raise ValueError(_refusal(layer, f"it has strides={layer.strides}"))
    if layer.padding == "causal":
        centre = tuple(size - 1 for size in window)
    elif any(size % 2 == 0 for size in window):
        raise ValueError(_refusal(layer, f"no tap of {tuple(window)} is the centre"))
    else:
        centre = tuple(size // 2 for size in window)
    return np.zeros(kernel.shape, "float32"), centre


# Activations -------------------------------------------------------------------------------------


def _at_each_step(layer):
    """The layer that a `TimeDistributed` applies; other layers themselves."""
    is_wrapper = isinstance(layer, keras.layers.TimeDistributed)
    return _at_each_step(layer.layer) if is_wrapper else layer


def _check_activation(known, call):
    layer = _at_each_step(call.operation)
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.ReLU):
        is_plain = not layer.threshold and layer.max_value is None
        activation = keras.activations.relu if is_plain else None
        if not is_plain:
            raise ValueError(_refusal(layer, "it clips"))
    if activation is None or activation is keras.activations.linear:
        return
    if activation is not keras.activations.relu:
        name = getattr(activation, "__name__", activation)
        kind = "" if is_elementwise(activation) else ", which joins its units,"
        raise ValueError(_refusal(layer, f"its activation {name}{kind} changes what it takes"))
    if not is_nonnegative(known, call.inputs[0]):
        raise ValueError(_refusal(layer, "relu changes it where what it takes is below 0"))


_NONNEGATIVE = tuple(
    getattr(keras.activations, name)
    for name in "relu relu6 sigmoid hard_sigmoid softplus softmax exponential".split()
)
_PASSING = (
    FoldTime,
    UnfoldTime,
    *(
        getattr(keras.layers, name)
        for name in (
            *"Flatten Reshape Permute Dropout RepeatVector Add Average Maximum Multiply".split(),
            *"Minimum Concatenate".split(),
            *(f"{kind}Pooling{n}D" for n in (1, 2, 3) for kind in ("Max", "Average")),
            *(f"Global{kind}Pooling{n}D" for n in (1, 2, 3) for kind in ("Max", "Average")),
            *(
                f"{kind}{n}D"
                for n in (1, 2, 3)
                for kind in ("Cropping", "UpSampling", "ZeroPadding")
            ),
            *(f"SpatialDropout{n}D" for n in (1, 2, 3)),
        )
    ),
)


def is_nonnegative(known, tensor):
    """Whether a tensor of a trace is known never to be below 0."""
    made = {output: call for call in known.calls for output in call.outputs}
    stack, seen = [tensor], set()
    while stack:
        call = made.get(stack.pop())
        if call is None:
            return False
        if id(call) in seen:
            continue
        seen.add(id(call))
        layer = _at_each_step(call.operation)
        activation = getattr(layer, "activation", None)
        is_relu = isinstance(layer, keras.layers.ReLU) and not layer.negative_slope
        if is_relu or any(activation is each for each in _NONNEGATIVE):
            continue
        is_layer = isinstance(layer, keras.layers.Layer)
        if not isinstance(layer, _PASSING) and not (is_layer and is_identity(layer)):
            return False
        stack.extend(call.inputs[:1] if isinstance(layer, UnfoldTime) else call.inputs)
    return True


def is_identity(layer):
    """Whether a layer with weights computes the identity for any input."""
    if getattr(_at_each_step(layer), "activation", None) not in (None, keras.activations.linear):
        return False
    try:
        values = _checked(layer, identity_weights(layer))
    except ValueError:
        return False
    pairs = zip(values, layer.get_weights(), strict=True)
    return bool(values) and all((ours == theirs).all() for ours, theirs in pairs)


def _checked(layer, values):
    if [value.shape for value in values] != [tuple(weight.shape) for weight in layer.weights]:
        raise ValueError(_refusal(layer, "it has weights of a kind that is not known"))
    return values


def _refusal(layer, reason):
    return (
        "The layer cannot begin as the identity, and nothing was changed. "
        f"Received: layer={layer.name!r} ({type(layer).__name__}). Reason: {reason}. "
        "Choose another layer, or `init='default'`."
    )
