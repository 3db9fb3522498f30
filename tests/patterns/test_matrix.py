import keras
import numpy as np
import pytest

from tests.layers.cases import CASES, masked_parts
from tfprune import layers
from tfprune.patterns import MatrixAxes, matrix_axes, matrix_rule
from tfprune.weights.prunable import PrunableWeight

BY_HAND = [  # layer, shapes of its inputs, weight; its stack, inputs and outputs
    (lambda: layers.Dense(3), [(4,)], "kernel", (), (0,), (1,)),
    (lambda: layers.Conv1D(4, 3), [(6, 2)], "kernel", (0,), (1,), (2,)),
    (lambda: layers.Conv2D(4, 3, groups=2), [(6, 6, 4)], "kernel", (0, 1), (2,), (3,)),
    (lambda: layers.Conv3D(4, 2), [(4, 4, 4, 2)], "kernel", (0, 1, 2), (3,), (4,)),
    (lambda: layers.Conv1DTranspose(4, 3), [(6, 2)], "kernel", (0,), (2,), (1,)),
    (lambda: layers.Conv2DTranspose(4, 3), [(6, 6, 2)], "kernel", (0, 1), (3,), (2,)),
    (lambda: layers.Conv3DTranspose(4, 2), [(4, 4, 4, 2)], "kernel", (0, 1, 2), (4,), (3,)),
    (lambda: layers.DepthwiseConv1D(3), [(6, 2)], "kernel", (), (0,), (1, 2)),
    (lambda: layers.DepthwiseConv2D(3), [(6, 6, 2)], "kernel", (), (0, 1), (2, 3)),
    (lambda: layers.SeparableConv1D(4, 3), [(6, 2)], "depthwise_kernel", (), (0,), (1, 2)),
    (lambda: layers.SeparableConv1D(4, 3), [(6, 2)], "pointwise_kernel", (0,), (1,), (2,)),
    (lambda: layers.SeparableConv2D(4, 3), [(6, 6, 2)], "depthwise_kernel", (), (0, 1), (2, 3)),
    (lambda: layers.SeparableConv2D(4, 3), [(6, 6, 2)], "pointwise_kernel", (0, 1), (2,), (3,)),
    (lambda: layers.Embedding(7, 3), [(4,)], "embeddings", (), (0,), (1,)),
    (
        lambda: layers.ReversibleEmbedding(7, 3, tie_weights=False),
        [(4,)],
        "reverse_embeddings",
        (),
        (0,),
        (1,),
    ),
    (lambda: layers.LSTM(3), [(4, 2)], "kernel", (), (0,), (1,)),
    (lambda: layers.GRU(3), [(4, 2)], "recurrent_kernel", (), (0,), (1,)),
    (lambda: layers.SimpleRNNCell(3), [(2,), (3,)], "recurrent_kernel", (), (0,), (1,)),
    (lambda: layers.ConvLSTM2D(2, 3), [(3, 5, 5, 2)], "kernel", (0, 1), (2,), (3,)),
    (lambda: layers.ConvLSTM1D(2, 3), [(3, 5, 2)], "recurrent_kernel", (0,), (1,), (2,)),
    (lambda: layers.EinsumDense("ab,cb->ac", 3), [(4,)], "kernel", (), (1,), (0,)),
    (lambda: layers.EinsumDense("...x,xy->...y", 3), [(4,)], "kernel", (), (0,), (1,)),
    (lambda: layers.EinsumDense("bhd,hde->bhe", (2, 3)), [(2, 4)], "kernel", (), (1,), (0, 2)),
    (lambda: layers.MultiHeadAttention(2, 3), [(5, 4)] * 2, "query/kernel", (), (0,), (1, 2)),
    (
        lambda: layers.MultiHeadAttention(2, 3),
        [(5, 4)] * 2,
        "attention_output/kernel",
        (),
        (0, 1),
        (2,),
    ),
    (
        lambda: layers.GroupQueryAttention(3, 4, 2),
        [(5, 4)] * 2,
        "value/kernel",
        (),
        (0,),
        (1, 2),
    ),
]


def called(layer, shapes):
    if layer.__class__.__name__.endswith("Cell"):
        layer(
            np.ones((1, *shapes[0]), "float32"), [np.ones((1, *s), "float32") for s in shapes[1:]]
        )
    else:
        layer(*[np.ones((1, *shape), "float32") for shape in shapes])
    return layer


@pytest.mark.parametrize(("make", "shapes", "name", "stack", "inputs", "outputs"), BY_HAND)
def test_the_table_by_hand(make, shapes, name, stack, inputs, outputs):
    expected = MatrixAxes(stack=stack, inputs=inputs, outputs=outputs)
    assert matrix_axes(called(make(), shapes), name) == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_kernels_of_every_layer_have_a_form_and_nothing_else_has(case):
    layer = case.make(layers)
    case.call(layer, case.inputs())
    for part in masked_parts(layer):
        for name, weight in part.masked_weights.items():
            if PrunableWeight(part, name).is_kernel:
                array = np.random.default_rng(1).random(tuple(weight.shape))
                axes = matrix_axes(part, name)
                matrix = axes.to_matrix(array)
                assert matrix.ndim == 3
                np.testing.assert_array_equal(axes.from_matrix(matrix, array.shape), array)
            else:
                with pytest.raises(ValueError, match="cannot be pruned in groups or blocks"):
                    matrix_axes(part, name)


