import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import assert_same, randomised, stripped, zero
from tfprune import layers

KINDS = ["SimpleRNN", "LSTM", "GRU"]


def model_of(*recurrent, shape=(6, 3), after=None):
    steps = [keras.Input(shape), layers.Dense(4, activation="sigmoid", name="before"), *recurrent]
    return randomised(keras.Sequential([*steps, after or layers.Dense(2, name="after")]))


def pruned(model, target=0.5, **kwargs):
    return {
        c.name: c.pruned
        for c in tfprune.prune_units(model, target, tfprune.criteria.Random(seed=0), **kwargs)
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"go_backwards": True},
        {"unroll": True},
        {"use_bias": False},
        {"return_sequences": True},
        {"dropout": 0.2, "recurrent_dropout": 0.2},
    ],
)
def test_units_go_with_every_option(kind, options):
    model = model_of(getattr(layers, kind)(6, name="r", **options))
    assert pruned(model) == {"before": 2, "r": 3}
    assert stripped(model).get_layer("r").units == 3


@pytest.mark.parametrize("kind", KINDS)
def test_stacked(kind):
    make = getattr(layers, kind)
    model = model_of(make(6, return_sequences=True, name="first"), make(4, name="second"))
    pruned(model)
    small = stripped(model)
    assert small.get_layer("second").cell.kernel.shape[0] == small.get_layer("first").units == 3


@pytest.mark.parametrize("reset_after", [True, False])
def test_biases_of_gru(reset_after):
    model = model_of(layers.GRU(6, reset_after=reset_after, name="r"))
    pruned(model)
    assert stripped(model).get_layer("r").units == 3


@pytest.mark.parametrize("kind", KINDS)
def test_states_that_one_layer_hands_to_another(kind):
    inputs = keras.Input((6, 3))
    make = getattr(layers, kind)
    _, *states = make(6, return_state=True, name="encoder")(inputs)
    x = make(6, return_sequences=True, name="decoder")(inputs, initial_state=states)
    model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
    assert pruned(model) == {"encoder + decoder": 3}
    small = stripped(model)
    assert small.get_layer("encoder").units == small.get_layer("decoder").units == 3


@pytest.mark.parametrize("kind", KINDS)
def test_states_that_come_from_dense_layers(kind):
    inputs, given = keras.Input((6, 3)), keras.Input((2,))
    layer = getattr(layers, kind)(6, name="r")
    states = (
        [layers.Dense(6, name=f"state_{i}")(given) for i in range(len(layer.state_size))]
        if (isinstance(layer.state_size, (list, tuple)))
        else [layers.Dense(6, name="state_0")(given)]
    )
    model = randomised(
        keras.Model([inputs, given], layers.Dense(2)(layer(inputs, initial_state=states)))
    )
    pruned(model)
    assert stripped(model).get_layer("state_0").units == 3


def test_states_that_are_outputs_hold_the_units():
    inputs = keras.Input((6, 3))
    x, h, c = layers.LSTM(4, return_state=True, name="r")(inputs)
    model = randomised(keras.Model(inputs, [layers.Dense(2)(x), c]))
    zero(model.layers[-1].kernel, 0, [1])
    assert stripped(model).get_layer("r").units == 4


def test_a_state_that_comes_in_is_no_constant():
    inputs, h, c = keras.Input((6, 3)), keras.Input((4,)), keras.Input((4,))
    x = keras.layers.LSTM(4, name="r")(inputs, initial_state=[h, c])
    model = randomised(keras.Model([inputs, h, c], keras.layers.Dense(2)(x)))
    for weight in model.get_layer("r").weights:
        value = np.array(weight).reshape(*weight.shape[:-1], 4, 4)
        value[..., 1] = 0  # unit 1 hears nothing
        weight.assign(value.reshape(weight.shape))
    small = stripped(model)
    assert small.get_layer("r").units == 4


@pytest.mark.parametrize("kind", KINDS)
def test_masked_steps(kind):
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True, name="table")(inputs)
    x = getattr(layers, kind)(6, return_sequences=True, name="first")(x)
    x = getattr(layers, kind)(6, name="second")(x)
    model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
    assert pruned(model) == {"table": 2, "first": 3, "second": 3}
    assert stripped(model).get_layer("second").units == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", [keras.layers, layers])
def test_a_layer_over_a_cell(kind, module):
    cell = getattr(module, kind + "Cell")(6, use_bias=False)
    model = model_of(layers.RNN(cell, return_sequences=True, name="r"))
    for variable, axis in ((model.get_layer("after").kernel, 0), (cell.recurrent_kernel, 0)):
        zero(variable, axis, [1, 4])
    zero(model.get_layer("before").kernel, 1, [2])  # a constant, folded into a bias to be made
    small = stripped(model)
    assert small.get_layer("r").cell.units == 4
    assert small.get_layer("before").units == 3


