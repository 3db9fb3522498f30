import inspect

import keras
import numpy as np
import pytest

import tfprune
from tfprune.coupling import couple, keeping, select
from tfprune.coupling.kept_units import NEW
from tfprune.rebuild.engine import rebuild

SHAPE = (6, 6, 4)


def image_layers():
    return {
        "Dense": keras.layers.Dense(6, activation="relu", kernel_regularizer="l2"),
        "Conv2D": keras.layers.Conv2D(6, 3, padding="same", kernel_constraint="non_neg"),
        "groups": keras.layers.Conv2D(8, 3, groups=2),
        "Conv2DTranspose": keras.layers.Conv2DTranspose(6, 3, strides=2),
        "SeparableConv2D": keras.layers.SeparableConv2D(6, 3, depth_multiplier=2),
        "DepthwiseConv2D": keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        "BatchNormalization": keras.layers.BatchNormalization(momentum=0.5),
        "renorm": keras.layers.BatchNormalization(renorm=True),
        "LayerNormalization": keras.layers.LayerNormalization(),
        "ReLU": keras.layers.ReLU(0.5),
        "Dropout": keras.layers.Dropout(0.5, seed=1),
        "MaxPooling2D": keras.layers.MaxPooling2D(),
    }


def model_with(layer, masked=True, before=None):
    inputs = keras.Input(SHAPE, name="images")
    x = before or keras.layers.Conv2D(8, 1, name="first")
    x = layer(x(inputs))
    x = keras.layers.Conv2D(2, 1, name="last")(x)
    model = keras.Model(inputs, x)
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).uniform(0.5, 1, weight.shape))
    return tfprune.prunable(model) if masked else model


def halved(model):
    """A rebuilt model with every other unit of each set."""
    coupling = couple(model)
    kept = np.ones(coupling.size, bool)
    for unit_set in coupling.sets:
        if unit_set.removable:
            kept[unit_set.units[1::2]] = False
    return rebuild(model, keeping(coupling, kept))


def attributes(layer):
    """What a layer holds, but for what names calls and objects."""
    hidden = ("_inbound_nodes", "_outbound_nodes", "_called", "_losses", "_path", "_parent_path")
    names = [name for name in vars(layer) if not name.startswith("_self_")]  # TensorFlow's, lazily
    return sorted(set(names).difference(hidden))


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "stock"])
@pytest.mark.parametrize("kind", image_layers())
def test_a_resized_layer_is_what_keras_makes_of_its_config(kind, masked):
    model = model_with(image_layers()[kind], masked)
    small = halved(model)
    layer = small.layers[2]
    fresh = type(layer).from_config(layer.get_config())
    shape = (None, *SHAPE[:2], 4)
    outputs = fresh(keras.KerasTensor(shape))
    assert type(layer).__module__.startswith("keras.")
    assert layer.name == model.layers[2].name
    assert layer.input.shape == shape and tuple(layer.output.shape) == tuple(outputs.shape)
    assert layer.get_config() == fresh.get_config()
    assert layer.get_build_config() == fresh.get_build_config()
    assert attributes(layer) == attributes(fresh)
    assert [(w.name, w.path, w.shape, w.trainable) for w in layer.weights] == [
        (w.name, w.path, w.shape, w.trainable) for w in fresh.weights
    ]
    for ours, theirs in zip(layer.weights, fresh.weights, strict=True):
        assert type(ours) is type(theirs)
        assert type(ours.regularizer) is type(theirs.regularizer)
        assert type(ours.constraint) is type(theirs.constraint)
    if fresh.input_spec is not None:
        assert layer.input_spec.axes == fresh.input_spec.axes
    for name in ("build", "quantize"):
        assert inspect.unwrap(getattr(layer, name)).__module__.startswith("keras.")
        assert getattr(layer, name).__code__ is getattr(fresh, name).__code__


@pytest.mark.parametrize("kind", ["Dense", "Conv2D", "DepthwiseConv2D", "BatchNormalization"])
def test_a_resized_layer_takes_part_in_files(kind, tmp_path):
    small = halved(model_with(image_layers()[kind]))
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    images = np.random.default_rng(1).normal(size=(2, *SHAPE))
    np.testing.assert_array_equal(loaded(images), small(images))


def test_values_are_those_of_the_kept_units():
    model = model_with(image_layers()["Conv2D"])
    small = halved(model)
    kernel, bias = (np.array(weight) for weight in model.layers[2].weights)
    np.testing.assert_array_equal(small.layers[2].kernel, kernel[:, :, ::2, ::2])
    np.testing.assert_array_equal(small.layers[2].bias, bias[::2])


@pytest.mark.parametrize("trained", ["given", "small"])
def test_training_one_of_the_two_leaves_the_other(trained):
    model = model_with(image_layers()["Dense"], masked=False)
    small = rebuild(model, keeping(couple(model), np.ones(couple(model).size, bool)))
    one, other = (model, small) if trained == "given" else (small, model)
    before = [np.array(weight) for weight in other.weights]
    one.compile("sgd", "mse")
    one.fit(np.ones((4, *SHAPE)), np.zeros((4, 6, 6, 2)), verbose=0)
    for weight, value in zip(other.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert not np.array_equal(one.layers[1].kernel, before[0])


def test_a_stripped_model_can_be_quantized():
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, name="wide"), keras.layers.Dense(2, name="out")]
    )
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    before = np.array(small(x))
    small.quantize("int8")
    assert small.layers[0].quantization_mode == "int8"
    np.testing.assert_allclose(small(x), before, atol=0.1)


def test_two_layers_with_one_kernel_keep_it():
    model = model_with(image_layers()["ReLU"], masked=False)
    twin = keras.layers.Conv2D(8, 1, name="twin")
    twin._kernel = model.get_layer("first")._kernel
    twin.bias = twin.add_weight(shape=(8,), name="bias")
    twin.built = True
    inputs = keras.Input(SHAPE, name="images")
    both = [model.get_layer("first")(inputs), twin(inputs)]
    joined = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="last")(keras.layers.add(both)))
    joined.get_layer("last").kernel.assign(
        np.where(np.arange(8) % 2, 0, 1)[None, None, :, None] * np.ones((1, 1, 8, 2))
    )
    assert len(joined.weights) == 5
    small = tfprune.strip(joined)
    first, twin = small.get_layer("first"), small.get_layer("twin")
    assert first.filters == twin.filters == 4
    assert first.kernel is twin.kernel


def test_a_weight_that_nothing_overwrites_is_initialised():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, kernel_initializer="ones", name="wide"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.layers[0].kernel.assign(np.full((3, 4), 7.0))
    grown = rebuild(model, select(couple(model), {model.layers[0]: [0, 2, NEW]}))
    np.testing.assert_array_equal(grown.layers[0].kernel, [[7.0, 7.0, 1.0]] * 3)
