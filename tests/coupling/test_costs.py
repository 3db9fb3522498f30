import keras
import numpy as np
import pytest

import tfprune
from tfprune.coupling.costs import costs, macs_of
from tfprune.coupling.macs import product

L = keras.layers


def macs(model, **kwargs):
    return [cost.macs for cost in costs(model, **kwargs)]


def functional(shape, *layers, dtype=None):
    inputs = x = keras.Input(shape, dtype=dtype)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


# Layer, input shape, MACs counted by hand.
BY_HAND = {
    "dense": (L.Dense(5), (3,), 3 * 5),
    "dense over time": (L.Dense(5), (7, 3), 7 * 3 * 5),
    "einsum": (L.EinsumDense("abc,cde->abde", (None, 2, 4)), (6, 3), 6 * 3 * 2 * 4),
    "einsum ellipsis": (L.EinsumDense("...c,cd->...d", 4), (6, 3), 6 * 3 * 4),
    "einsum two contracted": (L.EinsumDense("abc,bcd->ad", 4), (6, 3), 6 * 3 * 4),
    "conv1d valid": (L.Conv1D(4, 3), (8, 5), 6 * 3 * 5 * 4),
    "conv1d causal": (L.Conv1D(4, 3, padding="causal"), (8, 5), 8 * 3 * 5 * 4),
    "conv2d same": (L.Conv2D(4, 3, padding="same"), (6, 5, 2), 6 * 5 * 9 * 2 * 4),
    "conv2d strided": (L.Conv2D(4, 3, strides=2), (7, 7, 2), 3 * 3 * 9 * 2 * 4),
    "conv2d dilated": (L.Conv2D(4, 3, dilation_rate=2), (7, 7, 2), 3 * 3 * 9 * 2 * 4),
    "conv2d groups": (L.Conv2D(8, 3, groups=2), (5, 5, 4), 3 * 3 * 9 * 2 * 8),
    "conv3d": (L.Conv3D(2, 2), (3, 4, 5, 3), 2 * 3 * 4 * 8 * 3 * 2),
    "conv1d transpose": (L.Conv1DTranspose(3, 2, strides=2), (4, 5), 4 * 2 * 5 * 3),
    "conv2d transpose": (L.Conv2DTranspose(3, 4, strides=2), (5, 6, 2), 5 * 6 * 16 * 2 * 3),
    "conv3d transpose": (L.Conv3DTranspose(2, 2), (2, 3, 4, 5), 24 * 8 * 5 * 2),
    "depthwise1d": (L.DepthwiseConv1D(3, depth_multiplier=2), (8, 5), 6 * 3 * 5 * 2),
    "depthwise2d": (L.DepthwiseConv2D(3, depth_multiplier=2), (5, 5, 4), 9 * 9 * 4 * 2),
    "separable1d": (L.SeparableConv1D(6, 3), (8, 5), 6 * (3 * 5 + 5 * 6)),
    "separable2d": (L.SeparableConv2D(6, 3, strides=2), (7, 7, 4), 9 * (9 * 4 + 4 * 6)),
    "simple rnn": (L.SimpleRNN(4), (5, 3), 5 * (3 * 4 + 4 * 4)),
    "lstm": (L.LSTM(4, return_sequences=True), (5, 3), 5 * 4 * (3 * 4 + 4 * 4)),
    "gru": (L.GRU(4, reset_after=True), (5, 3), 5 * 3 * (3 * 4 + 4 * 4)),
    "gru reset before": (L.GRU(4, reset_after=False), (5, 3), 5 * 3 * (3 * 4 + 4 * 4)),
    "rnn of cells": (
        L.RNN([L.GRUCell(4), L.SimpleRNNCell(2)]),
        (5, 3),
        5 * (3 * (3 * 4 + 4 * 4) + 4 * 2 + 2 * 2),
    ),
    "conv lstm": (
        L.ConvLSTM2D(2, 3, return_sequences=True),
        (5, 6, 6, 3),
        5 * 4 * 4 * 9 * (3 * 8 + 2 * 8),
    ),
    "conv lstm last": (L.ConvLSTM1D(2, 3), (5, 6, 3), 5 * 4 * 3 * (3 * 8 + 2 * 8)),
    "bidirectional": (L.Bidirectional(L.LSTM(4)), (5, 3), 2 * 5 * 4 * (3 * 4 + 4 * 4)),
    "bidirectional two": (
        L.Bidirectional(L.GRU(4), backward_layer=L.SimpleRNN(4, go_backwards=True)),
        (5, 3),
        5 * (3 + 1) * (3 * 4 + 4 * 4),
    ),
    "time distributed dense": (L.TimeDistributed(L.Dense(4)), (5, 3), 5 * 3 * 4),
    "time distributed conv": (
        L.TimeDistributed(L.Conv2D(4, 3)),
        (5, 6, 6, 2),
        5 * 4 * 4 * 9 * 2 * 4,
    ),
    "spectral": (L.SpectralNormalization(L.Conv1D(4, 3)), (8, 5), 6 * 3 * 5 * 4),
    "normalisation": (L.BatchNormalization(), (5, 5, 3), 0),
    "prelu": (L.PReLU(), (5, 3), 0),
    "pool": (L.MaxPooling2D(), (6, 6, 3), 0),
    "dropout": (L.Dropout(0.5), (6,), 0),
    "flatten": (L.Flatten(), (6, 2), 0),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_macs_of_one_layer_by_hand(case):
    layer, shape, expected = BY_HAND[case]
    assert macs(functional(shape, layer)) == [expected]


def test_channels_first_counts_the_same_as_channels_last():
    layer = L.Conv2D(4, 3, data_format="channels_first")
    (cost,) = costs(functional((2, 6, 5), layer))
    assert cost.macs == 4 * 3 * 9 * 2 * 4
    assert cost.units == 4


def test_drop_in_layers_count_as_their_stock_layers():
    model = functional((6, 6, 2), tfprune.layers.Conv2D(4, 3), L.Flatten(), tfprune.layers.Dense(3))
    assert macs(model) == [4 * 4 * 9 * 2 * 4, 0, 64 * 3]
    assert [cost.parameters for cost in costs(model)] == [9 * 2 * 4 + 4, 0, 64 * 3 + 3]


def test_multi_head_attention_with_two_sequences():
    query, value = keras.Input((5, 6)), keras.Input((7, 8))
    layer = L.MultiHeadAttention(num_heads=2, key_dim=3, value_dim=4)
    model = keras.Model([query, value], layer(query, value))
    projections = 5 * 6 * 2 * 3 + 7 * 8 * 2 * 3 + 7 * 8 * 2 * 4 + 5 * 2 * 4 * 6
    scores_and_context = 2 * 5 * 7 * 3 + 2 * 5 * 7 * 4
    assert macs(model) == [projections + scores_and_context]


def test_multi_head_attention_called_by_keywords_takes_the_right_one_for_the_query():
    query, value, key = keras.Input((5, 6)), keras.Input((7, 8)), keras.Input((7, 9))
    layer = L.MultiHeadAttention(num_heads=2, key_dim=3, value_dim=4)
    model = keras.Model([query, value, key], layer(key=key, value=value, query=query))
    projections = 5 * 6 * 2 * 3 + 7 * 9 * 2 * 3 + 7 * 8 * 2 * 4 + 5 * 2 * 4 * 6
    assert macs(model) == [projections + 2 * 5 * 7 * (3 + 4)]


def test_multi_head_attention_over_one_of_two_axes():
    inputs = keras.Input((4, 5, 6))
    layer = L.MultiHeadAttention(num_heads=2, key_dim=3, attention_axes=(2,))
    model = keras.Model(inputs, layer(inputs, inputs))
    assert macs(model) == [4 * 5 * 6 * 2 * 3 * 4 + 4 * 5 * 5 * 2 * 3 * 2]


def test_group_query_attention():
    inputs = keras.Input((5, 6))
    layer = L.GroupQueryAttention(head_dim=3, num_query_heads=4, num_key_value_heads=2)
    model = keras.Model(inputs, layer(inputs, inputs))
    assert macs(model) == [5 * 6 * 3 * (4 + 2 + 2 + 4) + 2 * 5 * 5 * 4 * 3]


def test_attention_without_projections():
    query, value, key = keras.Input((5, 6)), keras.Input((7, 8)), keras.Input((7, 6))
    model = keras.Model([query, value, key], L.Attention()([query, value, key]))
    assert macs(model) == [5 * 7 * 6 + 5 * 7 * 8]
    two = keras.Model([query, key], L.AdditiveAttention()([query, key]))
    assert macs(two) == [5 * 7 * 6]


def test_products_of_two_tensors_count():
    a, b = keras.Input((5, 6)), keras.Input((6, 7))
    model = keras.Model(
        [a, b],
        [
            a @ b,
            keras.ops.einsum("bij,bjk->bik", a, b),
            L.Dot(axes=(2, 1))([a, b]),
        ],
    )
    assert macs(model) == [5 * 6 * 7] * 3


def test_convolution_operation_counts():
    inputs = keras.Input((6, 6, 2))
    model = keras.Model(inputs, keras.ops.conv(inputs, np.ones((3, 3, 2, 4), "float32")))
    assert macs(model) == [4 * 4 * 9 * 2 * 4]


def test_embedding_looks_up_and_reversed_multiplies():
    inputs = keras.Input((5,), dtype="int32")
    layer = L.ReversibleEmbedding(11, 3)
    model = keras.Model(inputs, layer(layer(inputs), reverse=True))
    looked_up, reverse = costs(model)
    assert (looked_up.macs, looked_up.parameters, looked_up.units) == (0, 33, 3)
    assert (reverse.macs, reverse.parameters) == (5 * 3 * 11, 0)


def test_shared_layer_counts_its_parameters_once_and_its_macs_each_time():
    inputs = keras.Input((3,))
    layer = L.Dense(3, name="shared")
    first, second = costs(keras.Model(inputs, layer(layer(inputs))))
    assert (first.name, second.name) == ("shared", "shared")
    assert (first.parameters, second.parameters) == (12, 0)
    assert (first.macs, second.macs) == (9, 9)


def test_nested_models_are_looked_into():
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3, name="d")], name="inner")
    model = functional((4,), inner, L.Dense(2, name="out"))
    assert [(cost.name, cost.macs) for cost in costs(model)] == [("inner/d", 12), ("out", 6)]


