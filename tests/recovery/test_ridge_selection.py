"""`reconstruct` with few examples: never worse than the pruned model, whatever their number."""

import sys
import warnings

import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.recovery.least_squares import Sums
from tfprune.recovery.matrix_forms import form_of
from tfprune.recovery.ridge_selection import MOST_PATTERNS, RIDGES, select_ridge

DRAW = np.random.default_rng(0)


def sums_of(layer, x, target):
    sums = Sums(form_of(layer))
    sums.add(*(keras.ops.convert_to_tensor(t) for t in (x, layer(x), target)))
    return sums.values()


def by_hand(x, e, ridge):
    """The change of kernel and bias that a ridge gives, by an augmented least-squares problem."""
    if ridge == np.inf:
        return np.zeros((x.shape[1], e.shape[1])), e.mean(0)
    mean_x, mean_e = x.mean(0), e.mean(0)
    penalty = np.diag(np.sqrt(ridge * np.square(x - mean_x).sum(0)))
    rows = np.concatenate([x - mean_x, penalty])
    targets = np.concatenate([e - mean_e, np.zeros((x.shape[1], e.shape[1]))])
    change = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return change, mean_e - mean_x @ change


@pytest.mark.parametrize(("examples", "noise"), [(200, 0.0), (12, 0.5), (6, 3.0)])
def test_the_ridge_is_the_one_that_errs_least_on_held_out_examples(examples, noise):
    x = DRAW.normal(size=(examples + 20, 8)).astype("float32")
    layer = keras.layers.Dense(3)
    layer.build(x.shape)
    target = np.asarray(layer(x)) + x @ DRAW.normal(size=(8, 3)) + 0.3
    target = (target + noise * DRAW.normal(size=target.shape)).astype("float32")
    e = (target - np.asarray(layer(x))).astype("float64")
    fit, held_out = slice(0, examples), slice(examples, None)
    wide = x.astype("float64")

    def error(change, bias):
        left = e[held_out] - wide[held_out] @ change - bias
        spread = target[held_out] - target[held_out].mean(0)
        return np.sqrt(np.square(left).sum() / np.square(spread).sum())

    errors = {ridge: error(*by_hand(wide[fit], e[fit], ridge)) for ridge in RIDGES}
    free = np.ones((1, 8, 3), bool), np.ones((1, 3), bool)
    sums = [sums_of(layer, x[part], target[part]) for part in (fit, held_out)]
    solution = select_ridge(*sums, *free)
    assert solution.ridge == min(errors, key=errors.get)
    np.testing.assert_allclose(solution.after, errors[solution.ridge], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(solution.before, error(np.zeros((8, 3)), 0), rtol=1e-3)


def test_with_a_mask_for_each_column_the_solution_is_of_all_columns():
    columns = 4 * MOST_PATTERNS
    x = DRAW.normal(size=(80, 9)).astype("float32")
    layer = keras.layers.Dense(columns)
    layer.build(x.shape)
    free = DRAW.random((1, 9, columns)) > 0.4
    change = np.where(free[0], DRAW.normal(size=(9, columns)), 0).astype("float32")
    target = np.asarray(layer(x)) + x @ change
    sums = [sums_of(layer, x[part], target[part]) for part in (slice(0, 60), slice(60, None))]
    solution = select_ridge(*sums, free, np.ones((1, columns), bool))
    np.testing.assert_allclose(solution.kernel[0], change, atol=1e-3)
    assert solution.after < 1e-3 < solution.before


@pytest.fixture(scope="module")
def network():
    """A network of 40 and 40 units, the same with half of them masked, and unseen inputs."""
    keras.utils.set_random_seed(1)
    dense = keras.Sequential([
        keras.Input((20,)),
        keras.layers.Dense(40, activation="relu", name="first"),
        keras.layers.Dense(40, activation="relu", name="second"),
        keras.layers.Dense(3, name="last"),
    ])  # fmt: skip
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    return dense, masked, np.random.default_rng(5).normal(size=(500, 20)).astype("float32")


def error(model, dense, x):
    return float(np.sqrt(np.square(model(x) - dense(x)).mean()))


@pytest.mark.parametrize("examples", [3, 16, 20, 27, 40, 300])
def test_it_is_never_worse_than_the_pruned_model_on_unseen_examples(network, examples):
    dense, masked, unseen = network
    x = np.random.default_rng(examples).normal(size=(examples, 20)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = tfprune.reconstruct(masked, dense, x)
    pruned = error(masked, dense, unseen)
    assert error(fitted, dense, unseen) <= pruned
    if examples < 20:  # fewer than 16 are left to fit to
        np.testing.assert_array_equal(fitted(unseen), masked(unseen))
    if examples == 300:
        assert error(fitted, dense, unseen) < 0.8 * pruned
    if examples == 20:  # as many as inputs are left: a ridge of next to nothing fits noise
        dip = tfprune.reconstruct(masked, dense, x, ridge=1e-6)
        assert error(dip, dense, unseen) > 1.1 * pruned


def test_a_fit_that_does_not_hold_on_others_is_dropped_and_named(network):
    dense, _, _ = network
    masked = tfprune.prunable(dense)
    kernel = np.abs(np.asarray(dense.get_layer("second").kernel))
    tfprune.set_masks(masked, "second", "kernel", trainable=kernel > 0.1)
    x = np.random.default_rng(2).normal(size=(22, 20)).astype("float32")
    with pytest.warns(UserWarning, match=r"few examples to fit 'second'.*22 for 40 inputs"):
        fitted, report = tfprune.reconstruct(masked, dense, x, return_report=True)
    reasons = {layer.name: layer.reason for layer in report.skipped}
    assert reasons and "a fit to 17 examples does not hold on 5 others" in str(report)
    for name in reasons:
        for ours, theirs in zip(
            masked.get_layer(name).weights, fitted.get_layer(name).weights, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_fewer_than_four_examples_are_too_few(network):
    dense, masked, _ = network
    with pytest.warns(UserWarning, match="few examples"):
        fitted, report = tfprune.reconstruct(
            masked, dense, np.ones((3, 20), "float32"), return_report=True
        )
    assert not report.layers
    assert {layer.reason for layer in report.skipped} == {"3 examples are too few"}
    for ours, theirs in zip(masked.weights, fitted.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_enough_examples_do_not_warn(network):
    dense, masked, unseen = network
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _, report = tfprune.reconstruct(masked, dense, unseen, return_report=True)
    assert report.few is None and len(report.layers) == 2


def test_where_the_outputs_come_no_nearer_all_weights_stay(network, monkeypatch):
    dense, masked, unseen = network
    reconstructing = sys.modules["tfprune.recovery.reconstruction"]
    monkeypatch.setattr(reconstructing, "output_errors", lambda *args, **kwargs: [0.1, 0.2])
    fitted, report = tfprune.reconstruct(masked, dense, unseen, return_report=True)
    assert not report.layers and "would err by 20.00% instead of 10.00%" in str(report)
    for ours, theirs in zip(masked.weights, fitted.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_convolution_counts_its_positions_as_examples():
    keras.utils.set_random_seed(0)
    dense = keras.Sequential([
        keras.Input((10, 10, 3)),
        keras.layers.Conv2D(8, 3, activation="relu", name="first"),
        keras.layers.Conv2D(4, 3, name="second"),
        keras.layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="last"),
    ])  # fmt: skip
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5, only=["first"])
    x = DRAW.normal(size=(16, 10, 10, 3)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fitted = tfprune.reconstruct(masked, dense, x, batch_size=5)
    unseen = DRAW.normal(size=(64, 10, 10, 3)).astype("float32")
    assert error(fitted, dense, unseen) < 0.8 * error(masked, dense, unseen)
