import keras
import numpy as np
import pytest

import tfprune
from tfprune.layers import Masked
from tfprune.rebuild.convert import without_masks

layers = keras.layers


def small_cnn(**compile_arguments):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(2, name="out"),
        ]
    )
    model.compile(**{"optimizer": "adam", "loss": "mse", **compile_arguments})
    return model


def trained(model):
    shape = model.input_shape[1:]
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(16, *shape)), draw.normal(size=(16, 2))
    model.fit(x.astype("float32"), y.astype("float32"), verbose=0)
    return x.astype("float32"), y.astype("float32")


def arrays(variables):
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def assert_same(ours, theirs):
    for a, b in zip(arrays(ours), arrays(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_model_out_of_drop_in_layers():
    model = small_cnn()
    x, _ = trained(model)
    masked = tfprune.prunable(model)
    assert [type(layer) for layer in masked.layers] == [
        tfprune.layers.Conv2D,
        tfprune.layers.BatchNormalization,
        layers.ReLU,
        layers.Flatten,
        tfprune.layers.Dense,
    ]
    assert [layer.name for layer in masked.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(model(x), masked(x))
    assert_same(model.weights, masked.weights)


def test_optimizer_state_goes_along_so_training_goes_on_alike():
    model = small_cnn()
    x, y = trained(model)
    masked = tfprune.prunable(model)
    assert_same(model.optimizer.variables, masked.optimizer.variables)
    for each in (model, masked):
        each.train_on_batch(x, y)
    assert_same(model.weights, masked.weights)


def test_the_model_given_is_not_touched():
    model = small_cnn()
    trained(model)
    before = arrays([*model.weights, *model.optimizer.variables])
    masked = tfprune.prunable(model)
    masked.get_layer("out").kernel.assign(np.ones((48, 2)))
    assert_same(before, [*model.weights, *model.optimizer.variables])
    assert type(model.layers[0]) is layers.Conv2D


def test_compile_state_is_kept():
    model = small_cnn(
        optimizer=keras.optimizers.SGD(0.3, momentum=0.9),
        loss=keras.losses.Huber(delta=0.7),
        metrics=["mae", keras.metrics.MeanSquaredError(name="mine")],
        steps_per_execution=2,
    )
    x, y = trained(model)
    masked = tfprune.prunable(model)
    assert isinstance(masked.loss, keras.losses.Huber)
    assert masked.optimizer is not model.optimizer
    assert float(masked.optimizer.learning_rate) == pytest.approx(0.3)
    assert masked.steps_per_execution == 2
    kept = masked.evaluate(x, y, return_dict=True, verbose=0)
    assert kept == pytest.approx(model.evaluate(x, y, return_dict=True, verbose=0))
    assert "mine" in kept


def test_a_loss_that_cannot_be_serialised_is_kept():
    model = small_cnn(loss=lambda y, p: keras.ops.mean((y - p) ** 4))
    x, y = trained(model)
    assert tfprune.prunable(model).evaluate(x, y, verbose=0) == pytest.approx(
        model.evaluate(x, y, verbose=0)
    )


@pytest.mark.parametrize(
    "arguments, masked",
    [
        ({"only": ["conv"]}, {"conv"}),
        ({"exclude": ["conv", "bn"]}, {"out"}),
        ({"only": ["conv", "out"], "exclude": "out"}, {"conv"}),
    ],
)
def test_only_and_exclude_choose_layers(arguments, masked):
    model = tfprune.prunable(small_cnn(), **arguments)
    assert {layer.name for layer in model.layers if isinstance(layer, Masked)} == masked


def test_layers_themselves_can_be_given():
    model = small_cnn()
    masked = tfprune.prunable(model, only=[model.get_layer("conv")])
    assert isinstance(masked.get_layer("conv"), Masked)
    assert not isinstance(masked.get_layer("out"), Masked)


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match=r"`exclude`.*'cnov'"):
        tfprune.prunable(small_cnn(), exclude=["cnov"])


def test_a_model_that_is_not_built_says_what_to_do():
    class Mine(keras.Model):
        def call(self, inputs):
            return inputs

    for model in (Mine(), keras.Sequential([layers.Dense(2)])):
        with pytest.raises(ValueError, match=r"not built.*Call it on data once"):
            tfprune.prunable(model)
    with pytest.raises(ValueError, match="must be a Keras model"):
        tfprune.prunable(layers.Dense(2))


def test_layers_are_chosen_by_a_predicate():
    model = small_cnn()
    conv = model.get_layer("conv")
    masked = tfprune.prunable(model, only=lambda layer: layer is conv)
    assert isinstance(masked.get_layer("conv"), Masked)
    assert not isinstance(masked.get_layer("out"), Masked)


def test_a_subclassed_model_keeps_its_class_and_its_train_step():
    class Distilled(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.parts = layers.Dense(4, activation="relu"), [layers.Dense(2)]
            self.scale = self.add_weight(shape=(2,), initializer="ones", name="scale")
            self.tracker = keras.metrics.Mean(name="tracked")

        def call(self, x):
            return self.parts[0](self.hidden(x)) * self.scale

        def train_step(self, data):
            logs = super().train_step(data)
            self.tracker.update_state(7.0)
            return {**logs, "tracked": self.tracker.result()}

    model = Distilled()
    model.compile("adam", "mse")
    x, y = np.ones((8, 3), "float32"), np.zeros((8, 2), "float32")
    model.fit(x, y, verbose=0)
    masked = tfprune.prunable(model)
    assert isinstance(masked, Distilled) and masked.optimizer.iterations == 1
    np.testing.assert_array_equal(model(x), masked(x))
    assert not {id(w) for w in model.variables} & {id(w) for w in masked.variables}
    tfprune.prune_weights(masked, 0.5)
    tfprune.set_masks(masked, masked, "scale", frozen=[0])
    before = np.array(masked.scale)
    assert masked.fit(x, y, verbose=0).history["tracked"] == [7.0]
    assert (np.array(masked.hidden.kernel) == 0).sum() == 6
    assert masked.scale[0] == before[0] and masked.scale[1] != before[1]


def test_a_subclass_of_functional_keeps_its_class():
    class Mine(keras.Model):
        def __init__(self, width):
            inputs = keras.Input((3,))
            super().__init__(inputs, layers.Dense(width, name="d")(inputs))

    model = Mine(2)
    x = np.ones((2, 3))
    masked = tfprune.prunable(model)
    np.testing.assert_array_equal(model(x), masked(x))
    assert isinstance(masked.get_layer("d"), Masked) and isinstance(masked, Mine)


def test_nested_models_wrappers_and_cells_are_converted_inside():
    inner = keras.Sequential([keras.Input((5, 3)), layers.Dense(4, name="inside")], name="inner")
    inputs = keras.Input((5, 3))
    x = inner(inputs)
    x = layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="both")(x)
    x = layers.TimeDistributed(layers.Dense(3), name="each")(x)
    x = layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)], name="cells")(x)
    model = keras.Model(inputs, x)
    masked = tfprune.prunable(model)
    data = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    np.testing.assert_array_equal(model(data), masked(data))
    assert isinstance(masked.get_layer("inner").get_layer("inside"), Masked)
    both = masked.get_layer("both")
    assert isinstance(both.forward_layer, Masked) and isinstance(both.backward_layer, Masked)
    assert isinstance(masked.get_layer("each").layer, Masked)
    assert all(isinstance(cell, Masked) for cell in masked.get_layer("cells").cell.cells)


