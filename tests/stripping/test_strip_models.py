"""Strip on whole models: nesting, sharing, structure, dynamic sizes, precision, files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune

layers, ops = keras.layers, keras.ops


def pruned(inputs, outputs, target=0.5, **compiled):
    """A masked model with random weights, a part of its units pruned."""
    model = keras.Model(inputs, outputs, name="whole")
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(0.2 + 0.8 * draw.random(weight.shape))
    if compiled:
        model.compile(**compiled)
    model = tfprune.prunable(model)
    tfprune.prune_units(model, target, tfprune.criteria.Random(seed=0))
    return model


def samples(model, dynamic=7):
    draw = np.random.default_rng(1)

    def numbers(tensor):
        shape = (3, *(size or dynamic for size in tensor.shape[1:]))
        if "int" in tensor.dtype:
            return draw.integers(0, 5, shape).astype("int32")
        return draw.normal(size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(numbers, model.input)


def assert_same_outputs(model, small, tolerance=1e-5, **options):
    x = samples(model, **options)
    ours, theirs = model(x, training=False), small(x, training=False)
    keras.tree.assert_same_structure(ours, theirs)
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        assert np.ptp(a, axis=0).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(a).max())


def stripped(model):
    """The stripped model, which computes what the model computes."""
    small = tfprune.strip(model)
    assert_same_outputs(model, small)
    return small


def kernel(model, *names):
    """The shape of a kernel, in a layer of a model in a model ..."""
    for name in names:
        model = model.get_layer(name)
    return tuple(model.kernel.shape)


def perceptron(name, width=4, size=None):
    inputs = keras.Input((width,), name=f"{name}_in")
    x = layers.Dense(6, activation="relu", name="wide")(inputs)
    return keras.Model(inputs, layers.Dense(size or width, name="narrow")(x), name=name)


class TestNesting:
    def test_units_inside_and_around_a_nested_functional_model(self):
        inputs = keras.Input((3,))
        x = layers.Dense(4, activation="relu", name="before")(inputs)
        x = perceptron("inner", 4, 8)(x)
        model = pruned(inputs, layers.Dense(2, name="after")(x))
        small = stripped(model)
        assert kernel(small, "before") == (3, 2)
        assert kernel(small, "inner", "wide") == (2, 3)
        assert kernel(small, "inner", "narrow") == (3, 4)
        assert kernel(small, "after") == (4, 2)

    def test_a_sequential_model_in_a_functional_model_in_a_sequential_model(self):
        block = keras.Sequential(
            [layers.Dense(6, activation="relu", name="wide"), layers.BatchNormalization()],
            name="block",
        )
        middle_input = keras.Input((4,))
        middle = keras.Model(middle_input, middle_input + layers.Dense(4)(block(middle_input)))
        middle.name = "middle"
        outer = keras.Sequential([keras.Input((3,)), layers.Dense(4), middle, layers.Dense(2)])
        model = pruned(outer.inputs, outer.outputs)
        small = stripped(model)
        assert kernel(small, "middle", "block", "wide")[1] == 3

    def test_a_nested_model_with_several_inputs_and_outputs(self):
        a, b = keras.Input((4,)), keras.Input((5,))
        x = layers.Dense(6, activation="tanh", name="a")(a)
        y = layers.Dense(6, activation="tanh", name="b")(b)
        inner = keras.Model([b, a], {"sum": x + y, "both": layers.Concatenate()([x, y])})
        inputs = keras.Input((3,))
        parts = inner([layers.Dense(5)(inputs), layers.Dense(4)(inputs)])
        outputs = layers.Concatenate()([parts["both"], layers.Dense(2)(parts["sum"])])
        model = pruned(inputs, layers.Dense(2)(outputs))
        small = stripped(model)
        inner = small.get_layer(inner.name)
        assert kernel(inner, "a") == (2, 3) and kernel(inner, "b") == (3, 3)


class TestSharing:
    def test_a_layer_called_on_two_producers_ties_them(self):
        inputs = keras.Input((3,))
        shared = layers.Dense(6, activation="relu", name="shared")
        one = layers.Dense(4, activation="relu", name="one")(inputs)
        two = layers.Dense(4, activation="tanh", name="two")(inputs)
        x = layers.Concatenate()([shared(one), shared(two)])
        model = pruned(inputs, layers.Dense(2, name="last")(x))
        small = stripped(model)
        assert kernel(small, "one") == kernel(small, "two") == (3, 2)
        assert kernel(small, "shared") == (2, 3)
        assert kernel(small, "last") == (6, 2)

    def test_units_that_one_call_needs_stay_for_the_other(self):
        inputs = keras.Input((3,))
        shared = layers.Dense(4, name="shared")
        x, y = shared(layers.Dense(3)(inputs)), shared(layers.Dense(3)(inputs))
        last, other = layers.Dense(2, name="last"), layers.Dense(2, name="other")
        model = keras.Model(inputs, [last(x), other(y)])
        for layer, rows in ((last, [0, 1, 2]), (other, [0, 3])):
            value = np.ones((4, 2))
            value[rows] = 0
            layer.kernel.assign(value)
        small = stripped(model)
        assert kernel(small, "shared") == (3, 3)  # only row 0 is ignored by both

    def test_constants_that_differ_from_call_to_call_do_not_go_into_one_bias(self):
        inputs = keras.Input((3,))
        shared = layers.Dense(5, activation="tanh", name="shared")
        producers = [layers.Dense(4, name=name)(inputs) for name in ("one", "two")]
        x = layers.Concatenate()([shared(tensor) for tensor in producers])
        model = keras.Model(inputs, layers.Dense(2)(x))
        for name, constant in (("one", 0.7), ("two", -0.4)):
            weights, bias = (np.array(w) for w in model.get_layer(name).weights)
            weights[:, 1], bias[1] = 0, constant
            model.get_layer(name).set_weights([weights, bias])
        small, report = tfprune.strip(model, return_report=True)
        assert kernel(small, "one") == kernel(small, "two") == (3, 4)
        assert {(unit.layer, unit.index) for unit in report.kept} == {("one", 1), ("two", 1)}
        assert_same_outputs(model, small)

    def test_a_layer_also_called_on_an_input_keeps_what_it_takes(self):
        inputs = keras.Input((3,))
        shared = layers.Dense(6, activation="relu", name="shared")
        x = layers.Dense(3, name="before")(inputs)
        model = pruned(inputs, layers.Dense(2)(shared(inputs) + shared(x)))
        small = stripped(model)
        assert kernel(small, "before") == (3, 3)
        assert kernel(small, "shared") == (3, 3)

    def test_a_model_called_twice_is_one_model_still(self):
        inner = perceptron("inner", 4, 6)
        inputs = keras.Input((3,))
        one, two = (inner(layers.Dense(4, name=name)(inputs)) for name in ("one", "two"))
        model = pruned(inputs, layers.Dense(2)(layers.Subtract()([one, two])))
        small = stripped(model)
        assert [layer.name for layer in small.layers].count("inner") == 1
        assert kernel(small, "one") == kernel(small, "two") == (3, 2)
        assert kernel(small, "inner", "narrow") == (3, 3)

    def test_a_layer_shared_by_two_nested_models_is_one_layer_still(self):
        shared = layers.Dense(6, activation="relu", name="shared")
        parts = []
        for _ in range(2):
            inner = keras.Input((4,))
            parts.append(keras.Model(inner, layers.Dense(5)(shared(inner))))
        inputs = keras.Input((3,))
        x = layers.Dense(4, name="before")(inputs)
        model = pruned(inputs, layers.Dense(2)(parts[0](x) + parts[1](x)))
        small = stripped(model)
        ours, theirs = (
            [part.get_layer("shared") for part in m.layers if isinstance(part, keras.Model)]
            for m in (model, small)
        )
        assert [layer.kernel.shape for layer in theirs] == [(2, 3), (2, 3)]
        assert (ours[0] is ours[1]) == (theirs[0] is theirs[1])


class TestStructure:
    @pytest.mark.parametrize("kind", ["list", "reversed", "dict"])
    def test_inputs_keep_their_order_and_names(self, kind):
        a, b = keras.Input((3,), name="a"), keras.Input((5,), name="b")
        x = layers.Dense(4, name="of_a")(a) + layers.Dense(4, name="of_b")(b)
        given = {"list": [a, b], "reversed": [b, a], "dict": {"b": b, "a": a}}[kind]
        model = pruned(given, layers.Dense(2)(layers.ReLU()(x)))
        small = stripped(model)
        assert kernel(small, "of_a") == (3, 2) and kernel(small, "of_b") == (5, 2)
        assert [t.name for t in small.inputs] == [t.name for t in model.inputs]
        assert keras.tree.map_structure(lambda t: t.shape, small.input) == (
            keras.tree.map_structure(lambda t: t.shape, model.input)
        )

    @pytest.mark.parametrize("kind", ["list", "dict", "nested", "twice"])
    def test_outputs_keep_their_structure(self, kind):
        inputs = keras.Input((3,))
        x = layers.Dense(6, activation="relu", name="hidden")(inputs)
        one, two = layers.Dense(2, name="one")(x), layers.Dense(3, name="two")(x)
        outputs = {
            "list": [two, one],
            "dict": {"second": two, "first": one},
            "nested": {"pair": [one, two], "single": one},
            "twice": [one, one],
        }[kind]
        model = pruned(inputs, outputs)
        small = stripped(model)
        assert kernel(small, "hidden") == (3, 3)
        assert small.output_names == model.output_names

    def test_an_input_that_is_an_output_and_a_hidden_layer_that_is_one(self):
        inputs = keras.Input((3,))
        x = layers.Dense(6, activation="relu", name="shown")(inputs)
        y = layers.Dense(4, activation="relu", name="hidden")(x)
        model = pruned(inputs, [inputs, x, layers.Dense(2)(y)])
        small = stripped(model)
        assert kernel(small, "shown") == (3, 6)
        assert kernel(small, "hidden") == (6, 2)

    def test_names_and_the_order_of_layers(self):
        inputs = keras.Input((3,), name="pixels")
        x = layers.Dense(4, name="left")(inputs) + layers.Dense(4, name="right")(inputs)
        model = pruned(inputs, layers.Dense(2, name="logits")(x))
        small = tfprune.strip(model)
        assert small.name == model.name
        assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
        assert [w.path for w in small.weights] == [w.path for w in model.weights]

    def test_a_unit_whose_positions_hold_different_constants_is_not_folded_wrong(self):
        inputs = keras.Input((3,))
        x = layers.Dense(6, activation="sigmoid", name="first")(inputs)
        x = layers.Reshape((2, 3))(x)  # ties position i with i + 3
        model = keras.Model(inputs, layers.Dense(2, name="last")(x))
        for weight in model.weights:
            weight.assign(np.random.default_rng(0).normal(size=weight.shape))
        value = np.array(model.get_layer("first").kernel)
        value[:, [0, 3]] = 0
        model.get_layer("first").kernel.assign(value)
        model.get_layer("first").bias.assign(np.arange(6))
        small, report = tfprune.strip(model, return_report=True)
        assert kernel(small, "first") == (3, 6)
        assert [(kept.layer, kept.index) for kept in report.kept] == [("first", 0)]
        assert_same_outputs(model, small)


class LooksUp(keras.Model):
    """Takes strings, of which Keras does not note that they are."""

    def __init__(self, look_up):
        super().__init__()
        self.look_up = look_up
        self.table = keras.layers.Embedding(9, 8, name="table")
        self.last = keras.layers.Dense(2, name="last")

    def call(self, inputs):
        return self.last(keras.ops.mean(self.table(self.look_up(inputs)), axis=1))


class TestStrings:
    """Inputs that are looked up: the check runs on what the layers know."""

    WORDS = ("red", "green", "blue")
    LOOK_UP = {
        "string": lambda: keras.layers.StringLookup(vocabulary=TestStrings.WORDS),
        "no unknown one": lambda: keras.layers.StringLookup(
            vocabulary=TestStrings.WORDS, num_oov_indices=0
        ),
        "hashing": lambda: keras.layers.Hashing(9),
        "text": lambda: keras.layers.TextVectorization(
            vocabulary=TestStrings.WORDS, output_sequence_length=4
        ),
    }

    @pytest.mark.parametrize("is_subclassed", [False, True])
    @pytest.mark.parametrize("kind", LOOK_UP)
    def test_text(self, kind, is_subclassed):
        x = tf.constant(["red blue", "green"] if kind == "text" else [["red"] * 3, ["blue"] * 3])
        model = LooksUp(self.LOOK_UP[kind]())
        model(x)
        if not is_subclassed:
            inputs = keras.Input(x.shape[1:], dtype="string")
            model = keras.Model(inputs, model.call(inputs))
        masked = tfprune.prunable(model)
        tfprune.prune_units(masked, 0.5)
        small, report = tfprune.strip(masked, return_report=True)
        assert report.error < 1e-5
        assert small.get_layer("table").output_dim == 4
        np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)
        assert np.ptp(np.asarray(small(x)), axis=0).max() > 1e-4

    def test_text_beside_numbers(self):
        inputs = keras.Input((1,), dtype="string"), keras.Input((1,))
        look_up = keras.layers.StringLookup(vocabulary=self.WORDS, output_mode="one_hot")
        x = keras.layers.Concatenate()([look_up(inputs[0]), inputs[1]])
        x = keras.layers.Dense(8, activation="relu", name="wide")(x)
        model = keras.Model(inputs, keras.layers.Dense(2, name="last")(x))
        masked = tfprune.prunable(model)
        tfprune.prune_units(masked, 0.5)
        small, report = tfprune.strip(masked, return_report=True)
        assert report.error < 1e-5
        assert small.get_layer("wide").units == 4

    def test_whole_numbers_that_are_known(self):
        inputs = keras.Input((3,), dtype="int32")
        look_up = keras.layers.IntegerLookup(vocabulary=[10, 20, 40], num_oov_indices=0)
        x = keras.layers.Embedding(3, 8, name="table")(look_up(inputs))
        outputs = keras.layers.Dense(2, name="last")(keras.layers.Flatten(name="flat")(x))
        masked = tfprune.prunable(keras.Model(inputs, outputs))
        tfprune.prune_units(masked, 0.5)
        _, report = tfprune.strip(masked, return_report=True)
        assert report.error < 1e-5


class TestDynamicSizes:
    def test_images_of_any_size(self):
        inputs = keras.Input((None, None, 3))
        x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(inputs)
        y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
        x = layers.Concatenate()([x + y, layers.Conv2D(4, 1, name="side")(x)])
        x = layers.Conv2DTranspose(2, 2, strides=2, name="last")(layers.MaxPooling2D(2)(x))
        model = pruned(inputs, x)
        small = tfprune.strip(model)
        assert small.input_shape == (None, None, None, 3)
        assert kernel(small, "first") == (3, 3, 3, 4)
        assert kernel(small, "last") == (2, 2, 2, 6)
        for size in (8, 14):
            assert_same_outputs(model, small, dynamic=size)

    def test_series_of_any_length(self):
        tokens = keras.Input((None,), dtype="int32")
        x = layers.Embedding(5, 8, mask_zero=True, name="embedding")(tokens)
        x = layers.LSTM(6, return_sequences=True, name="lstm")(x)
        x = layers.Conv1D(4, 2, padding="causal", activation="relu", name="conv")(x)
        model = pruned(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
        small = tfprune.strip(model)
        assert small.input_shape == (None, None)
        assert small.get_layer("embedding").output_dim == 4
        assert small.get_layer("lstm").units == 3
        assert kernel(small, "conv") == (2, 3, 2)
        for length in (4, 9):
            assert_same_outputs(model, small, dynamic=length)

    def test_one_head_on_images_of_two_sizes(self):
        inputs = keras.Input((16, 16, 3))
        large = layers.Conv2D(8, 3, padding="same", name="conv")(inputs)
        parts = [layers.Conv2D(6, 3, activation="relu", name="wide"), layers.Conv2D(4, 1)]
        head = keras.Sequential([keras.Input((None, None, 8)), *parts], name="head")
        model = pruned(inputs, [head(large), head(layers.AveragePooling2D(2)(large))])
        small = stripped(model)
        assert kernel(small, "head", "wide") == (3, 3, 4, 3)
        assert small.get_layer("head").input_shape == (None, None, None, 4)

    def test_a_batch_of_one_size(self):
        inputs = keras.Input(batch_shape=(3, 4, 2))
        x = layers.GRU(6, name="gru")(inputs)
        model = pruned(inputs, layers.Dense(2)(x))
        small = stripped(model)
        assert small.input_shape == (3, 4, 2)
        assert small.get_layer("gru").units == 3


class TestPrecision:
    @pytest.mark.parametrize(
        ("policy", "tolerance"),
        [("mixed_float16", 1e-2), ("mixed_bfloat16", 6e-2), ("float64", 1e-12), ("bfloat16", 6e-2)],
    )
    def test_policies_stay_and_outputs_agree_as_well_as_they_can(self, policy, tolerance):
        keras.config.set_dtype_policy(policy)
        inputs = keras.Input((6, 6, 2))
        x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
        x = layers.BatchNormalization(name="norm")(x)
        x = layers.Flatten()(x)
        model = pruned(inputs, layers.Dense(3, dtype="float32", name="last")(x))
        small = tfprune.strip(model)
        assert kernel(small, "conv") == (3, 3, 2, 4)
        for layer in model.layers:
            assert small.get_layer(layer.name).dtype_policy == layer.dtype_policy
        assert [w.dtype for w in small.weights] == [w.dtype for w in model.weights]
        assert_same_outputs(model, small, tolerance)


class TestWhatComesAfter:
    def classifier(self):
        inputs = keras.Input((6,), name="x")
        x = layers.Dense(8, activation="relu", name="one")(inputs)
        x = layers.BatchNormalization(name="norm")(x)
        x = x + layers.Dense(8, activation="relu", name="two")(x)
        outputs = {"a": layers.Dense(2, name="a")(x), "b": layers.Dense(3, name="b")(x)}
        return pruned(
            inputs,
            outputs,
            optimizer=keras.optimizers.Adam(0.01),
            loss={"a": "mse", "b": "mae"},
            loss_weights={"a": 1.0, "b": 0.5},
            metrics={"a": ["mae"]},
        )

    def test_training_goes_on_step_by_step_as_it_would_have(self):
        model = self.classifier()
        draw = np.random.default_rng(0)
        x = draw.normal(size=(32, 6)).astype("float32")
        y = {"a": draw.normal(size=(32, 2)), "b": draw.normal(size=(32, 3))}
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        small = tfprune.strip(model)
        assert int(small.optimizer.iterations) == 8
        ours = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        theirs = small.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
        assert_same_outputs(model, small, 1e-4)

    def test_json_and_back(self):
        small = tfprune.strip(self.classifier())
        again = keras.models.model_from_json(small.to_json())
        again.set_weights(small.get_weights())
        assert_same_outputs(small, again, 0)

    def test_saved_files_keep_the_compile_state_and_train_on(self, tmp_path):
        model = self.classifier()
        x = samples(model)
        y = {"a": np.ones((3, 2)), "b": np.ones((3, 3))}
        model.train_on_batch(x, y)
        small = tfprune.strip(model)
        small.save(tmp_path / "small.keras")
        loaded = keras.models.load_model(tmp_path / "small.keras")
        assert_same_outputs(small, loaded, 0)
        for _ in range(2):
            np.testing.assert_allclose(small.train_on_batch(x, y), loaded.train_on_batch(x, y))

    def test_a_saved_model_serves_the_same(self, tmp_path):
        small = tfprune.strip(self.classifier())
        served = tf.saved_model.load(tfprune.export(small, tmp_path / "served"))
        x = samples(small)
        for name, value in small(x).items():
            np.testing.assert_allclose(served.serve(x)[name], value, rtol=1e-5, atol=1e-6)

    def test_a_stripped_model_can_be_pruned_and_stripped_again(self):
        small = tfprune.strip(self.classifier())
        model = tfprune.prunable(small)
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=1))
        smaller = tfprune.strip(model)
        assert kernel(smaller, "one") == (6, 2)
        assert_same_outputs(model, smaller)
