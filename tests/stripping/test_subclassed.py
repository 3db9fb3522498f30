"""Subclassed models: pruned as they are, and stripped to the graph of their `call`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune

layers, ops = keras.layers, keras.ops


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="norm")
        self.up = layers.Dense(16, activation="relu", name="up")

    def build(self, shape):
        self.down = layers.Dense(shape[-1], name="down")
        self.norm.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], 16))

    def call(self, inputs):
        return inputs + self.down(self.up(self.norm(inputs)))


class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(8, activation="relu", name="first")
        self.blocks = [Block(name="block"), Block(name="block")]
        self.drop = layers.Dropout(0.5)
        self.last = layers.Dense(3, name="last")
        self.unused = layers.Dense(5, name="unused")

    def call(self, x, training=False):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(self.drop(x, training=training))


class OwnStep(Net):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean((y - self(x, training=True)) ** 2)
        variables = self.first.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


class Dicts(Net):
    def call(self, x, training=False):
        left, right = self.first(x["left"]), self.first(x["right"])
        return {"sum": self.last(left + right), "product": self.last(left * right)}


class Lists(Net):
    def call(self, x):
        return [self.last(self.first(x[0])), (self.last(self.first(x[1])), x[0] * 2.0)]


class Two(Net):
    def build(self, x_shape, y_shape):
        self.first.build(x_shape)
        self.last.build((*y_shape[:-1], 8))

    def call(self, x, y):
        return self.last(self.first(x) + self.first(y))


class Nested(keras.Model):
    """A Functional, a Sequential and a subclassed model in one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        inputs = keras.Input((4,))
        x = layers.Dense(8, activation="relu", name="dense")(inputs)
        self.encoder = keras.Model(
            inputs, [Block(name="block")(x), layers.Dense(8, name="other")(x)]
        )
        self.middle = keras.Sequential([layers.Dense(8, activation="relu", name="dense")])
        self.decoder = Net(name="decoder")

    def call(self, x):
        mean, other = self.encoder(x)
        return self.decoder(self.middle(mean) + other)


