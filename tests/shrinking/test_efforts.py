"""The efforts of `prune`: which criterion is taken, rounds, and the selection that goes with it."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune import budgets
from tfprune.shrinking.rounds import targets_of_rounds
from tfprune.units.selection.selection import Selection

L = keras.layers
DRAW = np.random.default_rng(0)
X = (DRAW.normal(size=(300, 6)) @ DRAW.normal(size=(6, 6))).astype("float32")


@pytest.fixture(scope="module")
def dense():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6,))
    x = L.Dense(20, "relu", name="wide")(inputs)
    return keras.Model(inputs, L.Dense(3, name="last")(L.Dense(16, "relu", name="deep")(x)))


def test_by_default_layerwise_obs_is_taken_with_the_greedy_selection(dense):
    small, report = tfprune.prune(dense, budgets.MACs(0.4), (X,), return_report=True)
    assert report.decisions[0].stage == "criterion 'layerwise_obs'"
    named = tfprune.prune(
        dense, budgets.MACs(0.4), (X,), criterion="layerwise_obs", selection="greedy"
    )
    np.testing.assert_allclose(small(X), named(X), rtol=1e-4, atol=1e-5)
    assert report.effort == "fast" and report.seconds > 0
    assert "effort='fast'" in str(report)


def test_rounds_are_taken_where_they_are_better(dense):
    errors = {}
    for effort in ("fast", "best"):
        _, report = tfprune.prune(
            dense, 0.7, (X,), criterion="layerwise_obs", effort=effort, return_report=True
        )
        errors[effort] = report.stages["reconstruct"]["error"]
    assert errors["best"] <= errors["fast"]
    assert {each.stage for each in report.decisions} >= {"rounds", "reconstruct"}


def test_each_round_measures_what_the_rounds_before_left(dense):
    seen = {"fast": [], "best": []}
    for effort, zeros in seen.items():

        def length(weights, zeros=zeros):
            zeros.append(int((weights["kernel"] == 0).all(axis=1).sum()))
            return np.abs(weights["kernel"]).sum(axis=1)

        tfprune.prune(dense, 0.9375, (X,), criterion=length, effort=effort)
    assert set(seen["fast"]) == {0}
    assert len(set(seen["best"])) >= 4  # a half, a quarter and an eighth are left after rounds


def test_a_model_that_lacks_what_it_needs_is_pruned_by_other_criteria(dense):
    outputs = keras.ops.argmax(dense.output, axis=-1)
    model = keras.Model(dense.input, outputs)
    small, report = tfprune.prune(model, 0.5, (X,), return_report=True)
    reason = report.decisions[0].reason
    assert "layerwise_obs The criterion 'layerwise_obs' measures by gradients" in reason
    assert all(f", {name} " in reason for name in ("magnitude", "l2", "activation_variance"))
    assert sum(layer.units for layer in small.layers if layer.name in ("wide", "deep")) == 18


def test_an_unknown_effort_is_refused(dense):
    with pytest.raises(ValueError, match="effort"):
        tfprune.prune(dense, 0.5, (X,), effort="utmost")


@pytest.mark.parametrize("budget", [budgets.MACs(0.1), budgets.Parameters(0.6)])
def test_each_round_leaves_the_same_share_of_a_cost(budget):
    targets = targets_of_rounds(budget, Selection("greedy"))
    assert len(targets) == 4
    left = [target.allowed(10**6, progress) for target, progress in targets]
    np.testing.assert_allclose(np.divide(left[1:], left[:-1]), budget.remaining**0.25, rtol=1e-3)
    assert left[-1] == budget.allowed(10**6)


@pytest.mark.parametrize(
    ("target", "scope"), [(budgets.Latency(2.0), "global"), (0.5, "same_class")]
)
def test_what_cannot_be_reached_in_rounds_is_reached_at_once(target, scope):
    assert targets_of_rounds(target, Selection(scope)) == [(target, 1.0)]
