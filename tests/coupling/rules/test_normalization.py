import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import assert_same, randomised, stripped, zero
from tfprune import layers


def model_of(*steps, units=8, shape=(5, 3), activation="sigmoid", module=keras.layers):
    dense = module.Dense(units, activation=activation, name="before")
    return randomised(
        keras.Sequential([keras.Input(shape), dense, *steps, module.Dense(2, name="after")])
    )


def width(model):
    return stripped(model).get_layer("before").units


class TestGroupNormalization:
    def test_a_whole_group_goes_from_a_stock_model(self):
        model = model_of(keras.layers.GroupNormalization(groups=4, name="n"), activation=None)
        zero(model.get_layer("after").kernel, 0, [2, 3])
        small = stripped(model)
        assert small.get_layer("before").units == 6 and small.get_layer("n").groups == 3

    def test_a_group_of_zeros_holds_beta_which_is_folded(self):
        model = model_of(keras.layers.GroupNormalization(groups=4, name="n"), activation=None)
        zero(model.get_layer("before").kernel, 1, [4, 5])
        zero(model.get_layer("before").bias, 0, [4, 5])
        small = stripped(model)
        assert small.get_layer("before").units == 6 and small.get_layer("n").groups == 3

    def test_a_unit_of_a_group_stays_since_the_statistics_count_it(self):
        model = model_of(keras.layers.GroupNormalization(groups=2, name="n"))
        zero(model.get_layer("after").kernel, 0, [0, 1, 2, 4, 5])
        small, report = tfprune.strip(model, return_report=True)
        assert_same(model, small)
        assert small.get_layer("before").units == 8

    @pytest.mark.parametrize("groups", [1, 2, 4, 8, -1])
    def test_masked_units_go_in_equal_counts(self, groups):
        norm = layers.GroupNormalization(groups=groups, name="n")
        model = model_of(norm, module=layers, units=16)
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
        assert width(model) == 8


class TestNormalization:
    def test_learned_from_data(self):
        norm = keras.layers.Normalization(name="n")
        model = model_of(norm)
        norm.adapt(np.random.default_rng(0).normal(2, 3, size=(50, 5, 8)))
        zero(model.get_layer("before").kernel, 1, [1, 4])  # constants
        zero(model.get_layer("after").kernel, 0, [0])
        assert width(model) == 5

    @pytest.mark.parametrize("invert", [False, True])
    def test_given(self, invert):
        numbers = np.arange(1.0, 9.0)
        model = model_of(
            keras.layers.Normalization(mean=numbers, variance=numbers + 1, invert=invert)
        )
        zero(model.get_layer("before").kernel, 1, [1, 4])
        zero(model.get_layer("after").kernel, 0, [0])
        assert width(model) == 5

    def test_one_number_for_all(self):
        model = model_of(keras.layers.Normalization(axis=None, mean=2.0, variance=3.0))
        zero(model.get_layer("before").kernel, 1, [1, 4])
        assert width(model) == 6

    def test_numbers_along_another_axis(self):
        numbers = np.arange(1.0, 6.0)
        model = model_of(keras.layers.Normalization(axis=1, mean=numbers, variance=numbers))
        zero(model.get_layer("before").kernel, 1, [1, 4])  # no longer constant along the axis
        zero(model.get_layer("after").kernel, 0, [0])
        assert width(model) == 7


class TestRescaling:
    @pytest.mark.parametrize("scale", [0.5, [0.1 * i for i in range(8)]])
    @pytest.mark.parametrize("offset", [0.0, 2.0, list(range(8))])
    def test_numbers_and_lists(self, scale, offset):
        model = model_of(keras.layers.Rescaling(scale, offset))
        zero(model.get_layer("before").kernel, 1, [1, 4])
        zero(model.get_layer("after").kernel, 0, [0])
        assert width(model) == 5