class Tokens(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(11, 8, name="embed")
        self.lstm = layers.LSTM(8, name="lstm")
        self.last = layers.Dense(3, name="last")

    def call(self, tokens):
        return self.last(self.lstm(self.embed(tokens)))


def array(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


TOKENS = np.random.default_rng(0).integers(0, 11, (6, 5))
PAIR = {"left": array(6, 4), "right": 2 * array(6, 4)}
MODELS = {
    "plain": (Net, array(6, 4), 1),
    "dicts": (Dicts, PAIR, 2),
    "lists": (Lists, list(PAIR.values()), 3),
    "tuples": (Lists, tuple(PAIR.values()), 3),
    "nested": (Nested, array(6, 4), 1),
    "tokens": (Tokens, TOKENS, 1),
}


def flat(outputs):
    return [np.array(each) for each in keras.tree.flatten(outputs)]


def masked(cls, given):
    model = cls(name="net")
    model(given)
    model = tfprune.prunable(model)
    assert isinstance(model, cls)
    tfprune.prune_units(model, 0.5)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_result_is_a_smaller_functional_model_that_computes_the_same(name):
    cls, given, outputs = MODELS[name]
    model = masked(cls, given)
    small, report = tfprune.strip(model, return_report=True)
    assert isinstance(small, keras.Model)
    assert small.name == "net"
    assert not any("tfprune" in type(layer).__module__ for layer in small.layers)
    ours, theirs = model(given), small(given)
    assert len(flat(ours)) == outputs
    keras.tree.assert_same_structure(ours, theirs)
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert report.error < 1e-5
    assert report.parameters[1] < 0.8 * report.parameters[0]


def test_it_is_saved_stripped_again_and_explained(tmp_path):
    model = masked(Net, array(6, 4))
    small = tfprune.strip(model)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(array(6, 4)), small(array(6, 4)))
    assert tfprune.strip(small).count_params() == small.count_params()
    assert [s.units for s in tfprune.explain(model).sets if s.removable] == [8, 16, 16]


def test_several_arguments_become_a_dict():
    model = Two()
    model(array(6, 4), array(6, 4))
    model = tfprune.prunable(model)
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    x, y = PAIR.values()
    np.testing.assert_allclose(small({"x": x, "y": y}), model(x, y), rtol=1e-4, atol=1e-5)
    assert small.get_layer("first").units == 4


class TwoWithoutBuild(keras.Model):
    """Keras keeps the shape of the first argument alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(8, activation="relu", name="first")
        self.embed = layers.Embedding(11, 8, name="embed")
        self.last = layers.Dense(3, name="last")

    def call(self, x, tokens, training=False):
        return self.last(self.first(x) + ops.mean(self.embed(tokens), axis=1))


def two_without_build():
    model = TwoWithoutBuild(name="two")
    model(array(6, 4), TOKENS)
    return model


def test_arguments_whose_shapes_keras_does_not_keep_are_refused_with_what_to_do():
    model = two_without_build()
    for do in (tfprune.explain, tfprune.strip):
        with pytest.raises(ValueError, match=r"\['x', 'tokens'\].*model\(keras.Input") as refusal:
            do(model)
        assert "build(self, x_shape, tokens_shape)" in str(refusal.value)


@pytest.mark.parametrize("known", ["before", "after", "by data"])
def test_arguments_are_those_of_a_call(known):
    model = two_without_build()
    inputs = keras.Input((4,)), keras.Input((5,), dtype="int32")
    if known == "before":
        model(*inputs)
    model = tfprune.prunable(model)
    if known == "after":
        model(*inputs)
    if known == "by data":
        model(array(6, 4), TOKENS)
        model(array(6, 4), tokens=TOKENS[:, :3])  # any number of tokens, then
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    lengths = {"tokens": None if known == "by data" else 5, "x": 4}
    assert {name: tensor.shape[1] for name, tensor in small.input.items()} == lengths
    assert small.get_layer("last").kernel.shape == (4, 3)
    expected = model(array(6, 4), TOKENS)
    np.testing.assert_allclose(small({"x": array(6, 4), "tokens": TOKENS}), expected, rtol=1e-5)


def test_it_is_compared_and_measured():
    model = masked(Net, array(6, 4))
    small = tfprune.strip(model)
    found = tfprune.compare(model, small, data=(array(6, 4), array(6, 3)), metrics=["mae"])
    assert "net" in str(found)
    again = tfprune.sensitivity(model, (array(6, 4), array(6, 3)), "mae", fractions=[0.5])
    assert "first" in str(again)


def test_names_that_come_twice_are_made_unique():
    small = tfprune.strip(masked(Net, array(6, 4)))
    names = {layer.name for layer in small.layers}
    assert {"first", "block_up", "block_1_up", "last"} <= names
    assert "unused" not in names


def test_compiled_alike_where_keras_trains_it():
    model = Net()
    model.compile("adam", "mse", metrics=["mae"])
    x, y = array(6, 4), array(6, 3)
    model.fit(x, y, epochs=2, verbose=0)
    model = tfprune.prunable(model)
    tfprune.prune_units(model, 0.5)
    small = tfprune.strip(model)
    assert type(small.optimizer) is keras.optimizers.Adam
    assert small.loss == "mse"
    assert int(small.optimizer.iterations) == 2
    assert set(small.evaluate(x, y, verbose=0, return_dict=True)) == {"loss", "mae"}
    small.fit(x, y, verbose=0)


def test_not_compiled_where_it_has_a_train_step_of_its_own():
    model = OwnStep()
    x, y = array(6, 4), array(6, 3)
    model.compile("adam")
    model.fit(x, y, verbose=0)
    model = tfprune.prunable(model)
    model.fit(x, y, verbose=0)
    tfprune.prune_units(model, 0.5)
    model.fit(x, y, verbose=0)
    small = tfprune.strip(model)
    assert not small.compiled
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_model_given_is_not_touched():
    model = masked(Net, array(6, 4))
    before = [np.array(weight) for weight in model.weights]
    names = [weight.path for weight in model.weights]
    tfprune.strip(model)
    assert [weight.path for weight in model.weights] == names
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("target", "criterion"),
    [
        (tfprune.budgets.Parameters(250), "magnitude"),
        (tfprune.budgets.MACs(250), "magnitude"),
        (0.5, "taylor"),
        (0.5, "apoz"),
    ],
)
def test_budgets_and_criteria_measured_on_data(target, criterion):
    model = Net()
    model.compile("adam", "mse")
    model(array(6, 4))
    model = tfprune.prunable(model)
    counts = tfprune.prune_units(model, target, criterion, data=(array(6, 4), array(6, 3)))
    assert sum(count.pruned for count in counts) > 0
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(array(6, 4)), model(array(6, 4)), rtol=1e-4, atol=1e-5)


def test_pruned_by_a_callback_while_it_trains():
    model = Net()
    model(array(6, 4))
    model = tfprune.prunable(model)
    model.compile("adam", "mse")
    model.fit(
        array(6, 4), array(6, 3), epochs=3, verbose=0, callbacks=[tfprune.callbacks.PruneUnits(0.5)]
    )
    assert tfprune.strip(model).get_layer("first").units == 4


class OnlyTrains(keras.Model):
    """A model that is never called itself, such as an autoencoder on keras.io."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = self.part(4, 2, "encoder")
        self.decoder = self.part(2, 4, "decoder")

    def part(self, size, outputs, name):
        hidden = layers.Dense(8, activation="relu", name="hidden")
        return keras.Sequential([keras.Input((size,)), hidden, layers.Dense(outputs)], name=name)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            loss = ops.mean((x - self.decoder(self.encoder(x))) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def test_the_parts_of_a_model_that_is_never_called():
    model = tfprune.prunable(OnlyTrains())
    model.compile("adam")
    model.fit(array(6, 4), verbose=0)
    for part in (model.encoder, model.decoder):
        tfprune.prune_units(part, 0.5)
    model.fit(array(6, 4), verbose=0)
    small = tfprune.strip(model.encoder)
    assert small.get_layer("hidden").units == 4
    np.testing.assert_allclose(small(array(6, 4)), model.encoder(array(6, 4)), rtol=1e-4, atol=1e-5)


NEEDS_A_GRAPH = {
    "explain": tfprune.explain,
    "strip": tfprune.strip,
    "keep": lambda model: tfprune.strip(model, custom_layers="keep"),
    "prune_units": lambda model: tfprune.prune_units(model, 0.5),
    "prune": lambda model: tfprune.prune(model, 0.5),
    "remove": lambda model: tfprune.surgery.remove(model, "hidden"),
    "export": lambda model: tfprune.export(model, "nowhere"),
    "fit_and_shrink": lambda model: tfprune.fit_and_shrink(model, array(6, 4), stages=0.5),
    "callback": lambda model: model.fit(
        array(6, 4), verbose=0, callbacks=[tfprune.callbacks.PruneUnits(0.5)]
    ),
}


@pytest.mark.parametrize("name", NEEDS_A_GRAPH)
def test_a_model_without_a_call_is_refused_with_the_calls_that_help(name):
    model = OnlyTrains()
    model.compile("adam")
    with pytest.raises(ValueError, match="no `call` of its own") as refusal:
        NEEDS_A_GRAPH[name](model)
    assert "`model.encoder`, `model.decoder`" in str(refusal.value)
    assert "Call it on data" not in str(refusal.value)


def test_the_parts_of_a_model_without_a_call_must_be_built():
    model = OnlyTrains()
    model.decoder = keras.Sequential([layers.Dense(4, name="late")], name="unbuilt")
    with pytest.raises(ValueError, match=r"parts must be built before.*\['unbuilt', 'late'\]"):
        tfprune.prunable(model)


def test_weights_of_a_model_without_a_call_are_pruned_while_it_trains():
    model = tfprune.prunable(OnlyTrains())
    model.compile("adam")
    callback = tfprune.callbacks.PruneWeights(tfprune.schedules.OneShot(0.5, step=0))
    model.fit(array(6, 4), verbose=0, callbacks=[callback])
    kernel = np.array(model.encoder.get_layer("hidden").kernel)
    assert (kernel == 0).mean() == 0.5


class Sampling(layers.Layer):
    def call(self, inputs):
        mean, deviation = inputs
        return mean + tf.exp(deviation) * tf.random.normal(tf.shape(mean))


def test_random_outputs_are_compared_with_the_same_numbers():
    inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu", name="hidden")(inputs)
    mean, deviation = layers.Dense(2)(x), layers.Dense(2)(x)
    sample = Sampling()([mean, deviation])
    for outputs in ([mean, deviation, sample], sample):
        model = tfprune.prunable(keras.Model(inputs, outputs))
        tfprune.prune_units(model, 0.5, criterion="random")
        small, report = tfprune.strip(model, return_report=True)
        assert small.get_layer("hidden").units == 8
        assert report.error < 1e-5
