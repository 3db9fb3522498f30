"""Layers and models as users write them, for the models that `random_user_code` draws.

Layers with weights of their own, with layers in lists and dicts, with and without a config, and
models with train steps of their own. `STYLES` has each layer in several styles of user code.
"""

import inspect

import keras
import numpy as np
import tensorflow as tf

layers, ops = keras.layers, keras.ops


def swish(x):
    return x * ops.sigmoid(x)


def squared_relu(x):
    return ops.square(tf.nn.relu(x))


# Layers with weights of their own -----------------------------------------------------------------


class Position(layers.Layer):
    """Added, one for each step: the steps must be known."""

    def build(self, shape):
        self.position = self.add_weight(shape=shape[1:], name="position")

    def call(self, inputs):
        return inputs + self.position


class FirstPositions(layers.Layer):
    """Added, the first rows of a longer table."""

    def __init__(self, most=9, **kwargs):
        super().__init__(**kwargs)
        self.most = most
        self.supports_masking = True

    def build(self, shape):
        self.table = self.add_weight(shape=(self.most, shape[-1]), name="table")

    def call(self, inputs):
        return inputs + self.table[: ops.shape(inputs)[1]]


class TakenPositions(layers.Layer):
    """Added, rows that are taken by their number."""

    def build(self, shape):
        self.table = self.add_weight(shape=(9, shape[-1]), name="table")

    def call(self, inputs):
        return inputs + ops.take(self.table, ops.arange(inputs.shape[1]), axis=0)


class Scale(layers.Layer):
    """Multiplied, with a variable that is no `add_weight`."""

    def build(self, shape):
        self.gamma = keras.Variable(np.ones(shape[-1], "float32"), name="gamma")

    def call(self, inputs):
        return inputs * (1.0 + self.gamma)


class Affine(layers.Layer):
    """Weights in a list, and some that are not trained."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pairs = []

    def build(self, shape):
        for index in range(2):
            self.pairs.append(
                (
                    self.add_weight(shape=shape[-1:], name=f"scale_{index}"),
                    self.add_weight(shape=shape[-1:], name=f"shift_{index}", trainable=index == 0),
                )
            )

    def call(self, inputs):
        for scale, shift in self.pairs:
            inputs = ops.tanh(inputs * scale + shift)
        return inputs


class HandDense(layers.Layer):
    """A matrix product."""

    def __init__(self, units, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, inputs):
        return self.activation(ops.matmul(inputs, self.kernel) + self.bias)

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "units": self.units, "activation": activation}


class Normalised(layers.Layer):
    """A matrix product with columns of length one."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.length = self.add_weight(shape=(self.units,), name="length")

    def call(self, inputs):
        norm = ops.sqrt(ops.sum(ops.square(self.kernel), axis=0, keepdims=True) + 1e-6)
        return ops.matmul(inputs, self.kernel / norm) * self.length


class Gated(layers.Layer):
    """Two products, one the gate of the other, and one back to the width of the input."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.supports_masking = True

    def build(self, shape):
        self.gate = self.add_weight(shape=(shape[-1], self.hidden), name="gate")
        self.up = self.add_weight(shape=(shape[-1], self.hidden), name="up")
        self.down = self.add_weight(shape=(self.hidden, shape[-1]), name="down")

    def call(self, inputs):
        gate = swish(inputs @ self.gate)
        return (gate * (inputs @ self.up)) @ self.down


class Heads(layers.Layer):
    """Attention by einsum, all of its kernels its own."""

    def __init__(self, heads, size, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.size = heads, size

    def build(self, shape):
        split = (shape[-1], self.heads, self.size)
        self.q, self.k, self.v = [self.add_weight(shape=split, name=n) for n in "qkv"]
        self.o = self.add_weight(shape=(self.heads, self.size, shape[-1]), name="o")

    def call(self, inputs):
        q, k, v = [ops.einsum("btc,chd->bhtd", inputs, w) for w in (self.q, self.k, self.v)]
        scores = ops.softmax(ops.einsum("bhtd,bhsd->bhts", q, k) / self.size**0.5)
        return inputs + ops.einsum("bhtd,hdc->btc", scores @ v, self.o)


class Norm(layers.Layer):
    """A norm by hand: over the units, with or without a mean, or with moving statistics."""

    def __init__(self, kind="layer", **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape[-1:], name="beta")
        if self.kind == "moving":
            self.mean = self.add_weight(shape=shape[-1:], trainable=False, name="mean")
            self.variance = self.add_weight(
                shape=shape[-1:], initializer="ones", trainable=False, name="variance"
            )

    def call(self, inputs, training=False):
        if self.kind == "moving":
            if training:
                axes = list(range(len(inputs.shape) - 1))
                self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(inputs, axes))
            inputs = (inputs - self.mean) / ops.sqrt(self.variance + 1e-3)
        else:
            if self.kind == "layer":
                inputs = inputs - ops.mean(inputs, axis=-1, keepdims=True)
            square = ops.mean(ops.square(inputs), axis=-1, keepdims=True)
            inputs = inputs * ops.rsqrt(square + 1e-6)
        return inputs * self.gamma + self.beta


class ClassToken(layers.Layer):
    """Concatenated before the steps."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, inputs):
        token = ops.broadcast_to(self.token, (ops.shape(inputs)[0], 1, self.token.shape[-1]))
        return ops.concatenate([token, inputs], axis=1)


