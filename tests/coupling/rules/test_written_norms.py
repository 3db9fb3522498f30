"""RMS norms written by hand over units: they shrink with the width, and compute the same."""

import importlib

import keras
import numpy as np
import pytest

import tfprune
from tests.coupling.rules.comparing import randomised, zero
from tests.coupling.rules.operating import around
from tests.coupling.rules.written_norms import SPELLINGS, UNITS, Norm
from tfprune.coupling import couple, select
from tfprune.rebuild.engine import rebuild


def residual(make, dtype=None):
    """Two blocks of a residual network of width `UNITS` with norms, and a norm before the end."""
    inputs = keras.Input((5, 3))
    x = keras.layers.Dense(UNITS, name="stream")(inputs)
    for block in range(2):
        y = keras.layers.Dense(7, activation="tanh", name=f"wide_{block}")(make()(x))
        x = keras.layers.Add()([x, keras.layers.Dense(UNITS, name=f"narrow_{block}")(y)])
    outputs = keras.layers.Dense(2, name="head")(make()(x))
    return randomised(keras.Model(inputs, outputs))


def halved(model):
    """The model with half of its units masked, and what `strip` makes of it."""
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    return masked, tfprune.strip(masked)


def assert_equal(masked, small, tolerance=1e-5):
    """The models are equal, measured by how much the output varies with the input."""
    x = np.random.default_rng(1).normal(size=(8, 5, 3)).astype("float32")
    expected, found = np.asarray(masked(x)), np.asarray(small(x))
    assert np.ptp(expected, axis=0).max() > 1e-2
    assert np.abs(found - expected).max() <= tolerance * np.ptp(expected, axis=0).max()


@pytest.mark.parametrize("name", SPELLINGS)
def test_width_of_a_residual_network(name):
    masked, small = halved(residual(SPELLINGS[name]))
    assert small.get_layer("stream").units == UNITS // 2
    assert small.get_layer("narrow_1").units == UNITS // 2
    assert_equal(masked, small)
    again = tfprune.strip(small)
    assert again.count_params() == small.count_params()


def test_weights_of_other_shapes():
    masked, small = halved(residual(lambda: SPELLINGS["one more"](shape=(1, 1, UNITS))))
    assert small.get_layer("stream").units == UNITS // 2
    assert_equal(masked, small)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float64"])
def test_dtypes(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = residual(SPELLINGS["rsqrt"])
    finally:
        keras.config.set_dtype_policy(before)
    _, small = halved(model)  # compared by `strip`
    assert small.get_layer("stream").units == UNITS // 2


@pytest.mark.parametrize("name", ["rsqrt", "one more"])
def test_by_hand(name):
    inputs = keras.Input((4,))
    layer = SPELLINGS[name](epsilon=0.3, name="by_hand")
    model = randomised(keras.Model(inputs, keras.layers.Dense(3)(layer(inputs_of(inputs)))))
    zero(model.get_layer("kept").kernel, 1, [0, 2])
    zero(model.get_layer("kept").bias, 0, [0, 2])
    weights = [np.asarray(weight, "float64") for weight in model.weights]
    kernel, bias, scale, last, last_bias = weights
    x = np.random.default_rng(2).normal(size=(7, 4))
    hidden = x @ kernel + bias
    gain = scale if name == "rsqrt" else 1 + scale
    hidden = hidden / np.sqrt((hidden**2).sum(-1, keepdims=True) / 6 + 0.3) * gain
    small = tfprune.strip(model)
    np.testing.assert_allclose(small(x), hidden @ last + last_bias, rtol=1e-5, atol=1e-5)
    found = small.get_layer("by_hand")
    assert found.epsilon == pytest.approx(0.3 * 6 / 4)
    kept = gain[[1, 3, 4, 5]] * np.sqrt(6 / 4) - (0 if name == "rsqrt" else 1)
    np.testing.assert_allclose(found.scale, kept, rtol=1e-6)
    assert layer.epsilon == 0.3


def inputs_of(inputs):
    return keras.layers.Dense(6, name="kept")(inputs)


def test_a_unit_that_is_constant_counts():
    model = around(SPELLINGS["rsqrt"](name="by_hand"), activation=None)
    zero(model.get_layer("d").kernel, 1, [1, 2])
    zero(model.get_layer("d").bias, 0, [2])
    small, report = tfprune.strip(model, return_report=True)
    assert small.get_layer("d").units == 7
    (kept,) = report.kept
    assert kept.index == 1 and "'by_hand' counts it in its mean square" in kept.reason
    assert report.error < 1e-5


KERASHUB = [
    ("gemma.rms_normalization", "RMSNormalization", ()),
    ("gemma3n.rms_normalization", "Gemma3nRMSNorm", (8,)),
    ("gpt_oss.gpt_oss_layer_norm", "GptOssLayerNormalization", ()),
    ("llama.llama_layernorm", "LlamaLayerNorm", ()),
    ("mistral.mistral_layer_norm", "MistralLayerNormalization", ()),
    ("mixtral.mixtral_layer_norm", "MixtralLayerNormalization", ()),
    ("phi3.phi3_layernorm", "Phi3LayerNorm", ()),
    ("qwen.qwen_layernorm", "QwenLayerNorm", ()),
    ("qwen3.qwen3_layernorm", "Qwen3LayerNorm", ()),
    ("qwen3_moe.qwen3_moe_layernorm", "Qwen3MoeLayerNorm", ()),
    ("qwen_moe.qwen_moe_layernorm", "QwenMoeLayerNorm", ()),
    ("t5.t5_layer_norm", "T5LayerNorm", ()),
]


@pytest.mark.parametrize(("module", "name", "arguments"), KERASHUB)
def test_norms_of_kerashub(module, name, arguments, tmp_path):
    pytest.importorskip("keras_hub", reason="KerasHub is an extra of the tests")
    made = getattr(importlib.import_module(f"keras_hub.src.models.{module}"), name)
    epsilon = {"eps" if "3n" in name else "epsilon": 0.05}
    model = around(made(*arguments, **epsilon), activation=None)
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0), only=["d"])
    small, report = tfprune.strip(model, return_report=True)
    assert small.get_layer("d").units == 4
    assert report.error < 1e-5
    assert report.not_from_config == ()
    tfprune.export(small, tmp_path / "small.keras", format="keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras", custom_objects={name: made})
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-4, atol=1e-5)
    at_default = around(made(*arguments), activation=None)
    tfprune.prune_units(at_default, 0.5, tfprune.criteria.Random(seed=0), only=["d"])
    assert tfprune.strip(at_default, return_report=True)[1].not_from_config == ()


