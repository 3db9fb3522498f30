import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune import layers
from tfprune.masks.setting import MaskCounts, count_masks, find_layer, masked_layers, set_masks


def make(units=3, **options):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(units, name="d", **options), layers.Dense(1, name="e")]
    )


def state(model):
    """Everything set_masks may change."""
    values = [
        np.asarray(variable)
        for layer in masked_layers(model)
        for mask in layer.masks_by_name.values()
        for variable in (mask.weight, mask.trainable, mask.frozen, mask.live)
    ]
    if getattr(model, "optimizer", None) is not None:
        values += [np.asarray(variable) for variable in model.optimizer.variables]
    return [value.copy() for value in values]


BOOLEAN = np.arange(12).reshape(4, 3) % 2 == 0


@pytest.mark.parametrize(
    ("given", "truth"),
    [
        (BOOLEAN, BOOLEAN),
        (BOOLEAN.tolist(), BOOLEAN),
        (tf.constant(BOOLEAN), BOOLEAN),
        (keras.Variable(BOOLEAN, dtype="bool"), BOOLEAN),
        (True, np.ones((4, 3), bool)),
        (False, np.zeros((4, 3), bool)),
        (np.s_[:, 1], np.eye(3, dtype=bool)[[1] * 4]),
        (np.s_[1:3], np.arange(4)[:, None].repeat(3, 1) % 3 > 0),
        ([0, 2], np.array([True, False, True, False])[:, None].repeat(3, 1)),
        (np.array([0, 2]), np.array([True, False, True, False])[:, None].repeat(3, 1)),
        (np.array([], int), np.zeros((4, 3), bool)),
        ([], np.zeros((4, 3), bool)),
        (([0, 1], [2, 0]), np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]], bool)),
        (-1, np.arange(4)[:, None].repeat(3, 1) == 3),
        ((Ellipsis, 0), np.eye(3, dtype=bool)[[0] * 4]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("argument", ["trainable", "frozen"])
def test_arrays_indices_and_slices_pick_elements(given, truth, argument):
    model = make()
    before = np.asarray(model.get_layer("d").kernel).copy()
    set_masks(model, "d", "kernel", **{argument: given})
    layer = model.get_layer("d")
    np.testing.assert_array_equal(getattr(layer, f"{argument}_masks")["kernel"], truth)
    kept = truth if argument == "trainable" else np.ones((4, 3), bool)
    np.testing.assert_array_equal(layer.kernel, np.where(kept, before, 0))
    live = truth if argument == "trainable" else ~truth
    np.testing.assert_array_equal(layer.masks_by_name["kernel"].live, live)


def test_both_masks_at_once_and_the_one_not_given_stays():
    model = make()
    layer = model.get_layer("d")
    set_masks(model, layer, "kernel", trainable=BOOLEAN, frozen=np.s_[0])
    set_masks(model, layer, "kernel", frozen=np.s_[1])
    np.testing.assert_array_equal(layer.trainable_masks["kernel"], BOOLEAN)
    set_masks(model, layer, "kernel", trainable=True)
    np.testing.assert_array_equal(
        layer.frozen_masks["kernel"], np.arange(4)[:, None].repeat(3, 1) == 1
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("d", "kernel", {"trainable": BOOLEAN.T}), r"shape \(4, 3\).*shape=\(3, 4\)"),
        (("d", "kernel", {"trainable": BOOLEAN[0]}), r"shape=\(3,\)"),
        (("d", "kernel", {"frozen": np.ones((4, 3))}), "float64"),
        (("d", "kernel", {"frozen": np.ones((4, 3), "float32")}), "float32"),
        (("d", "kernel", {"frozen": [0.5]}), "must index"),
        (("d", "kernel", {"trainable": 9}), "must index.*out of bounds"),
        (("d", "kernel", {"trainable": "abc"}), "must index"),
        (("d", "kernel", {"trainable": True, "frozen": 9}), "`frozen` must index"),
        (("d", "gamma", {"trainable": True}), r"one of \['bias', 'kernel'\].*'gamma'"),
        (("x", "kernel", {"trainable": True}), "Received: layer='x'.*'d', 'e'"),
        ((keras.layers.Dense(3, name="d"), "kernel", {}), "must be a layer of the model"),
        ((7, "kernel", {}), "Received: layer=7"),
        (("flat", "kernel", {}), "carries no masks.*prunable"),
        (("wrapped", "kernel", {}), r"carries no masks.*\['inner'\] do"),
        (("unbuilt", "kernel", {}), "not built"),
        (("twin", "kernel", {}), "names 2 layers.*pass the layer itself"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_and_nothing_changes(arguments, message):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.stack = make()
            self.flat = keras.layers.Dense(2, name="flat")
            self.wrapped = keras.layers.TimeDistributed(
                layers.Dense(2, name="inner"), name="wrapped"
            )
            self.twins = [layers.Dense(2, name="twin"), layers.Dense(2, name="twin")]
            self.unbuilt = layers.Dense(2, name="unbuilt")

        def call(self, x):
            x = self.flat(self.stack(x))
            return self.wrapped(self.twins[1](self.twins[0](x))[:, None])

    model = Model()
    model.compile("adam", "mse", run_eagerly=True)
    x, y = np.ones((2, 4)), np.ones((2, 1, 2))
    model.train_on_batch(x, y)
    set_masks(model, "d", "bias", trainable=[0])
    before = state(model)
    layer, weight, masks = arguments
    with pytest.raises(ValueError, match=f"(?s){message}"):
        set_masks(model, layer, weight, **masks)
    np.testing.assert_equal(state(model), before)


def test_a_layer_stands_for_itself_where_its_name_is_taken_twice():
    twins = [layers.Dense(4, name="twin"), layers.Dense(4, name="twin")]

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.twins = twins

        def call(self, x):
            return self.twins[1](self.twins[0](x))

    model = Model()
    model(np.ones((1, 4)))
    set_masks(model, twins[1], "kernel", trainable=[0])
    assert np.asarray(twins[0].trainable_masks["kernel"]).all()
    assert np.asarray(twins[1].trainable_masks["kernel"]).sum() == 4


def test_no_change_leaves_slots_alone():
    model = make()
    model.compile("adam", "mse")
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 1)))
    set_masks(model, "d", "kernel", trainable=BOOLEAN)
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 1)))
    before = state(model)
    set_masks(model, "d", "kernel", trainable=BOOLEAN, frozen=False)
    np.testing.assert_equal(state(model), before)


