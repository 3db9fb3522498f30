"""Freezing by hand, and setting free."""

import keras
import numpy as np
import pytest

import tfprune
from tests.small_mlp import fit, mlp
from tfprune import layers


def frozen(model, layer, name="kernel"):
    return np.array(model.get_layer(layer).frozen_masks[name])


def test_a_single_kernel_of_a_convolution_holds_while_the_others_train():
    model = keras.Sequential(
        [keras.Input((5, 5, 3)), layers.Conv2D(4, 3, name="c"), layers.Flatten(), layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(0.1, weight_decay=0.1), "mse")
    index = np.s_[:, :, 2, 1]
    tfprune.freeze(model, "c", "kernel", index)
    before = np.array(model.get_layer("c").kernel)
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(8, 5, 5, 3)), rng.normal(size=(8, 1)), verbose=0, batch_size=4)
    moved = np.array(model.get_layer("c").kernel) != before
    assert not moved[index].any()
    moved[index] = True
    assert moved.all()


def test_what_is_frozen_adds_up_and_is_set_free_piece_by_piece():
    model = mlp()
    tfprune.freeze(model, "first", "kernel", np.s_[:, 0])
    tfprune.freeze(model, "first", "kernel", (2, slice(None)))
    expected = np.zeros((6, 10), bool)
    expected[:, 0] = expected[2] = True
    np.testing.assert_array_equal(frozen(model, "first"), expected)
    tfprune.unfreeze(model, "first", "kernel", expected & (np.arange(10) < 5))
    expected[:, :5] = False
    np.testing.assert_array_equal(frozen(model, "first"), expected)


def test_a_layer_without_a_weight_means_all_of_it():
    model = mlp()
    tfprune.freeze(model, model.get_layer("norm"))
    assert frozen(model, "norm", "gamma").all()
    assert frozen(model, "norm", "beta").all()
    assert not frozen(model, "first").any()
    tfprune.unfreeze(model, "norm")
    assert tfprune.masks.count_masks(model).frozen == 0


def test_a_nested_model_means_all_layers_in_it():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(3), layers.Dense(2)], name="inner")
    model = keras.Sequential([keras.Input((6,)), inner, layers.Dense(1, name="out")])
    tfprune.freeze(model, "inner")
    assert tfprune.masks.count_masks(model).frozen == inner.count_params()
    assert not frozen(model, "out").any()


def test_slots_of_what_is_frozen_and_of_what_is_set_free_start_anew():
    model = mlp(keras.optimizers.SGD(0.01, momentum=0.9))
    fit(model, epochs=1)
    slot = next(v for v in model.optimizer.variables if v.path.endswith("first_kernel_momentum"))
    assert np.all(np.array(slot)[0] != 0)
    tfprune.freeze(model, "first", "kernel", 0)
    assert not np.array(slot)[0].any()
    assert np.array(slot)[1].any()
    slot.assign(np.ones(slot.shape))  # as an optimizer might leave it
    tfprune.unfreeze(model, "first", "kernel", 0)
    assert not np.array(slot)[0].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "'nowhere'.*'first'"),
        (("first", "gamma"), r"`weight`.*\['bias', 'kernel'\].*'gamma'"),
        (("first", "kernel", 6), r"`index`.*\(6, 10\).*'first'"),
        (("first", "kernel", np.ones((6, 1), bool)), r"`index`.*\(6, 10\)"),
        (("first", None, 0), "`weight` must name it.*'first'"),
    ],
)
@pytest.mark.parametrize("change", [tfprune.freeze, tfprune.unfreeze])
def test_what_does_not_fit_is_refused_and_changes_nothing(change, arguments, message):
    model = mlp()
    tfprune.freeze(model, "last", "bias")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        change(model, *arguments)
    assert tfprune.masks.count_masks(model).frozen == 2


def test_a_layer_without_masks_is_refused():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, name="stock")])
    with pytest.raises(ValueError, match=r"'stock'.*tfprune\.prunable"):
        tfprune.freeze(model, "stock")
