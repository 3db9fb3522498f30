"""Files of models whose layers were given masks in place (contract M)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tests.layers.cases import prune_some
from tests.masks.in_place_models import (
    CUSTOM,
    MODELS,
    X,
    Y,
    by_model,
    masked,
    masks_of,
    sequential,
)
from tfprune.masks.in_place import mask_in_place, note_masks_inside
from tfprune.masks.setting import masked_layers
from tfprune.rebuild.copying import copy_model


def masked_twin(model):
    return copy_model(model, exchange=mask_in_place).model


@by_model
def test_saved_and_loaded_with_the_users_classes(make, tmp_path):
    _, new = masked(make)
    prune_some(new, new)
    new.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras", custom_objects=CUSTOM)
    np.testing.assert_array_equal(loaded(X), new(X))
    assert sorted(type(layer).__name__ for layer in masked_layers(loaded)) == sorted(
        type(layer).__name__ for layer in masked_layers(new)
    )
    np.testing.assert_equal(masks_of(loaded), masks_of(new))
    loaded.compile(keras.optimizers.AdamW(0.05), "mse", run_eagerly=True)
    loaded.fit(X, Y, verbose=0)
    for value, trainable, *_ in masks_of(loaded):
        assert not value[~trainable].any()
    loaded.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras", custom_objects=CUSTOM)
    np.testing.assert_array_equal(again(X), loaded(X))


# TensorFlow's checkpoints pass by what Keras keeps in lists and dicts, in any model.
WITHOUT_LISTS = ["subclass of Dense", "subclass of attention", "custom cell", "stock"]


@pytest.mark.parametrize("name", [*WITHOUT_LISTS, "weight read from outside"])
def test_checkpoints_keep_the_masks(name, tmp_path):
    _, new = masked(MODELS[name])
    prune_some(new, new)
    _, other = masked(MODELS[name])
    path = tf.train.Checkpoint(model=new).save(tmp_path / "c")
    tf.train.Checkpoint(model=other).restore(path)
    np.testing.assert_equal(masks_of(other), masks_of(new))


@by_model
def test_weights_files_keep_the_masks(make, tmp_path):
    model, new = masked(make)
    prune_some(new, new)
    _, other = masked(make)
    new.save_weights(tmp_path / "w.weights.h5")
    other.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_equal(masks_of(other), masks_of(new))
    model.load_weights(tmp_path / "w.weights.h5")  # the model without masks reads the values
    np.testing.assert_array_equal(model(X), new(X))


# Keras loads no subclassed model from `.h5` files.
@pytest.mark.parametrize("name", [n for n in MODELS if n != "subclassed"])
def test_h5_files_keep_the_masks(name, tmp_path):
    model, new = masked(MODELS[name])
    prune_some(new, new)
    model.save(tmp_path / "model.h5")
    new.save(tmp_path / "new.h5")
    _, other = masked(MODELS[name])
    prune_some(other, other)
    before = masks_of(other)
    other.load_weights(tmp_path / "model.h5")  # which says nothing of masks
    for (value, *masks), (_, *old), truth in zip(
        masks_of(other), before, masks_of(masked_twin(model)), strict=True
    ):
        np.testing.assert_equal(masks, old)
        np.testing.assert_array_equal(value, np.where(masks[0], truth[0], 0))
    other.load_weights(tmp_path / "new.h5")
    np.testing.assert_equal(masks_of(other), masks_of(new))
    model.load_weights(tmp_path / "new.h5")
    np.testing.assert_array_equal(model(X), new(X))
    loaded = keras.saving.load_model(tmp_path / "new.h5", CUSTOM)
    np.testing.assert_equal(masks_of(loaded), masks_of(new))


def test_layers_left_out_stay_as_they_are(tmp_path):
    model = MODELS["lists and dicts"]()
    dense = model.layers[0].late

    copy = copy_model(model)
    for layer in copy.layers.values():
        (mask_in_place if layer is copy.layers[dense] else note_masks_inside)(layer)
    assert masked_layers(copy.model) == [copy.layers[dense]]
    prune_some(copy.model, copy.model)
    copy.model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", custom_objects=CUSTOM)
    assert [layer.name for layer in masked_layers(loaded)] == ["late"]
    np.testing.assert_array_equal(loaded(X), copy.model(X))


class Unsaved(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.own = self.add_weight(shape=(), initializer="ones", name="own")

    def call(self, x):
        return self.function(x) * self.own


def test_what_keras_cannot_save_is_refused_with_the_class_named(tmp_path):
    _, new = masked(lambda: sequential(Unsaved(ops.abs)))
    with pytest.raises(NotImplementedError, match="Unsaved"):
        new.save(tmp_path / "m.keras")
    new.save_weights(tmp_path / "m.weights.h5")


def test_file_needs_the_users_class(tmp_path):
    _, new = masked(MODELS["own weights"])
    new.save(tmp_path / "m.keras")
    with pytest.raises(TypeError, match="Own"):
        keras.saving.load_model(tmp_path / "m.keras")


class Other(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.listed = [layers.Flatten(), layers.Flatten(), layers.Flatten()]

    def call(self, x):
        return x


def test_file_whose_class_has_changed_is_refused(tmp_path):
    _, new = masked(MODELS["lists and dicts"])
    new.save(tmp_path / "m.keras")
    with pytest.raises((TypeError, ValueError), match="do not fit the layer"):
        keras.saving.load_model(tmp_path / "m.keras", custom_objects={**CUSTOM, "Holder": Other})