def test_nan_and_infinite_weights_are_pruned_to_zero():
    model = make()
    kernel = model.get_layer("d").kernel
    kernel.assign(np.where(BOOLEAN, np.nan, np.inf))
    set_masks(model, "d", "kernel", trainable=False)
    np.testing.assert_array_equal(kernel, np.zeros((4, 3)))


def test_pruned_zeros_are_positive_zeros():
    model = make()
    model.get_layer("d").kernel.assign(-np.ones((4, 3)))
    set_masks(model, "d", "kernel", trainable=False)
    assert not np.signbit(np.asarray(model.get_layer("d").kernel)).any()


def test_a_pruned_element_that_is_also_frozen_is_zero():
    model = make()
    set_masks(model, "d", "kernel", frozen=True)
    set_masks(model, "d", "kernel", trainable=False)
    assert not np.asarray(model.get_layer("d").kernel).any()


@pytest.mark.parametrize("compiled", [False, True])
def test_masks_can_be_set_before_the_optimizer_is_built(compiled):
    model = make()
    if compiled:
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    set_masks(model, "d", "kernel", trainable=BOOLEAN)
    if not compiled:
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 1)))
    assert not np.asarray(model.get_layer("d").kernel)[~BOOLEAN].any()


@pytest.mark.parametrize("masks", ["trainable_masks", "frozen_masks"])
def test_masks_cannot_be_assigned_around_the_door(masks):
    model = make()
    before = state(model)
    mask = getattr(model.get_layer("d"), masks)["kernel"]
    with pytest.raises(ValueError, match="set_masks"):
        mask.assign(np.zeros((4, 3), bool))
    with pytest.raises(TypeError):
        getattr(model.get_layer("d"), masks)["kernel"] = mask
    np.testing.assert_equal(state(model), before)


