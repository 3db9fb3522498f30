"""ONNX files, read by onnxruntime."""

import sys

import keras
import numpy as np
import pytest

import tfprune
from tests.export_models import ZOO, chain, floats, nested_outputs, sequential, vectorised_text
from tests.exported_models import cnn, lstm, mlp
from tfprune.exporting import loading, onnx_file
from tfprune.exporting.export import export

pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

L = keras.layers
MODELS = {"cnn": (cnn, (12, 12, 3)), "mlp": (mlp, (64,)), "lstm": (lstm, (6, 8))}


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_the_stripped_model_for_any_batch(tmp_path, name):
    make, shape = MODELS[name]
    model = make()
    run = session(export(model, tmp_path / "m.onnx", format="onnx"))
    assert [given.name for given in run.get_inputs()] == ["x"]
    for count in (1, 5):
        x = floats(count, *shape)
        (outputs,) = run.run(["y"], {"x": x})
        np.testing.assert_allclose(outputs, model(x, training=False), rtol=1e-4, atol=1e-5)


def test_a_model_that_was_never_called_is_exported(tmp_path):
    model = sequential()
    with pytest.raises(ValueError, match="never called"):  # as Keras itself says
        model.export(tmp_path / "keras.onnx", format="onnx", verbose=False)
    x = floats(2, 3)
    (outputs,) = session(export(model, tmp_path / "m.onnx", format="onnx")).run(None, {"x": x})
    np.testing.assert_allclose(outputs, model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["list of inputs", "dicts", "one output twice", "odd names"])
def test_names_of_inputs_and_outputs_are_the_models(tmp_path, name):
    make, inputs = ZOO[name]
    model = make()
    file = loading.load(export(model, tmp_path / "m.onnx", format="onnx"))
    assert set(file.shapes) == set(inputs)
    given = inputs if isinstance(model.input, dict) else [inputs[t.name] for t in model.inputs]
    expected = model(given if len(inputs) > 1 else given[0], training=False)
    outputs = file.run(inputs)
    if isinstance(expected, dict):
        assert outputs.keys() == expected.keys()
        expected = [expected[name] for name in outputs]
    flat = keras.tree.flatten(expected)
    for ours, theirs in zip(outputs.values(), flat, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_constants_of_layers_go_into_the_file(tmp_path):
    normalise = L.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0])
    model = chain(keras.Input((3,), name="x"), normalise, L.Dense(2, name="y"))
    file = loading.load(export(model, tmp_path / "m.onnx", format="onnx"))
    assert list(file.shapes) == ["x"]
    x = floats(4, 3)
    by_hand = (x - [1, 2, 3]) / [1, 2, 3] @ model.layers[-1].kernel.numpy()
    np.testing.assert_allclose(file.run({"x": x})["y"], by_hand, rtol=1e-4, atol=1e-5)


def masked():
    return chain(keras.Input((3,)), tfprune.layers.Dense(2, name="masked"))


def stateful():
    return chain(keras.Input(batch_shape=(1, 4, 3)), L.GRU(4, stateful=True))


REFUSED = {
    "masks": (masked, {}, r"carries masks.*tfprune.strip\(model\)"),
    "suffix": (sequential, {"path": "m"}, "must end in `.onnx`"),
    "option of another format": (sequential, {"quantize": "int8"}, r"\['quantize'\] with"),
    "state": (stateful, {}, "stateful=False"),
    "an input that is an output": (nested_outputs, {}, r"names=\['x'\]"),
    "operations that ONNX does not have": (vectorised_text, {}, "StringSplitV2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_nothing_is_written(tmp_path, monkeypatch, case):
    make, arguments, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        export(make(), **{"path": "new/m.onnx", "format": "onnx", **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "tf2onnx"])
def test_without_its_packages_the_extra_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'tfprune\[onnx\]'"):
        export(sequential(), tmp_path / "m.onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch):
    path = export(sequential(), tmp_path / "m.onnx", format="onnx")
    before = path.read_bytes()
    monkeypatch.setattr(onnx_file, "_converted", lambda *_: before)
    with pytest.raises(RuntimeError, match="does not compute what the model computes.*'y'"):
        export(sequential(), path, format="onnx", overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
