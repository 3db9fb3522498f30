"""Layers put in: identities, and what has none."""

import keras
import numpy as np
import pytest

from tests.surgery.models import chain, drawn, example, images, names
from tfprune import surgery

layers = keras.layers


IDENTITIES = [
    (chain, "a", layers.Dense(4, name="new")),
    (chain, "a", layers.Dense(4, activation="relu", name="new")),
    (chain, "b", layers.Dense(5, use_bias=False, name="new")),
    (chain, "c", layers.Dense(2, name="new")),
    (chain, "a", layers.ReLU(name="new")),
    (chain, "b", layers.PReLU(name="new")),
    (chain, "b", layers.Dropout(0.5, name="new")),
    (images, "conv", layers.Conv2D(4, 3, padding="same", activation="relu", name="new")),
    (images, "pool", layers.Conv2D(4, (1, 5), padding="same", name="new")),
    (images, "pool", layers.Conv2D(4, 1, activation="relu", name="new")),
    (images, "conv", layers.Conv2D(4, 3, padding="same", groups=2, name="new")),
    (images, "conv", layers.Conv2D(4, 3, padding="same", dilation_rate=2, name="new")),
    (images, "conv", layers.DepthwiseConv2D(3, padding="same", name="new")),
    (images, "conv", layers.SeparableConv2D(4, 3, padding="same", depth_multiplier=2, name="new")),
    (images, "conv", layers.BatchNormalization(name="new")),
]


@pytest.mark.parametrize(("make", "after", "layer"), IDENTITIES)
def test_an_identity_changes_no_output(make, after, layer):
    model = make()
    plan = surgery.edit(model)
    plan.insert(after, layer)
    assert plan.effects == ()
    x = example(model)
    np.testing.assert_array_equal(plan.model(x), model(x))
    assert names(plan.model).index("new") == names(model).index(after) + 1
    assert type(plan.model) is type(model)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 0.3, 1.0])
