import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import assert_same, random_input, randomised, stripped, zero
from tfprune import layers
from tfprune.rebuild.copying import in_double_precision


def parts(layer):
    """The kernels of an attention layer by the name of the projection."""
    return {w.path.split("/")[-2]: w for w in layer.weights if w.name == "kernel"}


def biases(layer):
    return {w.path.split("/")[-2]: w for w in layer.weights if w.name == "bias"}


def shapes(layer):
    return {name: tuple(kernel.shape) for name, kernel in parts(layer).items()}


def block(make=None, width=6, module=layers, **call):
    """Dense -> attention on itself -> Dense."""
    inputs = keras.Input((5, 3))
    x = module.Dense(width, activation="tanh", name="in")(inputs)
    attention = make() if make else module.MultiHeadAttention(4, 4, value_dim=3, name="mha")
    x = attention(x, x, **call)
    return randomised(keras.Model(inputs, module.Dense(2, name="out")(x)))


def cross(module=layers, key=False, mask=False, **call):
    """Attention with queries, values and keys from different layers."""
    first, second = keras.Input((4, 3)), keras.Input((None, 2))
    query = module.Dense(5, activation="tanh", name="query_in")(first)
    value = module.Dense(6, activation="tanh", name="value_in")(second)
    inputs = [first, second]
    if key:
        call["key"] = module.Dense(7, activation="tanh", name="key_in")(second)
    if mask:
        inputs.append(keras.Input((4, None), dtype="bool"))
        call["attention_mask"] = inputs[-1]
    x = module.MultiHeadAttention(3, 4, output_shape=8, name="mha")(query, value, **call)
    return randomised(keras.Model(inputs, module.Dense(2, name="out")(x)))


class TestPrunedUnits:
    @pytest.mark.parametrize("target", [0.25, 0.5, 0.75])
    def test_self_attention_loses_heads_dimensions_and_widths(self, target):
        model = block()
        tfprune.prune_units(model, target, tfprune.criteria.Random(seed=0))
        small = stripped(model)
        heads, width = round(4 * (1 - target)), 6 - int(6 * target + 0.5)
        assert shapes(small.get_layer("mha"))["query"][1] <= heads
        assert small.get_layer("in").units <= width + 1
        assert_same(model, small)

    def test_all_kinds_of_units_are_counted_by_name(self):
        counts = {c.name: (c.units, c.pruned) for c in tfprune.prune_units(block(), 0.5)}
        assert counts["mha/heads"] == (4, 2)
        assert counts["mha/key_dims"] == (4, 2)
        assert counts["mha/value_dims"] == (3, 2)
        assert counts["mha"] == (6, 3)

    @pytest.mark.parametrize("key", [False, True])
    @pytest.mark.parametrize("mask", [False, True])
    def test_cross_attention(self, key, mask):
        model = cross(key=key, mask=mask)
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=1))
        small = stripped(model)
        assert small.get_layer("query_in").units == 3
        assert small.get_layer("value_in").units == 3
        assert tuple(small.get_layer("out").kernel.shape) == (4, 2)

    def test_causal_mask_dropout_and_gate(self):
        for options in ({"dropout": 0.2}, {"use_gate": True}, {"use_bias": False}):
            model = block(
                lambda o=options: layers.MultiHeadAttention(4, 4, name="mha", **o),
                use_causal_mask=True,
            )
            tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=2))
            small = stripped(model)
            assert shapes(small.get_layer("mha"))["value"] == (3, 2, 2)

    def test_several_axes_of_attention(self):
        inputs = keras.Input((3, 4, 2))
        x = layers.Dense(6, activation="tanh")(inputs)
        x = layers.MultiHeadAttention(2, 4, attention_axes=(1, 2), name="mha")(x, x)
        model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
        assert shapes(stripped(model).get_layer("mha"))["query"] == (3, 1, 2)

    def test_a_residual_block_keeps_one_width(self):
        inputs = keras.Input((5, 3))
        x = layers.Dense(8, name="in")(inputs)
        y = layers.MultiHeadAttention(2, 4, name="mha")(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, y]))
        model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
        small = stripped(model)
        assert shapes(small.get_layer("mha"))["query"] == (4, 1, 2)
        assert shapes(small.get_layer("mha"))["attention_output"] == (1, 2, 4)

    def test_half_of_the_key_dimensions_keep_the_scale_of_all(self):
        model = block(lambda: layers.MultiHeadAttention(2, 8, name="mha"))
        kernels = parts(model.get_layer("mha"))
        zero(kernels["query"], 2, [1, 2, 3, 5, 6, 7])
        zero(biases(model.get_layer("mha"))["query"], 1, [1, 2, 3, 5, 6, 7])
        small = stripped(model)
        ours, theirs = (np.array(parts(m.get_layer("mha"))["query"]) for m in (model, small))
        np.testing.assert_array_equal(theirs, ours[..., [0, 4]] / 2)  # sqrt(2 / 8)

    def test_scores_that_are_returned_hold_the_heads(self):
        inputs = keras.Input((5, 3))
        x = layers.Dense(6, name="in")(inputs)
        y, scores = layers.MultiHeadAttention(4, 4, name="mha")(x, x, return_attention_scores=True)
        model = randomised(keras.Model(inputs, [layers.Dense(2)(y), scores]))
        counts = {c.name: c.pruned for c in tfprune.prune_units(model, 0.5)}
        assert "mha/heads" not in counts and counts["mha/key_dims"] == 2
        assert shapes(stripped(model).get_layer("mha"))["query"] == (3, 4, 2)


