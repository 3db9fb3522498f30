"""Layers fitted to the dense model, against NumPy's least squares and functions known exactly."""

import keras
import numpy as np
import pytest

import tfprune
from tfprune import layers
from tfprune.recovery import least_squares
from tfprune.recovery.least_squares import Sums, solve
from tfprune.recovery.matrix_forms import form_of
from tfprune.recovery.reconstruction_report import ReconstructionReport

DRAW = np.random.default_rng(0)
CONVOLUTIONS = {
    "1d": (keras.layers.Conv1D(4, 3, strides=2), (9, 4)),
    "1d causal": (keras.layers.Conv1D(4, 3, padding="causal", dilation_rate=2), (9, 4)),
    "2d": (keras.layers.Conv2D(4, (3, 2)), (6, 5, 4)),
    "2d same, stride": (keras.layers.Conv2D(4, (3, 2), strides=2, padding="same"), (6, 5, 4)),
    "2d same, dilation": (keras.layers.Conv2D(4, 3, padding="same", dilation_rate=2), (6, 5, 4)),
    "2d groups": (keras.layers.Conv2D(6, 3, groups=2, padding="same"), (6, 5, 4)),
    "3d": (keras.layers.Conv3D(2, 2, padding="same", strides=(1, 2, 1)), (4, 3, 5, 2)),
    "depthwise 1d": (keras.layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4)),
    "depthwise 2d": (
        keras.layers.DepthwiseConv2D(3, padding="same", strides=2, depth_multiplier=2),
        (6, 5, 4),
    ),
    "dense": (keras.layers.Dense(5), (3, 4)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rows_times_kernel_is_what_the_layer_computes(name):
    layer, shape = CONVOLUTIONS[name]
    x = DRAW.normal(size=(3, *shape)).astype("float32")
    expected = layer(x)
    form = form_of(layer)
    kernel = form.to_matrix(np.asarray(layer.kernel))
    np.testing.assert_array_equal(form.to_kernel(kernel), np.asarray(layer.kernel))
    rows = np.asarray(form.rows(form.channels_last(x), expected))
    targets = np.asarray(form.targets(expected))
    np.testing.assert_allclose(rows @ kernel, targets, rtol=1e-4, atol=1e-5)


def sums_of(layer, x, target):
    form = form_of(layer)
    sums = Sums(form)
    sums.add(keras.ops.convert_to_tensor(x), layer(x), keras.ops.convert_to_tensor(target))
    return form, sums.values()


def patches(x, window):
    """The patches of a "valid" convolution, by hand."""
    high, wide = (n - k + 1 for n, k in zip(x.shape[1:3], window, strict=True))
    cut = [x[:, i : i + high, j : j + wide] for i in range(window[0]) for j in range(window[1])]
    return np.concatenate(cut, axis=-1).reshape(-1, len(cut) * x.shape[-1]).astype("float64")


@pytest.mark.parametrize("kind", ["dense", "convolution", "no bias"])
def test_the_solution_is_that_of_numpy(kind):
    if kind == "convolution":
        layer, x = keras.layers.Conv2D(4, (3, 2)), DRAW.normal(size=(20, 6, 5, 2))
        rows = patches(x, (3, 2))
    else:
        layer, x = keras.layers.Dense(4, use_bias=kind != "no bias"), DRAW.normal(2, 1, (50, 7))
        rows = x
    x = x.astype("float32")
    target = DRAW.normal(size=layer(x).shape).astype("float32")
    form, sums = sums_of(layer, x, target)
    free = np.ones(form.shape, bool)
    has_bias = layer.bias is not None
    solution = solve(sums, free, np.full((1, 4), has_bias), ridge=1e-12)
    design = np.concatenate([rows, np.ones((len(rows), 1))], 1) if has_bias else rows
    expected = np.linalg.lstsq(design, target.reshape(-1, 4).astype("float64"), rcond=None)[0]
    kernel = np.asarray(layer.kernel) + form.to_kernel(solution.kernel)
    flat = kernel.reshape(-1, 4)
    np.testing.assert_allclose(flat, expected[: len(flat)], rtol=1e-5, atol=1e-6)
    if has_bias:
        np.testing.assert_allclose(solution.bias[0], expected[-1], rtol=1e-5, atol=1e-6)
    error = target.reshape(-1, 4) - design @ expected
    centred = target.reshape(-1, 4) - target.reshape(-1, 4).mean(axis=0)
    relative = np.sqrt(np.square(error).sum() / np.square(centred).sum())
    np.testing.assert_allclose(solution.after, relative, rtol=1e-5)


def test_masked_elements_are_left_out_of_each_column():
    layer, x = keras.layers.Dense(2), DRAW.normal(1, 1, (40, 3)).astype("float32")
    target = DRAW.normal(size=layer(x).shape).astype("float32")
    free = np.array([[[True, True], [False, True], [True, False]]])
    _, sums = sums_of(layer, x, target)
    solution = solve(sums, free, np.array([[True, False]]), ridge=1e-12)
    assert (solution.kernel[~free] == 0).all()
    assert solution.bias[0, 1] == 0
    error = target - np.asarray(layer(x))
    with_ones = np.concatenate([x[:, [0, 2]], np.ones((40, 1))], 1).astype("float64")
    first = np.linalg.lstsq(with_ones, error[:, 0], rcond=None)[0]
    second = np.linalg.lstsq(x[:, [0, 1]].astype("float64"), error[:, 1], rcond=None)[0]
    found = [*solution.kernel[0, [0, 2], 0], solution.bias[0, 0]]
    np.testing.assert_allclose(found, first, rtol=1e-5)
    np.testing.assert_allclose(solution.kernel[0, [0, 1], 1], second, rtol=1e-5)


def test_where_the_data_say_nothing_weights_stay():
    x = DRAW.normal(size=(40, 3)).astype("float32")
    x[:, 1] = 7  # never changes
    layer = keras.layers.Dense(2)
    target = DRAW.normal(size=layer(x).shape).astype("float32")
    _, sums = sums_of(layer, x, target)
    solution = solve(sums, np.ones((1, 3, 2), bool), np.ones((1, 2), bool), ridge=1e-6)
    assert (solution.kernel[0, 1] == 0).all()
    assert (solution.kernel[0, 0] != 0).all()


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_ridge_has_no_scale(factor):
    layer, x = keras.layers.Dense(2), DRAW.normal(size=(5, 8)).astype("float32")
    target = DRAW.normal(size=layer(x).shape).astype("float32")
    free = np.ones((1, 8, 2), bool), np.ones((1, 2), bool)
    once = solve(sums_of(layer, x, target)[1], *free, ridge=1e-2)
    kernel = np.asarray(layer.kernel)
    layer.kernel.assign(kernel / factor)
    again = solve(sums_of(layer, x * np.float32(factor), target)[1], *free, ridge=1e-2)
    np.testing.assert_allclose(again.kernel * factor, once.kernel, rtol=1e-3, atol=1e-6)


def linear_network(rank=3):
    """Ten units that are combinations of three: any three of them tell the others."""
    model = keras.Sequential(
        [
            keras.Input((rank,)),
            keras.layers.Dense(10, name="hidden"),
            keras.layers.Dense(4, name="next"),
            keras.layers.Dense(2, name="last"),
        ]
    )
    for weight in model.weights:
        weight.assign(DRAW.normal(size=weight.shape))
    return model


@pytest.mark.parametrize("stripped_first", [False, True])
def test_redundant_units_of_a_linear_network_are_made_up_for_exactly(stripped_first):
    dense = linear_network()
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5, exclude=["next"])
    x = DRAW.normal(size=(64, 3)).astype("float32")
    given = tfprune.strip(masked) if stripped_first else masked
    fitted, report = tfprune.reconstruct(given, dense, x, return_report=True)
    small = fitted if stripped_first else tfprune.strip(fitted)
    assert small.get_layer("hidden").units == 5
    expected = np.asarray(dense(x))
    scale = abs(expected).max()
    assert abs(np.asarray(masked(x)) - expected).max() > 0.1 * scale
    assert abs(np.asarray(small(x)) - expected).max() < 2e-5 * scale
    assert report.layers[-2].name == "next"
    assert report.layers[-2].before > 0.1 > 1e-4 > report.layers[-2].after


