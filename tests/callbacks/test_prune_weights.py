import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.callbacks import PruneWeights
from tfprune.prunable_weights import select_weights
from tfprune.prune_weights import prune_weights
from tfprune.schedules import Constant, OneShot, PolynomialDecay

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")


def mlp(optimizer="adam", **kwargs):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(10, activation="relu", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="last"),
        ]
    )
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, *callbacks, epochs=2, x=X, y=Y, **kwargs):
    return model.fit(
        x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks), **kwargs
    )


def pruned(model, layer, name="kernel"):
    return ~np.asarray(model.get_layer(layer).trainable_masks[name])


def every_mask(model):
    return [
        np.array(mask)
        for layer in tfprune.masks.masked_layers(model)
        for mask in layer.trainable_masks.values()
    ]


def assert_same(arrays, others):
    assert len(arrays) == len(others)
    for array, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(array, other)


@keras.saving.register_keras_serializable("test_prune_weights")
def is_bias(layer, name):
    return name == "bias"


# Which elements ----------------------------------------------------------------------------------


def test_each_kernel_loses_its_smallest_elements_and_nothing_else_is_pruned():
    model = mlp()
    before = {name: np.array(model.get_layer(name).kernel) for name in ("first", "last")}
    counts = prune_weights(model, 0.3)
    for name, kernel in before.items():
        smallest = np.argsort(np.abs(kernel).ravel())[: round(0.3 * kernel.size)]
        assert set(np.flatnonzero(pruned(model, name))) == set(smallest)
        after = np.array(model.get_layer(name).kernel)
        np.testing.assert_array_equal(after, np.where(pruned(model, name), 0, kernel))
    assert not pruned(model, "first", "bias").any()
    assert not pruned(model, "norm", "gamma").any()
    assert (counts.elements, counts.pruned) == (80, 24)


def test_kernels_and_embeddings_of_all_families_but_no_bias_norm_or_slope():
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4)(tokens)
    x = layers.MultiHeadAttention(2, 2)(x, x)
    x = layers.LayerNormalization(axis=(1, 2))(x)
    x = layers.PReLU()(x)
    x = layers.SeparableConv1D(4, 2, padding="same")(x)
    x = layers.Bidirectional(layers.GRU(3))(x)
    model = keras.Model(tokens, layers.Dense(1)(x))
    chosen = [(type(w.layer).__name__, w.name) for w in select_weights(model)]
    assert sorted(set(chosen)) == [
        ("Dense", "kernel"),
        ("Embedding", "embeddings"),
        ("GRU", "kernel"),
        ("GRU", "recurrent_kernel"),
        ("MultiHeadAttention", "attention_output/kernel"),
        ("MultiHeadAttention", "key/kernel"),
        ("MultiHeadAttention", "query/kernel"),
        ("MultiHeadAttention", "value/kernel"),
        ("SeparableConv1D", "depthwise_kernel"),
        ("SeparableConv1D", "pointwise_kernel"),
    ]
    assert len(chosen) == 12  # both directions
    prune_weights(model, 0.5)
    for weight in select_weights(model):
        assert np.mean(~weight.trainable_mask) == pytest.approx(0.5, abs=0.5 / 8)


def test_a_constant_kernel_at_a_half_loses_exactly_half():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, kernel_initializer="ones")])
    assert prune_weights(model, 0.5).pruned == 10


@pytest.mark.parametrize("sparsity", [0.99, 0.9999])
def test_almost_everything_keeps_one_element(sparsity):
    model = mlp()
    prune_weights(model, sparsity)
    assert np.sum(~pruned(model, "first")) == 1
    assert np.sum(~pruned(model, "last")) == 1


def test_what_is_pruned_counts_as_lowest_and_a_living_zero_does_not():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, name="d", use_bias=False)])
    model.get_layer("d").set_weights([np.array([[3.0], [1.0], [-2.0], [0.0]])])
    tfprune.set_masks(model, "d", "kernel", trainable=[1, 2, 3])
    prune_weights(model, 0.25)
    assert pruned(model, "d").ravel().tolist() == [True, False, False, False]
    prune_weights(model, 0.5)
    assert pruned(model, "d").ravel().tolist() == [True, False, False, True]


