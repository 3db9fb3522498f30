"""Optimal brain compression of whole models: by hand, by brute force, masks, layers, refusals."""

import itertools
import warnings

import keras
import numpy as np
import pytest

import tfprune
from tests.multiplied_layers import TOKENS, zoo
from tests.small_mlp import InAList, assert_same, every_mask, pruned
from tfprune import criteria, layers, patterns, prune_weights
from tfprune.criteria import OBC
from tfprune.criteria.dense_moments import DensePass
from tfprune.weights import obc
from tfprune.weights.prunable import select_weights

RNG = np.random.default_rng(0)
# Sixteen inputs that four numbers nearly tell.
X = RNG.normal(size=(64, 4)) @ RNG.normal(size=(4, 16)) + 0.05 * RNG.normal(size=(64, 16)) + 1
X = X.astype("float32")
IMAGES = RNG.normal(size=(24, 6, 6, 4)).astype("float32")


def mlp(seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    stack = [layers.Dense(12, "relu", name="first", **kwargs), layers.Dense(6, name="last")]
    model = keras.Sequential([keras.Input((16,)), *stack])
    for layer in model.layers:
        layer.bias.assign(np.random.default_rng(seed).normal(size=layer.bias.shape))
    return model


def values(model):
    return [np.array(weight) for weight in model.weights]


def kernels(model):
    return [weight.value.astype("float64") for weight in select_weights(model)]


def biases(model):
    return [np.array(layer.bias, "float64") for layer in model.layers]


def ridge_fit(x, targets, kept, dense, damping, frozen=False):
    """Kernel and bias by ridge regression on the kept elements, near the dense ones."""
    away, means = x - x.mean(0), targets.mean(0)
    gram = away.T @ away
    ridge = damping * np.diag(gram)[np.diag(gram) > 0].mean()
    kernel = dense * kept
    for column in range(kernel.shape[1]):
        rows = np.flatnonzero((kept & ~np.broadcast_to(frozen, kept.shape))[:, column])
        missing = targets[:, column] - means[column] - away @ kernel[:, column]
        kernel[rows, column] += np.linalg.solve(
            gram[np.ix_(rows, rows)] + ridge * np.eye(len(rows)), away[:, rows].T @ missing
        )
    return kernel, means - x.mean(0) @ kernel


@pytest.mark.parametrize("rounds", [1, 3])
def test_layers_are_fitted_one_after_the_other_to_the_dense_ones(rounds):
    model = mlp()
    dense, of_dense = kernels(model), biases(model)
    counts = prune_weights(model, 0.6, OBC(rounds=rounds), data=(X,))
    assert counts.pruned == round(0.6 * (192 + 72))
    kept = [~pruned(model, name) for name in ("first", "last")]
    first, bias = ridge_fit(X, X @ dense[0] + of_dense[0], kept[0], dense[0], 0.01)
    np.testing.assert_allclose(kernels(model)[0], first, atol=1e-4)
    np.testing.assert_allclose(biases(model)[0], bias, atol=1e-4)
    hidden = np.maximum(X @ dense[0] + of_dense[0], 0)
    targets = hidden @ dense[1] + of_dense[1]
    last, bias = ridge_fit(
        np.maximum(X @ first + biases(model)[0], 0), targets, kept[1], dense[1], 0.01
    )
    np.testing.assert_allclose(kernels(model)[1], last, atol=1e-3)
    np.testing.assert_allclose(biases(model)[1], bias, atol=1e-3)
    assert_same([kernel == 0 for kernel in kernels(model)], [~mask for mask in kept])


def linear(seed):
    """Two linear layers, inputs that do not depend on one another, hidden units neither."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2048, 4))
    x = np.linalg.qr(x - x.mean(0))[0] * 2048**0.5
    first = np.linalg.qr(rng.normal(size=(4, 2)))[0] * rng.uniform(0.3, 3, size=2)
    last = rng.normal(size=(2, 2))
    stack = [layers.Dense(2, use_bias=False, name=name) for name in ("first", "last")]
    model = keras.Sequential([keras.Input((4,)), *stack])
    model.set_weights([first, last])
    return model, x.astype("float32")


def error_with(x, first, last, mask):
    """The squared error of the outputs with a mask; fits would change nothing layer by layer."""
    hidden = x @ (first * mask[:8].reshape(4, 2))
    return np.square(hidden @ (last * mask[8:].reshape(2, 2)) - x @ first @ last).sum()


def test_what_goes_of_all_layers_together_is_close_to_the_best_of_all_subsets():
    ours, by_magnitude = [], []
    for seed in range(4):
        model, x = linear(seed)
        first, last = kernels(model)
        masks = np.ones((220, 12), bool)
        for mask, gone in zip(masks, itertools.combinations(range(12), 3), strict=True):
            mask[list(gone)] = False
        best = min(error_with(x, first, last, mask) for mask in masks)
        for criterion, errors in ((OBC(rounds=1), ours), ("magnitude", by_magnitude)):
            model, _ = linear(seed)
            prune_weights(model, 0.25, criterion, distribution="global", data=(x,))
            mask = np.concatenate([(kernel != 0).ravel() for kernel in kernels(model)])
            assert mask.sum() == 9
            errors.append(error_with(x, first, last, mask) / best)
    assert np.max(ours) < 1.2 and np.mean(ours) < 0.5 * np.mean(by_magnitude)


@pytest.mark.parametrize("rounds", [1, 4])
def test_no_output_of_a_layer_errs_more_than_with_the_same_mask_alone(rounds):
    model = mlp(1)
    dense, of_dense = kernels(model), biases(model)
    prune_weights(model, 0.8, OBC(rounds=rounds), data=(X,))
    x = z = X.astype(float)
    for before, now, bias, new in zip(dense, kernels(model), of_dense, biases(model), strict=True):
        targets, plain = z @ before + bias, before * (now != 0)
        errors = [
            np.square(x @ now + new - targets).sum(0),
            np.square((x - x.mean(0)) @ plain + targets.mean(0) - targets).sum(0),
        ]
        assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
        assert errors[0].sum() < 0.8 * errors[1].sum()
        x, z = np.maximum(x @ now + new, 0), np.maximum(targets, 0)


def output_change(model, before, x):
    return np.square(np.subtract(model(x), before, dtype=float)).mean()


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_outputs_change_less_than_by_the_other_criteria(sparsity):
    changes = {}
    for name in ("obc", "sparsegpt", "magnitude"):
        model = mlp()
        before = np.array(model(X))
        prune_weights(model, sparsity, OBC(rounds=3) if name == "obc" else name, data=(X,))
        changes[name] = output_change(model, before, X)
    assert changes["obc"] < 0.8 * changes["sparsegpt"] < 0.8 * changes["magnitude"]


def test_a_convolution_with_groups_is_fitted_on_the_patches_under_its_window():
    model = keras.Sequential([keras.Input((6, 6, 4)), layers.Conv2D(6, 2, groups=2, name="conv")])
    model.get_layer("conv").bias.assign(np.arange(6))
    (dense,), (of_dense,) = kernels(model), biases(model)
    assert prune_weights(model, 0.5, OBC(rounds=2), data=(IMAGES,)).pruned == 24
    (found,), (bias,), mask = kernels(model), biases(model), ~pruned(model, "conv")
    for group in range(2):
        some = slice(3 * group, 3 * group + 3)
        rows = np.stack(
            [
                IMAGES[:, i : i + 5, j : j + 5, 2 * group : 2 * group + 2].reshape(-1, 2)
                for i in range(2)
                for j in range(2)
            ],
            axis=1,
        ).reshape(-1, 8)
        plain, kept = dense[..., some].reshape(8, 3), mask[..., some].reshape(8, 3)
        expected = ridge_fit(rows, rows @ plain + of_dense[some], kept, plain, 0.01)
        np.testing.assert_allclose(found[..., some].reshape(8, 3), expected[0], atol=1e-4)
        np.testing.assert_allclose(bias[some], expected[1], atol=1e-4)


@pytest.mark.slow
def test_layers_of_all_kinds_and_those_that_cannot_be_are_named():
    keras.utils.set_random_seed(0)
    dense, changes = zoo(), []
    for criterion in (OBC(rounds=1), "magnitude"):
        model = tfprune.prunable(dense)
        exclude = ["tied", "recurrent"] if criterion == "magnitude" else None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            prune_weights(
                model, 0.5, criterion, distribution="uniform", data=(TOKENS,), exclude=exclude
            )
        changes.append(output_change(model, np.array(dense(TOKENS)), TOKENS))
        if criterion == "magnitude":
            break
        (message,) = [str(w.message) for w in caught if "skipped" in str(w.message)]
        is_left = {"tied", "recurrent", "own/position"}
        for weight in select_weights(model):
            name = f"{weight.layer.name}/{weight.name}"
            stays = bool({weight.layer.name, name} & is_left)
            gone = 0 if stays else round(weight.value.size / 2)
            assert (~weight.trainable_mask).sum() == gone, name
            assert (repr(name) in message) == stays, name
    assert changes[0] < changes[1]


def test_a_layer_that_is_called_twice_is_fitted_to_both_calls():
    keras.utils.set_random_seed(0)
    x, shared = keras.Input((8,)), layers.Dense(8, "tanh", name="shared")
    model = keras.Model(x, layers.Dense(2, name="head")(shared(shared(x))))
    inputs = RNG.normal(size=(64, 8)).astype("float32")
    dense = np.array(shared.kernel, "float64")
    prune_weights(model, 0.5, OBC(rounds=1), data=(inputs,), distribution={"head": 0.0})
    once, mask = np.tanh(inputs @ dense), ~pruned(model, "shared")
    assert mask.sum() == 32
    # The inputs of the second call before the fit, beside those of the dense model.
    rows = np.concatenate([inputs, np.tanh(inputs @ (dense * mask))])
    targets = np.concatenate([inputs @ dense, once @ dense])
    kernel, bias = ridge_fit(rows, targets, mask, dense, 0.01)
    np.testing.assert_allclose(np.array(shared.kernel), kernel, atol=1e-4)
    np.testing.assert_allclose(np.array(shared.bias), bias, atol=1e-4)


# Masks, counts, distributions --------------------------------------------------------------------


def test_masks_and_frozen_elements_of_kernels_and_biases_stay():
    model = mlp()
    tfprune.set_masks(model, "first", "kernel", trainable=np.s_[1:], frozen=np.s_[7, 2:9])
    tfprune.set_masks(model, "first", "bias", trainable=np.s_[2:], frozen=np.s_[5])
    before = values(model)
    counts = prune_weights(model, 0.9, OBC(rounds=3), data=(X,))
    assert counts.pruned == round(0.9 * (192 + 72)) and counts.frozen == 7
    first = model.get_layer("first")
    assert pruned(model, "first")[0].all() and not pruned(model, "first")[7, 2:9].any()
    np.testing.assert_array_equal(np.array(first.kernel)[7, 2:9], before[0][7, 2:9])
    bias = np.array(first.bias)
    assert (bias[:2] == 0).all() and bias[5] == before[1][5]
    frozen, kept = np.array(first.frozen_masks["kernel"]), ~pruned(model, "first")
    dense = before[0].astype(float)
    expected = ridge_fit(X, X @ dense + before[1], kept, dense, 0.01, frozen)
    np.testing.assert_allclose(np.array(first.kernel)[:, 6:], expected[0][:, 6:], atol=1e-4)
    np.testing.assert_allclose(bias[6:], expected[1][6:], atol=1e-4)


@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.99, 1.0])
def test_counts_are_exact_and_each_layer_keeps_something(sparsity):
    model = mlp()
    before = values(model)
    assert prune_weights(model, sparsity, OBC(rounds=2), data=(X,)).pruned == round(sparsity * 264)
    kept = [(~pruned(model, name)).sum() for name in ("first", "last")]
    assert all(kept) == (sparsity < 1)
    if sparsity == 0:
        assert_same(values(model), before)


def test_what_is_sparse_enough_stays_as_it_is():
    model = mlp()
    prune_weights(model, 0.7, "obc", data=(X,))
    before = values(model)
    assert prune_weights(model, 0.6, "obc", data=(X,)).sparsity == pytest.approx(0.7, abs=1e-2)
    assert_same(values(model), before)


def test_layers_have_the_sparsities_of_a_distribution():
    model = mlp()
    prune_weights(model, 0.5, OBC(rounds=2), data=(X,), distribution={"first": 0.25})
    assert pruned(model, "first").sum() == 48 and pruned(model, "last").sum() == 36
    model = mlp()
    prune_weights(model, 0.5, OBC(rounds=2), data=(X,), distribution="uniform", only="last")
    assert not pruned(model, "first").any() and pruned(model, "last").sum() == 36


@pytest.mark.parametrize("portions", [1, 1 << 31])
def test_memory_is_limited_by_measuring_fewer_layers_at_once(portions, monkeypatch):
    monkeypatch.setattr(obc, "MOST_BYTES", portions)
    model, calls, measure = mlp(), [], DensePass.measure
    monkeypatch.setattr(DensePass, "measure", lambda self: calls.append(self) or measure(self))
    before = np.array(model(X))
    prune_weights(model, 0.5, OBC(rounds=2), data=(X,))
    assert len(calls) == (2 * 2 + 2 + 2 if portions == 1 else 2 + 2)
    assert output_change(model, before, X) < 0.05 * before.var()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_mixed_and_half_precision(policy):
    changes = {}
    for criterion in ("obc", "magnitude"):
        model = mlp(dtype=policy)
        before = np.array(model(X), float)
        prune_weights(model, 0.5, criterion, data=(X,), distribution="global")
        changes[criterion] = output_change(model, before, X)
    assert changes["obc"] < 0.5 * changes["magnitude"]


def test_a_subclassed_model_is_pruned_as_the_same_functional_one():
    model, net = mlp(), InAList(mlp().layers)
    net(X)
    for each in (model, net):
        prune_weights(each, 0.5, OBC(rounds=2), data=(X,))
    assert_same(values(net), values(model))


# Training, interruption, what is refused ---------------------------------------------------------


def test_slots_of_what_is_pruned_start_anew_and_training_keeps_the_masks():
    model = mlp()
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(X, X[:, :6], epochs=1, verbose=0)
    prune_weights(model, 0.5, OBC(rounds=2), data=(X, X[:, :6]))
    gone = pruned(model, "first")
    slots = [v for v in model.optimizer.variables if tuple(v.shape) == gone.shape]
    assert slots and all((np.array(slot)[gone] == 0).all() for slot in slots)
    model.fit(X, X[:, :6], epochs=1, verbose=0)
    assert (kernels(model)[0][gone] == 0).all() and (kernels(model)[0][~gone] != 0).all()


def test_what_is_interrupted_leaves_the_model_as_it_was(monkeypatch):
    model, calls, measure = mlp(), [], DensePass.measure
    before = values(model)

    def interrupted(data_pass):
        calls.append(data_pass)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(data_pass)

    monkeypatch.setattr(DensePass, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune_weights(model, 0.5, OBC(rounds=2), data=(X,))
    assert_same(values(model), before)
    assert all(mask.all() for mask in every_mask(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "measures the inputs of layers on data"),
        ({"pattern": patterns.NM(keep=2, of=4)}, "'sparsegpt' for `NM`"),
        ({"pattern": patterns.Unstructured(compare="output")}, "'sparsegpt'"),
        ({"target": 1.5}, "`target`"),
        ({"target": 1.0, "freeze": True}, "weights together.*unfreeze"),
        ({"data": (X * np.inf,)}, "finite"),
        ({"data": iter([(X,)])}, "no batches"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(options, message):
    model = mlp()
    if options.pop("freeze", False):
        tfprune.set_masks(model, "first", "kernel", frozen=np.s_[0, 0])
    before = values(model)
    options = {"target": 0.5, "criterion": "obc", "data": (X,)} | options
    with pytest.raises(ValueError, match=message):
        prune_weights(model, **options)
    assert_same(values(model), before)
    assert all(mask.all() for mask in every_mask(model))


def test_a_model_whose_outputs_have_no_gradient_is_refused():
    inputs = keras.Input((16,))
    hidden = layers.Dense(4, name="first")(inputs)
    model = keras.Model(inputs, keras.ops.argmax(hidden, axis=-1))
    with pytest.raises(ValueError, match="by gradients.*found none.*'sparsegpt'"):
        prune_weights(model, 0.5, "obc", data=(X,))
    assert not pruned(model, "first").any()


def test_a_schedule_refuses_it_and_says_where_it_belongs():
    with pytest.raises(ValueError, match=r"prune_weights\(model, target, \"obc\""):
        tfprune.callbacks.PruneWeights(0.5, "obc")
    with pytest.raises(ValueError, match="OBC"):
        criteria.weights.get(OBC())


@pytest.mark.parametrize("options", [{"rounds": 0}, {"damping": 0}, {"block_size": 0.5}])
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        OBC(**options)