class Queries(layers.Layer):
    """Broadcast, and attended with: a number of steps that is always the same."""

    def __init__(self, number=2, **kwargs):
        super().__init__(**kwargs)
        self.number = number
        self.attend = layers.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.queries = self.add_weight(shape=(self.number, shape[-1]), name="queries")
        self.attend.build((shape[0], self.number, shape[-1]), shape)

    def call(self, inputs):
        queries = ops.tile(self.queries[None], (ops.shape(inputs)[0], 1, 1))
        return queries + self.attend(queries, inputs)


class Tied(layers.Layer):
    """A product with a kernel, and one with the same kernel transposed."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.hidden), name="kernel")
        self.inner = self.add_weight(shape=(self.hidden,), name="inner")
        self.outer = self.add_weight(shape=shape[-1:], name="outer")

    def call(self, inputs):
        x = ops.relu(ops.matmul(inputs, self.kernel) + self.inner)
        return ops.matmul(x, ops.transpose(self.kernel)) + self.outer

    def compute_output_shape(self, shape):
        return shape


class Table(layers.Layer):
    """An embedding by hand."""

    def __init__(self, rows, width, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.width = rows, width

    def build(self, shape=None):
        self.table = self.add_weight(shape=(self.rows, self.width), name="table")

    def call(self, inputs):
        return ops.take(self.table, ops.cast(inputs, "int32"), axis=0)


class Fused(layers.Layer):
    """Kernels that are concatenated for one product, which is split again."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernels = {
            name: self.add_weight(shape=(shape[-1], self.units), name=name) for name in ("a", "b")
        }

    def call(self, inputs):
        x = ops.matmul(inputs, ops.concatenate(list(self.kernels.values()), axis=-1))
        left, right = ops.split(x, 2, axis=-1)
        return left * ops.sigmoid(right)


class Context(layers.Layer):
    """A weight that is spread over the batch and concatenated to the units."""

    def __init__(self, number=2, **kwargs):
        super().__init__(**kwargs)
        self.number = number
        self.function = lambda x: ops.tanh(x) + 0.1 * x

    def build(self, shape):
        self.context = self.add_weight(shape=(self.number,), name="context")

    def call(self, inputs):
        shape = (*ops.shape(inputs)[:-1], self.number)
        context = ops.broadcast_to(self.context, shape)
        return self.function(ops.concatenate([inputs, context], axis=-1))


class Picked(layers.Layer):
    """Units in an order of their own, some of them twice, and a scale that is taken alike."""

    def build(self, shape):
        self.order = [(3 * place + 1) % shape[-1] for place in range(shape[-1])]
        self.scale = self.add_weight(shape=(1, shape[-1]), name="scale")

    def call(self, inputs):
        scale = ops.squeeze(ops.take(self.scale, self.order, axis=-1), 0)
        return ops.take(inputs, self.order, axis=-1) * (1.0 + scale)


class Cell(layers.Layer):
    """A recurrent cell with a gate."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.given = self.add_weight(shape=(shape[-1], 2 * self.units), name="given")
        self.recurrent = self.add_weight(shape=(self.units, 2 * self.units), name="recurrent")

    def call(self, inputs, states, training=False):
        x = ops.matmul(inputs, self.given) + ops.matmul(states[0], self.recurrent)
        gate, value = x[..., : self.units], x[..., self.units :]
        gate = ops.sigmoid(gate)
        state = gate * states[0] + (1.0 - gate) * ops.tanh(value)
        return state, [state]


class LowRank(layers.Dense):
    """A subclass of a layer of Keras which adds a product of two kernels."""

    def build(self, shape):
        super().build(shape)
        self.first = self.add_weight(shape=(shape[-1], 4), name="first")
        self.second = self.add_weight(shape=(4, self.units), name="second")

    def call(self, inputs):
        return super().call(inputs) + ops.matmul(ops.matmul(inputs, self.first), self.second)


class Filters(layers.Layer):
    """A convolution by hand."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], self.filters), name="kernel")

    def call(self, inputs):
        return ops.relu(ops.conv(inputs, self.kernel, padding="same"))