class TestGroupQueryAttention:
    def make(self, **options):
        return layers.GroupQueryAttention(
            head_dim=4, num_query_heads=6, num_key_value_heads=2, name="gqa", **options
        )

    @pytest.mark.parametrize("options", [{}, {"use_gate": True}, {"dropout": 0.1}])
    def test_heads_go_in_equal_counts(self, options):
        model = block(lambda: self.make(**options))
        counts = {
            c.name: (c.units, c.pruned)
            for c in tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
        }
        assert counts["gqa/heads"] == (6, 4)  # two of each three
        small = stripped(model)
        assert shapes(small.get_layer("gqa"))["query"] == (3, 2, 2)
        assert shapes(small.get_layer("gqa"))["key"] == (3, 2, 2)

    def test_a_stock_layer_becomes_prunable(self):
        attention = keras.layers.GroupQueryAttention(4, 6, 2, name="gqa")
        model = tfprune.prunable(block(lambda: attention))
        assert isinstance(model.get_layer("gqa"), layers.GroupQueryAttention)
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
        assert shapes(stripped(model).get_layer("gqa"))["query"] == (3, 2, 2)

    def test_a_whole_head_of_keys_goes_with_its_heads_of_queries(self):
        model = block(self.make)
        zero(parts(model.get_layer("gqa"))["attention_output"], 0, [0, 1, 2])
        small = stripped(model)
        assert shapes(small.get_layer("gqa"))["query"] == (6, 3, 4)
        assert shapes(small.get_layer("gqa"))["key"] == (6, 1, 4)

    def test_unequal_zeros_keep_more_heads_and_say_so(self):
        model = block(self.make)
        zero(parts(model.get_layer("gqa"))["attention_output"], 0, [0, 1, 3])
        small, report = tfprune.strip(model, return_report=True)
        assert_same(model, small)
        assert shapes(small.get_layer("gqa"))["query"] == (6, 4, 4)
        assert "gqa/heads: 6 -> 4 units" in str(report)

    def test_key_and_value_dimensions_stay_equally_many(self):
        model = block(self.make)
        zero(parts(model.get_layer("gqa"))["attention_output"], 1, [0, 1])
        assert shapes(stripped(model).get_layer("gqa"))["value"] == (6, 2, 4)  # keys need all 4
        zero(parts(model.get_layer("gqa"))["key"], 2, [2])
        assert shapes(stripped(model).get_layer("gqa"))["value"] == (6, 2, 3)

    def test_it_holds_the_width_of_fixed_inputs(self):
        inputs = keras.Input((5, 4))
        model = randomised(keras.Model(inputs, layers.Dense(2)(self.make()(inputs, inputs))))
        zero(model.layers[-1].kernel, 0, [1])
        small = stripped(model)
        assert shapes(small.get_layer("gqa"))["attention_output"] == (6, 4, 4)


