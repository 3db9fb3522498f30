"""Layers that an edit leaves as they are, which the new model has as copies."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune import surgery
from tfprune.surgery import Split, by

layers = keras.layers


def images(masked=False):
    inputs = keras.Input((8, 8, 3), name="pictures")
    x = layers.Conv2D(4, 3, padding="same", name="far")(inputs)
    x = layers.BatchNormalization(name="far_norm")(x)
    x = layers.ReLU(name="far_relu")(x)
    x = layers.Conv2D(6, 3, padding="same", name="near")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(5, 1, name="after")(x)
    x = layers.LayerNormalization(name="after_norm")(x)
    x = layers.Conv2D(5, 1, name="end")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    model = tfprune.prunable(model) if masked else model
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.split("/")[0] in WITH_WEIGHTS:
            weight.assign(random.uniform(0.5, 1, weight.shape))
    return model


WITH_WEIGHTS = ("far", "far_norm", "near", "after", "after_norm", "end", "logits")
PICTURES = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")

EDITS = {
    "shrink": (lambda model: surgery.resize(model, {"near": by(-2)}), {"near", "after"}),
    "grow": (lambda model: surgery.resize(model, {"near": by(2)}), {"near", "after"}),
    "split": (lambda m: surgery.resize(m, {"near": by(2)}, split=Split()), {"near", "after"}),
    "insert": (lambda model: surgery.insert(model, "near", layers.Conv2D(6, 1, name="new")), set()),
    "remove": (lambda model: surgery.remove(model, "far_relu"), set()),
    "window": (lambda model: surgery.resize_kernel(model, "near", 5), {"near"}),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("masked", [False, True], ids=["stock", "masked"])
def test_layers_that_stay_are_copies_and_share_nothing(name, masked):
    model, (edit, changed) = images(masked), EDITS[name]
    if masked:
        mask = np.arange(3 * 3 * 3 * 4).reshape(3, 3, 3, 4) % 3 > 0
        tfprune.set_masks(model, model.get_layer("far"), "kernel", trainable=mask)
    for layer in model.layers:
        layer.note = layer.name  # no config says it
    new = edit(model)
    copied = {layer.name for layer in new.layers if getattr(layer, "note", None)}
    assert set(WITH_WEIGHTS) - changed <= copied
    assert not changed & copied
    before = [np.array(weight) for weight in model.weights]
    if masked:
        kernel = new.get_layer("far").kernel
        np.testing.assert_array_equal(np.array(kernel) != 0, mask)
    new.compile("sgd", "mse")
    new.fit(PICTURES, np.ones((2, 2)), verbose=0)
    if masked:
        np.testing.assert_array_equal(np.array(kernel) != 0, mask)
        assert not np.array_equal(np.array(kernel), np.array(model.get_layer("far").kernel))
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), value)


def test_the_optimizer_goes_on_with_copied_layers():
    model = images()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(PICTURES, np.ones((2, 2)), verbose=0)
    new = surgery.resize(model, {"near": by(2)})  # new units have no effect
    new.fit(PICTURES, np.ones((2, 2)), verbose=0)
    model.fit(PICTURES, np.ones((2, 2)), verbose=0)
    for name in ("logits", "end"):
        ours, theirs = (np.array(each.get_layer(name).kernel) for each in (model, new))
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_layers_that_take_another_shape_are_made_again(tmp_path):
    model = images()
    new = surgery.remove(model, "pool")
    shape = new.get_layer("after").get_build_config()["input_shape"]
    assert tuple(shape) == (None, 8, 8, 6)
    new.save(tmp_path / "new.keras")
    again = keras.saving.load_model(tmp_path / "new.keras")
    np.testing.assert_allclose(again(PICTURES), new(PICTURES), atol=1e-6)


def test_weights_over_positions_are_refused_where_these_change():
    inputs = keras.Input((8, 3), name="steps")
    x = layers.MaxPooling1D(8, name="pool")(inputs)
    x = layers.LayerNormalization(axis=(1, 2), name="all_norm")(x)  # its weights would broadcast
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match="all_norm"):
        surgery.remove(model, "pool")
