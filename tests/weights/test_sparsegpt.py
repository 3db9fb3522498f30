"""One-shot pruning of models by SparseGPT: exact counts, order, errors, masks, refusals."""

import re
import warnings

import keras
import numpy as np
import pytest

import tfprune
from tests.multiplied_layers import TOKENS, zoo
from tests.small_mlp import InAList, assert_same, every_mask, pruned
from tfprune import criteria, layers, patterns, prune_weights
from tfprune.callbacks import PruneWeights
from tfprune.weights import sparsegpt
from tfprune.weights.prunable import select_weights

RNG = np.random.default_rng(0)
# Sixteen inputs that four numbers nearly tell.
X = RNG.normal(size=(64, 4)) @ RNG.normal(size=(4, 16)) + 0.05 * RNG.normal(size=(64, 16)) + 1
X = X.astype("float32")


def mlp(first=None, **kwargs):
    keras.utils.set_random_seed(0)
    first = layers.Dense(12, activation="relu", name="first") if first is None else first
    return keras.Sequential([keras.Input((16,)), first, layers.Dense(6, name="last")], **kwargs)


def kernels(model):
    return [weight.value.copy() for weight in select_weights(model)]


def by_hand(weights, x, sparsity, damping=0.01):
    """SparseGPT with one block of inputs: step by step, with an inverse for each input."""
    hessian = x.T.astype(float) @ x
    hessian += damping * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    inverses = [np.linalg.inv(hessian[j:, j:]) for j in range(len(hessian))]
    scores = np.square(weights) / [[inverse[0, 0]] for inverse in inverses]
    mask = np.ones(weights.size, bool)
    mask[np.argsort(scores.ravel())[: round(sparsity * weights.size)]] = False
    mask, new = mask.reshape(weights.shape), weights.astype(float)
    for j, inverse in enumerate(inverses):
        error = np.where(mask[j], 0, new[j]) / inverse[0, 0]
        new[j:] -= np.outer(inverse[:, 0], error)
    new *= mask
    errors = [np.square(x @ (each - weights)).sum(0) for each in (new, weights * mask)]
    return np.where(errors[0] < errors[1], new, weights * mask)


def test_each_layer_is_pruned_on_what_the_pruned_ones_before_it_give():
    model = mlp()
    first, last = kernels(model)
    bias = RNG.normal(size=12).astype("float32")
    model.get_layer("first").bias.assign(bias)
    assert prune_weights(model, 0.5, "sparsegpt", data=(X,)).pruned == (16 * 12 + 12 * 6) / 2
    new_first = by_hand(first, X, 0.5)
    np.testing.assert_allclose(kernels(model)[0], new_first, atol=1e-4)
    hidden = np.maximum(X @ new_first + bias, 0)
    np.testing.assert_allclose(kernels(model)[1], by_hand(last, hidden, 0.5), atol=1e-4)
    np.testing.assert_array_equal(model.get_layer("first").bias, bias)
    assert_same([kernel == 0 for kernel in kernels(model)], [~m for m in every_mask(model)[::2]])


def output_change(model, before):
    return np.square(np.subtract(model(X), before, dtype=float)).mean()


@pytest.mark.parametrize(("sparsity", "share"), [(0.5, 0.5), (0.8, 0.75)])
def test_outputs_change_far_less_than_by_magnitude_and_than_with_the_same_mask(sparsity, share):
    errors = {}
    for criterion in ("sparsegpt", "magnitude"):
        model = mlp()
        before, dense = np.array(model(X)), kernels(model)[0]
        counts = prune_weights(model, sparsity, criterion, data=(X,))
        assert counts.pruned == sum(round(sparsity * size) for size in (192, 72))
        errors[criterion] = output_change(model, before)
        if criterion == "sparsegpt":
            plain = dense * ~pruned(model, "first")
            of_first = [np.square(X @ (w - dense)).sum(0) for w in (kernels(model)[0], plain)]
            assert (of_first[0] <= of_first[1] * (1 + 1e-5)).all()
            assert of_first[0].sum() < 0.5 * of_first[1].sum()
    assert errors["sparsegpt"] < share * errors["magnitude"]


def test_an_output_that_the_update_makes_worse_keeps_its_weights():
    # The sweep prunes input 0 first, and moves 1 to make up for it, together with 2; then 2 goes.
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = (rng.normal(size=(32, 16)) @ rng.normal(size=(16, 16))).astype("float32")
        model = mlp()
        dense = kernels(model)[0]
        prune_weights(model, 0.8, "sparsegpt", data=(x,), only="first")
        new, plain = kernels(model)[0], dense * ~pruned(model, "first")
        errors = [np.square(x @ (w - dense)).sum(0) for w in (new, plain)]
        assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
        found += (new == plain).all(axis=0).sum()
        if found:
            break
    assert found


# Layers of all kinds -----------------------------------------------------------------------------


