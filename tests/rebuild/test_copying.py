"""Copies of models of every kind: same class, same results, nothing shared, trained alike."""

import gc
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfprune
from tests.rebuild.copied_models import (
    MODELS,
    X,
    Y,
    closures,
    cut_out_of_the_middle,
    functional,
    lambdas,
    masked,
    part_of_a_larger_model,
    sequential,
    shared_and_nested_model,
    shared_layer,
)
from tfprune import _keras
from tfprune.rebuild.copying import copy_model


def arrays(values):
    return [np.asarray(ops.convert_to_numpy(value)) for value in keras.tree.flatten(values)]


def assert_same(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_faithful(model, x=X):
    """Checks all that holds for any model, and returns its copy."""
    expected = arrays(model(x, training=False))
    copy = copy_model(model)
    new = copy.model
    assert type(new) is type(model)
    assert [v.path for v in new.variables] == [v.path for v in model.variables]
    assert not {id(v) for v in new.variables} & {id(v) for v in model.variables}
    pairs = {id(old): variable for old, variable in copy.variables}
    assert [id(pairs[id(v)]) for v in model.variables] == [id(v) for v in new.variables]
    assert len({id(variable) for variable in pairs.values()}) == len(pairs) == len(copy.variables)
    assert_same(new(x, training=False), expected)
    values = model.get_weights()
    for weight in model.weights:  # nothing of the copy may hang on them
        weight.assign(ops.zeros_like(weight))
    assert_same(new(x, training=False), expected)
    model.set_weights(values)
    for old, layer in copy.layers.items():
        assert type(layer) is type(old)
        assert layer.name == old.name
    return copy


def assert_close(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):  # sums of gradients are in any order
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def assert_trains_alike(model, new):
    histories = []
    for each in (model, new):
        keras.utils.set_random_seed(5)
        histories.append(each.fit(X, Y, batch_size=8, verbose=0).history)
    assert list(histories[0]) == list(histories[1])
    assert_close(*histories)
    assert_close(model.get_weights(), new.get_weights())
    assert_close(model.optimizer.variables, new.optimizer.variables)


@pytest.mark.parametrize("make", [*MODELS, cut_out_of_the_middle], ids=lambda make: make.__name__)
def test_copy_is_of_the_class_computes_the_same_and_shares_nothing(make):
    assert_faithful(make())


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_copy_trains_as_the_model_does(make):
    model = make()
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=make is not functional)
    model.fit(X, Y, verbose=0)  # the optimizer has slots, seeds are drawn
    before = model.get_weights()
    copy_model(model).model.fit(X, Y, verbose=0)
    assert_same(model.get_weights(), before)
    assert_trains_alike(model, copy_model(model).model)


def test_layers_and_operations_of_the_graph_stand_as_before():
    model = shared_and_nested_model()
    new = copy_model(model).model
    assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers]
    assert new.get_config() == model.get_config()
    again = keras.Model(new.input, new.layers[-1].output)  # the graph can be built upon
    assert_same(again(X), model(X))
    outer = new.get_layer("outer")
    assert outer.get_layer("inner") is new.get_layer("inner")
    assert new.count_params() == model.count_params()


def test_calls_outside_of_the_model_are_left_out():
    model = part_of_a_larger_model()
    copy = copy_model(model)
    assert len(copy.layers) == len(model.layers) + 1  # the model itself
    assert len(copy.layers[model.get_layer("hidden")]._outbound_nodes) == 1


def test_tied_embedding_stays_tied():
    tokens = keras.Input((5,), dtype="int32")
    embedding = layers.ReversibleEmbedding(20, 8)
    backbone = keras.Model(tokens, layers.Dense(8)(embedding(tokens)))
    again = keras.Input((5,), dtype="int32")
    model = keras.Model(again, embedding(backbone(again), reverse=True))
    copy = assert_faithful(model, np.arange(10).reshape(2, 5))
    assert copy.model.count_params() == model.count_params() == 20 * 8 + 8 * 8 + 8


