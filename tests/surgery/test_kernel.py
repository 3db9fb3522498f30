"""Windows of convolutions that grow and shrink."""

import keras
import numpy as np
import pytest

from tfprune import surgery
from tfprune.surgery.edits.kernel import window_indices

layers = keras.layers


def around(layer, shape=(9, 9, 3)):
    """A model of one layer with random weights."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(draw.normal(size=weight.shape))
    return model


def example(model):
    shape = (2, *model.input.shape[1:])
    return np.random.default_rng(1).normal(size=shape).astype("float32")


SAME = [
    (layers.Conv2D(2, 3, padding="same", name="x"), 5, (9, 9, 3)),
    (layers.Conv2D(2, (3, 1), padding="same", name="x"), (5, 3), (9, 9, 3)),
    (layers.Conv2D(2, 2, padding="same", name="x"), 4, (9, 9, 3)),
    (layers.Conv2D(2, 3, padding="same", strides=2, name="x"), 5, (9, 9, 3)),
    (layers.Conv2D(2, 3, padding="same", strides=2, name="x"), 7, (8, 9, 3)),
    (layers.Conv2D(2, 3, padding="same", dilation_rate=2, name="x"), 5, (9, 9, 3)),
    (layers.Conv1D(2, 2, padding="causal", name="x"), 3, (9, 3)),
    (layers.Conv3D(2, 3, padding="same", name="x"), 5, (5, 5, 5, 1)),
    (layers.DepthwiseConv2D(3, padding="same", name="x"), 5, (9, 9, 3)),
    (layers.SeparableConv2D(2, 3, padding="same", name="x"), 5, (9, 9, 3)),
    (layers.SeparableConv2D(2, 1, padding="same", name="x"), 3, (9, 9, 3)),
    (layers.Conv2DTranspose(2, 3, padding="same", name="x"), 5, (9, 9, 3)),
    (layers.Conv2DTranspose(2, 3, padding="same", strides=2, name="x"), 5, (9, 9, 3)),
    (layers.Conv2DTranspose(2, 4, padding="same", strides=2, name="x"), 6, (9, 9, 3)),
    (layers.ConvLSTM2D(2, 3, padding="same", name="x"), 5, (3, 5, 5, 2)),
]


@pytest.mark.parametrize(("layer", "size", "shape"), SAME)
def test_taps_of_0_around_the_old_ones_change_nothing(layer, size, shape):
    model = around(layer, shape)
    plan = surgery.edit(model)
    plan.resize_kernel("x", size)
    assert plan.effects == ()
    x = example(model)
    np.testing.assert_allclose(plan.model(x), model(x), rtol=1e-5, atol=1e-5)
    assert plan.model.count_params() > model.count_params()


def test_an_odd_window_made_even_moves_and_the_plan_says_so():
    model = around(layers.Conv1D(2, 3, strides=2, padding="same", name="x"), (8, 3))
    plan = surgery.edit(model)
    plan.resize_kernel("x", 4)
    assert plan.effects == ("the window of 'x' moves",)


def test_the_part_with_the_lowest_cost_stays():
    kernel = np.ones((5, 5, 2, 3))
    kernel[4] = 50.0  # rows far from the centre count for little where weights are large
    rows, columns = window_indices(kernel, (3, 3))
    costs = {}
    for row in range(3):
        for column in range(3):
            costs[row, column] = sum(
                np.hypot(i - 2, j - 2) / (1 + np.abs(kernel[i, j]).mean())
                for i in range(row, row + 3)
                for j in range(column, column + 3)
            )
    best = min(costs, key=costs.get)
    np.testing.assert_array_equal(rows, np.arange(3) + best[0])
    np.testing.assert_array_equal(columns, np.arange(3) + best[1])
    assert best == (2, 1)


def test_of_equal_weights_the_middle_stays_and_of_causal_ones_the_end():
    kernel = np.ones((5, 1, 1))
    np.testing.assert_array_equal(window_indices(kernel, (3,))[0], [1, 2, 3])
    np.testing.assert_array_equal(window_indices(kernel, (3,), is_causal=True)[0], [2, 3, 4])


def test_a_smaller_window_has_the_old_taps_and_their_slots():
    model = around(layers.Conv2D(2, 5, padding="same", name="x"))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    x = example(model)
    model.train_on_batch(x, np.zeros((2, 9, 9, 2)))
    new = surgery.resize_kernel(model, "x", 3)
    old = np.array(model.get_layer("x").kernel)
    rows, columns = window_indices(old, (3, 3))
    np.testing.assert_array_equal(new.get_layer("x").kernel, old[rows][:, columns])
    slots = [next(v for v in m.optimizer.variables if "momentum" in v.path) for m in (model, new)]
    np.testing.assert_array_equal(slots[1], np.array(slots[0])[rows][:, columns])
    new.train_on_batch(x, np.zeros((2, 9, 9, 2)))


def test_a_valid_window_changes_the_shape_and_the_plan_says_to_what():
    model = around(layers.Conv2D(2, 3, name="x"))
    plan = surgery.edit(model)
    plan.resize_kernel("x", 5)
    assert plan.effects == ("'x' gives (5, 5, 2) in place of (7, 7, 2)",)
    x = example(model)
    np.testing.assert_allclose(plan.model(x), model(x)[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-5)
    padded = surgery.resize_kernel(model, "x", 5, padding="same")
    assert padded.output.shape == (None, 9, 9, 2)


def test_what_follows_must_fit_the_new_shape():
    inputs = keras.Input((6, 6, 1))
    x = layers.Flatten()(layers.Conv2D(2, 3, name="x")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    with pytest.raises(ValueError, match="'last/kernel' of shape"):
        surgery.resize_kernel(model, "x", 5)
    with pytest.raises(ValueError, match="no .*window|has a kernel size"):
        surgery.resize_kernel(model, "last", 5)
    with pytest.raises(ValueError, match="kernel_size"):
        surgery.resize_kernel(model, "x", (5, 5, 5))
    with pytest.raises(ValueError, match="kernel_size"):
        surgery.resize_kernel(model, "x", 0)
