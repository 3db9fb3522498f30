"""Operations without a rule: units are followed where running them proves how they pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.coupling.rules.comparing import randomised, stripped, zero
from tests.coupling.rules.operating import (
    around,
    beside,
    ignored_by_all,
    left,
    pins,
    with_constants,
    with_masks,
)
from tfprune import layers
from tfprune.coupling import couple, rule
from tfprune.coupling.rules import base, has_rule, inferred, rule_of

ops = keras.ops


def own(function):
    """A layer without weights and without a rule that computes a function."""

    @keras.saving.register_keras_serializable("tests", name=f"Own{id(function)}")
    class Own(keras.layers.Layer):
        def call(self, first, second=None):
            return function(first) if second is None else function(first, second)

    return Own()


FOLLOWED = {
    "relu": own(ops.relu),
    "a condition": own(lambda x: ops.where(x > 0.6, x, 0.1 * x)),
    "the last first": own(lambda x: x[..., ::-1]),
    "mixed steps": own(lambda x: ops.cumsum(ops.flip(x, 1), 1)),
    "a softmax over steps": own(lambda x: ops.softmax(x, axis=1)),
    "twice": own(lambda x: ops.concatenate([x, 2 * x], -1)),
    "each twice": own(lambda x: ops.repeat(x, 2, -1)),
    "moved and back": own(lambda x: ops.transpose(ops.transpose(x, (0, 2, 1)) + 1, (0, 2, 1))),
    "another rank": own(lambda x: x[:, :, None]),
    "a pooling": own(lambda x: ops.max(x, 1)),
    "examples first": own(lambda x: x - ops.mean(x, axis=0, keepdims=True)),
    "side by side": lambda x: ops.hstack([x, x]),
    "conjugate": ops.conjugate,
    "real": ops.real,
    "of two": lambda x: own(lambda a, b: a * ops.tanh(b))(x, x[:, ::-1]),
    "of two, one turned": lambda x: own(lambda a, b: a * b[..., ::-1])(x, ops.tanh(x)),
    "two outputs": own(lambda x: (ops.exp(x), x[:, :2])),
    "a pipeline": keras.layers.Pipeline([keras.layers.RandomFlip(), keras.layers.ReLU()]),
}
TIED = {"of two, one turned": (1, 6)}


@pytest.mark.parametrize("name", FOLLOWED)
def test_masked_units_go(name):
    shape = (4, 4, 3) if name == "a pipeline" else (6, 3)
    assert with_masks(around(beside(FOLLOWED[name]), shape)) == 4


@pytest.mark.parametrize("name", sorted(set(FOLLOWED) - {"mixed steps"}))
def test_constants(name):
    shape = (4, 4, 3) if name == "a pipeline" else (6, 3)
    model = around(FOLLOWED[name], shape)
    assert with_constants(model, TIED.get(name, (1, 2)), equal=name in TIED) == 6


def test_a_constant_that_differs_from_step_to_step_is_none():
    assert with_constants(around(FOLLOWED["mixed steps"])) == 8


def test_a_constant_at_which_the_function_jumps_is_none():
    def function(x):
        return ops.where(x > 0.5, x + 1.0, x)  # sigmoid(0) may be rounded to either side

    assert with_constants(around(own(function)), equal=True) == 8
    assert with_constants(around(own(function), activation="tanh"), equal=True) == 6


def test_units_that_nobody_needs_go():
    assert ignored_by_all(around(FOLLOWED["the last first"]), (1, 2)) == 6


PINNED = {
    "softmax": (own(ops.softmax), "because it joins its units"),
    "sum": (own(lambda x: ops.sum(x, -1, keepdims=True)), "because it joins its units"),
    "mean of all": (own(lambda x: x - ops.mean(x)), "because it joins its units"),
    "neighbours": (own(lambda x: x * ops.flip(x, -1)), "because it joins its units"),
    "by place": (own(lambda x: x * ops.arange(8.0)), "does not treat fewer or more units alike"),
    "by size": (own(lambda x: x / x.shape[-1]), "does not treat fewer or more units alike"),
    "by a fixed size": (
        own(lambda x: ops.reshape(x, (-1, 6, 8))),
        "does not treat fewer or more units alike",
    ),
    "triangle": (ops.tril, "does not treat fewer or more units alike"),
    "noise": (
        own(lambda x: x + keras.random.normal(ops.shape(x))),
        "because it is not deterministic",
    ),
    "to the batch": (own(lambda x: ops.transpose(x, (2, 1, 0))), "to the batch axis"),
    "a declared shape": (
        keras.layers.Lambda(lambda x: abs(x), output_shape=(6, 8)),
        "does not treat fewer or more units alike",
    ),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_cannot_be_proven_pins(name):
    function, reason = PINNED[name]
    inputs = keras.Input((6, 3))
    x = layers.Dense(8, name="d")(inputs)
    (found,) = pins(keras.Model(inputs, [function(x), layers.Dense(2)(x)]))
    assert "has no rule, and none can be inferred" in found
    assert reason in found


def test_what_fails_says_how():
    def failing(x):
        if tf.executing_eagerly():
            raise RuntimeError("no numbers, please")
        return x + 1

    inputs = keras.Input((6, 3))
    x = layers.Dense(8, name="d")(inputs)
    (found,) = pins(keras.Model(inputs, layers.Dense(2)(own(failing)(x))))
    assert "fails when tried" in found
    assert "no numbers, please" in found


def test_a_gate_of_one_unit_stays():
    inputs = keras.Input((6, 3))
    x, gate = layers.Dense(8, name="e")(inputs), layers.Dense(1, name="d")(inputs)
    product = own(lambda a, b: a * b)(x, gate)
    (found,) = pins(randomised(keras.Model(inputs, layers.Dense(2)(product))))
    assert "one unit, which it may spread" in found


@pytest.mark.parametrize(
    "function, stuck",
    [
        (lambda x: x[..., 1:], [0]),
        (lambda x: x[..., :3], [0, 1, 2]),
        (lambda x: ops.roll(x, 1, -1), [7]),
    ],
    ids=["all but the first", "the first three", "rolled"],
)
def test_units_taken_by_their_places_stay(function, stuck):
    model = around(own(function))
    (units,) = [s for s in couple(model).sets if s.layers[0].name == "d"]
    assert [index for index, reason in enumerate(units.pinned) if reason] == stuck
    assert all("takes these units by their places" in units.pinned[index] for index in stuck)
    zero(model.layers[-1].kernel, 0, [0, 2])
    numbers = np.asarray(function(np.arange(8.0)[None]))[0].astype(int)
    assert left(stripped(model)) == len({*stuck, *np.delete(numbers, [0, 2])})


def test_units_that_meet_fixed_channels_stay():
    inputs = keras.Input((6, 4))
    both = ops.concatenate([layers.Dense(4, name="e")(inputs), inputs], axis=-1)
    product = own(lambda a, b: a * b)(layers.Dense(8, name="d")(inputs), both)
    model = randomised(keras.Model(inputs, layers.Dense(2)(product)))
    (units,) = [s for s in couple(model).sets if "d" in [layer.name for layer in s.layers][:1]]
    reasons = [reason for reason in units.pinned if reason]
    assert len(reasons) == 4
    assert "joins it with fixed channels" in reasons[0]
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    assert left(stripped(model)) == 6


def test_units_come_as_they_go():
    model = around(FOLLOWED["the last first"])
    larger = tfprune.surgery.resize(model, {"d": 11})
    assert larger.get_layer("d").units == 11


def test_dynamic_axes():
    assert with_masks(around(beside(FOLLOWED["mixed steps"]), shape=(None, 3))) == 4


def test_over_time():
    def each(x):
        return keras.layers.TimeDistributed(keras.layers.Lambda(lambda x: x[:, ::-1] * 2))(x)

    assert with_masks(around(beside(each))) == 4


def test_masks_of_steps():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 8, mask_zero=True, name="d")(inputs)
    model = randomised(keras.Model(inputs, layers.Dense(2)(own(ops.tanh)(x))))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    assert stripped(model).get_layer("d").output_dim == 4


def test_what_is_too_large_is_not_tried(monkeypatch):
    monkeypatch.setattr("tfprune.coupling.rules.trials.MOST_ELEMENTS", 10)
    (found,) = pins(around(own(lambda x: x + 0)))
    assert "too large to be tried" in found


def test_the_state_of_a_layer_is_as_it_was():
    class Counting(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seeds = keras.random.SeedGenerator(0)

        def call(self, inputs):
            return inputs + keras.random.normal(ops.shape(inputs), seed=self.seeds)

    layer = Counting()
    model = around(layer)
    before = np.array(layer.seeds.state)
    couple(model)
    np.testing.assert_array_equal(before, layer.seeds.state)


def test_a_proof_is_made_once():
    layer, calls = own(ops.tanh), []
    model = around(layer)
    couple(model)
    layer.call = lambda x: calls.append(x)
    couple(model)
    assert not calls


def test_a_rule_of_ones_own_comes_first():
    layer = own(ops.tanh)
    assert isinstance(rule_of(layer), inferred.Inferred)
    assert not has_rule(layer)
    try:

        @rule(type(layer))
        class Own(base.Rule):
            pass

        assert isinstance(rule_of(layer), Own)
        assert has_rule(layer)
    finally:
        base._RULES.pop(type(layer))


def test_a_rule_serves_a_subclass_that_is_masked():
    class Masked(tfprune.layers.Masked, keras.layers.PReLU):
        pass

    class Other(tfprune.layers.Masked, keras.layers.PReLU):
        def call(self, inputs):
            return super().call(inputs)[..., ::-1]

    assert isinstance(rule_of(Masked()), type(rule_of(keras.layers.PReLU())))
    assert not has_rule(Other())


def gelu_approximate(x):
    return keras.activations.gelu(x, approximate=True)


@pytest.mark.parametrize("make", [keras.layers.Dense, layers.Dense], ids=["stock", "masked"])
def test_a_python_function_as_activation(make):
    inputs = keras.Input((3,))
    x = make(8, activation=gelu_approximate, name="d")(inputs)
    model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
    zero(model.get_layer("d").kernel, 1, [1, 2])
    assert left(stripped(model)) == 6


@pytest.mark.parametrize(
    "activation",
    [
        lambda x: x - ops.mean(x),
        lambda x: x / ops.cast(ops.shape(x)[-1], "float32"),
        lambda x: ops.cumsum(x, -1),
        lambda x: x + keras.random.normal(ops.shape(x)),
        lambda x: x * ops.arange(x.shape[-1], dtype="float32"),
        lambda x: x - ops.max(x),
    ],
)
def test_a_python_function_that_joins_units(activation):
    inputs = keras.Input((3,))
    x = layers.Dense(8, activation=activation, name="d")(inputs)
    (found,) = pins(keras.Model(inputs, layers.Dense(2)(x)))
    assert found == "the activation of 'd' joins its units"