@keras.saving.register_keras_serializable("tests")
class Told(Norm):
    """Its config has the epsilon, since Keras notes its arguments."""

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(epsilon, **kwargs)

    def call(self, x):
        return SPELLINGS["rsqrt"].function(self, x)


@keras.saving.register_keras_serializable("tests")
class Untold(Told):
    """Its config has the epsilon that it had."""

    def __init__(self, small=1e-6, **kwargs):
        super().__init__(small, **kwargs)


@pytest.mark.parametrize("made", [Told, Untold])
def test_a_file_holds_the_epsilon_or_is_refused(made, tmp_path):
    model = around(made(name="by_hand"), activation=None)
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0), only=["d"])
    small, report = tfprune.strip(model, return_report=True)
    assert report.not_from_config == (() if made is Told else ("by_hand",))
    if made is Untold:
        with pytest.raises(ValueError, match="by_hand"):
            tfprune.export(small, tmp_path / "small.keras", format="keras")
        return
    tfprune.export(small, tmp_path / "small.keras", format="keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert [layer.epsilon for layer in loaded.layers if isinstance(layer, Told)] == [2e-6]


def test_training_that_shrinks():
    model = residual(SPELLINGS["one more"])
    model.compile("sgd", "mse")
    shrinkable = tfprune.shrinking.shrinkable_model.ShrinkableModel(model)
    shrinkable.prune(0.5, criterion=tfprune.criteria.Random(seed=0))
    before = [np.array(weight) for weight in shrinkable.full.weights]
    small, report = shrinkable.extract()
    assert small.get_layer("stream").units == UNITS // 2
    assert report.error < 1e-5
    shrinkable.write_back()
    for ours, theirs in zip(before, shrinkable.full.weights, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)


def test_units_that_are_chosen_go_as_if_they_were_zero():
    model = around(SPELLINGS["one more"](name="by_hand"), activation=None)
    small = rebuild(model, select(couple(model), {model.get_layer("d"): [0, 1, 3, 5]}))
    zero(model.get_layer("d").kernel, 1, [2, 4, 6, 7])
    zero(model.get_layer("d").bias, 0, [2, 4, 6, 7])
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)


def test_units_that_are_added_leave_gain_and_epsilon():
    model = around(SPELLINGS["one more"](name="by_hand"), activation=None)
    larger = tfprune.surgery.resize(model, {"d": 10}).get_layer("by_hand")
    assert larger.epsilon == 0.05
    np.testing.assert_array_equal(larger.scale[:8], model.get_layer("by_hand").scale)


def test_masks_that_would_hold_a_changed_gain_are_refused():
    model = tfprune.prunable(around(SPELLINGS["one more"](name="by_hand"), activation=None))
    tfprune.set_masks(model, "by_hand", "scale", trainable=[0, 1, 2, 3, 4, 5, 6])
    coupling, layer = couple(model), model.get_layer("d")
    with pytest.raises(ValueError, match="masks.*'by_hand'"):
        rebuild(model, select(coupling, {layer: [0, 1, 7]}), stock=False)
    small = rebuild(model, select(coupling, {layer: [0, 1, 2]}), stock=False)
    assert small.get_layer("by_hand").epsilon == pytest.approx(0.05 * 8 / 3)


class Rms(keras.layers.RMSNormalization):
    """It inherits the `call`, so it counts as the drop-in layer does."""


class Layer(keras.layers.LayerNormalization):
    """As above."""


class Group(keras.layers.GroupNormalization):
    """As above."""


class Written(keras.layers.RMSNormalization):
    def call(self, inputs):
        return super().call(inputs)


@pytest.mark.parametrize("made", [Rms, Layer, lambda: Group(2), Written])
def test_subclasses_of_stock_norms(made):
    model = tfprune.prunable(around(made(), activation=None))
    tfprune.prune_units(model, 0.5, tfprune.criteria.Random(seed=0), only=["d"])
    small, report = tfprune.strip(model, return_report=True)
    assert small.get_layer("d").units == 4
    assert report.error < 1e-5
    assert type(small.layers[2]).__mro__[1].__module__.startswith("keras.")


def test_the_layer_is_left_as_it_was():
    model = around(SPELLINGS["rsqrt"](name="by_hand"))
    layer, before = model.get_layer("by_hand"), np.array(model.get_layer("by_hand").scale)
    couple(model)
    assert layer.epsilon == 0.05
    np.testing.assert_array_equal(layer.scale, before)
