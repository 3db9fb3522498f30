"""Cells of users' classes, whose units can go."""

import keras

ops = keras.ops
registered = keras.saving.register_keras_serializable("tests_own_cells")


@registered
class Elman(keras.layers.Layer):
    """Sizes are attributes."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")
        self.shift = self.add_weight(shape=(self.units,), name="shift")
        super().build(shape)

    def call(self, inputs, states):
        new = ops.tanh(inputs @ self.kernel + states[0] @ self.recurrent + self.shift)
        return new, [new]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@registered
class Gated(keras.layers.Layer):
    """One weight for input and state, sizes that are computed, a state that begins with ones."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    @property
    def state_size(self):
        return [self.units, self.units]

    @property
    def output_size(self):
        return self.units

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, self.units)), ops.ones((batch_size, self.units))]

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1] + self.units, 3 * self.units), name="matrix")
        self.shift = self.add_weight(shape=(3 * self.units,), name="shift")
        self.peephole = self.add_weight(shape=(self.units,), name="peephole")
        super().build(shape)

    def call(self, inputs, states, training=False):
        hidden, memory = states
        gates = ops.matmul(ops.concatenate([inputs, hidden], axis=-1), self.matrix) + self.shift
        entrance, forget, new = ops.split(gates, 3, axis=-1)
        forget = ops.sigmoid(forget + memory * self.peephole)
        memory = forget * memory + (1 - forget) * ops.tanh(new)
        hidden = ops.sigmoid(entrance) * memory
        return hidden, [hidden, memory]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@registered
class Pieces(Gated):
    """Weights are split and sliced before they are used."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3 * self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(3 * self.units, self.units), name="recurrent")
        self.built = True

    def call(self, inputs, states):
        (hidden, memory), size = states, self.units
        first, second, third = ops.split(self.kernel, 3, axis=1)
        entrance = ops.sigmoid(inputs @ first + hidden @ ops.transpose(self.recurrent[:size]))
        forget = ops.sigmoid(
            inputs @ second + hidden @ ops.transpose(self.recurrent[size : 2 * size])
        )
        new = ops.einsum("bi,ij->bj", inputs, third)
        new = new + ops.einsum("bi,ji->bj", hidden, self.recurrent[2 * size :])
        memory = forget * memory + entrance * ops.tanh(new)
        return ops.tanh(memory), [ops.tanh(memory), memory]


@registered
class OfLayers(keras.layers.Layer):
    """Made of layers, with units inside that are no states."""

    def __init__(self, units, wide=8, **kwargs):
        super().__init__(**kwargs)
        self.units, self.wide = units, wide
        self.state_size = units
        self.first = keras.layers.Dense(wide, activation="relu", name="first")
        self.second = keras.layers.Dense(units, activation="tanh", name="second")

    def build(self, shape):
        self.first.build((None, shape[-1] + self.units))
        self.second.build((None, self.wide))
        super().build(shape)

    def call(self, inputs, states):
        new = self.second(self.first(ops.concatenate([inputs, states[0]], axis=-1)))
        return new, [new]

    def get_config(self):
        return {**super().get_config(), "units": self.units, "wide": self.wide}


@registered
class MyLSTM(keras.layers.LSTMCell):
    """A subclass of a cell of Keras."""


@registered
class MyGRU(keras.layers.GRUCell):
    """A subclass of a cell of Keras."""


class _Around(keras.layers.Layer):
    """Holds a cell and calls it."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = self.make(units)

    @property
    def state_size(self):
        return self.inner.state_size

    @property
    def output_size(self):
        return self.units

    def get_initial_state(self, batch_size=None):
        return self.inner.get_initial_state(batch_size=batch_size)

    def build(self, shape):
        self.inner.build(shape)
        super().build(shape)

    def call(self, inputs, states, training=False):
        output, states = self.inner(inputs, states, training=training)
        return ops.tanh(output), states

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@registered
class AroundGRU(_Around):
    make = keras.layers.GRUCell


@registered
class AroundLSTM(_Around):
    make = keras.layers.LSTMCell


@registered
class AroundOwn(_Around):
    """A cell around one of a user's class, around one of Keras."""

    make = AroundGRU


@registered
class PlainGRU(_Around):
    """Does what the cell inside does."""

    make = keras.layers.GRUCell

    def call(self, inputs, states):
        return self.inner(inputs, states)


@registered
class Normed(_Around):
    """Normalises what the cell inside gives."""

    make = keras.layers.SimpleRNNCell

    def build(self, shape):
        super().build(shape)
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.norm.build((None, self.units))

    def call(self, inputs, states, training=False):
        output, _ = self.inner(inputs, states, training=training)
        output = ops.tanh(self.norm(output))
        return output, [output]


CELLS = [Normed, AroundGRU, AroundLSTM, AroundOwn, Elman, Gated, Pieces, OfLayers, MyLSTM, MyGRU]