def test_models_inside_time_distributed_are_looked_into():
    inner = functional((4,), L.Dense(3), L.Dense(2))
    assert list(filter(None, macs(functional((5, 4), L.TimeDistributed(inner))))) == [60, 30]


def test_time_folded_into_the_batch_axis_is_not_lost():
    inputs = keras.Input((5, 3))
    rows = keras.ops.reshape(inputs, (-1, 3))
    model = keras.Model(inputs, keras.ops.reshape(L.Dense(4)(rows), (-1, 5, 4)))
    assert sum(macs(model)) == 5 * 3 * 4


def test_static_batch_is_divided_out():
    inputs = keras.Input(batch_shape=(8, 5, 3))
    assert macs(keras.Model(inputs, L.Dense(4)(inputs))) == [5 * 3 * 4]


def test_dynamic_size_is_said_and_not_guessed():
    model = functional((None, 3), L.Conv1D(4, 3, name="c"), L.GlobalMaxPooling1D(), L.Dense(2))
    conv, pool, dense = costs(model)
    assert conv.macs is None
    assert "input_shapes" in conv.reason
    assert (pool.macs, dense.macs, dense.reason) == (0, 8, None)


@pytest.mark.parametrize("given", [(9, 3), [(9, 3)], {"sequence": (9, 3)}])
def test_dynamic_size_is_taken_from_input_shapes(given):
    inputs = keras.Input((None, 3), name="sequence")
    model = keras.Model(inputs, L.Conv1D(4, 3)(inputs))
    assert macs(model, input_shapes=given) == [7 * 3 * 3 * 4]


