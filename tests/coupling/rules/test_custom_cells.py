"""`RNN` over cells of users' classes: units go, and the cell is resized in place."""

import re

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import assert_same, randomised, zero
from tests.coupling.rules.custom_cells import (
    CELLS,
    Elman,
    Gated,
    MyGRU,
    MyLSTM,
    OfLayers,
    PlainGRU,
)
from tests.coupling.rules.test_recurrent import pruned
from tfprune import layers

ops = keras.ops


def over(cell, wrap=lambda layer: layer, masked=False, **kwargs):
    if masked:
        inputs = keras.Input((6,), dtype="int32")
        x = layers.Embedding(5, 4, mask_zero=True, name="before")(inputs)
    else:
        inputs = keras.Input((6, 3))
        x = layers.Dense(4, activation="sigmoid", name="before")(inputs)
    x = wrap(keras.layers.RNN(cell, name="r", **kwargs))(x)
    flat = keras.tree.flatten(x)
    x = flat[0] if len(flat) == 1 else layers.Concatenate()(flat)
    return tfprune.prunable(randomised(keras.Model(inputs, layers.Dense(2, name="logits")(x))))


def stripped(model):
    small, report = tfprune.strip(model, return_report=True)
    assert_same(model, small)
    assert report.not_from_config == ()
    return small


def both_ways(merge):
    return lambda layer: keras.layers.Bidirectional(layer, merge_mode=merge, name="b")


@pytest.mark.parametrize("make", CELLS)
def test_units_go_and_a_file_has_the_new_sizes(make, tmp_path):
    model = over(make(6))
    found = pruned(model)
    assert (found["before"], found["r"]) == (2, 3)
    assert found.get("r/hidden") == (4 if make is OfLayers else None)
    small = stripped(model)
    cell = small.get_layer("r").cell
    assert type(cell) is make and cell.units == 3
    assert small.count_params() < 0.4 * model.count_params()
    small.save(tmp_path / "small.keras")
    assert_same(small, keras.saving.load_model(tmp_path / "small.keras"))
    again = tfprune.strip(small)
    assert again.count_params() == small.count_params()


