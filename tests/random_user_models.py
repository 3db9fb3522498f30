"""Random models of user code: a seed draws their layers, what is in them, sizes and weights."""

import dataclasses

import keras
import numpy as np

from tests import user_code as user

layers, ops = keras.layers, keras.ops
STRINGS = np.array(["red", "green", "blue", "pink", "grey"])
SENTENCES = np.array(["red green", "blue red red", "pink", "grey blue", "green grey pink"])
LENGTH = 5


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A model, and inputs for it: two batches of different sizes."""

    model: keras.Model
    inputs: tuple
    story: str


def random_user_model(seed):
    """A model of user code made from a seed, with inputs for it."""
    draw = np.random.default_rng(seed)
    grower = _Grower(draw)
    shell = grower.pick(["functional"] * 3 + ["trains", "sequential", "nested", "net", "net"])
    if shell == "net":
        shell = grower.pick(_SUBCLASSED)
    kind = grower.pick(_INPUTS)
    start, first, dynamic = _start(grower, kind)
    batches = tuple(_batch(draw, kind, first, size) for size in (3, 4))
    is_graph = shell in ("functional", "trains", "sequential", "nested")
    shape = start.shape
    if is_graph:
        if dynamic and grower.chance(0.5):
            shape = (None, *shape[1:])
        x = inputs = keras.Input(shape, dtype=start.dtype, name="given")
    else:
        x = batches[0]
    steps = grower.chain(x, first, int(draw.integers(2, 5)))
    residual = grower.chance(0.3)

    def other():
        return grower.chain(x, _start(grower, kind)[1], 1)

    model = _shell(shell, steps, inputs if is_graph else x, residual, other)
    _randomise(model, draw)
    if shell == "NetOfDicts":
        batches = tuple({"given": batch} for batch in batches)
    story = f"{shell} of {kind}{shape}: " + ", ".join(type(s).__name__ for s in steps)
    return Drawn(model, batches, story)


# The parts of a model -----------------------------------------------------------------------------

_INPUTS = ["vector", "series", "series", "series", "image", "tokens", "tokens", "masked"]
_INPUTS += ["strings", "sentences", "hashed"]
_SUBCLASSED = ["Net", "NetTrains", "NetWithLoss", "NetOfDicts", "Distiller", "Vae"]


@dataclasses.dataclass(frozen=True)
class _Start:
    shape: tuple
    dtype: str = "float32"


def _start(grow, kind):
    """The input of a model, the layers that come first, and whether a length may stay open."""
    width = grow.width()
    if kind == "vector":
        return _Start((5,)), [grow.first_dense()], False
    if kind == "series":
        return _Start((LENGTH, 3)), [grow.first_dense()], True
    if kind == "image":
        return _Start((6, 6, 3)), [grow.first_convolution()], False
    if kind == "masked":
        return _Start((LENGTH, 3)), [layers.Masking(), layers.Dense(width)], True
    embed = layers.Embedding(12, width, mask_zero=grow.chance(0.5))
    if kind == "tokens":
        if grow.chance(0.4):
            return _Start((LENGTH,), "int32"), [grow.make(user.Table, 12, width)], True
        return _Start((LENGTH,), "int32"), [embed], True
    if kind == "strings":
        look_up = layers.StringLookup(vocabulary=list(STRINGS))
        return _Start((LENGTH,), "string"), [look_up, embed], True
    if kind == "hashed":
        return _Start((LENGTH,), "string"), [layers.Hashing(12), embed], True
    words = layers.TextVectorization(output_sequence_length=LENGTH, vocabulary=list(STRINGS))
    return _Start((), "string"), [words, embed], False


def _batch(draw, kind, first, size):
    if kind == "tokens":
        return draw.integers(0, 12, (size, LENGTH)).astype("int32")
    if kind in ("strings", "hashed"):
        return keras.ops.convert_to_tensor(draw.choice(STRINGS, (size, LENGTH)))
    if kind == "sentences":
        return keras.ops.convert_to_tensor(draw.choice(SENTENCES, size))
    shape = {"vector": (5,), "image": (6, 6, 3)}.get(kind, (LENGTH, 3))
    values = draw.normal(size=(size, *shape)).astype("float32")
    if kind == "masked":
        values[:, -1] = 0
    return values


def _shell(shell, steps, x, residual, other):
    if shell == "sequential":
        return keras.Sequential([x, *steps])
    if shell in ("functional", "trains", "nested"):
        cls = user.Trains if shell == "trains" else keras.Model
        y = x
        for place, step in enumerate(steps):
            before, y = y, step(y)
            fits = before.shape[1:] == y.shape[1:] and None not in y.shape[1:]
            if residual and fits and place > 1:
                y = before + y
            if shell == "nested" and place == len(steps) - 3:
                y = keras.Model(x, y, name="inner")(x)
        return cls(x, y)
    if shell == "Vae":
        model = user.Vae(keras.Sequential(steps))
    elif shell == "Distiller":
        both = [[*each, layers.Dense(2)] for each in (steps, other())]
        model = user.Distiller(*map(keras.Sequential, both))
    else:
        model = getattr(user, shell)(steps, residual=residual)
    model({"given": x} if shell == "NetOfDicts" else x)
    return model


class _Grower:
    """Draws layers that fit, one after the other."""

    def __init__(self, draw):
        self.draw = draw

    def chance(self, probability):
        return self.draw.random() < probability

    def pick(self, options):
        return options[int(self.draw.integers(len(options)))]

    def width(self):
        return self.pick([4, 6, 8])

    def make(self, cls, *args, **kwargs):
        return self.pick(user.STYLES.get(cls, [cls]))(*args, **kwargs)

    def activation(self):
        return self.pick(["relu", "tanh", "gelu", user.swish, user.squared_relu])

    def chain(self, x, first, count):
        """The layers of a model, built on `x`, from the first ones to the head."""
        steps = []
        for step in first:
            steps.append(step)
            x = step(x)
        for _ in range(count):
            step = self.step(x)
            try:
                x = step(x)
            except ValueError as error:  # Keras makes no `keras.Variable` in layers inside layers
                if "stateless scope" not in str(error):
                    raise
                continue
            steps.append(step)
        while len(x.shape) > 2:
            step = self.pooling(x)
            steps.append(step)
            x = step(x)
        steps.append(layers.Dense(6, activation="tanh"))
        x = steps[-1](x)
        steps.append(self.head(first))
        steps[-1](x)
        return steps

    def first_dense(self):
        return self.pick(
            [
                lambda: layers.Dense(self.width(), activation=self.activation()),
                lambda: user.HandDense(self.width()),
                lambda: user.LowRank(self.width()),
            ]
        )()

    def first_convolution(self):
        if self.chance(0.5):
            return layers.Conv2D(self.width(), 3, padding="same", activation="relu")
        return self.make(user.Filters, self.width())

    def pooling(self, x):
        if len(x.shape) == 4:
            return self.pick([layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D])()
        options = [layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D]
        options += [lambda: self.make(user.MaskedMean), lambda: self.make(user.OneStep)]
        options += [lambda: layers.Lambda(lambda x: ops.max(x, axis=1))]
        options += [layers.Flatten, lambda: layers.GRU(4)] if x.shape[1] is not None else []
        return self.pick(options)()

    def head(self, first):
        embedding = [step for step in first if isinstance(step, layers.Embedding)]
        if embedding and self.chance(0.2):
            width = embedding[0].output_dim
            return user.Chain([layers.Dense(width), user.TiedHead(embedding[0])])
        return self.pick([lambda: layers.Dense(2), lambda: user.HandDense(2, "linear")])()

    def step(self, x, depth=0):
        """A layer that can be called on `x`."""
        options = self.any_rank(depth)
        if len(x.shape) == 3:
            options = options + self.of_series(x.shape[1]) * 2
        if len(x.shape) == 4:
            options = options + self.of_images() * 2
        return self.pick(options)()

    def any_rank(self, depth):
        width, make = self.width(), self.make
        options = [
            lambda: make(user.Scale),
            lambda: make(user.Affine),
            lambda: make(user.Normalised, width),
            lambda: make(user.Gated, width),
            lambda: make(user.Tied, width),
            lambda: make(user.Fused, width),
            lambda: make(user.Context),
            lambda: make(user.Picked),
            lambda: make(user.Norm, self.pick(["layer", "rms", "moving"])),
            lambda: make(user.Mlp, width, self.pick([1, 2])),
            lambda: make(user.TwoOutputs, width),
            lambda: make(user.GraphInside, width),
            lambda: make(user.DropBlock, hidden=width),
            lambda: user.HandDense(width, self.activation()),
            lambda: user.LowRank(width, activation=self.activation()),
            lambda: user.local(width, self.pick([ops.tanh, user.swish, user.squared_relu])),
            lambda: layers.Dense(width, activation=self.activation()),
            lambda: layers.LayerNormalization(),
            lambda: layers.BatchNormalization(),
            self.function,
        ]
        if depth < 2:
            options += [lambda: self.parts(depth), lambda: self.nested(depth)] * 2
        return options

    def function(self):
        """A Lambda: of the module's function, of a closure, with arguments."""
        factor = float(self.draw.uniform(0.5, 2))
        return self.pick(
            [
                lambda: layers.Lambda(user.swish),
                lambda: layers.Lambda(lambda x: ops.tanh(x) * factor),
                lambda: layers.Lambda(lambda x, by: x + by, arguments={"by": factor}),
                lambda: layers.Lambda(lambda x: ops.concatenate([x, ops.relu(x)], axis=-1)),
                lambda: layers.Lambda(lambda x: x - ops.mean(x, axis=-1, keepdims=True)),
            ]
        )()

    def of_series(self, length):
        make, width = self.make, self.width()
        options = [
            lambda: make(user.FirstPositions),
            lambda: make(user.Heads, 2, 3),
            lambda: make(user.ClassToken),
            lambda: make(user.Queries, 2),
            lambda: make(user.Cross, width),
            lambda: make(user.SplitHeads, 2),
            lambda: make(user.Transformer, 2, width),
            lambda: layers.Conv1D(width, 2, padding="causal", activation="relu"),
            lambda: layers.LSTM(width, return_sequences=True),
            lambda: layers.RNN(make(user.Cell, width), return_sequences=True),
            lambda: layers.TimeDistributed(make(user.Tied, width)),
            lambda: make(user.KeepsMask),
        ]
        fixed = [lambda: make(user.Position), lambda: make(user.TakenPositions)]
        return options + fixed * (length is not None)

    def of_images(self):
        make, width = self.make, self.width()
        return [
            lambda: make(user.Filters, width),
            lambda: make(user.ConvBlock, width),
            lambda: make(user.Squeeze, width),
            lambda: make(user.Position),
            lambda: layers.Conv2D(width, 3, padding="same", activation=self.activation()),
            lambda: layers.DepthwiseConv2D(3, padding="same"),
            layers.MaxPooling2D,
        ]

    def parts(self, depth):
        """Layers in a dict, of equal width."""
        width = self.width()
        parts = {
            name: self.pick(
                [
                    lambda: layers.Dense(width, activation=self.activation()),
                    lambda: user.HandDense(width),
                    lambda: user.Chain([self.plain(depth + 1), layers.Dense(width)]),
                    lambda: user.LowRank(width),
                ]
            )()
            for name in ("left", "right")
        }
        return user.Parts(parts, self.pick(["add", "multiply", "concatenate"]))

    def nested(self, depth):
        """Layers in lists in a dict, which may be of this kind too."""
        steps = [self.plain(depth + 1) for _ in range(self.pick([2, 3]))]
        return user.Chain(steps, residual=self.chance(0.3))

    def plain(self, depth):
        return self.pick(self.any_rank(depth))()


def _randomise(model, draw):
    """Random values for all weights, of a size for which their products neither grow nor vanish."""
    for weight in model.weights:
        if "seed" in weight.path or not keras.backend.is_float_dtype(weight.dtype):
            continue
        value = draw.normal(size=weight.shape)
        if len(weight.shape) > 1:
            value *= 1.2 / max(1.0, np.prod(weight.shape[:-1], dtype=float)) ** 0.5
        else:
            value = 0.3 * value + (1.0 if weight.name in _FACTORS else 0.0)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)


_FACTORS = {"gamma", "length", "scale_0", "scale_1"}
