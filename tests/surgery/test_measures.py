"""The activation contribution at layers of all kinds, and after surgery."""

import keras
import numpy as np
import pytest

import tfprune
from tests.surgery.models import drawn
from tfprune import surgery
from tfprune.criteria import ActivationContribution
from tfprune.layers.layer_masks import measured_of
from tfprune.surgery import by

layers = keras.layers


def joined():
    """Two branches of images, pooled, concatenated, and a sum over that."""
    inputs = keras.Input((4, 4, 2))
    a = tfprune.layers.Conv2D(3, 1, name="a")(inputs)
    b = tfprune.layers.Conv2D(2, 1, name="b")(inputs)
    pooled = layers.AveragePooling2D(2, name="pool")(a)
    x = layers.Concatenate(name="join")([pooled, layers.MaxPooling2D(2, name="other")(b)])
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Add(name="sum")([x, tfprune.layers.Dense(5, name="c")(x)])
    model = drawn(keras.Model(inputs, tfprune.layers.Dense(1, name="last")(x)))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    return model


X = np.random.default_rng(0).normal(size=(6, 4, 4, 2)).astype("float32")
Y = np.zeros((6, 1), "float32")
WITHOUT_WEIGHTS = ["pool", "join", "mean", "sum"]


def measured(names=WITHOUT_WEIGHTS, model=None):
    model = joined() if model is None else model
    criterion = ActivationContribution()
    for name in names:
        criterion.attach(model.get_layer(name))
    model.make_train_function(force=True)
    model.train_on_batch(X, Y)
    return model, criterion


def test_pooling_sums_and_concatenations_are_measured():
    model, criterion = measured()
    a, b, c, last = (model.get_layer(name).get_weights() for name in ("a", "b", "c", "last"))
    a, b = X @ a[0][0, 0] + a[1], X @ b[0][0, 0] + b[1]
    blocks = [np.array(each).reshape(6, 2, 2, 2, 2, -1) for each in (a, b)]
    pool, other = blocks[0].mean(axis=(2, 4)), blocks[1].max(axis=(2, 4))
    join = np.concatenate([pool, other], -1)
    mean = join.mean(axis=(1, 2))
    total = mean + mean @ c[0] + c[1]
    residual = 2 / 6 * (total @ last[0] + last[1])
    d_total = residual @ last[0].T
    d_mean = d_total + d_total @ c[0].T
    d_join = np.broadcast_to(d_mean[:, None, None] / 4, join.shape)
    truth = {
        "sum": np.abs(total * d_total).mean(0),
        "mean": np.abs(mean * d_mean).mean(0),
        "join": np.abs((join * d_join).mean(axis=(1, 2))).mean(0),
        "pool": np.abs((pool * d_join[..., :3]).mean(axis=(1, 2))).mean(0),
    }
    for name, values in truth.items():
        np.testing.assert_allclose(criterion(model.get_layer(name)), values, rtol=1e-4)


def test_models_of_double_precision_are_measured():
    keras.config.set_floatx("float64")
    try:
        model, criterion = measured()
        values = criterion(model.get_layer("sum"))
    finally:
        keras.config.set_floatx("float32")
    model, criterion = measured()
    np.testing.assert_allclose(values, criterion(model.get_layer("sum")), rtol=1e-4)


def test_detached_they_compute_as_before_and_keep_what_was_measured():
    model, criterion = measured()
    average = criterion(model.get_layer("sum"))
    for name in WITHOUT_WEIGHTS:
        assert "call" in vars(model.get_layer(name))
        criterion.detach(model.get_layer(name))
        assert "call" not in vars(model.get_layer(name))
    model.make_train_function(force=True)
    model.train_on_batch(2 * X, Y)
    np.testing.assert_array_equal(measured_of(model.get_layer("sum"))[0], average)


def test_resized_each_value_follows_its_unit_and_new_ones_have_the_mean():
    model, criterion = measured()
    before = {name: criterion(model.get_layer(name)) for name in WITHOUT_WEIGHTS}
    smaller = surgery.resize(model, {"a": by(-1)}, criterion=criterion)
    kept = np.array(smaller.get_layer("a").bias)
    stays = [np.flatnonzero(model.get_layer("a").bias == value)[0] for value in kept]
    total = [*stays, 3, 4]
    for name, average in before.items():
        found = measured_of(smaller.get_layer(name))[0]
        np.testing.assert_array_equal(found, average[stays if name == "pool" else total])
    larger = surgery.resize(model, {"a": by(+2)}, criterion=criterion)
    for name, average in before.items():
        new = np.full(2, average.mean(), "float32")
        truth = [*average[:3], *new, *average[3:]]
        np.testing.assert_allclose(measured_of(larger.get_layer(name))[0], truth, rtol=1e-6)
    np.testing.assert_allclose(criterion(larger.get_layer("pool"))[:3], before["pool"])


def test_where_inputs_come_and_go_values_follow_their_units():
    inputs = keras.Input((3,))
    a, b, c = (
        tfprune.layers.Dense(n, name=k)(inputs) for n, k in zip((2, 3, 4), "abc", strict=True)
    )
    join = layers.Concatenate(name="join")([a, b, c])
    x = layers.ReLU(name="relu")(join)
    model = drawn(keras.Model(inputs, [layers.Dense(1, name="last")(x), b]))
    values = np.arange(9.0, dtype="float32")
    for name in ("join", "relu"):
        tfprune.layers.layer_masks.keep_measured(model.get_layer(name), (values, 7))
    without = surgery.disconnect(model, "b", "join")
    more = surgery.connect(model, "b", "join")
    for name in ("join", "relu"):
        found = measured_of(without.get_layer(name))
        np.testing.assert_array_equal(found[0], values[[0, 1, 5, 6, 7, 8]])
        assert found[1] == 7
        found = measured_of(more.get_layer(name))[0]
        np.testing.assert_array_equal(found, [*values, 4, 4, 4])
    longer = surgery.insert(model, "a", layers.Dense(2, name="new"))
    np.testing.assert_array_equal(measured_of(longer.get_layer("relu"))[0], values)