def test_layers_of_all_kinds_and_those_that_cannot_be_are_named():
    keras.utils.set_random_seed(0)
    dense = zoo()
    errors = {}
    for criterion in ("sparsegpt", "magnitude"):
        model = tfprune.prunable(dense)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            exclude = None if criterion == "sparsegpt" else ["tied", "recurrent"]
            counts = prune_weights(model, 0.5, criterion, data=(TOKENS,), exclude=exclude)
        change = np.subtract(model(TOKENS), dense(TOKENS), dtype=float)
        errors[criterion] = np.square(change).mean()
        if criterion == "sparsegpt":
            (message,) = [str(w.message) for w in caught if "skipped" in str(w.message)]
            left = {"tied", "recurrent", "own/position"}
            for weight in select_weights(model):
                name = f"{weight.layer.name}/{weight.name}"
                if weight.layer.name in left or name in left:
                    assert weight.trainable_mask.all() and repr(name) in message
                else:
                    assert (~weight.trainable_mask).sum() == round(weight.value.size / 2), name
                    assert repr(name) not in message
            assert re.search("'tied/embeddings': its rows are looked up", message)
            assert re.search("'recurrent/kernel', .*: it is used in a loop", message)
            assert counts.sparsity == pytest.approx(0.5, abs=0.01)
    assert errors["sparsegpt"] < errors["magnitude"]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_mixed_and_half_precision(policy):
    errors = {}
    for criterion in ("sparsegpt", "magnitude"):
        model = mlp(layers.Dense(12, activation="relu", name="first", dtype=policy))
        before = np.array(model(X), float)
        prune_weights(model, 0.5, criterion, data=(X,))
        errors[criterion] = output_change(model, before)
        assert pruned(model, "first").sum() == 96
    assert errors["sparsegpt"] < 0.5 * errors["magnitude"]


def test_a_subclassed_model_is_pruned_as_the_same_functional_one():
    model, net = mlp(), InAList(mlp().layers)
    net(X)
    for each in (model, net):
        prune_weights(each, 0.5, "sparsegpt", data=(X,))
    assert_same(kernels(net), kernels(model))


# Patterns and distributions ----------------------------------------------------------------------


def test_two_of_four_inputs_stay_in_every_group_of_a_convolution_and_a_dense_layer():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 6)),
            layers.Conv2D(8, 2, name="conv"),
            layers.Conv2D(4, 1, groups=2, name="grouped"),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ]
    )
    x = RNG.normal(size=(32, 5, 5, 6)).astype("float32")
    prune_weights(model, 0.5, "sparsegpt", pattern=patterns.NM(keep=2, of=4), data=(x,))
    kept = ~pruned(model, "conv")  # of six channels at each place of the window: four, and two
    assert (kept[:, :, :4].sum(2) == 2).all() and kept[:, :, 4:].all()
    assert (~pruned(model, "grouped")).sum() == 2 * 4
    assert ((~pruned(model, "head")).reshape(16, 4, 3).sum(1) == 2).all()


def test_a_group_is_selected_by_the_weights_it_has_when_its_turn_comes():
    model = mlp()
    new = kernels(model)[0].astype(float)
    prune_weights(
        model, 0.75, "sparsegpt", pattern=patterns.NM(keep=1, of=4), data=(X,), only="first"
    )
    hessian = X.T.astype(float) @ X
    hessian += 0.01 * np.trace(hessian) / 16 * np.eye(16)
    inverses = [np.linalg.inv(hessian[j:, j:]) for j in range(16)]
    for j, inverse in enumerate(inverses):
        if j % 4 == 0:
            variances = [[inverses[k][0, 0]] for k in range(j, j + 4)]
            best = np.argmax(np.square(new[j : j + 4]) / variances, axis=0)
        error = np.where(best == j % 4, 0, new[j]) / inverse[0, 0]
        new[j:] -= np.outer(inverse[:, 0], error)
        new[j] *= best == j % 4
    plain, found = mlp(), kernels(model)[0]
    is_updated = (found != kernels(plain)[0] * (found != 0)).any(axis=0)
    assert is_updated.sum() >= 6  # the others were better off without
    np.testing.assert_allclose(found[:, is_updated], new[:, is_updated], atol=1e-4)


def test_groups_along_outputs_blocks_and_equal_counts_of_outputs():
    for pattern in (
        patterns.NM(keep=1, of=2, axis=-1),
        patterns.Block((2, 3)),
        patterns.Unstructured(compare="output"),
    ):
        model = mlp()
        assert prune_weights(model, 0.5, "sparsegpt", pattern=pattern, data=(X,)).sparsity == 0.5
        gone = pruned(model, "first")
        if isinstance(pattern, patterns.NM):
            assert (gone.reshape(16, 6, 2).sum(2) == 1).all()
        elif isinstance(pattern, patterns.Block):
            blocks = gone.reshape(8, 2, 4, 3).sum((1, 3))
            assert set(np.unique(blocks)) == {0, 6}
        else:
            assert (gone.sum(0) == 8).all()


