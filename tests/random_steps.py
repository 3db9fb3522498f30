"""Steps by which random models grow: functions of the grower (`random_models`) and a tensor.

Each gives the tensor, or the tensors, that come out; None where it does not fit the tensor given.
"""

import keras
import numpy as np

ACTIVATIONS = [None, None, "relu", "tanh", "sigmoid", "gelu", "elu", "hard_swish", "softplus"]
ops, layers = keras.ops, keras.layers


def new_dense(grow, units=None):
    return layers.Dense(
        units or grow.size(), activation=grow.pick(ACTIVATIONS), use_bias=grow.chance(0.7)
    )


def _dense(grow, x):
    return grow.call(new_dense(grow), x)


def new_activation(grow):
    return grow.pick(
        [
            lambda: layers.Activation(grow.pick(ACTIVATIONS[2:])),
            lambda: layers.ReLU(max_value=grow.pick([None, 6.0]), threshold=grow.pick([0.0, 0.5])),
            layers.LeakyReLU,
            lambda: layers.Activation("softmax"),
            lambda: layers.Dropout(0.2),
            lambda: layers.Rescaling(0.5, offset=grow.pick([0.0, 1.0])),
        ]
    )()


def _activation(grow, x):
    return grow.call(new_activation(grow), x)


def _norm(grow, x):
    channels = x.shape[-1]
    groups = grow.pick([g for g in range(1, channels + 1) if channels % g == 0])
    shared = list(range(1, len(x.shape) - 1))
    step = grow.pick(
        [
            lambda: layers.BatchNormalization(scale=grow.chance(0.7), center=grow.chance(0.8)),
            lambda: layers.LayerNormalization(center=grow.chance(0.7), scale=grow.chance(0.7)),
            layers.RMSNormalization,
            lambda: layers.GroupNormalization(groups),
            layers.UnitNormalization,
            lambda: layers.PReLU(shared_axes=shared),
            lambda: layers.PReLU(shared_axes=shared if None in x.shape[1:] else None),
        ]
    )
    return grow.call(step(), x)


def _fitting(grow, x):
    """Another tensor of the shape of `x`, projected to it if need be."""
    fitting = [t for t in grow.tensors if t is not x and grow.shape(t)[:-1] == grow.shape(x)[:-1]]
    y = grow.pick(fitting) if fitting else x
    if grow.shape(y) != grow.shape(x) or y is x:
        y = grow.call(new_dense(grow, x.shape[-1]), y)
    return y


def _join(grow, x):
    y = _fitting(grow, x)
    kinds = ["Add", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]
    step = getattr(layers, grow.pick(kinds))()
    return grow.call(lambda *both: step(list(both)), *((x, y) if grow.chance(0.5) else (y, x)))


def _raw_join(grow, x):
    y = _fitting(grow, x)
    step = grow.pick(
        [
            lambda x, y: x + y,
            lambda x, y: x - y,
            lambda x, y: x * y,
            lambda x, y: x / (1.5 + ops.abs(y)),
            ops.maximum,
            ops.minimum,
            lambda x, y: ops.where(x > 0, x, y),
            lambda x, y: ops.concatenate([x, y], axis=-1),
            lambda x, y: ops.stack([x, y], axis=1),
            lambda x, y: ops.stack([x, y], axis=-1),
            lambda x, y: ops.sum(x * y, axis=-1, keepdims=True) * x,
        ]
    )
    return grow.call(step, x, y)


def _concatenate(grow, x):
    fitting = [t for t in grow.tensors if grow.shape(t)[:-1] == grow.shape(x)[:-1]]
    others = [grow.pick(fitting) for _ in range(grow.size(2))]
    step = layers.Concatenate()
    return grow.call(lambda *tensors: step(list(tensors)), x, *others)


