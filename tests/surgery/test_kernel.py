"""Windows of convolutions that grow and shrink."""

import keras
import numpy as np
import pytest

from tfprune import surgery
from tfprune.surgery import by
from tfprune.surgery.edits.kernel import window_indices

layers = keras.layers


def around(layer, shape=(9, 9, 3)):
    """A model of one layer with random weights."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(draw.normal(size=weight.shape))
    return model


def example(model):
    shape = (2, *model.input.shape[1:])
    return np.random.default_rng(1).normal(size=shape).astype("float32")


SAME = [
    (layers.Conv2D(2, 3, padding="same", name="x"), 5, (9, 9, 3)),
    (layers.Conv2D(2, (3, 1), padding="same", name="x"), (5, 3), (9, 9, 3)),
    (layers.Conv2D(2, 2, padding="same", name="x"), 4, (9, 9, 3)),
    (layers.Conv2D(2, 3, padding="same", strides=2, name="x"), 5, (9, 9, 3)),
    (layers.Conv2D(2, 3, padding="same", strides=2, name="x"), 7, (8, 9, 3)),
    (layers.Conv2D(2, 3, padding="same", dilation_rate=2, name="x"), 5, (9, 9, 3)),
    (layers.Conv1D(2, 2, padding="causal", name="x"), 3, (9, 3)),
    (layers.Conv3D(2, 3, padding="same", name="x"), 5, (5, 5, 5, 1)),
    (layers.DepthwiseConv2D(3, padding="same", name="x"), 5, (9, 9, 3)),
    (layers.SeparableConv2D(2, 3, padding="same", name="x"), 5, (9, 9, 3)),
    (layers.SeparableConv2D(2, 1, padding="same", name="x"), 3, (9, 9, 3)),
    (layers.Conv2DTranspose(2, 3, padding="same", name="x"), 5, (9, 9, 3)),
    (layers.Conv2DTranspose(2, 3, padding="same", strides=2, name="x"), 5, (9, 9, 3)),
    (layers.Conv2DTranspose(2, 4, padding="same", strides=2, name="x"), 6, (9, 9, 3)),
    (layers.ConvLSTM2D(2, 3, padding="same", name="x"), 5, (3, 5, 5, 2)),
]


@pytest.mark.parametrize(("layer", "size", "shape"), SAME)
def test_taps_of_0_around_the_old_ones_change_nothing(layer, size, shape):
    model = around(layer, shape)
    plan = surgery.edit(model)
    plan.resize_kernel("x", size)
    assert plan.effects == ()
    x = example(model)
    np.testing.assert_allclose(plan.model(x), model(x), rtol=1e-5, atol=1e-5)
    assert plan.model.count_params() > model.count_params()


def test_an_odd_window_made_even_moves_and_the_plan_says_so():
    model = around(layers.Conv1D(2, 3, strides=2, padding="same", name="x"), (8, 3))
    plan = surgery.edit(model)
    plan.resize_kernel("x", 4)
    assert plan.effects == ("the window of 'x' moves",)


def test_the_part_with_the_lowest_cost_stays():
    kernel = np.ones((5, 5, 2, 3))
    kernel[4] = 50.0  # rows far from the centre count for little where weights are large
    rows, columns = window_indices(kernel, (3, 3))
    costs = {}
    for row in range(3):
        for column in range(3):
            costs[row, column] = sum(
                np.hypot(i - 2, j - 2) / (1 + np.abs(kernel[i, j]).mean())
                for i in range(row, row + 3)
                for j in range(column, column + 3)
            )
    best = min(costs, key=costs.get)
    np.testing.assert_array_equal(rows, np.arange(3) + best[0])
    np.testing.assert_array_equal(columns, np.arange(3) + best[1])
    assert best == (2, 1)


def test_of_equal_weights_the_middle_stays_and_of_causal_ones_the_end():
    kernel = np.ones((5, 1, 1))
    np.testing.assert_array_equal(window_indices(kernel, (3,))[0], [1, 2, 3])
    np.testing.assert_array_equal(window_indices(kernel, (3,), is_causal=True)[0], [2, 3, 4])


def test_a_smaller_window_has_the_old_taps_and_their_slots():
    model = around(layers.Conv2D(2, 5, padding="same", name="x"))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    x = example(model)
    model.train_on_batch(x, np.zeros((2, 9, 9, 2)))
    new = surgery.resize_kernel(model, "x", 3)
    old = np.array(model.get_layer("x").kernel)
    rows, columns = window_indices(old, (3, 3))
    np.testing.assert_array_equal(new.get_layer("x").kernel, old[rows][:, columns])
    slots = [next(v for v in m.optimizer.variables if "momentum" in v.path) for m in (model, new)]
    np.testing.assert_array_equal(slots[1], np.array(slots[0])[rows][:, columns])
    new.train_on_batch(x, np.zeros((2, 9, 9, 2)))


def test_a_valid_window_changes_the_shape_and_the_plan_says_to_what():
    model = around(layers.Conv2D(2, 3, name="x"))
    plan = surgery.edit(model)
    plan.resize_kernel("x", 5)
    assert plan.effects == ("'x' gives (5, 5, 2) in place of (7, 7, 2)",)
    x = example(model)
    np.testing.assert_allclose(plan.model(x), model(x)[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-5)
    padded = surgery.resize_kernel(model, "x", 5, padding="same")
    assert padded.output.shape == (None, 9, 9, 2)


def test_what_follows_must_fit_the_new_shape():
    inputs = keras.Input((6, 6, 1))
    x = layers.Flatten()(layers.Conv2D(2, 3, name="x")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    with pytest.raises(ValueError, match="'last/kernel' of shape"):
        surgery.resize_kernel(model, "x", 5)
    with pytest.raises(ValueError, match="no .*window|has a kernel size"):
        surgery.resize_kernel(model, "last", 5)
    with pytest.raises(ValueError, match="kernel_size"):
        surgery.resize_kernel(model, "x", (5, 5, 5))
    with pytest.raises(ValueError, match="kernel_size"):
        surgery.resize_kernel(model, "x", 0)


# Differences, and padding at each border ----------------------------------------------------------


def by_hand(x, kernel, pairs, strides=1, rate=1):
    """A convolution of (batch, *spatial, inputs) with explicit padding, in NumPy."""
    x = np.pad(x, [(0, 0), *pairs, (0, 0)]).astype("float64")
    sizes = [
        (n - (k - 1) * rate - 1) // strides + 1
        for n, k in zip(x.shape[1:-1], kernel.shape, strict=False)
    ]
    out = np.zeros((len(x), *sizes, kernel.shape[-1]))
    for tap in np.ndindex(*kernel.shape[:-2]):
        window = tuple(
            slice(t * rate, t * rate + strides * (n - 1) + 1, strides)
            for t, n in zip(tap, sizes, strict=True)
        )
        out += x[(slice(None), *window)] @ kernel[tap]
    return out


def test_differences_are_from_the_size_before():
    model = around(layers.Conv2D(2, (3, 4), padding="same", name="x"))
    new = surgery.resize_kernel(model, "x", (by(-1), by(+2)))
    assert new.get_layer("x").kernel_size == (2, 6)
    assert surgery.resize_kernel(model, "x", by(+2)).get_layer("x").kernel_size == (5, 6)
    assert surgery.resize_kernel(model, "x", (7, by(-3))).get_layer("x").kernel_size == (7, 1)
    with pytest.raises(ValueError, match=r"by\(-3\).* of \(3, 4\)"):
        surgery.resize_kernel(model, "x", by(-3))
    plan = surgery.edit(model)
    plan.resize_kernel("x", by(+2))
    plan.resize_kernel("x", by(+2))
    with pytest.raises(ValueError, match="'x', twice"):
        plan.model  # noqa: B018


BORDERS = [  # the layer, the size, the padding, the shape of the input, whether the function stays
    (layers.Conv2D(2, (3, 4), name="x"), (2, 6), ((1, 0), (3, 2)), (9, 9, 3), False),
    (layers.Conv2D(2, 3, name="x"), 3, 0, (9, 9, 3), True),
    (layers.Conv2D(2, 3, name="x"), 3, ((1, 0), 0), (9, 9, 3), False),
    (layers.Conv2D(2, 3, name="x"), (3, 5), ((0, 0), (2, 0)), (9, 9, 3), True),
    (layers.Conv2D(2, 3, padding="same", name="x"), (4, 3), ((2, 1), 1), (9, 9, 3), True),
    (layers.Conv2D(2, 3, padding="same", name="x"), (4, 3), ((1, 2), 1), (9, 9, 3), True),
    (layers.Conv2D(2, 2, padding="same", strides=2, name="x"), 3, ((1, 0), 1), (8, 7, 3), True),
    (layers.Conv2D(2, 3, padding="same", strides=2, name="x"), 3, ((0, 1), 1), (8, 7, 3), True),
    (layers.Conv2D(2, 3, padding="same", strides=2, name="x"), 3, ((1, 0), 1), (8, 7, 3), False),
    (layers.Conv1D(2, 2, padding="causal", dilation_rate=2, name="x"), 3, (4, 0), (9, 3), True),
    (layers.Conv1D(2, 2, padding="causal", dilation_rate=2, name="x"), 3, (3, 1), (9, 3), False),
    (layers.Conv3D(2, 2, name="x"), (3, 2, 2), ((1, 0), 0, 0), (4, 4, 4, 1), True),
]


@pytest.mark.parametrize(("layer", "size", "padding", "shape", "keeps"), BORDERS)
def test_padding_at_each_border(layer, size, padding, shape, keeps):
    model = around(layer, shape)
    plan = surgery.edit(model)
    plan.resize_kernel("x", size, padding)
    assert (plan.effects == ()) == keeps
    x, new = example(model), surgery.Plan.from_dict(model, plan.to_dict()).model
    outputs = np.array(new(x))
    rank = len(shape) - 1
    given = (padding,) * rank if isinstance(padding, int) else padding
    pairs = [(n, n) if isinstance(n, int) else n for n in ([given] if rank == 1 else given)]
    made = new.get_layer("x")
    truth = by_hand(x, np.array(made.kernel), pairs, made.strides[0], made.dilation_rate[0])
    np.testing.assert_allclose(outputs, truth + made.bias, rtol=1e-4, atol=1e-4)
    is_same = outputs.shape == model(x).shape and np.allclose(
        outputs, model(x), rtol=1e-4, atol=1e-4
    )
    assert is_same == keeps


def test_padding_that_is_there_is_changed_if_it_is_the_layers_own():
    inputs = keras.Input((8, 8, 2))
    padded = layers.ZeroPadding2D(((0, 1), (0, 1)), name="zeros")(inputs)
    model = around(layers.Conv2D(2, 3, strides=2, name="x"), (8, 8, 2))
    conv = model.get_layer("x")
    model = keras.Model(inputs, conv(padded))
    new = surgery.resize_kernel(model, "x", 5, padding=((1, 2), (1, 2)))
    assert [layer.name for layer in new.layers[1:]] == ["zeros", "x"]
    assert new.get_layer("zeros").padding == ((1, 2), (1, 2))
    x = example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-5)
    other = keras.Model(inputs, [conv(padded), padded])
    new = surgery.resize_kernel(other, "x", 5, padding=1)
    assert new.get_layer("zeros").padding == ((0, 1), (0, 1))
    np.testing.assert_allclose(new(x)[0], model(x), rtol=1e-5, atol=1e-5)


def test_a_shared_layer_and_one_in_a_sequence_are_padded_at_each_call():
    inputs = keras.Input((6, 2))
    conv = layers.Conv1D(2, 3, padding="causal", name="x")
    model = keras.Model(inputs, conv(conv(inputs)))
    conv.kernel.assign(np.random.default_rng(0).normal(size=(3, 2, 2)))
    x = example(model)
    new = surgery.resize_kernel(model, "x", by(+2), padding=(4, 0))
    np.testing.assert_allclose(new(x), model(x), rtol=1e-4, atol=1e-5)
    chain = keras.Sequential([keras.Input((6, 2)), layers.ReLU(), conv])
    new = surgery.resize_kernel(chain, "x", by(+2), padding=(4, 0))
    assert [type(layer).__name__ for layer in new.layers] == ["ReLU", "ZeroPadding1D", "Conv1D"]
    np.testing.assert_allclose(new(x), chain(x), rtol=1e-4, atol=1e-5)


def test_a_recurrent_convolution_is_padded_along_its_window():
    model = around(layers.ConvLSTM2D(2, 3, padding="same", name="x"), (3, 5, 5, 2))
    new = surgery.resize_kernel(model, "x", 3, padding=((1, 1), (1, 1)))
    x = example(model)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [None, 3.0, (3, None), "3"])
def test_what_is_no_kernel_size_is_refused(size):
    with pytest.raises(ValueError, match="`kernel_size` must be 2 positive integers"):
        surgery.resize_kernel(around(layers.Conv2D(2, 3, name="x")), "x", size)


def test_padding_is_spelt_as_keras_takes_it():
    plan = surgery.edit(around(layers.Conv2D(2, 3, padding="same", name="x")))
    plan.resize_kernel("x", 5, padding="SAME")
    assert plan.effects == ()


NO_PADDING = [(1, 2, 3), ((1, 2, 3), 1), -1, ((1, 0.5), 1), (True, 1), 1.5, "zeros", "causal"]


@pytest.mark.parametrize("padding", NO_PADDING)
def test_what_is_no_padding_is_refused(padding):
    with pytest.raises(ValueError, match="Argument `padding` must be"):
        surgery.resize_kernel(around(layers.Conv2D(2, 3, name="x")), "x", 3, padding=padding)
    with pytest.raises(ValueError, match="not transposed"):
        surgery.resize_kernel(around(layers.Conv2DTranspose(2, 3, name="x")), "x", 3, padding=1)


# Depth multipliers --------------------------------------------------------------------------------

DEEP = [
    layers.DepthwiseConv2D(3, depth_multiplier=2, name="x"),
    layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, padding="same", name="x"),
    layers.SeparableConv2D(4, 3, depth_multiplier=2, name="x"),
]


def behind(layer, shape=(6, 6, 3)):
    """The layer, then a norm and a convolution, with random weights, compiled and trained."""
    inputs = keras.Input(shape)
    x = layers.BatchNormalization(name="norm")(layer(inputs))
    x = layers.Flatten()(layers.MaxPooling2D(2)(layers.ReLU()(x)))
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    draw = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(np.abs(draw.normal(size=weight.shape)) + 0.1)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.train_on_batch(example(model), np.zeros((2, 2)))
    return model


@pytest.mark.parametrize("layer", DEEP, ids=["plain", "without_bias", "separable"])
def test_more_outputs_of_each_channel_change_nothing(layer):
    model = behind(layer)
    plan = surgery.edit(model)
    plan.resize_depth_multiplier("x", by(+1))
    assert plan.effects == ()
    new, x = plan.model, example(model)
    assert new.get_layer("x").depth_multiplier == 3
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-6)
    kernel = np.array(new.get_layer("x").weights[0])
    assert (kernel[..., 2] != 0).any(axis=(0, 1)).all()
    before = [np.array(weight) for weight in new.trainable_variables]
    for _ in range(2):
        new.train_on_batch(x, np.zeros((2, 2)))
    after = [np.array(weight) for weight in new.trainable_variables]
    assert all((a != b).mean() > 0.5 for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("layer", DEEP, ids=["plain", "without_bias", "separable"])
def test_the_outputs_of_a_channel_that_matter_most_stay_with_their_weights_and_slots(layer):
    model = behind(layer)
    old = model.get_layer("x")
    size = old.weights[0].shape[-2]
    utility = np.linalg.norm(np.array(old.weights[0]).reshape(-1, size, 2), axis=0)
    if isinstance(old, layers.SeparableConv2D):
        rows = np.array(old.pointwise_kernel).reshape(size, 2, -1)
        utility *= np.linalg.norm(rows, axis=-1)
    elif old.use_bias:
        utility += np.abs(np.array(old.bias)).reshape(size, 2)
    best = utility.argmax(axis=1)
    assert len(set(best)) == 2  # it is not the same one everywhere
    for slots in (False, True):
        new = surgery.resize_depth_multiplier(model, "x", 1)
        ours, theirs = (m.optimizer.variables if slots else m.weights for m in (new, model))
        ours = {w.path.split("/")[-1] if slots else w.path: np.array(w) for w in ours}
        theirs = {w.path.split("/")[-1] if slots else w.path: np.array(w) for w in theirs}
        name = "_momentum" if slots else ""
        kept = np.arange(size) * 2 + best
        for key, value in theirs.items():
            if slots and not key.endswith(name):
                continue
            is_own = "x_" in key or "x/" in key
            if is_own and "pointwise" in key:
                value = value[:, :, kept]
            elif is_own and "bias" in key and not isinstance(old, layers.SeparableConv2D):
                value = value[kept]
            elif is_own and "bias" not in key:
                value = np.take_along_axis(value, best.reshape(1, 1, -1, 1), 3)
            elif "norm" in key and not isinstance(old, layers.SeparableConv2D):
                value = value[kept]
            elif "last" in key and "kernel" in key and old.name and value.shape != ours[key].shape:
                value = value.reshape(-1, 2 * size, 2)[:, kept].reshape(-1, 2)
            np.testing.assert_array_equal(ours[key], value)


def test_one_after_the_other_each_is_wider_than_the_one_before():
    inputs = keras.Input((6, 6, 2))
    x = layers.DepthwiseConv2D(1, depth_multiplier=2, name="first")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=1, name="second")(x)
    model = keras.Model(inputs, layers.Conv2D(3, 1, name="last")(x))
    draw = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(draw.normal(size=weight.shape))
    plan = surgery.edit(model)
    plan.resize_depth_multiplier("second", by(+1))
    plan.resize_depth_multiplier("first", 3)
    plan.resize_kernel("second", by(+2), padding=1)
    plan.resize_depth_multiplier("second", by(+1))
    new, x = plan.model, example(model)
    assert new.get_layer("second").kernel.shape == (5, 5, 6, 3)
    assert new.get_layer("last").kernel.shape == (1, 1, 18, 3)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-4, atol=1e-5)


def test_what_needs_as_many_outputs_refuses():
    inputs = keras.Input((6, 6, 3))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="x")(inputs)
    joined = layers.Add()([x, layers.Conv2D(6, 3, name="other")(inputs)])
    grouped = layers.Conv2D(4, 1, groups=2, name="grouped")(x)
    for output, message in (
        (x, "output of the model"),
        (layers.Conv2D(1, 1)(joined), "joined with those of 'other'"),
        (grouped, "2 groups in 'grouped'"),
    ):
        with pytest.raises(ValueError, match=f"'x'.*{message}"):
            surgery.resize_depth_multiplier(keras.Model(inputs, output), "x", 3)
    with pytest.raises(ValueError, match="Only a depthwise"):
        surgery.resize_depth_multiplier(keras.Model(inputs, joined), "other", 3)
    for wrong in (0, by(-2), "2", True, 1.5):
        with pytest.raises(ValueError, match="Argument `depth_multiplier` must be"):
            surgery.resize_depth_multiplier(keras.Model(inputs, joined), "x", wrong)