def test_units_of_a_masked_cell_are_pruned():
    model = model_of(layers.RNN(layers.LSTMCell(6), name="r"))
    assert pruned(model) == {"before": 2, "r": 3}
    assert stripped(model).get_layer("r").cell.units == 3


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolutional(rank, padding):
    make = getattr(layers, f"ConvLSTM{rank}D")
    model = model_of(
        make(4, 2, padding=padding, return_sequences=True, name="first"),
        make(6, 2, strides=2, padding=padding, name="second"),
        layers.Flatten(),
        shape=(3, *[4] * rank, 2),
    )
    assert pruned(model) == {"before": 2, "first": 2, "second": 3}
    assert stripped(model).get_layer("second").filters == 3


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_constants_before_a_convolutional_one(padding):
    recurrent = keras.layers.ConvLSTM1D(4, 2, padding=padding, use_bias=False, name="r")
    model = model_of(recurrent, keras.layers.Flatten(), shape=(3, 5, 2))
    zero(model.get_layer("before").kernel, 1, [0, 2])
    assert stripped(model).get_layer("before").units == (2 if padding == "valid" else 4)


def test_filters_that_are_zero():
    recurrent = keras.layers.ConvLSTM2D(4, 2, name="r")
    model = model_of(recurrent, keras.layers.Flatten(), shape=(3, 4, 4, 2))
    for weight in recurrent.weights:
        value = np.array(weight).reshape(*weight.shape[:-1], 4, 4)
        value[..., 2, 1] = 0  # the proposals of filter 1
        weight.assign(value.reshape(weight.shape))
    assert stripped(model).get_layer("r").filters == 3


@pytest.mark.parametrize("kind", KINDS)
def test_stateful_is_pinned(kind):
    inputs = keras.Input(batch_shape=(6, 5, 3))
    x = getattr(layers, kind)(4, stateful=True, name="r")(inputs)
    model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
    zero(model.layers[-1].kernel, 0, [1])
    model(np.ones((6, 5, 3)))  # it remembers this
    small = tfprune.strip(model)
    assert small.get_layer("r").units == 4
    data = np.full((6, 5, 3), 0.5)
    np.testing.assert_allclose(small(data), model(data), rtol=1e-4)


def cells_of(module=layers):
    return [
        module.LSTMCell(6),
        module.GRUCell(5),
        module.SimpleRNNCell(4),
        module.GRUCell(8, reset_after=False),
    ]


