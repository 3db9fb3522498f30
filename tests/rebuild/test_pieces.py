"""Pieces of a split that are empty or alone: the result computes the same, without them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfprune

X = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")


def model_of(pieces, width=6):
    """A model with a dense layer, of whose output `pieces` makes the input of the last layer."""
    inputs = keras.Input((5,))
    wide = layers.Dense(width, activation="relu", name="wide")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="out")(pieces(wide)))


def split(x, *bounds):
    return ops.split(x, bounds[0] if len(bounds) == 1 else list(bounds), axis=-1)


def joined(pieces):
    return ops.concatenate(list(pieces), axis=-1)


# What is made of the wide layer; how many of its units stay; the sizes of the pieces, if any.
CASES = {
    "one piece": (lambda x: ops.split(x, 1, axis=-1)[0], 6, None),
    "one of two": (lambda x: split(x, 2, 2)[0], 2, None),
    "the last": (lambda x: ops.split(x, [4], axis=-1)[1], 2, None),
    "the one between": (lambda x: split(x, 2, 5)[1], 3, None),
    "two of three": (lambda x: (lambda a, _, c: a - c)(*split(x, 3)), 4, [2, 2]),
    "two of three, turned": (lambda x: (lambda _, b, c: c - 2 * b)(*split(x, 3)), 4, [2, 2]),
    "one of a piece": (lambda x: split(split(x, 4, 4)[0], 2)[1], 2, None),
    "an empty one first": (lambda x: joined(split(x, 0, 2)), 6, [2, 4]),
    "an empty one between": (lambda x: joined(split(x, 2, 2)), 6, [2, 4]),
    "an empty one last": (lambda x: joined(split(x, 2, 6)), 6, [2, 4]),
    "an empty one not used": (
        lambda x: (lambda a, b, _: joined([2 * a, b]))(*split(x, 2, 6)),
        6,
        [2, 4],
    ),
    "all in one": (lambda x: split(x, 0, 6)[1], 6, None),
}


def splits(model):
    """The sizes of the pieces of each split."""
    found = [o for o in model.operations if type(o).__name__ == "Split"]
    return [
        [tensor.shape[-1] for tensor in keras.tree.flatten(operation.output)] for operation in found
    ]


def sizes(model):
    return [
        (o.name, keras.tree.map_structure(lambda t: t.shape, o.output)) for o in model.operations
    ]


@pytest.mark.parametrize("kind", CASES)
def test_dead_pieces_go(kind):
    pieces, units, expected = CASES[kind]
    model = model_of(pieces)
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5, atol=1e-6)
    assert small.get_layer("wide").units == units
    assert splits(small) == ([] if expected is None else [expected])
    again = tfprune.strip(small)
    assert sizes(again) == sizes(small)


@pytest.mark.parametrize("kind", CASES)
def test_the_result_can_be_used_like_any_model(kind, tmp_path):
    masked = tfprune.prunable(model_of(CASES[kind][0]))
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    np.testing.assert_allclose(small(X), masked(X), rtol=1e-5, atol=1e-6)
    small.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras")(X), small(X))
    assert tfprune.explain(small).sets
    wider = tfprune.surgery.resize(small, {"wide": small.get_layer("wide").units + 2})
    np.testing.assert_allclose(wider(X), small(X), rtol=1e-5, atol=1e-6)
    again = tfprune.prunable(small)
    np.testing.assert_array_equal(again(X), small(X))
    tfprune.prune_units(again, 0.4)
    np.testing.assert_allclose(tfprune.strip(again)(X), again(X), rtol=1e-5, atol=1e-6)


def test_a_piece_that_is_an_output_keeps_its_name():
    inputs = keras.Input((5,))
    first, _ = ops.split(layers.Dense(6, name="wide")(inputs), [2], axis=-1)
    model = keras.Model(inputs, first)
    small = tfprune.strip(model)
    assert small.output_names == model.output_names
    assert small.get_layer("wide").units == 2
    assert splits(small) == [[2]]
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5)


def test_pieces_that_one_of_two_calls_of_a_model_uses_stay():
    inner = keras.Input((5,))
    pieces = ops.split(layers.Dense(6, name="wide")(inner), 3, axis=-1)
    nested = keras.Model(inner, pieces, name="nested")
    inputs = keras.Input((5,))
    a, b = nested(inputs), nested(ops.tanh(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="out")(a[0] - b[2]))
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5, atol=1e-6)


def test_pieces_of_a_split_inside_a_nested_model_go():
    inner = keras.Input((5,))
    _, piece = ops.split(layers.Dense(6, name="wide")(inner), [4], axis=-1)
    nested = keras.Model(inner, layers.Dense(3, name="inside")(piece), name="nested")
    inputs = keras.Input((5,))
    x = nested(inputs) + nested(ops.tanh(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    small = tfprune.strip(model)
    assert splits(small.get_layer("nested")) == []
    np.testing.assert_allclose(small(X), model(X), rtol=1e-5, atol=1e-6)
