"""`tfprune prune`: the training, what is validated on, int8, and its report as JSON."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune_cli import main

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")


def compiled(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,), name="x"),
            keras.layers.Dense(16, activation="relu", name="hidden"),
            keras.layers.Dense(2, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A directory with compiled models, and data."""
    place = tmp_path_factory.mktemp("given")
    model = compiled(keras.optimizers.SGD(0.1))
    model.fit(X, Y, epochs=3, verbose=0)
    model.save(place / "model.keras")
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    compiled(keras.optimizers.SGD(schedule)).save(place / "schedule.keras")
    convolution = keras.Sequential(
        [keras.Input((6, 1), name="x"), keras.layers.Conv1D(4, 3), keras.layers.Flatten()]
    )
    convolution.compile("sgd", "mse")
    convolution.save(place / "convolution.keras")
    np.savez(place / "data.npz", x=X, y=Y)
    np.savez(place / "validated.npz", x=X, y=Y, x_val=X[:8], y_val=Y[:8])
    np.savez(place / "wrong.npz", x=X, y=1 - Y)
    np.savez(place / "wide.npz", x=X[:, :3], y=Y)
    return place


def prune(given, out, *more, data="data.npz", model="model.keras"):
    command = ["prune", given / model, "--data", given / data, "--budget", "macs=0.5"]
    for each in [out] if not isinstance(out, list) else out:
        command += ["-o", each]
    return main([str(part) for part in (*command, "--criterion", "magnitude", *more)])


def report(capsys):
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out.count("\n") == 1
    return json.loads(printed.out)


def weights(path):
    return np.concatenate([w.ravel() for w in keras.models.load_model(path).get_weights()])


def test_the_learning_rate_is_that_of_the_training(given, tmp_path, capsys):
    files = {}
    for name, rate in (("none", None), ("tiny", "1e-12"), ("large", "0.5")):
        files[name] = tmp_path / f"{name}.keras"
        more = [] if rate is None else ["--epochs", "2", "--learning-rate", rate]
        assert prune(given, files[name], *more) == 0
    found = {name: weights(path) for name, path in files.items()}
    np.testing.assert_allclose(found["tiny"], found["none"], atol=1e-7)
    assert np.abs(found["large"] - found["none"]).max() > 1e-3


def test_the_best_weights_are_kept(given, tmp_path, capsys):
    assert prune(given, tmp_path / "none.keras", "--json") == 0
    before = report(capsys)["stages"]["recalibrate"]
    ruinous = ["--epochs", "3", "--learning-rate", "1e4", "--json"]
    assert prune(given, tmp_path / "ruined.keras", *ruinous) == 0
    found = report(capsys)
    assert found["stages"]["fine-tuned"] == before
    (decision,) = [each for each in found["decisions"] if each["stage"] == "fine-tuned"]
    assert not decision["kept"] and "no epoch is better" in decision["reason"]
    np.testing.assert_array_equal(
        weights(tmp_path / "ruined.keras"), weights(tmp_path / "none.keras")
    )


def test_the_report_as_json_is_not_rounded(given, tmp_path, capsys):
    out = tmp_path / "small.keras"
    assert prune(given, out, "--json") == 0
    found = report(capsys)
    small = keras.models.load_model(out)
    assert found["parameters"]["after"] == small.count_params()
    assert found["parameters"]["ratio"] == small.count_params() / 146
    assert found["written"] == [str(out)]
    assert found["strip"]["layers"][0]["name"] == "hidden"


def test_a_curve_as_json(given, tmp_path, capsys):
    command = ["pareto", given / "model.keras", "--data", given / "data.npz", "-o", tmp_path / "f"]
    command += ["--remaining", "0.5", "--criterion", "magnitude", "--no-recovery", "--json"]
    assert main([str(part) for part in command]) == 0
    found = report(capsys)
    assert [point["ratio"] for point in found["points"]] == [0.5]
    assert found["written"] == [str(tmp_path / "f")]


def test_a_file_or_a_share_is_evaluated_on(given, tmp_path, capsys):
    dense = keras.models.load_model(given / "model.keras")
    named = {"wrong.npz": (X, 1 - Y), "0.25": (X[90:], Y[90:])}
    for name, data in named.items():
        validation = given / name if name.endswith("npz") else name
        assert prune(given, tmp_path / f"{name}.keras", "--json", "--validation", validation) == 0
        expected = dense.evaluate(*data, verbose=0, return_dict=True)
        found = report(capsys)["stages"]["dense"]
        assert found["accuracy"] == pytest.approx(expected["accuracy"])
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_int8_files_of_litert(given, tmp_path):
    out = tmp_path / "small.tflite"
    assert prune(given, out, "--quantize", "int8") == 0
    interpreter = tf.lite.Interpreter(str(out))
    kinds = [np.dtype(each["dtype"]).name for each in interpreter.get_tensor_details()]
    assert kinds.count("int8") > 3  # kernels and activations


def test_int8_weights_of_keras_and_saved_models(given, tmp_path, capsys):
    outputs = [tmp_path / "small.keras", tmp_path / "small"]
    assert prune(given, outputs, "--quantize", "int8", "--json") == 0
    assert "int8" in report(capsys)["stages"]
    small = keras.models.load_model(outputs[0])
    assert keras.backend.standardize_dtype(small.get_layer("hidden")._kernel.dtype) == "int8"
    loaded = tf.saved_model.load(outputs[1])
    np.testing.assert_allclose(small(X), loaded.serve(tf.constant(X)), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "more", "word"),
    [
        ({"model": "schedule.keras"}, ["--epochs", "1", "--learning-rate", "0.1"], "schedule"),
        ({"data": "validated.npz"}, ["--validation", "0.2"], "x_val and y_val already"),
        ({}, ["--validation", "none.npz"], "there is no file"),
        ({}, ["--validation", "wide.npz"], "validation_data"),
        ({}, ["--quantize", "int8", "-o", "b.onnx"], ".onnx"),
        ({}, ["--quantize", "int8", "-o", "b.tflite"], "one of these kinds"),
        ({"model": "convolution.keras"}, ["--quantize", "int8"], "dense layers and embeddings"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused_in_one_line(given, tmp_path, capsys, arguments, more, word):
    more = [given / each if each.endswith(".npz") else each for each in more]
    more = [tmp_path / each if str(each).startswith("b.") else each for each in more]
    assert prune(given, tmp_path / "a.keras", *more, **arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and word in printed.err
    assert not list(tmp_path.iterdir())