# Layers made of layers ----------------------------------------------------------------------------


class Mlp(layers.Layer):
    """Layers in a list; the last is made by `build`."""

    def __init__(self, hidden, depth=1, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.depth = hidden, depth
        self.supports_masking = True
        self.steps = [layers.Dense(hidden, activation=swish) for _ in range(depth)]

    def build(self, shape):
        self.steps.append(layers.Dense(shape[-1]))
        for step in self.steps:
            step.build(shape)
            shape = step.compute_output_shape(shape)

    def call(self, inputs):
        x = inputs
        for step in self.steps:
            x = step(x)
        return inputs + x

    def compute_output_shape(self, shape):
        return shape


class Parts(layers.Layer):
    """Layers in a dict, each of which is called on the input; what they give is joined."""

    def __init__(self, parts, join="add", **kwargs):
        super().__init__(**kwargs)
        self.parts, self.join = dict(parts), join

    def call(self, inputs):
        first, *others = [part(inputs) for part in self.parts.values()]
        if self.join == "concatenate":
            return ops.concatenate([first, *others], axis=-1)
        for other in others:
            first = first + other if self.join == "add" else first * ops.sigmoid(other)
        return first


class Chain(layers.Layer):
    """Layers that it is given, in lists in a dict, one after the other."""

    def __init__(self, steps, residual=False, **kwargs):
        super().__init__(**kwargs)
        self.groups = {"first": list(steps[:1]), "others": list(steps[1:])}
        self.residual = residual

    def call(self, inputs):
        x = inputs
        for group in ("first", "others"):
            for step in self.groups[group]:
                x = step(x)
        fits = x.shape[1:] == inputs.shape[1:] and None not in x.shape[1:]
        return inputs + x if self.residual and fits else x


class TwoOutputs(layers.Layer):
    """Calls a layer that gives a dict, and uses it."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.both = ValueAndGate(units)

    def call(self, inputs):
        found = self.both(inputs)
        return found["value"] * ops.sigmoid(found["gate"])


class ValueAndGate(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.value, self.gate = layers.Dense(units), layers.Dense(units)

    def call(self, inputs):
        return {"value": self.value(inputs), "gate": self.gate(inputs)}


class Cross(layers.Layer):
    """Gives a layer inside a second tensor by its name."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = Conditioned(units)

    def call(self, inputs):
        return self.inner(inputs, context=ops.mean(inputs, axis=1, keepdims=True))


class Conditioned(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.project, self.condition = layers.Dense(units), layers.Dense(units, use_bias=False)

    def call(self, inputs, scale=1.0, context=None):
        x = self.project(inputs) * scale
        return x if context is None else ops.gelu(x + self.condition(context))


class SplitHeads(layers.Layer):
    """Attention of Dense layers, with sizes that `call` reads."""

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, shape):
        width = 4 * self.heads
        self.projections = {n: layers.Dense(width, name=n) for n in ("query", "key", "value")}
        self.output_dense = layers.Dense(shape[-1], name="output")
        for dense in self.projections.values():
            dense.build(shape)
        self.output_dense.build((*shape[:-1], width))

    def call(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]

        def split(name):
            x = ops.reshape(self.projections[name](inputs), (batch, length, self.heads, 4))
            return ops.transpose(x, (0, 2, 1, 3))

        scores = ops.matmul(split("query"), ops.transpose(split("key"), (0, 1, 3, 2)))
        x = ops.matmul(ops.softmax(scores / 2.0), split("value"))
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, 4 * self.heads))
        return inputs + self.output_dense(x)


