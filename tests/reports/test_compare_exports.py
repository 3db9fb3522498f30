import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.export_models import chain, floats
from tfprune.exporting.loading import load
from tfprune.reports.compare_exports import compare_exports

L = keras.layers
NAMES = {"saved_model": "m", "keras": "m.keras", "litert": "m.tflite", "onnx": "m.onnx"}


def classifier():
    keras.utils.set_random_seed(3)
    layers = [L.Dense(64, "relu"), L.Dense(4, "softmax", name="y")]
    return keras.Sequential([keras.Input((64,), name="x"), *layers], name="classifier")


def data():
    return floats(45, 64), np.arange(45) % 4


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The model in every format, and coarsely in int8."""
    directory = tmp_path_factory.mktemp("exports")
    paths = [
        tfprune.export(model, directory / name, format=format)
        for format, name in NAMES.items()
        if format != "onnx"
    ]
    narrow = {"representative_data": 0.05 * data()[0], "tolerance": 10.0}
    path = directory / "int8.tflite"
    return [*paths, tfprune.export(model, path, format="litert", quantize="int8", **narrow)]


def test_metrics_are_those_of_what_each_file_gives(model, files):
    x, y = data()
    found = compare_exports(model, files, (x, y), metrics=["accuracy"], batch_sizes=())
    accuracy = np.mean(np.argmax(model(x), axis=1) == y)
    assert [row.format for row in found.rows] == [
        "model",
        "saved_model",
        "keras",
        "litert",
        "litert",
    ]
    for row in found.rows[:4]:
        assert row.metrics["accuracy"] == pytest.approx(accuracy)
        assert row.error < 1e-5
    run = tf.lite.Interpreter(model_path=str(files[3])).get_signature_runner()
    outputs = run(x=x)["y"]
    coarse = found.rows[4]
    assert coarse.metrics["accuracy"] == pytest.approx(np.mean(np.argmax(outputs, 1) == y))
    expected = np.linalg.norm(outputs - model(x)) / np.linalg.norm(model(x))
    assert coarse.error == pytest.approx(expected, rel=1e-3)
    assert coarse.error > 0.05


def test_bytes_are_those_of_the_files(model, files):
    found = compare_exports(model, files, batch_sizes=())
    assert found.rows[0].bytes is None
    assert [row.bytes for row in found.rows[2:]] == [path.stat().st_size for path in files[1:]]
    assert found.rows[4].bytes < 0.5 * found.rows[3].bytes
    assert all(row.metrics == {} for row in found.rows)


def test_latency_is_given_by_batch_size(model, files):
    found = compare_exports(model, files[2], batch_sizes=(1, 3))
    assert [list(row.latency) for row in found.rows] == [[1, 3]] * 2
    assert all(0 < seconds < 1 for row in found.rows for seconds in row.latency.values())


def test_onnx_stands_beside_the_others(model, tmp_path):
    pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    path = tfprune.export(model, tmp_path / "m.onnx", format="onnx")
    found = compare_exports(model, path, data(), metrics=["accuracy"], batch_sizes=())
    assert found.rows[1].format == "onnx"
    assert found.rows[1].metrics == found.rows[0].metrics


def test_a_fixed_batch_is_filled_up_and_its_latency_alone_measured(tmp_path):
    model = chain(keras.Input((4, 3), name="x"), L.GRU(8, name="y"))
    path = tfprune.export(model, tmp_path / "m.tflite", format="litert", batch_size=2)
    x = floats(5, 4, 3)
    y = np.asarray(model(x)) + 1
    found = compare_exports(model, path, (x, y), metrics=["mae"], batch_sizes=(1, 2))
    assert found.rows[1].metrics["mae"] == pytest.approx(1, rel=1e-5)
    assert found.rows[1].latency[1] is None and found.rows[1].latency[2] > 0
    assert found.rows[0].latency[1] > 0
    assert "fixes another batch" in found.notes[0]


def test_compiled_metrics_datasets_and_weights(model, files):
    x, y = data()
    model = keras.Model(model.inputs[0], model.outputs[0], name="compiled")
    model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    weights = (y < 2).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(10)
    found = compare_exports(model, files[2], dataset, batch_sizes=())
    right = np.argmax(model(x), axis=1) == y
    expected = pytest.approx(np.sum(right * weights) / np.sum(weights))
    assert [row.metrics["accuracy"] for row in found.rows] == [expected] * 2


def test_metrics_of_several_outputs(tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, {"p": L.Dense(1, name="p")(x), "q": L.Dense(2, name="q")(x)})
    path = tfprune.export(model, tmp_path / "m.tflite", format="litert")
    given = floats(6, 3)
    targets = {name: np.asarray(value) + 1 for name, value in model(given).items()}
    found = compare_exports(
        model, path, (given, targets), metrics={"p": ["mae"], "q": ["mse"]}, batch_sizes=()
    )
    for row in found.rows:
        assert row.metrics == {"p_mae": pytest.approx(1, 1e-5), "q_mse": pytest.approx(1, 1e-5)}


def test_what_is_not_the_models_file_is_refused(model, files, tmp_path):
    with pytest.raises(ValueError, match="a SavedModel or end in"):
        compare_exports(model, tmp_path / "none.tflite")
    other = chain(keras.Input((64,), name="z"), L.Dense(4, name="y"))
    with pytest.raises(ValueError, match=r"inputs of the model.*\['z'\].*\['x'\]"):
        compare_exports(other, files[2])
    other = chain(keras.Input((64,), name="x"), L.Dense(4, name="w"))
    with pytest.raises(ValueError, match=r"outputs of the model.*\['w'\].*\['y'\]"):
        compare_exports(other, files[2])


def inputs_alone():
    return tf.data.Dataset.from_tensor_slices(data()[0]).batch(10)


@pytest.mark.parametrize(
    "given", [lambda: data()[0], lambda: (data()[0], None), lambda: (data()[0],), inputs_alone]
)
def test_without_labels_agreement_bytes_and_latency_are_measured(model, files, given):
    found = compare_exports(model, files, given(), batch_sizes=(1,))
    x = data()[0]
    classes = np.argmax(model(x), axis=1)
    for row, path in zip(found.rows[1:], files, strict=True):
        outputs = load(path).run({"x": x})["y"]
        assert row.agreement == pytest.approx(np.mean(np.argmax(outputs, axis=1) == classes))
        assert row.bytes > 0 and row.latency[1] > 0 and row.metrics == {}
    assert found.rows[0].agreement == 1 and "no labels" in found.notes[0]
    assert "agreement" in str(found)


def test_without_metrics_a_note_says_so(model, files):
    found = compare_exports(model, files[2], data(), batch_sizes=())
    assert found.rows[1].metrics == {} and found.rows[1].agreement == 1
    assert "not compiled with any" in found.notes[0]


def test_a_single_number_has_no_agreement(tmp_path):
    model = chain(keras.Input((3,), name="x"), L.Dense(1, name="y"))
    path = tfprune.export(model, tmp_path / "m.tflite")
    assert compare_exports(model, path, batch_sizes=()).rows[1].agreement is None


def test_data_that_does_not_fit_is_refused(model, files):
    x, y = data()
    with pytest.raises(ValueError, match="must hold labels for metrics"):
        compare_exports(model, files[2], x, metrics=["accuracy"])
    with pytest.raises(ValueError, match="Argument `data` must be"):
        compare_exports(model, files[2], iter([data()]), metrics=["accuracy"])
    with pytest.raises(ValueError, match="inputs of the shapes"):
        compare_exports(model, files[2], (x[:, :3], y), metrics=["accuracy"])


def test_comparison_prints_and_goes_through_json(model, files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = compare_exports(model, files, data(), metrics=["accuracy"], batch_sizes=(1,))
    printed = str(found)
    assert all(len(line) <= 80 for line in printed.splitlines())
    for expected in (
        "classifier",
        "m.tflite",
        "int8.tflite",
        "saved_model",
        "accuracy",
        "ms at 1",
        "error",
    ):
        assert expected in printed
    rows = json.loads(json.dumps(found.to_dict()))["rows"]
    assert [row["format"] for row in rows][:2] == ["model", "saved_model"]
    assert rows[3]["bytes"] == files[2].stat().st_size
    assert set(rows[3]["latency"]) == {"1"}