def test_what_is_pruned_stays_so_under_a_criterion_that_likes_zeros():
    model = mlp()
    prune_weights(model, 0.3)
    before = pruned(model, "first")
    prune_weights(model, 0.6, lambda weight: -np.abs(weight))
    assert pruned(model, "first").sum() == 36
    assert pruned(model, "first")[before].all()


def test_the_sparsity_never_falls():
    model = mlp()
    prune_weights(model, 0.8)
    before = every_mask(model)
    prune_weights(model, 0.3)
    assert_same(every_mask(model), before)


def test_a_shared_layer_counts_once():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(shared(inputs))))
    model.compile("sgd", "mse")
    assert len(select_weights(model)) == 1
    schedule = PolynomialDecay(0.0, 0.5, 0, 6, power=1, frequency=3)
    history = fit(model, PruneWeights(schedule), epochs=2, x=X[:12, :4], y=X[:12, :4]).history
    assert history["sparsity"] == [0.25, 0.5]


# Frozen, and left out ----------------------------------------------------------------------------


def test_layers_that_are_not_trainable_are_never_pruned():
    model = mlp()
    model.get_layer("first").trainable = False
    model.compile("adam", "mse")
    before = np.array(model.get_layer("first").kernel)
    fit(model, PruneWeights(Constant(0.5)))
    assert not pruned(model, "first").any()
    np.testing.assert_array_equal(np.array(model.get_layer("first").kernel), before)
    assert pruned(model, "last").sum() == 10


def test_frozen_elements_are_never_pruned():
    model = mlp()
    kernel = np.abs(np.array(model.get_layer("first").kernel))
    frozen = kernel < np.median(kernel)
    tfprune.set_masks(model, "first", "kernel", frozen=frozen)
    prune_weights(model, 0.5)
    np.testing.assert_array_equal(pruned(model, "first"), ~frozen)


def test_too_many_frozen_elements_are_an_error_that_changes_nothing():
    model = mlp()
    tfprune.set_masks(model, "last", "kernel", frozen=np.s_[:6])
    before = every_mask(model)
    with pytest.raises(ValueError, match=r"weight 'kernel' of layer 'last'.*only 8 are neither"):
        prune_weights(model, 0.5)
    assert_same(every_mask(model), before)
    prune_weights(model, 0.4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_not_finite_name_the_weight_and_change_no_mask(wrong):
    model = mlp()
    kernel = np.array(model.get_layer("last").kernel)
    kernel[3, 1] = wrong
    model.get_layer("last").kernel.assign(kernel)
    with pytest.raises(ValueError, match=r"weight 'kernel' of layer 'last'.*index \(3, 1\)"):
        prune_weights(model, 0.5)
    assert all(mask.all() for mask in every_mask(model))


def test_only_and_exclude_by_layer_name_object_and_predicate():
    model = mlp()
    first, last = model.get_layer("first"), model.get_layer("last")

    def chosen(**kwargs):
        return [(w.layer.name, w.name) for w in select_weights(model, **kwargs)]

    assert chosen(only=["last"]) == chosen(only=(last,)) == [("last", "kernel")]
    assert chosen(exclude=["last"]) == chosen(exclude=[last]) == [("first", "kernel")]
    assert chosen(only=[first, "last"], exclude=[first]) == [("last", "kernel")]
    assert chosen(only=is_bias) == [("first", "bias"), ("last", "bias")]
    assert chosen(only=is_bias, exclude=["last"]) == [("first", "bias")]
    assert chosen(exclude=lambda layer, name: layer is first) == [("last", "kernel")]
    assert chosen(only=model.layers[:-1]) == [("first", "kernel")]


def test_a_nested_model_stands_for_the_layers_in_it():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="a")], name="inner")
    model = keras.Sequential([keras.Input((6,)), inner, layers.Dense(2, name="b")])
    assert [w.layer.name for w in select_weights(model)] == ["a", "b"]
    assert [w.layer.name for w in select_weights(model, only=["inner"])] == ["a"]
    assert [w.layer.name for w in select_weights(model, exclude=[inner])] == ["b"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"only": ["nosuch"]}, "'nosuch'"),
        ({"exclude": ["nosuch"]}, "'nosuch'"),
        ({"only": "last"}, "Argument `only` must be a sequence"),
        ({"exclude": 3}, "Argument `exclude` must be a sequence"),
        ({"only": []}, "No weight is left"),
        ({"only": ["norm"]}, "No weight is left"),
        ({"only": ["last"], "exclude": ["last"]}, "No weight is left"),
        ({"seed": -1}, "Argument `seed`"),
        ({"seed": 0.5}, "Argument `seed`"),
        ({"criterion": "nosuch"}, "Argument `criterion`"),
        ({"sparsity": 1.5}, "Argument `sparsity`"),
    ],
)
def test_wrong_arguments_raise_and_change_nothing(kwargs, message):
    model = mlp()
    with pytest.raises(ValueError, match=message):
        prune_weights(model, **{"sparsity": 0.5, **kwargs})
    assert all(mask.all() for mask in every_mask(model))


