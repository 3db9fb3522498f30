import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import randomised, stripped, zero
from tests.coupling.rules.test_recurrent import KINDS, model_of, pruned
from tfprune import layers

MERGES = ["concat", "sum", "mul", "ave", None]


def both_ways(inner, merge="concat", **kwargs):
    layer = layers.Bidirectional(inner, merge_mode=merge, name="b", **kwargs)
    inputs = keras.Input((6, 3))
    x = layer(layers.Dense(4, activation="sigmoid", name="before")(inputs))
    x = layers.Concatenate()(list(x)) if merge is None else x
    return randomised(keras.Model(inputs, layers.Dense(2, name="after")(x)))


def units(model):
    layer = model.get_layer("b")
    return layer.forward_layer.units, layer.backward_layer.units


class TestBidirectional:
    @pytest.mark.parametrize("merge", MERGES)
    @pytest.mark.parametrize("kind", KINDS)
    def test_units_go_with_every_merge(self, kind, merge):
        model = both_ways(getattr(layers, kind)(6), merge)
        found = pruned(model)
        coupled = {"b/forward + b/backward": 3}
        apart = {"b/forward": 3, "b/backward": 3}
        assert found == {"before": 2, **(coupled if merge in ("sum", "mul", "ave") else apart)}
        assert units(stripped(model)) == (3, 3)

    @pytest.mark.parametrize("merge", MERGES)
    def test_sequences(self, merge):
        model = both_ways(layers.GRU(6, return_sequences=True), merge)
        pruned(model)
        assert units(stripped(model)) == (3, 3)

    def test_unequal_zeros_keep_equal_counts(self):
        model = both_ways(keras.layers.SimpleRNN(4))
        for layer, gone in (
            (model.get_layer("b").forward_layer, [0, 1]),
            (model.get_layer("b").backward_layer, [3]),
        ):
            for weight in layer.weights:
                zero(weight, -1, gone)
        assert units(stripped(model)) == (3, 3)

    def test_a_bias_that_one_direction_does_not_need_is_zero(self):
        """Keras would start that of the forget gate with ones."""
        model = both_ways(keras.layers.LSTM(4, use_bias=False))
        zero(model.get_layer("before").kernel, 1, [0])
        zero(model.get_layer("b").backward_layer.cell.kernel, 0, [0])
        assert stripped(model).get_layer("before").units == 3

    @pytest.mark.parametrize("merge", ["concat", "sum"])
    def test_over_stacked_cells(self, merge):
        cells = [layers.LSTMCell(6), layers.GRUCell(4)]
        model = both_ways(layers.RNN(cells, return_sequences=True), merge)
        found = pruned(model)
        assert found["b/forward/cell_0"] == found["b/backward/cell_0"] == 3
        small = stripped(model).get_layer("b")
        for layer in (small.forward_layer, small.backward_layer):
            assert [cell.units for cell in layer.cell.cells] == [3, 2]

    def test_a_backward_layer_of_its_own(self):
        back = layers.GRU(6, go_backwards=True, name="back")
        model = both_ways(layers.LSTM(6, name="there"), backward_layer=back)
        pruned(model)
        assert units(stripped(model)) == (3, 3)

    def test_constants_are_folded_into_biases_that_are_made(self):
        model = both_ways(keras.layers.LSTM(4, use_bias=False))
        zero(model.get_layer("before").kernel, 1, [0, 3])
        assert stripped(model).get_layer("before").units == 2

    @pytest.mark.parametrize("merge", ["concat", None])
    def test_states_in_and_out(self, merge):
        inputs = keras.Input((6, 3))
        first = layers.Bidirectional(
            layers.LSTM(4, return_state=True, return_sequences=True), merge_mode=merge, name="one"
        )
        second = layers.Bidirectional(layers.LSTM(4), name="two")
        found = first(inputs)
        states = found[-4:]
        x = layers.Concatenate()(list(found[:2])) if merge is None else found[0]
        model = randomised(
            keras.Model(inputs, layers.Dense(2)(second(x, initial_state=list(states))))
        )
        assert pruned(model) == {
            "one/forward + two/forward": 2,
            "one/backward + two/backward": 2,
        }
        small = stripped(model)
        assert small.get_layer("two").forward_layer.units == 2

    @pytest.mark.parametrize("merge", ["concat", "mul"])
    def test_masked_steps(self, merge):
        inputs = keras.Input((6,), dtype="int32")
        x = layers.Embedding(5, 4, mask_zero=True)(inputs)
        x = layers.Bidirectional(layers.GRU(6, return_sequences=True), merge_mode=merge, name="b")(
            x
        )
        x = layers.LSTM(4)(x)
        model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
        pruned(model)
        assert units(stripped(model)) == (3, 3)

    def test_one_direction_follows_what_the_other_has_lost(self):
        model = both_ways(layers.LSTM(4))
        for layer in (model.get_layer("b").forward_layer,):
            for name in layer.trainable_masks:
                mask = np.ones((*layer.trainable_masks[name].shape[:-1], 4, 4), bool)
                mask[..., [0, 1, 2]] = False
                tfprune.set_masks(
                    model, layer, name, trainable=mask.reshape(layer.trainable_masks[name].shape)
                )
        assert pruned(model) == {"before": 2, "b/forward": 3, "b/backward": 3}
        assert units(stripped(model)) == (1, 1)

    def test_over_a_cell_and_over_convolutions(self):
        model = both_ways(layers.RNN(layers.GRUCell(4)))
        pruned(model)
        assert stripped(model).get_layer("b").forward_layer.cell.units == 2
        inputs = keras.Input((3, 5, 2))
        x = layers.Bidirectional(layers.ConvLSTM1D(4, 2), name="b")(inputs)
        model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
        pruned(model)
        assert stripped(model).get_layer("b").backward_layer.filters == 2

    def test_stateful_is_pinned(self):
        inputs = keras.Input(batch_shape=(6, 5, 3))
        x = layers.Bidirectional(layers.GRU(4, stateful=True), name="b")(inputs)
        model = randomised(keras.Model(inputs, layers.Dense(2)(x)))
        zero(model.layers[-1].kernel, 0, [1, 5])
        assert units(stripped(model)) == (4, 4)