@pytest.mark.parametrize(
    ("make", "stock"), [(MyLSTM, "LSTMCell"), (MyGRU, "GRUCell"), (PlainGRU, "GRUCell")]
)
def test_the_rule_read_off_a_cell_is_that_of_keras(make, stock):
    """The same weights stay as with the rule that is written for the cell of Keras."""
    ours, theirs = over(make(6)), over(getattr(keras.layers, stock)(6))
    theirs.set_weights(ours.get_weights())
    for model in (ours, theirs):
        assert pruned(model) == {"before": 2, "r": 3}
    small, expected = stripped(ours), tfprune.strip(theirs)
    for found, weight in zip(small.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(found, weight)


@pytest.mark.parametrize(
    "options",
    [
        {"return_sequences": True, "go_backwards": True},
        {"return_state": True},
        {"masked": True},
        {"masked": True, "return_sequences": True, "zero_output_for_mask": True},
    ],
)
def test_options_of_the_layer(options):
    model = over(Gated(6), **options)
    assert pruned(model) == {"before": 2, "r": 3}
    assert stripped(model).get_layer("r").cell.units == 3


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", None])
def test_both_ways(merge):
    model = over(Gated(6), both_ways(merge))
    found = pruned(model)
    assert sum(found.values()) == 2 + (3 if merge in ("sum", "mul") else 6)
    layer = stripped(model).get_layer("b")
    assert layer.forward_layer.cell.units == layer.backward_layer.cell.units == 3


def test_in_a_stack_both_ways_with_states():
    cells = [keras.layers.LSTMCell(6), Gated(4), OfLayers(6)]
    model = over(cells, both_ways("concat"), return_sequences=True)
    found = pruned(model)
    assert found["b/forward/cell_1"] == 2 and found["b/backward/cell_2/hidden"] == 4
    small = stripped(model).get_layer("b")
    assert [cell.units for cell in small.backward_layer.cell.cells] == [3, 2, 3]


def test_at_every_step():
    inputs = keras.Input((3, 4, 2))
    x = keras.layers.TimeDistributed(both_ways("concat")(keras.layers.RNN(Elman(6))))(inputs)
    x = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    model = tfprune.prunable(randomised(keras.Model(inputs, x)))
    pruned(model)
    assert stripped(model).layers[1].layer.forward_layer.cell.units == 3


def test_states_that_one_layer_hands_to_another():
    inputs = keras.Input((6, 3))
    _, *states = keras.layers.RNN(Gated(6), return_state=True, name="encoder")(inputs)
    x = keras.layers.RNN(Gated(6), name="decoder")(inputs, initial_state=states)
    model = tfprune.prunable(randomised(keras.Model(inputs, keras.layers.Dense(2)(x))))
    assert pruned(model) == {"encoder + decoder": 3}
    stripped(model)


def test_a_cell_of_two_layers_stays_one():
    inputs, cell = keras.Input((6, 3)), Gated(6)
    x = [keras.layers.RNN(cell, go_backwards=back)(inputs) for back in (False, True)]
    x = keras.layers.Dense(2)(keras.layers.Concatenate()(x))
    model = tfprune.prunable(randomised(keras.Model(inputs, x)))
    assert list(pruned(model).values()) == [3]
    small = stripped(model)
    assert small.layers[1].cell is small.layers[2].cell
    assert small.count_params() == (6 * 9 + 9 + 3) + (6 * 2 + 2)


def test_zeros_of_any_origin_count():
    """Unit 1 is used by no one, and then unit 2 only by unit 1."""
    model = over(Elman(6))
    cell = model.get_layer("r").cell
    zero(cell.recurrent, 0, [1])
    zero(model.get_layer("logits").kernel, 0, [1, 2])
    recurrent = np.array(cell.recurrent)
    recurrent[2, [0, 2, 3, 4, 5]] = 0
    cell.recurrent.assign(recurrent)
    assert stripped(model).get_layer("r").cell.units == 4


def test_masks_move_while_it_trains_and_the_small_model_trains_on():
    model = over(OfLayers(6))
    model.compile("adam", "mse")
    data = np.random.default_rng(0).normal(size=(16, 6, 3)), np.ones((16, 2))
    callback = tfprune.callbacks.PruneUnits(0.5)
    model.fit(*data, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    small = stripped(model)
    assert (small.get_layer("r").cell.units, small.get_layer("r").cell.wide) == (3, 4)
    before = np.array(small.get_layer("r").cell.first.kernel)
    assert np.isfinite(small.fit(*data, verbose=0).history["loss"]).all()
    assert not np.array_equal(small.get_layer("r").cell.first.kernel, before)


def test_more_units():
    model = tfprune.strip(over(Gated(6)))
    wide = tfprune.surgery.resize(model, {"before": 6, "r": 8})
    assert wide.get_layer("r").cell.units == 8
    assert tuple(wide.get_layer("r").cell.matrix.shape) == (6 + 8, 24)


def test_in_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = over(Gated(6))
    finally:
        keras.config.set_dtype_policy("float32")
    assert pruned(model) == {"before": 2, "r": 3}
    assert tfprune.strip(model).get_layer("r").cell.units == 3


class WithoutConfig(Elman):
    def get_config(self):
        raise NotImplementedError


class Fixed(Elman):
    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.said = {"units": units}

    def get_config(self):
        return {**keras.layers.Layer.get_config(self), "units": self.said["units"]}


class Asks(Elman):
    def call(self, inputs, states):
        if float(inputs[0, 0]) > 0:
            return inputs, states
        return super().call(inputs, states)


class Softmax(Elman):
    def call(self, inputs, states):
        new = ops.softmax(inputs @ self.kernel + states[0] @ self.recurrent)
        return new, [new]


class Counts(Elman):
    """It divides by the size of its state."""

    def call(self, inputs, states):
        new = (inputs @ self.kernel + states[0] @ self.recurrent) / self.state_size
        return new, [new]


class Divides(Elman):
    """It divides by the number that it was made with, which the small one does too."""

    def call(self, inputs, states):
        new = (inputs @ self.kernel + states[0] @ self.recurrent) / self.units
        return new, [new]


class FirstUnit(Elman):
    """Its first unit is added to all."""

    def call(self, inputs, states):
        new = ops.tanh(inputs @ self.kernel + states[0] @ self.recurrent)
        return new, [new + states[0][:, :1]]


class OwnStart(Elman):
    """Its state begins with a weight, which no step shows."""

    def build(self, shape):
        super().build(shape)
        self.start = self.add_weight(shape=(self.units,), name="start")

    def get_initial_state(self, batch_size=None):
        return [ops.broadcast_to(self.start, (batch_size, self.units))]


@pytest.mark.parametrize(
    ("make", "named"), [(WithoutConfig, ()), (Fixed, ("cell",)), (Divides, ("cell",))]
)
def test_configs_that_cannot_say_the_sizes(make, named, tmp_path):
    model = over(make(6, name="cell"))
    assert pruned(model) == {"before": 2, "r": 3}
    small, report = tfprune.strip(model, return_report=True)
    assert small.get_layer("r").cell.state_size == 3
    assert report.not_from_config == named
    data = np.random.default_rng(0).normal(size=(4, 6, 3))
    np.testing.assert_allclose(small(data), model(data), rtol=1e-4, atol=1e-6)
    tfprune.export(small, tmp_path / "small", format="saved_model")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            Asks,
            r"'r' has a cell without a rule, 'cell' \(Asks\).*line \d+ of test_custom_cells.py: V",
        ),
        (Softmax, "'.*softmax.*' joins its units"),
        (Counts, "it does not treat fewer units alike, whichever of its attributes follow"),
        (FirstUnit, ""),
        (OwnStart, "it does not treat fewer units alike"),
    ],
)
def test_what_cannot_be_proven_is_pinned_by_name(make, reason):
    model = over(make(4 if make is Asks else 6, name="cell"))
    found = tfprune.explain(model).sets
    reasons = [why for each in found for why in each.pinned if each.name != "logits"]
    assert any(re.search(reason, why) for why in reasons)
    zero(model.get_layer("logits").kernel, 0, [1])
    small = tfprune.strip(model)
    assert small.get_layer("r").cell.units == model.get_layer("r").cell.units
    if make is not Asks:  # a graph cannot ask
        data = np.random.default_rng(0).normal(size=(4, 6, 3))
        np.testing.assert_allclose(small(data), model(data), rtol=1e-5)


def test_stateful_is_pinned():
    inputs = keras.Input(batch_shape=(6, 5, 3))
    x = keras.layers.RNN(Gated(4), stateful=True, name="r")(layers.Dense(4, name="before")(inputs))
    model = randomised(keras.Model(inputs, keras.layers.Dense(2)(x)))
    assert tfprune.explain(model).sets[0].pinned == {"'r' is stateful": 4}
    assert tfprune.strip(model).get_layer("r").cell.units == 4