def test_a_model_without_masks_is_an_error_that_says_what_to_do():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, name="stock")])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"tfprune\.prunable"):
        fit(model, PruneWeights(0.5))


def test_a_stock_layer_in_only_is_an_error():
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(2, name="stock"), layers.Dense(2)]
    )
    with pytest.raises(ValueError, match=r"carry no masks.*'stock'"):
        prune_weights(model, 0.5, only=["stock"])


def test_mistakes_in_the_choice_show_before_training_starts():
    model = mlp()
    with pytest.raises(ValueError, match="'nosuch'"):
        fit(model, PruneWeights(OneShot(0.5, 10**6), only=["nosuch"]))
    assert int(model.optimizer.iterations) == 0


# Criteria ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_masks_and_another_others():
    masks = []
    for seed in (1, 1, 2):
        model = mlp()
        prune_weights(model, 0.5, "random", seed=seed)
        masks.append(pruned(model, "first"))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_without_a_seed_keras_global_seed_counts():
    masks = []
    for _ in range(2):
        model = mlp()
        keras.utils.set_random_seed(5)
        prune_weights(model, 0.5, "random")
        masks.append(pruned(model, "first"))
    np.testing.assert_array_equal(masks[0], masks[1])


def test_equal_weights_of_two_layers_get_different_random_masks():
    model = keras.Sequential(
        [keras.Input((9,)), layers.Dense(9, name="a"), layers.Dense(9, name="b")]
    )
    prune_weights(model, 0.5, "random", seed=0)
    assert (pruned(model, "a") != pruned(model, "b")).any()


def test_random_masks_grow_one_out_of_the_other():
    model = mlp()
    prune_weights(model, 0.3, "random", seed=0)
    before = pruned(model, "first")
    prune_weights(model, 0.6, "random", seed=0)
    at_once = mlp()
    prune_weights(at_once, 0.6, "random", seed=0)
    assert pruned(model, "first")[before].all()
    np.testing.assert_array_equal(pruned(model, "first"), pruned(at_once, "first"))


def test_a_function_as_criterion():
    model = mlp()
    kernel = np.array(model.get_layer("first").kernel)
    prune_weights(model, 0.5, lambda weight: weight)
    np.testing.assert_array_equal(pruned(model, "first"), kernel < np.sort(kernel.ravel())[30])


# Training ----------------------------------------------------------------------------------------


def test_begin_step_0_prunes_before_the_first_step():
    model = mlp(keras.optimizers.SGD(0.0))
    kernel = np.abs(np.array(model.get_layer("first").kernel))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(pruned(model, "first"))
    )
    fit(model, PruneWeights(Constant(0.5)), watch, epochs=1)
    np.testing.assert_array_equal(seen[0], kernel < np.sort(kernel.ravel())[30])


