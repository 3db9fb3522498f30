"""New units: without effect at first, or copies; both learn."""

import keras
import numpy as np
import pytest

from tests.surgery.models import drawn, example
from tfprune import surgery
from tfprune.stripping.check import error
from tfprune.surgery import Split, by, inputs_of

layers = keras.layers


def mlp():
    inputs = keras.Input((3,))
    x = layers.Dense(4, activation="relu", name="grow")(inputs)
    x = layers.Dense(5, activation="tanh")(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(2)(x))


def residual():
    inputs = keras.Input((3,))
    first = layers.Dense(4, name="grow")(inputs)
    x = layers.Dense(5, activation="tanh")(first)
    x = layers.Add()([layers.Dense(4)(x), first])
    x = layers.Concatenate()([x, first])
    return keras.Model(inputs, layers.Dense(2)(x))


def convolutions():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="grow")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.PReLU(shared_axes=[1, 2])(x))
    x = layers.SeparableConv2D(3, 2, depth_multiplier=2)(layers.ZeroPadding2D()(x))
    x = layers.Conv2D(6, 1, groups=3, name="each")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Conv2DTranspose(2, 3)(x))))


def flattened():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(4, 3, name="grow")(inputs)
    x = layers.Flatten()(layers.Permute((3, 1, 2))(x))
    return keras.Model(inputs, layers.Dense(2)(x))


def grouped():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 1, name="grow")(inputs)
    x = layers.Conv2D(6, 3, groups=2, name="grouped")(x)
    return keras.Model(inputs, layers.Conv2D(3, 3)(x))


def recurrent():
    inputs = keras.Input((5, 3))
    x = layers.LSTM(4, return_sequences=True, name="grow")(inputs)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True))(x)
    x = layers.GRU(3, reset_after=False)(layers.TimeDistributed(layers.Dense(3))(x))
    return keras.Model(inputs, layers.Dense(2)(x))


def backwards():
    inputs = keras.Input((5, 3))
    x = layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="grow")(inputs)
    return keras.Model(inputs, layers.SimpleRNN(2)(layers.EinsumDense("abc,cd->abd", (None, 3))(x)))


def attention():
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 3, value_dim=2, name="grow")(inputs, inputs)
    return keras.Model(inputs, layers.Dense(2)(x))


def shared_heads():
    inputs = keras.Input((5, 6))
    x = layers.GroupQueryAttention(3, 4, 2, name="grow")(inputs, inputs)
    return keras.Model(inputs, layers.Dense(2)(x))


def over_time():
    inputs = keras.Input((3, 5, 5, 2))
    x = layers.ConvLSTM2D(3, 2, return_sequences=True, name="grow")(inputs)
    x = layers.Conv3D(2, 2)(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling3D()(x)))


def nested():
    part_inputs = keras.Input((4,))
    part = keras.Model(part_inputs, layers.Dense(4, name="inner")(part_inputs))
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="grow")(inputs)
    return keras.Model(inputs, layers.Dense(2)(part(part(x))))


def sliced():
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="grow")(inputs)
    x = layers.Concatenate()([x[:, ::-1], x[:, 1:], x * np.arange(1.0, 5.0, dtype="float32")])
    return keras.Model(inputs, layers.Dense(2)(x))


CASES = [
    *((make, "grow", +2) for make in (mlp, residual, convolutions, flattened, recurrent, sliced)),
    (convolutions, "each", +4),
    (grouped, "grow", +2),
    (grouped, "grouped", +4),
    (backwards, "grow", +4),
    (attention, ("grow", "heads"), +2),
    (attention, ("grow", "key_dims"), +1),
    (attention, ("grow", "value_dims"), +2),
    (shared_heads, ("grow", "heads"), +2),
    (shared_heads, ("grow", "key_dims"), +1),
    (over_time, "grow", +1),
    (nested, "grow", +1),
    (nested, "inner", +2),
]


def made(model, changes, **options):
    plan = surgery.edit(model, **options)
    plan.resize(changes)
    assert plan.effects == ()
    return plan.model


@pytest.mark.parametrize(("make", "key", "change"), CASES)
@pytest.mark.parametrize("split", [None, Split()], ids=["zeros", "split"])
def test_growing_keeps_the_function(make, key, change, split):
    model = drawn(make())
    new = made(model, {key: by(change)}, split=split)
    assert new.count_params() > model.count_params()
    x = example(model)
    assert error(np.array(model(x)), np.array(new(x))) < 1e-5
    assert np.std(np.array(model(x))) > 1e-3


