"""Models with a concatenation that something follows, for tests of its edges."""

import keras
import numpy as np

from tests.surgery.models import drawn, example

layers = keras.layers
A, B, C = 7, 5, 4


def graph(follow, is_output=False):
    """a and b joined, with c beside them, and what `follow` makes of the joined tensor."""
    inputs = keras.Input((3,))
    a, b, c = (layers.Dense(n, name=k)(inputs) for k, n in (("a", A), ("b", B), ("c", C)))
    result = follow(layers.Concatenate(name="joined")([a, b]), c)
    outputs = [result] if is_output else [layers.Dense(2, name="last")(result)]
    return drawn(keras.Model(inputs, [*outputs, layers.Dense(1, name="of_c")(c)]))


def added(joined, c):
    return layers.Add(name="sum")([joined, layers.Dense(A + B, name="r")(joined)])


def multiplied(joined, c):
    return layers.Multiply(name="product")([layers.Dense(A + B, name="r")(joined), joined])


def normalised(joined, c):
    return layers.ReLU()(layers.BatchNormalization(name="norm")(joined))


def concatenated(joined, c):
    return layers.Concatenate(name="again")([joined, c, joined])


def added_to_concatenated(joined, c):
    again = layers.Concatenate(name="again")([c, joined])
    return layers.Add(name="sum")([again, layers.Dense(A + B + C, name="r")(again)])


def sliced(joined, c):
    return layers.Concatenate(name="again")([joined[:, 2:], joined])


FOLLOWS = [added, multiplied, normalised, concatenated, added_to_concatenated, sliced]


def width(model, name):
    return model.get_layer(name).output.shape[-1]


def assert_same(new, model):
    x = example(model)
    for ours, theirs in zip(new(x), model(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def dense(model, name, x):
    layer = model.get_layer(name)
    return x @ np.array(layer.kernel) + np.array(layer.bias)
