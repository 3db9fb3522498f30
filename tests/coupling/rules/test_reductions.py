"""Reductions and products: what they sum over can go where it is 0, what they count cannot."""

import keras
import numpy as np
import pytest

from tests.coupling.rules.comparing import randomised, stripped, zero
from tests.coupling.rules.operating import around, drawn, left, pins, with_constants, with_masks
from tfprune import layers

ops = keras.ops
ALONG_STEPS = "sum mean max min prod var std argmax median logsumexp any all norm".split()
COUNTS = "mean max min var std argmax median logsumexp all".split()


def reduced(name, **kwargs):
    def function(x):
        x = x > {"any": 0.8, "all": 0.3}[name] if name in ("any", "all") else x
        return ops.cast(getattr(ops, name)(x, **kwargs), "float32")

    return function


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", sorted(set(ALONG_STEPS) - {"argmax"}))
def test_over_other_axes_units_pass(name, keepdims):
    model = around(lambda x: [reduced(name, axis=1, keepdims=keepdims)(x), x])
    assert with_masks(model) == 4


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("length", [6, None])
def test_constants_over_other_axes(name, length):
    is_known = name != "sum" or length
    model = around(reduced(name, axis=1), shape=(length, 3))
    assert with_constants(model) == (6 if is_known else 8)


@pytest.mark.parametrize("name", COUNTS)
def test_what_counts_the_units_pins_them(name):
    (reason,) = pins(around(lambda x: [reduced(name, axis=-1, keepdims=True)(x), x]))
    assert "counts each of its units" in reason


@pytest.mark.parametrize("name", ["sum", "norm", "count_nonzero"])
def test_a_sum_can_do_without_zeros(name):
    function = reduced(name, axis=-1) if name == "count_nonzero" else reduced(name, axis=2)

    def both(x):
        return [function(ops.relu(x)), x[:, 0]]

    assert with_masks(around(both, activation=None)) == 4
    model = around(both, activation=None)
    zero(model.get_layer("d").kernel, 1, [1, 2])
    model.get_layer("d").bias.assign([0.1, 0, 1, 0.2, -0.1, -0.2, 0.3, -0.3])
    assert left(stripped(model)) == 7  # unit 2 holds 1, which counts


@pytest.mark.parametrize("function", [ops.softmax, ops.cumsum, ops.sort, ops.log_softmax])
def test_what_joins_units_pins_them(function):
    assert pins(around(lambda x: function(x, axis=-1)))
    assert with_masks(around(lambda x: function(x, axis=1))) == 4


def test_a_division_by_the_norm_can_do_without_zeros():
    model = around(ops.normalize, activation=None)
    assert with_masks(model) == 4
    assert with_constants(around(ops.normalize)) == 8


def test_over_the_batch_axis():
    model = around(lambda x: x - ops.mean(x, axis=0, keepdims=True))
    assert with_masks(model) == 4


PRODUCTS = {
    "steps by steps": lambda x, y: ops.einsum("btc,bsc->bts", x, y),
    "with an ellipsis": lambda x, y: ops.einsum("b...c,b...c->b...", x, y),
    "matmul": lambda x, y: x @ ops.transpose(y, (0, 2, 1)),
    "layer": lambda x, y: keras.layers.Dot(axes=(2, 2))([x, y]),
}


def product(function):
    inputs = keras.Input((6, 3))
    x, y = (layers.Dense(8, name=name)(inputs) for name in ("d", "e"))
    return randomised(keras.Model(inputs, layers.Dense(2)(function(x, y))))


@pytest.mark.parametrize("name", PRODUCTS)
def test_units_that_are_multiplied_go_together(name):
    model = product(PRODUCTS[name])
    assert with_masks(model) == 4


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_zero_in_one_operand_is_enough(name):
    model = product(PRODUCTS[name])
    for weight, axis in (("kernel", 1), ("bias", 0)):
        zero(getattr(model.get_layer("e"), weight), axis, [2, 3])
    zero(model.get_layer("e").kernel, 1, [4])  # a constant that is not 0 counts
    small = stripped(model)
    assert (left(small), small.get_layer("e").units) == (6, 6)


def test_units_that_are_not_summed_pass():
    model = product(lambda x, y: ops.einsum("bts,bsc->btc", ops.einsum("btc,bsc->bts", x, x), y))
    assert with_masks(model) == 4
    model = product(lambda x, y: keras.layers.Dot(axes=1)([x[..., :1], y]))
    assert with_masks(model) == 1
    zero(model.get_layer("e").kernel, 1, [2, 3])
    zero(model.get_layer("e").bias, 0, [2, 3])
    assert stripped(model).get_layer("e").units == 6


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ drawn(8, 4),
        lambda x: ops.dot(x, drawn(8, 4)),
        lambda x: ops.tensordot(x, drawn(8, 4), axes=1),
        lambda x: ops.einsum("cd,btc->btd", drawn(8, 4), x),
    ],
)
def test_arrays_are_cut(function):
    assert with_masks(around(function, activation=None)) == 4
    model = around(function, activation=None)
    zero(model.get_layer("d").kernel, 1, [0, 1])
    zero(model.get_layer("d").bias, 0, [0])
    assert left(stripped(model)) == 7


def test_rows_of_zeros_in_an_array_end_units():
    weights = np.array(drawn(8, 4))
    weights[[2, 5]] = 0
    assert left(stripped(around(lambda x: x @ weights))) == 6


def test_a_product_in_which_both_axes_have_units_pins_one():
    model = product(lambda x, y: ops.einsum("btc,btd->bcd", x, y))
    assert any("several axes of the output" in reason for reason in pins(model))
