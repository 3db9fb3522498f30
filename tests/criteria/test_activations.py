"""What units hold, and the criteria of it, against what NumPy works out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.batched import batched
from tests.criteria.models import residual_model, with_drawn_weights
from tfprune import layers
from tfprune.callbacks import PruneUnits
from tfprune.criteria import units as criteria
from tfprune.criteria.activations import activation_statistics
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(10, 4)).astype("float32")
Y = DRAW.normal(size=(10, 2)).astype("float32")
IMAGES = DRAW.normal(size=(6, 4, 4, 2)).astype("float32")


def drawn(model):
    return with_drawn_weights(model, DRAW)


@pytest.fixture(scope="module")
def residual():
    return drawn(residual_model())


def reads(model, x):
    """The tensors that `b` and `out` read, and dL_i/d of them by way of these layers alone."""
    a, b, out = (
        tuple(np.array(w, "float64") for w in model.get_layer(n).weights) for n in ("a", "b", "out")
    )
    gamma, beta, mean, variance = (np.array(w, "float64") for w in model.get_layer("bn").weights)
    made = x @ a[0] + a[1]
    epsilon = model.get_layer("bn").epsilon
    h = np.maximum((made - mean) / np.sqrt(variance + epsilon) * gamma + beta, 0)
    added = made + h @ b[0] + b[1]
    d_outputs = 2 * (added @ out[0] + out[1] - Y) / 2  # of the loss of each example
    d_added = d_outputs @ out[0].T
    return [(h, d_added @ b[0].T), (added, d_added)]


@pytest.fixture(scope="module")
def convolutional():
    return drawn(
        keras.Sequential(
            [
                keras.Input((4, 4, 2)),
                layers.Conv2D(3, 3, name="conv"),
                layers.BatchNormalization(name="bn"),
                layers.ReLU(name="relu"),
                layers.Flatten(name="flat"),
                layers.Dense(2, name="out"),
            ]
        )
    )


def after(model, layer, x):
    return np.array(keras.Model(model.inputs[0], model.get_layer(layer).output)(x), "float64")


def scores(model, criterion, data=None, **options):
    units = PrunableUnits(model)
    (unit_set,) = units.sets
    scoring = UnitScores(criteria.get(criterion, **options), data=data)
    return scoring.of(units)[unit_set.units]


AGGREGATES = {"sum": np.sum, "mean": np.mean, "max": np.max}


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("apoz", lambda a: (a != 0).mean(axis=0)),
        ("activation_variance", lambda a: a.var(axis=0)),
    ],
)
def test_a_residual_unit_is_measured_wherever_it_is_used(residual, name, of, aggregate):
    by_hand = AGGREGATES[aggregate]([of(a) for a, _ in reads(residual, X)], axis=0)
    found = scores(residual, name, aggregate=aggregate, data=batched((X, None), 4))
    np.testing.assert_allclose(found, by_hand, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [10, 4, 1])
def test_taylor_of_activations_goes_by_way_of_the_layers_that_use_them(residual, batch_size):
    by_hand = sum(np.abs(a * gradient).mean(axis=0) for a, gradient in reads(residual, X))
    found = scores(residual, "taylor_activation", data=batched((X, Y), batch_size))
    np.testing.assert_allclose(found, by_hand, rtol=1e-4)


def test_what_a_residual_stream_passes_on_is_not_counted_twice():
    inputs = keras.Input((4,))
    stream = layers.Dense(3, name="first")(inputs)
    later = stream + layers.Dense(3, name="second")(stream)
    model = drawn(keras.Model(inputs, layers.Dense(2, name="out")(later)))
    first, second, out = (
        tuple(np.array(w, "float64") for w in model.get_layer(n).weights)
        for n in ("first", "second", "out")
    )
    a = X @ first[0] + first[1]
    b = a + a @ second[0] + second[1]
    d_b = (b @ out[0] + out[1] - Y) @ out[0].T
    d_a = d_b @ second[0].T  # by way of `second`, and not of the sum
    by_hand = np.abs(a * d_a).mean(axis=0) + np.abs(b * d_b).mean(axis=0)
    found = scores(model, "taylor_activation", data=(X, Y))
    np.testing.assert_allclose(found, by_hand, rtol=1e-4)


def test_it_is_the_change_of_the_loss_when_a_unit_that_matters_little_goes(residual):
    """To first order, so the unit is made small first, and examples are taken one at a time."""
    model = keras.models.clone_model(residual)
    model.set_weights(residual.get_weights())
    for name in ("b", "out"):  # unit 2 weighs next to nothing
        kernel = np.array(model.get_layer(name).kernel)
        kernel[2] *= 1e-2
        model.get_layer(name).kernel.assign(kernel)
    model.compile("sgd", "mse")
    (unit_set,) = PrunableUnits(model).sets
    found = scores(model, "taylor_activation", data=(X[:1], Y[:1]))
    before = model.evaluate(X[:1], Y[:1], verbose=0)
    units = PrunableUnits(model)
    dead = np.zeros(units.coupling.size, bool)
    dead[unit_set.units[2]] = True
    units.mask(dead)
    change = model.evaluate(X[:1], Y[:1], verbose=0) - before
    assert abs(change) <= 1.1 * found[2]


def test_apoz_is_counted_after_the_activation_that_follows_a_linear_maker(convolutional):
    maps = after(convolutional, "relu", IMAGES)
    by_hand = (maps > 0).mean(axis=(0, 1, 2))
    found = scores(convolutional, "apoz", data=batched((IMAGES, None), 4))
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)
    assert (found < 1).all()  # what the convolution gives has no zeros


def test_taylor_of_a_map_takes_the_mean_over_positions_first(convolutional):
    y = DRAW.normal(size=(6, 2))
    flat = after(convolutional, "flat", IMAGES)
    kernel, bias = (np.array(w, "float64") for w in convolutional.get_layer("out").weights)
    product = flat * ((flat @ kernel + bias - y) @ kernel.T)
    by_hand = np.abs(product.reshape(6, 4, 3).mean(axis=1)).mean(axis=0)
    found = scores(convolutional, "taylor_activation", data=batched((IMAGES, y), 5))
    np.testing.assert_allclose(found, by_hand, rtol=1e-4)


def test_statistics_of_units_and_of_the_positions_that_layers_read(convolutional):
    units = PrunableUnits(convolutional)
    found = activation_statistics(units, batched((IMAGES, None), 4))
    maps, ours = after(convolutional, "relu", IMAGES), units.sets[0].units
    np.testing.assert_allclose(found.mean[ours], maps.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.variance[ours], maps.var(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.zero_share[ours], (maps == 0).mean(axis=(0, 1, 2)), rtol=1e-6)
    assert np.isnan(found.mean[0])
    (tensor,) = found.tensors
    assert [call.operation.name for call in tensor.calls] == ["out"]
    assert tensor.units.tolist() == ours.tolist() * 4
    flat = after(convolutional, "flat", IMAGES)
    np.testing.assert_allclose(tensor.mean, flat.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(tensor.variance, flat.var(axis=0), rtol=1e-5, atol=1e-9)


def test_statistics_of_a_residual_unit_are_over_all_tensors_and_of_each(residual):
    units = PrunableUnits(residual)
    found = activation_statistics(units, batched((X, None), 4))
    read = [a for a, _ in reads(residual, X)]
    ours = units.sets[0].units
    np.testing.assert_allclose(found.mean[ours], np.mean(read, axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(found.variance[ours], np.var(read, axis=(0, 1)), rtol=1e-4)
    for tensor, by_hand in zip(found.tensors, read, strict=True):
        np.testing.assert_allclose(tensor.mean, by_hand.mean(axis=0), rtol=1e-4)


def test_large_means_do_not_swallow_the_variance():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(1)])
    model.layers[0].set_weights([np.eye(4), np.full(4, 1e3)])
    found = scores(model, "activation_variance", data=batched((X, None), 3))
    np.testing.assert_allclose(found, X.var(axis=0), rtol=1e-3)


def test_shared_layers_and_nested_models_are_measured_at_each_call():
    shared = layers.Dense(3, activation="relu", name="shared")
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="in")], name="inner")
    first, second = keras.Input((4,)), keras.Input((4,))
    outputs = keras.layers.Add()([inner(shared(first)), inner(shared(second))])
    model = drawn(keras.Model([first, second], layers.Dense(1)(outputs)))
    kernel, bias = (np.array(w) for w in shared.weights)
    read = [np.maximum(x @ kernel + bias, 0) for x in (X, 2 * X)]
    units = PrunableUnits(model)
    place = next(s for s in units.sets if s.name == "shared")
    found = UnitScores(tfprune.criteria.APoZ(aggregate="mean"), data=([X, 2 * X], None)).of(units)[
        place.units
    ]
    np.testing.assert_allclose(found, np.mean([a > 0 for a in read], axis=(0, 1)), rtol=1e-6)


def test_units_of_recurrent_layers_backwards_too():
    sequences = DRAW.normal(size=(4, 5, 3)).astype("float32")
    inside = layers.LSTM(2, return_sequences=True)
    model = drawn(
        keras.Sequential(
            [keras.Input((5, 3)), layers.Bidirectional(inside, name="both"), layers.Dense(1)]
        )
    )
    units = PrunableUnits(model)
    found = UnitScores("activation_variance", data=(sequences, None)).of(units)
    by_hand = after(model, "both", sequences).var(axis=(0, 1))
    ours = np.concatenate([s.units for s in units.sets])
    np.testing.assert_allclose(found[ours], by_hand, rtol=1e-4)


def test_padded_steps_run_as_in_the_model():
    tokens = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
    model = drawn(
        keras.Sequential(
            [
                keras.Input((4,), dtype="int32"),
                layers.Embedding(4, 3, mask_zero=True),
                layers.GRU(3, name="memory"),
                layers.Dense(1),
            ]
        )
    )
    units = PrunableUnits(model, only=["memory"])
    found = activation_statistics(units, (tokens, None)).mean[units.sets[0].units]
    np.testing.assert_allclose(found, after(model, "memory", tokens).mean(axis=0), rtol=1e-5)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu", name="a")])
    model.add(layers.Dense(2, dtype="float32"))
    drawn(model)
    read = after(model, "a", X)
    for name, by_hand in (("apoz", (read > 0).mean(axis=0)), ("activation_variance", read.var(0))):
        np.testing.assert_allclose(scores(model, name, data=(X, None)), by_hand, rtol=1e-3)
    kernel, bias = (np.array(w) for w in model.layers[-1].weights)
    by_hand = np.abs(read * ((read @ kernel + bias - Y) @ kernel.T)).mean(axis=0)
    found = scores(model, "taylor_activation", data=(X, Y))
    np.testing.assert_allclose(found, by_hand, rtol=1e-2)


def test_units_that_no_tensor_shows_are_scored_by_magnitude():
    inputs = keras.Input((3, 4))
    attended = layers.MultiHeadAttention(2, 3, name="a")(inputs, inputs)
    model = drawn(keras.Model(inputs, layers.Dense(1)(attended)))
    units = PrunableUnits(model)
    x = DRAW.normal(size=(4, 3, 4)).astype("float32")
    found, lengths = (UnitScores(c, data=(x, None)).of(units) for c in ("apoz", "magnitude"))
    heads, width = (
        next(s.units for s in units.sets if s.name == name) for name in ("a/heads", "a")
    )
    np.testing.assert_array_equal(found[heads], lengths[heads])
    np.testing.assert_allclose(found[width], 1.0)


def test_units_that_nothing_uses_score_nothing():
    inputs = keras.Input((4,))
    model = drawn(keras.Model(inputs, layers.Dense(1)(layers.Dense(4, name="a")(inputs)[:, :2])))
    units = PrunableUnits(model)
    found = np.concatenate(
        [UnitScores("apoz", data=(X, None)).of(units)[s.units] for s in units.sets]
    )
    assert sorted(found) == [0, 0, 1, 1]


def test_units_that_only_a_reduction_uses_are_measured():
    inputs = keras.Input((4,))
    total = keras.ops.sum(layers.Dense(4, activation="relu", name="a")(inputs), 1, keepdims=True)
    model = drawn(keras.Model(inputs, layers.Dense(1)(total)))
    by_hand = (after(model, "a", X) > 0).mean(axis=0)
    units = PrunableUnits(model, only=["a"])
    found = UnitScores("apoz", data=(X, None)).of(units)[units.sets[0].units]
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)


def test_a_callable_may_ask_for_measures_of_activations(residual):
    def mean_square(mean, variance):
        return mean**2 + variance

    by_hand = sum(np.square(a).mean(axis=0) for a, _ in reads(residual, X))
    np.testing.assert_allclose(scores(residual, mean_square, data=(X, None)), by_hand, rtol=1e-4)


def test_activations_and_weights_do_not_go_together():
    with pytest.raises(ValueError, match=r"asks for \['variance'\].*also requires \['weights'\]"):
        criteria.get(lambda weights, variance: variance)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        half = slice(5 * index, 5 * index + 5)
        return X[half], Y[half]


@pytest.mark.parametrize(
    "data",
    [tf.data.Dataset.from_tensor_slices((X, Y)).batch(4), Batches()],
    ids=["tf.data", "PyDataset"],
)
def test_data_comes_as_keras_takes_it(residual, data):
    by_hand = scores(residual, "taylor_activation", data=(X, Y))
    np.testing.assert_allclose(scores(residual, "taylor_activation", data=data), by_hand, rtol=1e-5)


NAMES = ["taylor_activation", "apoz", "activation_variance"]


@pytest.mark.parametrize("name", NAMES)
def test_data_and_a_loss_are_needed(residual, name):
    with pytest.raises(ValueError, match="data=None"):
        scores(residual, name)
    with pytest.raises(ValueError, match="no batches"):
        scores(residual, name, data=(X[:0], Y[:0]))
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2)])
    if name == "taylor_activation":
        with pytest.raises(ValueError, match="Compile"):
            scores(plain, name, data=(X, Y))
    else:
        with pytest.raises(ValueError, match=r"3 of them not finite, layer='a'"):
            scores(plain, "activation_variance", data=(np.full_like(X, 3e38), None))


@pytest.mark.parametrize("name", [*NAMES, "bn_scale", "fpgm", "magnitude", "random"])
def test_round_trip_by_name(name):
    assert criteria.serialize(criteria.get(name)) == name


def test_frozen_layers_have_gradients_too(residual):
    by_hand = scores(residual, "taylor_activation", data=(X, Y))
    residual.get_layer("out").trainable = False
    try:
        np.testing.assert_allclose(scores(residual, "taylor_activation", data=(X, Y)), by_hand)
    finally:
        residual.get_layer("out").trainable = True


def test_nothing_of_the_model_changes():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    model.train_on_batch(X, Y)
    before = [np.array(w) for w in model.variables + model.optimizer.variables]
    for name in ("taylor_activation", "taylor"):
        UnitScores(name, data=(X, Y)).of(PrunableUnits(model))
    activation_statistics(PrunableUnits(model), (X, None))
    after_all = [np.array(w) for w in model.variables + model.optimizer.variables]
    for ours, theirs in zip(before, after_all, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("criterion", ["apoz", "taylor"])
def test_pruning_at_once_and_in_training(criterion):
    options = {"normalize": "mean", "aggregate": "max"}
    chosen, data = criteria.get(criterion, **options), batched((X, Y), 5)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="relu", name="a")])
    model.add(layers.Dense(2))
    model.compile("sgd", "mse")
    expected = np.sort(scores(model, chosen, data=data))[:2]
    first = scores(model, chosen, data=data)
    (count,) = tfprune.prune_units(model, 0.34, chosen, data=data)
    gone = ~np.asarray(model.get_layer("a").trainable_masks["bias"])
    assert count.pruned == 2
    np.testing.assert_allclose(np.sort(first[gone]), expected, rtol=1e-6)
    callback = PruneUnits(0.67, chosen, data=data)
    model.fit(X, Y, batch_size=5, epochs=4, verbose=0, callbacks=[callback])
    assert np.asarray(model.get_layer("a").trainable_masks["bias"]).sum() == 2
    config = callback.get_config()
    again = PruneUnits.from_config(config)
    assert again.get_config() == config and "data" not in config
    assert options.items() <= again.criterion.get_config().items()
