"""Random chains of layers, with random weights and random zeros, for property tests."""

import keras
import numpy as np

ACTIVATIONS = [None, "relu", "tanh", "sigmoid", "gelu", "elu"]


def random_chain(seed, layers=None):
    """A Functional or Sequential chain made from a seed; prints nothing, draws everything."""
    draw = np.random.default_rng(seed)
    layers = keras.layers if layers is None else layers
    kind = draw.choice(["dense", "image", "image_first", "series"])
    if kind == "dense":
        inputs, steps = keras.Input((int(draw.integers(1, 6)),)), _dense_steps(draw, layers)
    elif kind == "series":
        length = None if draw.random() < 0.5 else int(draw.integers(4, 7))
        inputs = keras.Input((length, int(draw.integers(1, 4))))
        steps = _series_steps(draw, layers, length)
    else:
        shape = [int(draw.integers(7, 11)), int(draw.integers(7, 11)), int(draw.integers(1, 4))]
        inputs, steps = keras.Input(shape), _image_steps(draw, layers)
    x, taps = inputs, []
    for step in steps:
        x = step(x)
        taps.append(x)
    outputs = x
    if draw.random() < 0.2 and len(taps) > 2:
        outputs = [x, taps[int(draw.integers(0, len(taps) - 1))]]
    if draw.random() < 0.5 and not isinstance(outputs, list):
        model = keras.Sequential([inputs, *steps])
    else:
        model = keras.Model(inputs, outputs)
    randomise(model, draw)
    return model


def _norm(draw, layers):
    return draw.choice(
        [
            lambda: layers.BatchNormalization(scale=bool(draw.random() < 0.7)),
            lambda: layers.LayerNormalization(center=bool(draw.random() < 0.7)),
            lambda: layers.RMSNormalization(),
            lambda: layers.GroupNormalization(groups=1),
            lambda: layers.PReLU(),
            lambda: layers.Activation(str(draw.choice(ACTIVATIONS[1:]))),
            lambda: layers.LeakyReLU(),
            lambda: layers.Dropout(0.3),
        ]
    )()


def _dense(draw, layers):
    return layers.Dense(
        int(draw.integers(1, 7)),
        activation=draw.choice(ACTIVATIONS),
        use_bias=bool(draw.random() < 0.7),
    )


def _dense_steps(draw, layers):
    steps = []
    for _ in range(int(draw.integers(1, 4))):
        steps.append(_dense(draw, layers))
        if draw.random() < 0.6:
            steps.append(_norm(draw, layers))
    return [*steps, layers.Dense(2)]


def _image_steps(draw, layers):
    steps = []
    for _ in range(int(draw.integers(1, 3))):
        options = {
            "filters": int(draw.integers(1, 6)),
            "kernel_size": int(draw.integers(1, 4)),
            "padding": str(draw.choice(["same", "valid"])),
            "activation": draw.choice(ACTIVATIONS),
            "use_bias": bool(draw.random() < 0.7),
        }
        make = draw.choice([layers.Conv2D, layers.Conv2D, layers.SeparableConv2D, "depthwise"])
        if make == "depthwise":
            del options["filters"]
            make = layers.DepthwiseConv2D
            options["depth_multiplier"] = int(draw.integers(1, 3))
        elif make is layers.Conv2D and draw.random() < 0.2:
            make = layers.Conv2DTranspose
        steps.append(make(**options))
        if draw.random() < 0.6:
            steps.append(_norm(draw, layers))
        if draw.random() < 0.4:
            steps.append(
                draw.choice(
                    [
                        lambda: layers.MaxPooling2D(2, padding="same"),
                        lambda: layers.AveragePooling2D(2, padding="same"),
                        lambda: layers.ZeroPadding2D(1),
                        lambda: layers.UpSampling2D(2),
                        lambda: layers.SpatialDropout2D(0.2),
                    ]
                )()
            )
    steps.append(
        draw.choice([layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D])()
    )
    return [*steps, *_dense_steps(draw, layers)]


def _series_steps(draw, layers, length):
    steps = []
    for _ in range(int(draw.integers(1, 3))):
        make = draw.choice([layers.LSTM, layers.GRU, layers.SimpleRNN, layers.Conv1D])
        if make is layers.Conv1D:
            padding = str(draw.choice(["same", "valid", "causal"]))
            steps.append(layers.Conv1D(int(draw.integers(1, 6)), 2, padding=padding))
        else:
            steps.append(make(int(draw.integers(1, 6)), return_sequences=True))
        if draw.random() < 0.5:
            kinds = [layers.LayerNormalization, layers.BatchNormalization, layers.RMSNormalization]
            steps.append(draw.choice(kinds)())
    can_flatten = length is not None
    last = [layers.GlobalAveragePooling1D, lambda: layers.GRU(3, reset_after=False)]
    steps.append(draw.choice([*last, layers.Flatten] if can_flatten else last)())
    return [*steps, *_dense_steps(draw, layers)]


def randomise(model, draw):
    """Random values for every weight, with zeros: single elements, and whole rows and columns."""
    for weight in model.weights:
        if "seed" in weight.name:
            continue
        value = draw.normal(size=weight.shape)
        if "variance" in weight.name:
            value = np.abs(value) + 0.5
        elif draw.random() < 0.4:
            value *= draw.random(weight.shape) < draw.random()
        for axis in range(value.ndim):
            if draw.random() < 0.4 and value.shape[axis] > 1:
                gone = draw.random(value.shape[axis]) < 0.5
                np.moveaxis(value, axis, 0)[gone] = 0 if "variance" not in weight.name else 1
        if weight.name == "bias" and draw.random() < 0.3:
            value[:] = 0
        weight.assign(value.astype("float32"))
