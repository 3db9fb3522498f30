"""Masks on layers that exist already, whatever their class (contract M)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfprune
from tests.layers.cases import CASES, prune_some
from tfprune.layers import DROP_INS, Masked
from tfprune.masks.in_place import InPlace, mask_in_place, note_masks_inside
from tfprune.masks.setting import masked_layers
from tfprune.rebuild.copying import copy_model

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 2)).astype("float32")


class Own(layers.Layer):
    """Weights by `add_weight`, by a variable, in a list; one that is not trained, one of ints."""

    def __init__(self, by=2.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by
        self.scale = keras.Variable(1.0, name="scale")

    def build(self, shape):
        self.token = self.add_weight(shape=(shape[-1],), name="token")
        self.listed = [self.add_weight(shape=(shape[-1],), name=f"w{i}") for i in range(2)]
        self.still = self.add_weight(shape=(shape[-1],), trainable=False, name="still")
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", name="count")

    def call(self, x):
        return x * self.by * self.scale + self.token + self.listed[0] * self.listed[1]


class Holder(layers.Layer):
    """Sub-layers in lists and dicts, built late, and one made in `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.listed = [layers.Dense(4, name="a"), Own(name="own")]
        self.by_name = {"b": {"c": layers.Dense(4, name="c")}}

    def build(self, shape):
        self.late = layers.Dense(shape[-1], name="late")

    def call(self, x):
        return self.late(self.by_name["b"]["c"](self.listed[1](self.listed[0](x))))


class SubDense(layers.Dense):
    def call(self, x, training=False):
        return super().call(x, training=training) + 1.0


class Heads(layers.MultiHeadAttention):
    """As the cached attention of KerasHub: it calls its projections itself."""

    def call(self, query, value, key=None):
        return super().call(query, value, key) + self._output_dense(self._query_dense(value))


@keras.saving.register_keras_serializable("tests")
class Cell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")

    def call(self, x, states):
        h = ops.tanh(x @ self.kernel + states[0] @ self.recurrent)
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Untied(layers.Layer):
    """Reads a weight of the layer in it without calling that."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, use_bias=False)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.dense.kernel))


class Net(keras.Model):
    def __init__(self, units=5, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.a, self.own, self.b = layers.Dense(units, activation="relu"), Own(), layers.Dense(2)
        self.scale = self.add_weight(shape=(2,), initializer="ones", name="scale")

    def call(self, x):
        return self.b(self.own(self.a(x))) * self.scale

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return {"own_loss": loss}

    def get_config(self):
        return {"units": self.units}


class Backbone(keras.Model):
    """A graph made from numbers in `__init__`, as in KerasHub."""

    def __init__(self, units, **kwargs):
        inputs = keras.Input((4,))
        block = Holder(name="block")
        super().__init__(inputs, layers.Dense(2)(block(SubDense(units)(inputs))), **kwargs)
        self.block, self.units = block, units

    def get_config(self):
        return {"units": self.units, "name": self.name}


CUSTOM = {c.__name__: c for c in (Own, Holder, SubDense, Heads, Untied, Net, Backbone)}


def sequential(*parts):
    return keras.Sequential([keras.Input((4,)), *parts, layers.Dense(2)])


def attending():
    inputs = keras.Input((4,))
    x = layers.Reshape((2, 2))(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(Heads(2, 3)(x, x))))


def net():
    model = Net()
    model(X)
    return model


MODELS = {
    "own weights": lambda: sequential(layers.Dense(3), Own()),
    "lists and dicts": lambda: sequential(Holder()),
    "subclass of Dense": lambda: sequential(SubDense(3)),
    "subclass of attention": attending,
    "custom cell": lambda: sequential(
        layers.Reshape((4, 1)), layers.Bidirectional(layers.RNN(Cell(3)))
    ),
    "stacked cells": lambda: sequential(
        layers.Reshape((4, 1)), layers.RNN([Cell(3), layers.GRUCell(2)])
    ),
    "stock": lambda: sequential(
        layers.BatchNormalization(), layers.Reshape((4, 1)), layers.LSTM(3), layers.PReLU()
    ),
    "weight read from outside": lambda: sequential(Untied()),
    "subclassed": net,
    "graph from numbers": lambda: Backbone(3),
}
by_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def masked(make):
    model = make()
    copy = copy_model(model, exchange=mask_in_place)
    return model, copy.model


def masked_twin(model):
    return copy_model(model, exchange=mask_in_place).model


def masks_of(model):
    """The value and the masks of every weight that has masks, in the order of the weights."""
    found = {}
    for layer in masked_layers(model):
        for mask in layer.masks_by_name.values():
            values = mask.weight, mask.trainable, mask.frozen, mask.live
            found[id(mask.weight)] = [np.asarray(value) for value in values]
    return [found[id(weight)] for weight in model.weights if id(weight) in found]


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
