"""`prune(..., quantize="int8")`: the last stage, its measurements, and what is refused."""

import warnings

import keras
import numpy as np
import pytest

import tfprune
from tests.shrinking.trained_models import data, mlp, mlp_data, residual


@pytest.fixture(scope="module")
def quantized():
    model, (x, y) = mlp(), mlp_data()
    model.fit(x, y, epochs=5, verbose=0)
    arguments = {"recover": (), "epochs": 1, "validation_data": (x, y), "return_report": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = tfprune.prune(model, 0.5, (x, y), quantize="int8", **arguments)
    return model, *found


def test_the_small_model_is_quantized(quantized, tmp_path):
    model, small, _ = quantized
    assert [layer.quantization_mode for layer in small.layers[1:]] == ["int8", "int8"]
    assert small.get_layer("a").units == 4 and model.get_layer("a").quantization_mode is None
    small.save(tmp_path / "small.keras")
    x, _ = mlp_data()
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "small.keras")(x), small(x))


def test_the_report_has_its_metrics_and_bytes(quantized):
    model, small, report = quantized
    assert list(report.stages) == ["dense", "pruned", "fine-tuned", "int8"]
    x, y = mlp_data()
    assert report.stages["int8"]["loss"] == pytest.approx(small.evaluate(x, y, verbose=0), rel=1e-5)
    assert report.stages["int8"] != report.stages["fine-tuned"]
    # 72 inputs and 4 units: int8 kernels, and float32 biases and steps, one for each unit.
    assert report.bytes.after == 72 * 4 + 4 * 2 + 4 * (4 + 2) * 2
    assert report.bytes.before == 4 * (72 * 8 + 8 + 8 * 2 + 2)
    assert report.parameters.after == 72 * 4 + 4 + 4 * 2 + 2
    decision = report.decisions[-1]
    assert decision.stage == "int8" and decision.kept
    assert decision.reason.startswith(f"1,208 -> {report.bytes.after} bytes of weights; loss")
    assert "int8" in str(report) and "bytes" in str(report)


def test_layers_that_stay_floats_are_named():
    (x, y), options = data(), {"quantize": "int8", "return_report": True}
    _, report = tfprune.prune(residual(), 0.4, (x, y), recover=(), criterion="l2", **options)
    assert "bytes of weights; floats stay 'stem', 'branch'; loss" in report.decisions[-1].reason
    _, report = tfprune.prune(residual(), 0.4, **options)  # without data
    assert not report.stages and report.decisions[-1].reason.endswith("'stem', 'branch'")


def test_a_target_in_accuracy_counts_the_quantized_model():
    model, (x, y) = mlp(metrics=["mae"]), mlp_data()
    model.fit(x, y, epochs=5, verbose=0)
    target = tfprune.budgets.Accuracy(drop=0.2, metric="mae", tolerance=0.3)
    options = {"recover": (), "criterion": "l2", "validation_data": (x, y)}
    small, report = tfprune.prune(
        model, target, (x, y), quantize="int8", return_report=True, **options
    )
    assert small.get_layer("a").quantization_mode == "int8"
    (found,) = [each.value for each in report.tries if each.budget == report.budget]
    assert found == pytest.approx(
        small.evaluate(x, y, verbose=0, return_dict=True)["mae"], rel=1e-5
    )


def test_what_keras_cannot_quantize_is_refused_before_any_work():
    x, y = data()
    with pytest.raises(ValueError, match='must be None or "int8".*int4'):
        tfprune.prune(residual(), 0.4, (x, y), quantize="int4")
    inputs = keras.Input((6, 6, 2))
    outputs = keras.layers.Conv2D(4, 3, name="only")(keras.layers.Conv2D(4, 3)(inputs))
    with pytest.raises(ValueError, match="dense layers and embeddings alone.*LiteRT"):
        tfprune.prune(keras.Model(inputs, outputs), 0.4, (x,), quantize="int8")
    half = keras.DTypePolicy("mixed_float16")
    layers = [keras.layers.Dense(n, dtype=half, name=f"half_{n}") for n in (8, 2)]
    with pytest.raises(ValueError, match="float16.*half_8.*bfloat16"):
        tfprune.prune(keras.Sequential([keras.Input((4,)), *layers]), 0.4, quantize="int8")
