"""Which of the axes of heads loses units: the heads, or what each of them has."""

import keras
import numpy as np
import pytest

import tfprune
from tests.stripping.test_hand_written_attention import HEADS, SIZE, Slopes, shape_of, stripped

ops = keras.ops


class Sloped(Slopes):
    """Heads that cannot go, with the scale of the scores made once."""

    def build_bias(self, shape):
        super().build_bias(shape)
        self.scale = 0.5

    def biased(self, scores, inputs, padding):
        return super().biased(scores * self.scale, inputs, padding)


class Counting(Slopes):
    """Heads that cannot go, with the scale made of the size of each in every call."""

    def biased(self, scores, inputs, padding):
        return super().biased(scores / ops.sqrt(float(self.size)), inputs, padding)


class Fused(keras.layers.Layer):
    """Queries, keys and values of one dense layer, each with heads."""

    def build(self, shape):
        self.all = keras.layers.Dense(3 * HEADS * SIZE, name="all")
        self.all.build(shape)
        self.gain = self.add_weight(shape=(HEADS, 1, 1), name="gain")
        self.out = keras.layers.Dense(shape[-1], name="out")
        self.out.build((*shape[:-1], HEADS * SIZE))
        self.heads, self.built = HEADS, True

    def call(self, inputs, padding):
        batch, length, _ = ops.shape(inputs)
        found = ops.reshape(self.all(inputs), (batch, length, 3, self.heads, SIZE))
        found = ops.transpose(found, (2, 0, 3, 1, 4))
        query, key, value = found[0], found[1], found[2]
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * self.gain
        mixed = ops.transpose(ops.matmul(ops.softmax(scores), value), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (batch, length, self.heads * SIZE)))


def test_where_heads_stay_what_each_has_goes():
    shapes = stripped(Sloped(size=4, name="own"))
    assert shape_of(shapes, "projection_0/kernel") == (4, HEADS, 2)
    assert shape_of(shapes, "projection_2/kernel") == (4, HEADS, 2)
    assert shape_of(shapes, "out/kernel") == (2 * HEADS, 4)


def test_what_is_divided_by_its_size_stays():
    shapes = stripped(Counting(size=4, name="own"))
    assert shape_of(shapes, "embedding/kernel") == (3, 4)
    assert shape_of(shapes, "projection_0/kernel") == (4, HEADS, 4)


def test_heads_of_a_fused_projection_go_with_all_three():
    shapes = stripped(Fused(name="own"))
    assert shape_of(shapes, "all/kernel") == (4, 3 * 2 * SIZE)
    assert shape_of(shapes, "out/kernel") == (2 * SIZE, 4)


@pytest.mark.parametrize("axis", ["heads", "parts"])
def test_letters_of_an_equation(axis):
    """Of a layer outside of others the units are heads, if those can go."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 3))
    x = keras.layers.EinsumDense("bsm,mnh->bsnh", (5, 4, 6), name="project")(inputs)
    if axis == "parts":
        x = x * np.arange(1.0, 5)[:, None].astype("float32")
        x = keras.layers.Softmax(axis=2, name="over_heads")(x)
    x = keras.layers.EinsumDense("bsnh,nhm->bsm", (5, 2), name="merge")(x)
    (found,) = [s for s in tfprune.coupling.couple(keras.Model(inputs, x)).sets if s.removable]
    assert (found.name, len(found.units)) == ("project", {"heads": 4, "parts": 6}[axis])
