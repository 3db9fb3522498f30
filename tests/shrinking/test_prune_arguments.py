"""Arguments and data that `prune` takes, and what it refuses before any work."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune

X = np.random.default_rng(0).normal(size=(100, 6)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")
WEIGHTS = np.ones(100, "float32")


@pytest.fixture(scope="module")
def dense():
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")
    model = keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(2, name="logits")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(X, Y, epochs=5, verbose=0)
    return model


@pytest.mark.parametrize("target", ["half", None, True, 1.5, [0.5], tfprune.budgets.MACs])
def test_a_target_that_is_none_is_refused(dense, target):
    for data in (None, (X,)):
        with pytest.raises(ValueError, match="Argument `target` must be a number from 0 to 1"):
            tfprune.prune(dense, target, data)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ((X, Y), {"sample_weight": WEIGHTS, "epochs": 1}, "Pass `data=.x, y, sample_weight.`"),
        ((X, Y), {"callbacks": [keras.callbacks.Callback()]}, "`fit`.*'callbacks'.*epochs=0"),
        ((X, Y), {"class_weight": {0: 1.0, 1: 2.0}}, "`fit`.*'class_weight'.*epochs=0"),
        ((X,), {"class_weight": {0: 1.0, 1: 2.0}, "epochs": 1}, "class_weight, data without la"),
        ((X, None, WEIGHTS), {"epochs": 1}, "sample weights in `data`, data without labels"),
        ((X, Y), {"validation_data": iter([(X, Y)])}, "`validation_data`.*list_iterator"),
        ((X, Y), {"validation_data": (X, Y[:5])}, "`validation_data`.*equally many"),
        ((X, Y), {"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ((X, Y), {"callbacks": ["csv"], "epochs": 1}, "`callbacks` must be a `keras.callba"),
        ("data", {}, "`data`.*type str"),
        (iter([(X, Y)]), {}, "`data`.*list_iterator"),
    ],
)
def test_what_would_be_ignored_or_fail_later_is_refused(dense, data, arguments, message):
    with pytest.raises(ValueError, match=message):
        tfprune.prune(dense, 0.5, data, **arguments)


@pytest.mark.parametrize("data", [X, tf.constant(X), [X], (X, None)])
def test_inputs_come_in_any_form(dense, data):
    expected, its = tfprune.prune(dense, 0.5, (X,), return_report=True)
    small, report = tfprune.prune(dense, 0.5, data, return_report=True)
    assert report.stages == its.stages
    np.testing.assert_array_equal(small.get_layer("logits").kernel, expected.layers[-1].kernel)


@pytest.mark.parametrize("inputs", [np.array, lambda x: (x, None)], ids=["array", "with None"])
@pytest.mark.parametrize("recover", ["auto", ("reconstruct", "distill")])
def test_labels_on_one_side_alone(dense, inputs, recover):
    options = {"recover": recover, "epochs": 1, "return_report": True}
    _, report = tfprune.prune(dense, 0.5, (X, Y), validation_data=inputs(X[:20]), **options)
    assert all(list(each) == ["error"] for each in report.stages.values())
    _, report = tfprune.prune(dense, 0.5, inputs(X), validation_data=(X[:20], Y[:20]), **options)
    right = dense.predict(X[:20], verbose=0).argmax(axis=1) == Y[:20]
    assert report.stages["dense"]["accuracy"] == pytest.approx(right.mean())
    assert "fine-tuned" in report.stages
