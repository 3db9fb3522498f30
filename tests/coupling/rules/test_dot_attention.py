"""Attention without projections: queries go with keys, values with outputs."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import assert_same, randomised, stripped, zero
from tests.coupling.rules.operating import pins
from tfprune import layers

ops = keras.ops
L = keras.layers
KINDS = {
    "dot": lambda: layers.Attention(),
    "scaled": lambda: layers.Attention(use_scale=True),
    "concatenated": lambda: layers.Attention(score_mode="concat", use_scale=True),
    "additive": lambda: layers.AdditiveAttention(),
    "additive without factors": lambda: layers.AdditiveAttention(use_scale=False),
}


def attending(make, shared=False, activation="tanh", **kwargs):
    """A model that attends, of three dense layers "q", "v", "k"; one called "q" if `shared`."""
    inputs, others = keras.Input((6, 3)), keras.Input((5, 3))
    query = layers.Dense(8, activation=activation, name="q")(inputs)
    if shared:
        given = [query, query]
    else:
        value = layers.Dense(4, activation=activation, name="v")(others)
        given = [query, value, layers.Dense(8, activation=activation, name="k")(others)]
    outputs = make()(given, **kwargs)
    outputs = [layers.Dense(2, name="o")(outputs[0]), outputs[1]] if kwargs else outputs
    outputs = outputs if kwargs else layers.Dense(2, name="o")(outputs)
    return randomised(keras.Model([inputs] if shared else [inputs, others], outputs))


def units(model):
    return {layer.name: layer.units for layer in model.layers if isinstance(layer, L.Dense)}


@pytest.mark.parametrize("kind", KINDS)
def test_masked_units_go(kind):
    model = attending(KINDS[kind])
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    assert units(stripped(model)) == {"q": 4, "v": 2, "k": 4, "o": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_over_itself(kind):
    model = attending(KINDS[kind], shared=True)
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    assert units(stripped(model)) == {"q": 4, "o": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_keys_that_are_the_same_everywhere_do_not_count(kind):
    model = attending(KINDS[kind])
    zero(model.get_layer("k").kernel, 1, [1, 2, 5])
    assert units(stripped(model)) == {"q": 5, "v": 4, "k": 5, "o": 2}


def test_queries_that_are_zero_do_not_count_in_products():
    for kind, left in (("dot", 6), ("concatenated", 8), ("additive", 8)):
        model = attending(KINDS[kind])
        zero(model.get_layer("q").kernel, 1, [1, 2])
        zero(model.get_layer("q").bias, 0, [1, 2])
        assert units(stripped(model)) == {"q": left, "v": 4, "k": left, "o": 2}


def test_a_factor_of_zero():
    model = attending(KINDS["additive"])
    zero(model.layers[-2].scale, 0, [0, 7])
    small = stripped(model)
    assert units(small) == {"q": 6, "v": 4, "k": 6, "o": 2}
    assert small.layers[-2].scale.shape == (6,)


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_constants_go_into_the_bias(kind):
    model = attending(KINDS[kind])
    zero(model.get_layer("v").kernel, 1, [3])
    assert units(stripped(model)) == {"q": 8, "v": 3, "k": 8, "o": 2}


def test_scores_that_are_returned():
    model = attending(KINDS["dot"], return_attention_scores=True)
    zero(model.get_layer("o").kernel, 0, [0, 1, 2])
    zero(model.get_layer("k").kernel, 1, [1])
    assert units(stripped(model)) == {"q": 7, "v": 1, "k": 7, "o": 2}


def test_causal():
    inputs = keras.Input((6, 3))
    x = layers.Dense(8, name="q")(inputs)
    x = layers.Attention()([x, x], use_causal_mask=True)
    model = randomised(keras.Model(inputs, layers.Dense(2, name="o")(x)))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    assert units(stripped(model)) == {"q": 4, "o": 2}


def test_masked_steps():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 8, mask_zero=True, name="e")(inputs)
    y = layers.Dense(4, name="v")(x)
    x = layers.Attention()([x, y, x])
    model = randomised(keras.Model(inputs, layers.Dense(2, name="o")(x)))
    zero(model.get_layer("v").kernel, 1, [0])  # its bias is no constant where queries are masked
    assert stripped(model).get_layer("v").units == 4
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    small = stripped(model)
    assert (small.get_layer("v").units, small.get_layer("e").output_dim) == (2, 4)


def test_units_on_the_axis_of_steps_stay():
    inputs = keras.Input((6, 3))
    x = ops.transpose(layers.Dense(8, name="d")(inputs), (0, 2, 1))
    (reason,) = pins(keras.Model(inputs, L.Attention()([x, x])))
    assert "units stand on other axes" in reason


def test_files(tmp_path):
    model = attending(KINDS["additive"])
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    small = tfprune.strip(model)
    small.save(tmp_path / "small.keras")
    assert_same(model, keras.models.load_model(tmp_path / "small.keras"))
    assert np.all([not hasattr(layer, "trainable_masks") for layer in small.layers])
