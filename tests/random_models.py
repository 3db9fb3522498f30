"""Random functional models: a seed draws their graph, sizes, weights and zeros.

A model grows step by step: a step takes a tensor that is there and calls layers or operations on
it. Every call is also run on numbers, so that tensors are joined only where their shapes fit, also
along dynamic axes. The models are tiny, since what goes wrong in them does so at any size.
"""

import keras
import numpy as np

from tests.random_chains import randomise

ACTIVATIONS = [None, None, "relu", "tanh", "sigmoid", "gelu", "elu", "hard_swish", "softplus"]
ROWS = 5  # of embeddings
LENGTH = 6  # of dynamic axes, while growing
ops, layers = keras.ops, keras.layers


def random_model(seed):
    """A Functional model made from a seed."""
    draw = np.random.default_rng(seed)
    grower = Grower(draw)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        x = grower.new_input()
        if grower.chance(0.8):  # a raw input pins what is added to it
            grower.tensors.pop()
            grower.keep(grower.call(grower.first_layer(x), x))
    grower.grow(int(draw.integers(3, 9)))
    model = grower.model()
    randomise(model, draw)
    return model


def random_inputs(model, seed, batch=3):
    """Random numbers for the inputs of a model, in its structure."""
    draw = np.random.default_rng(seed)

    def numbers(tensor):
        shape = (batch, *(size or LENGTH for size in tensor.shape[1:]))
        if "int" in tensor.dtype:
            return draw.integers(0, ROWS, shape).astype("int32")
        return draw.normal(size=shape)

    return keras.tree.map_structure(numbers, model.input)


class Grower:
    """The tensors of a model while it grows, with the numbers they hold."""

    def __init__(self, draw, depth=0):
        self.draw = draw
        self.depth = depth
        self.inputs, self.tensors, self.called = [], [], []
        self.numbers = {}

    def chance(self, probability):
        return self.draw.random() < probability

    def pick(self, options):
        return options[int(self.draw.integers(len(options)))]

    def size(self, high=6):
        return int(self.draw.integers(1, high + 1))

    def new_input(self):
        kind = self.pick(["dense", "series", "series", "image", "image", "tokens"])
        if kind == "dense":
            return self.add_input((self.size(),))
        if kind == "tokens":
            tokens = self.add_input((self.pick([None, 4]),), "int32")
            step = layers.Embedding(ROWS, self.size(), mask_zero=self.chance(0.2))
            return self.keep(self.call(step, tokens))
        if kind == "series":
            return self.add_input((self.pick([None, 4, LENGTH]), self.size(4)))
        spatial = self.pick([(None, None), (LENGTH, LENGTH), (5, 7), (LENGTH, None)])
        return self.add_input((*spatial, self.size(4)))

    def first_layer(self, x):
        if len(x.shape) == 4 and self.chance(0.7):
            return layers.Conv2D(self.size(), 2, padding="same", activation=self.pick(ACTIVATIONS))
        return _new_dense(self)

    def add_input(self, shape, dtype="float32", numbers=None):
        tensor = keras.Input(shape, dtype=dtype, name=f"input_{len(self.inputs)}_{self.depth}")
        self.inputs.append(tensor)
        if numbers is None:
            numbers = np.ones((2, *(size or LENGTH for size in shape)), dtype)
        self.numbers[id(tensor)] = numbers
        return tensor if dtype == "int32" else self.keep(tensor)

    def keep(self, tensor):
        self.tensors.append(tensor)
        return tensor

    def call(self, function, *tensors):
        """Calls a layer, a model or a function of tensors, on numbers as well."""
        output = function(*tensors)
        numbers = function(*(self.numbers[id(tensor)] for tensor in tensors))
        pairs = zip(keras.tree.flatten(output), keras.tree.flatten(numbers), strict=True)
        for tensor, value in pairs:
            assert all(a in (None, b) for a, b in zip(tensor.shape, value.shape, strict=True))
            self.numbers[id(tensor)] = value
            self.called.append(tensor)  # what is kept alive keeps its id
        if isinstance(function, layers.Layer) and len(tensors) == 1:
            function.called_on = self.both_shapes(tensors[0])
            self.called.append(function)
        return output

    def both_shapes(self, tensor):
        return tuple(tensor.shape), self.shape(tensor)

    def shape(self, tensor):
        return tuple(self.numbers[id(tensor)].shape)

    def grow(self, steps):
        for _ in range(steps):
            x = self.pick(self.tensors[-3:] if self.chance(0.7) else self.tensors)
            output = self.step(x)
            if output is None:
                continue
            for tensor in keras.tree.flatten(output):
                self.keep(tensor)

    def step(self, x):
        """One step from a tensor; None where the one drawn does not fit it."""
        if self.chance(0.12):
            return _again(self, x)
        if self.chance(0.12) and self.depth < 2:
            return _nested(self, x)
        return self.pick(_steps_of(len(x.shape)))(self, x)

    def model(self):
        last = self.tensors[-1]
        others = [t for t in self.tensors[:-1] if t is not last]
        outputs = [last]
        for _ in range(self.pick([0, 0, 0, 1, 2])):
            outputs.append(self.pick(others or [last]))
        if self.chance(0.85):
            outputs = [self.call(layers.Dense(2), tensor) for tensor in outputs]
        inputs = self.inputs[::-1] if self.chance(0.3) else self.inputs
        if self.chance(0.2):
            inputs = {tensor.name: tensor for tensor in inputs}
        if len(outputs) == 1:
            outputs = outputs[0]
        elif self.chance(0.3):
            outputs = {f"output_{place}": tensor for place, tensor in enumerate(outputs)}
        return keras.Model(inputs if len(self.inputs) > 1 else self.inputs[0], outputs)