@pytest.mark.parametrize("steps_per_execution", [1, 4])
@pytest.mark.parametrize(("begin", "end", "frequency"), [(0, 10, 4), (3, 11, 100), (5, 5, 2)])
def test_the_final_sparsity_is_reached_exactly(begin, end, frequency, steps_per_execution):
    model = mlp(steps_per_execution=steps_per_execution)
    schedule = PolynomialDecay(0.0, 0.8, begin, end, frequency=frequency)
    history = fit(model, PruneWeights(schedule)).history
    assert pruned(model, "first").sum() == 48
    assert pruned(model, "last").sum() == 16
    assert history["sparsity"][-1] == 0.8


def test_at_a_sparsity_of_0_training_is_plain_training_bit_for_bit():
    results = []
    for callbacks in ([], [PruneWeights(Constant(0.0, frequency=1))]):
        keras.utils.set_random_seed(3)
        model = mlp()
        fit(model, *callbacks)
        results.append(model.get_weights())
    assert_same(*results)


def test_what_is_pruned_never_comes_back():
    model = mlp(keras.optimizers.Adam(0.05, weight_decay=0.01))
    alive_again = []

    def look(batch, logs):
        now = pruned(model, "first")
        alive_again.append(np.sum(look.before & ~now))
        assert not np.array(model.get_layer("first").kernel)[now].any()
        look.before = now

    look.before = pruned(model, "first")
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    fit(model, PruneWeights(PolynomialDecay(0.0, 0.9, 0, 20, frequency=3)), watch, epochs=4)
    assert sum(alive_again) == 0
    assert look.before.sum() == 54


def test_scores_that_become_nan_while_training_change_no_mask():
    model = mlp()
    callback = PruneWeights(PolynomialDecay(0.5, 0.8, 0, 6, power=1, frequency=3))
    masks = []

    def break_last(batch, logs):
        if batch == 2:
            masks.extend(every_mask(model))
            kernel = model.get_layer("last").kernel
            kernel.assign(np.full(kernel.shape, np.nan))

    breaks = keras.callbacks.LambdaCallback(on_train_batch_end=break_last)
    with pytest.raises(ValueError, match="weight 'kernel' of layer 'last'"):
        fit(model, breaks, callback)
    assert_same(every_mask(model), masks)


def test_the_epoch_logs_tell_what_others_have_pruned_too():
    model = mlp()
    at_end = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: tfprune.set_masks(model, "first", "kernel", trainable=[0])
    )
    history = fit(model, at_end, PruneWeights(Constant(0.5)), epochs=1).history
    assert history["sparsity"][0] > 0.5
    assert history["sparsity"][0] == pytest.approx(
        (pruned(model, "first").sum() + pruned(model, "last").sum()) / 80
    )


def test_slots_of_pruned_elements_start_anew():
    model = mlp(keras.optimizers.SGD(0.01, momentum=0.9))
    fit(model, PruneWeights(OneShot(0.5, 11)), epochs=2)
    momentum = next(v for v in model.optimizer.variables if v.path.endswith("kernel_momentum"))
    assert not np.array(momentum)[pruned(model, "first")].any()
    assert np.array(momentum).any()


def test_two_callbacks_prune_two_layers_differently():
    model = mlp()
    first = PruneWeights(Constant(0.5), only=["first"])
    last = PruneWeights(Constant(0.8), only=["last"])
    history = fit(model, first, last, epochs=1).history
    assert (pruned(model, "first").sum(), pruned(model, "last").sum()) == (30, 16)
    assert (history["sparsity"], history["sparsity_1"]) == ([0.5], [0.8])


# Configuration and saving ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "callback",
    [
        PruneWeights(PolynomialDecay(0.1, 0.8, 5, 50, frequency=7)),
        PruneWeights(0.5, "random", only=["first"], exclude=["norm"], seed=3, verbose=1),
        PruneWeights(OneShot(0.5, 3), only=is_bias),
    ],
)
def test_config_round_trip(callback):
    config = keras.saving.serialize_keras_object(callback)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, PruneWeights)
    assert again.get_config() == callback.get_config()
    assert again.only == callback.only