def test_where_statistics_count_new_units_the_plan_says_so():
    inputs = keras.Input((3,))
    x = layers.LayerNormalization(name="norm")(layers.Dense(4, name="grow")(inputs))
    x = keras.ops.sum(x * x, axis=-1, keepdims=True)
    plan = surgery.edit(keras.Model(inputs, layers.Dense(2)(x)))
    plan.resize({"grow": by(1)})
    assert any("'norm' counts it in its statistics" in reason for reason in plan.effects)
    assert len(plan.effects) == 2


def test_new_weights_start_as_they_should():
    model = drawn(mlp())
    old_norm = model.layers[2]
    old_norm.gamma.assign(2 * np.ones(4))
    new = made(model, {"grow": 6})
    dense, norm, last = new.layers[1:4]
    np.testing.assert_array_equal(dense.kernel[:, :4], model.layers[1].kernel)
    assert (np.array(dense.kernel[:, 4:]) != 0).all()
    np.testing.assert_array_equal(dense.bias[4:], 0)
    values = [np.array(w)[4:] for w in (norm.gamma, norm.beta, norm.moving_mean)]
    np.testing.assert_array_equal(values, [[1, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(norm.moving_variance[4:], 1)
    np.testing.assert_array_equal(last.kernel[4:], 0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_first_step_moves_what_uses_new_units_and_the_second_what_makes_them(optimizer):
    inputs = keras.Input((3,))
    x = layers.Dense(4, activation="tanh", name="grow")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    model.compile(optimizer, "mse")
    new = surgery.resize(model, {"grow": 6})
    x, y = example(model, 16), np.random.default_rng(2).normal(size=(16, 2))
    made_by, used_by = new.get_layer("grow").kernel, new.get_layer("last").kernel
    before = [np.array(made_by)[:, 4:], np.array(used_by)[4:]]
    new.train_on_batch(x, y)
    assert (np.array(used_by)[4:] != before[1]).all()
    assert (np.array(made_by) != 0).all()  # as drawn: no weight is 0 from here on
    new.train_on_batch(x, y)
    assert (np.array(made_by)[:, 4:] != before[0]).all()


def test_two_layers_that_grow_at_once_are_connected_with_weights_that_are_not_zero():
    model = drawn(mlp())
    new = made(model, {"grow": 6, model.layers[3]: 7})
    kernel = np.array(new.layers[3].kernel)
    assert (kernel[4:, 5:] != 0).all()
    assert (kernel[4:, :5] == 0).all()
    x = example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=2e-5, atol=2e-5)


def test_split_units_are_those_worth_most_and_share_what_they_give():
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(3, name="grow"), layers.Dense(2, name="last")]
    )
    model.get_layer("grow").kernel.assign([[1.0, 3.0, 2.0]] * 2)
    new = surgery.resize(model, {"grow": 5}, split=Split())
    np.testing.assert_array_equal(new.get_layer("grow").kernel[0], [1, 3, 3, 2, 2])
    old = model.get_layer("last").kernel.numpy()
    np.testing.assert_allclose(
        new.get_layer("last").kernel, old[[0, 1, 1, 2, 2]] * [[1], [0.5], [0.5], [0.5], [0.5]]
    )


def test_copies_of_which_a_slice_takes_some_share_the_weights_of_these():
    inputs = keras.Input((3,))
    x = layers.Dense(1, name="grow")(inputs)
    model = drawn(keras.Model(inputs, layers.Dense(2)(x[:, :1])))
    plan = surgery.edit(model, split=Split())
    plan.resize({"grow": 3})
    x = np.ones((2, 3), "float32")
    assert plan.effects == ()
    np.testing.assert_allclose(plan.model(x), model(x), rtol=1e-5)


def test_noise_tells_copies_apart():
    model = drawn(mlp())
    noisy, again, other = (
        surgery.resize(model, {"grow": 8}, split=Split(noise=0.01, seed=seed)) for seed in (1, 1, 2)
    )
    kernel = np.array(noisy.layers[1].kernel)
    assert (kernel[:, ::2] != kernel[:, 1::2]).all()
    np.testing.assert_allclose(kernel[:, ::2], kernel[:, 1::2], atol=0.2)
    np.testing.assert_array_equal(kernel, again.layers[1].kernel)
    assert (kernel != np.array(other.layers[1].kernel))[:, 1::2].all()


@pytest.mark.parametrize(("make", "key", "change"), CASES)
def test_grown_and_shrunk_it_is_the_model_bit_for_bit(make, key, change):
    model = drawn(make())
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.optimizer.build(model.trainable_variables)
    for slot in model.optimizer.variables:
        if len(slot.shape):
            slot.assign(np.random.default_rng(len(slot.path)).normal(size=slot.shape))
    before = _state(model)

    def oldest(weights):
        return -np.arange(len(next(iter(weights.values()))))

    grown = surgery.resize(model, {key: by(change)})
    again = surgery.resize(grown, {key: by(-change)}, criterion=_in_groups(make, key, oldest))
    factor = {"rtol": 1e-6} if "key_dims" in key else {"rtol": 0}  # sqrt(3 / 4) sqrt(4 / 3)
    for ours, theirs in zip(before, _state(again), strict=True):
        np.testing.assert_allclose(ours, theirs, **factor)
    for ours, theirs in zip(before, _state(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _in_groups(make, key, criterion):
    """The criterion, with units counted in each of two groups or directions."""
    if make not in (grouped, backwards):
        return criterion

    def oldest(layer, weights):
        size = len(next(iter(weights.values())))
        halves = 1 if layer.name == "grow" and make is backwards else 2
        return -np.tile(np.arange(size // halves), halves)

    return oldest


def _state(model):
    values = [np.array(weight) for weight in model.weights]
    return [*values, *(np.array(slot) for slot in model.optimizer.variables)]


def test_inputs_can_be_named():
    model = drawn(residual())
    last = model.layers[-1]
    new = made(model, {inputs_of(last): by(+2)})
    assert new.get_layer("grow").units == 5
    with pytest.raises(ValueError, match="nearest"):
        surgery.resize(model, {inputs_of(last): by(+1)})


@pytest.mark.parametrize(
    ("key", "change", "sizes"),
    [
        (inputs_of("joined"), by(+4), {"joined": 14}),  # 10 inputs, of both layers
        (inputs_of("joined"), 8, {"joined": 8}),
        (inputs_of("joined", 0), 3, {"a": 3, "b": 3, "c": 5}),
        (inputs_of("joined", 1), by(-1), {"a": 5, "b": 5, "c": 4}),
        (inputs_of("total"), by(+1), {"a": 6, "b": 6, "c": 5}),
        (inputs_of("total", 1), 6, {"a": 6, "b": 6, "c": 5}),
        (inputs_of("gated"), 7, {"a": 7, "gate": 1}),  # not the one input that is the gate
        (inputs_of("gated", 1), 7, {"a": 7, "gate": 1}),
    ],
)
def test_all_inputs_of_a_sum_and_of_a_concatenation_count(key, change, sizes):
    inputs = keras.Input((3,))
    a, b, c = (layers.Dense(5, name=name)(inputs) for name in "abc")
    total = layers.Add(name="total")([a, b])
    gated = layers.Multiply(name="gated")([layers.Dense(1, name="gate")(inputs), total])
    joined = layers.Concatenate(name="joined")([gated, c])
    model = drawn(keras.Model(inputs, layers.Dense(2, name="last")(joined)))
    new = surgery.resize(model, {key: change})
    assert {name: new.get_layer(name).output.shape[-1] for name in sizes} == sizes
    assert new.get_layer("last").kernel.shape[0] == new.get_layer("joined").output.shape[-1]


def test_an_input_that_is_not_there_is_refused():
    model = drawn(mlp())
    with pytest.raises(ValueError, match="'grow' with 1 inputs, index=1"):
        surgery.resize(model, {inputs_of("grow", 1): 3})
    with pytest.raises(ValueError, match="Argument `index` must be an integer"):
        inputs_of("last", -1)


def test_as_near_as_can_be_leaves_one_unit():
    model = drawn(mlp())
    assert surgery.resize(model, {"grow": by(-9)}, relaxed=True).get_layer("grow").units == 1


def test_layers_that_carry_masks_stay_such_with_their_masks():
    import tfprune

    model = tfprune.prunable(drawn(mlp()))
    mask = np.arange(12).reshape(3, 4) % 5 != 0
    tfprune.set_masks(model, "grow", "kernel", trainable=mask, frozen=[0])
    new = surgery.resize(model, {"grow": by(+1)})
    kept = np.array(new.get_layer("grow").trainable_masks["kernel"])
    np.testing.assert_array_equal(kept[:, :4], mask)
    assert kept[:, 4].all()
    frozen = np.array(new.get_layer("grow").frozen_masks["kernel"])
    np.testing.assert_array_equal(frozen, [[True] * 4 + [False]] + [[False] * 5] * 2)
    x = example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grow": 0}, "never below 1"),
        ({"grow": by(-4)}, "never below 1"),
        ({"grow": "+2"}, "integer"),
        ({"grow": True}, "integer"),
        ({"other": 3}, "'other'"),
        ({("grow", "heads"): 3}, "no units of that name.*those of its output"),
        ({("grow",): 3}, "a pair of it and the name of its units"),
        (
            {surgery.inputs_of("grow"): 1},
            "An input changes its size where it is named",
        ),
        ({"grow": 10**9}, "1,000,000 at most"),
        ({}, "changes"),
        ("grow", "changes"),
    ],
)
def test_wrong_changes_are_refused(changes, message):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="grow"), layers.Dense(2, name="last")]
    )
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        surgery.resize(model, changes)
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
