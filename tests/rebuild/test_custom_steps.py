"""Subclasses of models with a graph that train in their own way: what is made of them does too."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfprune
from tfprune.masks import masked_layers

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.ones((8, 2), "float32")


@keras.saving.register_keras_serializable("tests_own_steps")
class WithSteps(keras.Model):
    """Has every step of its own."""

    def train_step(self, data):
        return {**super().train_step(data), "trained": ops.convert_to_tensor(7.0)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 100.0 + 0.0 * ops.sum(y_pred)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {"measured": ops.convert_to_tensor(2.0)}

    def test_step(self, data):
        return {"tested": ops.convert_to_tensor(3.0)}

    def predict_step(self, data):
        return 0.0 * self(data) + 5.0


def with_steps(cls=WithSteps):
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu", name="wide")(inputs)
    model = cls(inputs, layers.Dense(2, name="out")(x))
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    return model


def pruned(model):
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5)
    return masked


MAKERS = {
    "prunable": tfprune.prunable,
    "strip": lambda model: tfprune.strip(pruned(model)),
    "strip, kept": lambda model: tfprune.strip(pruned(model), custom_layers="keep"),
    "strip, inlined": lambda model: tfprune.strip(pruned(model), custom_layers="inline"),
    "prune": lambda model: tfprune.prune(model, 0.5),
    "resize": lambda model: tfprune.surgery.resize(model, {"wide": 5}),
    "insert": lambda model: tfprune.surgery.insert(model, "wide", layers.ReLU(name="new")),
}


@pytest.mark.parametrize("how", MAKERS)
def test_all_steps_stay(how):
    new = MAKERS[how](with_steps())
    assert type(new) is WithSteps
    assert new.fit(X, Y, verbose=0).history == {"measured": [2.0], "trained": [7.0]}
    assert new.evaluate(X, Y, verbose=0, return_dict=True) == {"tested": 3.0}
    assert (new.predict(X, verbose=0) == 5.0).all()
    assert float(new.compute_loss(y_pred=ops.ones(1))) == 100.0


def test_the_stripped_model_is_saved_with_its_class(tmp_path):
    small = tfprune.strip(pruned(with_steps()))
    assert small.get_layer("wide").units == 4
    small.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded) is WithSteps
    np.testing.assert_array_equal(loaded(X), small(X))
    again = tfprune.strip(small)
    assert again.count_params() == small.count_params()


def test_a_sequential_model_keeps_its_class():
    class Chain(keras.Sequential):
        def test_step(self, data):
            return {"tested": ops.convert_to_tensor(3.0)}

    model = Chain([keras.Input((4,)), layers.Dense(8, name="wide"), layers.Dense(2)])
    model.compile("sgd", "mse")
    small = tfprune.strip(pruned(model))
    assert type(small) is Chain
    assert small.evaluate(X, Y, verbose=0, return_dict=True) == {"tested": 3.0}


class Distiller(keras.Model):
    """Holds a layer of its graph, another model, a metric and numbers; compiles in its own way."""

    def __init__(self, inputs, outputs, teacher, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.teacher, self.hidden = teacher, self.get_layer("wide")
        self.distance = keras.metrics.Mean(name="distance")
        self.parts = {"wide": [self.hidden]}

    def compile(self, optimizer, factor):
        super().compile(optimizer)
        self.factor = factor

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            hidden = ops.mean(ops.square(self.hidden(x)))
            distance = ops.mean(ops.square(self(x, training=True) - self.teacher(x)))
            loss = self.factor * distance + 1e-3 * hidden
        student = [v for v in self.trainable_variables if "teach" not in v.path]
        self.optimizer.apply_gradients(zip(tape.gradient(loss, student), student, strict=True))
        self.distance.update_state(distance)
        return {"distance": self.distance.result()}


def distiller():
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu", name="wide")(inputs)
    teacher = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="teach")])
    model = Distiller(inputs, layers.Dense(2, name="out")(x), teacher, name="student")
    model.compile("adam", factor=2.0)
    return model


@pytest.mark.parametrize("how", ["strip", "resize", "insert"])
def test_what_the_class_holds_is_copied_and_layers_are_those_of_the_new_model(how):
    model = distiller()
    new = MAKERS[how](model)
    assert type(new) is Distiller
    assert new.hidden is new.get_layer("wide") is new.parts["wide"][0]
    assert new.hidden is not model.hidden
    assert new.hidden.units == {"strip": 4, "resize": 5, "insert": 8}[how]
    assert new.factor == 2.0
    assert not {id(v) for v in new.variables} & {id(v) for v in model.variables}
    assert not masked_layers(new)
    taught = np.array(model.teacher.layers[0].kernel)
    np.testing.assert_array_equal(new.teacher.layers[0].kernel, taught)
    before = np.array(new.hidden.kernel)
    losses = new.fit(X, Y, epochs=3, verbose=0).history["distance"]
    assert losses[-1] < losses[0]
    assert (np.array(new.hidden.kernel) != before).any()
    np.testing.assert_array_equal(new.teacher.layers[0].kernel, taught)


def test_where_the_class_holds_layers_that_go_the_result_is_plain_and_not_compiled():
    class Holding(WithSteps):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.features = keras.Model(self.inputs, self.get_layer("wide").output)

    model = with_steps(Holding)
    with pytest.warns(UserWarning, match="'Holding'.*steps or a loss of its own"):
        small = tfprune.strip(pruned(model))
    assert not isinstance(small, Holding)
    assert not small.compiled
    assert small.get_layer("wide").units == 4


def test_a_class_that_its_config_does_not_make_again_is_named():
    class Sized(WithSteps):
        def __init__(self, units=8, **kwargs):
            inputs = keras.Input((4,))
            x = layers.Dense(units, name="wide")(inputs)
            super().__init__(inputs, layers.Dense(2, name="out")(x), **kwargs)
            self.units = units

        def get_config(self):
            return {"name": self.name, "units": self.units}

    small, report = tfprune.strip(pruned(Sized(name="sized")), return_report=True)
    assert type(small) is Sized
    assert report.not_from_config == ("sized",)
    with pytest.raises(ValueError, match=r"Cannot export a `.keras` file.*'sized'"):
        tfprune.export(small, "sized.keras", format="keras")
