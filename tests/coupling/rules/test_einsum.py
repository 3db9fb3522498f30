import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import randomised, stripped, zero
from tfprune import layers

EQUATIONS = {
    "a matrix": ("abc,cd->abd", (None, 6), "d"),
    "no bias": ("abc,cd->abd", (None, 6), None),
    "an ellipsis before": ("...c,cd->...d", (6,), "d"),
    "an ellipsis after": ("ac...,cd->ad...", (6,), "d"),
    "units before positions": ("abc,cd->adb", (6, 4), "d"),
    "a bias over positions": ("abc,cd->abd", (4, 6), "b"),
    "a bias over both": ("abc,cd->abd", (4, 6), "bd"),
    "several axes made": ("abc,cde->abde", (None, 2, 6), "de"),
    "one kernel a position": ("abc,bcd->abd", (4, 6), "bd"),
    "a sum over positions": ("abc,cd->ad", (6,), "d"),
    "several axes contracted": ("abc,bcd->ad", (6,), "d"),
}


def model_of(name, module=keras.layers, activation="tanh"):
    equation, shape, bias_axes = EQUATIONS[name]
    inputs = keras.Input((4, 3))
    x = module.Dense(8, activation="sigmoid", name="before")(inputs)
    if name == "an ellipsis after":
        x = module.Permute((2, 1))(x)
    x = module.EinsumDense(
        equation, output_shape=shape, bias_axes=bias_axes, activation=activation, name="einsum"
    )(x)
    if name in ("an ellipsis after", "units before positions"):
        x = module.Permute((2, 1))(x)
    return randomised(keras.Model(inputs, module.Dense(2, name="after")(x)))


@pytest.mark.parametrize("name", EQUATIONS)
def test_pruned_units_go(name):
    model = model_of(name, layers)
    counts = {
        c.name: c.pruned for c in tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    }
    assert counts == {"before": 4, "einsum": 3}
    small = stripped(model)
    assert small.get_layer("before").units == 4
    assert {3, 4} <= set(small.get_layer("einsum").kernel.shape)


@pytest.mark.parametrize("name", EQUATIONS)
def test_constants_are_folded_where_that_is_exact(name):
    model = model_of(name)
    zero(model.get_layer("before").kernel, 1, [1, 4])
    is_exact = name in ("a matrix", "no bias", "an ellipsis before", "an ellipsis after") or (
        name in ("units before positions", "a bias over both")
    )
    assert stripped(model).get_layer("before").units == (6 if is_exact else 8)


@pytest.mark.parametrize("name", EQUATIONS)
def test_units_that_are_constant_are_folded_into_the_next_bias(name):
    model = model_of(name, activation="sigmoid")
    equation = EQUATIONS[name][0]
    kernel = model.get_layer("einsum").kernel
    zero(kernel, equation.split(",")[1].split("->")[0].index("d"), [1])
    size = stripped(model).get_layer("einsum").kernel.shape
    is_one_number = name not in (
        "a bias over positions", "a bias over both", "several axes made", "one kernel a position"
    )  # fmt: skip
    assert (5 if is_one_number else 6) in size


def test_heads_by_two_equations():
    inputs = keras.Input((4, 3))
    x = layers.Dense(6, name="before")(inputs)
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de", name="split")(x)
    x = layers.EinsumDense("abde,def->abf", (None, 6), bias_axes="f", name="join")(x)
    model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    small = stripped(model)
    assert tuple(small.get_layer("split").kernel.shape) == (3, 1, 4)
    assert tuple(small.get_layer("join").kernel.shape) == (1, 4, 3)


@pytest.mark.parametrize(
    "equation, shape", [("abc,c->ab", (4,)), ("abc,bc->abc", (4, 6)), ("abc,b->abc", (4, 6))]
)
def test_equations_that_make_nothing_pin_their_inputs(equation, shape):
    inputs = keras.Input((4, 3))
    x = layers.Dense(6, name="before")(inputs)
    x = layers.EinsumDense(equation, shape, name="einsum")(x)
    model = randomised(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    with pytest.raises(ValueError, match="equation of 'einsum' does not make units"):
        tfprune.prune_units(model, 0.5)
    zero(model.get_layer("before").kernel, 1, np.s_[:2])
    assert stripped(model).get_layer("before").units == 6