class TestUnitNormalization:
    def test_zeros_do_not_count(self):
        model = model_of(keras.layers.UnitNormalization(name="n"), activation=None)
        for weight, axis in ((model.get_layer("before").kernel, 1), (model.layers[0].bias, 0)):
            zero(weight, axis, [1, 4])
        assert width(model) == 6

    def test_constants_and_ignored_units_count(self):
        model = model_of(keras.layers.UnitNormalization(name="n"))
        zero(model.get_layer("before").kernel, 1, [1, 4])
        zero(model.get_layer("after").kernel, 0, [0])
        assert width(model) == 8

    def test_along_another_axis_units_stand_alone(self):
        model = model_of(keras.layers.UnitNormalization(axis=1))
        zero(model.get_layer("after").kernel, 0, [0])
        assert width(model) == 7

    def test_pruned_units_go(self):
        model = model_of(keras.layers.UnitNormalization(), module=layers, activation="relu")
        tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0))
        assert width(model) == 4


def test_masking_looks_at_all_units_and_holds_them():
    model = model_of(layers.Masking(), module=layers)
    with pytest.raises(ValueError, match="masks steps by all of its units"):
        tfprune.prune_units(model, 0.5)
    zero(model.get_layer("before").kernel, 1, [1, 4])
    assert width(model) == 8


SPECTRAL = {
    "dense": ((6,), lambda: keras.layers.Dense(8, activation="relu")),
    "dense without a bias": ((6,), lambda: keras.layers.Dense(8, use_bias=False)),
    "convolution": ((7, 6), lambda: keras.layers.Conv1D(8, 3, padding="same")),
    "transposed": ((7, 6), lambda: keras.layers.Conv1DTranspose(8, 3, strides=2)),
    "depthwise": ((7, 6), lambda: keras.layers.DepthwiseConv1D(3)),
}


def spectral(shape, inner):
    x = inputs = keras.Input(shape)
    x = keras.layers.Dense(10, activation="sigmoid", name="before")(x)
    x = keras.layers.SpectralNormalization(inner(), power_iterations=2, name="spectral")(x)
    x = keras.layers.Dense(3, name="after")(keras.layers.Activation("tanh", name="tanh")(x))
    return tfprune.prunable(randomised(keras.Model(inputs, x)))


class TestSpectralNormalization:
    @pytest.mark.parametrize("name", SPECTRAL)
    def test_units_before_and_inside_go(self, name):
        model = spectral(*SPECTRAL[name])
        tfprune.prune_units(model, 0.5)
        small = stripped(model)
        assert small.get_layer("before").units == 5
        layer = small.get_layer("spectral")
        assert type(layer) is keras.layers.SpectralNormalization
        assert layer.power_iterations == 2
        assert layer.vector_u.shape == (1, layer.kernel.shape[-1])
        assert small.get_layer("after").kernel.shape[0] == (5 if name == "depthwise" else 4)

    @pytest.mark.parametrize("name", ["dense", "convolution", "transposed"])
    def test_it_trains_on_as_with_masks(self, name):
        model = spectral(*SPECTRAL[name])
        tfprune.prune_units(model, 0.5)
        small = tfprune.strip(model)
        data = np.random.default_rng(3).normal(size=(4, *model.inputs[0].shape[1:]))
        for _ in range(2):  # the kernel that is normalised in the first is the one of the second
            expected = model(data, training=True)
            np.testing.assert_allclose(small(data, training=True), expected, rtol=1e-4, atol=1e-5)
        kernel = small.get_layer("spectral").kernel
        norms = [float(np.abs(np.asarray(k)).sum()) for k in (kernel, model.layers[2].kernel)]
        np.testing.assert_allclose(*norms, rtol=1e-4)

    def test_constants_are_folded_into_the_bias_inside(self):
        model = spectral((6,), lambda: keras.layers.Dense(8, use_bias=False))
        zero(model.get_layer("before").kernel, 1, [1, 4])
        small = stripped(model)
        assert small.get_layer("before").units == 8
        assert small.get_layer("spectral").layer.use_bias

    def test_a_layer_without_a_rule_inside_holds_units_by_name(self):
        class Own(keras.layers.Layer):
            def build(self, shape):
                self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")

            def call(self, x):
                return keras.ops.sort(x @ self.kernel, axis=-1)

            def compute_output_shape(self, shape):
                return (*shape[:-1], 8)

        model = spectral((6,), lambda: Own(name="own"))
        with pytest.raises(ValueError, match="normalises a layer without a rule, 'own'"):
            tfprune.prune_units(model, 0.5)