def test_several_inputs_and_outputs_keep_their_structure():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    outputs = {"sum": layers.Dense(2)(a + b), "first": layers.Dense(1)(a)}
    model = keras.Model({"b": b, "a": a}, outputs)
    data = {"a": np.ones((2, 3), "float32"), "b": np.zeros((2, 3), "float32")}
    masked = tfprune.prunable(model)
    for name, value in model(data).items():
        np.testing.assert_array_equal(value, masked(data)[name])


class Doubling(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2


def tripled(x):
    return x * 3


def test_unregistered_custom_layers_and_functions_are_found():
    model = keras.Sequential(
        [keras.Input((3,)), Doubling(), layers.Dense(2, activation=tripled), layers.Lambda(tripled)]
    )
    x = np.ones((2, 3))
    np.testing.assert_array_equal(model(x), tfprune.prunable(model)(x))


def test_a_masked_model_stays_masked():
    model = tfprune.prunable(small_cnn())
    tfprune.set_masks(model, "out", "kernel", trainable=np.s_[:10], frozen=np.s_[:2])
    again = tfprune.prunable(model)
    assert tfprune.masks.count_masks(again) == tfprune.masks.count_masks(model)
    assert tfprune.masks.count_masks(again).frozen == 4


def test_trainable_flags_and_dtype_policies_are_kept():
    model = small_cnn()
    model.get_layer("bn").trainable = False
    model.get_layer("conv").dtype_policy = "mixed_bfloat16"
    masked = tfprune.prunable(model)
    assert not masked.get_layer("bn").trainable
    assert masked.get_layer("conv").compute_dtype == "bfloat16"


def test_weights_without_names_go_to_their_counterparts():
    class Unnamed(keras.layers.Layer):
        def build(self, shape):
            self.scales = [self.add_weight(shape=(shape[-1],)) for _ in range(3)]

        def call(self, inputs):
            return inputs * self.scales[0] + self.scales[1] - self.scales[2]

    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(Unnamed()(inputs)))
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    x = np.ones((2, 4))
    for value in range(3):
        model.layers[1].scales[value].assign(np.arange(4) + value)
    np.testing.assert_array_equal(tfprune.prunable(model)(x), model(x))


