"""Traces of subclassed models, and the inputs that they are traced on."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune.coupling.model_inputs import call_arguments
from tfprune.coupling.model_trace import trace

layers, ops = keras.layers, keras.ops


class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a = layers.Dense(8, activation="relu", name="a")
        self.b = layers.Dense(3, name="b")

    def call(self, x):
        return self.b(self.a(x))


class TakesADict(Net):
    def call(self, x):
        return {"sum": self.b(self.a(x["left"])) + self.b(self.a(x["right"])), "a": x["left"] * 2.0}


class TakesATuple(Net):
    def call(self, x):
        left, right = x
        return self.b(self.a(left)), self.b(self.a(right))


class TakesTwo(Net):
    def build(self, x_shape, y_shape):
        self.a.build(x_shape)
        self.b.build((*y_shape[:-1], 8))

    def call(self, x, y):
        return self.b(self.a(x) + self.a(y))


class Tokens(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = layers.Embedding(11, 6, name="embed")
        self.out = layers.Dense(3, name="out")

    def call(self, tokens):
        return self.out(ops.mean(self.embed(tokens), axis=1))


def test_the_calls_of_a_subclassed_model_are_those_of_its_own_layers():
    model = Net()
    model(np.zeros((5, 4)))
    found = trace(model)
    assert [call.operation for call in found.calls] == [model.a, model.b]
    assert [tensor.shape for tensor in (*found.inputs, *found.outputs)] == [(None, 4), (None, 3)]


def test_inputs_in_dicts_and_tuples_and_several():
    x = np.zeros((5, 4))
    for model, given in [(TakesADict(), {"left": x, "right": x}), (TakesATuple(), (x, x))]:
        model(given)
        assert len(trace(model).inputs) == 2
    model = TakesTwo()
    model(x, x)
    args, kwargs = call_arguments(model)
    assert args == ()
    assert list(kwargs) == ["x", "y"]
    assert len(trace(model).inputs) == 2


def test_inputs_that_are_looked_up_are_whole_numbers():
    model = Tokens()
    model(np.zeros((2, 5), "int32"))
    assert [tensor.dtype for tensor in trace(model).inputs] == ["int32"]


def test_a_subclassed_model_that_cannot_be_traced_says_why():
    class Opaque(Net):
        def call(self, x):
            return self.b(self.a(x)) + ops.zeros((len(np.array(x)), 1))

    model = Opaque(name="opaque")
    model(np.zeros((2, 4)))
    for function in (trace, tfprune.explain, tfprune.strip):
        with pytest.raises(ValueError, match=r"no graph.*'opaque' \(Opaque\).*line \d+ of test"):
            function(model)


def test_a_model_without_a_call_says_so():
    class OnlyTrains(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
            self.built = True

    with pytest.raises(ValueError, match="no graph"):
        trace(OnlyTrains())