def test_an_inserted_batch_normalization_is_exact(dtype, epsilon):
    keras.config.set_dtype_policy(dtype)
    inputs = keras.Input((5,), dtype=dtype)
    x = layers.Dense(4, name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    new = surgery.insert(model, "a", layers.BatchNormalization(epsilon=epsilon, name="new"))
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(dtype)
    np.testing.assert_array_equal(new(x), model(x))


def test_a_causal_identity_is_the_last_tap():
    inputs = keras.Input((5, 3))
    model = drawn(keras.Model(inputs, layers.Conv1D(3, 2, padding="causal", name="a")(inputs)))
    new = surgery.insert(model, "a", layers.Conv1D(3, 2, padding="causal", name="new"))
    x = example(model)
    np.testing.assert_array_equal(new(x), model(x))


@pytest.mark.parametrize(
    ("make", "after", "layer", "message"),
    [
        (chain, "a", layers.Dense(5, name="new"), "takes 4 channels and gives 5"),
        (chain, "a", layers.Dense(4, "tanh", name="new"), "activation tanh"),
        (chain, "b", layers.Dense(5, "relu", name="new"), "below 0"),
        (chain, "b", layers.LayerNormalization(name="new"), "no identity"),
        (chain, "a", layers.Dense(4, name="b"), "must be new"),
        (images, "conv", layers.Conv2D(4, 3, name="new"), "border"),
        (images, "conv", layers.Conv2D(4, 2, padding="same", name="new"), "centre"),
        (images, "conv", layers.Conv2D(4, 1, strides=2, name="new"), "strides|not fit"),
        (images, "conv", layers.LSTM(4, name="new"), "Reason"),
        (images, "nowhere", layers.ReLU(name="new"), "'nowhere'"),
    ],
)
def test_what_has_no_identity_is_refused(make, after, layer, message):
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        surgery.insert(model, after, layer)
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_only_fails_when_it_is_run_is_refused_too():
    inputs = keras.Input((4, 3))
    x, y = (layers.Dense(5, name=name)(inputs) for name in "xy")
    model = keras.Model(inputs, layers.Dense(1)(layers.Attention(name="attention")([x, y])))
    with pytest.raises(ValueError, match="there is no model.*insert after x"):
        surgery.insert(model, "x", layers.Dense(3, name="new"), init="default")


def test_inserted_as_initialised_the_plan_says_that_the_function_changes():
    model = chain()
    plan = surgery.edit(model)
    plan.insert("a", [layers.Dense(7, name="x"), layers.Dense(4, name="y")], init="default")
    assert len(plan.effects) == 1
    assert names(plan.model) == ["a", "x", "y", "b", "c"]
    np.testing.assert_array_equal(plan.model.get_layer("b").kernel, model.get_layer("b").kernel)


def test_a_layer_given_with_weights_keeps_them():
    model, layer = chain(), layers.Dense(4, name="new")
    layer.build((None, 4))
    new = surgery.insert(model, "a", layer)
    np.testing.assert_array_equal(new.get_layer("new").kernel, layer.kernel)


def test_behind_an_input_behind_a_shared_layer_and_in_a_nested_model():
    part_inputs = keras.Input((4,), name="part_input")
    part = keras.Model(part_inputs, layers.Dense(4, name="inner")(part_inputs), name="part")
    inputs = keras.Input((4,), name="given")
    shared = layers.Dense(4, name="shared")
    x = layers.Add()([shared(inputs), shared(shared(inputs)), part(part(inputs))])
    model = drawn(keras.Model(inputs, [x, part(inputs)]))
    x = example(model)
    for after in ("given", "shared", "inner", "part"):
        new = surgery.insert(model, after, layers.Dense(4, name="new"))
        for ours, theirs in zip(new(x), model(x), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        new.get_config()


# Before some consumers ----------------------------------------------------------------------------


def forked():
    """A layer whose output goes to two layers, to a sum, and to the outputs."""
    inputs = keras.Input((3,), name="given")
    a = layers.Dense(4, name="a")(inputs)
    b, c = (layers.Dense(4, name=name)(a) for name in "bc")
    total = layers.Add(name="total")([a, b, a])
    return drawn(keras.Model(inputs, [total, c, a], name="forked"))


@pytest.mark.parametrize("before", ["b", "total", "forked", ["b", "c"], ["c", "forked"]])
def test_only_the_named_consumers_take_what_is_inserted(before):
    model = forked()
    new = surgery.insert(model, "a", layers.Dense(4, name="new"), init="default", before=before)
    x = example(model)
    (a, b, c), made = (model.get_layer(name) for name in "abc"), new.get_layer("new")
    plain = x @ a.kernel + a.bias
    other = plain @ made.kernel + made.bias
    chosen = set(before if isinstance(before, list) else [before])
    for_b, for_c, for_sum, for_output = (
        other if name in chosen else plain for name in ("b", "c", "total", "forked")
    )
    by_hand = [2 * for_sum + (for_b @ b.kernel + b.bias), for_c @ c.kernel + c.bias, for_output]
    for ours, theirs in zip(new(x), by_hand, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_consumers_can_be_layers_the_model_or_inserted_in_the_same_plan():
    model = forked()
    plan = surgery.edit(model)
    plan.insert("a", layers.Dense(4, name="first"), before=[model.get_layer("b"), model])
    plan.insert("first", layers.Dense(4, name="second"), before=model)
    plan.insert("a", layers.ReLU(name="third"), init="default", before="first")
    plan.resize({"second": 4})
    assert "before b, forked" in str(plan)
    copy = surgery.Plan.from_dict(model, plan.to_dict())
    for new in (plan.model, copy.model):
        takes = {layer.name: layer.input for layer in new.layers if layer.name != "given"}
        assert takes["b"] is new.get_layer("first").output is takes["second"]
        assert takes["first"] is new.get_layer("third").output
        assert takes["c"] is takes["third"] is new.get_layer("a").output
        assert new.outputs[2] is new.get_layer("second").output


def test_what_does_not_take_the_output_is_no_place_to_insert_before():
    for after, before, message in (
        ("b", "c", "What takes it: 'total'"),
        ("a", ["c", "nowhere"], "before=.'c', 'nowhere'."),
        ("a", [], "before=.*What takes it: 'b', 'c', 'total', 'forked'"),
    ):
        with pytest.raises(ValueError, match=message):
            surgery.insert(forked(), after, layers.Dense(4, name="new"), before=before)
    with pytest.raises(ValueError, match="before=.'c'.*What takes it: 'b'"):
        surgery.insert(chain(), "a", layers.Dense(4, name="new"), before="c")
    assert names(surgery.insert(chain(), "a", layers.Dense(4, name="new"), before="b"))[1] == "new"
