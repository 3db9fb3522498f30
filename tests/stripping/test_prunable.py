"""Models as people write them: prunable computes the same, strip removes what it can."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfprune
from tfprune.coupling import couple
from tfprune.masks import masked_layers


class Renamed(layers.Layer):
    """Changes its own name, as blocks of MobileNet do."""

    def __init__(self, units, name=None, **kwargs):
        super().__init__(name=f"{name}_0", **kwargs)
        self.units = units
        self.dense = layers.Dense(units, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class WithoutKwargs(layers.Layer):
    """Its config cannot make it again."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def call(self, x):
        return x * self.by


class WithoutConfig(layers.Layer):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def call(self, x):
        return x * self.by

    def get_config(self):
        raise NotImplementedError


class OwnWeight(layers.Layer):
    """Has a weight of its own beside a layer, so its graph cannot replace it."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(6, name="inner")

    def build(self, shape):
        self.dense.build(shape)
        self.scale = self.add_weight(shape=(6,), initializer="ones", name="scale")

    def call(self, x):
        return self.dense(x) * self.scale


def between(*middle, width=8):
    inputs = keras.Input((4,))
    x = layers.Dense(width, activation="relu", name="first")(inputs)
    for layer in middle:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2, name="last")(x))


MODELS = {
    "a layer that renames itself": lambda: between(Renamed(6, name="b")),
    "no config that makes it again": lambda: between(WithoutKwargs(2.0)),
    "no config": lambda: between(WithoutConfig(2.0)),
    "own weight beside a layer": lambda: between(OwnWeight()),
    "Lambda with a global": lambda: between(layers.Lambda(lambda t: ops.abs(t))),
    "two Lambdas": lambda: between(
        layers.Lambda(lambda t: t + 1), layers.Lambda(lambda t: ops.square(t))
    ),
    **{
        f"{name} of TensorFlow": functools.partial(
            lambda function: between(layers.Dense(6, activation=function)), getattr(tf.nn, name)
        )
        for name in ("gelu", "swish", "relu6", "softplus")
    },
    "Identity with a policy": lambda: between(layers.Identity(dtype=keras.DTypePolicy("float32"))),
}


def data():
    return np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


@pytest.mark.parametrize("kind", MODELS)
def test_it_computes_the_same_and_strip_what_the_masks_say(kind):
    model = MODELS[kind]()
    masked = tfprune.prunable(model)
    np.testing.assert_array_equal(masked(data()), model(data()))
    assert not {id(w) for w in masked.variables} & {id(w) for w in model.variables}
    covered = {id(w) for layer in masked_layers(masked) for w in layer.masked_weights.values()}
    assert covered == {id(w) for w in masked.trainable_variables}
    last = np.arange(masked.get_layer("last").kernel.shape[0]) % 2 == 0
    tfprune.set_masks(masked, "last", "kernel", trainable=last[:, None] & np.ones(2, bool))
    small = tfprune.strip(masked)
    np.testing.assert_allclose(small(data()), masked(data()), rtol=1e-4, atol=1e-5)
    assert not masked_layers(small)
    assert small.count_params() <= model.count_params()


def test_what_no_rule_shrinks_keeps_its_class_and_its_weights():
    masked = tfprune.prunable(MODELS["own weight beside a layer"]())
    tfprune.prune_weights(masked, 0.5)
    small = tfprune.strip(masked)
    (kept,) = (layer for layer in small.layers if isinstance(layer, OwnWeight))
    assert type(kept) is OwnWeight and type(kept.dense) is layers.Dense
    small.compile("sgd", "mse")
    before = np.array(kept.dense.kernel)
    small.fit(data(), np.ones((8, 2)), verbose=0)
    assert (np.array(kept.dense.kernel) != before).any()  # nothing guards it any more


def test_one_embedding_in_a_nested_model_and_outside_stays_one():
    ids = keras.Input((5,), dtype="int32")
    embedding = layers.ReversibleEmbedding(20, 8, name="tokens")
    x = layers.Dense(16, activation="relu", name="wide")(embedding(ids))
    backbone = keras.Model(ids, layers.Dense(8, name="narrow")(x), name="backbone")
    outer = keras.Input((5,), dtype="int32")
    model = keras.Model(outer, embedding(backbone(outer), reverse=True))
    masked = tfprune.prunable(model)
    assert masked.count_params() == model.count_params() == 440
    tfprune.prune_units(masked, 0.5, only=["wide", "narrow"])
    small = tfprune.strip(masked)
    assert small.count_params() == 20 * 4 + (4 * 8 + 8) + (8 * 4 + 4)
    tokens = np.array([[1, 2, 3, 4, 5]])
    np.testing.assert_allclose(small(tokens), masked(tokens), rtol=1e-4, atol=1e-5)


def test_layers_of_one_name_in_two_towers():
    def tower(name):
        inputs = keras.Input((4,))
        x = Renamed(4, name=name)(inputs)
        return keras.Model(inputs, layers.LayerNormalization(name="norm")(x), name=name)

    pair = [keras.Input((4,)), keras.Input((4,))]
    added = layers.Add()([tower("image")(pair[0]), tower("text")(pair[1])])
    model = keras.Model(pair, layers.Dense(2)(added))
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    x = [data(), data()[::-1]]
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-4, atol=1e-5)
    assert small.count_params() < model.count_params()


def test_a_subclass_with_a_loss_of_its_own_keeps_it():
    class Constant(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
            return 100.0 + 0.0 * ops.sum(y_pred)

    inputs = keras.Input((4,))
    model = Constant(inputs, layers.Dense(2)(inputs))
    model.compile("sgd")
    masked = tfprune.prunable(model)
    assert masked.fit(data(), np.ones((8, 2)), verbose=0).history["loss"] == [100.0]


LOOKUPS = {
    "StringLookup": lambda: layers.StringLookup(output_mode="multi_hot"),
    "IntegerLookup": lambda: layers.IntegerLookup(output_mode="multi_hot"),
    "TextVectorization": lambda: layers.TextVectorization(output_mode="multi_hot"),
    "tf_idf": lambda: layers.TextVectorization(output_mode="tf_idf", max_tokens=6),
    "Discretization": lambda: layers.Discretization(num_bins=3, output_mode="one_hot"),
    "Normalization": lambda: layers.Normalization(),
}


@pytest.mark.parametrize("kind", LOOKUPS)
def test_adapted_tables_are_kept(kind):
    dtype = {"IntegerLookup": "int32", "Discretization": "float32", "Normalization": "float32"}
    dtype = dtype.get(kind, "string")
    given = ["a b", "b", "b c", "c"] if dtype == "string" else [5, 7, 7, 9]
    layer = LOOKUPS[kind]()
    layer.adapt(tf.constant([[each] for each in given], dtype))
    inputs = keras.Input((1,), dtype=dtype)
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(8)(layer(inputs))))
    x = tf.constant([[each] for each in given], dtype)
    masked = tfprune.prunable(model)
    np.testing.assert_array_equal(masked(x), model(x))
    assert np.ptp(np.asarray(model(x)), axis=0).max() > 0  # they are told apart
    tfprune.prune_units(masked, 0.5)
    small, report = tfprune.strip(masked, return_report=True)
    assert report.error < 1e-5
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-4, atol=1e-5)


def test_units_inside_a_block_are_named_after_it_and_found_by_that_name():
    masked = tfprune.prunable(between(Renamed(6, name="block")))
    counts = tfprune.prune_units(masked, 0.5, only=["block_0_dense"])
    assert [(count.name, count.pruned) for count in counts] == [("block_0_dense", 3)]


def test_tracing_leaves_the_layers_of_the_model_as_they_are():
    model = between(Renamed(6, name="block"))
    (block,) = (layer for layer in model.layers if isinstance(layer, Renamed))
    nodes = len(block.dense._inbound_nodes)
    couple(model)
    assert len(block.dense._inbound_nodes) == nodes


@pytest.mark.parametrize("by", ["layer", "name", "predicate"])
def test_a_block_is_excluded_with_all_that_is_in_it(by):
    model = between(Renamed(6, name="block"))
    (block,) = (layer for layer in model.layers if isinstance(layer, Renamed))
    exclude = {"layer": [block], "name": "block_0", "predicate": lambda each: each is block.dense}
    small = tfprune.prune(model, 0.5, exclude=exclude[by])
    assert [layer.units for layer in small.layers[1:]] == [4, 6, 2]
    masked = tfprune.prunable(model, exclude=exclude[by])
    assert {layer.name for layer in masked_layers(masked)} == {"first", "last"}


def test_zeros_of_a_stock_model_stay_where_that_is_asked_for():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, name="wide"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="last"),
        ]
    )
    model.compile("adam", "mse", jit_compile=False)
    x, y = data(), np.ones((8, 2))
    model.fit(x, y, epochs=2, verbose=0)  # slots with momentum
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if len(weight.shape) == 2:
            weight.assign(np.where(rng.uniform(size=weight.shape) < 2 / 3, 0, weight))
    biases = [weight for weight in model.trainable_variables if len(weight.shape) == 1]
    biases[-1].assign(np.zeros(2))
    zeros = [np.asarray(weight) == 0 for weight in model.trainable_variables]
    masked = tfprune.prunable(model, keep_zeros=True)
    np.testing.assert_array_equal(masked(x), model(x))
    masked.fit(x, y, epochs=2, verbose=0)
    for weight, is_zero in zip(masked.trainable_variables, zeros, strict=True):
        if len(weight.shape) == 2:
            assert is_zero.any() and not np.asarray(weight)[is_zero].any()
            assert np.asarray(weight)[~is_zero].all()
    assert np.asarray(masked.get_layer("last").bias).all()  # biases that are 0 are trained
    plain = tfprune.prunable(model)
    plain.fit(x, y, verbose=0)
    assert np.asarray(plain.get_layer("last").kernel).all()


# The comparison with the model given --------------------------------------------------------------

FACTORS = {}


class Registered(layers.Layer):
    """What it computes with is not in it, so that no copy can have it."""

    def __init__(self, otherwise, **kwargs):
        super().__init__(**kwargs)
        FACTORS[id(self)] = 3.0
        self.otherwise = otherwise

    def call(self, x):
        return x * FACTORS[id(self)] if self.otherwise is None else x * self.factor()

    def factor(self):
        return FACTORS.get(id(self), self.otherwise)


@pytest.mark.parametrize("make", [lambda layer: between(layer), lambda layer: InModel(layer)])
def test_a_copy_that_computes_something_else_is_refused(make):
    model = make(Registered(2.0, name="registered"))
    model(data())
    with pytest.raises(RuntimeError, match="The masked model does not compute"):
        tfprune.prunable(model)
    assert tfprune.prunable(make_built(make, Registered(3.0))) is not None


def test_a_copy_that_does_not_run_is_refused():
    with pytest.raises(RuntimeError, match=r"masked model does not run.*KeyError"):
        tfprune.prunable(between(Registered(None)))


class InModel(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = layers.Dense(3), layer

    def call(self, x):
        return self.layer(self.first(x))


def make_built(make, layer):
    model = make(layer)
    model(data())
    return model


def test_a_model_that_runs_on_no_random_inputs_is_taken_with_a_warning():
    def only_large(x):
        if not keras.ops.is_tensor(x) or not hasattr(x, "numpy"):
            return x
        assert float(ops.min(x)) > 100, "too small"
        return x

    inputs = keras.Input((4,))
    checked = layers.Lambda(only_large, output_shape=(4,), name="checked")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(checked))
    with pytest.warns(UserWarning, match=r"did not compare outputs.*too small"):
        masked = tfprune.prunable(model)
    x = 200 + data() ** 2
    np.testing.assert_array_equal(masked(x), model(x))
    tfprune.prune_weights(masked, 0.5)
    with pytest.raises(ValueError, match=r"too small.*data="):
        tfprune.strip(masked)
    assert tfprune.strip(masked, data=x, return_report=True)[1].error < 1e-5


def test_values_that_differ_are_refused(monkeypatch):
    def lossy(layer):
        if layer.weights:
            layer.weights[0].assign(layer.weights[0] + 1)
        return layer

    monkeypatch.setattr("tfprune.stripping.prunable.mask_in_place", lossy)
    with pytest.raises(RuntimeError, match="does not hold the values"):
        tfprune.prunable(between())


def test_the_model_given_keeps_its_seeds():
    class Noisy(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed = keras.random.SeedGenerator(5)

        def call(self, x):
            return x + keras.random.normal(ops.shape(x), seed=self.seed)

    model = between(Noisy())
    masked = tfprune.prunable(model)
    np.testing.assert_array_equal(masked(data()), model(data()))
