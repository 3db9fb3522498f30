import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import assert_same, randomised, stripped, zero
from tfprune import layers
from tfprune.rebuild.copying import in_double_precision


def grouped(groups=2, inputs=8, filters=12, module=keras.layers, between=(), **options):
    """Conv -> grouped conv -> Conv over 5 x 5 positions."""
    return randomised(
        keras.Sequential(
            [
                keras.Input((5, 5, 3)),
                module.Conv2D(inputs, 1, activation="tanh", name="before"),
                *between,
                module.Conv2D(filters, 3, groups=groups, name="grouped", **options),
                module.ReLU(),
                module.Conv2D(2, 2, name="after"),
            ]
        )
    )


def shape(model, name="grouped"):
    layer = model.get_layer(name)
    return layer.groups, tuple(layer.kernel.shape[-2:])


def zero_channels(model, channels):
    """Channels of `before` are 0."""
    zero(model.get_layer("before").kernel, -1, channels)
    zero(model.get_layer("before").bias, 0, channels)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"use_bias": False}, {"strides": 2}])
def test_pruned_units_go_in_equal_counts(groups, options):
    model = grouped(groups, module=layers, **options)
    counts = tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    # Half of 3 filters in each of 4 groups is rounded to 2.
    assert {c.name: c.pruned for c in counts} == {"before": 4, "grouped": 6 if groups == 2 else 8}
    assert shape(stripped(model)) == (groups, (8 // groups // 2, 6 if groups == 2 else 4))


def test_rows_of_a_filter_are_those_of_its_group():
    model = grouped()
    zero_channels(model, [0, 2, 5, 6])  # other rows in the first group than in the second
    small = stripped(model)
    assert shape(small) == (2, (2, 12))
    ours, theirs = (np.array(m.get_layer("grouped").kernel) for m in (model, small))
    np.testing.assert_array_equal(theirs[..., :6], ours[:, :, [1, 3], :6])
    np.testing.assert_array_equal(theirs[..., 6:], ours[:, :, [0, 3], 6:])


def test_unequal_zeros_keep_more_and_say_why():
    model = grouped()
    zero_channels(model, [0, 2, 5])
    small, report = tfprune.strip(model, return_report=True)
    assert_same(model, small)
    assert shape(small) == (2, (3, 12))
    assert "the groups of 'grouped' must keep equally many units" in str(report)


def test_filters_go_in_equal_counts_too():
    model = grouped()
    zero(model.get_layer("after").kernel, 2, [0, 1, 7, 8, 9])
    assert shape(stripped(model)) == (2, (4, 8))


def test_constants_of_channels_are_folded_into_the_bias():
    for use_bias in (True, False):
        model = grouped(use_bias=use_bias)
        zero(model.get_layer("before").kernel, -1, [1, 4])  # the bias stays
        assert shape(stripped(model)) == (2, (3, 12))


def test_constants_before_padding_stay():
    model = grouped(padding="same")
    zero(model.get_layer("before").kernel, -1, [1, 4])
    assert shape(stripped(model)) == (2, (4, 12))


@pytest.mark.parametrize("gone, left", [([1], 3), ([0, 3], 2), ([0, 1, 3], 1)])
def test_whole_groups_go(gone, left):
    model = grouped(groups=4)
    zero(model.get_layer("after").kernel, 2, [3 * g + i for g in gone for i in range(3)])
    small = stripped(model)
    assert shape(small) == (left, (2, 3 * left))
    assert small.get_layer("before").filters == 2 * left


def test_a_group_whose_inputs_others_use_leaves_equal_counts_at_least():
    inputs = keras.Input((5, 5, 3))
    x = keras.layers.Conv2D(8, 1, name="before")(inputs)
    y = keras.layers.Conv2D(8, 1, groups=4, name="grouped")(x)
    x = keras.layers.Concatenate()([x, y])
    model = randomised(keras.Model(inputs, keras.layers.Conv2D(2, 1, name="after")(x)))
    zero(model.get_layer("after").kernel, 2, [8, 9, 10])  # group 0, and one filter of group 1
    assert shape(stripped(model)) == (4, (2, 8))


@pytest.mark.parametrize("filters", [8, 16])
def test_one_channel_a_group_is_depthwise(filters):
    model = grouped(groups=8, filters=filters, module=layers)
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    assert shape(stripped(model)) == (4, (1, filters // 2))


def test_through_norms_and_into_another_grouped_convolution():
    model = grouped(
        4,
        module=layers,
        between=[
            layers.BatchNormalization(),
            layers.Conv2D(16, 1, groups=2, name="first"),
            layers.GroupNormalization(groups=8),
        ],
    )
    counts = {
        c.name: c.pruned for c in tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    }
    assert counts["first"] == 8  # one of two in each of the 8 groups of the norm
    small = stripped(model)
    assert shape(small, "first") == (2, (2, 8)) and shape(small) == (4, (2, 4))


def test_groups_that_cross_lose_equally_many_of_each_when_shuffled():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(16, 1, groups=1, name="before")(inputs)
    x = layers.Conv2D(16, 1, groups=4, name="first")(x)
    x = layers.Reshape((4, 4, 4, 4))(x)
    x = layers.Permute((1, 2, 4, 3))(x)
    x = layers.Reshape((4, 4, 16))(x)
    x = layers.Conv2D(8, 1, groups=4, name="second")(x)
    model = randomised(keras.Model(inputs, layers.Conv2D(2, 1, name="after")(x)))
    counts = {
        c.name: (c.units, c.pruned)
        for c in tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    }
    small = stripped(model)
    assert counts["before"] == (16, 8)
    assert shape(small, "first")[1][0] == 2


def test_masks_that_leave_no_even_choice_are_refused():
    model = grouped(
        2, inputs=8, module=layers, between=[layers.Conv2D(8, 1, groups=4, name="first")]
    )
    for name in ("kernel", "bias"):
        mask = np.ones(model.get_layer("first").trainable_masks[name].shape, bool)
        mask[..., [0, 1, 2]] = False  # the whole of one group of `first`, and half of the next
        tfprune.set_masks(model, "first", name, trainable=mask)
    with pytest.raises(ValueError, match="all groups lose equally many"):
        tfprune.prune_units(model, 0.5, only=["first"])
    small = tfprune.strip(model)
    assert_same(model, small)


def test_one_dimension_and_dilation():
    inputs = keras.Input((9, 3))
    x = layers.Conv1D(6, 2, activation="relu")(inputs)
    x = layers.Conv1D(9, 2, groups=3, dilation_rate=2, padding="causal", name="grouped")(x)
    model = randomised(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    assert shape(stripped(model)) == (3, (1, 3))


def test_optimizer_slots_follow_the_rows():
    model = grouped(module=layers)
    model.compile("adam", "mse")
    model.train_on_batch(np.ones((2, 5, 5, 3)), np.ones((2, 2, 2, 2)))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    small = tfprune.strip(model)
    small.train_on_batch(np.ones((2, 5, 5, 3)), np.ones((2, 2, 2, 2)))


def test_explain_tells_of_the_constraint():
    assert "grouped" in str(tfprune.explain(grouped(module=layers)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_random_zeros(seed):
    draw = np.random.default_rng(seed)
    model = grouped(int(draw.choice([2, 4])), padding=str(draw.choice(["same", "valid"])))
    for weight in model.weights[:5]:
        value = np.array(weight)
        for axis in range(value.ndim - 2 if value.ndim > 1 else 0, value.ndim):
            if draw.random() < 0.5:
                np.moveaxis(value, axis, 0)[draw.random(value.shape[axis]) < 0.4] = 0
        weight.assign(value)
    small = tfprune.strip(model, check=False)
    ours, theirs = (in_double_precision(each).model for each in (model, small))
    x = draw.normal(size=(3, 5, 5, 3))
    np.testing.assert_allclose(theirs(x), ours(x), rtol=1e-5, atol=1e-5)
