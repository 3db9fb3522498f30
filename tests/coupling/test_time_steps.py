"""`TimeDistributed` over models and over layers of users' classes."""

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import assert_same, randomised, stripped, zero
from tests.coupling.rules.test_recurrent import pruned
from tfprune import layers
from tfprune.criteria.activations import activation_statistics
from tfprune.units.prunable import PrunableUnits

ops = keras.ops


@keras.saving.register_keras_serializable("tests_time_steps")
class Linear(keras.layers.Layer):
    """A hand-written dense layer."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], self.width), name="matrix")
        super().build(shape)

    def call(self, inputs):
        return ops.tanh(ops.matmul(inputs, self.matrix))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("tests_time_steps")
class Block(keras.layers.Layer):
    """A composite layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.wide = keras.layers.Dense(8, activation="relu", name="wide")
        self.narrow = keras.layers.Dense(4, name="narrow")

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 8))

    def call(self, inputs):
        return self.narrow(self.wide(inputs)) * 2.0

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


def images(steps=3):
    """A convolutional network at each step before a recurrent layer."""
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(6, activation="tanh", name="feat"),
        ],
        name="cnn",
    )
    inputs = keras.Input((steps, 6, 6, 2))
    x = layers.LSTM(4, name="r")(keras.layers.TimeDistributed(inner, name="td")(inputs))
    return randomised(keras.Model(inputs, layers.Dense(2, name="logits")(x)))


def over(inner, shape=(3, 4)):
    inputs = keras.Input(shape)
    x = keras.layers.TimeDistributed(inner, name="td")(inputs)
    return randomised(keras.Model(inputs, layers.Dense(2, name="logits")(layers.GRU(4)(x))))


def saved_and_loaded(model, path):
    model.save(path / "small.keras")
    return keras.saving.load_model(path / "small.keras")


@pytest.mark.parametrize("steps", [3, None])
def test_layers_of_a_model_inside_lose_units(steps, tmp_path):
    model = images(steps)
    assert pruned(model) == {"conv": 4, "feat": 3, "r": 2}
    small = stripped(model)
    inner = small.get_layer("td").layer
    assert (inner.get_layer("conv").filters, inner.get_layer("feat").units) == (4, 3)
    assert small.get_layer("r").units == 2
    assert_same(small, saved_and_loaded(small, tmp_path))
    small.compile("sgd", "mse")
    data = np.ones((4, 3, 6, 6, 2)), np.ones((4, 2))
    assert np.isfinite(small.fit(*data, verbose=0).history["loss"]).all()


def test_zeros_and_constants_inside_are_removed():
    model = images()
    inner = model.get_layer("td").layer
    zero(inner.get_layer("feat").kernel, 1, [1])  # it holds tanh(bias): folded into the gates
    zero(model.get_layer("r").cell.kernel, 0, [4])
    small, report = tfprune.strip(model, return_report=True)
    assert_same(model, small)
    assert small.get_layer("td").layer.get_layer("feat").units == 4
    assert [each.after for each in report.layers if each.name == "feat"] == [4]


def test_reports_see_the_layers_inside():
    model = images()
    found = tfprune.explain(model)
    assert {each.name: each.removable for each in found.sets} == {
        "conv": 8,
        "feat": 6,
        "r": 4,
        "logits": 0,
    }
    counted = {row.name: row.macs for row in tfprune.inspect(model).layers}
    assert counted["td/cnn/conv"] == 3 * (4 * 4 * 9 * 2 * 8)
    assert counted["td/cnn/feat"] == 3 * (2 * 2 * 8 * 6)
    tfprune.prune_weights(model, 0.5)
    assert "conv" in str(tfprune.summary(model))


@pytest.mark.parametrize("steps", [3, None])
def test_activations_are_those_of_all_steps(steps):
    model = images(steps)
    data = np.random.default_rng(0).normal(size=(8, 3, 6, 6, 2))
    units = PrunableUnits(model)
    (feat,) = [each for each in units.sets if each.name == "feat"]
    found = activation_statistics(units, (data, None))
    expected = np.asarray(model.get_layer("td").layer(data.reshape(-1, 6, 6, 2)))
    np.testing.assert_allclose(found.mean[feat.units], expected.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.variance[feat.units], expected.var(0), rtol=1e-4)


def test_surgery_reaches_inside():
    model = images()
    assert tfprune.surgery.resize(model, {"conv": 5}).get_layer("td").layer.layers[0].filters == 5
    without = tfprune.surgery.remove(model, "bn").get_layer("td").layer
    assert "bn" not in [layer.name for layer in without.layers]