class TestStackedCells:
    @pytest.mark.parametrize(
        "options",
        [{}, {"return_sequences": True}, {"go_backwards": True, "unroll": True}],
    )
    def test_units_of_each_cell_go(self, options):
        model = model_of(keras.layers.RNN(cells_of(), name="r", **options))
        assert pruned(model) == {
            "before": 2,
            "r/cell_0": 3,
            "r/cell_1": 2,
            "r/cell_2": 2,
            "r/cell_3": 4,
        }
        small = stripped(model)
        assert [cell.units for cell in small.get_layer("r").cell.cells] == [3, 3, 2, 4]

    def test_what_is_left_of_stock_cells_is_saved_and_trained(self, tmp_path):
        model = tfprune.prunable(model_of(keras.layers.RNN(cells_of(keras.layers), name="r")))
        pruned(model)
        small = stripped(model)
        small.save(tmp_path / "small.keras")
        assert_same(small, keras.saving.load_model(tmp_path / "small.keras"))
        small.compile("sgd", "mse")
        loss = small.fit(np.ones((4, 6, 3)), np.ones((4, 2)), verbose=0).history["loss"]
        assert np.isfinite(loss).all()

    def test_states_in_and_out(self):
        inputs = keras.Input((6, 3))
        make = [layers.LSTMCell, layers.GRUCell]
        encoder, decoder = (
            keras.layers.RNN([cell(4) for cell in make], return_state=True, name=name)
            for name in ("encoder", "decoder")
        )
        _, *states = encoder(inputs)
        x, *_ = decoder(inputs, initial_state=states)
        model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
        assert pruned(model) == {
            "encoder/cell_0 + decoder/cell_0": 2,
            "encoder/cell_1 + decoder/cell_1": 2,
        }
        assert [c.units for c in stripped(model).get_layer("decoder").cell.cells] == [2, 2]

    @pytest.mark.parametrize("zeros", [True, False])
    def test_masked_steps(self, zeros):
        inputs = keras.Input((6,), dtype="int32")
        x = layers.Embedding(5, 4, mask_zero=True, name="table")(inputs)
        x = keras.layers.RNN(
            cells_of(), return_sequences=True, zero_output_for_mask=zeros, name="r"
        )(x)
        model = randomised(keras.Model(inputs, layers.Dense(2)(layers.LSTM(4)(x))))
        pruned(model)
        assert [c.units for c in stripped(model).get_layer("r").cell.cells] == [3, 3, 2, 4]

    def test_constants_go_from_cell_to_cell(self):
        cells = [
            keras.layers.SimpleRNNCell(4, use_bias=False),
            keras.layers.LSTMCell(3, use_bias=False),
        ]
        model = model_of(keras.layers.RNN(cells, name="r"))
        zero(model.get_layer("before").kernel, 1, [0, 2])  # sigmoid(bias), folded into the first
        zero(cells[0].kernel, 1, [1])  # 0, so the second does without it
        zero(cells[0].recurrent_kernel, 1, [1])
        small = stripped(model)
        assert small.get_layer("before").units == 2
        assert [cell.units for cell in small.get_layer("r").cell.cells] == [3, 3]

    def test_macs_saved_are_those_of_the_smaller_model(self):
        model = model_of(keras.layers.RNN(cells_of(), name="r"))
        before = tfprune.coupling.costs.total_macs(model)
        tfprune.prune_units(model, tfprune.budgets.MACs(0.5))
        after = tfprune.coupling.costs.total_macs(stripped(model))
        assert 0.4 * before < after <= 0.5 * before

    def test_a_cell_without_a_rule_pins_what_it_touches(self):
        class Mine(keras.layers.GRUCell):
            def call(self, inputs, states, training=False):
                return super().call(keras.ops.sort(inputs), states, training)

        cells = [layers.GRUCell(6), Mine(4, name="mine"), layers.GRUCell(6)]
        model = model_of(layers.RNN(cells, name="r"))
        assert pruned(model)["r/cell_2"] == 3
        small = tfprune.strip(model)
        assert_same(model, small)
        assert small.get_layer("r").cell.cells[0].units == 6


class TestEmbedding:
    def test_width(self):
        inputs = keras.Input((6,), dtype="int32")
        x = layers.Embedding(5, 8, name="table")(inputs)
        model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
        assert pruned(model) == {"table": 4}
        assert stripped(model).get_layer("table").output_dim == 4

    def test_columns_that_hold_one_number_are_folded(self):
        inputs = keras.Input((6,), dtype="int32")
        x = keras.layers.Embedding(5, 4, name="table")(inputs)
        model = randomised(keras.Model(inputs, keras.layers.Dense(2)(x)))
        value = np.array(model.get_layer("table").embeddings)
        value[:, 1] = 3.0
        model.get_layer("table").embeddings.assign(value)
        assert stripped(model).get_layer("table").output_dim == 3

    @pytest.mark.parametrize("tied", [True, False])
    def test_there_and_back(self, tied):
        inputs = keras.Input((6,), dtype="int32")
        table = layers.ReversibleEmbedding(5, 8, tie_weights=tied, name="table")
        x = table(inputs)
        x = layers.Add()([x, layers.Dense(8, name="d")(x)])
        model = randomised(keras.Model(inputs, table(x, reverse=True)))
        assert pruned(model) == {"table + d": 4}
        small = stripped(model)
        assert small.get_layer("table").output_dim == small.get_layer("d").units == 4

    def test_back_alone_uses_what_is_not_zero(self):
        inputs = keras.Input((6,), dtype="int32")
        table = keras.layers.ReversibleEmbedding(5, 4, tie_weights=False, name="table")
        x = keras.layers.Dense(4, activation="sigmoid", name="d")(table(inputs))
        model = randomised(keras.Model(inputs, table(x, reverse=True)))
        zero(table.reverse_embeddings, 0, [1])
        zero(table.embeddings, 1, [2])
        small = stripped(model)
        assert small.get_layer("table").output_dim == 4  # there it uses 1, and back 2
        zero(table.embeddings, 1, [1])
        assert stripped(model).get_layer("table").output_dim == 3


def test_units_that_only_a_mask_of_time_steps_needs_stay():
    inputs = keras.Input((6, 3))
    judge = layers.Dense(4, name="judge")(inputs)
    mask = keras.ops.any(judge > 0.5, axis=-1)
    x = layers.LSTM(5, name="memory")(layers.Dense(4, name="before")(inputs), mask=mask)
    model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
    zero(model.get_layer("memory").cell.kernel, 0, [1])
    small = stripped(model)
    assert small.get_layer("judge").units == 4
    assert small.get_layer("before").units == 3
