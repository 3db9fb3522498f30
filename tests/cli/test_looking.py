"""`summary`, `compare`, `export`, and reports as JSON: what the package says, to the digit."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.exporting.loading import load
from tfprune_cli import main

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A directory with a masked model, two compiled ones, exported files, and data."""
    place = tmp_path_factory.mktemp("given")
    keras.utils.set_random_seed(0)

    def model(units, layers):
        made = keras.Sequential(
            [
                keras.Input((6,), name="x"),
                layers.Dense(units, activation="relu", name="hidden"),
                layers.Dense(2, name="logits"),
            ],
            name="net",
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile("adam", loss, metrics=["accuracy"])
        return made

    masked = model(8, tfprune.layers)
    tfprune.prune_units(masked, 0.5)
    masked.save(place / "masked.keras")
    dense = model(12, keras.layers)
    dense.save(place / "dense.keras")
    model(6, keras.layers).save(place / "small.keras")
    tfprune.export(dense, place / "dense.tflite")
    np.savez(place / "data.npz", x=X, y=Y)
    np.savez(place / "inputs.npz", x=X)
    return place


def run(capsys, *arguments, code=0):
    """What a command prints on stdout, and on stderr."""
    capsys.readouterr()
    assert main([str(part) for part in arguments]) == code
    return capsys.readouterr()


def as_json(capsys, *arguments):
    found = run(capsys, *arguments, "--json")
    assert found.err == "" and found.out.count("\n") == 1
    return json.loads(found.out)


def test_summary_prints_the_masks(given, capsys):
    out = run(capsys, "summary", given / "masked.keras").out
    assert "hidden" in out and "units" in out and "frozen" in out
    found = as_json(capsys, "summary", given / "masked.keras")
    model = keras.models.load_model(given / "masked.keras")
    assert found == json.loads(json.dumps(tfprune.summary(model).to_dict()))
    assert found["weights"][0]["sparsity"] == 0.5


def test_reports_as_json_are_those_of_the_package(given, capsys):
    model = keras.models.load_model(given / "dense.keras")
    found = as_json(capsys, "inspect", given / "dense.keras")
    assert found == json.loads(json.dumps(tfprune.inspect(model).to_dict()))
    found = as_json(capsys, "explain", given / "dense.keras")
    first = found["sets"][0]
    assert (first["name"], first["units"], first["parameters"]["least"]) == ("hidden", 12, 9)


def test_strip_as_json(given, tmp_path, capsys):
    out = tmp_path / "small.keras"
    found = as_json(capsys, "strip", given / "masked.keras", "-o", out)
    assert found["layers"][0] == {"name": "hidden", "before": 8, "after": 4}
    assert found["written"] == [str(out)] and out.is_file()


def test_a_failure_prints_no_json(given, tmp_path, capsys):
    found = run(capsys, "inspect", tmp_path / "none.keras", "--json", code=2)
    assert found.out == "" and found.err.count("\n") == 1


def test_two_keras_models_are_compared(given, capsys):
    pair = (given / "dense.keras", given / "small.keras")
    found = as_json(capsys, "compare", *pair, "--no-latency", "--data", given / "data.npz")
    assert found["parameters"] == {"before": 110, "after": 56, "ratio": 56 / 110}
    right = [keras.models.load_model(path).predict(X, verbose=0).argmax(1) == Y for path in pair]
    expected = [each.mean() for each in right]
    assert [found["metrics"]["accuracy"][when] for when in ("before", "after")] == expected
    assert found["latency"] == {}
    out = run(capsys, "compare", *pair).out
    assert "latency, batch of 32" in out and "12 → 6" in out


def test_exported_files_are_compared_with_their_model(given, capsys):
    command = ["compare", given / "dense.keras", given / "dense.tflite", "--no-latency"]
    found = as_json(capsys, *command, "--data", given / "inputs.npz")
    assert [row["format"] for row in found["rows"]] == ["model", "litert"]
    assert found["rows"][1]["agreement"] == 1.0 and found["rows"][1]["error"] < 1e-5
    found = as_json(capsys, *command, "--data", given / "data.npz")
    metrics = [row["metrics"] for row in found["rows"]]
    assert metrics[0]["accuracy"] == metrics[1]["accuracy"]


@pytest.mark.parametrize(
    ("others", "more", "word"),
    [
        (["none.keras"], [], "there is no file"),
        (["none.tflite"], [], "there is no file"),
        (["small.keras", "masked.keras"], [], "masked.keras"),
        (["data.npz"], [], "data.npz"),
        (["small.keras"], ["--data", "inputs.npz"], "must hold x and y"),
        (["small.keras"], ["--data", "none.npz"], "there is no file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_refused_in_one_line(given, capsys, others, more, word):
    paths = [given / name for name in others]
    more = [given / each if each.endswith(".npz") else each for each in more]
    found = run(capsys, "compare", given / "dense.keras", *paths, *more, code=2)
    assert found.out == "" and found.err.count("\n") == 1 and word in found.err


def test_export_writes_all_formats(given, tmp_path, capsys):
    outputs = [tmp_path / name for name in ("a.keras", "b.tflite", "c")]
    command = ["export", given / "dense.keras"]
    for path in outputs:
        command += ["-o", path]
    assert run(capsys, *command).out.splitlines() == [f"wrote {path}" for path in outputs]
    expected = keras.models.load_model(given / "dense.keras").predict(X, verbose=0)
    for path in outputs:
        (found,) = load(path).run({"x": X}).values()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_export_quantizes_on_the_data(given, tmp_path, capsys):
    out = tmp_path / "a.tflite"
    command = ["export", given / "dense.keras", "-o", out, "--quantize", "int8"]
    assert "--data" in run(capsys, *command, code=2).err
    run(capsys, *command, "--data", given / "inputs.npz")
    interpreter = tf.lite.Interpreter(str(out))
    kinds = {np.dtype(each["dtype"]).name for each in interpreter.get_tensor_details()}
    assert "int8" in kinds


@pytest.mark.parametrize(
    "more",
    [["--quantize", "float16"], ["--batch-size", "2"], ["--data", "inputs.npz"]],
    ids=" ".join,
)
def test_options_that_a_format_does_not_have_are_refused(given, tmp_path, capsys, more):
    more = [given / each if each.endswith(".npz") else each for each in more]
    command = ["export", given / "none.keras", "-o", tmp_path / "a.keras", *more]
    found = run(capsys, *command, code=2)
    assert found.err.count("\n") == 1 and more[0] in found.err and "a.keras" in found.err
    assert not list(tmp_path.iterdir())


def test_a_masked_model_is_not_exported(given, tmp_path, capsys):
    found = run(capsys, "export", given / "masked.keras", "-o", tmp_path / "a", code=2)
    assert found.err.count("\n") == 1 and "strip" in found.err
    assert not list(tmp_path.iterdir())
