"""Slots of optimizers start anew where masks change."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.layers.masked_training import (
    OPTIMIZERS,
    data,
    small_model,
)


def slots_of(optimizer, weight):
    """The slots of a weight by the name that Keras gives them, inner optimizers included."""
    prefix = weight.path.replace("/", "_") + "_"
    return {
        v.path.split("/")[-1]: np.asarray(v)
        for v in optimizer.variables
        if v.path.split("/")[-1].startswith(prefix) and v.shape == weight.shape
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_slots_start_anew_where_masks_change_and_only_there(optimizer):
    model = small_model(penalty=False)
    options = {"use_ema": True}
    model.compile(optimizer(**options), "mse", run_eagerly=True)
    x, y = data()
    model.train_on_batch(x, y)
    weight = model.get_layer("first").kernel
    before = slots_of(model.optimizer, weight)
    pruned, frozen = np.zeros(weight.shape, bool), np.zeros(weight.shape, bool)
    pruned[:, 0], frozen[:, 1] = True, True
    tfprune.set_masks(model, "first", "kernel", trainable=~pruned, frozen=frozen)
    changed, after = pruned | frozen, slots_of(model.optimizer, weight)
    adafactor = isinstance(model.optimizer, keras.optimizers.Adafactor)
    assert after
    for name, slot in after.items():
        if adafactor and name.endswith("velocity"):
            continue  # made from its row and column factors at every step
        np.testing.assert_array_equal(slot[~changed], before[name][~changed])
        schedule_free = isinstance(model.optimizer, keras.optimizers.ScheduleFreeAdamW)
        if name.endswith("average") or (schedule_free and name.endswith("momentum")):
            start = np.asarray(weight)[changed]
        elif name.endswith("accumulator"):
            start = np.full(changed.sum(), 0.1, "float32")
        else:
            start = np.zeros(changed.sum(), "float32")
        np.testing.assert_array_equal(slot[changed], start, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_regrown_elements_start_at_zero_and_move(optimizer):
    model = small_model(penalty=False)
    model.compile(optimizer(use_ema=True), "mse", run_eagerly=True)
    x, y = data()
    weight = model.get_layer("first").kernel
    model.train_on_batch(x, y)
    tfprune.set_masks(model, "first", "kernel", trainable=np.s_[:, 1:])
    model.train_on_batch(x, y)
    tfprune.set_masks(model, "first", "kernel", trainable=True)
    assert not np.asarray(weight)[:, 0].any()
    slots = slots_of(model.optimizer, weight)
    for name, slot in slots.items():
        adafactor = isinstance(model.optimizer, keras.optimizers.Adafactor)
        if not name.endswith("accumulator") and not (adafactor and name.endswith("velocity")):
            assert not slot[:, 0].any(), name
    model.train_on_batch(x, y)
    assert np.asarray(weight)[:, 0].all()


def test_optimizer_of_a_custom_loop_has_its_slots_reset():
    model, optimizer = small_model(penalty=False), keras.optimizers.Adam(0.01)
    kernel = model.get_layer("first").kernel
    optimizer.apply(
        [tf.ones(v.shape) for v in model.trainable_variables], model.trainable_variables
    )
    tfprune.set_masks(model, "first", "kernel", trainable=np.s_[1:], optimizer=optimizer)
    for slot in slots_of(optimizer, kernel).values():
        assert not slot[0].any()
        assert slot[1:].all()