class TestProofs:
    """What zeros prove, in stock layers."""

    def attention(self, model):
        return model.get_layer("mha")

    def test_a_head_whose_output_is_ignored_goes(self):
        model = block(module=keras.layers)
        zero(parts(self.attention(model))["attention_output"], 0, [1, 3])
        assert shapes(stripped(model).get_layer("mha"))["query"] == (6, 2, 4)

    def test_a_head_with_constant_values_is_folded_into_the_output_bias(self):
        for bias in (True, False):
            model = block(
                lambda b=bias: keras.layers.MultiHeadAttention(4, 4, use_bias=b, name="mha"),
                module=keras.layers,
            )
            zero(parts(self.attention(model))["value"], 1, [0, 2])
            small = stripped(model)
            assert shapes(small.get_layer("mha"))["query"] == (6, 2, 4)

    def test_constant_values_stay_where_masks_may_hide_every_place(self):
        inputs, mask = keras.Input((5, 3)), keras.Input((5, 5), dtype="bool")
        x = keras.layers.Dense(6)(inputs)
        attention = keras.layers.MultiHeadAttention(2, 4, dropout=0.5, name="mha")
        x = attention(x, x, attention_mask=mask)
        model = randomised(keras.Model([inputs, mask], keras.layers.Dense(2)(x)))
        zero(parts(attention)["value"], 1, [0])
        small = tfprune.strip(model)
        assert shapes(small.get_layer("mha"))["query"] == (6, 2, 4)
        data = [random_input(inputs, np.random.default_rng(0)), np.zeros((6, 5, 5), bool)]
        np.testing.assert_allclose(small(data), model(data), rtol=1e-4, atol=1e-5)
        zero(biases(attention)["value"], 0, [0])
        assert shapes(stripped(model).get_layer("mha"))["query"] == (6, 1, 4)

    def test_a_value_dimension_goes_if_no_head_uses_it(self):
        model = block(module=keras.layers)
        output = parts(self.attention(model))["attention_output"]
        value = np.array(output)
        value[:, 1] = 0
        value[0, 2] = 0  # another head still uses the last
        output.assign(value)
        assert shapes(stripped(model).get_layer("mha"))["value"] == (6, 4, 2)

    @pytest.mark.parametrize("side", ["query", "key"])
    def test_a_key_dimension_goes_if_in_each_head_one_side_is_silent(self, side):
        model = block(module=keras.layers)
        zero(parts(self.attention(model))[side], 2, [0, 2])
        if side == "query":  # a constant query weighs the keys, one that is 0 does not
            assert shapes(stripped(model).get_layer("mha"))["query"] == (6, 4, 4)
            zero(biases(self.attention(model))["query"], 1, [0, 2])
        # A constant key adds the same to all scores.
        assert shapes(stripped(model).get_layer("mha"))["query"] == (6, 4, 2)

    def test_each_head_may_be_silent_on_its_own_side(self):
        model = block(module=keras.layers)
        kernels, offsets = parts(self.attention(model)), biases(self.attention(model))
        for variable in (kernels["query"], offsets["query"]):
            value = np.array(variable)
            value[..., :2, 1] = 0
            variable.assign(value)
        value = np.array(kernels["key"])
        value[..., 2:, 1] = 0
        kernels["key"].assign(value)
        assert shapes(stripped(model).get_layer("mha"))["query"] == (6, 4, 3)

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("key", [True, False])
    def test_constants_that_come_in(self, bias, key):
        first, second = keras.Input((4, 3)), keras.Input((None, 2))
        query = keras.layers.Dense(5, activation="sigmoid", name="query_in")(first)
        value = keras.layers.Dense(6, activation="sigmoid", name="value_in")(second)
        other = keras.layers.Dense(6, activation="sigmoid", name="key_in")(second)
        attention = keras.layers.MultiHeadAttention(3, 4, use_bias=bias, name="mha")
        x = attention(query, value, other if key else None)
        model = randomised(keras.Model([first, second], keras.layers.Dense(2)(x)))
        for name in ("query_in", "value_in", "key_in")[: 3 if key else 2]:
            zero(model.get_layer(name).kernel, 1, [0, 2])
        small = stripped(model)
        assert small.get_layer("value_in").units == 4
        assert small.get_layer("query_in").units == (3 if bias else 5)
        if key:
            assert small.get_layer("key_in").units == 4

    def test_constants_into_an_attention_that_is_called_twice(self):
        inputs = keras.Input((4, 3))
        first = keras.layers.Dense(5, activation="sigmoid", name="first")(inputs)
        second = keras.layers.Dense(5, activation="sigmoid", name="second")(inputs)
        attention = keras.layers.MultiHeadAttention(3, 4, name="mha")
        x = keras.layers.Add()([attention(first, first), attention(second, first)])
        model = randomised(keras.Model(inputs, keras.layers.Dense(2)(x)))
        for name in ("first", "second"):
            zero(model.get_layer(name).kernel, 1, [0, 2])
        zero(parts(attention)["attention_output"], 0, [1])
        assert shapes(stripped(model).get_layer("mha"))["query"] == (5, 2, 4)

    def test_all_dead_keeps_one_of_each(self):
        inputs = keras.Input((5, 3))
        x = keras.layers.Dense(6, name="in")(inputs)
        y = keras.layers.MultiHeadAttention(4, 4, name="mha")(x, x)
        x = keras.layers.Concatenate()([x, y])
        model = randomised(keras.Model(inputs, keras.layers.Dense(2)(x)))
        zero(parts(model.get_layer("mha"))["value"], 0, slice(None))
        stripped(model)

    def test_embeddings_with_masks(self):
        inputs = keras.Input((6,), dtype="int32")
        x = layers.Embedding(5, 8, mask_zero=True, name="table")(inputs)
        y = layers.MultiHeadAttention(2, 4, name="mha")(x, x)
        x = layers.GlobalAveragePooling1D()(layers.Add()([x, y]))
        model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
        assert stripped(model).get_layer("table").output_dim == 4