class TestTimeDistributed:
    @pytest.mark.parametrize("shape", [(6, 3), (None, 3)])
    def test_dense(self, shape):
        model = model_of(layers.TimeDistributed(layers.Dense(6, name="d"), name="td"), shape=shape)
        assert pruned(model) == {"before": 2, "td": 3}
        assert stripped(model).get_layer("td").layer.units == 3

    def test_constants_go_through_it_and_into_its_bias(self):
        inner = keras.layers.Dense(6, use_bias=False, activation="sigmoid")
        model = model_of(keras.layers.TimeDistributed(inner, name="td"))
        zero(model.get_layer("before").kernel, 1, [0])
        zero(inner.kernel, 1, [1, 2])
        small = stripped(model)
        assert small.get_layer("before").units == 3
        assert small.get_layer("td").layer.units == 4  # what two of them hold is folded on
        assert small.get_layer("td").layer.use_bias

    def test_convolutions_norms_pooling_and_flatten(self):
        model = model_of(
            layers.TimeDistributed(layers.Conv2D(8, 2, name="c"), name="conv"),
            layers.TimeDistributed(layers.BatchNormalization()),
            layers.TimeDistributed(layers.GroupNormalization(groups=2)),
            layers.TimeDistributed(layers.Conv2D(8, 1, groups=2), name="grouped"),
            layers.TimeDistributed(layers.MaxPooling2D(2)),
            layers.TimeDistributed(layers.Flatten()),
            layers.LSTM(4, name="r"),
            shape=(3, 5, 5, 2),
        )
        assert pruned(model) == {"before": 2, "conv": 4, "grouped": 4, "r": 2}
        small = stripped(model)
        assert small.get_layer("grouped").layer.groups == 2
        assert small.get_layer("grouped").layer.filters == 4

    def test_recurrent_layers_over_sentences_of_words(self):
        model = model_of(
            layers.TimeDistributed(layers.LSTM(6), name="words"),
            layers.GRU(4, name="sentences"),
            shape=(3, 4, 2),
        )
        assert pruned(model) == {"before": 2, "words": 3, "sentences": 2}
        assert stripped(model).get_layer("words").layer.units == 3

    def test_both_ways_at_every_step(self):
        model = model_of(
            layers.TimeDistributed(layers.Bidirectional(layers.GRU(4)), name="td"), shape=(3, 4, 2)
        )
        assert pruned(model) == {"before": 2, "td/forward": 2, "td/backward": 2}
        assert stripped(model).get_layer("td").layer.forward_layer.units == 2

    def test_masks_reach_what_is_inside(self):
        inputs = keras.Input((3, 6), dtype="int32")
        x = layers.Embedding(5, 4, mask_zero=True)(inputs)
        x = layers.TimeDistributed(layers.LSTM(4), name="td")(x)
        model = randomised(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
        pruned(model)
        assert stripped(model).get_layer("td").layer.units == 2