class Transformer(layers.Layer):
    """Blocks in a block, with norms of its own."""

    def __init__(self, heads, hidden, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.hidden, self.rate = heads, hidden, rate
        self.supports_masking = True
        self.attend = layers.MultiHeadAttention(heads, 4)
        self.mlp = Mlp(hidden)
        self.norm = layers.LayerNormalization()
        self.drop = layers.Dropout(rate)
        self.scale = Scale()

    def build(self, shape):
        self.attend.build(shape, shape)
        for part in (self.mlp, self.norm, self.drop, self.scale):
            part.build(shape)

    def call(self, inputs, training=False, mask=None):
        attention_mask = None if mask is None else mask[:, None, :]
        x = self.attend(inputs, inputs, attention_mask=attention_mask, training=training)
        x = self.norm(inputs + self.scale(self.drop(x, training=training)))
        return self.mlp(x)


class ConvBlock(layers.Layer):
    """Convolutions in a list of pairs, with a shortcut where the width changes."""

    def __init__(self, filters, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        self.pairs = [
            (layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization())
            for _ in range(depth)
        ]
        self.shortcut = None

    def build(self, shape):
        if shape[-1] != self.filters:
            self.shortcut = layers.Conv2D(self.filters, 1)
        super().build(shape)

    def call(self, inputs, training=False):
        x = inputs
        for convolution, norm in self.pairs:
            x = ops.relu(norm(convolution(x), training=training))
        return x + (inputs if self.shortcut is None else self.shortcut(inputs))


class Squeeze(layers.Layer):
    """Weighs channels by what is in all places, with a model inside."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        self.weigh = keras.Sequential(
            [
                layers.GlobalAveragePooling2D(),
                layers.Dense(self.hidden, activation="relu"),
                layers.Dense(shape[-1], activation="sigmoid"),
            ]
        )
        self.weigh.build(shape)

    def call(self, inputs):
        return inputs * self.weigh(inputs)[:, None, None]


class GraphInside(layers.Layer):
    """A Functional model inside."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        x = inputs = keras.Input(shape[1:])
        x = layers.Dense(self.hidden, activation="relu")(x)
        self.model = keras.Model(inputs, layers.Dense(shape[-1])(x) + inputs)

    def call(self, inputs):
        return self.model(inputs)


class DropBlock(layers.Layer):
    """Leaves out a layer at random while it trains."""

    def __init__(self, rate=0.2, hidden=8, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.hidden = rate, hidden
        self.seed_generator = keras.random.SeedGenerator(3)

    def build(self, shape):
        self.dense = layers.Dense(self.hidden, activation="relu")
        self.dense.build(shape)
        self.back = layers.Dense(shape[-1])
        self.back.build((*shape[:-1], self.hidden))

    def call(self, inputs, training=None):
        x = self.back(self.dense(inputs))
        if training:
            shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
            kept = keras.random.uniform(shape, seed=self.seed_generator) > self.rate
            x = x * ops.cast(kept, x.dtype)
        return inputs + x


class MaskedMean(layers.Layer):
    """The mean over the steps that the mask leaves."""

    def call(self, inputs, mask=None):
        if mask is None:
            return ops.mean(inputs, axis=1)
        mask = ops.cast(mask, inputs.dtype)[..., None]
        return ops.sum(inputs * mask, axis=1) / (ops.sum(mask, axis=1) + 1e-3)

    def compute_mask(self, inputs, mask=None):
        return None


class KeepsMask(layers.Layer):
    """Masks steps by what is in them, and what the mask leaves by zeros."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape):
        self.shift = self.add_weight(shape=shape[-1:], name="shift")

    def compute_mask(self, inputs, mask=None):
        found = ops.any(ops.not_equal(inputs, 0.0), axis=-1)
        return found if mask is None else ops.logical_and(mask, found)

    def call(self, inputs, mask=None):
        x = ops.tanh(inputs + self.shift)
        return x if mask is None else ops.where(mask[..., None], x, 0.0)


class OneStep(layers.Layer):
    """A step by its number."""

    def call(self, inputs):
        return inputs[:, 0]


class TiedHead(layers.Layer):
    """Multiplies by the embeddings of another layer."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.embedding.embeddings))


def local(units, activation):
    """A layer of a class that is made in a function."""

    class Local(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(units)
            self.shift = None

        def build(self, shape):
            self.dense.build(shape)
            self.shift = self.add_weight(shape=(units,), name="shift")

        def call(self, x):
            return activation(self.dense(x)) - self.shift

    return Local()


# Styles -------------------------------------------------------------------------------------------


def _with_config(cls):
    """The class with a config of its arguments."""
    names = [
        name
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]

    def get_config(self):
        return {**super(made, self).get_config(), **{name: getattr(self, name) for name in names}}

    made = _made(cls, "Config", {"get_config": get_config})
    return made


def _without_config(cls):
    """The class with an argument of which Keras cannot make a config."""

    def init(self, *args, hook=np.tanh, **kwargs):
        super(made, self).__init__(*args, **kwargs)
        self.hook = hook

    def get_config(self):
        raise NotImplementedError("no config")

    made = _made(cls, "NoConfig", {"__init__": init, "get_config": get_config})
    return made


def _renaming(cls):
    """The class with a name that `__init__` changes, and with a config."""

    def init(self, *args, name=None, **kwargs):
        super(made, self).__init__(*args, name=name, **kwargs)
        self.name = f"{self.name}_of_user"

    made = _made(_with_config(cls), "Renaming", {"__init__": init})
    return made


def _made(cls, suffix, attributes):
    name = f"{cls.__name__}{suffix}"
    made = type(cls)(name, (cls,), {"__module__": __name__, **attributes})
    return globals().setdefault(name, made)


OF_NUMBERS = [
    Position,
    FirstPositions,
    TakenPositions,
    Scale,
    Affine,
    Normalised,
    Gated,
    Heads,
    Norm,
    ClassToken,
    Queries,
    Tied,
    Fused,
    Context,
    Picked,
    Cell,
    Table,
    Filters,
    Mlp,
    TwoOutputs,
    Cross,
    SplitHeads,
    Transformer,
    ConvBlock,
    Squeeze,
    GraphInside,
    DropBlock,
    MaskedMean,
    KeepsMask,
    OneStep,
]
"""Those whose arguments are numbers and strings."""

STYLES = {cls: [cls, _with_config(cls), _without_config(cls), _renaming(cls)] for cls in OF_NUMBERS}
"""By class: as it is, with a config, without one, and with a name that changes."""


# Models -------------------------------------------------------------------------------------------


def train_step(self, data):
    """A train step of a user's own."""
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        loss = ops.mean(ops.square(y - self(x, training=True)))
    variables = self.trainable_variables
    self.optimizer.apply(tape.gradient(loss, variables), variables)
    return {"loss": loss}


class Trains(keras.Model):
    """A Functional model with a train step of its own."""

    train_step = train_step


class Distiller(keras.Model):
    """A student that learns from a teacher, each a model of its own."""

    def __init__(self, student, teacher, **kwargs):
        super().__init__(**kwargs)
        self.student, self.teacher = student, teacher
        self.teacher.trainable = False

    def call(self, inputs, training=False):
        return self.student(inputs, training=training)

    def train_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        taught = self.teacher(x)
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(taught - self(x, training=True)))
        variables = self.student.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class Vae(keras.Model):
    """An encoder, a sample while it trains, and a decoder; with a loss that it adds."""

    def __init__(self, encoder, latent=3, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.means, self.spreads = layers.Dense(latent), layers.Dense(latent)
        self.decoder = [layers.Dense(8, activation="relu"), layers.Dense(2)]
        self.seed_generator = keras.random.SeedGenerator(5)

    def call(self, inputs, training=False):
        x = self.encoder(inputs)
        x, spread = self.means(x), self.spreads(x)
        if training:
            self.add_loss(ops.mean(ops.exp(spread) - spread + ops.square(x)))
            noise = keras.random.normal(ops.shape(x), seed=self.seed_generator)
            x = x + ops.exp(0.5 * spread) * noise
        for step in self.decoder:
            x = step(x)
        return x


class Net(keras.Model):
    """Calls the layers that it is given, in a list."""

    def __init__(self, steps, residual=False, **kwargs):
        super().__init__(**kwargs)
        self.steps, self.residual = list(steps), residual

    def call(self, inputs, training=False):
        x = inputs
        for step in self.steps:
            before, x = x, step(x)
            fits = before.shape[1:] == x.shape[1:] and before.dtype == x.dtype
            if self.residual and fits and len(x.shape) > 1:
                x = before + x
        return x


class NetTrains(Net):
    """Has a train step of its own."""

    train_step = train_step


class NetWithLoss(Net):
    """Computes its loss itself, and keeps a metric of it; it has a weight and a temperature."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tracker = keras.metrics.Mean(name="distance")
        self.first, *self.others = self.steps

    def build(self, shape):
        self.temperature = self.add_weight(shape=(), initializer="ones", name="temperature")

    def call(self, inputs, training=False):
        x = self.first(inputs)
        for step in self.others:
            x = step(x)
        return x / (1.0 + ops.square(self.temperature))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        loss = ops.mean(ops.abs(y - y_pred))
        self.tracker.update_state(loss)
        return loss

    @property
    def metrics(self):
        return [self.tracker]


class NetOfDicts(Net):
    """Takes a dict and gives one."""

    def call(self, inputs, training=False):
        first = super().call(inputs["given"], training=training)
        return {"first": first, "double": 2.0 * first}
