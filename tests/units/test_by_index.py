"""Units named by their index go with their whole group; masks on a part of a group are named."""

import warnings

import keras
import numpy as np
import pytest

import tfprune
from tfprune.masks.setting import count_masks

L = keras.layers
RNG = np.random.default_rng(0)


def residual():
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="before")(inputs)
    y = L.BatchNormalization(name="norm")(L.Conv2D(8, 3, padding="same", name="conv")(x))
    x = L.GlobalAveragePooling2D()(L.Add(name="sum")([x, y]))
    x = L.Dense(5, activation="relu", name="mid")(x)
    return tfprune.prunable(keras.Model(inputs, L.Dense(3, name="logits")(x)))


def kept(model, layer, weight):
    return np.asarray(model.get_layer(layer).trainable_masks[weight])


def mask_columns(model, layer, indices):
    for name, weight in model.get_layer(layer).masked_weights.items():
        mask = np.ones(tuple(weight.shape), bool)
        mask[..., indices] = False
        tfprune.set_masks(model, layer, name, trainable=mask)


@pytest.mark.parametrize("key", ["before", "conv"])
@pytest.mark.parametrize(
    "indices", [[1, 5], (5, -7), np.array([5, 1]), np.isin(range(8), [1, 5]), slice(1, 6, 4)]
)
def test_the_whole_group_goes(key, indices):
    model = residual()
    (count,) = tfprune.prune_units(model, units={key: indices})
    assert (count.name, count.units, count.pruned) == ("before + conv", 8, 2)
    expected = ~np.isin(range(8), [1, 5])
    for layer, weight in [("before", "kernel"), ("conv", "kernel"), ("norm", "gamma")]:
        assert (kept(model, layer, weight) & ~expected).sum() == 0
    np.testing.assert_array_equal(kept(model, "conv", "bias"), expected)
    np.testing.assert_array_equal(kept(model, "mid", "kernel"), np.repeat(expected[:, None], 5, 1))
    assert kept(model, "mid", "bias").all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        small = tfprune.strip(model)
    assert small.get_layer("conv").filters == 6
    x = RNG.normal(size=(4, 6, 6, 2))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-6)


def test_layers_are_keys_too_and_several_go_at_once():
    model = residual()
    units = {model.get_layer("conv"): [0], "before": 0, "mid": [3, 4]}
    counts = tfprune.prune_units(model, units=units)
    assert {(c.name, c.pruned) for c in counts} == {("before + conv", 1), ("mid", 2)}


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"nosuch": [0]}, "'nosuch'"),
        ({"conv": [8]}, "layer='conv', which has 8"),
        ({"conv": 0.5}, "must index the units"),
        ({"conv": slice(None)}, "at least one unit.*'before . conv'"),
        ({"mid": [0], "logits": [1]}, "it is an output of the model.*'logits', index=1"),
        ({"logits": [1]}, "'logits': it is an output of the model"),
        ({"mid": [2]}, "frozen elements.*'mid', index=2"),
        ({}, "Argument `units` must be a dict"),
        (["conv"], "Argument `units` must be a dict"),
    ],
)
def test_what_cannot_go_is_refused_and_nothing_changes(units, message):
    model = residual()
    tfprune.set_masks(model, "mid", "bias", frozen=[2])
    with pytest.raises(ValueError, match=message):
        tfprune.prune_units(model, units=units)
    assert count_masks(model).pruned == 0


def test_units_stand_alone():
    with pytest.raises(ValueError, match="`target`, `only` and `exclude` must be None"):
        tfprune.prune_units(residual(), 0.5, units={"conv": [1]})


def test_groups_keep_equal_counts():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            L.Dense(8, name="wide"),
            L.GroupNormalization(2, name="groups"),
            L.Dense(1),
        ]
    )
    model = tfprune.prunable(model)
    with pytest.raises(ValueError, match=r"'groups' must keep equally many.*\[3, 4\]"):
        tfprune.prune_units(model, units={"wide": [0]})
    tfprune.prune_units(model, units={"wide": [0, 5]})
    assert tfprune.strip(model).get_layer("wide").units == 6


def test_heads_by_the_name_of_their_family():
    inputs = keras.Input((4, 8))
    x = L.MultiHeadAttention(4, 4, name="attention")(L.Dense(8, name="first")(inputs), inputs)
    model = tfprune.prunable(keras.Model(inputs, L.Dense(2)(x)))
    counts = tfprune.prune_units(model, units={"attention/heads": [0, -1]})
    assert ("attention/heads", 2) in {(count.name, count.pruned) for count in counts}
    assert tfprune.strip(model).get_layer("attention").num_heads == 2


def test_masks_on_a_part_of_a_group_are_named_with_the_group():
    model = residual()
    mask_columns(model, "conv", [1, 5])
    with pytest.warns(UserWarning, match="stay") as caught:
        small, report = tfprune.strip(model, return_report=True)
    message = str(caught[0].message)
    assert "'conv' [1, 5]: units of 'before + conv' go together, and 'before' does not" in message
    assert "prune_units(model, units={'conv': [1, 5]})" in message
    assert small.get_layer("conv").filters == 8
    reasons = {(each.layer, each.index): each.reason for each in report.kept}
    assert "units of 'before + conv' go together" in reasons["conv", 1]


def test_masks_on_outputs_are_named():
    model = residual()
    mask_columns(model, "logits", [0])
    with pytest.warns(UserWarning, match=r"'logits' \[0\]: it is an output of the model"):
        tfprune.strip(model)


def test_nothing_is_said_of_units_that_are_not_masked_whole():
    model = residual()
    tfprune.set_masks(model, "conv", "kernel", trainable=np.s_[..., 1:, :])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tfprune.strip(model)
