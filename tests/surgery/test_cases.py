"""The cases which the project was begun with, as behaviour."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune import surgery
from tfprune.criteria.contribution import ActivationContribution
from tfprune.surgery import by
from tfprune.units.scores import UnitScores

layers = keras.layers


def ones(units, **kwargs):
    """A linear layer of ones without bias."""
    return layers.Dense(units, use_bias=False, kernel_initializer="ones", **kwargs)


def numbered(model):
    """The model with another number in every element of its weights."""
    start = 1
    for weight in model.weights:
        weight.assign(np.arange(start, start + np.prod(weight.shape)).reshape(weight.shape))
        start += np.prod(weight.shape)
    return model


def width(model, name):
    return model.get_layer(name).output.shape[-1]


@pytest.mark.slow
def test_of_a_trained_xor_the_least_useful_units_can_go():
    keras.utils.set_random_seed(3)  # with some seeds more than half of the units are in use
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
    y = np.array([[0], [1], [1], [0]], "float32")
    model = keras.Sequential(
        [
            keras.Input((2,)),
            tfprune.layers.Dense(32, activation="relu", name="hidden"),
            tfprune.layers.Dense(1, activation="sigmoid"),
        ]
    )
    criterion = ActivationContribution()
    criterion.attach(model.get_layer("hidden"), units=32, axis=-1)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    for _ in range(50):
        model.train_on_batch(x, y)

    def loss(network):
        return float(np.mean((np.array(network(x)) - y) ** 2))

    def loss_without(scores):
        return loss(surgery.resize(model, {"hidden": by(-16)}, criterion=scores))

    least = loss_without(criterion)
    most = loss_without(lambda layer: -criterion(layer))
    at_random = loss_without("random")
    assert loss(model) < 1e-3
    assert most > at_random > least >= loss(model) - 1e-9
    assert abs(least - loss(model)) <= 1e-5


def branches_added_to_the_start():
    inputs = keras.Input((6,))
    start = ones(10, name="start")(inputs)
    parts = [ones(n, name=f"branch{n}")(start) for n in (2, 3, 5)]
    joined = layers.Concatenate(name="joined")(parts)
    return keras.Model(inputs, ones(1, name="last")(layers.Add(name="sum")([start, joined])))


@pytest.mark.parametrize("change", [-3, 4])
@pytest.mark.parametrize("name", ["start", "branch2", "branch3", "branch5", "joined", "sum"])
def test_what_is_added_to_a_concatenation_stays_as_wide_as_it(name, change):
    model = branches_added_to_the_start()
    change = -1 if name == "branch2" and change < 0 else change
    change = -2 if name == "branch3" and change < 0 else change
    new = surgery.resize(model, {name: by(change)})
    total = sum(width(new, f"branch{n}") for n in (2, 3, 5))
    assert width(new, name) == width(model, name) + change
    assert width(new, "start") == width(new, "joined") == width(new, "sum") == total == 10 + change
    x = np.ones((1, 6), "float32")
    start = np.full(10 + change, 6.0)
    if change < 0:  # of ones, all units are alike
        expected = start.sum() + (10 + change) * start.sum()
        np.testing.assert_allclose(new(x), [[expected]])
    else:  # what is new has no effect
        np.testing.assert_allclose(new(x), model(x))


def test_the_consumer_of_a_removed_layer_keeps_the_rows_of_the_units_worth_most():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            ones(3, name="a"),
            ones(5, name="b"),
            ones(4, name="c"),
        ]
    )
    numbered(model)
    model.get_layer("b").kernel.assign(np.ones((3, 1)) * [[5.0, 1.0, 4.0, 2.0, 3.0]])
    new = surgery.remove(model, "b")
    assert [layer.name for layer in new.layers] == ["a", "c"]
    old = model.get_layer("c").kernel.numpy()
    np.testing.assert_array_equal(new.get_layer("c").kernel, old[[0, 2, 4]])
    np.testing.assert_array_equal(new.get_layer("a").kernel, model.get_layer("a").kernel)


def test_a_concatenation_without_its_middle_input_keeps_the_columns_of_the_others():
    inputs = keras.Input((2,))
    parts = [ones(n, name=f"part{n}")(inputs) for n in (3, 4, 5)]
    joined = layers.Concatenate(name="joined")(parts)
    model = numbered(keras.Model(inputs, ones(2, name="last")(joined)))
    new = surgery.disconnect(model, "part4", "joined")
    old = model.get_layer("last").kernel.numpy()
    np.testing.assert_array_equal(new.get_layer("last").kernel, old[[0, 1, 2, *range(7, 12)]])
    assert "part4" not in [layer.name for layer in new.layers]


def residual_of_concatenation():
    inputs = keras.Input((7, 7, 3))
    conv = layers.Conv2D(5, 3, padding="same", name="conv")(inputs)
    norm = layers.BatchNormalization(name="norm")(conv)
    other = layers.Conv2D(7, 3, padding="same", name="other")(inputs)
    joined = layers.Concatenate(name="joined")([other, norm])
    around = layers.Conv2D(12, 3, padding="same", name="around")(joined)
    total = layers.Add(name="total")([joined, around])
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(total))
    return keras.Model(inputs, outputs)


def test_a_sum_over_a_concatenation_is_shrunk_with_all_that_is_coupled():
    model = residual_of_concatenation()
    before = model.get_weights()
    copy = keras.models.clone_model(model)
    copy.set_weights(before)
    new = surgery.resize(model, {"total": by(-3)})
    assert width(new, "total") == width(new, "around") == width(new, "joined") == 9
    assert width(new, "conv") + width(new, "other") == 9
    assert width(new, "norm") == width(new, "conv")
    new = surgery.remove(new, "norm")
    new = surgery.insert(new, "around", layers.BatchNormalization(name="added"))
    x = np.random.default_rng(0).normal(size=(2, 7, 7, 3)).astype("float32")
    assert new.get_layer("added").output.shape == (None, 7, 7, 9)
    assert np.isfinite(np.array(new(x))).all()
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def double_and_triple():
    inputs = keras.Input((3,))
    x = ones(4, name="x")(inputs)
    joined = layers.Concatenate(name="joined")([2 * x, 3 * x])
    return keras.Model(inputs, ones(1)(joined))


def test_a_concatenation_of_the_same_units_twice_cannot_grow_by_one():
    model = double_and_triple()
    assert width(model, "joined") == 8
    with pytest.raises(ValueError, match="nearest that can: 'joined': 10") as caught:
        surgery.resize(model, {"joined": by(+1)})
    assert "relaxed=True" in str(caught.value)
    assert width(model, "joined") == 8
    new = surgery.resize(model, {"joined": by(+1)}, relaxed=True)
    assert (width(new, "joined"), width(new, "x")) == (10, 5)
    shrunk = surgery.resize(model, {"joined": by(-1)}, relaxed=True)
    assert (width(shrunk, "joined"), width(shrunk, "x")) == (6, 3)


def test_what_is_added_to_an_input_cannot_grow():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, ones(1)(layers.Add()([inputs, ones(3, name="hidden")(inputs)])))
    with pytest.raises(ValueError, match="'hidden' of size 3 asked to be 4.*nearest.*3"):
        surgery.resize(model, {"hidden": by(+1)})
    assert width(surgery.resize(model, {"hidden": by(+1)}, relaxed=True), "hidden") == 3


def test_group_normalization_keeps_whole_groups():
    inputs = keras.Input((2,))
    x = layers.GroupNormalization(3, name="norm")(ones(6, name="x")(inputs))
    model = keras.Model(inputs, ones(1)(x))
    model.get_layer("x").kernel.assign(np.ones((2, 1)) * [[9.0, 9.0, 9.0, 0.0, 2.0, 2.0]])
    new = surgery.resize(model, {"x": by(-2)})
    assert new.get_layer("norm").groups == 2
    np.testing.assert_array_equal(new.get_layer("x").kernel[0], [9, 9, 9, 0])
    with pytest.raises(ValueError, match="nearest"):
        surgery.resize(model, {"x": by(-1)})


def test_the_outputs_of_a_depthwise_channel_go_together():
    inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(3, 1, name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    model = numbered(keras.Model(inputs, layers.Conv2D(1, 1, name="last")(x)))
    new = surgery.resize(model, {"depthwise": by(-2)}, criterion=lambda weights: [1, 0, 2])
    assert width(new, "conv") == 2
    old = model.get_layer("last").kernel.numpy()
    np.testing.assert_array_equal(new.get_layer("last").kernel, old[:, :, [0, 1, 4, 5]])
    np.testing.assert_array_equal(
        new.get_layer("depthwise").kernel, model.get_layer("depthwise").kernel.numpy()[:, :, [0, 2]]
    )
    with pytest.raises(ValueError, match="'depthwise': 4"):
        surgery.resize(model, {"depthwise": by(-1)})


def two_layers():
    return numbered(
        keras.Sequential([keras.Input((3,)), ones(6, name="a"), ones(6, name="b"), ones(1)])
    )


def test_where_all_utilities_are_negative_every_layer_keeps_one_unit():
    def negative(weights):
        return -np.arange(1.0, 1 + len(weights["kernel"]))

    new = surgery.shrink(two_layers(), negative)
    assert [layer.units for layer in new.layers] == [1, 1, 1]
    old = two_layers().get_layer("a").kernel.numpy()
    np.testing.assert_array_equal(new.get_layer("a").kernel, old[:, :1])


def test_units_of_positive_utility_stay():
    model = two_layers()
    new = surgery.shrink(model, lambda weights: [-1, 1, -1, 1, -1, 1])
    old = model.get_layer("b").kernel.numpy()
    np.testing.assert_array_equal(new.get_layer("b").kernel, old[[1, 3, 5]][:, [1, 3, 5]])


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_utilities_that_are_not_finite_count_as_worst(worst):
    model = two_layers()
    new = surgery.resize(model, {"a": by(-1)}, criterion=lambda weights: [1, 2, worst, 0, 3, 4])
    old = model.get_layer("a").kernel.numpy()
    np.testing.assert_array_equal(new.get_layer("a").kernel, old[:, [0, 1, 3, 4, 5]])
    new = surgery.shrink(model, lambda weights: [1, 2, worst, 0, 3, 4])
    np.testing.assert_array_equal(new.get_layer("a").kernel, old[:, [0, 1, 3, 4, 5]])


@pytest.mark.parametrize(("make", "gates"), [(layers.LSTM, 4), (layers.GRU, 3)])
def test_gates_and_recurrent_columns_keep_the_same_units(make, gates):
    inputs = keras.Input((4, 2))
    model = keras.Model(inputs, layers.Dense(1, name="last")(make(5, name="recurrent")(inputs)))
    numbered(model)
    new = surgery.resize(model, {"recurrent": 3}, criterion=lambda layer, weights: [3, 0, 2, 0, 1])
    kept = [0, 2, 4]
    columns = np.concatenate([np.array(kept) + 5 * gate for gate in range(gates)])
    kernel, recurrent, bias = (np.array(w) for w in model.get_layer("recurrent").weights)
    ours = new.get_layer("recurrent").get_weights()
    np.testing.assert_array_equal(ours[0], kernel[:, columns])
    np.testing.assert_array_equal(ours[1], recurrent[kept][:, columns])
    np.testing.assert_array_equal(ours[2], bias[..., columns])
    np.testing.assert_array_equal(
        new.get_layer("last").kernel, model.get_layer("last").kernel.numpy()[kept]
    )


def test_identity_convolutions_change_no_output():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv")(inputs)
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    added = [layers.Conv2D(16, 3, padding="same", activation="relu") for _ in range(2)]
    new = surgery.insert(model, "conv", added)
    x = np.random.default_rng(0).integers(0, 2, (64, 4, 4, 1)).astype("float32")
    np.testing.assert_array_equal(new(x), model(x))
    assert len(new.layers) == len(model.layers) + 2


def test_criteria_that_are_measured_bring_their_data_along():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="relu", name="hidden"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    kernel = np.array([[1, -1, 2, -2], [1, -1, 2, -2], [1, -1, 2, -2]], "float32")
    model.get_layer("hidden").set_weights([kernel, np.zeros(4)])
    x = np.ones((8, 3), "float32")  # units 1 and 3 give 0 for all of it
    with pytest.raises(ValueError, match="UnitScores"):
        surgery.resize(model, {"hidden": 2}, criterion="apoz")
    scores = UnitScores("apoz", data=(x,))
    small = surgery.resize(model, {"hidden": 2}, criterion=scores)
    np.testing.assert_array_equal(small.get_layer("hidden").kernel, kernel[:, [0, 2]])
    np.testing.assert_allclose(small(x), model(x), rtol=1e-6)
