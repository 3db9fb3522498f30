"""Strip on whole models: nested ones, shared layers, and the structure that stays."""

import keras
import numpy as np
import pytest

import tfprune
from tests.stripping.whole_models import assert_same_outputs, kernel, pruned, stripped

layers = keras.layers


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
