"""Data movement: slices, splits and shapes are rewritten, and what cannot be is tied or pinned."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import assert_same, randomised, stripped, zero
from tests.coupling.rules.operating import (
    around,
    beside,
    drawn,
    ignored_by_all,
    left,
    pins,
    with_constants,
    with_masks,
)
from tfprune import layers

ops = keras.ops
SPACE = (4, 4, 3)


def shuffled(x, groups=2):
    """A channel shuffle."""
    height, width, channels = x.shape[1:]
    x = ops.reshape(x, (-1, height, width, groups, channels // groups))
    x = ops.transpose(x, (0, 1, 2, 4, 3))
    return ops.reshape(x, (-1, height, width, channels))


def pixels(x, block=2):
    """A pixel shuffle by reshaping."""
    height, width, channels = x.shape[1:]
    depth = channels // block**2
    x = ops.reshape(x, (-1, height, width, block, block, depth))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height * block, width * block, depth))


SERIES = {
    "first channels": lambda x: x[..., :4],
    "parts": lambda x: [x[..., 1:6], x[:, :, 2:]],
    "a step and a new axis": lambda x: x[:, -1, None],
    "steps": lambda x: x[:, ::2],
    "every other channel": lambda x: [x[..., ::2], x[..., 1::2]],
    "the last first": lambda x: x[..., ::-1],
    "some backwards": lambda x: x[..., 6:1:-1],
    "halves": lambda x: ops.split(x, 2, axis=-1),
    "pieces": lambda x: ops.split(x, [3, 5], axis=-1),
    "pieces of steps": lambda x: ops.split(x, 3, axis=1),
    "take": lambda x: ops.take(x, [6, 0, 0, -1, 3], axis=-1),
    "take by array": lambda x: ops.take(x, np.array([[1, 2, 5], [3, 4, 6]]), axis=-1),
    "take of steps": lambda x: ops.take(x, [1, 4], axis=1),
    "stack": lambda x: ops.reshape(ops.stack([x, x], axis=-1), (-1, 6, 16)),
    "stack before": lambda x: ops.stack([x, x], axis=1),
    "unstack": lambda x: ops.unstack(x, axis=1)[:2],
    "flip": lambda x: ops.flip(x, axis=-1),
    "roll of steps": lambda x: ops.roll(x, 2, axis=1),
    "repeat": lambda x: ops.repeat(x, 2, axis=-1),
    "repeat each": lambda x: ops.repeat(x, [1, 2, 3, 1, 1, 2, 1, 1], axis=-1),
    "tile": lambda x: ops.tile(x, [1, 2, 3]),
    "pad": lambda x: ops.pad(x, [(0, 0), (0, 0), (1, 2)], constant_values=0.5),
    "transpose": lambda x: layers.Flatten()(ops.transpose(x, (0, 2, 1)) @ drawn(6, 1)),
    "time first": lambda x: ops.transpose(ops.tanh(ops.transpose(x, (1, 0, 2))), (1, 0, 2)),
    "swapaxes": lambda x: ops.swapaxes(ops.tanh(ops.swapaxes(x, 1, 2)), 1, 2),
    "moveaxis": lambda x: ops.moveaxis(ops.tanh(ops.moveaxis(x, -1, 1)), 1, -1),
    "expand and squeeze": lambda x: ops.squeeze(ops.expand_dims(x, (1, -1)), (1, -1)),
    "flatten": lambda x: layers.Flatten()(x),
    "permute and flatten": lambda x: layers.Flatten()(layers.Permute((2, 1))(x)),
    "steps into the batch": lambda x: ops.reshape(ops.reshape(x, (-1, 8)), (-1, 6, 8)),
    "heads": lambda x: ops.reshape(x, (-1, 6, 2, 4)),
    "heads by a layer": lambda x: layers.Reshape((-1, 2, 4))(x),
    "to the front": lambda x: ops.reshape(x, (-1, 48)),
    "concatenate": lambda x: ops.concatenate([x, x * x], axis=-1),
    "concatenate steps": lambda x: ops.concatenate([x, x], axis=1),
    "concatenate numbers": lambda x: ops.concatenate([x, x[..., :1] * 0 + drawn(6, 2)], axis=-1),
}
TIED = {
    "every other channel": (2, 3),
    "take by array": (1, 3),
    "heads": (1, 5),
    "heads by a layer": (1, 5),
}


class TestSeries:
    @pytest.mark.parametrize("name", SERIES)
    def test_masked_units(self, name):
        assert with_masks(around(beside(SERIES[name]))) == 4

    @pytest.mark.parametrize("name", SERIES)
    def test_units_that_hold_a_constant(self, name):
        model = around(beside(SERIES[name]))
        assert with_constants(model, TIED.get(name, (1, 2)), equal=name in TIED) == 6

    @pytest.mark.parametrize("name", ["first channels", "last", "pad", "concatenate", "repeat"])
    def test_dynamic_axes(self, name):
        function = {**SERIES, "last": lambda x: x[:, -1]}[name]
        assert with_masks(around(beside(function), shape=(None, 3))) == 4

    def test_dynamic_axes_are_matched_from_the_end(self):
        def split_and_merged(x):
            return layers.Reshape((-1, 8))(layers.Reshape((-1, 2, 4))(x))

        assert with_masks(around(split_and_merged, shape=(None, None, 3))) == 4

    def test_numbers_around_other_axes_end_a_constant_unless_they_are_the_same(self):
        def padded(x):
            return ops.pad(x, [(0, 0), (1, 1), (0, 0)], constant_values=0.5)

        assert with_constants(around(padded)) == 8
        assert with_constants(around(padded), equal=True) == 6  # sigmoid(0)
        assert with_masks(around(padded)) == 4

    def test_a_slice_that_would_be_empty_keeps_one_unit(self):
        model = around(lambda x: [x[..., :3], x[..., 3:]])
        zero(model.layers[-2].kernel, 0, [0, 1, 2])
        small = tfprune.strip(model)
        outputs = [layer for layer in small.layers if layer.weights][1:]
        assert left(small) == 6
        assert [layer.kernel.shape[0] for layer in outputs] == [1, 5]


class TestSpace:
    @pytest.mark.parametrize("function", [shuffled, pixels], ids=["shuffle", "pixels"])
    def test_masked_units(self, function):
        assert with_masks(around(function, SPACE)) == 4

    def test_a_channel_shuffle_ties_what_changes_places(self):
        assert with_constants(around(shuffled, SPACE), (1, 5), equal=True) == 6
        assert with_constants(around(shuffled, SPACE), (1, 2)) == 8

    def test_a_pixel_shuffle_ties_the_pixels_of_a_channel(self):
        assert with_constants(around(pixels, SPACE), (1, 3, 5, 7), equal=True) == 4
        assert with_constants(around(pixels, SPACE), (1, 2)) == 8

    def test_depth_to_space_and_back(self):
        def there(x):
            return ops.nn.depth_to_space(x, 2)

        assert with_masks(around(there, SPACE)) == 4
        assert with_constants(around(there, SPACE), (0, 2, 4, 6), equal=True) == 4
        assert with_masks(around(lambda x: ops.nn.space_to_depth(x, 2), SPACE)) == 4

    def test_channels_first(self):
        def there(x):
            x = ops.nn.depth_to_space(ops.moveaxis(x, -1, 1), 2, data_format="channels_first")
            return layers.Flatten(data_format="channels_first")(x)

        assert with_masks(around(there, SPACE)) == 4


class TestPins:
    @pytest.mark.parametrize(
        "function, reason",
        [
            (lambda x: ops.roll(x, 1, axis=-1), "rolls its units"),
            (lambda x: ops.roll(x, 1), "rolls its units"),
            (lambda x: x[..., ::-2], "takes every 2th of its units, from the last"),
            (lambda x: x[..., 3], "picks it by its index"),
            (lambda x: ops.take(x, 3, axis=-1), "picks it by its index"),
            (lambda x: ops.unstack(x, axis=-1)[0], "each of its units by itself"),
            (lambda x: ops.pad(x, [(0, 0), (0, 0), (1, 1)], mode="reflect"), "with each other"),
            (lambda x: ops.transpose(x, (2, 0, 1)), "to the batch axis"),
            (lambda x: ops.diagonal(x, axis1=1, axis2=2), "has no rule"),
            (lambda x: ops.squeeze(x), "would squeeze the axis of units of which one is left"),
            (lambda x: ops.reshape(ops.ravel(x), (-1, 8)), "axes of unknown size"),
        ],
    )
    def test_named(self, function, reason):
        inputs = keras.Input((6, 3))
        x = layers.Dense(8, name="d")(inputs)
        (found,) = pins(keras.Model(inputs, function(x)))
        assert reason in found

    def test_an_index_pins_one_unit_alone(self):
        model = around(lambda x: [x[..., 3], x])
        zero(model.layers[-1].kernel, 0, [0, 3, 4])
        assert left(stripped(model)) == 6


@pytest.mark.parametrize(
    "function",
    [lambda x, i: ops.take(x, i, axis=1), lambda x, i: ops.take(x, [1, 2])],
    ids=["indices that are a tensor", "no axis"],
)
def test_a_model_with_a_pinned_take_is_stripped(function):
    inputs, indices = keras.Input((3,)), keras.Input((2,), dtype="int32")
    x = layers.Dense(6, activation="relu", name="wide")(inputs)
    outputs = [function(layers.Dense(4, name="d")(x), indices), indices]
    model = keras.Model([inputs, indices], outputs)
    zero(model.get_layer("wide").kernel, 1, [0, 1])
    assert tfprune.strip(model).get_layer("d").kernel.shape == (4, 4)


def test_the_last_unit_is_not_squeezed():
    model = around(lambda x: ops.squeeze(x[:, None]))
    zero(model.layers[-1].kernel, 0, range(1, 8))
    assert left(stripped(model)) == 1


def test_the_rows_of_ignored_units_go():
    assert ignored_by_all(around(SERIES["concatenate"]), (1, 9)) == 7


def test_a_file_of_the_stripped_model_loads(tmp_path):
    model = around(lambda x: [x, x[..., 1:6], *ops.split(shuffled(x), 2, axis=-1)], SPACE)
    tfprune.prune_units(model, 0.25, tfprune.criteria.Random(seed=0), only=["d"])
    small = tfprune.strip(model)
    small.save(tmp_path / "small.keras")
    assert_same(model, keras.models.load_model(tmp_path / "small.keras"))


def test_a_slice_in_a_nested_model_that_is_called_twice():
    inner_inputs = keras.Input((8,))
    turned = ops.concatenate([inner_inputs[:, 2:], inner_inputs[:, :2]], axis=1)
    inner = keras.Model(inner_inputs, layers.Dense(4)(turned))
    inputs = keras.Input((3,))
    x, y = (layers.Dense(8, name=name)(inputs) for name in ("d", "e"))
    model = randomised(keras.Model(inputs, layers.Dense(2)(inner(x) + inner(y))))
    assert with_masks(model) == 4


class TestPiecesOfASplit:
    def test_one_piece(self):
        model = around(lambda x: [*ops.split(x, 1, axis=-1), x])
        assert with_masks(model) == 4

    def test_a_piece_that_is_empty(self):
        def with_empty(x):
            a, b, empty = ops.split(x, [4, 8], axis=-1)
            return ops.concatenate([2 * a, b, empty], axis=-1)

        assert with_masks(around(with_empty)) == 4

    def test_a_piece_that_nobody_needs(self):
        model = around(lambda x: ops.split(x, [4], axis=-1)[1])
        small = stripped(model)
        assert left(small) == 4
        assert left(stripped(small)) == 4
        tfprune.prune_units(tfprune.prunable(small), 0.5)
        assert left(tfprune.surgery.resize(small, {"d": 5})) == 5
