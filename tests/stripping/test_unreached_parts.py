"""Parts of users' models and layers that their `call` does not use, but their training does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune

layers, ops = keras.layers, keras.ops
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 6)).astype("float32"), RNG.normal(size=(8, 3)).astype("float32")


def part(name, given, hidden, made):
    return keras.Sequential(
        [
            keras.Input((given,)),
            layers.Dense(hidden, activation="relu", name=f"{name}_hidden"),
            layers.Dense(made, activation="relu", name=f"{name}_made"),
        ],
        name=name,
    )


class Contrastive(keras.Model):
    """An encoder whose embeddings a head reads that only `train_step` calls."""

    def __init__(self, head=None, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.probe = part("encoder", 6, 12, 8), layers.Dense(3, name="probe")
        self.head = head or part("head", 8, 10, 4)

    def call(self, x):
        return self.probe(self.encoder(x))

    def read(self, x):
        return self.head(self.encoder(x))

    def train_step(self, data):
        x, y = data[:2]
        with tf.GradientTape() as tape:
            loss = ops.mean((y - self(x)) ** 2) + ops.mean(self.read(x) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class ReadsBoth(Contrastive):
    """The head takes a tensor that no layer makes."""

    def __init__(self, **kwargs):
        super().__init__(head=part("head", 16, 10, 4), **kwargs)

    def read(self, x):
        x = self.encoder(x)
        return self.head(ops.concatenate([x, ops.square(x)], axis=-1))


class Prototypes(Contrastive):
    """A weight of the model, which only `train_step` multiplies by."""

    def __init__(self, **kwargs):
        super().__init__(head=layers.Dropout(0.5), **kwargs)

    def build(self, shape):
        self.prototypes = self.add_weight(shape=(8, 5), name="prototypes")
        self.probe.build((None, 8))

    def read(self, x):
        return ops.matmul(self.encoder(x), self.prototypes)


def trained(model, **options):
    model(X)
    model = tfprune.prunable(model)
    model.compile("sgd")
    tfprune.prune_units(model, 0.5)
    small, report = tfprune.strip(model, return_report=True, **options)
    np.testing.assert_allclose(small(X), model(X), rtol=1e-4, atol=1e-5)
    read = model.read(X)
    np.testing.assert_allclose(small.read(X), read, rtol=1e-4, atol=1e-5)
    small.compile("sgd")
    losses = [each.train_on_batch(X, Y, return_dict=True)["loss"] for each in (model, small)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    return small, report


@pytest.mark.parametrize("kind", [Contrastive, ReadsBoth, Prototypes])
def test_units_that_a_part_may_read_stay_and_it_trains_on(kind):
    with pytest.warns(UserWarning, match=r"encoder_made.*may read it"):
        small, report = trained(kind(), custom_layers="keep")
    assert type(small) is kind
    assert small.encoder.get_layer("encoder_hidden").units == 6  # inside the encoder nothing reads
    assert small.encoder.get_layer("encoder_made").units == 8
    unread = "prototypes" if kind is Prototypes else "head"
    assert unread in report.unreached
    assert f"{unread} stays as it was" in str(report)
    reasons = {unit.reason for unit in report.kept if unit.layer == "encoder_made"}
    assert any(f"{unread!r} may read it" in reason for reason in reasons)


def test_the_graph_of_its_call_alone_loses_them():
    model = Contrastive(name="whole")
    model(X)
    model = tfprune.prunable(model)
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model, custom_layers="inline")
    assert small.get_layer("encoder").get_layer("encoder_made").units == 4
    explained = str(tfprune.explain(model))
    assert "'head' is in no set" in explained


class Branch(layers.Layer):
    """Adds, in training, the loss of a head."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.head = layers.Dense(8, name="up"), layers.Dense(2, name="head")

    def build(self, shape):
        self.up.build(shape)
        self.head.build((None, 8))

    def call(self, x, training=False):
        x = ops.relu(self.up(x))
        if training:
            x = x + ops.mean(self.head(x))
        return x


def test_a_branch_of_a_layer_that_only_training_takes():
    x = inputs = keras.Input((6,))
    x = layers.Dense(10, activation="relu", name="before")(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(Branch(name="branch")(x)))
    model = tfprune.prunable(model)
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert small.get_layer("before").units == 5
    np.testing.assert_allclose(small(X), model(X), rtol=1e-4, atol=1e-5)
    expected = model(X, training=True)
    np.testing.assert_allclose(small(X, training=True), expected, rtol=1e-4, atol=1e-5)


class Momentum(Contrastive):
    """The head is a moving average of the encoder."""

    def __init__(self, **kwargs):
        super().__init__(head=part("average", 6, 12, 8), **kwargs)

    def read(self, x):
        return self.head(x)


def test_a_part_that_looks_like_one_that_shrinks_is_named_in_a_warning():
    model = Momentum(name="momentum")
    model(X)
    model = tfprune.prunable(model)
    tfprune.prune_units(model, 0.5)
    with pytest.warns(UserWarning, match="from 'encoder', and not from 'average'"):
        tfprune.strip(model, custom_layers="keep")


class Classifier(keras.Model):
    """A Functional model with a step of its own, and a head beside its graph."""

    train_step = Contrastive.train_step

    def read(self, x):
        return self.head(self.get_layer("body")(x))


def test_a_functional_model_with_a_head_beside_its_graph():
    inputs = keras.Input((6,))
    outputs = layers.Dense(3, name="probe")(part("body", 6, 12, 8)(inputs))
    model = Classifier(inputs, outputs)
    model.head = part("head", 8, 10, 4)
    small, _ = trained(model)
    assert small.get_layer("body").get_layer("body_hidden").units == 6