def residual(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x))
    y = keras.layers.Conv2D(12, 3, padding="same", use_bias=False, name="inner")(x)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization(name="inner_norm")(y))
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = keras.layers.Conv2D(8, 3, padding="same", name="outer")(y)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, y]))
    model = keras.Model(inputs, keras.layers.Dense(5, name="last")(x))
    images = np.random.default_rng(seed).normal(size=(48, 8, 8, 3)).astype("float32")
    return tfprune.recalibrate(model, images), images


@pytest.fixture(scope="module")
def pruned():
    """A residual network, the same with half of the units masked, images; fitted, the report."""
    dense, images = residual()
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5)
    before = [np.array(w) for w in (*masked.weights, *dense.weights)]
    fitted, report = tfprune.reconstruct(masked, dense, images, return_report=True)
    for weight, value in zip((*masked.weights, *dense.weights), before, strict=True):
        np.testing.assert_array_equal(np.array(weight), value)
    return dense, masked, images, fitted, report


def rms(a, b):
    return float(np.sqrt(np.square(np.asarray(a) - np.asarray(b)).mean()))


def test_a_residual_network_errs_less_and_keeps_its_masks(pruned):
    dense, masked, images, fitted, report = pruned
    unseen = np.random.default_rng(9).normal(size=images.shape).astype("float32")
    assert rms(fitted(unseen), dense(unseen)) < 0.7 * rms(masked(unseen), dense(unseen))
    assert all(layer.after <= layer.before for layer in report.layers)
    assert {"inner", "outer", "depthwise", "last"} <= {layer.name for layer in report.layers}
    for ours, theirs in zip(
        tfprune.masks.masked_layers(masked), tfprune.masks.masked_layers(fitted), strict=True
    ):
        for name, mask in ours.trainable_masks.items():
            kept = np.array(mask)
            np.testing.assert_array_equal(kept, np.array(theirs.trainable_masks[name]))
            assert not np.array(theirs.masked_weights[name])[~kept].any()
    assert "call" not in vars(fitted.get_layer("outer"))
    assert not callable(vars(dense.get_layer("outer")).get("call"))