def test_what_a_normalisation_learned_from_data_goes_along():
    learned = layers.Normalization()
    learned.adapt(np.random.default_rng(0).normal(5.0, 3.0, size=(50, 4)))
    model = keras.Sequential([keras.Input((4,)), learned, layers.Dense(2)])
    x = np.ones((2, 4))
    np.testing.assert_array_equal(tfprune.prunable(model)(x), model(x))
    np.testing.assert_array_equal(tfprune.strip(model)(x), model(x))


def test_without_masks_has_stock_layers_the_same_weights_and_outputs():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            tfprune.layers.Dense(4, "relu", name="a"),
            layers.Dropout(0.5),
            tfprune.layers.Dense(2),
        ]
    )
    tfprune.set_masks(model, "a", "kernel", trainable=np.s_[:, 1:])
    stock = without_masks(model)
    assert not tfprune.masks.masked_layers(stock)
    for ours, theirs in zip(model.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    x = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
    np.testing.assert_array_equal(model(x), stock(x))


def test_without_masks_is_the_model_itself_if_it_has_none():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    assert without_masks(model) is model


class Reads(keras.layers.Layer):
    """Multiplies by weights of other layers, which it holds in several ways."""

    def __init__(self, embedding, dense, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.kernel = embedding, dense.kernel
        self.biases = {"of": [dense.bias], "in": (embedding.embeddings, dense.bias)}

    def call(self, inputs):
        x = keras.ops.matmul(inputs, self.kernel) + self.biases["of"][0]
        x = x + self.biases["in"][1]
        return keras.ops.matmul(x, keras.ops.transpose(self.embedding.embeddings))


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_layer_that_is_kept_stays_tied_to_layers_that_are_made_anew(is_nested):
    inputs = keras.Input((5,), dtype="int32")
    embedding = keras.layers.Embedding(7, 4, name="table")
    dense = keras.layers.Dense(4, activation="tanh", name="square")
    x = inner = embedding(inputs)
    if is_nested:
        inner = keras.Input((5, 4))
    y = dense(inner)
    x = keras.Model(inner, y, name="nested")(x) if is_nested else y
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    reads = Reads(embedding, dense, name="reads")
    masked = tfprune.prunable(keras.Model(inputs, reads(x)))
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=1))
    small = tfprune.strip(masked, check=False)
    assert len(small.weights) == len(masked.weights) == 3
    reads, table = small.get_layer("reads"), small.get_layer("table")
    square = (small.get_layer("nested") if is_nested else small).get_layer("square")
    assert type(table) is keras.layers.Embedding
    assert reads.embedding is table
    assert reads.kernel is square.kernel
    assert reads.biases["of"][0] is reads.biases["in"][1] is square.bias
    x = np.random.default_rng(0).integers(0, 7, (6, 5))
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)
    table.embeddings.assign(0.0 * table.embeddings)
    np.testing.assert_array_equal(small(x), np.zeros((6, 7)))


@keras.saving.register_keras_serializable("tests")
class CountingCalls(keras.layers.Layer):
    calls = 0

    def call(self, x):
        type(self).calls += 1
        return x


def test_the_layers_of_a_sequential_model_are_not_called_anew_for_each():
    def calls(depth):
        dense = [keras.layers.Dense(4, name=f"d{place}") for place in range(depth)]
        model = keras.Sequential([keras.Input((4,)), CountingCalls(name="first"), *dense])
        model = tfprune.prunable(model)
        tfprune.prune_units(model, 0.5)
        CountingCalls.calls = 0
        small = tfprune.strip(model, check=False)
        assert type(small) is keras.Sequential
        assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
        return CountingCalls.calls

    assert calls(3) == calls(9)