# Steps: functions of the grower and a tensor ------------------------------------------------------


def _again(grow, x):
    """A layer or model which was called before, on a tensor of the same shape."""
    shapes = grow.both_shapes(x)
    known = [called for called in grow.called if getattr(called, "called_on", None) == shapes]
    return grow.call(grow.pick(known), x) if known else None


def _nested(grow, x):
    inner = Grower(grow.draw, grow.depth + 1)
    y = inner.add_input(x.shape[1:], numbers=grow.numbers[id(x)])
    if grow.chance(0.3):
        steps = [_new_dense(grow), _new_activation(grow), _new_dense(grow)]
        return grow.call(keras.Sequential([y, *steps]), x)
    inner.grow(grow.size(3))
    ends = [t for t in inner.tensors if t is not y]
    if not ends:
        return None
    outputs = ends[-1] if grow.chance(0.7) else [ends[-1], grow.pick(ends)]
    return grow.call(keras.Model(y, outputs), x)


def _new_dense(grow, units=None):
    return layers.Dense(
        units or grow.size(), activation=grow.pick(ACTIVATIONS), use_bias=grow.chance(0.7)
    )


def _dense(grow, x):
    return grow.call(_new_dense(grow), x)


def _new_activation(grow):
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
    return grow.call(_new_activation(grow), x)


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
        y = grow.call(_new_dense(grow, x.shape[-1]), y)
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
        return grow.call(layers.TimeDistributed(_new_dense(grow)), x)
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


def _steps_of(rank):
    if rank == 2:
        return [*_ANY, _dense, _dense, _repeat_vector, _matmul]
    if rank == 3:
        more = [_convolution, _convolution, _pool, _global_pool, _recurrent, _recurrent]
        return [*_ANY, *more, _recurrent, _attention, _attention, _flatten, _matmul]
    if rank == 4:
        more = [_convolution, _convolution, _convolution, _convolution, _pool, _pool]
        return [*_ANY, *more, _global_pool, _flatten]
    return [_dense, _activation, _norm, _join, _raw, _conv_recurrent, _conv_recurrent, _flatten]
