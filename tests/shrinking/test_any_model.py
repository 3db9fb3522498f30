"""Recovery, surgery and training on models of users' own: subclassed, with weights of their own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfprune
from tfprune import surgery

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 48)
HALF = tfprune.budgets.Parameters(0.5)


class Gain(layers.Layer):
    """Has a weight of its own and no config."""

    def __init__(self, by):
        super().__init__(name="gain")
        self.by = by

    def build(self, shape):
        self.gains = self.add_weight(shape=(shape[-1],), name="gains", initializer="ones")

    def call(self, x):
        return self.by * x * self.gains


class Net(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.one = layers.Dense(12, activation="relu", name="one")
        self.gain, self.norm = Gain(1.5), layers.BatchNormalization(name="norm")
        self.two = layers.Dense(10, activation="relu", name="two")
        self.last = layers.Dense(3, name="last")

    def call(self, x, training=False):
        return self.last(self.two(self.norm(self.gain(self.one(x)), training=training)))


class OwnStep(Net):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = 2.0 * self.compute_loss(x, y, outputs)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        self._loss_tracker.update_state(loss)
        return self.compute_metrics(x, y, outputs)


def graph():
    inputs = keras.Input((6,))
    return keras.Model(inputs, Net().call(inputs), name="net")


KINDS = {"subclassed": Net, "own train_step": OwnStep, "own weight in a graph": graph}


@pytest.fixture(params=KINDS)
def model(request):
    keras.utils.set_random_seed(0)
    made = KINDS[request.param]()
    made(X)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile("adam", loss, metrics=["accuracy"])
    made.fit(X, Y, verbose=0)
    return made


def masked(model, target=0.5):
    copy = tfprune.prunable(model)
    tfprune.prune_units(copy, target)
    return copy


def distance(model, other):
    return float(np.abs(np.asarray(model(X)) - np.asarray(other(X))).mean())


def values(model):
    return [np.array(weight) for weight in model.weights]


def test_recovered_from_pruning(model):
    pruned = masked(model)
    before, after = values(model), values(pruned)
    for recover in (tfprune.compensate, tfprune.reconstruct):
        recovered = recover(pruned, model, (X,))
        assert distance(recovered, model) < distance(pruned, model)
        small = tfprune.strip(recovered)
        assert small.get_layer("one").units == 6 and small.get_layer("two").units == 5
    np.testing.assert_equal(values(model), before)
    np.testing.assert_equal(values(pruned), after)


def test_statistics_are_recomputed_and_the_class_is_kept(model):
    recalibrated = tfprune.recalibrate(model, X)
    assert type(recalibrated) is type(model)
    inputs = model.get_layer("gain")(model.get_layer("one")(X))
    norm = recalibrated.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, np.mean(inputs, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.var(inputs, 0), rtol=1e-3, atol=1e-5)
    assert not np.allclose(model.get_layer("norm").moving_mean, norm.moving_mean)


def test_distilled(model):
    pruned = masked(model)
    student = tfprune.distill(pruned, model, (X, Y), epochs=3, verbose=0)
    assert type(student) is type(pruned)
    assert distance(student, model) < distance(pruned, model)


def test_pruned_in_one_call(model):
    before = values(model)
    small = tfprune.prune(model, HALF, (X, Y))
    assert small.count_params() <= 0.5 * model.count_params()
    np.testing.assert_equal(values(model), before)
    if isinstance(model, OwnStep):
        with pytest.raises(ValueError, match=r"OwnStep.*PruneUnits"):
            tfprune.prune(model, HALF, (X, Y), criterion="magnitude", epochs=1)
    else:
        tfprune.prune(model, HALF, (X, Y), epochs=1)


class Counted(keras.Model):
    """A model with a graph and a training step of its own."""

    def train_step(self, data):
        self.steps = getattr(self, "steps", 0) + 1
        return super().train_step(data)


def test_a_step_of_its_own_is_kept_and_trains():
    inputs = keras.Input((6,))
    hidden = layers.Dense(12, activation="relu", name="hidden")(inputs)
    model = Counted(inputs, layers.Dense(3, name="last")(hidden))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    small = tfprune.prune(model, HALF, (X, Y), epochs=2)
    assert type(small) is Counted
    assert small.count_params() <= 0.5 * model.count_params()
    assert small.steps > 0


def test_a_subclassed_model_keeps_its_step_where_nothing_makes_a_graph_of_it():
    model = OwnStep()
    model(X)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    small = tfprune.prune(model, HALF, (X, Y), recover=(), epochs=1)
    assert type(small) is OwnStep
    assert small.count_params() <= 0.5 * model.count_params()
    small.fit(X, Y, verbose=0)


def test_shrunk_while_it_trains(model):
    stages = {1: HALF}
    if isinstance(model, OwnStep):
        with pytest.raises(ValueError, match=r"OwnStep.*train_step"):
            tfprune.fit_and_shrink(model, X, Y, stages=stages, epochs=2, verbose=0)
        return
    result = tfprune.fit_and_shrink(
        model, X, Y, stages=stages, epochs=2, verbose=0, exclude="two", data=(X, Y)
    )
    assert result.model.count_params() <= 0.5 * model.count_params()
    assert result.model.get_layer("two").units == 10


def test_edited(model):
    before = np.asarray(model(X))
    small = surgery.resize(model, {"one": 5, "two": 14})
    assert [small.get_layer(name).kernel.shape for name in ("one", "two")] == [(6, 5), (5, 14)]
    grown = surgery.resize(model, {"one": 15})
    np.testing.assert_allclose(grown(X), before, rtol=1e-4, atol=1e-5)
    deeper = surgery.insert(model, "two", layers.Dense(10, name="deeper"))
    np.testing.assert_allclose(deeper(X), before, rtol=1e-4, atol=1e-5)
    assert "two" not in [layer.name for layer in surgery.remove(model, "two").layers]


def test_scored_on_data(model):
    found = tfprune.sensitivity(model, (X, Y))
    assert [each.name for each in found.sets] == ["one", "two"]
    counts = tfprune.prune_weights(tfprune.prunable(model), 0.5, "synflow")
    assert counts.sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("model", ["own train_step"], indirect=True)
@pytest.mark.parametrize(
    "callback",
    [
        lambda: tfprune.callbacks.PruneUnits(0.5, "taylor", data=(X, Y)),
        lambda: tfprune.callbacks.PruneWeights(0.5, "movement", data=(X, Y)),
        lambda: tfprune.callbacks.FreezeWeights(0.5, "magnitude"),
        lambda: tfprune.callbacks.StraightThrough(0.5),
    ],
)
def test_masks_are_set_while_it_trains(model, callback):
    trained = tfprune.prunable(model)
    history = trained.fit(X, Y, epochs=2, callbacks=[callback()], verbose=0).history
    assert len(history["loss"]) == 2
    counts = tfprune.masks.count_masks(trained)
    assert max(counts.pruned, counts.frozen) >= 111  # of 222 in kernels
    small = tfprune.strip(trained)
    np.testing.assert_allclose(small(X), trained(X, training=False), rtol=1e-4, atol=1e-5)