def _gate(grow, x):
    """Squeeze and excite, or a gate of one channel that is spread over all."""
    if grow.chance(0.3):
        spread = grow.call(layers.Dense(1, activation="sigmoid"), x)
        return grow.call(lambda a, b: a * b, x, spread)
    y = x
    if len(x.shape) > 2:
        y = grow.call(getattr(layers, f"GlobalAveragePooling{len(x.shape) - 2}D")(), x)
    y = grow.call(layers.Dense(grow.size(3), activation="relu"), y)
    y = grow.call(layers.Dense(x.shape[-1], activation="sigmoid"), y)
    if len(x.shape) > 2:
        y = grow.call(layers.Reshape((*[1] * (len(x.shape) - 2), x.shape[-1])), y)
    step = layers.Multiply()
    return grow.call(lambda *both: step(list(both)), x, y)


def _raw(grow, x):
    """Raw operators and operations of one tensor."""
    channels, half = x.shape[-1], max(1, x.shape[-1] // 2)
    constant = grow.draw.normal(size=channels).astype("float32")
    places = [int(p) for p in grow.draw.integers(0, channels, size=grow.size(4))]
    axis = grow.pick(range(1, len(x.shape)))
    padding = [[0, 0]] * (len(x.shape) - 1) + [[grow.size(2) - 1, 1]]
    options = [
        lambda x: x + 1.0,
        lambda x: 2.0 * x,
        lambda x: 1.0 - x,
        lambda x: -x,
        lambda x: x**2,
        lambda x: x * constant,
        lambda x: x - constant,
        ops.tanh,
        ops.abs,
        ops.relu,
        lambda x: ops.clip(x, -1.0, 0.5),
        lambda x: ops.exp(-ops.square(x)),
        lambda x: ops.softmax(x, axis=-1),
        lambda x: x[..., :half],
        lambda x: x[..., ::-1],
        lambda x: x[..., -1:],
        lambda x: x[:, None],
        lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
        lambda x: ops.pad(x, padding),
        lambda x: ops.roll(x, 1, axis=-1),
        lambda x: ops.flip(x, axis=-1),
        lambda x: ops.take(x, places, axis=-1),
        lambda x: ops.repeat(x, 2, axis=-1),
        lambda x: ops.tile(x, [1] * (len(x.shape) - 1) + [2]),
        lambda x: ops.mean(x, axis=axis, keepdims=True) + x,
        lambda x: x / (1.0 + ops.max(ops.abs(x), axis=-1, keepdims=True)),
        lambda x: ops.sum(x, axis=-1, keepdims=True),
        lambda x: ops.cumsum(x, axis=axis),
        lambda x: ops.einsum("b...c->b...c", x),
    ]
    if channels % 2 == 0:
        options += [
            lambda x: ops.split(x, 2, axis=-1),
            lambda x: ops.split(x, [1], axis=-1),
            lambda x: ops.reshape(x, (-1, *x.shape[1:-1], 2, channels // 2)),
        ] * (None not in x.shape[1:])
    if len(x.shape) > 2:
        options += [
            lambda x: ops.mean(x, axis=1),
            lambda x: ops.max(x, axis=axis),
            lambda x: ops.sum(x, axis=-1),
            lambda x: x[:, 0],
            lambda x: x[:, 1:],
            lambda x: ops.flip(x, axis=1),
            *[lambda x: ops.swapaxes(x, 1, 2)] * (None not in x.shape[1:]),
        ]
    output = grow.call(grow.pick(options), x)
    flat = keras.tree.flatten(output)
    return None if any(len(t.shape) < 2 or t.shape[-1] is None for t in flat) else output


def _matmul(grow, x):
    """Products of two tensors: an attention written by hand, a Dot layer."""
    y = _fitting(grow, x)
    if len(x.shape) == 2 or grow.chance(0.3):
        return grow.call(lambda a, b: ops.sum(a * b, axis=-1, keepdims=True), x, y)
    if len(x.shape) != 3:
        return None
    if grow.chance(0.5):
        scores = grow.call(lambda a, b: ops.matmul(a, ops.transpose(b, (0, 2, 1))), x, y)
        scores = grow.call(lambda s: ops.softmax(s, axis=-1), scores)
        return grow.call(ops.matmul, scores, x)
    return grow.call(lambda a, b: ops.einsum("btc,bsc->bts", a, b) @ a, x, y)


def _flatten(grow, x):
    if None in x.shape[1:] or np.prod(x.shape[1:]) > 200:
        return None
    if len(x.shape) > 2 and grow.chance(0.2):
        return grow.call(layers.Flatten(data_format="channels_first"), x)
    return grow.call(layers.Flatten(), x)


def _reshape(grow, x):
    """Splits or merges axes, shuffles channels, swaps axes."""
    if None in x.shape[1:]:
        return None
    *spatial, channels = x.shape[1:]
    groups = grow.pick([g for g in range(1, channels + 1) if channels % g == 0])
    choices = [(*spatial, groups, channels // groups), (*spatial, channels // groups, groups)]
    if len(x.shape) > 2:
        choices += [(-1, channels), (*x.shape[2:-1], spatial[0] * channels)]
    shapes = [shape for shape in choices if len(shape) < 4]
    if grow.chance(0.4) and len(x.shape) < 5:  # channel shuffle
        rank = len(x.shape)
        y = grow.call(layers.Reshape((*spatial, groups, channels // groups)), x)
        y = grow.call(layers.Permute((*range(1, rank - 1), rank, rank - 1)), y)
        return grow.call(layers.Reshape((*spatial, channels)), y)
    if len(x.shape) > 2 and grow.chance(0.4):
        order = grow.draw.permutation(np.arange(1, len(x.shape)))
        return grow.call(layers.Permute([int(a) for a in order]), x)
    if not shapes:
        return None
    return grow.call(layers.Reshape(grow.pick(shapes)), x)


def _repeat_vector(grow, x):
    return grow.call(layers.RepeatVector(grow.size(4)), x)


def _window(grow):
    return {
        "kernel_size": grow.size(3),
        "padding": grow.pick(["same", "valid"]),
        "activation": grow.pick(ACTIVATIONS),
        "use_bias": grow.chance(0.7),
    }


def _is_small(grow, x):
    return min(grow.shape(x)[1:-1]) < 3


def _convolution(grow, x):
    rank, channels = len(x.shape) - 2, x.shape[-1]
    options = _window(grow)
    if _is_small(grow, x):
        options["padding"] = "same"
    kind = grow.pick(["", "", "", "grouped", "by_channel", "Depthwise", "Separable", "Transpose"])
    if kind in ("", "grouped") and options["padding"] == "same" and grow.chance(0.2):
        options["dilation_rate"] = 2
    if kind == "Depthwise":
        made = getattr(layers, f"DepthwiseConv{rank}D")(depth_multiplier=grow.size(2), **options)
    elif kind == "Separable":
        made = getattr(layers, f"SeparableConv{rank}D")(
            grow.size(), depth_multiplier=grow.size(2), **options
        )
    elif kind == "Transpose":
        made = getattr(layers, f"Conv{rank}DTranspose")(
            grow.size(), strides=grow.size(2), **options
        )
    elif kind == "grouped":
        groups = grow.pick([g for g in range(1, channels + 1) if channels % g == 0])
        made = getattr(layers, f"Conv{rank}D")(groups * grow.size(3), groups=groups, **options)
    elif kind == "by_channel":
        filters = channels * grow.size(2)
        made = getattr(layers, f"Conv{rank}D")(filters, groups=channels, **options)
    else:
        made = getattr(layers, f"Conv{rank}D")(grow.size(), **options)
    return grow.call(made, x)


def _pool(grow, x):
    rank = len(x.shape) - 2
    window = 1 if _is_small(grow, x) else 2
    if grow.shape(x)[1] > 12:
        return grow.call(getattr(layers, f"AveragePooling{rank}D")(3, padding="same"), x)
    step = grow.pick(
        [
            lambda: getattr(layers, f"MaxPooling{rank}D")(window, padding="same"),
            lambda: getattr(layers, f"AveragePooling{rank}D")(window, padding="valid"),
            lambda: getattr(layers, f"AveragePooling{rank}D")(window, padding="same"),
            lambda: getattr(layers, f"UpSampling{rank}D")(2),
            lambda: getattr(layers, f"ZeroPadding{rank}D")(1),
            lambda: getattr(layers, f"Cropping{rank}D")(window - 1),
            lambda: getattr(layers, f"SpatialDropout{rank}D")(0.2),
        ]
    )
    return grow.call(step(), x)


def _global_pool(grow, x):
    kind = grow.pick(["Average", "Max"])
    step = getattr(layers, f"Global{kind}Pooling{len(x.shape) - 2}D")
    return grow.call(step(keepdims=grow.chance(0.3)), x)


def _recurrent_layer(grow, **options):
    make = grow.pick([layers.LSTM, layers.GRU, layers.SimpleRNN])
    if make is layers.GRU:
        options["reset_after"] = grow.chance(0.5)
    options["use_bias"] = grow.chance(0.7)
    return make(grow.size(4), **options)


def _recurrent(grow, x):
    kind = grow.pick(["plain", "plain", "bidirectional", "state", "started", "time"])
    if kind == "time":
        return grow.call(layers.TimeDistributed(new_dense(grow)), x)
    if kind == "bidirectional":
        merge = grow.pick(["concat", "sum", "mul", "ave", None])
        inner = _recurrent_layer(grow, return_sequences=grow.chance(0.5))
        return grow.call(layers.Bidirectional(inner, merge_mode=merge), x)
    if kind == "state":
        return grow.call(_recurrent_layer(grow, return_state=True, return_sequences=True), x)[:2]
    step = _recurrent_layer(grow, return_sequences=grow.chance(0.6), go_backwards=grow.chance(0.2))
    if kind == "started":
        starts = [t for t in grow.tensors if len(t.shape) == 2]
        if starts:
            start = grow.pick(starts)
            states = 2 if isinstance(step, layers.LSTM) else 1
            made = [grow.call(layers.Dense(step.units), start) for _ in range(states)]
            return grow.call(lambda x, *s: step(x, initial_state=list(s)), x, *made)
    return grow.call(step, x)


def _attention(grow, x):
    others = [t for t in grow.tensors if len(t.shape) == 3]
    y = grow.pick(others) if grow.chance(0.5) else x
    if grow.chance(0.3) and y.shape[-1] == x.shape[-1]:
        step = layers.Attention(use_scale=grow.chance(0.5))
        return grow.call(lambda a, b: step([a, b]), x, y)
    if grow.chance(0.3) and y.shape[-1] == x.shape[-1]:
        step = layers.GroupQueryAttention(grow.size(3), num_query_heads=4, num_key_value_heads=2)
    else:
        step = layers.MultiHeadAttention(
            grow.size(3),
            key_dim=grow.size(3),
            value_dim=grow.pick([None, 2]),
            output_shape=grow.pick([None, 3]),
            use_bias=grow.chance(0.7),
        )
    causal = {"use_causal_mask": True} if grow.chance(0.2) else {}
    return grow.call(lambda a, b: step(a, b, **causal), x, y)


def _conv_recurrent(grow, x):
    if None in x.shape[2:]:
        return None
    step = layers.ConvLSTM2D(
        grow.size(3), grow.size(2), padding="same", return_sequences=grow.chance(0.5)
    )
    return grow.call(step, x)


_ANY = [_dense, _dense, _activation, _norm, _norm, _join, _join, _raw_join, _concatenate, _gate]
_ANY += [_raw, _raw, _raw, _reshape]


def steps_of(rank):
    if rank == 2:
        return [*_ANY, _dense, _dense, _repeat_vector, _matmul]
    if rank == 3:
        more = [_convolution, _convolution, _pool, _global_pool, _recurrent, _recurrent]
        return [*_ANY, *more, _recurrent, _attention, _attention, _flatten, _matmul]
    if rank == 4:
        more = [_convolution, _convolution, _convolution, _convolution, _pool, _pool]
        return [*_ANY, *more, _global_pool, _flatten]
    return [_dense, _activation, _norm, _join, _raw, _conv_recurrent, _conv_recurrent, _flatten]
