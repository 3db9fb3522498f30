"""What models are made of by hand: rotated positions, and experts behind a router."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import randomised, stripped, zero
from tests.coupling.rules.operating import around, left, pins, with_constants, with_masks
from tfprune import layers

ops = keras.ops
ANGLES = np.outer(np.arange(6), [1.0, 0.3, 0.1, 0.03]).astype("float32")


def by_halves(x):
    """Positions rotated: a unit of the first half with the one of the second."""
    angles = np.concatenate([ANGLES, ANGLES], -1)
    first, second = ops.split(x, 2, axis=-1)
    return x * np.cos(angles) + ops.concatenate([-second, first], axis=-1) * np.sin(angles)


def by_parts(x):
    """The same, each half by itself."""
    first, second = x[..., :4], x[..., 4:]
    return ops.concatenate(
        [
            first * np.cos(ANGLES) - second * np.sin(ANGLES),
            second * np.cos(ANGLES) + first * np.sin(ANGLES),
        ],
        axis=-1,
    )


def by_neighbours(x):
    """A unit at an even place with the next."""
    even, odd = x[..., ::2], x[..., 1::2]
    turned = ops.stack(
        [
            even * np.cos(ANGLES) - odd * np.sin(ANGLES),
            even * np.sin(ANGLES) + odd * np.cos(ANGLES),
        ],
        axis=-1,
    )
    return ops.reshape(turned, (-1, 6, 8))


ROTATIONS = {by_halves: (1, 5), by_parts: (1, 5), by_neighbours: (2, 3)}


@pytest.mark.parametrize("rotated", ROTATIONS)
def test_pairs_of_rotated_units_go_together(rotated):
    def tanh_of(x):
        return [rotated(x), x]

    assert with_masks(around(tanh_of)) == 4
    pair = ROTATIONS[rotated]
    assert with_constants(around(rotated, activation="tanh"), pair, equal=True) == 6
    assert with_constants(around(rotated, activation="tanh"), (pair[0], 7), equal=True) == 8


@pytest.mark.parametrize("rotated", ROTATIONS)
def test_scores_of_rotated_queries_and_keys(rotated):
    inputs = keras.Input((6, 3))
    query, key = (rotated(layers.Dense(8, name=name)(inputs)) for name in ("d", "k"))
    scores = ops.softmax(ops.einsum("bqd,bkd->bqk", query, key), axis=-1)
    values = layers.Dense(8, name="v")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(ops.matmul(scores, values)))
    tfprune.prune_units(randomised(model), 0.5, tfprune.criteria.Random(seed=0))
    small = stripped(model)
    assert [small.get_layer(name).units for name in "dkv"] == [4, 4, 4]


def dense_gates(scores):
    """Zero but for the best two of four experts."""
    values, indices = ops.top_k(scores, 2)
    return ops.sum(ops.one_hot(indices, 4) * values[..., None], axis=1)


def written_gates(scores):
    """The same, where scores reach the least of the best."""
    values, _ = ops.top_k(scores, 2)
    return ops.where(scores >= values[:, -1:], scores, 0.0)


COMBINED = {
    "einsum": lambda gates, made: ops.einsum("be,bed->bd", gates, ops.stack(made, axis=1)),
    "product": lambda gates, made: ops.sum(gates[..., None] * ops.stack(made, axis=1), axis=1),
    "sum": lambda gates, made: ops.sum(
        [gates[:, e : e + 1] * each for e, each in enumerate(made)], axis=0
    ),
    "one by one": lambda gates, made: keras.layers.Add()(
        [gates[:, e : e + 1] * each for e, each in enumerate(made)]
    ),
}


def routed(gates, combine):
    """A mixture of four experts between two dense layers."""
    inputs = keras.Input((3,))
    x = layers.Dense(8, name="d")(inputs)
    scores = layers.Dense(4, activation="softmax", name="router")(x)
    made = [
        layers.Dense(8, name=f"out{e}")(layers.Dense(6, activation="relu", name=f"in{e}")(x))
        for e in range(4)
    ]
    outputs = layers.Dense(2, name="o")(x + combine(gates(scores), made))
    return randomised(keras.Model(inputs, outputs))


@pytest.mark.parametrize("combine", ["einsum", "product", "one by one"])
@pytest.mark.parametrize("gates", [dense_gates, written_gates])
def test_experts_shrink_and_the_router_stays(gates, combine):
    model = routed(gates, COMBINED[combine])
    (reason,) = {
        reason
        for unit_set in tfprune.coupling.couple(model).sets
        if unit_set.name == "router"
        for reason in unit_set.pinned
    }
    assert reason == "the activation of 'router' joins its units"
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    small = stripped(model)
    names = ["d", "router", "in0", "in3", "out0", "out3"]
    assert [small.get_layer(name).units for name in names] == [4, 4, 3, 3, 4, 4]


def test_a_hidden_unit_of_an_expert_that_is_never_used():
    model = routed(dense_gates, COMBINED["einsum"])
    zero(model.get_layer("out2").kernel, 0, [1, 2])
    assert stripped(model).get_layer("in2").units == 4


def test_units_of_a_softmax_stay():
    (reason,) = pins(around(lambda x: [x, ops.softmax(x, axis=-1)]))
    assert reason == "'softmax' joins its units: it divides by a sum over all of them" or (
        "joins its units: it divides by a sum over all of them" in reason
    )
    assert left(stripped(around(lambda x: [x, ops.softmax(x, axis=1)]))) == 8


@pytest.mark.parametrize("axis", [1, 2])
def test_a_softmax_layer_over_another_axis(axis):
    model = around(lambda x: keras.layers.Softmax(axis=axis)(x), (4, 5, 3))
    assert with_masks(model) == 4