def test_functions_are_kept_and_closures_refer_to_the_copy():
    model = lambdas()
    new = copy_model(model).model
    assert new.layers[1].function is model.layers[1].function
    model = closures()
    old, new = model.layers[0], copy_model(model).model.layers[0]
    assert new.by_method.__self__ is new
    assert new.by_partial.func.__self__ is new
    assert new.by_lambda.__closure__[0].cell_contents is new
    assert new.by_default.__defaults__[0] is new.other
    assert old.by_method.__self__ is old


class Table(layers.Layer):
    """Python objects of the user's own, and the ids of layers as keys."""

    class Settings:
        def __init__(self, size):
            self.size = size

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)
        self.settings = Table.Settings(4)
        self.table = np.arange(4.0, dtype="float32")
        self.sizes = {id(self.dense): 3.0}

    def call(self, x):
        return self.dense(x) * self.sizes[id(self.dense)] + self.table[: self.settings.size]


def test_objects_and_arrays_of_the_users_layers_are_copied():
    model = keras.Sequential([keras.Input((4,)), Table()])
    old, new = model.layers[0], assert_faithful(model).model.layers[0]
    new.settings.size, new.table[0] = 9, 7.0
    assert (old.settings.size, old.table[0]) == (4, 0.0)
    assert list(new.sizes) == [id(new.dense)]


@pytest.mark.parametrize(
    ("layer", "dtype", "data", "x"),
    [
        (
            layers.StringLookup(output_mode="multi_hot"),
            "string",
            ["a", "b", "b", "c"],
            [["a"], ["q"]],
        ),
        (layers.IntegerLookup(output_mode="multi_hot"), "int32", [5, 7, 7, 9], [[5], [1]]),
        (
            layers.TextVectorization(output_mode="tf_idf", max_tokens=6),
            "string",
            ["a b", "b c"],
            [["a"], ["b c"]],
        ),
        (
            layers.Discretization(num_bins=3, output_mode="one_hot"),
            "float32",
            [[0.0], [1.0], [5.0]],
            [[0.0], [3.0]],
        ),
        (layers.Normalization(), "float32", [[0.0], [1.0], [2.0]], [[0.0], [3.0]]),
        (layers.Hashing(3, output_mode="one_hot"), "string", None, [["a"], ["b"]]),
    ],
    ids=lambda value: value.name if isinstance(value, layers.Layer) else "",
)
def test_adapted_layers_keep_what_they_learned(layer, dtype, data, x):
    if data is not None:
        layer.adapt(tf.constant(data))
    inputs = keras.Input((1,), dtype=dtype)
    model = keras.Model(inputs, layers.Dense(2)(layer(inputs)))
    x = tf.constant(x)
    before = arrays(model(x))
    copy = assert_faithful(model, x)
    if hasattr(layer, "get_vocabulary"):
        assert copy.layers[layer].get_vocabulary() == layer.get_vocabulary()
    elif data is not None:
        copy.layers[layer].adapt(tf.constant(data[:2]))
        assert_same(model(x), before)


def test_lookup_that_learns_anew_leaves_the_model_alone():
    layer = layers.StringLookup()
    layer.adapt(tf.constant(["a", "b", "b"]))
    model = keras.Sequential([keras.Input((1,), dtype="string"), layer])
    copy = copy_model(model)
    copy.layers[layer].adapt(tf.constant(["x", "y"]))
    assert layer.get_vocabulary() == ["[UNK]", "b", "a"]
    assert copy.layers[layer].get_vocabulary() == ["[UNK]", "y", "x"]


@pytest.mark.parametrize("make", [functional, sequential, shared_layer, masked])
def test_copy_is_saved_as_the_model_is(make, tmp_path):
    model = make()
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(X, Y, verbose=0)
    new = copy_model(model).model
    new.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    assert_same(loaded(X), model(X))
    assert_same(loaded.optimizer.variables, model.optimizer.variables)
    new.save_weights(tmp_path / "new.weights.h5")
    other = make()
    other.load_weights(tmp_path / "new.weights.h5")
    assert_same(other(X), model(X))
    path = tf.train.Checkpoint(model=new).save(tmp_path / "checkpoint")
    other = copy_model(make()).model
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()
    assert_same(other(X), model(X))


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5),
    "schedule": lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 20)),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
    "adafactor": lambda: keras.optimizers.Adafactor(0.1),
    "muon": lambda: keras.optimizers.Muon(0.1),
    "accumulation": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizer_goes_on_where_it_was(optimizer):
    model = functional()
    model.compile(optimizer(), "mse", run_eagerly=True)
    model.fit(X, Y, batch_size=8, verbose=0)
    new = copy_model(model).model
    assert new.optimizer is not model.optimizer
    assert int(new.optimizer.iterations) == int(model.optimizer.iterations) > 0
    assert_trains_alike(model, new)