def test_stripped_and_masked_models_are_fitted_alike(pruned):
    dense, masked, images, fitted, _ = pruned
    one = tfprune.strip(fitted)
    other = tfprune.reconstruct(tfprune.strip(masked), dense, images)
    assert one.get_layer("inner").filters == other.get_layer("inner").filters == 6
    np.testing.assert_allclose(other(images), one(images), rtol=1e-3, atol=1e-4)


def test_neither_batches_nor_chunks_matter(pruned, monkeypatch):
    dense, masked, images, whole, _ = pruned
    monkeypatch.setattr(least_squares, "ELEMENTS_AT_ONCE", 20_000)
    parts = tfprune.reconstruct(masked, dense, (images, None), batch_size=7)
    np.testing.assert_allclose(parts(images), whole(images), rtol=1e-4, atol=1e-5)


def test_unstructured_masks_and_frozen_elements():
    dense = linear_network(rank=6)
    masked = tfprune.prunable(dense)
    keep = DRAW.random((10, 4)) > 0.4
    tfprune.set_masks(masked, "next", "kernel", trainable=keep, frozen=np.s_[:2])
    x = DRAW.normal(size=(64, 6)).astype("float32")
    fitted, report = tfprune.reconstruct(masked, dense, x, return_report=True)
    kernel, before = (np.array(m.get_layer("next").kernel) for m in (fitted, masked))
    assert not kernel[~keep].any()
    np.testing.assert_array_equal(kernel[:2], before[:2])
    assert (kernel[2:] != before[2:])[keep[2:]].all()
    assert report.layers[0].after < report.layers[0].before
    np.testing.assert_array_equal(*(m.get_layer("hidden").kernel for m in (fitted, masked)))


def test_what_cannot_be_fitted_is_listed():
    inputs = keras.Input((6, 4))
    x = layers.Dense(8, name="hidden")(inputs)
    x = layers.LSTM(3, name="memory")(x)
    x = layers.Dense(3, name="held", trainable=False)(x)
    dense = keras.Model(inputs, layers.Dense(2, name="last")(x))
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5, only=["hidden"])
    x = DRAW.normal(size=(32, 6, 4)).astype("float32")
    fitted, report = tfprune.reconstruct(masked, dense, x, ridge=1e-6, return_report=True)
    assert {item.name: item.reason for item in report.skipped} == {
        "memory": "a LSTM has no matrix form here",
        "held": "it has `trainable=False`",
    }
    assert "memory: left as it is" in str(report)
    assert rms(fitted(x), dense(x)) < rms(masked(x), dense(x))


def test_a_report_prints():
    report = ReconstructionReport((), ())
    assert str(report) == ""


def test_what_does_not_fit_together_is_refused():
    dense = linear_network()
    x = np.ones((4, 3), "float32")
    with pytest.raises(ValueError, match="No layer can be fitted"):
        tfprune.reconstruct(dense, dense, x)
    with pytest.raises(ValueError, match="ridge"):
        tfprune.reconstruct(dense, dense, x, ridge=0)
    with pytest.raises(ValueError, match="must be the model from which"):
        tfprune.reconstruct(keras.Sequential([keras.Input((3,)), layers.Dense(1)]), dense, x)
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5)
    with pytest.raises(ValueError, match="finite numbers"):
        tfprune.reconstruct(masked, dense, x * np.nan)
    small = tfprune.strip(masked)
    small.get_layer("hidden").kernel.assign(DRAW.normal(size=(3, 5)))
    with pytest.raises(ValueError, match="'hidden'.*any more.*masked model"):
        tfprune.reconstruct(small, dense, x)