def test_layers_in_a_config_become_names():
    model = mlp()
    assert PruneWeights(0.5, only=[model.get_layer("last")]).get_config()["only"] == ["last"]


def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(tmp_path):
    schedule = PolynomialDecay(0.0, 0.8, 2, 11, frequency=3)

    def trained(stop):
        keras.utils.set_random_seed(3)
        model = mlp()
        fit(model, PruneWeights(schedule), epochs=1, shuffle=False)
        if stop:
            model.save(tmp_path / "model.keras")
            model = keras.saving.load_model(tmp_path / "model.keras")
        fit(model, PruneWeights(schedule), epochs=1, shuffle=False)
        return model

    whole, resumed = trained(stop=False), trained(stop=True)
    assert_same(resumed.get_weights(), whole.get_weights())
    assert_same(every_mask(resumed), every_mask(whole))
    assert pruned(resumed, "first").sum() == 48


RESUMED_TRAINING = """
import os, sys
import keras, numpy as np
from tfprune import layers
from tfprune.callbacks import PruneWeights
from tfprune.schedules import PolynomialDecay

backup, out, dies_at, order = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
keras.utils.set_random_seed(3)
model = keras.Sequential([
    keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(2)])
model.compile(keras.optimizers.Adam(0.01), "mse")
rng = np.random.default_rng(0)
x, y = rng.normal(size=(24, 6)), rng.normal(size=(24, 2))

def die(batch, logs):
    if int(model.optimizer.iterations) == dies_at:
        os._exit(9)

prune = PruneWeights(PolynomialDecay(0.1, 0.8, 0, 20, frequency=4))
callbacks = [prune, keras.callbacks.BackupAndRestore(backup)]
if order == "after":
    callbacks.reverse()
callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_end=die))
model.fit(x, y, batch_size=4, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
masks = [np.array(m) for layer in model.layers for m in layer.trainable_masks.values()]
arrays = [np.array(v) for v in model.optimizer.variables] + model.get_weights() + masks
np.savez(out, *arrays)
"""


def run(script, *arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_killed_training_goes_on_in_a_new_process_bit_for_bit(tmp_path, order):
    whole, resumed = tmp_path / "whole.npz", tmp_path / "resumed.npz"
    assert run(RESUMED_TRAINING, tmp_path / "a", whole, -1, order).returncode == 0
    assert run(RESUMED_TRAINING, tmp_path / "b", resumed, 15, order).returncode == 9
    assert not resumed.exists()
    again = run(RESUMED_TRAINING, tmp_path / "b", resumed, -1, order)
    assert again.returncode == 0, again.stderr
    with np.load(whole) as expected, np.load(resumed) as arrays:
        assert_same([arrays[name] for name in arrays], [expected[name] for name in expected])


MIRRORED_TRAINING = """
import keras, numpy as np, tensorflow as tf
from tfprune import layers
from tfprune.callbacks import PruneWeights
from tfprune.schedules import PolynomialDecay

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(10), layers.Dense(2)])
    model.compile("adam", "mse")
schedule = PolynomialDecay(0.1, 0.8, 0, 7, frequency=3)
history = model.fit(
    np.ones((32, 6)), np.ones((32, 2)), batch_size=4, verbose=0, callbacks=[PruneWeights(schedule)])
for layer in model.layers:
    for variable in (layer.kernel, layer.trainable_masks["kernel"]):
        one, two = [v.numpy() for v in strategy.experimental_local_results(variable.value)]
        assert (one == two).all()
    assert np.mean(~np.asarray(layer.trainable_masks["kernel"])) == 0.8
    assert np.mean(np.asarray(layer.kernel) == 0) == 0.8
assert history.history["sparsity"] == [0.8]
"""


@pytest.mark.slow
def test_replicas_of_a_mirrored_strategy_keep_the_same_masks():
    result = run(MIRRORED_TRAINING)
    assert result.returncode == 0, result.stderr
