"""Layers with weights of their own: units are followed through them, and they shrink in place."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import randomised, zero
from tests.coupling.rules.operating import around, beside, left, pins
from tfprune import layers
from tfprune.coupling import couple

ops = keras.ops


class Own(keras.layers.Layer):
    """A layer that computes a function of its input and of weights whose shapes are given."""

    def __init__(self, function, *shapes, **numbers):
        super().__init__(name="own")
        self.function, self.shapes = function, shapes
        for name, number in numbers.items():
            setattr(self, name, number)

    def build(self, shape):
        self.own = [
            self.add_weight(shape=each, name=f"w{index}", initializer="ones")
            for index, each in enumerate(self.shapes)
        ]

    def call(self, inputs):
        return self.function(self, inputs, *self.own)


def stripped(model):
    """The smaller model, compared with the model."""
    small, report = tfprune.strip(model, return_report=True)
    assert report.error < 1e-5
    x = np.random.default_rng(1).normal(size=(4, *model.inputs[0].shape[1:]))
    assert all(np.isfinite(y).all() for y in keras.tree.flatten(model(x)))
    return small


def with_masks(model):
    """How many units are left when half of them are masked."""
    model = tfprune.prunable(model)
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0), only=["d"])
    return left(stripped(model))


def seen(x):
    return (x - ops.mean(x, 1, keepdims=True)) / ops.sqrt(ops.var(x, 1, keepdims=True) + 0.1)


def first_token(self, x, w):
    return ops.concatenate([ops.broadcast_to(w, (ops.shape(x)[0], 1, w.shape[-1])), x], 1)


PASSED = {
    "a position": (lambda s, x, w: x + w, (6, 8)),
    "a position for each of as many": (lambda s, x, w: x + w[:6], (8, 8)),
    "a factor": (lambda s, x, w: x * w, (8,)),
    "a factor in another shape": (lambda s, x, w: x * ops.transpose(w), (8, 1)),
    "a number": (lambda s, x, w: x * w, ()),
    "a first token": (first_token, (1, 1, 8)),
    "a norm over steps": (lambda s, x, g, b: seen(x) * g + b, (8,), (8,)),
    "moving statistics": (
        lambda s, x, m, v, g: (x - m) / ops.sqrt(v * v + 0.1) * g,
        (8,),
        (8,),
        (8,),
    ),
    "a factor turned": (lambda s, x, w: x[..., ::-1] * w, (8,)),
    "a convolution of each": (
        lambda s, x, w: ops.depthwise_conv(x, w, padding="same"),
        (3, 8, 1),
    ),
}


@pytest.mark.parametrize("name", PASSED)
def test_weights_go_with_the_units_that_pass(name):
    function, *shapes = PASSED[name]
    model = around(beside(Own(function, *shapes)), (6, 3))
    assert with_masks(model) == 4


def test_the_layer_keeps_its_class_and_its_attributes_follow():
    def function(self, x, w):
        return ops.reshape(x, (-1, self.steps, self.width)) * w

    model = around(Own(function, (8,), width=8, steps=6), (6, 3))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0), only=["d"])
    small = stripped(model)
    own = small.get_layer("own")
    assert type(own) is Own
    assert (own.width, own.steps, own.own[0].shape) == (4, 6, (4,))
    assert (model.get_layer("own").width, model.get_layer("own").own[0].shape) == (8, (8,))


def test_units_that_hold_a_constant_go():
    model = around(Own(PASSED["a factor"][0], (8,)))
    zero(model.get_layer("d").kernel, 1, [1, 2])
    assert left(stripped(model)) == 6


JOINED = {
    "dense": (lambda s, x, w, b: ops.tanh(ops.matmul(x, w) + b), (8, 5), (5,)),
    "transposed": (lambda s, x, w, b: ops.matmul(x, ops.transpose(w)) + b, (5, 8), (5,)),
    "as many": (lambda s, x, w: ops.einsum("bti,io->bto", x, w), (8, 8)),
    "gated": (lambda s, x, u, v: ops.matmul(x, u) * ops.sigmoid(ops.matmul(x, v)), (8, 5), (8, 5)),
    "convolution": (lambda s, x, w: ops.conv(x, w, padding="same"), (3, 8, 5)),
}


@pytest.mark.parametrize("name", JOINED)
def test_a_weight_that_joins_units_makes_others(name):
    function, *shapes = JOINED[name]
    model = tfprune.prunable(around(beside(Own(function, *shapes)), (6, 3)))
    coupling = couple(model)
    made = [s for s in coupling.sets if s.name == "own"]
    assert [(len(s.units), s.removable) for s in made] == [(8 if name == "as many" else 5, True)]
    tfprune.prune_units(model, 0.4, tfprune.criteria.Random(seed=0))
    small = stripped(model)
    assert left(small) == 5  # int(0.4 * 8) went
    made = 5 if name == "as many" else 3
    assert small.get_layer("own").output.shape == (None, 6, made)


def test_units_without_weight_go_and_made_units_that_nobody_reads():
    model = around(Own(JOINED["dense"][0], (8, 5), (5,)))
    zero(model.get_layer("own").own[0], 0, [1, 2])
    zero(model.layers[-1].kernel, 0, [0])
    small = stripped(model)
    # The two units are no longer 0 from the start, but nothing multiplies them.
    assert left(small) == 6
    assert small.get_layer("own").own[0].shape == (6, 4)


def test_first_layer():
    inputs = keras.Input((6, 3))
    x = Own(JOINED["dense"][0], (3, 5), (5,))(inputs)
    model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
    zero(model.layers[-1].kernel, 0, [0, 1])
    assert stripped(model).get_layer("own").own[0].shape == (3, 3)


PINNED = {
    "a norm over units": (
        lambda s, x, w: x / (ops.sqrt(ops.mean(x * x, -1, keepdims=True)) + 0.1) * w,
        [(8,)],
        "because it joins its units",
    ),
    "a fixed size": (
        lambda s, x, w: ops.reshape(x, (-1, 6, 8)) * w,
        [(8,)],
        "'own' (Own) does not run with other sizes, whichever of its attributes follow",
    ),
    "a division by weights": (
        lambda s, x, w: x / w,
        [(8,)],
        "gives what is not finite where its weights are 0",
    ),
    "a normed weight": (
        lambda s, x, w: ops.matmul(x, w / ops.sqrt(ops.sum(w * w, 0))),
        [(8, 5)],
        "gives what is not finite where its weights are 0",
    ),
    "noise": (
        lambda s, x, w: x * w + keras.random.normal(ops.shape(x)),
        [(8,)],
        "it computes with values of weights, or at random, outside of its graph",
    ),
    "by place": (
        lambda s, x, w: x * w * ops.arange(1.0, 9.0),
        [(8,)],
        "does not treat fewer or more units alike",
    ),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_cannot_be_proven_pins(name):
    function, shapes, reason = PINNED[name]
    (found,) = pins(around(beside(Own(function, *shapes))))
    assert "'own' (Own)" in found
    assert reason in found


def test_units_that_are_joined_go_where_the_result_cannot():
    def function(self, x, w):
        return ops.softmax(ops.matmul(x, w))

    model = around(Own(function, (8, 5)))
    assert [s.name for s in couple(model).sets if s.removable] == ["d"]
    assert with_masks(model) == 4


def mlp(self, x, u, a, v, b):
    return ops.matmul(ops.relu(ops.matmul(x, u) + a), v) + b


def attention(self, x, q, k, v, o):
    q, k, v = [ops.einsum("btd,dhk->bhtk", x, w) for w in (q, k, v)]
    scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 2.0)
    return ops.einsum("bhtk,hkd->btd", ops.matmul(scores, v), o)


HIDDEN = {
    "two layers": (mlp, [(8, 10), (10,), (10, 4), (4,)], 4, {"own": 2, "own/hidden": 5}),
    "a residual": (
        lambda s, x, *w: x + mlp(s, x, *w),
        [(8, 10), (10,), (10, 8), (8,)],
        4,
        {"own/hidden": 5},
    ),
    "a norm first": (
        lambda s, x, *w: mlp(s, x / ops.sqrt(ops.mean(x * x, -1, keepdims=True) + 0.1), *w),
        [(8, 10), (10,), (10, 4), (4,)],
        8,
        {"own": 2, "own/hidden": 5},
    ),
    "attention": (attention, [(8, 6, 3)] * 3 + [(6, 3, 4)], 4, {"own": 2, "own/hidden": 3}),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_units(name):
    function, shapes, width, expected = HIDDEN[name]
    model = tfprune.prunable(around(Own(function, *shapes)))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    small, report = tfprune.strip(model, return_report=True)
    after = {layer.name: layer.after for layer in report.layers}
    assert report.error < 1e-5
    assert left(small) == width
    assert expected.items() <= after.items()


class Inside(keras.layers.Layer):
    """A layer with layers inside, of which one has an attribute that says its size."""

    def __init__(self, width, hidden, **kwargs):
        super().__init__(name="own", **kwargs)
        self.wide = keras.layers.Dense(hidden, activation="relu")
        self.narrow = keras.layers.Dense(width)
        self.gamma = None

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], self.wide.units))
        self.gamma = self.add_weight(shape=(self.narrow.units,), name="gamma")

    def call(self, inputs):
        return self.narrow(self.wide(inputs)) * self.gamma


def test_layers_inside():
    model = tfprune.prunable(around(Inside(6, 10)))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    small = stripped(model)
    own = small.get_layer("own")
    assert left(small) == 4
    assert (own.wide.units, own.narrow.units, own.gamma.shape) == (5, 3, (3,))
    assert (own.wide.kernel.shape, own.narrow.kernel.shape) == ((4, 5), (5, 3))
    assert type(own) is Inside and type(own.wide) is keras.layers.Dense


def test_layers_with_masks_stay_so_where_a_model_is_resized():
    model = tfprune.prunable(around(Inside(6, 10)))
    smaller = tfprune.surgery.resize(model, {"d": 5})
    own = smaller.get_layer("own")
    assert own.wide.kernel.shape == (5, 10)
    assert {type(own).__name__, type(own.wide)} == {"Inside", layers.Dense}
    tfprune.set_masks(smaller, own.wide, "kernel", trainable=np.arange(50).reshape(5, 10) % 2 > 0)
    assert np.count_nonzero(own.wide.kernel) == 25


def test_a_proof_is_made_once_for_layers_that_are_alike(monkeypatch):
    model = around(lambda x: Position(name="b")(Position(name="a")(x)))
    couple(model)
    monkeypatch.setattr(
        "tfprune.coupling.rules.weight_proofs._Prover", lambda *_: pytest.fail("proven again")
    )
    assert pins(tfprune.prunable(around(Position(name="c")))) == set()


class Position(keras.layers.Layer):
    def build(self, shape):
        self.position = self.add_weight(shape=shape[1:], name="position")

    def call(self, inputs):
        return inputs + self.position


def test_called_twice():
    own, inputs = Own(JOINED["as many"][0], (8, 8)), keras.Input((6, 3))
    x = own(own(layers.Dense(8, name="d")(inputs)))
    assert with_masks(randomised(keras.Model(inputs, layers.Dense(2)(x)))) == 4


@pytest.mark.parametrize("name", ["a position", "a factor", "a first token"])
def test_units_come_as_they_go(name):
    function, *shapes = PASSED[name]
    model = around(Own(function, *shapes), (6, 3))
    larger = tfprune.surgery.resize(model, {"d": 11})
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    np.testing.assert_allclose(larger(x), model(x), rtol=1e-5, atol=1e-5)
    assert larger.get_layer("own").own[0].shape[-1] == 11


def test_masks_and_training_go_on():
    model = tfprune.prunable(around(Own(JOINED["dense"][0], (8, 5), (5,))))
    model.compile("adam", "mse")
    x, y = np.random.default_rng(0).normal(size=(16, 6, 3)), np.zeros((16, 6, 2))
    model.fit(x, y, verbose=0)
    tfprune.prune_units(model, 0.5, "taylor_activation", data=(x, y))
    model.fit(x, y, verbose=0)
    small = stripped(model)
    assert int(small.optimizer.iterations) == 2
    small.fit(x, y, verbose=0)
    assert small.get_layer("own").own[0].shape == (4, 3)


def test_the_layer_is_left_as_it_was():
    layer = Own(PASSED["a position"][0], (6, 8))
    model = around(layer)
    before = np.array(layer.own[0])
    couple(model)
    np.testing.assert_array_equal(before, layer.own[0])


class TimesTable(keras.layers.Layer):
    """Scores of all rows of an `Embedding`, from a vector."""

    def __init__(self, table, scaled, **kwargs):
        super().__init__(**kwargs)
        self.table, self.scale = table, self.add_weight(name="by") if scaled else 1.0

    def call(self, inputs):
        return self.scale * ops.matmul(inputs, ops.transpose(self.table.embeddings))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("subclassed", [False, True])
def test_rows_of_a_table_that_are_looked_up_stay_where_they_are_multiplied_with(scaled, subclassed):
    table = keras.layers.Embedding(12, 8, name="table")
    parts = [table, keras.layers.GlobalAveragePooling1D(), TimesTable(table, scaled)]
    parts += [keras.layers.Dense(3, name="end")]
    x = np.arange(12).reshape(2, 6)
    model = InOrder(parts) if subclassed else keras.Sequential([keras.Input((6,)), *parts])
    model(x)
    masked = tfprune.prunable(randomised(model))
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    small = tfprune.strip(masked)
    sizes = {weight.name: tuple(weight.shape) for weight in small.weights}
    assert sizes["embeddings"] == (12, 4)
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-4, atol=1e-5)


class InOrder(keras.Model):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts
        self.gain = self.add_weight(name="gain", initializer="ones")

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs * self.gain


class ZeroWhereMasked(keras.layers.Layer):
    """Adds a weight, and takes the mask of the steps as an argument."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape):
        self.shift = self.add_weight(shape=shape[-1:], name="shift")

    def call(self, inputs, mask=None):
        return ops.where(mask[..., None], ops.tanh(inputs + self.shift), 0.0)


def test_a_layer_that_takes_a_mask():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(9, 8, mask_zero=True, name="table")(inputs)
    x = keras.layers.GlobalAveragePooling1D()(ZeroWhereMasked(name="own")(x))
    masked = tfprune.prunable(randomised(keras.Model(inputs, keras.layers.Dense(2)(x))))
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    small = tfprune.strip(masked)
    assert small.get_layer("own").shift.shape == (4,)
    x = np.array([[1, 4, 8, 0, 0, 0], [2, 3, 5, 7, 1, 0]])
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-4, atol=1e-5)
