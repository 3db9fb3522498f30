"""What files, checkpoints, callbacks and copies make of masks."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import layers
from tfprune.masks.setting import masked_layers


def make(module=layers):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            module.Conv1D(4, 2, name="conv"),
            module.LSTM(3, name="lstm"),
            module.Dense(2, name="dense"),
        ]
    )
    model.compile("adam", "mse", jit_compile=False)
    return model


def mask_some(model, seed=0):
    rng = np.random.default_rng(seed)
    for layer in masked_layers(model):
        for name, weight in layer.masked_weights.items():
            draw = rng.uniform(size=tuple(weight.shape))
            tfprune.set_masks(model, layer, name, trainable=draw > 0.2, frozen=draw > 0.7)


def masks_of(model):
    return {
        (layer.name, name): [np.asarray(m) for m in (mask.trainable, mask.frozen, mask.live)]
        for layer in masked_layers(model)
        for name, mask in layer.masks_by_name.items()
    }


def assert_same(one, other):
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_equal(masks_of(one), masks_of(other))


def train(model, epochs=1, **kwargs):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4, 3)), rng.normal(size=(8, 2))
    return model.fit(x, y, epochs=epochs, verbose=0, **kwargs)


def assert_masks_hold(model):
    before = [np.asarray(w).copy() for w in model.trainable_variables]
    train(model, 2)
    masks = {
        id(mask.weight): mask
        for layer in masked_layers(model)
        for mask in layer.masks_by_name.values()
    }
    for weight, old in zip(model.trainable_variables, before, strict=True):
        mask = masks[id(weight)]
        value, frozen = np.asarray(weight), np.asarray(mask.frozen)
        assert not value[~np.asarray(mask.trainable)].any()
        np.testing.assert_array_equal(value[frozen], old[frozen])
        live = np.asarray(mask.live)
        assert not live.any() or (value[live] != old[live]).any()


KINDS = ["keras", "weights", "checkpoint", "h5", "h5 by name"]


@pytest.mark.slow
@pytest.mark.parametrize("masked_before", [False, True], ids=["fresh", "masked"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_restored_holds_in_further_training(kind, masked_before, tmp_path):
    model, other = make(), make()
    mask_some(model)
    train(model)
    if masked_before:
        mask_some(other, seed=1)
    if kind == "keras":
        model.save(tmp_path / "m.keras")
        other = keras.saving.load_model(tmp_path / "m.keras")
    elif kind == "weights":
        model.save_weights(tmp_path / "m.weights.h5")
        other.load_weights(tmp_path / "m.weights.h5")
    elif kind == "h5":
        model.save(tmp_path / "m.h5")
        other = keras.saving.load_model(tmp_path / "m.h5", compile=False)
        other.compile("adam", "mse", jit_compile=False)
    elif kind != "checkpoint":
        model.save(tmp_path / "m.h5")
        other.load_weights(tmp_path / "m.h5", by_name=kind.endswith("name") or None)
    else:
        path = tf.train.Checkpoint(model=model).save(tmp_path / "m")
        tf.train.Checkpoint(model=other).restore(path)
    assert_same(model, other)
    assert_masks_hold(other)


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.weights.h5"])
def test_model_checkpoint_keeps_the_masks(name, tmp_path):
    model, other = make(), make()
    mask_some(model)
    only_weights = name.endswith("weights.h5")
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / name, save_weights_only=only_weights)
    train(model, callbacks=[checkpoint])
    if only_weights:
        other.load_weights(tmp_path / name)
    else:
        other = keras.saving.load_model(tmp_path / name, compile=False)
    assert_same(model, other)


def test_h5_file_that_does_not_fit_leaves_masks_in_force(tmp_path):
    model, wider = (
        keras.Sequential([keras.Input((3,)), layers.Dense(n, name="wide")]) for n in (4, 5)
    )
    mask_some(model)
    mask_some(wider)
    wider.save(tmp_path / "wider.h5")
    before = masks_of(model)
    with pytest.raises(ValueError, match="mismatch"):
        model.load_weights(tmp_path / "wider.h5")
    np.testing.assert_equal(masks_of(model), before)
    kept = np.asarray(model.layers[0].trainable_masks["kernel"])
    assert not np.asarray(model.layers[0].kernel)[~kept].any()


def test_plain_checkpoint_leaves_masks_standing_and_pruned_elements_zero(tmp_path):
    stock, masked = make(keras.layers), make()
    stock.set_weights([w + 1 for w in stock.get_weights()])
    path = tf.train.Checkpoint(model=stock).save(tmp_path / "plain")
    mask_some(masked)
    masks = masks_of(masked)
    tf.train.Checkpoint(model=masked).restore(path)
    np.testing.assert_equal(masks_of(masked), masks)
    kept = {
        id(m.weight): np.asarray(m.trainable)
        for layer in masked_layers(masked)
        for m in layer.masks_by_name.values()
    }
    for weight, truth in zip(masked.weights, stock.get_weights(), strict=True):
        truth = np.where(kept.get(id(weight), True), truth, np.zeros((), truth.dtype))
        np.testing.assert_array_equal(np.asarray(weight), truth)
    assert_masks_hold(masked)


def test_checkpoint_restored_before_the_model_is_built(tmp_path):
    model = make()
    mask_some(model)
    path = tf.train.Checkpoint(model=model).save(tmp_path / "m")
    late = keras.Sequential(
        [
            layers.Conv1D(4, 2, name="conv"),
            layers.LSTM(3, name="lstm"),
            layers.Dense(2, name="dense"),
        ]
    )
    tf.train.Checkpoint(model=late).restore(path)
    late.build((None, 4, 3))
    late.compile("adam", "mse", jit_compile=False)
    assert_same(model, late)
    assert_masks_hold(late)


def test_backup_and_restore_brings_masks_back(tmp_path):
    class InterruptedTrainingError(Exception):
        pass

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise InterruptedTrainingError

    model, other = make(), make()
    mask_some(model)
    with pytest.raises(InterruptedTrainingError):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        train(model, 3, callbacks=[backup, Interrupt()])
    seen = []
    look = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: seen.append(masks_of(other)))
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    train(other, 3, callbacks=[backup, look])
    assert len(seen) == 2
    np.testing.assert_equal(seen[0], masks_of(model))
    np.testing.assert_equal(masks_of(other), masks_of(model))
    assert_masks_hold(other)


def test_early_stopping_restores_weights_under_the_masks():
    model = make()
    mask_some(model)
    masks = masks_of(model)
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=0, mode="max", restore_best_weights=True, start_from_epoch=0
    )
    train(model, 5, callbacks=[stop])
    assert stop.stopped_epoch
    np.testing.assert_equal(masks_of(model), masks)
    assert_masks_hold(model)


def test_set_weights_passes_masked_elements_by():
    model = make()
    mask_some(model)
    before = model.get_weights()
    model.set_weights([w + 1 for w in before])
    live = {
        id(m.weight): np.asarray(m.live)
        for layer in masked_layers(model)
        for m in layer.masks_by_name.values()
    }
    for weight, old in zip(model.weights, before, strict=True):
        truth = np.where(live.get(id(weight), True), old + 1, old)
        np.testing.assert_array_equal(np.asarray(weight), truth)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_have_their_own_masks(duplicate):
    model = make()
    mask_some(model)
    train(model)
    other = duplicate(model)
    assert_same(model, other)
    if duplicate is copy.copy:
        return  # Shares everything, as a shallow copy of a stock model does.
    before = masks_of(model)
    tfprune.set_masks(other, "dense", "kernel", trainable=True, frozen=np.s_[:0])
    np.testing.assert_equal(masks_of(model), before)
    mask_some(other, seed=1)
    assert_masks_hold(other)


def test_clone_has_fresh_masks_as_it_has_fresh_weights():
    model = make()
    mask_some(model)
    clone = keras.models.clone_model(model)
    assert type(clone.get_layer("dense")) is layers.Dense
    assert all(kept.all() and live.all() for kept, _, live in masks_of(clone).values())


def test_a_file_that_does_not_fit_leaves_masks_in_force(tmp_path):
    def lstm(units):
        return keras.Sequential([keras.Input((4, 3)), layers.LSTM(units, name="lstm")])

    model, wider = lstm(3), lstm(5)
    mask_some(model)
    mask_some(wider)
    wider.save_weights(tmp_path / "wider.weights.h5")
    before = masks_of(model)
    with pytest.raises(ValueError, match="could not be loaded|shape"):
        model.load_weights(tmp_path / "wider.weights.h5")
    np.testing.assert_equal(masks_of(model), before)
    model.load_weights(tmp_path / "wider.weights.h5", skip_mismatch=True)
    np.testing.assert_equal(masks_of(model), before)


def test_file_grows_by_the_bits_of_the_masks(tmp_path):
    def size(model):
        model.save_weights(tmp_path / "m.weights.h5")
        return (tmp_path / "m.weights.h5").stat().st_size

    model = keras.Sequential([keras.Input((256,)), layers.Dense(256, name="dense")])
    fresh = size(model)
    kernel = model.get_layer("dense").kernel
    tfprune.set_masks(model, "dense", "kernel", trainable=np.asarray(kernel) > 0)
    masks = 2 * 256 * 256 / 8
    assert masks <= size(model) - fresh < masks + 8192


def test_masks_are_in_the_file_but_not_in_weights_or_summary():
    model, stock = make(), make(keras.layers)
    mask_some(model)
    assert len(model.weights) == len(stock.weights)
    assert len(model.variables) == len(stock.variables)
    assert model.count_params() == stock.count_params()
