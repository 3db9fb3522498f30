import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import budgets
from tfprune.coupling.costs import costs

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6, 6, 1)).astype("float32")
Y = (X.mean(axis=(1, 2, 3)) > 0).astype("int64")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def macs(model):
    return sum(call.macs for call in costs(model))


@pytest.fixture(scope="module")
def dense():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    x = L.Conv2D(12, 3, use_bias=False, name="first")(inputs)
    x = L.ReLU()(L.BatchNormalization(name="norm")(x))
    x = L.Conv2D(16, 3, activation="relu", name="second")(x)
    model = keras.Model(inputs, L.Dense(2, name="last")(L.Flatten()(x)))
    model.compile(keras.optimizers.Adam(5e-3), LOSS, metrics=["accuracy"])
    model.fit(X, Y, epochs=8, verbose=0)
    return tfprune.recalibrate(model, X)  # after so few steps


def test_a_small_model_within_the_budget_and_a_report(dense):
    before = [np.array(w) for w in dense.get_weights()]
    small, report = tfprune.prune(
        dense,
        budgets.MACs(0.4),
        (X, Y),
        criterion="taylor",
        validation_data=(X, Y),
        return_report=True,
    )
    assert macs(small) <= 0.4 * macs(dense)
    assert report.macs.after == macs(small)
    assert report.parameters.after == small.count_params()
    assert list(report.stages) == ["dense", "pruned", "reconstruct", "recalibrate"]
    assert report.stages["recalibrate"]["loss"] == pytest.approx(
        small.evaluate(X, Y, verbose=0)[0], rel=1e-4
    )
    assert not tfprune.masks.masked_layers(small)
    for ours, theirs in zip(before, dense.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_recovery_brings_the_outputs_nearer_to_the_dense_ones(dense):
    def distance(recover):
        small = tfprune.prune(dense, budgets.MACs(0.4), (X, Y), recover=recover)
        return np.abs(small.predict(X, verbose=0) - dense.predict(X, verbose=0)).mean()

    assert distance("reconstruct") < distance(()) / 2


def test_without_data_it_prunes_and_strips(dense):
    small, report = tfprune.prune(dense, 0.5, return_report=True)
    assert report.units.after == report.units.before / 2
    assert report.stages == {}
    masked = tfprune.prunable(dense)
    tfprune.prune_units(
        masked, 0.5, criterion=tfprune.criteria.Magnitude(normalize="mean"), selection="global"
    )
    for ours, theirs in zip(small.get_weights(), tfprune.strip(masked).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_it_trains_on_alone_or_led_by_the_dense_model(dense):
    options = {"epochs": 2, "batch_size": 32, "return_report": True}
    for recover in ("auto", ("reconstruct", "recalibrate", "distill")):
        small, report = tfprune.prune(
            dense, budgets.Parameters(0.4), (X, Y), recover=recover, **options
        )
        assert list(report.stages)[-1] == "fine-tuned"
        assert int(small.optimizer.iterations) == int(dense.optimizer.iterations) + 2 * 3
        assert small.count_params() <= 0.4 * dense.count_params()


def test_validation_data_is_what_is_evaluated(dense):
    validation = X[:10], 1 - Y[:10]
    _, report = tfprune.prune(dense, 0.25, (X, Y), validation_data=validation, return_report=True)
    expected = dense.evaluate(*validation, verbose=0)[0]
    assert report.stages["dense"]["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_report_prints_and_becomes_json(dense):
    _, report = tfprune.prune(dense, budgets.MACs(0.5), (X, Y), return_report=True)
    printed = str(report)
    for part in ("first", "at most 50 %", "reconstruct", "accuracy", "MACs"):
        assert part in printed
    assert json.loads(json.dumps(report.to_dict()))["macs"]["before"] == macs(dense)


def test_more_options_are_those_of_prune_units(dense):
    small = tfprune.prune(
        dense, budgets.MACs(0.6), exclude=["second"], selection=tfprune.Selection(round_to=4)
    )
    assert small.get_layer("second").filters == 16
    assert small.get_layer("first").filters % 4 == 0


def test_a_model_without_norms_is_not_recalibrated():
    model = keras.Sequential([keras.Input((4,)), L.Dense(8, "relu"), L.Dense(2)])
    x = RNG.normal(size=(32, 4)).astype("float32")
    small = tfprune.prune(model, 0.5, (x,))
    assert small.layers[0].units == 4


def test_a_budget_that_all_meet_changes_nothing(dense):
    small, report = tfprune.prune(dense, budgets.MACs(1.0), (X, Y), return_report=True)
    assert report.macs.ratio == 1
    np.testing.assert_allclose(small.predict(X, verbose=0), dense.predict(X, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recover": ("magic",), "data": (X, Y)}, "recover"),
        ({"recover": ("recalibrate",)}, "data"),
        ({"epochs": 1}, "data"),
        ({"epochs": -1, "data": (X, Y)}, "epochs"),
        ({"recover": "distill", "data": (X, Y)}, "epochs"),
        ({"criterion": "taylor"}, "data"),
    ],
)
def test_what_does_not_go_together_is_refused(dense, arguments, message):
    with pytest.raises(ValueError, match=message):
        tfprune.prune(dense, budgets.MACs(0.5), **arguments)


def test_training_needs_a_compiled_model():
    model = keras.Sequential([keras.Input((4,)), L.Dense(8), L.Dense(2)])
    with pytest.raises(ValueError, match="not compiled"):
        tfprune.prune(model, 0.5, (np.ones((4, 4)), np.ones((4, 2))), epochs=1)


def test_a_budget_out_of_reach_says_what_can_be_had(dense):
    with pytest.raises(ValueError, match="least that can remain"):
        tfprune.prune(dense, budgets.MACs(1))


@pytest.mark.parametrize("by", ["layer", "name", "predicate on the layer", "predicate"])
def test_layers_of_the_model_given_are_excluded(dense, by):
    layer = dense.get_layer("second")
    exclude = {
        "layer": [layer],
        "name": ["second"],
        "predicate on the layer": lambda each: each is layer,
        "predicate": lambda each: each.name == "second",
    }[by]
    small = tfprune.prune(dense, 0.5, exclude=exclude)
    assert small.get_layer("second").filters == layer.filters
    assert small.get_layer("first").filters < dense.get_layer("first").filters


@pytest.mark.parametrize(
    "run",
    [
        lambda model, exclude: tfprune.prune(model, 0.5, exclude=exclude),
        lambda model, exclude: (
            tfprune.fit_and_shrink(
                model, np.ones((8, 4)), np.ones((8, 2)), stages={0: 0.5}, exclude=exclude, verbose=0
            ).model
        ),
    ],
)
def test_a_nested_model_stands_for_all_layers_in_it(run):
    inner = keras.Sequential([keras.Input((8,)), L.Dense(8, name="deep")], name="inner")
    model = keras.Sequential([keras.Input((4,)), L.Dense(8, name="first"), inner, L.Dense(2)])
    model.compile("sgd", "mse")
    small = run(model, inner)
    assert small.get_layer("first").units == 4
    assert small.get_layer("inner").get_layer("deep").units == 8


@pytest.mark.parametrize("argument", ["only", "exclude"])
def test_what_is_no_choice_of_layers_is_refused_by_the_argument(dense, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be a layer.*{argument}=3"):
        tfprune.prune(dense, 0.5, **{argument: 3})


def test_limits_of_layers_of_the_model_given(dense):
    layer = dense.get_layer("second")
    for key in (layer, lambda each: each is layer):
        selection = tfprune.Selection("uniform", max_fraction={key: 0.0})
        small = tfprune.prune(dense, 0.5, selection=selection)
        assert small.get_layer("second").filters == layer.filters
        assert small.get_layer("first").filters == dense.get_layer("first").filters // 2


def test_a_layer_of_another_model_is_refused_by_the_argument_it_came_in(dense):
    with pytest.raises(ValueError, match="`exclude` must be a layer of the model.*'other'"):
        tfprune.prune(dense, 0.5, exclude=[keras.layers.Dense(2, name="other")])


@pytest.mark.parametrize("unknown", ["scope", "normalize", "round_to", "budget", "distilled"])
def test_an_unknown_argument_is_named_with_where_it_went(dense, unknown):
    with pytest.raises(TypeError, match=rf"{unknown}.*`criterion=.*`selection="):
        tfprune.prune(dense, 0.5, **{unknown: 1})


def test_a_batch_size_for_batches_is_refused_before_any_work(dense):
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    with pytest.raises(ValueError, match="`batch_size` is for data in arrays"):
        tfprune.prune(dense, 0.5, batches, batch_size=8)


def test_without_labels_it_is_trained_towards_the_dense_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(24, activation="relu", name="hidden")(inputs)
    classes = keras.layers.Dense(3, activation="softmax", name="classes")(hidden)
    model = keras.Model(inputs, [classes, keras.layers.Dense(1, name="value")(hidden)])
    x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    budget = tfprune.budgets.MACs(0.5)
    small, report = tfprune.prune(model, budget, (x,), epochs=30, return_report=True)
    errors = [metrics["error"] for metrics in report.stages.values()]
    assert errors[-1] < 0.8 * errors[-2] and report.decisions[-1].kept
    assert not small.compiled and small.get_layer("hidden").units == 12
    with pytest.raises(ValueError, match="labels a compiled model"):
        tfprune.prune(model, budget, (x, [x[:, :1], x[:, :1]]), epochs=1)
