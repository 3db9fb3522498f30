"""Random functional models: a seed draws their graph, sizes, weights and zeros.

A model grows step by step: a step (`random_steps`) takes a tensor that is there and calls layers
or operations on it. Every call is also run on numbers, so that tensors are joined only where their
shapes fit, also along dynamic axes. The models are tiny, since what goes wrong in them does so at
any size.
"""

import keras
import numpy as np

from tests.random_chains import randomise
from tests.random_steps import ACTIVATIONS, new_activation, new_dense, steps_of

ROWS = 5  # of embeddings
LENGTH = 6  # of dynamic axes, while growing
layers = keras.layers


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
        return new_dense(self)

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
        return self.pick(steps_of(len(x.shape)))(self, x)

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


def _again(grow, x):
    """A layer or model which was called before, on a tensor of the same shape."""
    shapes = grow.both_shapes(x)
    known = [called for called in grow.called if getattr(called, "called_on", None) == shapes]
    return grow.call(grow.pick(known), x) if known else None


def _nested(grow, x):
    inner = Grower(grow.draw, grow.depth + 1)
    y = inner.add_input(x.shape[1:], numbers=grow.numbers[id(x)])
    if grow.chance(0.3):
        steps = [new_dense(grow), new_activation(grow), new_dense(grow)]
        return grow.call(keras.Sequential([y, *steps]), x)
    inner.grow(grow.size(3))
    ends = [t for t in inner.tensors if t is not y]
    if not ends:
        return None
    outputs = ends[-1] if grow.chance(0.7) else [ends[-1], grow.pick(ends)]
    return grow.call(keras.Model(y, outputs), x)