def test_a_layer_shared_by_two_models_has_one_set_of_masks():
    shared = layers.Dense(4, name="shared")
    one, other = (keras.Sequential([keras.Input((4,)), shared]) for _ in range(2))
    set_masks(one, "shared", "kernel", trainable=[0])
    x = np.random.default_rng(0).normal(size=(2, 4))
    np.testing.assert_array_equal(one(x), other(x))
    assert count_masks(other) == MaskCounts(elements=20, pruned=12, frozen=0)


def test_layers_of_nested_models_are_found_and_counted_once():
    inner = make()
    inputs = keras.Input((4,))
    outer = keras.Model(inputs, inner(inputs) + inner(inputs * 2))
    set_masks(outer, "d", "kernel", frozen=np.s_[:, 0])
    assert find_layer(outer, "d") is inner.get_layer("d")
    assert masked_layers(outer) == [inner.get_layer("d"), inner.get_layer("e")]
    assert count_masks(outer) == MaskCounts(elements=19, pruned=0, frozen=4)


def test_wrapped_and_cell_layers_are_found_by_their_own_names():
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            keras.layers.Bidirectional(layers.LSTM(2, name="lstm", return_sequences=True)),
            keras.layers.RNN(layers.GRUCell(2, name="cell"), return_sequences=True),
            keras.layers.TimeDistributed(layers.Dense(2, name="inner")),
        ]
    )
    for name in ("forward_lstm", "backward_lstm", "cell", "inner"):
        set_masks(model, name, "kernel", trainable=[0])
    assert count_masks(model).pruned == 3 * 8 + 3 * 8 + 3 * 6 + 1 * 2


@pytest.mark.parametrize("build", ["constructor", "before", "after"])
def test_a_layer_that_is_not_trainable_has_masks_and_may_train_later(build):
    layer = layers.Dense(3, name="d", trainable=build != "constructor")
    if build == "before":
        layer.trainable = False
    model = keras.Sequential([keras.Input((4,)), layer, layers.Dense(1)])
    layer.trainable = False
    set_masks(model, "d", "kernel", trainable=BOOLEAN)
    layer.trainable = True
    model.compile(keras.optimizers.AdamW(0.1), "mse", jit_compile=False)
    before = np.asarray(layer.kernel).copy()
    model.fit(np.ones((2, 4)), np.ones((2, 1)), verbose=0)
    assert not np.asarray(layer.kernel)[~BOOLEAN].any()
    assert (np.asarray(layer.kernel)[BOOLEAN] != before[BOOLEAN]).all()


def test_layers_built_while_keras_traces_symbolically_have_masks_in_force():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3, name="late")

        def call(self, x):
            return self.dense(x)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Block()(inputs))
    kernel = find_layer(model, "late").kernel
    set_masks(model, "late", "kernel", trainable=BOOLEAN, frozen=np.s_[0])
    frozen = np.asarray(kernel)[0].copy()
    model.compile(keras.optimizers.AdamW(weight_decay=0.5), "mse", jit_compile=False)
    model.fit(np.ones((2, 4)), np.ones((2, 3)), epochs=2, verbose=0)
    assert not np.asarray(kernel)[~BOOLEAN].any()
    np.testing.assert_array_equal(np.asarray(kernel)[0], frozen)
    assert np.asarray(kernel)[BOOLEAN].all()


def test_stateless_call_uses_the_values_it_is_given():
    layer = layers.Dense(3)
    layer.build((None, 4))
    x, kernel, bias = np.ones((2, 4), "float32"), np.full((4, 3), 2.0, "float32"), np.ones(3)
    outputs, _ = layer.stateless_call([kernel, bias.astype("float32")], [], x)
    np.testing.assert_array_equal(outputs, np.full((2, 3), 9.0))


