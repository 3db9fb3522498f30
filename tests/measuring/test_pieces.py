"""Pieces of models, and the small models of them."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune.coupling import couple
from tfprune.measuring.pieces import Pieces

L = keras.layers


def residual():
    inputs = keras.Input((9, 9, 3), name="image")
    x = stem = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False, name="stem")(inputs)))
    x = L.Conv2D(12, 1, name="expand")(x)
    x = L.ZeroPadding2D(1)(x)
    x = L.Activation("relu")(L.DepthwiseConv2D(3, name="depthwise")(x))
    x = L.Conv2D(8, 1, name="project")(x)
    x = L.Dropout(0.5)(x + stem)
    return keras.Model(inputs, L.Dense(4, name="head")(L.Flatten()(x)))


@pytest.fixture(scope="module")
def pieces():
    model = residual()
    return Pieces(model, couple(model), batch_size=2)


def names(piece):
    return [call.operation.name for call in piece.calls]


def test_norms_activations_and_padding_belong_to_the_operation_that_runs_them(pieces):
    found = [names(piece) for piece in pieces.all]
    assert [len(each) for each in found] == [3, 1, 3, 1, 1, 1]
    assert found[0][0] == "stem"
    assert found[2][1] == "depthwise"
    assert found[-1] == ["head"]


def test_a_tensor_that_is_used_twice_ends_a_piece():
    inputs = keras.Input((8,))
    x = L.Dense(4, name="dense")(inputs)
    model = keras.Model(inputs, L.Add(name="sum")([x, L.ReLU(name="relu")(x)]))
    assert [names(p) for p in Pieces(model, couple(model)).all] == [["dense"], ["relu"], ["sum"]]


def test_the_multiply_accumulates_of_a_piece_are_those_of_its_calls(pieces):
    assert [piece.macs for piece in pieces.all[:2]] == [7 * 7 * 8 * 27, 7 * 7 * 8 * 12]


def test_a_small_model_has_the_sizes_of_the_units_that_are_kept(pieces):
    kept = np.ones(pieces._coupling.size, bool)
    expand = pieces.all[1]
    (made,) = (
        each
        for each in pieces._coupling.slices
        if each.layer is expand.operation and each.makes and each.variable.ndim == 4
    )
    kept[pieces._coupling.roots[made.labels][:7]] = False
    small = pieces.small_model(expand, kept).build("piece")
    assert (small.input_shape, small.output_shape) == ((2, 7, 7, 8), (2, 7, 7, 5))
    small = pieces.small_model(pieces.all[2], kept).build("piece")
    assert (small.input_shape, small.output_shape) == ((2, 7, 7, 5), (2, 7, 7, 5))
    assert [type(layer).__name__ for layer in small.layers[1:]] == [
        "ZeroPadding2D",
        "DepthwiseConv2D",
        "Activation",
    ]


def test_pieces_of_the_same_sizes_have_the_same_key_whatever_they_are_called(pieces):
    again = residual()
    again.get_layer("stem").kernel.assign(np.ones((3, 3, 3, 8)))
    others = Pieces(again, couple(again), batch_size=2)
    for ours, theirs in zip(pieces.all, others.all, strict=True):
        a, b = (
            each.small_model(piece, np.ones(each._coupling.size, bool))
            for each, piece in ((pieces, ours), (others, theirs))
        )
        assert (a.key, a.digest) == (b.key, b.digest)
    keys = {pieces.small_model(p, np.ones(pieces._coupling.size, bool)).key for p in pieces.all}
    assert len(keys) == len(pieces.all)


def test_masks_do_not_change_a_piece(pieces):
    masked = tfprune.prunable(residual())
    others = Pieces(masked, couple(masked), batch_size=2)
    kept = np.ones(pieces._coupling.size, bool)
    for ours, theirs in zip(pieces.all, others.all, strict=True):
        assert pieces.small_model(ours, kept).key == others.small_model(theirs, kept).key


class Own(L.Layer):
    """What no config can make at another size."""

    def call(self, x):
        return x * 2.0


def test_what_cannot_be_made_again_has_no_small_model():
    inputs = keras.Input((None, 3))
    x = Own()(L.Conv1D(4, 3, name="conv")(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x)))
    for sizes, expected in (
        (None, [False, False, False, True]),
        ((8, 3), [True, False, True, True]),
    ):
        pieces = Pieces(model, couple(model), input_shapes=sizes)
        kept = np.ones(pieces._coupling.size, bool)
        found = [pieces.small_model(piece, kept) is not None for piece in pieces.all]
        assert found == expected
