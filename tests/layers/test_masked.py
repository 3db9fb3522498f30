"""The contract of every drop-in layer: the stock layer's results, and masks that hold."""

import doctest
import importlib
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.layers.cases import CASES, masked_parts, prune_some
from tfprune import layers
from tfprune.layers import DROP_INS

by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
by_class = pytest.mark.parametrize("drop_in", DROP_INS.values(), ids=lambda cls: cls.__name__)

STATISTICS_OF_KEPT_UNITS = ("LayerNormalization", "RMSNormalization", "GroupNormalization")


def one_of(cls):
    return next(case for case in CASES if getattr(layers, case.layer) is cls and not case.wrap)


def pair(case):
    """The stock and the drop-in layer, both built by a call."""
    built = []
    for module in (keras.layers, layers):
        layer = case.make(module)
        case.call(layer, case.inputs())
        built.append(layer)
    return built


def same_bits(one, other):
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def test_every_keras_layer_with_weights_has_a_drop_in():
    without = {"Bidirectional", "RNN", "StackedRNNCells", "SpectralNormalization"}  # hold layers
    without |= {"FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper"}  # hold other models
    without |= {"Normalization", "STFTSpectrogram"}  # hold statistics and a fixed transform
    for name, cls in vars(keras.layers).items():
        makes_weights = inspect.isclass(cls) and "add_weight" in _source_of_bases(cls)
        if makes_weights and name not in without:
            assert cls in DROP_INS or name in without, name


def _source_of_bases(cls):
    stop = (keras.layers.Layer, object)
    return "".join(
        inspect.getsource(base)
        for base in cls.__mro__
        if base not in stop
        and base.__module__.startswith("keras.src.layers")
        and base not in keras.layers.Layer.__mro__
    )


def test_each_drop_in_class_has_a_case():
    assert {getattr(layers, case.layer) for case in CASES} == set(DROP_INS.values())


@by_class
def test_class_name_is_the_stock_layers_so_that_weights_files_have_the_same_paths(drop_in):
    assert drop_in.__name__ == drop_in.__mro__[2].__name__


@by_case
def test_initial_weights_are_the_stock_layers(case):
    stock, masked = pair(case)
    assert len(stock.get_weights()) == len(masked.get_weights())
    assert all(map(same_bits, stock.get_weights(), masked.get_weights()))


@by_case
@pytest.mark.parametrize(
    ("mode", "training"),
    [
        ("eager", False),
        ("eager", True),
        pytest.param("graph", True, marks=pytest.mark.slow),
        pytest.param("jit", True, marks=pytest.mark.slow),
    ],
)
def test_outputs_are_the_stock_layers_bit_for_bit(case, mode, training):
    outputs = []
    for layer in pair(case):
        inputs = [tf.constant(x) for x in case.inputs()]

        def call(*inputs, layer=layer):
            return case.call(layer, list(inputs), training=training)

        if mode != "eager":
            call = tf.function(call, jit_compile=mode == "jit")
        outputs.append(call(*inputs))
    assert same_bits(*outputs)


@by_class
def test_signature_and_weight_count_are_the_stock_layers(drop_in):
    stock = drop_in.__mro__[2]
    for method in ("__init__", "call", "build"):
        ours, theirs = (inspect.signature(getattr(cls, method)) for cls in (drop_in, stock))
        assert list(ours.parameters) == list(theirs.parameters), method
        assert ours == theirs, method


@by_case
def test_config_is_the_stock_layers_and_makes_the_layer_again(case):
    stock, masked = case.make(keras.layers, name="same"), case.make(layers, name="same")
    if case.wrap is None:
        assert masked.get_config() == stock.get_config()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(masked))
    assert type(again) is type(masked)
    assert again.get_config() == masked.get_config()


@by_class
def test_docstring_has_an_example_that_runs(drop_in):
    assert drop_in.__doc__.count(">>>") >= 2
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(verbose=False)
    module = importlib.import_module(drop_in.__module__)
    for test in finder.find(drop_in, drop_in.__name__, globs={"keras": keras, **vars(module)}):
        assert runner.run(test).failed == 0


@by_case
def test_masks_are_boolean_made_in_build_and_no_weights_of_the_layer(case):
    stock, masked = pair(case)
    parts = masked_parts(masked)
    counted = sum(len(part.trainable_masks) for part in parts)
    assert counted == len(stock.trainable_weights)
    assert len(masked.weights) == len(stock.weights)
    assert masked.count_params() == stock.count_params()
    for part in parts:
        for masks in (part.trainable_masks, part.frozen_masks):
            assert list(masks) == list(part.masked_weights)
            for name, mask in masks.items():
                assert mask.dtype == "bool"
                assert not mask.trainable
                assert mask.shape == part.masked_weights[name].shape