def test_statistics_are_those_of_all_steps():
    model = images()
    data = np.random.default_rng(0).normal(size=(8, 3, 6, 6, 2)).astype("float32")
    conv, bn = (model.get_layer("td").layer.get_layer(name) for name in ("conv", "bn"))
    expected = np.asarray(conv(data.reshape(-1, 6, 6, 2))).mean((0, 1, 2))
    found = tfprune.recalibrate(model, data).get_layer("td").layer.get_layer("bn")
    np.testing.assert_allclose(found.moving_mean, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(bn.moving_mean, expected, rtol=1e-2)


def test_a_layer_with_own_weights_is_resized_in_place(tmp_path):
    masked = tfprune.prunable(over(Linear(6, name="own")))
    assert pruned(masked)["own"] == 3
    small, report = tfprune.strip(masked, return_report=True)
    assert tuple(small.get_layer("td").layer.matrix.shape) == (4, 3)
    assert_same(masked, small)
    assert report.not_from_config == ()
    assert_same(small, saved_and_loaded(small, tmp_path))


@pytest.mark.parametrize("depth", [1, 2])
def test_models_inside_with_own_layers_and_several_time_axes(depth):
    inputs = keras.Input((4,))
    x = Linear(6, name="own")(keras.layers.Dense(8, name="before")(inputs))
    inner = keras.Model(inputs, keras.layers.Dense(5, name="after")(x), name="inner")
    for _ in range(depth - 1):
        inner = keras.layers.TimeDistributed(inner)
    inputs = keras.Input((2, 3, 4)[2 - depth :])
    x = keras.layers.Flatten()(keras.layers.TimeDistributed(inner)(inputs))
    model = randomised(keras.Model(inputs, keras.layers.Dense(2)(x)))
    masked = tfprune.prunable(model)
    assert pruned(masked) == {"before": 4, "own": 3, "after": 2}
    small = tfprune.strip(masked)
    assert_same(masked, small)
    shapes = sorted(tuple(weight.shape) for weight in small.weights)
    assert (4, 3) in shapes and (3, 3) in shapes


@pytest.mark.parametrize("is_in_model", [True, False])
def test_composite_layers_inside_are_inlined(is_in_model):
    inner = Block(name="block")
    if is_in_model:
        inputs = keras.Input((4,))
        inner = keras.Model(inputs, inner(inputs), name="inner")
    masked = tfprune.prunable(over(inner))
    found = pruned(masked)
    assert found["block_wide"] == 4 and found["block_narrow"] == 2
    small = tfprune.strip(masked)
    data = np.random.default_rng(0).normal(size=(4, 3, 4))
    np.testing.assert_allclose(small(data), masked(data), rtol=1e-4, atol=1e-6)
    assert small.get_layer("td").layer.get_layer("block_wide").units == 4


def test_a_model_that_is_called_outside_as_well_stays_one():
    inputs, single = keras.Input((3, 4)), keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="d")], name="inner")
    x = layers.Flatten()(keras.layers.TimeDistributed(inner)(inputs))
    x = layers.Concatenate()([x, inner(single)])
    model = randomised(keras.Model([inputs, single], layers.Dense(2)(x)))
    assert pruned(model) == {"d": 3}
    small = stripped(model)
    assert small.count_params() == (4 * 3 + 3) + (4 * 3 * 2 + 2)


def test_masks_that_begin_inside():
    inner = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(5, 8, mask_zero=True, name="table"),
            layers.LSTM(6, name="words"),
        ],
        name="sentence",
    )
    inputs = keras.Input((3, 5), dtype="int32")
    x = keras.layers.TimeDistributed(inner)(inputs)
    model = randomised(keras.Model(inputs, layers.Dense(2)(layers.GRU(4, name="r")(x))))
    assert pruned(model) == {"table": 4, "words": 3, "r": 2}
    stripped(model)


def test_masks_of_time_steps_pass_by():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 8, mask_zero=True, name="table")(inputs)
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(6, activation="tanh", name="d")])
    x = layers.GRU(4, name="r")(keras.layers.TimeDistributed(inner)(x))
    model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
    assert pruned(model) == {"table": 4, "d": 3, "r": 2}
    stripped(model)


@pytest.mark.filterwarnings("ignore:Layer '.*' .of type Flatten. was passed an input with a mask")
def test_masks_that_reach_inside_pin():
    inner = keras.Sequential([keras.Input((5, 8)), layers.LSTM(6, name="words")], name="sentence")
    inputs = keras.Input((3, 5), dtype="int32")
    x = layers.Embedding(5, 8, mask_zero=True, name="table")(inputs)
    x = layers.Flatten()(keras.layers.TimeDistributed(inner, name="td")(x))
    model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
    with pytest.raises(ValueError, match="'td' hands a mask of steps to the layers in 'sentence'"):
        tfprune.prune_units(model, 0.5)
    stripped(model)


def test_units_along_time_are_pinned_by_name():
    inputs = keras.Input((3, 4))
    x = layers.Permute((2, 1))(layers.Dense(5, name="before")(inputs))
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(6, name="d")])
    x = layers.GRU(4, name="r")(keras.layers.TimeDistributed(inner, name="td")(x))
    model = randomised(keras.Model(inputs, layers.Dense(2, name="logits")(x)))
    reasons = {each.name: list(each.pinned) for each in tfprune.explain(model).sets}
    assert reasons["before"] == ["'td' takes units for time steps"]
    assert pruned(model) == {"d": 3, "r": 2}
    stripped(model)


def test_masks_move_while_it_trains():
    model = images(None)
    model.compile("sgd", "mse")
    data = np.random.default_rng(0).normal(size=(16, 3, 6, 6, 2)), np.ones((16, 2))
    model.fit(
        *data, batch_size=4, epochs=2, verbose=0, callbacks=[tfprune.callbacks.PruneUnits(0.5)]
    )
    assert stripped(model).get_layer("td").layer.get_layer("conv").filters == 4
