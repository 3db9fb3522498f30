"""`prune` to a target in accuracy: bisection over budgets, judged by what the user names."""

import dataclasses

import keras
import numpy as np
import pytest

import tfprune
from tfprune import budgets
from tfprune.coupling.costs import total_macs

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 6)).astype("float32")
Y = np.argmax(X[:, :3] * X[:, 3:], axis=1)
FIT, SEEN = (X[:250], Y[:250]), (X[250:], Y[250:])
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PLAIN = {"criterion": "magnitude", "recover": ()}


@pytest.fixture(scope="module")
def dense():
    keras.utils.set_random_seed(0)
    layers = [L.Dense(32, "relu", name="wide"), L.Dense(16, "relu", name="narrow")]
    model = keras.Sequential([keras.Input((6,)), *layers, L.Dense(3, name="logits")])
    model.compile(keras.optimizers.Adam(5e-3), LOSS, metrics=["accuracy"])
    model.fit(*FIT, epochs=30, verbose=0)
    return model


def accuracy(model):
    """The share of the examples that are classified right, by NumPy."""
    x = SEEN[0]
    for layer in model.layers:
        x = x @ np.asarray(layer.kernel) + np.asarray(layer.bias)
        x = x if layer is model.layers[-1] else np.maximum(x, 0)
    return float((x.argmax(1) == SEEN[1]).mean())


def found(dense, target, **options):
    options = {**PLAIN, "validation_data": SEEN, "return_report": True, **options}
    return tfprune.prune(dense, target, FIT, **options)


@pytest.fixture(scope="module")
def scan(dense):
    """The accuracy at each eighth of the MACs, each pruned by itself; None where there is none."""
    curve = {}
    for eighths in range(1, 8):
        small = tfprune.prune(dense, budgets.MACs(eighths / 8), FIT, **PLAIN)
        curve[eighths / 8] = accuracy(small), total_macs(small) / total_macs(dense)
    return curve


@pytest.mark.parametrize("drop", [0.02, 0.1, 0.3])
def test_it_is_what_a_bisection_over_a_scan_of_all_budgets_finds(dense, scan, drop):
    target = budgets.Accuracy(drop, tolerance=0.125)
    low, high, tried = 0, 8, []
    while high - low > 1:
        middle = (low + high) // 2
        tried.append(middle / 8)
        holds = scan[middle / 8][0] >= accuracy(dense) - drop - 1e-6
        low, high = (low, middle) if holds else (middle, high)
    if high == 8:
        with pytest.raises(ValueError, match=f"best that was found is .* of {len(tried)} budgets"):
            found(dense, target)
        return
    small, report = found(dense, target)
    assert report.budget.remaining == pytest.approx(high / 8, abs=0.02)  # it may go on from less
    assert accuracy(small) >= accuracy(dense) - drop - 1e-6
    assert [each.budget.remaining for each in report.tries] == pytest.approx(tried, abs=0.02)
    for each in report.tries:
        if each.budget.remaining in scan:
            assert (each.value, each.ratio) == pytest.approx(scan[each.budget.remaining], abs=1e-6)
        assert each.holds == (each.value >= accuracy(dense) - drop - 1e-6)
    smallest = min(each.ratio for each in report.tries if each.holds)
    assert report.macs.ratio == smallest
    assert "within the drop" in str(report) and "accuracy at most" in str(report)