@pytest.mark.parametrize("block_size", [1, 3, 5])
@pytest.mark.parametrize("sparsity", [0.37, 0.9, 1.0])
def test_counts_are_exact_whatever_the_blocks(sparsity, block_size, monkeypatch):
    monkeypatch.setattr("tfprune.weights.tiles.ELEMENTS_AT_ONCE", 16 * 5)
    model = mlp()
    tfprune.set_masks(model, "first", "kernel", trainable=np.s_[1:], frozen=np.s_[7, 2:9])
    frozen = kernels(model)[0][7, 2:9]
    if sparsity == 1:
        with pytest.raises(ValueError, match="'kernel' of layer 'first'.*unfreeze"):
            prune_weights(model, sparsity, "sparsegpt", data=(X,), only="first")
        return
    method = criteria.SparseGPT(block_size=block_size)
    prune_weights(model, sparsity, method, data=(X,), only="first")
    gone = pruned(model, "first")
    assert gone.sum() == round(sparsity * 192) and gone[0].all()
    assert not gone[7, 2:9].any()
    np.testing.assert_array_equal(kernels(model)[0][7, 2:9], frozen)


def test_layers_have_sparsities_of_their_own():
    model = mlp()
    prune_weights(model, 0.5, "sparsegpt", data=(X,), distribution={"first": 0.25})
    assert pruned(model, "first").sum() == 48 and pruned(model, "last").sum() == 36


# Training, interruption, what is refused ---------------------------------------------------------


def test_slots_of_what_is_pruned_start_anew_and_training_keeps_the_masks():
    model = mlp()
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(X, X[:, :6], epochs=1, verbose=0)
    prune_weights(model, 0.5, "sparsegpt", data=(X, X[:, :6]))
    gone = pruned(model, "first")
    slots = [v for v in model.optimizer.variables if tuple(v.shape) == gone.shape]
    assert slots and all((np.array(slot)[gone] == 0).all() for slot in slots)
    model.fit(X, X[:, :6], epochs=1, verbose=0)
    assert (kernels(model)[0][gone] == 0).all() and (kernels(model)[0][~gone] != 0).all()


def test_what_is_interrupted_goes_on_where_it_is_called_again(monkeypatch):
    model, whole = mlp(), mlp()
    prune_weights(whole, 0.5, "sparsegpt", data=(X,))
    measure, dense, calls = sparsegpt.second_moments, kernels(model), []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(sparsegpt, "second_moments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune_weights(model, 0.5, "sparsegpt", data=(X,))
    assert_same(kernels(model), [kernels(whole)[0], dense[1]])
    assert pruned(model, "first").sum() == 96 and not pruned(model, "last").any()
    assert prune_weights(model, 0.5, "sparsegpt", data=(X,)).sparsity == 0.5
    assert_same(kernels(model), kernels(whole))
    assert len(calls) == 3  # the first layer is not measured again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "measures the inputs of layers on data"),
        ({"distribution": "global"}, "'global' with SparseGPT"),
        ({"target": 0.4, "pattern": patterns.NM(keep=2, of=4)}, "layer 'first'.*pattern, 0.5"),
        ({"only": "last", "target": 1.5}, "`target`"),
        ({"data": (X * np.inf,)}, "finite"),
        ({"data": iter([(X,)])}, "no batches"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(options, message):
    model = mlp()
    before = kernels(model)
    options = {"target": 0.5, "criterion": "sparsegpt", "data": (X,)} | options
    with pytest.raises(ValueError, match=message):
        prune_weights(model, **options)
    assert_same(kernels(model), before)
    assert all(mask.all() for mask in every_mask(model))


def test_outputs_that_overflow_are_refused_before_anything_is_changed():
    model = mlp(layers.Dense(12, name="first"))
    model.get_layer("last").kernel.assign(np.full((12, 6), 3e38))
    with pytest.raises(ValueError, match="outputs of the model are NaN or infinite"):
        prune_weights(model, 0.5, "sparsegpt", data=(X * 100,))
    assert all(mask.all() for mask in every_mask(model))


def test_weights_with_constraints_are_skipped_and_a_model_of_nothing_else_is_refused():
    model = mlp(layers.Dense(12, name="first", kernel_constraint="non_neg"))
    with pytest.warns(UserWarning, match="'first/kernel': it has a constraint"):
        assert prune_weights(model, 0.5, "sparsegpt", data=(X,)).elements == 72
    with pytest.raises(ValueError, match="none of the weights.*constraint"):
        prune_weights(model, 0.5, "sparsegpt", data=(X,), only="first")


def test_a_schedule_refuses_it_and_says_where_it_belongs():
    with pytest.raises(ValueError, match=r"prune_weights\(model, target, \"sparsegpt\""):
        PruneWeights(0.5, "sparsegpt")
    with pytest.raises(ValueError, match="SparseGPT"):
        criteria.weights.get(criteria.SparseGPT())


@pytest.mark.parametrize("options", [{"damping": 0}, {"block_size": 0.5}])
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        criteria.SparseGPT(**options)