def test_axes_in_any_order_come_back():
    array = np.arange(24).reshape(2, 3, 4)
    axes = MatrixAxes(stack=(1,), inputs=(2,), outputs=(0,))
    matrix = axes.to_matrix(array)
    assert matrix[2, 3, 1] == array[1, 2, 3]
    np.testing.assert_array_equal(axes.from_matrix(matrix, array.shape), array)


def matrix_of(layer, x, name="kernel"):
    """The matrix form of a weight of a layer without bias, and what the layer makes of x."""
    y = np.asarray(layer(x.astype("float32")))
    return matrix_axes(layer, name).to_matrix(np.asarray(layer.masked_weights[name])), y


def test_dense_and_einsum_dense_multiply_with_the_matrix():
    x = np.random.default_rng(1).normal(size=(2, 5, 4))
    [matrix], y = matrix_of(layers.Dense(3, use_bias=False), x)
    np.testing.assert_allclose(y, x @ matrix, rtol=1e-4, atol=1e-5)
    [matrix], y = matrix_of(layers.EinsumDense("abc,cde->abde", (None, 2, 3)), x)
    np.testing.assert_allclose(y.reshape(2, 5, 6), x @ matrix, rtol=1e-4, atol=1e-5)
    [matrix], y = matrix_of(layers.EinsumDense("abc,bcd->ad", 3), x)
    np.testing.assert_allclose(y, x.reshape(2, 20) @ matrix, rtol=1e-4, atol=1e-5)


def test_a_convolution_sums_the_products_of_its_positions():
    x = np.random.default_rng(1).normal(size=(2, 6, 4))
    matrices, y = matrix_of(layers.Conv1D(5, 3, use_bias=False), x)
    expected = sum(x[:, at : at + 4] @ matrix for at, matrix in enumerate(matrices))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_adds_its_products_where_they_belong():
    x = np.random.default_rng(1).normal(size=(2, 6, 4))
    matrices, y = matrix_of(layers.Conv1DTranspose(5, 3, use_bias=False), x)
    expected = np.zeros((2, 8, 5))
    for at, matrix in enumerate(matrices):
        expected[:, at : at + 6] += x @ matrix
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_depthwise_convolution_sums_over_its_window():
    x = np.random.default_rng(1).normal(size=(2, 6, 4))
    layer = layers.DepthwiseConv1D(3, depth_multiplier=2, use_bias=False)
    [matrix], y = matrix_of(layer, x)
    windows = np.stack([x[:, at : at + 4] for at in range(3)], axis=-1)
    expected = np.einsum("btcw,wcm->btcm", windows, matrix.reshape(3, 4, 2)).reshape(2, 4, 8)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_the_output_of_attention_takes_the_heads_one_after_the_other():
    layer = called(layers.MultiHeadAttention(2, 3), [(5, 4)] * 2)
    name = "attention_output/kernel"
    kernel = np.asarray(layer.masked_weights[name])
    [matrix] = matrix_axes(layer, name).to_matrix(kernel)
    np.testing.assert_array_equal(matrix, np.concatenate([kernel[0], kernel[1]]))


def test_a_bias_is_an_error_that_says_what_to_do():
    layer = called(layers.Dense(3, name="d"), [(4,)])
    message = r"'bias' of layer 'd' \(Dense\).*fewer than two axes.*shape=\(3,\).*`exclude`"
    with pytest.raises(ValueError, match=message):
        matrix_axes(layer, "bias")


def test_a_bias_of_two_axes_has_no_rule():
    layer = called(layers.GRU(3, name="g"), [(4, 2)])
    with pytest.raises(ValueError, match=r"'bias' of layer 'g' \(GRU\).*no rule.*matrix_rule"):
        matrix_axes(layer, "bias")


def test_an_unknown_weight_lists_those_there_are():
    layer = called(layers.Dense(3), [(4,)])
    with pytest.raises(ValueError, match=r"Argument `name`.*\['bias', 'kernel'\].*'weights'"):
        matrix_axes(layer, "weights")


class Twice(layers.Masked, keras.layers.Layer):
    """A layer with a stock sub-layer, and a weight of its own."""

    def build(self, input_shape):
        self.inner = keras.layers.Dense(input_shape[-1], name="inner")
        self.inner.build(input_shape)
        self.table = self.add_weight(shape=(2, 3, input_shape[-1]), name="table")


def test_a_weight_of_a_sub_layer_has_the_form_of_the_sub_layer():
    layer = Twice()
    layer.build((None, 4))
    assert matrix_axes(layer, "kernel") == MatrixAxes(inputs=(0,), outputs=(1,))


def test_a_rule_of_ones_own_is_inherited():
    class Once(Twice):
        pass

    layer = Once()
    layer.build((None, 4))
    with pytest.raises(ValueError, match="'table'.*no rule"):
        matrix_axes(layer, "table")
    matrix_rule(Twice, weights=["table"])(lambda layer, rank: MatrixAxes((0, 2), (1,)))
    assert matrix_axes(layer, "table") == MatrixAxes(inputs=(0, 2), outputs=(1,))


@pytest.mark.parametrize("axes", [((0,), (0,)), ((0,), (2,)), ((), ()), ((-2,), (-1,))])
def test_axes_that_are_not_all_axes_once_raise(axes):
    with pytest.raises(ValueError, match="must name every axis of the weight once"):
        MatrixAxes(*axes)