def test_the_model_is_the_one_of_the_budget_that_it_found(dense):
    small, report = found(dense, budgets.Accuracy(0.1, tolerance=0.25), recover="auto")
    again = tfprune.prune(
        dense, report.budget, FIT, criterion="magnitude", validation_data=SEEN, recover="auto"
    )
    for ours, theirs in zip(small.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_function_says_how_good_a_model_is(dense):
    seen = []

    def error(model):
        seen.append(model)
        return 1 - accuracy(model)

    target = budgets.Accuracy(0.1, error, larger_is_better=False, cost="parameters", tolerance=0.25)
    small, report = tfprune.prune(dense, target, return_report=True, **PLAIN)  # without data
    assert seen[0] is dense and small in seen and len(seen) == 1 + len(report.tries)
    assert report.tries[-1].value == pytest.approx(error(seen[-1]))
    assert error(small) <= error(dense) + 0.1
    assert report.parameters.ratio == min(each.ratio for each in report.tries if each.holds)


@pytest.mark.parametrize("cost", ["units", "bytes"])
def test_what_is_to_be_small(dense, cost):
    target = budgets.Accuracy(1.0, cost=cost, tolerance=0.5)  # anything holds it
    _, report = found(dense, target)
    assert type(report.budget).__name__.lower() == cost
    if cost == "units":
        assert report.tries[0].ratio == report.units.ratio == 0.5
    else:
        assert report.tries[0].ratio == report.parameters.ratio  # all weights are of float32


@pytest.mark.slow
def test_the_least_latency():
    model = keras.Sequential(
        [keras.Input((64,)), *(L.Dense(2048, name=f"wide_{i}") for i in range(3)), L.Dense(2)]
    )
    cost = budgets.Latency(fraction=1.0, batch_size=16, tolerance=0.2)
    target = budgets.Accuracy(
        0.5, lambda model: 1.0, larger_is_better=True, cost=cost, tolerance=0.5
    )
    small, report = tfprune.prune(model, target, return_report=True)
    assert report.budget == dataclasses.replace(cost, fraction=0.5)
    assert report.tries[0].ratio < 0.75 and small.get_layer("wide_1").units < 2048


def test_a_relative_drop_of_the_loss(dense):
    target = budgets.Accuracy(1.0, "loss", relative=True, tolerance=0.25)
    small, report = found(dense, target)
    before, after = (model.evaluate(*SEEN, verbose=0)[0] for model in (dense, small))
    assert after <= 2 * before + 1e-6
    assert any(not each.holds for each in report.tries)


def test_without_labels_the_error_of_the_outputs(dense):
    target = budgets.Accuracy(0.4, "error", tolerance=0.25)
    small, report = tfprune.prune(
        dense, target, (X[:250],), validation_data=(X[250:],), return_report=True
    )
    outputs = dense.predict(X[250:], verbose=0)
    squares = np.square(small.predict(X[250:], verbose=0) - outputs).sum()
    error = np.sqrt(squares / np.square(outputs - outputs.mean()).sum())
    assert error <= 0.4
    assert min(each.ratio for each in report.tries if each.holds) == report.macs.ratio


def test_the_drop_is_judged_after_training(dense):
    target = budgets.Accuracy(0.05, tolerance=0.25)
    options = {"criterion": "random", "recover": ()}
    _, before = found(dense, budgets.MACs(0.75), **options)
    small, report = found(dense, target, epochs=8, **options)
    assert before.stages["pruned"]["accuracy"] < accuracy(dense) - 0.05
    assert list(report.stages)[-1] == "fine-tuned"
    assert accuracy(small) >= accuracy(dense) - 0.05


def test_budgets_out_of_reach_do_not_hold_it(dense):
    selection = tfprune.Selection("global", min_units=12)
    small, report = found(dense, budgets.Accuracy(1.0, tolerance=0.125), selection=selection)
    assert [each.value is None for each in report.tries] == [False, True, False]
    assert small.get_layer("narrow").units >= 12
    assert "cannot be met" in str(report)


def test_where_nothing_holds_it_the_error_says_what_is_best(dense):
    before = dense.get_weights()
    with pytest.raises(ValueError, match="No budget holds the drop") as error:
        found(dense, budgets.Accuracy(0.0, tolerance=0.25), criterion="random")
    for part in (f"at least {accuracy(dense):.6g}", "best that was found is 0.", "epochs"):
        assert part in str(error.value)
    for ours, theirs in zip(before, dense.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_stale_statistics_are_no_excuse():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            L.Dense(16, name="hidden"),
            L.BatchNormalization(momentum=0.9999, name="norm"),
            L.ReLU(),
            L.Dense(3, name="logits"),
        ]
    )
    model.compile(keras.optimizers.Adam(5e-3), LOSS, metrics=["accuracy"])
    model.fit(5 * X + 3, Y, epochs=20, verbose=0)
    data, seen = (5 * FIT[0] + 3, FIT[1]), (5 * SEEN[0] + 3, SEEN[1])
    right = tfprune.recalibrate(model, data).evaluate(*seen, verbose=0)[1]
    assert model.evaluate(*seen, verbose=0)[1] < right - 0.2
    small = tfprune.prune(model, budgets.Accuracy(0.05, tolerance=0.25), data, validation_data=seen)
    assert small.evaluate(*seen, verbose=0)[1] >= right - 0.06


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop": -0.1}, "`drop`"),
        ({"drop": float("nan")}, "`drop`"),
        ({"drop": 0.1, "tolerance": 0}, "`tolerance`"),
        ({"drop": 0.1, "relative": "loss"}, "`relative` must be True or False"),
        ({"drop": 0.1, "metric": len}, "`larger_is_better` must be True or False for a function"),
        ({"drop": 0.1, "metric": "score"}, "`larger_is_better`"),
        ({"drop": 0.1, "metric": keras.metrics.AUC()}, "`metric` must be the name"),
        ({"drop": 0.1, "cost": "flops"}, "`cost` must be one of"),
        ({"drop": 0.1, "cost": budgets.MACs(0.5)}, "`cost` must be one of.*all of it"),
    ],
)
def test_a_target_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        budgets.Accuracy(**arguments)


