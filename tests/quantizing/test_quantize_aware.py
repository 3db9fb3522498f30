"""Training with fake quantisation: rounded kernels by hand, masks, what is named and refused."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune import callbacks, schedules
from tfprune.layers import FakeQuantize

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")


def mlp():
    return keras.Sequential(
        [
            keras.Input((6,), name="x"),
            L.Dense(10, activation="relu", name="first"),
            L.Dense(8, activation="sigmoid", name="second"),
            L.Dense(3, name="last"),
        ],
        name="network",
    )


def masked():
    model = tfprune.prunable(mlp())
    tfprune.prune_weights(model, 0.4)
    model.compile("adam", "mse", jit_compile=False)
    return model


def ranges(model):
    return {x.name: x.range for x in model.layers if isinstance(x, FakeQuantize)}


def of_channels(kernel, channels):
    """A kernel rounded by hand, `channels` the axes that index its channels."""
    inner = tuple(axis for axis in range(kernel.ndim) if axis not in channels)
    step = np.abs(kernel).max(axis=inner, keepdims=True) / 127
    return np.round(kernel / np.where(step, step, 1)) * step


# A layer, the shape of its inputs, and the axes of its kernels that index channels.
LAYERS = {
    "Dense": (lambda: L.Dense(5), (4,), {"kernel": (1,)}),
    "EinsumDense": (lambda: L.EinsumDense("ab,bcd->acd", (3, 2)), (4,), {"kernel": (1, 2)}),
    "contracting two": (lambda: L.EinsumDense("abc,bcd->ad", 3), (4, 2), {"kernel": (2,)}),
    "Conv1D": (lambda: L.Conv1D(5, 3), (8, 4), {"kernel": (2,)}),
    "Conv2D": (lambda: L.Conv2D(6, 3, groups=2), (8, 8, 4), {"kernel": (3,)}),
    "Conv3D": (lambda: L.Conv3D(3, 2), (4, 4, 4, 2), {"kernel": (4,)}),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(5, 3), (8, 4), {"kernel": (1,)}),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(5, 3), (6, 6, 4), {"kernel": (2,)}),
    "DepthwiseConv1D": (
        lambda: L.DepthwiseConv1D(3, depth_multiplier=2),
        (8, 4),
        {"kernel": (1, 2)},
    ),
    "DepthwiseConv2D": (
        lambda: L.DepthwiseConv2D(3, depth_multiplier=2),
        (8, 8, 4),
        {"kernel": (2, 3)},
    ),
    "SeparableConv2D": (
        lambda: L.SeparableConv2D(5, 3),
        (8, 8, 4),
        {"depthwise_kernel": (2, 3), "pointwise_kernel": (3,)},
    ),
    "TimeDistributed": (lambda: L.TimeDistributed(L.Dense(5)), (3, 4), {"kernel": (1,)}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_with_kernels_rounded_for_each_channel(name):
    make, shape, channels = LAYERS[name]
    model = keras.Sequential([keras.Input(shape), make()])
    for weight in model.weights:  # channels of other sizes, and a bias that is none
        weight.assign(RNG.normal(size=weight.shape) * RNG.uniform(0.1, 5, weight.shape[-1:]))
    aware = tfprune.quantize_aware(model)
    x = RNG.normal(size=(3, *shape)).astype("float32")
    assert np.abs(aware(x) - model(x)).max() > 1e-4
    stock = keras.models.clone_model(model)
    rounded = [
        of_channels(np.asarray(weight), channels[weight.name])
        if weight.name in channels
        else np.asarray(weight)
        for weight in model.weights
    ]
    stock.set_weights(rounded)
    np.testing.assert_allclose(aware(x), stock(x), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(tfprune.strip(aware).weights, rounded, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_attention_computes_with_rounded_projections():
    x = keras.Input((5, 6))
    model = keras.Model(x, L.MultiHeadAttention(2, 4, name="attention")(x, x))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        aware = tfprune.quantize_aware(model)
    stock, channels = keras.models.clone_model(model), {"attention_output": (2,)}
    stock.set_weights(
        [
            of_channels(np.asarray(w), channels.get(w.path.split("/")[-2], (1, 2)))
            if w.name == "kernel"
            else np.asarray(w)
            for w in model.weights
        ]
    )
    values = RNG.normal(size=(2, 5, 6)).astype("float32")
    np.testing.assert_allclose(aware(values), stock(values), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_at_the_rounded_kernels_but_for_pruned_elements():
    model = masked()
    aware = tfprune.quantize_aware(model)
    stock = mlp()
    stock.set_weights(
        [
            of_channels(np.asarray(w), (1,)) if len(w.shape) > 1 else np.asarray(w)
            for w in model.weights
        ]
    )

    def gradients(network):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((network(X) - Y) ** 2)
        return tape.gradient(loss, [v.value for v in network.trainable_variables])

    for layer, ours, theirs in zip(
        [n for n in ("first", "second", "last") for _ in range(2)],
        gradients(aware),
        gradients(stock),
        strict=True,
    ):
        kept = np.asarray(model.get_layer(layer).trainable_masks["kernel"])
        kept = kept if len(ours.shape) > 1 else np.ones(ours.shape)
        np.testing.assert_allclose(ours, theirs * kept, rtol=1e-4, atol=1e-6)


def test_what_enters_layers_is_rounded_to_the_range_of_the_data():
    model = mlp()
    aware = tfprune.quantize_aware(model, (X,))
    hidden = [np.asarray(keras.Model(model.inputs, x.output)(X)) for x in model.layers[:2]]
    expected = {
        "x_fake_quantize": (X.min(), X.max()),
        "first_fake_quantize": (0, hidden[0].max()),
        "second_fake_quantize": (0, hidden[1].max()),
    }
    assert list(ranges(aware)) == list(expected)
    for name, found in ranges(aware).items():  # measured on rounded kernels
        np.testing.assert_allclose(found, expected[name], rtol=0.02, atol=1e-6)
    inner = keras.Model(aware.inputs, aware.get_layer("x_fake_quantize").output)(X)
    assert 0 < np.abs(inner - X).max() <= 1.01 * (X.max() - X.min()) / 255 / 2
    tfprune.quantize_aware(model, tf.data.Dataset.from_tensor_slices((X, Y)).batch(16))


def test_a_tensor_is_rounded_once_for_all_that_take_it():
    x = keras.Input((6,), name="x")
    y = L.Dense(6, activation="relu", name="first")(x)
    z = L.Dense(6, name="second")(y)
    outputs = [L.Dense(2, name="last")(z + y), y]
    aware = tfprune.quantize_aware(keras.Model(x, outputs), (X,))
    names = [layer.name for layer in aware.layers if isinstance(layer, FakeQuantize)]
    assert len(names) == 4  # the inputs, both that are added, and their sum
    assert aware.get_layer("second").input is aware.get_layer("first_fake_quantize").output
    assert aware.outputs[1] is aware.get_layer("first").output  # with its name
    values = aware.get_layer("first_fake_quantize").output, aware.get_layer("second").output
    y, z = keras.Model(aware.inputs, values)(X)
    assert len(np.unique(y)) <= 256 < len(np.unique(z))


@pytest.mark.parametrize("jit", [False, True])
def test_pruned_elements_stay_zero_through_training(jit):
    aware = tfprune.quantize_aware(masked())
    aware.compile("adam", "mse", jit_compile=jit)
    before = [
        np.array(layer.trainable_masks["kernel"])
        for layer in aware.layers
        if layer.weights and hasattr(layer, "trainable_masks")
    ]
    aware.fit(X, Y, epochs=3, batch_size=16, verbose=0)
    layers = [aware.get_layer(name) for name in ("first", "second", "last")]
    for layer, kept in zip(layers, before, strict=True):
        read = np.asarray(layer.masks_by_name["kernel"].read())
        assert not np.asarray(layer.kernel)[~kept].any() and not read[~kept].any()
        assert np.abs(read - np.asarray(layer.kernel)).max() > 0
    assert all(low < high for low, high in ranges(aware).values())
    small = tfprune.strip(aware)
    for layer, kept in zip(layers, before, strict=True):
        assert not np.asarray(small.get_layer(layer.name).kernel)[~kept].any()


def test_callbacks_prune_on_while_it_trains():
    aware = tfprune.quantize_aware(masked())
    aware.compile("adam", "mse", jit_compile=False)
    aware.fit(
        X,
        Y,
        epochs=2,
        verbose=0,
        callbacks=[
            callbacks.PruneUnits(schedules.OneShot(0.5, step=1)),
            callbacks.StraightThrough(schedules.Constant(0.6), only=["last"]),
        ],
    )
    small = tfprune.strip(aware)
    assert [layer.units for layer in small.layers if isinstance(layer, L.Dense)] == [5, 4, 3]
    np.testing.assert_allclose(small.predict(X, verbose=0), aware.predict(X, verbose=0), atol=1e-5)


@pytest.mark.parametrize("format", ["model.keras", "model.weights.h5"])
def test_files_keep_that_kernels_are_rounded(format, tmp_path):
    aware = tfprune.quantize_aware(masked(), (X,))
    aware.fit(X, Y, verbose=0)
    if format == "model.keras":
        aware.save(tmp_path / format)
        loaded = keras.models.load_model(tmp_path / format)
    else:
        aware.save_weights(tmp_path / format)
        loaded = tfprune.quantize_aware(mlp())
        loaded.load_weights(tmp_path / format)
    np.testing.assert_array_equal(loaded(X), aware(X))
    assert ranges(loaded) == ranges(aware)
    kernel = loaded.get_layer("first").kernel
    kernel.assign(kernel + 0.01)
    assert np.unique(np.asarray(tfprune.strip(loaded).get_layer("first").kernel)[:, 0]).size <= 6


def test_a_resized_model_goes_on_with_rounded_kernels():
    aware = tfprune.quantize_aware(mlp(), (X,))
    wider = tfprune.surgery.resize(aware, {"first": 14})
    kernel = np.array(wider.get_layer("second").kernel)
    read = wider.get_layer("second").masks_by_name["kernel"].read()
    np.testing.assert_allclose(read, of_channels(kernel, (1,)), rtol=1e-5, atol=1e-7)
    assert ranges(wider) == ranges(aware)


def test_the_model_given_stays_as_it_is_and_the_copy_is_compiled_like_it():
    model = masked()
    model.fit(X, Y, verbose=0)
    before, outputs = model.get_weights(), np.array(model(X))
    aware = tfprune.quantize_aware(model, (X,))
    assert aware.compiled and int(aware.optimizer.iterations) == int(model.optimizer.iterations)
    aware.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(model(X), outputs)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_only_and_exclude_choose_the_kernels():
    for chosen in ({"only": ["first"]}, {"exclude": lambda x: x.name in ("second", "last")}):
        aware = tfprune.quantize_aware(mlp(), **chosen)
        assert list(ranges(aware)) == ["x_fake_quantize"]
        quantizers = [
            aware.get_layer(name).masks_by_name["kernel"].quantizer for name in ("first", "second")
        ]
        assert quantizers[0] is not None and quantizers[1] is None


def test_other_layers_with_kernels_are_named():
    lstm = keras.Sequential([keras.Input((4, 6)), L.LSTM(5, name="loop"), L.Dense(2, name="last")])
    with pytest.warns(UserWarning, match="'loop': no fake quantisation is known.*of LSTM"):
        aware = tfprune.quantize_aware(lstm)
    assert list(ranges(aware)) == ["loop_fake_quantize"]
    table = keras.Sequential(
        [keras.Input((4,), dtype="int32"), L.Embedding(9, 5, name="table"), L.Dense(2)]
    )
    with pytest.warns(UserWarning, match="'table': no fake quantisation is known"):
        tfprune.quantize_aware(table)
    x = keras.Input((4, 6))
    states = L.LSTM(5, return_state=True, name="loop")(x)
    several = keras.Model(x, L.Dense(2, name="last")(states[1]))
    with pytest.warns(UserWarning, match="'last': .*one of several outputs of 'loop'"):
        tfprune.quantize_aware(several, exclude=["loop"])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="fake quantisation already.*'network'"):
        tfprune.quantize_aware(tfprune.quantize_aware(mlp()))
    norms = keras.Sequential([keras.Input((4,)), L.LayerNormalization(name="norm")])
    with pytest.raises(ValueError, match="no kernels that can be rounded"):
        tfprune.quantize_aware(norms)
    with pytest.raises(ValueError, match="`momentum` must be"):
        tfprune.quantize_aware(mlp(), momentum=2)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        tfprune.quantize_aware(mlp(), (X,), batch_size="8")
    with pytest.raises(ValueError, match=r"shapes \[\(None, 6\)\]"):
        tfprune.quantize_aware(mlp(), (X[:, :2],))
    with pytest.raises(ValueError, match="`only`"):
        tfprune.quantize_aware(mlp(), only=["nowhere"])
    aware = tfprune.quantize_aware(masked(), (X,))
    with pytest.raises(ValueError, match="same_class=True.*x_fake_quantize"):
        tfprune.strip(aware, same_class=True)
    with pytest.raises(ValueError, match="fake quantisation while it trains.*quantize_aware"):
        tfprune.fit_and_shrink(aware, X, Y, stages=0.5, epochs=2)