class Counting(keras.optimizers.SGD):
    """State of one's own, by variable."""

    def build(self, variables):
        super().build(variables)
        self.seen = [self.add_variable_from_reference(v, "seen") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        seen = self.seen[self._get_variable_index(variable)]
        self.assign_add(seen, ops.cast(gradient != 0, variable.dtype))
        super().update_step(gradient, variable, learning_rate)


def test_custom_optimizers_state_is_copied():
    model = functional()
    model.compile(Counting(0.1), "mse", run_eagerly=True)
    model.fit(X, Y, verbose=0)
    new = copy_model(model).model
    assert_trains_alike(model, new)
    assert any((np.asarray(count) > 1).any() for count in new.optimizer.seen)


def test_model_that_was_never_compiled_or_built():
    new = copy_model(keras.Sequential([layers.Dense(3), layers.Dense(2)])).model
    assert not new.built
    assert new(X).shape == (16, 2)
    assert not new.compiled


def test_masks_of_the_copy_hold_and_are_its_own():
    model = masked()
    copy = copy_model(model)
    layer = copy.layers[model.get_layer("a")]
    kernel = np.asarray(layer.kernel)
    copy.model.compile(keras.optimizers.AdamW(0.1), "mse", jit_compile=False)
    copy.model.fit(X, Y, verbose=0)
    after = np.asarray(layer.kernel)
    assert not after[:, 3:].any()
    np.testing.assert_array_equal(after[0], kernel[0])
    assert (after[1:, :3] != kernel[1:, :3]).any()
    tfprune.set_masks(copy.model, layer, "kernel", trainable=True, frozen=[])
    assert np.asarray(model.get_layer("a").frozen_masks["kernel"])[0].all()
    layer.kernel.assign(np.ones((4, 6)))
    assert np.asarray(layer.kernel).all()


def test_observers_are_left_with_the_model():
    model = masked()
    layer = model.get_layer("a")
    layer.observer = lambda outputs: outputs * 0
    layer.masks_by_name["kernel"].transform = lambda value: value * 0
    new = copy_model(model).layers[layer]
    assert new.observer is None
    assert new.masks_by_name["kernel"].transform is None


def test_exchange_sees_each_layer_once_and_outer_ones_first():
    model = shared_and_nested_model()
    seen = []
    copy = copy_model(model, exchange=seen.append)
    assert len(seen) == len({id(layer) for layer in seen}) == len(copy.layers)
    names = [layer.name for layer in seen]
    assert names.index("outer") < names.index("inner") < names.index("d")


def test_memory_of_a_copy():
    model = keras.Sequential([keras.Input((1000,)), layers.Dense(8000)])  # 32 MB
    gc.collect()
    before = _resident()
    copy = copy_model(model).model
    assert _resident() - before < 1.2 * 32e6
    copy.layers[0].kernel.assign_add(np.ones((1000, 8000), "float32"))
    assert not np.array_equal(copy.get_weights()[0], model.get_weights()[0])


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
def test_copy_of_a_mirrored_model():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = functional()
        model.compile("adam", "mse", jit_compile=False)
    model.fit(X, Y, verbose=0)
    new = copy_model(model).model
    assert type(new.layers[1].kernel._value) is type(model.layers[1].kernel._value)
    assert_trains_alike(model, new)


def test_no_other_object_has_the_id_of_a_copy():
    """Else an operation that is made later is taken for the copy of something else."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="last")])
    copies = _keras.copied_objects(model)
    originals = _keras.Originals(copies)
    assert originals[id(copies[0][1])] is model
    del copies
    gc.collect()
    made = [keras.KerasTensor((3,)) for _ in range(2000)]
    assert not any(id(each) in originals for each in made)