@pytest.mark.parametrize(
    ("target", "data", "message"),
    [
        (budgets.Accuracy(0.1), None, "no data"),
        (budgets.Accuracy(0.1), (X,), "data without labels"),
        (budgets.Accuracy(0.1, "auc"), FIT, r"compiled with.*'auc'.*\['accuracy', 'loss'\]"),
        (budgets.Accuracy(0.1, repr, larger_is_better=True), FIT, "returns a float"),
        (
            budgets.Accuracy(0.1, lambda model: np.nan, larger_is_better=True),
            FIT,
            "must be finite.*nan",
        ),
    ],
)
def test_a_metric_that_cannot_be_evaluated_is_refused(dense, target, data, message):
    with pytest.raises(ValueError, match=message):
        tfprune.prune(dense, target, data)


REFUSED = {
    "prune_units": lambda model, target: tfprune.prune_units(tfprune.prunable(model), target),
    "PruneUnits": lambda model, target: tfprune.callbacks.PruneUnits(target),
    "config": lambda model, target: tfprune.callbacks.PruneUnits(budgets.serialize(target)),
    "prune_blocks": lambda model, target: tfprune.prune_blocks(model, target, data=FIT),
    "fit_and_shrink": lambda model, target: tfprune.fit_and_shrink(model, *FIT, stages=target),
    "a stage": lambda model, target: tfprune.fit_and_shrink(model, *FIT, stages={0: target}),
    "pareto": lambda model, target: tfprune.pareto(model, FIT, remaining=[target]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_a_target_must_say_how_much_it_is_refused_by_name(dense, name):
    with pytest.raises(ValueError, match=r"target=Accuracy\(drop=0.1.*tfprune.prune\("):
        REFUSED[name](dense, budgets.Accuracy(0.1))


@pytest.mark.parametrize(
    "target",
    [
        budgets.Accuracy(0.1),
        budgets.Accuracy(0.1, "loss", relative=True, cost=budgets.Latency(fraction=1.0)),
    ],
)
def test_a_target_survives_its_config(target):
    assert budgets.deserialize(budgets.serialize(target)) == target
    assert keras.saving.deserialize_keras_object(budgets.serialize(target)) == target
