"""Masks on layers that exist already, whatever their class (contract M)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfprune
from tests.layers.cases import CASES, prune_some
from tests.masks.in_place_models import (
    CUSTOM,
    MODELS,
    Holder,
    Own,
    X,
    Y,
    by_model,
    masked,
    masks_of,
)
from tfprune.layers import DROP_INS, Masked
from tfprune.masks.in_place import InPlace, mask_in_place
from tfprune.masks.setting import masked_layers
from tfprune.rebuild.copying import copy_model


@by_model
def test_every_trainable_float_weight_carries_masks_and_outputs_are_the_same(make):
    model, new = masked(make)
    assert isinstance(new, type(model))
    np.testing.assert_array_equal(new(X), model(X))
    weights = [m.weight for layer in masked_layers(new) for m in layer.masks_by_name.values()]
    expected = [w for w in new.trainable_weights if keras.backend.is_float_dtype(w.dtype)]
    assert {id(w) for w in weights} == {id(w) for w in expected}
    assert len(weights) == len(expected)
    assert [w.path for w in new.weights] == [w.path for w in model.weights]
    assert not masked_layers(model)


@by_model
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_pruned_stay_zero_and_frozen_bit_for_bit(make, optimizer):
    _, new = masked(make)
    is_adam = optimizer == "adamw"
    optimizer = (
        keras.optimizers.AdamW(0.05, weight_decay=0.1)
        if is_adam
        else keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True)
    )
    new.compile(optimizer, "mse", run_eagerly=is_adam, jit_compile=False)
    new.fit(X, Y, verbose=0)  # slots, before there are masks
    marks = prune_some(new, new)
    assert marks
    new.fit(X, Y, epochs=2, verbose=0)
    for weight, pruned, frozen, before in marks:
        after = np.asarray(weight)
        assert not after[pruned].any()
        np.testing.assert_array_equal(after[frozen], before[frozen])
    moved = [np.any(np.asarray(w) != before) for w, _, _, before in marks]
    assert all(moved)


@by_model
def test_gradients_of_masked_elements_are_zero(make):
    _, new = masked(make)
    marks = prune_some(new, new)
    with tf.GradientTape() as tape:
        loss = ops.sum(new(X, training=True) ** 2)
    weights = [weight.value for weight, *_ in marks]
    for (weight, pruned, frozen, _), gradient in zip(
        marks, tape.gradient(loss, weights), strict=True
    ):
        assert gradient is not None, weight.path
        gradient = np.asarray(gradient)
        assert not gradient[pruned | frozen].any(), weight.path


@by_model
def test_copy_of_a_model_masked_in_place(make):
    _, new = masked(make)
    prune_some(new, new)
    again = copy_model(new, exchange=mask_in_place).model
    assert type(again) is type(new)
    np.testing.assert_array_equal(again(X), new(X))
    np.testing.assert_equal(masks_of(again), masks_of(new))
    again.compile("sgd", "mse", run_eagerly=True)
    before = new.get_weights()
    again.fit(X, Y, verbose=0)
    np.testing.assert_equal(new.get_weights(), before)
    for value, trainable, *_ in masks_of(again):
        assert not value[~trainable].any()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_stock_layer_becomes_its_drop_in(case):
    inputs = case.inputs()
    layer = case.make(keras.layers)
    case.call(layer, inputs)
    drop_in = case.make(tfprune.layers)
    case.call(drop_in, inputs)
    for part in [layer, *layer._flatten_layers()]:
        mask_in_place(part)
    ours, theirs = masked_layers(layer), masked_layers(drop_in)
    theirs = [part for part in theirs if part.masks_by_name]  # nothing to mask: left as it is
    assert [type(part) for part in ours] == [type(part) for part in theirs]
    assert [list(p.masks_by_name) for p in ours] == [list(p.masks_by_name) for p in theirs]
    np.testing.assert_array_equal(
        ops.convert_to_numpy(case.call(layer, inputs)),
        ops.convert_to_numpy(case.call(drop_in, inputs)),
    )


def test_class_keeps_its_name_and_exact_stock_classes_become_drop_ins():
    _, new = masked(MODELS["lists and dicts"])
    holder = new.layers[0]
    assert type(holder).__name__ == "Holder"
    assert isinstance(holder, Holder)
    assert not isinstance(holder, Masked)
    assert type(holder.late) is DROP_INS[layers.Dense]
    assert issubclass(type(holder.listed[1]), Own)
    _, other = masked(MODELS["lists and dicts"])
    assert type(other.layers[0]) is type(holder)


def test_plain_graphs_keep_their_class():
    _, new = masked(MODELS["subclass of Dense"])
    assert type(new) is keras.Sequential


def test_layer_that_is_not_built_gets_its_masks_when_it_is():
    layer = mask_in_place(Own())
    assert list(layer.masks_by_name) == ["scale"]  # made by `__init__`
    layer.build((None, 4))
    assert len(layer.masks_by_name) == 4


def test_config_makes_the_layer_again():
    layer = mask_in_place(Own(3.0, name="own"))
    again = type(layer).from_config(layer.get_config())
    again.build((None, 4))
    assert (again.by, again.name) == (3.0, "own")
    assert len(again.masks_by_name) == 4
    clone = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer), custom_objects=CUSTOM
    )
    assert type(clone) is type(layer)


def test_masked_layers_refuse_quantization():
    _, new = masked(MODELS["own weights"])
    with pytest.raises(ValueError, match="Cannot quantize"):
        new.layers[1].quantize("int8")


def test_in_place_is_not_seen_by_the_class_itself():
    mask_in_place(Own())
    assert not issubclass(Own, InPlace)
    assert keras.saving.get_registered_name(Own) == "Own"


class TrainsAnother(keras.Model):
    """Builds and trains a part that its `call` does not call, with its first batch."""

    def __init__(self, part):
        super().__init__()
        self.called, self.part = keras.layers.Dense(2), part

    def call(self, inputs):
        return self.called(inputs)

    def train_step(self, data):
        x, y = data[:2]
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self.part(x) - y))
        weights = self.part.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


@pytest.mark.parametrize("jit", [False, True])
def test_a_layer_that_a_train_step_builds_gets_masks_that_hold(jit):
    x, y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
    model = TrainsAnother(keras.Sequential([keras.layers.Dense(3)]))
    model(x)
    masked = tfprune.prunable(model)
    masked.compile(keras.optimizers.Adam(0.1), jit_compile=jit)
    masked.train_on_batch(x, y)
    kernel = masked.part.layers[-1].kernel
    assert np.all(kernel)
    kept = np.arange(12).reshape(4, 3) % 2 == 0
    tfprune.set_masks(masked.part, masked.part.layers[-1], "kernel", trainable=kept)
    before = np.array(kernel)
    masked.train_on_batch(x, y)
    assert not np.array(kernel)[~kept].any()
    assert (np.array(kernel) != before)[kept].all()
