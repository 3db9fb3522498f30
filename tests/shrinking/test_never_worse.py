"""`prune` keeps the better of the model before and after each stage."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.shrinking import judging

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 6, 6, 1)).astype("float32") + 0.5
Y = (X[:, :3].mean(axis=(1, 2, 3)) > X[:, 3:].mean(axis=(1, 2, 3))).astype("int64")
UNSEEN = RNG.normal(size=(300, 6, 6, 1)).astype("float32") + 0.5
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(momentum):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    x = L.Conv2D(12, 3, use_bias=False, name="first")(inputs)
    x = L.ReLU()(L.BatchNormalization(momentum=momentum, name="norm")(x))
    x = L.Conv2D(16, 3, use_bias=False, name="second")(x)
    x = L.ReLU()(L.BatchNormalization(momentum=momentum, name="other_norm")(x))
    model = keras.Model(inputs, L.Dense(2, name="last")(L.Flatten()(x)))
    model.compile(keras.optimizers.Adam(5e-3), LOSS, metrics=["accuracy"])
    model.fit(X, Y, epochs=8, verbose=0)
    return model


@pytest.fixture(scope="module")
def stale():
    """A network whose moving statistics have hardly moved."""
    return network(0.9995)


@pytest.fixture(scope="module")
def settled():
    """The same with statistics of the data."""
    return tfprune.recalibrate(network(0.9), X)


def decisions(report):
    return {each.stage: each for each in report.decisions}


def distance(model, other):
    return float(np.sqrt(np.square(model.predict(UNSEEN, verbose=0) - other(UNSEEN)).mean()))


@pytest.mark.parametrize("data", [(X, Y), (X,)], ids=["labels", "no labels"])
def test_stale_statistics_of_the_dense_model_are_put_right_first(stale, data):
    before = [np.array(w) for w in stale.weights]
    small, report = tfprune.prune(stale, 0.25, data, return_report=True)
    decision = decisions(report)["dense, recalibrated"]
    assert decision.kept and "off by" in decision.reason and "dense, recalibrated" in str(report)
    right = tfprune.recalibrate(stale, X)
    assert distance(small, right) < 0.5 * distance(small, stale)
    for ours, theirs in zip(before, stale.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("data", [(X, Y), (X,)], ids=["labels", "no labels"])
def test_statistics_that_fit_stay(settled, data):
    _, report = tfprune.prune(settled, 0.25, data, return_report=True)
    assert not decisions(report)["dense, recalibrated"].kept
    assert "dense, recalibrated" not in report.stages


@pytest.mark.parametrize("data", [(X, Y), (X,)], ids=["labels", "no labels"])
def test_no_stage_is_worse_than_the_one_before(settled, data):
    small, report = tfprune.prune(settled, 0.5, data, return_report=True)
    name = "loss" if len(data) > 1 else "error"
    values = [metrics[name] for metrics in list(report.stages.values())[1:]]
    assert values == sorted(values, reverse=True) and len(values) == 3
    assert "held-out data" in str(report)
    if len(data) == 1:
        masked = tfprune.prunable(settled)
        criterion = tfprune.criteria.Magnitude(normalize="mean")
        tfprune.prune_units(masked, 0.5, criterion, selection="global")
        assert distance(small, settled) < distance(masked, settled)


def test_a_stage_that_makes_it_worse_is_dropped(settled):
    # Labels that are wrong: what comes nearer to the dense model has a higher loss.
    wrong = (UNSEEN, 1 - (settled.predict(UNSEEN, verbose=0).argmax(-1)))
    criterion = tfprune.criteria.Magnitude(normalize="mean")
    options = {"criterion": criterion, "validation_data": wrong, "return_report": True}
    small, report = tfprune.prune(settled, 0.5, (X,), **options)
    masked = tfprune.prunable(settled)
    tfprune.prune_units(masked, 0.5, criterion, selection="global")
    assert not decisions(report)["reconstruct"].kept
    assert "loss on the validation data" in decisions(report)["reconstruct"].reason
    stages = report.stages
    assert stages["reconstruct"] == stages["pruned"]
    np.testing.assert_allclose(
        stages["pruned"]["loss"], masked.evaluate(*wrong, verbose=0)[0], rtol=1e-5
    )
    if not decisions(report)["recalibrate"].kept:
        np.testing.assert_allclose(small(X), masked(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recover", [(), "distill"], ids=["trained", "distilled"])
def test_training_keeps_the_best_weights(settled, recover):
    losses = []

    class Watch(keras.callbacks.Callback):
        """Raises the learning rate until nothing is learned any more."""

        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate.assign([1e-3, 1e-3, 30.0, 30.0][epoch])

        def on_epoch_end(self, epoch, logs=None):
            losses.append(self.model.evaluate(*validation, verbose=0)[0])

    validation = X[:60], Y[:60]
    small, report = tfprune.prune(
        settled, 0.5, (X, Y), validation_data=validation, recover=recover, epochs=4,
        callbacks=[Watch()], return_report=True,
    )  # fmt: skip
    before = report.stages["pruned"]["loss"]
    assert min(losses) < before and max(losses) > 10 * before  # it learned, and came apart
    assert report.stages["fine-tuned"]["loss"] == pytest.approx(min(losses), rel=1e-4)
    assert small.evaluate(*validation, verbose=0)[0] == pytest.approx(min(losses), rel=1e-4)
    decision = decisions(report)["fine-tuned"]
    assert decision.kept and f"epoch {np.argmin(losses) + 1} of 4" in decision.reason


def test_a_training_that_only_makes_it_worse_is_dropped(settled):
    model = tfprune.recalibrate(settled, X)
    model.optimizer.learning_rate.assign(30.0)
    small, report = tfprune.prune(model, 0.25, (X, Y), epochs=2, return_report=True)
    assert not decisions(report)["fine-tuned"].kept
    assert "no epoch is better" in decisions(report)["fine-tuned"].reason
    untrained = tfprune.prune(model, 0.25, (X, Y))
    np.testing.assert_allclose(small(X), untrained(X), rtol=1e-4, atol=1e-5)


def test_what_is_held_out_is_not_trained_on(settled):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(self.params["steps"])

    _, report = tfprune.prune(
        settled, 0.5, (X, Y), epochs=1, callbacks=[Watch()], batch_size=4, return_report=True
    )
    assert seen == [192 / 4]
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    tfprune.prune(settled, 0.5, batches, epochs=1, callbacks=[Watch()])
    assert seen[1:] == [24]
    tfprune.prune(settled, 0.5, (X, Y), epochs=1, callbacks=[Watch()], validation_split=0.5)
    assert seen[2:] == [4]


def test_nan_is_never_better():
    nan = float("nan")
    pairs = [(0.5, 1.0), (1.0, 0.5), (nan, 1.0), (1.0, nan), (nan, nan), (1.0, 1.0)]
    assert [judging.is_lower(*pair) for pair in pairs] == [True, False, False, True, False, False]


def test_a_split_of_batches_is_refused(settled):
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    with pytest.raises(ValueError, match="`validation_split` is for data in arrays"):
        tfprune.prune(settled, 0.5, batches, validation_split=0.2)


def test_auto_takes_the_criterion_that_is_best_after_recovery():
    keras.utils.set_random_seed(0)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 8)).astype("float32")
    y = np.argmax(x[:, :3] * x[:, 3:6], axis=1)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(24, activation="relu", name="wide"),
            keras.layers.Dense(12, activation="relu", name="narrow"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=15, verbose=0)

    def losses(data, **options):
        fit, held_out = (tuple(each[part] for each in data) for part in (np.s_[:160], np.s_[160:]))
        options |= {"validation_data": held_out, "return_report": True}
        report = tfprune.prune(model, 0.6, fit, **options)[1]
        return report.stages["reconstruct"], report.decisions[0]

    for data in ((x, y), (x,)):
        key, last = ("loss", "second_order") if len(data) == 2 else ("error", "activation_variance")
        names = ("layerwise_obs", "magnitude", "l2", last)
        each = {name: losses(data, criterion=name)[0][key] for name in names}
        fast, decision = losses(data)
        assert decision.stage == "criterion 'layerwise_obs'"
        np.testing.assert_allclose(fast[key], each["layerwise_obs"], rtol=1e-3)
        best, decision = losses(data, effort="best")
        rounds = losses(data, criterion="layerwise_obs", effort="best")[0][key]
        np.testing.assert_allclose(best[key], min(rounds, *each.values()), rtol=1e-3)
        assert len({round(value, 6) for value in each.values()}) > 1
        assert all(f"{name} " in decision.reason for name in (*names, "layerwise_obs in rounds"))