class TwoKernels(layers.Dense):
    """A subclass with its own build and call, a stock sub-layer and a masked one."""

    def build(self, input_shape):
        super().build(input_shape)
        self.second = self.add_weight(shape=(self.units, self.units), name="second")
        self.stock = keras.layers.Dense(2, name="stock")
        self.stock.build((None, self.units))
        self.inner = layers.Dense(2, name="inner")
        self.inner.build((None, 2))

    def call(self, inputs):
        return self.inner(self.stock(keras.ops.matmul(super().call(inputs), self.second)))


def test_a_subclass_has_one_mask_for_every_weight_and_all_hold():
    model = keras.Sequential([keras.Input((4,)), TwoKernels(3, name="two")])
    layer = model.get_layer("two")
    assert sorted(layer.trainable_masks) == [
        "bias",
        "kernel",
        "second",
        "stock/bias",
        "stock/kernel",
    ]
    assert sorted(layer.inner.trainable_masks) == ["bias", "kernel"]
    assert count_masks(model).elements == model.count_params()
    weights = {}
    for part in masked_layers(model):
        for name, weight in part.masked_weights.items():
            first = np.arange(int(np.prod(weight.shape))).reshape(tuple(weight.shape)) % 2 == 0
            set_masks(model, part, name, trainable=first)
            weights[weight.path] = weight, first
    model.compile("adamw", "mse", jit_compile=False)
    model.fit(np.ones((2, 4)), np.ones((2, 2)), epochs=3, verbose=0)
    for weight, kept in weights.values():
        assert not np.asarray(weight)[~kept].any()
        assert np.asarray(weight)[kept].any()


def test_sub_layers_of_one_name_have_masks_of_their_own():
    class Branches(layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self.branches = [keras.layers.Dense(2, name="same") for _ in range(2)]
            for branch in self.branches:
                branch.build(input_shape)

        def call(self, inputs):
            return super().call(inputs) + self.branches[0](inputs) + self.branches[1](inputs)

    layer = Branches(2)
    layer(np.ones((1, 4)))
    assert len(layer.trainable_masks) == 6
    assert len({id(weight) for weight in layer.masked_weights.values()}) == 6


def test_count_masks_of_a_model_without_any():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert count_masks(model) == MaskCounts(0, 0, 0)
    assert count_masks(model).sparsity == 0.0


def test_sparsity_is_the_pruned_share():
    model = make()
    set_masks(model, "d", "kernel", trainable=BOOLEAN)
    assert count_masks(model).sparsity == 6 / 19


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_import_brings_none_of_the_optional_packages():
    code = (
        "import sys, keras, tensorflow; before = set(sys.modules); import tfprune;"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    brought = set(run(code).split())
    assert "tfprune" in brought
    optional = {"tensorflow_model_optimization", "tf_keras", "matplotlib", "sklearn", "pandas"}
    assert not brought & optional


def test_import_adds_little_to_the_import_of_keras():
    code = (
        "import time; start = time.process_time(); import keras, tensorflow;"
        "middle = time.process_time(); import tfprune; end = time.process_time();"
        "print((end - middle) / (middle - start))"
    )
    assert min(float(run(code)) for _ in range(2)) < 0.2


def test_an_array_that_is_changed_after_it_was_given_changes_nothing():
    model = make()
    mask = np.zeros((4, 3), bool)
    set_masks(model, "d", "kernel", trainable=mask)
    before = state(model)
    mask[:] = True
    np.testing.assert_equal(state(model), before)


def test_a_thawed_weight_is_live_again():
    model = make()
    set_masks(model, "d", "kernel", trainable=BOOLEAN, frozen=True)
    set_masks(model, "d", "kernel", frozen=False)
    live = model.get_layer("d").masks_by_name["kernel"].live
    np.testing.assert_array_equal(live, BOOLEAN)