class TestPins:
    def test_a_subclass_that_may_attend_otherwise(self):
        class Mine(keras.layers.MultiHeadAttention):
            def _compute_attention(self, *args, **kwargs):
                output, scores = super()._compute_attention(*args, **kwargs)
                return keras.ops.flip(output, axis=-1), scores

        model = block(lambda: Mine(2, 4, name="mha"), module=keras.layers)
        zero(parts(model.get_layer("mha"))["attention_output"], 1, [0])
        assert shapes(stripped(model).get_layer("mha"))["value"] == (6, 2, 4)

    def test_an_output_of_several_axes(self):
        inputs = keras.Input((5, 3))
        x = layers.Dense(6, name="in")(inputs)
        x = layers.MultiHeadAttention(2, 4, output_shape=(2, 3), name="mha")(x, x)
        model = keras.Model(inputs, layers.Dense(2)(x))
        with pytest.raises(ValueError, match="the output of 'mha' has several axes"):
            tfprune.prune_units(model, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_random_zeros(seed):
    draw = np.random.default_rng(seed)
    if seed % 2:
        model = cross(keras.layers, key=bool(seed % 3), mask=bool(seed % 5))
    else:
        model = block(
            lambda: keras.layers.GroupQueryAttention(3, 4, 2, use_bias=bool(seed % 4), name="mha"),
            module=keras.layers,
        )
    for weight in model.weights:
        if "out" in weight.path.split("/")[0]:
            continue
        value = np.array(weight)
        for axis in range(value.ndim):
            if draw.random() < 0.4:
                np.moveaxis(value, axis, 0)[draw.random(value.shape[axis]) < 0.4] = 0
        weight.assign(value)
    small = tfprune.strip(model, check=False)
    ours, theirs = (in_double_precision(each).model for each in (model, small))
    inputs = [random_input(tensor, draw) for tensor in model.inputs]
    inputs = inputs if seed % 2 else inputs[0]
    np.testing.assert_allclose(theirs(inputs), ours(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "sizes"),
    [(keras.layers.MultiHeadAttention, (2, 4)), (keras.layers.GroupQueryAttention, (4, 4, 2))],
)
def test_the_scale_is_exact_in_double_precision(cls, sizes):
    inputs = keras.Input((6, 8), dtype="float64")
    attended = cls(*sizes, name="a", dtype="float64")(inputs, inputs)
    outputs = keras.layers.Dense(2, dtype="float64")(attended)
    model = randomised(tfprune.prunable(keras.Model(inputs, outputs)))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
    small, report = tfprune.strip(model, return_report=True)
    assert small.get_layer("a").weights[0].shape[-1] == 2  # of 4, in each head
    assert report.error < 1e-13