def test_values_follow_the_outputs_of_each_channel():
    inputs = keras.Input((4, 4, 2))
    x = layers.DepthwiseConv2D(1, depth_multiplier=2, name="each")(inputs)
    x = layers.Conv2D(1, 1, name="last")(layers.ReLU(name="relu")(x))
    model = drawn(keras.Model(inputs, x))
    kernel = np.array([[5.0, 1.0], [1.0, 5.0]]).reshape(1, 1, 2, 2)
    model.get_layer("each").set_weights([kernel, np.zeros(4)])
    values = np.arange(4.0, dtype="float32")
    tfprune.layers.layer_masks.keep_measured(model.get_layer("relu"), (values, 7))
    less = surgery.resize_depth_multiplier(model, "each", 1)
    np.testing.assert_array_equal(measured_of(less.get_layer("relu"))[0], values[[0, 3]])
    more = surgery.resize_depth_multiplier(model, "each", by(+1))
    np.testing.assert_array_equal(measured_of(more.get_layer("relu"))[0], [0, 1, 1.5, 2, 3, 1.5])


def test_units_are_selected_by_what_was_measured_at_sums():
    model, criterion = measured(["mean"])
    scores = criterion(model.get_layer("mean"))
    new = surgery.resize(model, {"mean": by(-2)}, criterion="activation_contribution")
    biases = np.concatenate([np.array(model.get_layer(name).bias) for name in "ab"])
    kept = np.concatenate([np.array(new.get_layer(name).bias) for name in "ab"])
    stays = np.flatnonzero(np.isin(biases, kept))
    best = np.sort(np.argsort(-scores)[:3])
    np.testing.assert_array_equal(stays, best)


def test_the_criterion_goes_on_with_the_model_that_it_made():
    model, criterion = measured(["a", "b", "c", "last"])
    once = surgery.resize(model, {"a": by(-1)}, criterion=criterion)
    twice = surgery.resize(once, {"a": by(-1)}, criterion=criterion)
    best = criterion(model.get_layer("a")).argmax()
    assert twice.get_layer("a").bias[0] == model.get_layer("a").bias[best]
    plain = tfprune.strip(once)
    again = surgery.resize(plain, {"a": by(-1)}, criterion="activation_contribution")
    assert again.get_layer("a").bias[0] == model.get_layer("a").bias[best]


def test_where_nothing_was_measured_it_says_so():
    with pytest.raises(ValueError, match="of no layer of this one"):
        surgery.resize(joined(), {"a": 2}, criterion="activation_contribution")


# The weight of new values -------------------------------------------------------------------------

SEEDS, UNITS = 50, 32


def shares_of_seeds(weight):
    """Of 50 networks trained at once on XOR, the share whose worse half of units is of no use.

    Those that did not learn are left out. Each has 32 hidden units, and a part of the output layer.
    """
    keras.utils.set_random_seed(0)
    hidden = tfprune.layers.Dense(SEEDS * UNITS, activation="relu", name="hidden")
    out = layers.EinsumDense("bsu,su->bs", (SEEDS,), activation="sigmoid", bias_axes="s")
    model = keras.Sequential([keras.Input((2,)), hidden, layers.Reshape((SEEDS, UNITS)), out])
    draw = np.random.default_rng(0)
    for layer, fans in ((hidden, 2 + UNITS), (out, UNITS + 1)):  # of each network
        limit = np.sqrt(6 / fans)
        layer.kernel.assign(draw.uniform(-limit, limit, layer.kernel.shape))
    criterion = ActivationContribution(**({} if weight is None else {"weight": weight}))
    criterion.attach(hidden)
    model.compile(keras.optimizers.Adam(0.1, epsilon=1e-7 / SEEDS), "mse")
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
    y = np.array([[0], [1], [1], [0]], "float32")
    for _ in range(50):
        model.train_on_batch(x, np.repeat(y, SEEDS, 1))
    kernel, bias = (w.reshape(-1, SEEDS, UNITS) for w in hidden.get_weights())
    activations = np.maximum(np.einsum("bi,isu->bsu", x, kernel) + bias, 0)
    weights, biases = out.get_weights()

    def losses(kept):
        logits = (activations * kept * weights).sum(-1) + biases
        return ((1 / (1 + np.exp(-logits)) - y) ** 2).mean(0)

    order = np.argsort(-criterion(hidden).reshape(SEEDS, UNITS), axis=1)
    kept = np.zeros((SEEDS, UNITS))
    np.put_along_axis(kept, order[:, : UNITS // 2], 1.0, 1)
    before, after = losses(np.ones((SEEDS, UNITS))), losses(kept)
    learned = before < 1e-3
    assert learned.sum() > SEEDS / 2
    return (np.abs(after - before)[learned] <= 1e-5).mean()


def test_of_50_trained_xors_the_least_useful_half_can_go_most_often_with_the_default_weight():
    lagging, fresh, default = (shares_of_seeds(weight) for weight in (0.1, 0.95, None))
    assert default >= fresh > lagging + 0.1
    assert default > 0.6