@pytest.mark.parametrize("given", [(9, 4), (9,), [(9, 3), (9, 3)], {"other": (9, 3)}])
def test_input_shapes_that_do_not_fit_are_refused(given):
    inputs = keras.Input((None, 3), name="sequence")
    model = keras.Model(inputs, L.Conv1D(4, 3)(inputs))
    with pytest.raises(ValueError, match="Argument `input_shapes` must be"):
        costs(model, input_shapes=given)


class Unknown(L.Layer):
    def __init__(self, weighted, **kwargs):
        super().__init__(**kwargs)
        self.weighted = weighted

    def build(self, shape):
        if self.weighted:
            self.kernel = self.add_weight(shape=(shape[-1], 2))

    def call(self, inputs):
        return inputs @ self.kernel if self.weighted else inputs * 2


class KnownUnknown(Unknown):
    pass


@pytest.mark.parametrize("weighted", [True, False])
def test_layer_without_a_rule_is_listed_as_not_known(weighted):
    (cost,) = costs(functional((3,), Unknown(weighted)))
    assert cost.macs is None
    assert "no rule counts Unknown" in cost.reason
    assert cost.parameters == (6 if weighted else 0)


def test_weights_added_to_a_layer_that_is_free_are_not_taken_to_be_free():
    class Mixing(L.Dropout):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 2))

        def call(self, inputs):
            return inputs @ self.kernel

    assert macs(functional((3,), Mixing(0.1))) == [None]


def test_lambda_is_not_taken_to_be_free():
    assert macs(functional((3,), L.Lambda(lambda x: x @ np.ones((3, 2), "float32")))) == [None]


def test_rule_of_the_user_is_used_for_the_class_and_its_subclasses():
    @macs_of(KnownUnknown)
    def rule(layer, shapes):
        return product(*shapes.inputs[0], 2)

    class Child(KnownUnknown):
        pass

    assert macs(functional((3,), Child(True))) == [6]


def test_units_are_the_sizes_of_the_axes_that_layers_make():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3)(inputs)
    x = L.BatchNormalization()(x)
    x = L.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = L.Reshape((16, 8))(x)
    x = L.Bidirectional(L.LSTM(5))(x)
    model = keras.Model(inputs, L.Dense(2)(x))
    assert [cost.units for cost in costs(model)] == [4, None, 8, None, 10, 2]


def test_parameters_add_up_to_what_keras_counts():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35)
    assert sum(cost.parameters for cost in costs(model)) == model.count_params()


@pytest.mark.parametrize(
    ("name", "published"),
    [("MobileNetV2", 300e6), ("EfficientNetB0", 390e6), ("ConvNeXtTiny", 4.5e9)],
)
def test_macs_of_applications_are_those_published(name, published):
    model = getattr(keras.applications, name)(weights=None)
    counted = macs(model)
    assert None not in counted
    assert sum(counted) == pytest.approx(published, rel=0.02)


def test_quantized_dense_counts_as_before():
    model = functional((6,), L.Dense(4))
    model.quantize("int8")
    assert macs(model) == [24]


def test_subclassed_model_is_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="must be Functional or Sequential"):
        costs(Subclassed())
