"""Strip, contract S: small models whose answer can be said by hand."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.layers import Masked


def chain(*steps, shape=(3,)):
    model = keras.Sequential([keras.Input(shape), *steps])
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(0.3 * np.abs(draw.normal(size=weight.shape)) + 0.05)
    return model


def data(model, batch=5):
    draw = np.random.default_rng(1)
    shape = [size or 7 for size in model.input_shape[1:]]
    return 4 * draw.normal(size=(batch, *shape)).astype("float32")


def assert_equal_outputs(model, small, tolerance=1e-5):
    x = data(model)
    ours, theirs = (np.asarray(m(x, training=False), "float64") for m in (model, small))
    varies = np.ptp(ours, axis=0).max()
    assert varies > 1e-3
    rounding = 4 * np.finfo("float32").eps * np.abs(ours).max()
    assert np.abs(ours - theirs).max() <= tolerance * varies + rounding


def stripped(model):
    """The stripped model, which computes what the model computes."""
    small = tfprune.strip(model)
    assert_equal_outputs(model, small)
    return small


def units(model):
    return [
        getattr(layer, "units", getattr(layer, "filters", None))
        for layer in model.layers
        if layer.weights and hasattr(layer, "units") or hasattr(layer, "filters")
    ]


def zero(layer, weight, axis, indices):
    variable = getattr(layer, weight)
    value = np.array(keras.ops.convert_to_numpy(variable))
    np.moveaxis(value, axis, 0)[indices] = 0
    variable.assign(value)


class TestWhatGoes:
    def test_a_unit_whose_consumer_ignores_it(self):
        model = chain(layers.Dense(4, activation="relu"), layers.Dense(2))
        zero(model.layers[1], "kernel", 0, [1, 2])
        small = stripped(model)
        assert units(small) == [2, 2]

    def test_a_unit_that_is_a_constant_which_is_folded_into_the_next_bias(self):
        model = chain(layers.Dense(4, activation="sigmoid"), layers.Dense(2))
        zero(model.layers[0], "kernel", 1, [0, 3])
        small = stripped(model)
        assert units(small) == [2, 2]

    def test_a_bias_is_made_where_there_is_none(self):
        model = chain(layers.Dense(4, activation="sigmoid"), layers.Dense(2, use_bias=False))
        zero(model.layers[0], "kernel", 1, [0, 3])
        small = stripped(model)
        assert small.layers[1].use_bias

    def test_through_a_batch_norm_whose_beta_is_not_zero(self):
        model = chain(layers.Dense(4), layers.BatchNormalization(), layers.ReLU(), layers.Dense(2))
        zero(model.layers[0], "kernel", 1, [1])
        small = stripped(model)
        assert small.layers[1].gamma.shape == (3,)

    def test_a_channel_that_the_batch_norm_silences(self):
        model = chain(layers.Dense(4), layers.BatchNormalization(), layers.Dense(2))
        zero(model.layers[1], "gamma", 0, [1, 2])
        assert units(tfprune.strip(model)) == [2, 2]

    def test_to_the_fixed_point_over_several_layers(self):
        model = chain(layers.Dense(5), layers.Dense(4), layers.Dense(3), layers.Dense(2))
        zero(model.layers[3], "kernel", 0, [0])  # the last hidden unit 0 is ignored ...
        zero(model.layers[2], "kernel", 1, [1])  # ... and unit 1 is a constant,
        zero(model.layers[2], "kernel", 0, [3])  # so what only they used goes too
        kernel = np.array(model.layers[2].kernel)
        kernel[2, 2] = 0
        model.layers[2].kernel.assign(kernel)
        small = stripped(model)
        assert units(small) == [5, 2, 1, 2]

    def test_unstructured_pruning_leaves_dead_units_which_go(self):
        model = chain(layers.Dense(64, activation="relu"), layers.Dense(32), layers.Dense(2))
        tfprune.prune_weights(model, 0.98, tfprune.criteria.Random(seed=0), only=[model.layers[1]])
        ignored = (np.array(model.layers[1].kernel) == 0).all(axis=1).sum()
        constant = (np.array(model.layers[1].kernel) == 0).all(axis=0).sum()
        assert ignored > 0 and constant > 0
        small = stripped(model)
        assert units(small) == [64 - ignored, 32 - constant, 2]

    def test_recurrent_units_that_only_feed_themselves(self):
        model = chain(layers.LSTM(4), layers.Dense(2), shape=(6, 3))
        recurrent = np.array(model.layers[0].cell.recurrent_kernel).reshape(4, 4, 4)
        recurrent[1, :, [0, 2, 3]] = 0  # unit 1 reaches no other unit ...
        model.layers[0].cell.recurrent_kernel.assign(recurrent.reshape(4, 16))
        zero(model.layers[1], "kernel", 0, [1])  # ... and no output
        small = stripped(model)
        assert units(small) == [3, 2]

    @pytest.mark.parametrize("make", [layers.LSTM, layers.GRU, layers.SimpleRNN])
    def test_constants_before_a_recurrent_layer(self, make):
        model = chain(layers.Dense(4, activation="sigmoid"), make(3), layers.Dense(2), shape=(6, 3))
        zero(model.layers[0], "kernel", 1, [0, 3])
        small = stripped(model)
        assert small.layers[0].units == 2

    def test_a_model_of_stock_layers(self):
        model = chain(keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2))
        zero(model.layers[1], "kernel", 0, [1, 2])
        assert units(tfprune.strip(model)) == [2, 2]


class TestConvolutions:
    def test_filters_go_through_pooling_and_flatten(self):
        model = chain(
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(2),
            shape=(8, 8, 1),
        )
        zero(model.layers[0], "kernel", -1, [1])
        small = stripped(model)
        assert units(small) == [3, 2]
        assert small.layers[3].kernel.shape == (27, 2)

    def test_flatten_of_channels_first_moves_them_last(self):
        # A convolution in this format does not run on a CPU; a depthwise norm shows the order.
        model = chain(
            layers.Dense(4, activation="relu"),
            layers.PReLU(shared_axes=[1]),
            layers.Flatten(data_format="channels_first"),
            layers.Dense(2),
            shape=(5, 3),
        )
        rows = np.array(model.layers[-1].kernel).reshape(4, 5, 2)  # (last axis, first axis, out)
        rows[[1, 3]] = 0
        model.layers[-1].kernel.assign(rows.reshape(20, 2))
        small = stripped(model)
        assert units(small) == [2, 2]

    def test_a_constant_before_a_valid_convolution_is_folded(self):
        model = chain(
            layers.Conv2D(4, 3, activation="sigmoid"),
            layers.Conv2D(2, 3),
            layers.GlobalAveragePooling2D(),
            shape=(8, 8, 1),
        )
        zero(model.layers[0], "kernel", -1, [1, 2])
        small = stripped(model)
        assert units(small) == [2, 2]

    def test_a_constant_before_a_padded_convolution_stays_with_the_reason(self):
        model = chain(
            layers.Conv2D(4, 3, activation="sigmoid", name="first"),
            layers.Conv2D(2, 3, padding="same", name="second"),
            layers.GlobalAveragePooling2D(),
            shape=(8, 8, 1),
        )
        zero(model.layers[0], "kernel", -1, [1, 2])
        small, report = tfprune.strip(model, return_report=True)
        assert units(small) == [4, 2]
        assert [(u.layer, u.index) for u in report.kept] == [("first", 1), ("first", 2)]
        assert all("'second'" in u.reason and "pads" in u.reason for u in report.kept)

    def test_but_goes_where_the_constant_is_zero_or_the_consumer_ignores_it(self):
        model = chain(
            layers.Conv2D(4, 3, activation="relu"),
            layers.Conv2D(2, 3, padding="same"),
            layers.GlobalAveragePooling2D(),
            shape=(8, 8, 1),
        )
        zero(model.layers[0], "kernel", -1, [1, 2])
        zero(model.layers[0], "bias", 0, [1])
        zero(model.layers[1], "kernel", 2, [2])
        small = stripped(model)
        assert units(small) == [2, 2]

    def test_a_constant_before_a_kernel_of_size_one_is_folded_whatever_the_padding(self):
        model = chain(
            layers.Conv2D(4, 3, activation="sigmoid"),
            layers.Conv2D(2, 1, padding="same"),
            layers.GlobalAveragePooling2D(),
            shape=(8, 8, 1),
        )
        zero(model.layers[0], "kernel", -1, [1, 2])
        assert units(tfprune.strip(model)) == [2, 2]

    def test_separable_depthwise_and_transposed(self):
        model = chain(
            layers.Conv2D(4, 1, activation="relu"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
            layers.SeparableConv2D(5, 3, depth_multiplier=2),
            layers.Conv2DTranspose(3, 2, strides=2),
            layers.GlobalMaxPooling2D(),
            layers.Dense(2),
            shape=(8, 8, 1),
        )
        tfprune.prune_units(model, 0.5)
        small = stripped(model)
        assert small.layers[0].filters == 2
        assert small.layers[1].kernel.shape == (3, 3, 2, 2)
        assert small.layers[2].depthwise_kernel.shape == (3, 3, 4, 2)


class TestNorms:
    @pytest.mark.parametrize(
        "make",
        [
            layers.BatchNormalization,
            layers.LayerNormalization,
            layers.RMSNormalization,
            lambda: layers.GroupNormalization(groups=2),
            lambda: layers.GroupNormalization(groups=8),
        ],
    )
    def test_units_go_through_a_norm_with_masked_statistics(self, make):
        norm = make()
        model = chain(
            layers.Dense(8), norm, layers.ReLU(), layers.Flatten(), layers.Dense(2), shape=(5, 3)
        )
        tfprune.prune_units(model, 0.5)
        small = stripped(model)
        assert small.layers[0].units == 4

    def test_units_of_a_stock_layer_norm_stay_since_its_statistics_count_them(self):
        model = chain(
            keras.layers.Dense(4), keras.layers.LayerNormalization(name="ln"), keras.layers.Dense(2)
        )
        zero(model.layers[0], "kernel", 1, [1])
        small, report = tfprune.strip(model, return_report=True)
        assert units(small) == [4, 2]
        assert "'ln' counts it" in report.kept[0].reason

    def test_a_norm_that_leaves_out_what_cannot_go_is_refused(self):
        model = chain(
            layers.Dense(4), layers.LayerNormalization(name="ln"), layers.Activation("softmax")
        )
        for weight in ("gamma", "beta"):
            tfprune.set_masks(model, "ln", weight, trainable=[0, 1])
        with pytest.raises(ValueError, match=r"statistics.*layer='ln'.*prune_units"):
            tfprune.strip(model)


class TestContract:
    def test_the_result_is_stock(self):
        model = chain(layers.Dense(4), layers.LayerNormalization(), layers.Dense(2))
        small = tfprune.strip(model)
        assert not any(isinstance(layer, Masked) for layer in small.layers)
        assert "tfprune" not in small.to_json()

    def test_the_model_given_is_untouched(self):
        model = chain(layers.Dense(4), layers.Dense(2))
        model.compile("adam", "mse")
        model.train_on_batch(data(model), np.zeros((5, 2)))
        tfprune.prune_units(model, 0.5)
        before = [np.array(v) for v in [*model.weights, *model.optimizer.variables]]
        config = model.to_json()
        tfprune.strip(model)
        for a, b in zip(before, [*model.weights, *model.optimizer.variables], strict=True):
            np.testing.assert_array_equal(a, b)
        assert model.to_json() == config

    def test_optimizer_slots_are_cut_with_their_weights_and_training_goes_on(self):
        model = chain(layers.Dense(4, name="a"), layers.Dense(2, name="b"))
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
        x, y = data(model), np.ones((5, 2), "float32")
        model.train_on_batch(x, y)
        tfprune.set_masks(model, "a", "kernel", trainable=np.s_[:, [0, 2]])
        tfprune.set_masks(model, "a", "bias", trainable=[0, 2])
        tfprune.set_masks(model, "b", "kernel", trainable=[0, 2])
        small = tfprune.strip(model)
        ours, theirs = (
            {v.path.split("/", 1)[1]: np.array(v) for v in m.optimizer.variables}
            for m in (model, small)
        )
        assert int(theirs["iteration"]) == 1
        (name,) = [n for n in ours if "a_kernel" in n and "momentum" in n]
        np.testing.assert_array_equal(theirs[name], ours[name][:, [0, 2]])
        assert np.abs(theirs[name]).min() > 0
        # The same step on both changes the same weights in the same way.
        model.train_on_batch(x, y)
        small.train_on_batch(x, y)
        kept = np.array(model.get_layer("a").kernel)[:, [0, 2]]
        np.testing.assert_allclose(small.get_layer("a").kernel, kept, rtol=1e-5)

    def test_names_dynamic_shapes_and_dtypes_stay(self):
        inputs = keras.Input((None, 3), name="series", dtype="float32")
        x = layers.GRU(4, return_sequences=True, name="gru")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="out", dtype="mixed_float16")(x), name="m")
        tfprune.prune_units(model, 0.5)
        small = tfprune.strip(model)
        assert small.name == "m"
        assert [layer.name for layer in small.layers] == ["series", "gru", "out"]
        assert small.input_shape == (None, None, 3)
        assert small.get_layer("out").compute_dtype == "float16"
        assert small.get_layer("gru").units == 2

    def test_several_outputs_of_one_chain(self):
        inputs = keras.Input((3,))
        first = layers.Dense(4, activation="relu", name="first")(inputs)
        second = layers.Dense(5, activation="relu", name="second")(first)
        model = keras.Model(inputs, {"early": first, "late": layers.Dense(2)(second)})
        tfprune.prune_units(model, 0.4)
        small = tfprune.strip(model)
        assert small.get_layer("first").units == 4
        assert small.get_layer("second").units == 3
        for name, value in model(data(model)).items():
            np.testing.assert_allclose(small(data(model))[name], value, rtol=1e-5, atol=1e-6)

    def test_a_layer_whose_units_are_all_dead_keeps_one(self):
        model = chain(layers.Dense(4, name="a"), layers.Dense(3, name="b"), layers.Dense(2))
        zero(model.layers[1], "kernel", 0, slice(None))
        small, report = tfprune.strip(model, return_report=True)
        assert units(small)[0] == 1
        x = data(model)
        np.testing.assert_allclose(small(x), model(x), rtol=1e-5)
        assert units(small)[1] == 1

    def test_a_saved_file_loads_and_computes_the_same(self, tmp_path):
        model = chain(layers.Conv1D(4, 3), layers.Flatten(), layers.Dense(2), shape=(9, 2))
        tfprune.prune_units(model, 0.5)
        small = tfprune.strip(model)
        small.save(tmp_path / "small.keras")
        loaded = keras.models.load_model(tmp_path / "small.keras")
        np.testing.assert_array_equal(loaded(data(model)), small(data(model)))

    def test_a_result_that_differs_is_not_returned(self, monkeypatch):
        from tfprune.coupling.rules import linear

        model = chain(layers.Dense(4, activation="sigmoid"), layers.Dense(2))
        zero(model.layers[0], "kernel", 1, [0])
        monkeypatch.setattr(linear.Dense, "folds", lambda *_: {})  # break it
        with pytest.raises(RuntimeError, match="does not compute"):
            tfprune.strip(model)

    def test_a_subclassed_model_says_what_to_do(self):
        class Mine(keras.Model):
            pass

        with pytest.raises(ValueError, match="Give Mine a `call`"):
            tfprune.strip(Mine())

    def test_the_report_prints_every_layer(self):
        model = chain(layers.Dense(4, name="a"), layers.Dense(2, name="b"))
        tfprune.prune_units(model, 0.5)
        _, report = tfprune.strip(model, return_report=True)
        assert str(report).splitlines() == [
            "a: 4 -> 2 units",
            "b: 2 -> 2 units",
            "parameters: 26 -> 14",
        ]
        assert report.removed_units == 2
        assert report.error < 1e-6
