import keras
import numpy as np
import pytest

import tfprune
from tests.small_mlp import X, assert_same, every_mask, fit, mlp, pruned
from tfprune import layers
from tfprune.callbacks import PruneWeights
from tfprune.schedules import Constant, OneShot, PolynomialDecay
from tfprune.weights.prunable import select_weights
from tfprune.weights.prune_weights import prune_weights


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
        ({"only": 3}, "Argument `only` must be a layer or its name"),
        ({"exclude": 3}, "Argument `exclude` must be a layer or its name"),
        ({"only": []}, "No weight is left"),
        ({"only": ["norm"]}, "No weight is left"),
        ({"only": ["last"], "exclude": ["last"]}, "No weight is left"),
        ({"criterion": "nosuch"}, "Argument `criterion`"),
        ({"target": 1.5}, "Argument `target`"),
    ],
)
def test_wrong_arguments_raise_and_change_nothing(kwargs, message):
    model = mlp()
    with pytest.raises(ValueError, match=message):
        prune_weights(model, **{"target": 0.5, **kwargs})
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
        prune_weights(model, 0.5, tfprune.criteria.Random(seed=seed))
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
    prune_weights(model, 0.5, tfprune.criteria.Random(seed=0))
    assert (pruned(model, "a") != pruned(model, "b")).any()


def test_random_masks_grow_one_out_of_the_other():
    model = mlp()
    prune_weights(model, 0.3, tfprune.criteria.Random(seed=0))
    before = pruned(model, "first")
    prune_weights(model, 0.6, tfprune.criteria.Random(seed=0))
    at_once = mlp()
    prune_weights(at_once, 0.6, tfprune.criteria.Random(seed=0))
    assert pruned(model, "first")[before].all()
    np.testing.assert_array_equal(pruned(model, "first"), pruned(at_once, "first"))


def test_a_function_as_criterion():
    model = mlp()
    kernel = np.array(model.get_layer("first").kernel)
    prune_weights(model, 0.5, lambda weight: weight)
    np.testing.assert_array_equal(pruned(model, "first"), kernel < np.sort(kernel.ravel())[30])
