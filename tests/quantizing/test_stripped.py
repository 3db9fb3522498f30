"""Models that were trained with fake quantisation, stripped: stock, equal, in files and LiteRT."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.exporting import loading

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6, 6, 3)).astype("float32")
Y = np.tanh(X.reshape(96, -1) @ RNG.normal(size=(108, 3)).astype("float32"))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten = L.Flatten(name="flat")
        self.hidden = L.Dense(12, activation="relu", name="hidden")
        self.logits = L.Dense(3, name="logits")

    def call(self, inputs):
        return self.logits(self.hidden(self.flatten(inputs)))


def residual():
    x = keras.Input((6, 6, 3), name="image")
    y = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    y = L.ReLU(name="act")(L.BatchNormalization(name="norm")(y))
    z = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="spatial")(y)
    z = L.Conv2D(8, 1, name="point")(z)
    y = L.Flatten(name="flat")(L.MaxPooling2D(name="pool")(y + z))
    y = L.Dense(12, activation="relu", name="hidden")(y)
    return keras.Model(x, L.Dense(3, name="logits")(y), name="residual")


def sequential():
    layers = [L.Flatten(name="flat"), L.Dense(12, activation="sigmoid", name="hidden")]
    layers.append(L.Dense(3, name="logits"))
    return keras.Sequential([keras.Input((6, 6, 3), name="image"), *layers], name="line")


def subclassed():
    model = Subclassed()
    model(X[:1])
    return model


def nested():
    inner = keras.Sequential([keras.Input((9,)), L.Dense(9, activation="relu", name="inside")])
    x = keras.Input((6, 6, 3), name="image")
    y = L.Dense(9, activation="tanh", name="hidden")(L.Flatten(name="flat")(x))
    return keras.Model(x, L.Dense(3, name="logits")(inner(inner(y))), name="nested")


MODELS = {each.__name__: each for each in (residual, sequential, subclassed, nested)}


def trained(make, units=0.5):
    """A model with pruned units and elements, trained with fake quantisation."""
    model = make()
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.moving_mean.assign(RNG.normal(size=8) * 0.3)
            layer.moving_variance.assign(RNG.uniform(0.5, 2, 8))
    model.compile("adam", "mse", jit_compile=False)
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, units)
    tfprune.prune_weights(masked, 0.6)
    aware = tfprune.quantize_aware(masked, (X,))
    aware.fit(X, Y, epochs=4, batch_size=16, verbose=0)
    return aware


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    return {
        name: (aware, tfprune.strip(aware))
        for name, aware in ((n, trained(m)) for n, m in MODELS.items())
    }


def difference(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


@pytest.mark.parametrize("name", MODELS)
def test_the_small_model_computes_what_the_trained_one_does(models, name):
    aware, small = models[name]
    assert small.count_params() < 0.8 * aware.count_params()
    # A number half-way between two of the 256 may become either: a step, in few of the outputs.
    ours, theirs = (each.predict(X, verbose=0) for each in (small, aware))
    is_other = np.abs(ours - theirs) > 1e-5 * np.ptp(theirs)
    assert is_other.mean() < 0.05 and difference(ours, theirs) < 0.02
    assert small.name == aware.name and small.compiled and small.optimizer is not None
    assert list(small.output_names) == ["logits"]


@pytest.mark.parametrize("name", MODELS)
def test_the_small_model_is_stock_and_strips_to_itself(models, name, tmp_path):
    _, small = models[name]
    for operation in [*small.operations, *small.layers]:
        assert type(operation).__module__.startswith("keras.")
    again = tfprune.strip(small)
    assert again.count_params() == small.count_params()
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    for other in (again, loaded):
        np.testing.assert_array_equal(other(X), small(X))
    loaded.fit(X, Y, verbose=0)


def test_ranges_stand_in_the_graph_as_they_were_found(models):
    aware, small = models["residual"]
    ranges = [x.range for x in aware.layers if isinstance(x, tfprune.layers.FakeQuantize)]
    found = [
        tuple(node["args"][1:])
        for layer in small.get_config()["layers"]
        if layer["class_name"] == "FakeQuantWithMinMaxVars"
        for node in layer["inbound_nodes"]
    ]
    assert len(found) == 6 and sorted(found) == sorted(ranges)


def test_constants_of_pruned_units_are_rounded_before_they_are_folded():
    # A pruned unit behind a sigmoid emits 0.5, which the next layer sees rounded.
    model = sequential()
    masked = tfprune.prunable(model)
    aware = tfprune.quantize_aware(masked)
    x = RNG.normal(size=(64, 6, 6, 3)).astype("float32")
    aware(x, training=True)  # the ranges of the inputs and of the sigmoid
    aware.get_layer("hidden_fake_quantize").high.assign(0.73)  # 0.5 is none of the 256 numbers
    for weight in ("kernel", "bias"):
        kept = [0, 1, 2, 3] if weight == "bias" else np.s_[:, :4]
        tfprune.set_masks(aware, "hidden", weight, trainable=kept)
    small = tfprune.strip(aware)
    assert small.get_layer("hidden").units == 4
    kernel = np.asarray(aware.get_layer("logits").masks_by_name["kernel"].read(), "float64")
    low = aware.get_layer("hidden_fake_quantize").range[0]
    step = (0.73 - low) / 255
    constant = np.round(0.5 / step) * step
    assert abs(constant - 0.5) > 1e-4
    bias = np.asarray(aware.get_layer("logits").bias) + constant * kernel[4:].sum(axis=0)
    np.testing.assert_allclose(small.get_layer("logits").bias, bias, rtol=1e-5)


def test_before_a_range_is_known_nothing_is_rounded_there():
    aware = tfprune.quantize_aware(sequential())
    small = tfprune.strip(aware)
    np.testing.assert_allclose(small(X), aware(X), rtol=1e-5, atol=1e-6)
    assert "FakeQuantWithMinMaxVars" not in {type(each).__name__ for each in small.operations}


# Files -------------------------------------------------------------------------------------------


def test_litert_computes_in_int8_with_the_trained_ranges(models, tmp_path):
    aware, small = models["residual"]
    path = tmp_path / "small.tflite"
    tfprune.export(small, path, quantize="int8", representative_data=X)
    interpreter = loading.interpreter(path.read_bytes())
    tensors = interpreter.get_tensor_details()
    assert sum(tensor["dtype"] is np.float32 for tensor in tensors) == 2  # what goes in and out
    steps = [float(t["quantization"][0]) for t in tensors]
    for layer in aware.layers:
        if isinstance(layer, tfprune.layers.FakeQuantize):
            low, high = layer.range
            assert np.isclose(steps, (high - low) / 255, rtol=1e-4).any(), layer.name
    for name in ("hidden", "logits"):
        kernel = np.asarray(small.get_layer(name).kernel)
        step = np.abs(kernel).max(axis=0) / 127
        multiples = np.round(kernel / np.where(step, step, 1)).T
        stored = [
            interpreter.get_tensor(t["index"])
            for t in tensors
            if t["dtype"] is np.int8 and tuple(t["shape"]) == multiples.shape
        ]
        assert any(np.array_equal(each, multiples) for each in stored), name


def test_litert_differs_by_little_more_than_the_rounding_of_the_outputs(tmp_path):
    plain, errors = residual(), []
    for model in (tfprune.strip(tfprune.quantize_aware(plain, (X,))), plain):
        path = tmp_path / f"{len(errors)}.tflite"
        tfprune.export(model, path, quantize="int8", representative_data=X)
        runner = loading.interpreter(path.read_bytes()).get_signature_runner("serving_default")
        outputs = np.concatenate([runner(image=x[None])["logits"] for x in X])
        expected = model.predict(X, verbose=0)
        errors.append(np.sqrt(np.mean((outputs - expected) ** 2)))
    step = np.ptp(expected) / 255
    assert errors[0] < 1.5 * step / np.sqrt(12)  # the deviation of rounding to that step
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("quantize", [None, "dynamic", "float16"])
def test_other_litert_files_compute_the_same(models, quantize, tmp_path):
    _, small = models["residual"]
    path = tmp_path / "small.tflite"
    tfprune.export(small, path, quantize=quantize, representative_data=X)


def test_saved_models_compute_the_same_and_onnx_is_refused(models, tmp_path):
    _, small = models["residual"]
    loaded = tf.saved_model.load(tfprune.export(small, tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(X), small(X), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="fake quantisation to ONNX.*LiteRT"):
        tfprune.export(small, tmp_path / "small.onnx")
