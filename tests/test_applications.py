"""All architectures of `keras.applications`: half of their units go, and nothing else changes."""

import collections
import gc
import inspect
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.rebuild.copying import in_double_precision

NAMES = sorted(
    name for name, value in vars(keras.applications).items() if inspect.isfunction(value)
)
SIZES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}

# Every architecture is stripped and compared. Writing and reading files takes longer than that, and
# shows nothing that its relatives do not: one of each family is written.
SAVED = """ConvNeXtTiny DenseNet121 EfficientNetB0 EfficientNetV2B0 InceptionV3 MobileNet
MobileNetV3Small ResNet50 VGG16 Xception""".split()


@pytest.fixture(autouse=True)
def memory():
    """These models are large: what one leaves goes before the next, and nothing in between."""
    gc.disable()
    yield
    gc.enable()
    keras.backend.clear_session()
    gc.collect()


def pruned_application(name):
    """A model with random weights and half of its units masked, samples, and the unit counts."""
    size = SIZES.get(name, 32)
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(size, size, 3), classes=4, classifier_activation=None)
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(random_value(weight, draw))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    masked = tfprune.prunable(model)
    counts = tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=1))
    x = draw.normal(size=(32, size, size, 3)).astype("float32")
    x[::2] = 128 + 50 * x[::2]
    calibrate(masked, x)
    return masked, counts, x[1:7]


def random_value(weight, draw):
    """A value that keeps signals at their size: kernels by their inputs, scales around 1."""
    uniform = draw.random(weight.shape, "float32")
    if len(weight.shape) > 1:
        taps = weight.shape[:2] if "depthwise" in weight.path else weight.shape[:-1]
        return (uniform - 0.5) * math.sqrt(24 / math.prod(taps))
    if "variance" in weight.name or "gamma" in weight.name:
        return 0.7 + 0.6 * uniform
    return 0.4 * (uniform - 0.5)


def calibrate(model, x):
    """Gives batch norms the statistics of `x`, lest the input's influence die on the way."""
    norms = [layer for layer in all_layers(model) if hasattr(layer, "moving_mean")]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(x, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def all_layers(model):
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)


def error(ours, theirs):
    """The largest difference, over how much the outputs vary with the input."""
    ours, theirs = np.asarray(ours, "float64"), np.asarray(theirs, "float64")
    varies = np.ptp(ours, axis=0).max()
    assert varies > 1e-3 * np.abs(ours).max()
    return np.abs(ours - theirs).max() / varies


def expected_parameters(model, left):
    """The parameters of an application of which layers keep `left[name]` units, by hand rules.

    Sizes of channels are carried from layer to layer, without a look at the smaller model.
    """
    channels = {id(tensor): tensor.shape[-1] for tensor in model.inputs}
    total = 0
    for operation in model.operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        inputs = keras.tree.flatten(operation.input)
        sizes = [channels[id(tensor)] for tensor in inputs]
        is_chain = isinstance(operation, keras.Sequential)
        for step in operation.layers if is_chain else [operation]:
            after = _units_after(step, inputs, sizes, left)
            total += _parameters(step, sizes[0], after)
            sizes = [after]
        channels[id(operation.output)] = sizes[0]
    return total


def _units_after(operation, inputs, sizes, left):
    layers = keras.layers
    if operation.name in left:
        return left[operation.name]
    if isinstance(operation, (layers.Dense, layers.SeparableConv2D)):
        return getattr(operation, "units", None) or operation.filters
    if isinstance(operation, layers.Conv2D) and operation.groups == 1:
        return operation.filters
    if isinstance(operation, layers.Flatten):
        return sizes[0] * math.prod(inputs[0].shape[1:-1])
    if isinstance(operation, layers.Concatenate):
        return sum(sizes)
    return max(sizes)  # element by element, with operands of one channel spread


def _parameters(layer, before, after):
    if not isinstance(layer, keras.layers.Layer) or not layer.weights:
        return 0
    if isinstance(layer, keras.layers.Normalization):
        return sum(math.prod(weight.shape) for weight in layer.weights)
    if isinstance(layer, keras.layers.SeparableConv2D):
        taps = math.prod(layer.kernel_size)
        return before * (taps + after) + after * layer.use_bias
    if isinstance(layer, keras.layers.DepthwiseConv2D) or getattr(layer, "groups", 1) > 1:
        return after * (math.prod(layer.kernel_size) + layer.use_bias)
    if isinstance(layer, keras.layers.Conv2D):
        return after * (before * math.prod(layer.kernel_size) + layer.use_bias)
    if isinstance(layer, keras.layers.Dense):
        return after * (before + layer.use_bias)
    return after * len([weight for weight in layer.weights if "seed" not in weight.name])


def largest_error(model, small, x, path=None):
    """How far the smaller model is from the model, and from itself in files."""
    x = x.astype(model.input.dtype)
    outputs = small(x)
    errors = [error(model(x), outputs)]
    if path is not None:
        file = path / f"{model.input.dtype}.keras"
        small.save(file)
        errors.append(error(outputs, keras.models.load_model(file)(x)))
        served = tf.saved_model.load(tfprune.export(small, path / model.input.dtype))
        errors.append(error(outputs, served.serve(x)))
    return max(errors)


def units_left(counts):
    """By layer, the units that are left in all sets that it makes units of."""
    left = collections.Counter()
    for count in counts:
        for name in count.name.split(" + "):
            left[name] += count.units - count.pruned
    return left


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_units_go_and_the_outputs_stay(name, tmp_path):
    model, counts, x = pruned_application(name)
    assert all(abs(count.pruned - count.units / 2) <= 0.5 for count in counts)
    pins = set(tfprune.coupling.couple(model).pins.values())
    assert pins <= {"it is an output of the model"}

    small, report = tfprune.strip(model, check=False, return_report=True)
    assert report.kept == ()
    left = units_left(counts)
    for layer in report.layers:
        assert layer.after == left.get(layer.name, layer.before), layer.name
    assert report.parameters[1] == expected_parameters(model, left)

    path = tmp_path if name in SAVED else None
    if largest_error(model, small, x, path) > 1e-5:  # single precision cannot hold it
        double, small_double = (in_double_precision(each).model for each in (model, small))
        assert largest_error(double, small_double, x, path) <= 1e-9


def test_there_are_forty():
    assert len(NAMES) == 40