@by_case
def test_gradient_of_pruned_and_frozen_elements_is_exactly_zero(case):
    _, masked = pair(case)
    marks = prune_some(masked)
    inputs = [tf.constant(x) for x in case.inputs(8)]
    with tf.GradientTape() as tape:
        outputs = case.call(masked, inputs, training=True)
        loss = tf.reduce_sum((tf.cast(outputs, "float32") - 0.3) ** 2) + sum(
            tf.cast(loss, "float32") for loss in masked.losses
        )
    variables = [weight.value for weight, *_ in marks]
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    for (weight, pruned, frozen, _), gradient in zip(marks, gradients, strict=True):
        gradient = np.asarray(tf.convert_to_tensor(gradient))
        assert not gradient[pruned | frozen].any(), weight.path
        assert np.isfinite(gradient).all()
    if marks:
        assert any(np.asarray(tf.convert_to_tensor(gradient)).any() for gradient in gradients)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.layer not in STATISTICS_OF_KEPT_UNITS],
    ids=lambda case: case.id,
)
def test_pruned_elements_are_zero_and_kept_ones_have_the_stock_gradient(case):
    """With zeros put into a stock layer, its gradient is the truth for the kept elements."""
    stock, masked = pair(case)
    marks = prune_some(masked)
    stock.set_weights(masked.get_weights())
    inputs = [tf.constant(x) for x in case.inputs(4)]
    truth = []
    for layer in (stock, masked):
        with tf.GradientTape() as tape:
            outputs = case.call(layer, inputs)
            loss = tf.reduce_sum(tf.cast(outputs, "float32") ** 2)
        variables = [weight.value for weight in layer.trainable_weights]
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        truth.append((outputs, [np.asarray(tf.convert_to_tensor(g)) for g in gradients]))
    (stock_outputs, stock_gradients), (outputs, gradients) = truth
    assert same_bits(stock_outputs, outputs)
    marked = {id(weight): pruned | frozen for weight, pruned, frozen, _ in marks}
    for weight, theirs, ours in zip(
        masked.trainable_weights, stock_gradients, gradients, strict=True
    ):
        dead = marked.get(id(weight), np.zeros(theirs.shape, bool))
        np.testing.assert_array_equal(ours, np.where(dead, 0, theirs))
    assert all(not np.asarray(weight)[pruned].any() for weight, pruned, *_ in marks)


def model_of(case, module):
    inputs = [
        keras.Input(x.shape[1:], dtype="int32" if case.integers else None) for x in case.inputs()
    ]
    return keras.Model(
        inputs,
        case.call(
            case.make(module, name="the_layer") if not case.wrap else case.make(module), inputs
        ),
    )


def masks_of(model):
    return [
        (np.asarray(mask.trainable), np.asarray(mask.frozen), np.asarray(mask.live))
        for layer in tfprune.masks.masked_layers(model)
        for mask in layer.masks_by_name.values()
    ]


def assert_same_state(one, other):
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(masks_of(one), masks_of(other), strict=True):
        for mask, other_mask in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mask, other_mask)


@by_case
def test_keras_file_keeps_weights_and_masks(case, tmp_path):
    model = model_of(case, layers)
    prune_some(model)
    model.save(tmp_path / "model.keras")
    assert_same_state(model, keras.saving.load_model(tmp_path / "model.keras"))


@by_case
def test_weights_file_replaces_other_masks_and_frozen_values(case, tmp_path):
    model, other = model_of(case, layers), model_of(case, layers)
    prune_some(model)
    for layer in tfprune.masks.masked_layers(other):
        for name, weight in layer.masked_weights.items():
            weight.assign(np.ones(weight.shape))
            first = np.arange(int(np.prod(weight.shape))).reshape(weight.shape) < 2
            tfprune.set_masks(other, layer, name, trainable=~first, frozen=~first)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same_state(model, other)


@by_case
@pytest.mark.parametrize("file", ["plain.weights.h5", "plain.keras"])
def test_plain_weights_load_and_masks_set_before_stay(case, file, tmp_path):
    stock, masked = model_of(case, keras.layers), model_of(case, layers)
    stock.set_weights([w + np.asarray(1, w.dtype) for w in stock.get_weights()])
    marks = prune_some(masked)
    before = masks_of(masked)
    (stock.save if file.endswith(".keras") else stock.save_weights)(tmp_path / file)
    masked.load_weights(tmp_path / file)
    pruned = {id(weight): pruned for weight, pruned, *_ in marks}
    for weight, truth in zip(masked.weights, stock.get_weights(), strict=True):
        truth = np.where(pruned.get(id(weight), False), np.zeros((), truth.dtype), truth)
        np.testing.assert_array_equal(np.asarray(weight), truth)
    np.testing.assert_equal(masks_of(masked), before)


@by_case
def test_masked_weights_load_into_the_stock_model(case, tmp_path):
    stock, masked = model_of(case, keras.layers), model_of(case, layers)
    prune_some(masked)
    masked.save_weights(tmp_path / "masked.weights.h5")
    stock.load_weights(tmp_path / "masked.weights.h5")
    assert all(map(same_bits, stock.get_weights(), masked.get_weights()))


@by_class
def test_quantize_is_refused_by_the_layer_and_by_its_model(drop_in):
    model = model_of(one_of(drop_in), layers)
    before = [np.asarray(weight) for weight in model.weights]
    with pytest.raises(ValueError, match=r"Cannot quantize.*strip"):
        masked_parts(model)[0].quantize("int8")
    with pytest.raises(ValueError, match=r"Cannot quantize.*strip"):
        model.quantize("int8", type_check=False)
    np.testing.assert_equal([np.asarray(weight) for weight in model.weights], before)


@pytest.mark.parametrize("name", ["Dense", "EinsumDense", "Embedding", "Conv2D"])
def test_lora_is_refused(name):
    case = next(case for case in CASES if case.layer == name)
    layer = case.make(layers)
    case.call(layer, case.inputs())
    with pytest.raises(ValueError, match="LoRA"):
        layer.enable_lora(2)


def test_lora_is_refused_by_the_projections_of_an_attention_layer():
    layer = layers.MultiHeadAttention(2, 3)
    layer(np.ones((1, 5, 4)), np.ones((1, 5, 4)))
    with pytest.raises(ValueError, match="LoRA"):
        layer.query_dense.enable_lora(2)
